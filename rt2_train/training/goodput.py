"""How the wall time of a run was spent, over all its attempts: the share that trained counts.

  start        until the training step is compiled, less what is named below: imports, opening data
  restore      reading a checkpoint
  compile      of the training step
  steps        training steps whose results were kept: what goodput counts
  data         waiting for batches
  evaluation   evaluators between steps
  checkpoint   steps held up by saving
  finish       waiting for the last checkpoint of an attempt to be on disk
  lost         steps that a crash or kill undid, with the waiting in between
  down         between the end of one attempt and the start of the next

What happens after the last line of a log and before a kill is counted as down.
"""

from collections.abc import Iterator
import contextlib
import json
import os
import time

from rt2_train import run_files

FILE = 'goodput.json'
PARTS = (
    'start', 'restore', 'compile', 'steps', 'data', 'evaluation', 'checkpoint', 'finish', 'lost',
    'down',
)  # pyformat: disable


class Account:
  """Seconds by part; continues the account that earlier attempts of the run left."""

  def __init__(self, model_dir: str, started: float | None = None, active: bool = True):
    """Opens the account.

    Args:
      model_dir: of the run.
      started: when this attempt began, as time.time(); now by default.
      active: whether this process writes the file.
    """
    self._path, self._active = os.path.join(model_dir, FILE), active
    now = time.time()
    started = now if started is None else started
    self._seconds = dict.fromkeys(PARTS, 0.0)
    self._first, self._attempts, self._attempt_start = started, 0, 0
    self._before = None
    if os.path.exists(self._path):
      with open(self._path, encoding='utf-8') as file:
        self._before = json.load(file)
      self._seconds |= self._before['seconds']
      self._first, self._attempts = self._before['first_started'], self._before['attempts']
      self._seconds['down'] += max(0.0, started - self._before['written'])
    self._attempts += 1
    self._seconds['start'] += now - started
    self._at_start = dict(self._seconds)
    self._since, self._part = now, 'start'

  def resume(self, step: int) -> None:
    """Says at which step this attempt goes on: what an earlier one did beyond is lost."""
    before = self._before
    if before and before['step'] > step:
      done = before['step'] - before['attempt_start_step']
      share = min(1.0, (before['step'] - step) / max(done, 1))
      for part, seconds in before['attempt_seconds'].items():
        self._seconds[part] -= share * seconds
        self._seconds['lost'] += share * seconds
    self._attempt_start = step
    self._at_start = dict(self._seconds)

  @contextlib.contextmanager
  def spent_on(self, part: str) -> Iterator[None]:
    """Time within is that of `part`, and not of what is around it."""
    outer = self._switch(part)
    try:
      yield
    finally:
      self._switch(outer)

  def begin(self, part: str) -> None:
    """Time from here on is that of `part`."""
    self._switch(part)

  def write(self, step: int) -> None:
    """Leaves the account as it stands after `step` for an attempt to come."""
    self._switch(self._part)
    if not self._active:
      return
    run_files.write(self._path, json.dumps({
        'first_started': self._first,
        'written': self._since,
        'attempts': self._attempts,
        'step': step,
        'attempt_start_step': self._attempt_start,
        'attempt_seconds': {
            part: self._seconds[part] - self._at_start[part] for part in ('steps', 'data')},
        'seconds': self._seconds,
    }, indent=2) + '\n')  # pyformat: disable

  def summary(self) -> dict[str, float | int | dict[str, float]]:
    """Wall time since the first attempt began, its parts, and the share of productive steps."""
    self._switch(self._part)
    wall = self._since - self._first
    return {
        'attempts': self._attempts,
        'wall_seconds': wall,
        'goodput': self._seconds['steps'] / max(wall, 1e-9),
        'seconds': dict(self._seconds),
    }

  def _switch(self, part: str) -> str:
    now = time.time()
    self._seconds[self._part] += now - self._since
    before, self._since, self._part = self._part, now, part
    return before
