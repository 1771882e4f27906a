"""What takes long is named in the log, again after twice the time; what does not is not."""

import time

import pytest

from rt2_train import run_files
from rt2_train.training import checkpoints
from rt2_train.training import watchdog


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
  said = []
  monkeypatch.setattr(watchdog.logging, 'warning', lambda text, *values: said.append(text % values))
  return said


def test_a_long_wait_is_told_again_after_twice_the_time(warnings):
  dog = watchdog.Watchdog(patience_seconds=0.2)
  with dog.watching('the batch of step 7'):
    time.sleep(1.2)
  dog.close()
  assert 2 <= len(warnings) <= 3  # After 0.2, 0.4 and 0.8 seconds.
  assert all('process 0 on ' in line and line.endswith('for the batch of step 7')
             for line in warnings)


def test_many_short_waits_are_none(warnings):
  dog = watchdog.Watchdog(patience_seconds=0.2)
  for step in range(60):
    with dog.watching(f'step {step}'):
      time.sleep(0.01)
  time.sleep(0.5)
  dog.close()
  assert not warnings


def test_the_innermost_wait_is_the_one_that_is_told(warnings):
  dog = watchdog.Watchdog(patience_seconds=0.1)
  with dog.watching('the outer'), dog.watching('the inner'):
    time.sleep(0.3)
  dog.close()
  assert warnings and all(line.endswith('for the inner') for line in warnings)


def test_whatever_a_run_waits_for_is_told(tiny, tmp_path, warnings, monkeypatch):
  def slow(function):
    return lambda *args, **kwargs: (time.sleep(0.5), function(*args, **kwargs))[1]

  settings = dict(stuck_seconds=0.2, checkpoint_period=2, eval_period=2)
  monkeypatch.setattr(run_files, 'seal', slow(run_files.seal))
  evaluators = {'slow': lambda: slow(lambda *args: {})}
  tiny.run(tmp_path, data=slow(tiny.Loader), train_steps=2, evaluators=evaluators, **settings)
  monkeypatch.setattr(
      checkpoints.Checkpoints, 'restore', slow(checkpoints.Checkpoints.restore))
  tiny.run(tmp_path, data=lambda: tiny.SlowLoader(0.5), train_steps=3, evaluators=evaluators,
           **settings)
  told = {line.partition(' s for ')[2] for line in warnings}
  assert told >= {
      'the data to be opened', 'the evaluation of step 2', 'the checkpoint of step 2 to be on disk',
      'the checkpoint of step 2 to be read', 'the first batch', 'the batch of step 3'}
