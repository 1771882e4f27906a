"""How sure a success rate is: intervals for one rate and for the difference of two.

A robot evaluation is a few hundred coin tosses. A rate without its interval says little, and the
textbook interval (rate +- 1.96 standard errors) is wrong exactly where robots live, near 0 and 1.
"""

import math
import statistics

Interval = tuple[float, float]


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
  """The Wilson score interval of `successes` out of `n`, both ends within [0, 1].

  Raises:
    ValueError: nothing was tried, or more succeeded than were tried.

  Source: E. B. Wilson, JASA 22 (1927).
  """
  _check_counts(successes, n)
  z = _z(confidence)
  rate = successes / n
  centre = rate + z * z / (2 * n)
  spread = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
  scale = 1 + z * z / n
  # At 0 of n and n of n an end is 0 or 1 exactly; rounding must not move it past the rate.
  low, high = (centre - spread) / scale, (centre + spread) / scale
  return max(0.0, min(rate, low)), min(1.0, max(rate, high))


def intervals_apart(a: Interval, b: Interval) -> bool:
  """Whether two intervals share no point; stricter than a test of the difference."""
  return a[1] < b[0] or b[1] < a[0]


def difference(
    successes_a: int, n_a: int, successes_b: int, n_b: int, confidence: float = 0.95
) -> tuple[float, Interval]:
  """Rate b minus rate a, and the interval of that difference (independent trials).

  The rates differ at this confidence when the interval leaves out 0.

  Raises:
    ValueError: as `wilson`.

  Source: R. G. Newcombe, Statistics in Medicine 17 (1998), method 10 (hybrid score).
  """
  low_a, high_a = wilson(successes_a, n_a, confidence)
  low_b, high_b = wilson(successes_b, n_b, confidence)
  rate_a, rate_b = successes_a / n_a, successes_b / n_b
  delta = rate_b - rate_a
  low = delta - math.hypot(rate_b - low_b, high_a - rate_a)
  high = delta + math.hypot(high_b - rate_b, rate_a - low_a)
  return delta, (low, high)


def paired_p_value(successes_a: list[bool], successes_b: list[bool]) -> float:
  """Probability of so uneven a split if two policies were equally good on the *same* seeds.

  Only the episodes that one policy solved and the other did not carry information, which makes
  this test see differences that two separate intervals cannot (exact McNemar test, two-sided).

  Raises:
    ValueError: the two lists are not the same episodes.
  """
  if len(successes_a) != len(successes_b):
    raise ValueError(
        f'paired test: {len(successes_a)} and {len(successes_b)} episodes; play the same seeds'
    )
  only_a = sum(a and not b for a, b in zip(successes_a, successes_b))
  only_b = sum(b and not a for a, b in zip(successes_a, successes_b))
  n = only_a + only_b
  tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
  return min(1.0, 2 * tail / 2**n)


def _z(confidence: float) -> float:
  if not 0 < confidence < 1:
    raise ValueError(f'confidence {confidence} is not between 0 and 1; 0.95 is usual')
  return statistics.NormalDist().inv_cdf((1 + confidence) / 2)


def _check_counts(successes: int, n: int) -> None:
  if n < 1 or not 0 <= successes <= n:
    raise ValueError(f'{successes} successes in {n} trials: need 0 <= successes <= trials >= 1')
