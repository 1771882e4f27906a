"""Choices by name."""

import collections

from rt2_train.data import draws


def test_a_choice_is_the_same_in_every_process_and_version():
  # Another value would change the examples of runs that are to be resumed.
  assert draws.one_of('tabletop/train shard 00000 episode 0 step 0', 1000) == 463


def test_names_spread_evenly_and_neighbours_are_not_alike():
  counts = collections.Counter(draws.one_of(f'episode 0 step {i}', 5) for i in range(5000))
  assert sorted(counts) == [0, 1, 2, 3, 4]
  assert all(900 < count < 1100 for count in counts.values())
  same = sum(draws.one_of(f'step {i}', 2) == draws.one_of(f'step {i + 1}', 2) for i in range(2000))
  assert 900 < same < 1100


def test_a_share_is_below_one():
  assert all(0 <= draws.share(str(i)) < 1 for i in range(1000))
  assert draws.one_of('anything', 1) == 0
