"""One, two and four processes, and devices, train alike, through the same command."""

import json
import math
import os
import shutil

import numpy as np
import pytest

from rt2_train.serving import policy
from rt2_train.training import optimizers
from tests.end_to_end import commands
from tests.end_to_end import recorded_batches
from tests.end_to_end import small_run
from tests.training import conftest as small

STEPS = 4


def train(home, count: int, *arguments: str, **environment: str):
  """Trains as so many processes, which must all end well."""
  flags = commands.together(count) if count > 1 else [[]]
  command = commands.main('train', *arguments)
  started = [commands.Process(home, *command, *flag, **environment) for flag in flags]
  ended = [process.finish(timeout=280) for process in started]
  for done in ended:
    assert done.returncode == 0, done.stderr
  return ended


def train_small(
    home, count: int, run: str | None = None, *arguments: str, **environment: str):
  run = run or str(count)
  return train(home, count, '--gin_file=small.gin', f"--gin.MODEL_DIR='runs/{run}'",
               f"--gin.RECORDED='recorded/{run}'", *arguments, **environment)


def devices(count: int) -> dict[str, str]:
  """The environment of a process with so many simulated devices."""
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count={count}'
  # XLA's threads: devices that wait for each other's sums must not use up all of them.
  return {'XLA_FLAGS': flags, 'NPROC': str(4 * count)}


@pytest.fixture(scope='module')
def alone(home):
  """A directory in which one process has trained."""
  (home / 'small.gin').write_text(small_run.GIN)
  train_small(home, 1)
  return home


@pytest.mark.parametrize('count', [pytest.param(2, marks=pytest.mark.slow), 4])
def test_several_processes_train_like_one(alone, count):
  ended = train_small(alone, count)

  one, several = (alone / 'runs' / str(each) for each in (1, count))
  assert_same_lines(several / 'train-metrics.jsonl', one / 'train-metrics.jsonl', STEPS)
  for step in range(STEPS):
    assert len(list((alone / f'recorded/{count}').glob(f'{step}_*.npz'))) == count
    expected = recorded_batches.read(alone / 'recorded/1', step)
    batch = recorded_batches.read(alone / f'recorded/{count}', step)
    assert batch.keys() == expected.keys()
    for name, rows in expected.items():
      np.testing.assert_array_equal(batch[name], rows, f'{name} of step {step}')

  # One process, this one, reads the checkpoint: nobody's part is missing.
  assert sorted(path.name for path in several.glob('checkpoint_*')) == [
      'checkpoint_3', 'checkpoint_4']
  expected, state = (small.saved_state(each, STEPS) for each in (one, several))
  assert_same_arrays(state, expected)

  # Tables, metrics and the bar come from the first process alone.
  assert json.loads((several / 'summary.json').read_text())['finished']
  assert 'train step' in ended[0].stderr and 'step/s' in ended[0].stderr
  for other in ended[1:]:
    assert 'train step' not in other.stderr and 'step/s' not in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize('what', ['processes', 'devices'])
@pytest.mark.parametrize('first, then', [(2, 1), (1, 2)])
def test_twenty_steps_after_the_number_of_processes_or_devices_changed_are_the_same(
    home, first, then, what):
  (home / 'small.gin').write_text(small_run.GIN)
  changed, name = 24, f'{first}_then_{then}_{what}'
  longer = f'--gin.train.train_steps={changed}'
  for count, arguments in ((first, ()), (then, (longer,))):
    if what == 'processes':
      train_small(home, count, name, *arguments)
    else:
      train_small(home, 1, name, *arguments, **devices(count))
  if not (home / 'runs/whole').exists():
    train_small(home, 1, 'whole', longer)
  lines, whole = (home / 'runs' / each / 'train-metrics.jsonl' for each in (name, 'whole'))
  assert_same_lines(lines, whole, changed)
  used = [line['timing/seqs_per_second'] / line['timing/seqs_per_second_per_core']
          for line in commands.lines(lines)]
  np.testing.assert_allclose(used, [first] * STEPS + [then] * (changed - STEPS))
  for step in range(STEPS, changed):
    expected = recorded_batches.read(home / 'recorded/whole', step)
    batch = recorded_batches.read(home / 'recorded' / name, step)
    for feature, rows in expected.items():
      np.testing.assert_array_equal(batch[feature], rows, f'{feature} of step {step}')


@pytest.mark.slow
def test_two_processes_co_fine_tune_and_one_goes_on(home):
  small_steps = [
      '--gin_file=gin/experiments/demo_cofinetune.gin', '--gin.INITIAL_CHECKPOINT_PATH=None',
      '--gin.BATCH_SIZE=8', '--gin.CHECKPOINT_PERIOD=2', '--gin.EVAL_PERIOD=2',
      '--gin.EVAL_EXAMPLES=8', '--gin.EVAL_STEPS=1', '--gin.train.log_period=1',
  ]  # pyformat: disable
  runs = {name: home / 'runs' / name for name in ('one', 'two', 'resumed')}
  into = {name: f"--gin.MODEL_DIR='runs/{name}'" for name in runs}
  train(home, 1, *small_steps, into['one'], '--gin.TRAIN_STEPS=4')
  train(home, 2, *small_steps, into['two'], '--gin.TRAIN_STEPS=2')
  shutil.copytree(runs['two'], runs['resumed'])
  train(home, 2, *small_steps, into['two'], '--gin.TRAIN_STEPS=4')
  train(home, 1, *small_steps, into['resumed'], '--gin.TRAIN_STEPS=4')
  expected = optimizers.flatten(policy.read_params(runs['one'] / 'checkpoint_4'))
  for name in ('two', 'resumed'):
    for metrics, steps in (
        ('train', 4), ('training_eval/robot', 2), ('training_eval/all', 2),
        ('inference_eval/robot', 2), ('inference_eval/vqa', 2),
    ):  # pyformat: disable
      file = f'{metrics}-metrics.jsonl'
      assert_same_lines(runs[name] / file, runs['one'] / file, steps)
    assert_same_arrays(
        optimizers.flatten(policy.read_params(runs[name] / 'checkpoint_4')), expected)


def test_only_training_is_done_by_several_processes(home):
  done = commands.run(home, *commands.main(
      'eval', '--gin_bindings=gin.macro.value=1', '--process_id=0'))
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1].startswith(
      'rt2_train eval: only training is done by several processes')


def assert_same_lines(file, expected, count):
  """The same steps and metrics, but for times and memory, within 1e-5."""
  lines, wanted = commands.lines(file), commands.lines(expected)
  assert len(wanted) == count
  assert [line['step'] for line in lines] == [line['step'] for line in wanted]
  for line, other in zip(lines, wanted):
    assert line.keys() == other.keys()
    for name in other:
      if not name.startswith(('timing/', 'memory/')):
        assert math.isclose(line[name], other[name], rel_tol=1e-5, abs_tol=1e-9), (file, name)


def assert_same_arrays(arrays, expected):
  assert arrays.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_allclose(arrays[name], array, rtol=1e-4, atol=1e-6, err_msg=name)
