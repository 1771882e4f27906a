"""A run that is killed at any moment, any number of times, ends with the bits of one that is not."""

import pathlib
import random
import signal
import time

import numpy as np
import pytest

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
