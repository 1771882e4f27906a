"""Ends a run at a step that all its processes agree on: a machine is taken away, or Ctrl-C."""

from collections.abc import Iterator
import contextlib
import signal
import threading
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils

# EX_TEMPFAIL: told to stop, and nothing is lost; started again, the run goes on.
STATUS = 75


class Stopped(SystemExit):
  """The run was told to stop before its first step: there is nothing to save."""


class Notices:
  """What this process was told.

  Before the first step, while data are opened, a checkpoint is read or the step is compiled, a
  notice raises `Stopped` wherever the program is; from `wait_for_steps` on it waits until it is
  asked for.
  """

  def __init__(self):
    self._told, self._waits = threading.Event(), False

  def wait_for_steps(self) -> None:
    """Says that steps begin, whose results a notice must not lose."""
    self._waits = True

  def after(self, step: int) -> bool:
    """Whether the run is to end after this step; every process asks at every step."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._told.is_set()

  def take(self, number: int, frame: Any) -> None:
    """Handles a signal."""
    first = not self._told.is_set()
    if number == signal.SIGINT and not first:
      signal.default_int_handler(number, frame)
    self._told.set()
    if first and not self._waits:
      raise Stopped(STATUS)


@contextlib.contextmanager
def listening() -> Iterator[Notices]:
  """Within, SIGTERM (a preemption notice) ends the run, after a step if there was one.

  Among several processes JAX listens: whoever is told tells the others, and all stop after the
  same step. A process that trains alone has nobody to agree with, and there JAX's answer is always
  no: it listens itself, to Ctrl-C too, of which the second ends it at once.
  """
  notices = Notices()
  # Only the main thread may listen to signals.
  alone = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
  numbers = (signal.SIGTERM, signal.SIGINT) if alone else ()
  before = {number: signal.signal(number, notices.take) for number in numbers}
  try:
    yield notices
  except Stopped:
    logging.info('told to stop before the first step: nothing is lost; the same command goes on')
    raise
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
