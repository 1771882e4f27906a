"""Random places for things.

Shape suffixes: N things, 2 = (x, y).
"""

from collections.abc import Sequence

import numpy as np

from rt2_train.sim import world

_TRIES = 40  # for one thing, before all are placed anew
_RESTARTS = 300


def sample_positions(rng: np.random.Generator, num_objects: int) -> np.ndarray:
  """Positions [N, 2] inside the margin and no closer than SPACING to each other."""
  for _ in range(10_000):
    positions_Nx2 = rng.uniform(world.MARGIN, 1 - world.MARGIN, (num_objects, 2))
    gaps_NxN = np.linalg.norm(positions_Nx2[:, None] - positions_Nx2[None], axis=-1)
    if (gaps_NxN + np.eye(num_objects) >= world.SPACING).all():
      return positions_Nx2
  raise ValueError(
      f'num_objects is {num_objects}; so many do not fit on the table {world.SPACING} apart')


def sample_angles(rng: np.random.Generator, num_objects: int) -> np.ndarray:
  """Angles [N] of -15, 0 or 15 degrees, in radians."""
  return np.radians(rng.integers(-1, 2, num_objects) * 15.0)


def scatter(
    rng: np.random.Generator, radii_N: Sequence[float], right: float = 1.0) -> np.ndarray:
  """Positions [N, 2] of discs that do not overlap, on the table left of x = `right`.

  Things are placed one after the other, so that a table may be fuller than `sample_positions`
  would ever find it.

  Raises:
    ValueError: they do not fit.
  """
  for _ in range(_RESTARTS):
    placed = []
    for radius in radii_N:
      gaps = np.array([radius + other for other in radii_N[:len(placed)]])
      edge = radius + world.MARGIN - world.SPACING / 2
      for position_2 in rng.uniform(edge, [right - edge, 1 - edge], (_TRIES, 2)):
        if not placed or (np.linalg.norm(np.array(placed) - position_2, axis=-1) >= gaps).all():
          placed.append(position_2)
          break
      else:
        break
    else:
      return np.array(placed)
  raise ValueError(
      f'{len(radii_N)} things do not fit on the table left of {right}; ask for fewer objects')
