"""What a schedule of quotas promises, for any weights, batch and step."""

import fractions

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from rt2_train.data import quotas

SHARES = st.lists(
    st.one_of(st.integers(0, 4), st.integers(0, 3000)), min_size=1, max_size=9
).filter(any).map(tuple)
BATCHES = st.sampled_from([1, 2, 3, 8, 32, 256, 2048])
STEPS = st.one_of(st.integers(0, 50), st.integers(0, 10**9))


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(SHARES, BATCHES, STEPS)
def test_counts_are_never_negative_and_fill_the_batch(shares, batch, step):
  counts = quotas.quotas(step, batch, shares)
  assert counts.sum() == batch
  assert (counts >= 0).all()
  assert (counts[np.array(shares) == 0] == 0).all()


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(SHARES, BATCHES, STEPS)
def test_a_source_is_always_less_than_one_example_from_its_share(shares, batch, step):
  used = quotas.used(step, batch, shares)
  for count, share in zip(used.tolist(), shares):
    assert abs(count - fractions.Fraction(step * batch * share, sum(shares))) < 1


def test_nothing_drifts_in_a_billion_steps():
  shares = quotas.parts([0.66, 0.2, 0.1, 0.04])
  assert quotas.used(10**9, 2048, shares).tolist() == [
      10**9 * 2048 * part // 50 for part in (33, 10, 5, 2)]


def test_half_and_half_is_exact_in_every_batch():
  for step in range(20):
    assert quotas.quotas(step, 32, quotas.parts([0.5, 0.5])).tolist() == [16, 16]


def test_a_source_of_one_part_in_a_hundred_thousand_still_comes():
  shares = quotas.parts([1.0, 1e-5])
  steps = [step for step in range(3126) if quotas.quotas(step, 32, shares)[1]]
  assert len(steps) == 1


def test_weights_are_read_as_they_were_written():
  assert quotas.parts([0.66, 0.34]) == (33, 17)
  assert quotas.parts([1.5, 0.25, 0.25]) == (6, 1, 1)
  assert quotas.parts([0.5, 1 / 3, 1 / 6]) == (3, 2, 1)
  assert quotas.parts([2, 0]) == (1, 0)


def test_numbers_of_examples_are_rounded_to_a_hundred_thousand_parts():
  shares = quotas.parts([3_800_000, 1_234_567, 7])
  assert sum(shares) == quotas.RESOLUTION
  assert shares[2] == 1
  assert shares[0] == pytest.approx(3_800_000 / 5_034_574 * 100_000, abs=2)


@pytest.mark.parametrize('weights', [[-1, 2], [float('nan'), 1], [float('inf'), 1], [0, 0]])
def test_senseless_weights_are_refused(weights):
  with pytest.raises(ValueError, match='mixture weight'):
    quotas.parts(weights)
