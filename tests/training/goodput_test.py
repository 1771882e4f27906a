"""Every second of a run is accounted for once, over all its attempts."""

import pytest

from rt2_train.training import goodput


@pytest.fixture
def clock(monkeypatch):
  """Time that passes when the test says so."""

  class Clock:
    now = 1000.0

    def passes(self, seconds):
      self.now += seconds

  it = Clock()
  monkeypatch.setattr(goodput.time, 'time', lambda: it.now)
  return it


def attempt(clock, directory, start, steps, *, step_seconds=1.0):
  account = goodput.Account(str(directory))
  clock.passes(5)
  if start:
    with account.spent_on('restore'):
      clock.passes(2)
  account.resume(start)
  with account.spent_on('compile'):
    clock.passes(10)
  account.begin('steps')
  for step in range(start + 1, start + steps + 1):
    with account.spent_on('data'):
      clock.passes(0.25)
    clock.passes(step_seconds)
    account.write(step)
  return account


def test_parts_add_up_to_the_wall_time(clock, tmp_path):
  account = attempt(clock, tmp_path, 0, 20)
  with account.spent_on('evaluation'):
    clock.passes(3)
  with account.spent_on('checkpoint'):
    clock.passes(1)
  account.begin('finish')
  clock.passes(2)
  found = account.summary()
  assert found['seconds'] == {
      'start': 5, 'restore': 0, 'compile': 10, 'steps': 20, 'data': 5, 'evaluation': 3,
      'checkpoint': 1, 'finish': 2, 'lost': 0, 'down': 0,
  }  # pyformat: disable
  assert found['wall_seconds'] == sum(found['seconds'].values()) == 46
  assert found['goodput'] == pytest.approx(20 / 46)
  assert found['attempts'] == 1


def test_steps_that_a_kill_undid_are_lost_and_the_time_between_is_down(clock, tmp_path):
  attempt(clock, tmp_path, 0, 20)  # Killed: nothing more is written.
  clock.passes(100)
  found = attempt(clock, tmp_path, 15, 5).summary()
  assert found['attempts'] == 2
  # A quarter of what the first attempt did is done again.
  assert found['seconds']['lost'] == pytest.approx(0.25 * (20 + 5))
  assert found['seconds']['steps'] == pytest.approx(0.75 * 20 + 5)
  assert found['seconds']['down'] == 100
  assert found['wall_seconds'] == pytest.approx(sum(found['seconds'].values()))


def test_only_what_the_last_attempt_did_can_be_lost(clock, tmp_path):
  attempt(clock, tmp_path, 0, 10)
  attempt(clock, tmp_path, 10, 10)
  found = attempt(clock, tmp_path, 18, 2).summary()
  assert found['seconds']['lost'] == pytest.approx(0.2 * (10 + 2.5))


def test_a_process_that_does_not_write_leaves_no_file(clock, tmp_path):
  account = goodput.Account(str(tmp_path), active=False)
  account.resume(0)
  account.write(1)
  assert not list(tmp_path.iterdir())
