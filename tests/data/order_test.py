"""The global order of examples: epochs, quotas, wraps and hosts."""

import collections

import numpy as np
import pytest

from rt2_train.data import order
from rt2_train.data import quotas


def make(sizes=(97, 40, 3), shares=(5, 4, 1), batch_size=32, seed=3) -> order.Order:
  return order.Order(('robot', 'vqa', 'captions')[:len(sizes)], sizes, shares, batch_size, seed)


def test_every_batch_holds_its_quotas():
  one = make()
  for step in range(100):
    source_B, _ = one.rows(step)
    counts = np.bincount(source_B, minlength=3)
    assert counts.tolist() == quotas.quotas(step, 32, one.shares).tolist()


def test_no_example_is_lost_or_repeated_within_an_epoch():
  one = make()
  stream = collections.defaultdict(list)
  for step in range(100):
    source_B, example_B = one.rows(step)
    for source, example in zip(source_B, example_B):
      stream[source].append(int(example))
    # At any step, no example is a whole epoch ahead of another.
    for source, size in enumerate(one.sizes):
      seen = np.bincount(stream[source], minlength=size)
      assert seen.max() - seen.min() <= 1


def test_a_source_smaller_than_its_quota_wraps_inside_a_batch():
  one = make(sizes=(100, 3), shares=(1, 1))
  source_B, example_B = one.rows(0)
  assert np.bincount(example_B[source_B == 1]).tolist() in ([6, 5, 5], [5, 6, 5], [5, 5, 6])


def test_every_epoch_and_every_source_has_an_order_of_its_own():
  one = make(sizes=(64, 64), shares=(1, 1), batch_size=128)
  first = [one.rows(0)[1][one.rows(0)[0] == source].tolist() for source in (0, 1)]
  second = one.rows(1)[1][one.rows(1)[0] == 0].tolist()
  assert sorted(first[0]) == sorted(first[1]) == sorted(second) == list(range(64))
  epochs = [one._epoch(0, 0).tolist(), one._epoch(1, 0).tolist(), one._epoch(0, 1).tolist()]
  assert len(set(map(tuple, epochs))) == 3


def test_the_order_depends_on_seed_and_step_alone():
  steps = [7, 0, 7000, 3]
  again = {step: make().rows(step) for step in reversed(steps)}
  one = make()
  for step in steps:
    for left, right in zip(one.rows(step), again[step]):
      np.testing.assert_array_equal(left, right)
  assert make(seed=4).rows(7)[1].tolist() != one.rows(7)[1].tolist()


def test_the_order_is_pinned():
  # A change here means that runs saved before cannot be resumed bit for bit.
  source_B, example_B = make(batch_size=8).rows(5)
  assert list(zip(source_B.tolist(), example_B.tolist())) == [
      (1, 10), (1, 8), (0, 54), (1, 36), (0, 33), (0, 63), (0, 42), (1, 14)]


def test_sources_are_mixed_over_the_rows():
  source_B, _ = make(sizes=(500, 500), shares=(1, 1), batch_size=256).rows(0)
  assert 90 < np.count_nonzero(np.diff(source_B)) < 166


def test_augmentation_is_keyed_by_seed_step_and_row():
  one = make()
  draws = {key: one.augmentation_rng(*key).random() for key in [(0, 0), (0, 1), (1, 0)]}
  assert len(set(draws.values())) == 3
  assert make().augmentation_rng(0, 1).random() == draws[0, 1]
  assert make(seed=4).augmentation_rng(0, 1).random() != draws[0, 1]


def test_a_seed_beyond_32_bits_is_refused():
  with pytest.raises(ValueError, match='seed is -1'):
    make(seed=-1)
