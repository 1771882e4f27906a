"""What the intervals promise, checked against SciPy and a published example."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats

from rt2_train.evaluation import statistics

trials = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@hypothesis.given(trials, st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_agrees_with_scipy(trial, confidence):
  successes, n = trial
  expected = stats.binomtest(successes, n).proportion_ci(confidence, method='wilson')
  np.testing.assert_allclose(
      statistics.wilson(successes, n, confidence), (expected.low, expected.high), atol=1e-9
  )


@hypothesis.given(trials)
def test_an_interval_holds_its_rate_and_stays_within_0_and_1(trial):
  successes, n = trial
  low, high = statistics.wilson(successes, n)
  assert 0 <= low <= successes / n <= high <= 1
  assert high > low


@hypothesis.given(trials)
def test_ten_times_the_episodes_give_a_narrower_interval(trial):
  successes, n = trial
  low, high = statistics.wilson(successes, n)
  low10, high10 = statistics.wilson(10 * successes, 10 * n)
  assert high10 - low10 < high - low


def test_the_interval_covers_the_true_rate_95_times_in_100():
  rng = np.random.default_rng(0)
  for rate in (0.05, 0.33, 0.7):
    draws = rng.binomial(200, rate, 2000)
    covered = [low <= rate <= high for low, high in (statistics.wilson(int(d), 200) for d in draws)]
    assert 0.93 < np.mean(covered) < 0.97


def test_the_difference_interval_is_newcombes_published_example():
  # Newcombe (1998), table II, example (a), method 10: 56/70 against 48/80.
  delta, (low, high) = statistics.difference(48, 80, 56, 70)
  assert delta == pytest.approx(0.2)
  assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


@hypothesis.given(trials, trials)
def test_swapping_the_policies_flips_the_difference(a, b):
  delta, (low, high) = statistics.difference(*a, *b)
  flipped, (flipped_low, flipped_high) = statistics.difference(*b, *a)
  assert (delta, low, high) == pytest.approx((-flipped, -flipped_high, -flipped_low))
  assert low <= delta <= high


@hypothesis.given(trials, trials)
def test_intervals_that_are_apart_always_mean_a_difference(a, b):
  _, (low, high) = statistics.difference(*a, *b)
  if statistics.intervals_apart(statistics.wilson(*a), statistics.wilson(*b)):
    assert low > 0 or high < 0


def test_touching_intervals_are_not_apart():
  assert not statistics.intervals_apart((0.1, 0.3), (0.3, 0.5))
  assert statistics.intervals_apart((0.31, 0.5), (0.1, 0.3))


def test_the_paired_test_agrees_with_the_binomial_test():
  a = [True] * 40 + [True] * 5 + [False] * 15 + [False] * 40
  b = [True] * 40 + [False] * 5 + [True] * 15 + [False] * 40
  assert statistics.paired_p_value(a, b) == pytest.approx(stats.binomtest(5, 20).pvalue)
  assert statistics.paired_p_value(a, a) == 1.0


def test_the_paired_test_wants_the_same_episodes():
  with pytest.raises(ValueError, match='3 and 2 episodes'):
    statistics.paired_p_value([True] * 3, [True] * 2)


@pytest.mark.parametrize('counts', [(0, 0), (3, 2), (-1, 5)])
def test_impossible_counts_are_refused(counts):
  with pytest.raises(ValueError, match='need 0 <= successes <= trials'):
    statistics.wilson(*counts)
