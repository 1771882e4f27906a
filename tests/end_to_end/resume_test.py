"""The real loader, augmentation, dropout: a run that is killed loses and repeats nothing."""

import pathlib
import random
import signal
import time

import numpy as np
import pytest

from tests.end_to_end import commands
from tests.end_to_end import recorded_batches
from tests.end_to_end import small_run
from tests.training import conftest as small


def start(home: pathlib.Path, name: str, attempt: int, steps: int) -> commands.Process:
  return commands.Process(home, *commands.main(
      'train', '--gin_file=small.gin', f"--gin.MODEL_DIR='runs/{name}'",
      f"--gin.RECORDED='recorded/{name}_{attempt}'", f'--gin.train.train_steps={steps}',
      '--gin.train.checkpoint_period=7',
  ))  # pyformat: disable


def finish(process: commands.Process) -> None:
  done = process.finish()
  assert done.returncode == 0, done.stderr


def recorded_steps(directory: pathlib.Path) -> list[int]:
  return sorted(int(path.name.split('_')[0]) for path in directory.iterdir())


@pytest.mark.parametrize('kills, steps', [(1, 80), pytest.param(5, 400, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_steps_has_the_batches_losses_and_state_of_one_that_is_not(
    home, kills, steps):
  (home / 'small.gin').write_text(small_run.GIN)
  rng, killed, straight = random.Random(kills), f'killed_{kills}', f'straight_{kills}'
  lines = home / 'runs' / killed / 'train-metrics.jsonl'
  for attempt in range(kills):
    process = start(home, killed, attempt, steps)
    # Behind a checkpoint, and behind the attempt before.
    before = lines.read_text().count('\n') if lines.exists() else 0
    least = before + rng.randrange(8, steps // (2 * kills))
    deadline = time.time() + 200
    while not (lines.exists() and lines.read_text().count('\n') >= least):
      assert process.poll() is None and time.time() < deadline, process.finish().stderr
      time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.finish().returncode == -signal.SIGKILL, 'it ended before it was killed'
  finish(start(home, killed, kills, steps))
  finish(start(home, straight, 0, steps))

  # Every attempt read what the uninterrupted run read; together they read everything.
  seen = set()
  for attempt in range(kills + 1):
    directory = home / f'recorded/{killed}_{attempt}'
    read = recorded_steps(directory)
    if attempt < kills:
      read.pop()  # The kill may have come while it was written down.
    for step in read:
      expected = recorded_batches.read(home / f'recorded/{straight}_0', step)
      batch = recorded_batches.read(directory, step)
      assert batch.keys() == expected.keys()
      for name, rows in expected.items():
        np.testing.assert_array_equal(batch[name], rows, f'{name} of step {step}')
    seen |= set(read)
  assert sorted(seen) == list(range(steps))

  measured = lambda line: {
      name: value for name, value in line.items() if not name.startswith(('timing/', 'memory/'))}
  ours, theirs = (
      [measured(line) for line in commands.lines(home / 'runs' / name / 'train-metrics.jsonl')]
      for name in (killed, straight))
  assert [line['step'] for line in ours] == list(range(1, steps + 1))
  assert ours == theirs
  arrays, expected = (small.saved_state(home / 'runs' / name, steps) for name in (killed, straight))
  assert arrays.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(arrays[name], array, err_msg=name)
