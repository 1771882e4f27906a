"""How many examples of each source a batch holds: exact integers, in every batch and over any run.

Sampling a mixture meets its rates in expectation only. Here a batch's counts are a schedule
worked out in integers: after any number of steps a source is less than one example away from its
share, and the schedule repeats exactly, so that it never drifts.

Shape suffixes: P steps of a period, S sources.
"""

from collections.abc import Sequence
import fractions
import functools
import math

import numpy as np

# Shares are kept to one part in this many, which bounds the period of the schedule.
RESOLUTION = 100_000
_LARGEST_DENOMINATOR = 1_000_000


def parts(weights: Sequence[float | fractions.Fraction]) -> tuple[int, ...]:
  """`weights` as whole parts of their sum: (0.5, 0.3, 0.2) is (5, 3, 2).

  Weights that need more than 100 000 parts (such as numbers of examples) are rounded to so many,
  and a positive one keeps at least one part.

  Raises:
    ValueError: a weight is negative or not finite, or all of them are 0.
  """
  for weight in weights:
    if not math.isfinite(weight) or weight < 0:
      raise ValueError(f'mixture weights must be finite and not negative, got {list(weights)}')
  if not any(weights):
    raise ValueError(f'no mixture weight is above 0: {list(weights)}')
  # 0.66 is stored as a binary fraction; what was meant is 33/50.
  exact = [fractions.Fraction(weight).limit_denominator(_LARGEST_DENOMINATOR) or
           fractions.Fraction(weight) for weight in weights]
  shares = [weight / sum(exact) for weight in exact]
  whole = math.lcm(*(share.denominator for share in shares))
  if whole <= RESOLUTION:
    return tuple(int(share * whole) for share in shares)
  rounded = [max(round(share * RESOLUTION), 1) if share else 0 for share in shares]
  # The largest source takes up what rounding left over.
  rounded[rounded.index(max(rounded))] += RESOLUTION - sum(rounded)
  return tuple(rounded)


def quotas(step: int, batch: int, shares: tuple[int, ...]) -> np.ndarray:
  """Examples of each source in batch number `step`.

  Args:
    step: from 0.
    batch: examples in a global batch.
    shares: whole parts per source, see `parts`.

  Returns:
    int64 [S], none negative, summing to `batch`.
  """
  return used(step + 1, batch, shares) - used(step, batch, shares)


def used(step: int, batch: int, shares: tuple[int, ...]) -> np.ndarray:
  """Examples of each source in all batches before `step`: int64 [S], |used - share| < 1."""
  used_PxS = _period(batch, shares)
  periods, rest = divmod(step, len(used_PxS) - 1)
  return periods * used_PxS[-1] + used_PxS[rest]


@functools.lru_cache(maxsize=8)
def _period(batch: int, shares: tuple[int, ...]) -> np.ndarray:
  """`used` for every step of one period, which ends where all shares are whole: int64 [P+1, S].

  The j-th example of a source is wanted by the time its share reaches j, and may not come before
  the share has passed j - 1. Filling each batch with what is allowed, earliest want first, meets
  every want (unit jobs with release times and deadlines on `batch` machines; Baruah et al. 1996,
  "Proportionate progress").
  """
  whole = sum(shares)
  steps = whole // math.gcd(whole, batch)
  used_S = [0] * len(shares)
  rows = [tuple(used_S)]
  for step in range(1, steps + 1):
    allowed = []
    for source, share in enumerate(shares):
      wanted, rest = divmod(step * batch * share, whole)
      used_S[source] = max(used_S[source], wanted)
      if rest and used_S[source] == wanted:
        # The step by which the next example of this source is wanted.
        allowed.append((-(-(wanted + 1) * whole // (batch * share)), source))
    for _, source in sorted(allowed)[:step * batch - sum(used_S)]:
      used_S[source] += 1
    rows.append(tuple(used_S))
  return np.array(rows, np.int64)
