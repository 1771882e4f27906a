"""Learned positions of patches for another resolution."""

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp
import numpy as np

Grid = tuple[int, int]


def square(count: int, name: str) -> Grid:
  """The grid of a table of `count` positions.

  Raises:
    ValueError: it is none of a square image.
  """
  side = math.isqrt(count)
  if side * side != count:
    raise ValueError(f'{name} has {count} positions, which are no square grid')
  return side, side


def resize(there: Grid, here: Grid) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
  """What makes positions [there, E] into [here, E], and a note of it; '' if the grids are one.

  Bilinear, pixel centres aligned, with antialiasing when it shrinks: what SigLIP 2 does for every
  image, in both its JAX and its PyTorch code.
  """
  if there == here:
    return (lambda table: table), ''

  def make(table_KxE):
    width = table_KxE.shape[-1]
    if not table_KxE.any():  # Shapes are asked for with zeros.
      return np.zeros((math.prod(here), width), np.float32)
    grid = jnp.asarray(table_KxE, jnp.float32).reshape(*there, width)
    resized = jax.image.resize(grid, (*here, width), 'bilinear', antialias=True)
    return np.asarray(resized).reshape(-1, width)

  size = lambda grid: 'x'.join(map(str, grid))
  return make, f'resized from {size(there)} to {size(here)} positions, bilinear with antialiasing'
