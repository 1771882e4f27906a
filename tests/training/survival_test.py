"""A run that is killed at any moment, any number of times, ends with the bits of one that is not.

One that is told to stop loses nothing, whenever it is told, and however often.
"""

import json
import pathlib
import random
import signal
import time

import numpy as np
import pytest

from rt2_train import run_files
from tests.training import subprocesses

STEPS_PER_KILL = 40


def kill_at_random_moments(directory: pathlib.Path, steps: int, kills: int, seed: int) -> list[int]:
  """Trains up to `steps`, killed `kills` times; returns the step that each attempt had reached."""
  rng = random.Random(seed)
  code = (
      f'c.run({str(directory)!r}, model=c.Model(dropout_rate=0.3), train_steps={steps}, '
      'checkpoint_period=7, log_period=1, keep=2, ema_decay=0.9, '
      f'data=lambda: c.SlowLoader(0.02))')
  reached, lines = [], directory / 'train-metrics.jsonl'
  for number in range(kills):
    before = lines.read_text().count('\n') if lines.exists() else 0
    process = subprocesses.start(code)
    # From anywhere in start-up to anywhere in training, saving and tidying up included; the first
    # time behind a checkpoint, so that there is something to go on from.
    least = 9 if number == 0 else max(before - 14, 0)
    if number == 0 or rng.random() < 0.8:
      while process.poll() is None and not (
          lines.exists() and lines.read_text().count('\n') > least):
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.6))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    reached.append(lines.read_text().count('\n') if lines.exists() else 0)
  process = subprocesses.start(code)
  _, said = process.communicate(timeout=240)
  assert process.returncode == 0, said
  return reached


@pytest.mark.parametrize('kills', [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_is_the_uninterrupted_run_bit_for_bit(
    tiny, tmp_path, kills):
  killed, straight = tmp_path / 'killed', tmp_path / 'straight'
  steps = STEPS_PER_KILL * kills
  reached = kill_at_random_moments(killed, steps, kills, seed=kills)
  assert max(reached) > 7, f'no attempt came to a checkpoint: {reached}'
  model = tiny.Model(dropout_rate=0.3)
  tiny.run(straight, model=model, train_steps=steps, checkpoint_period=7, log_period=1, keep=2,
           ema_decay=0.9)
  measured = lambda line: {
      name: value for name, value in line.items() if not name.startswith(('timing/', 'memory/'))}
  assert [line['step'] for line in tiny.lines(killed)] == list(range(1, steps + 1))
  assert [*map(measured, tiny.lines(killed))] == [*map(measured, tiny.lines(straight))]
  for item in ('state', 'ema'):
    expected, arrays = (tiny.saved_state(each, steps, item) for each in (straight, killed))
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
      np.testing.assert_array_equal(arrays[name], array, err_msg=name)


# Runs until it is told to stop, and ends as the command does; touches a file when it comes to a
# place where it then stays for a while.
TOLD = """
import pathlib, time
from rt2_train import run_files
from rt2_train.training import preemption

def come(name):
  (pathlib.Path({directory!r}) / name).touch()
  time.sleep({seconds})

{place}
summary = c.run({directory!r}, data=data, train_steps=100_000, checkpoint_period=100_000)
sys.exit(0 if summary['finished'] else preemption.STATUS)
"""
SAVING = """
data, seal = lambda: c.SlowLoader(0.02), run_files.seal
run_files.seal = lambda path: (come('is saving'), seal(path))
"""
OPENING = """
def data():
  come('is opening')
  return c.Loader()
"""


def told(directory: pathlib.Path, place: str, seconds: float):
  return subprocesses.start(TOLD.format(directory=str(directory), place=place, seconds=seconds))


def wait_for(path: pathlib.Path) -> None:
  deadline = time.time() + 100
  while not path.exists():
    assert time.time() < deadline, f'{path} does not come'
    time.sleep(0.02)


def test_a_run_that_is_told_again_while_it_saves_still_saves(tiny, tmp_path):
  process = told(tmp_path, SAVING, seconds=2)
  wait_for(tmp_path / 'train-metrics.jsonl')
  process.terminate()
  wait_for(tmp_path / 'is saving')
  process.terminate()
  time.sleep(0.5)
  assert process.poll() is None
  process.terminate()
  _, said = process.communicate(timeout=100)
  assert process.returncode == 75, said
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert not summary['finished']
  assert run_files.find_checkpoint(tmp_path).name == f'checkpoint_{summary["steps"]}'


def test_a_run_that_is_told_before_its_first_step_ends_at_once(tiny, tmp_path):
  process = told(tmp_path, OPENING, seconds=100)
  wait_for(tmp_path / 'is opening')
  process.terminate()
  _, said = process.communicate(timeout=50)
  assert process.returncode == 75, said
  assert [path.name for path in tmp_path.iterdir()] == ['is opening']
