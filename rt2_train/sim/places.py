"""Where things can be put: a bowl or a basket on the table, a drawer at its right edge.

The cabinet is a strip of three drawers, one below the other in the picture, which slide out to the
left. A place is called by its English name, such as 'bowl' or 'top drawer'.
"""

from collections.abc import Mapping

import numpy as np

from rt2_train.sim import world

# Receptacle -> how far from its middle an object's middle still counts as inside, metres.
RECEPTACLES: Mapping[str, float] = {'bowl': 0.11, 'basket': 0.11}
RECEPTACLE_RADIUS = 0.16  # as drawn, and what other things keep off

DRAWERS = ('top drawer', 'middle drawer', 'bottom drawer')
FRONT = 0.86  # x of the cabinet's front
TRAVEL = 0.28  # how far a drawer slides out
HANDLE = 0.03  # how far its handle sticks out
DRAWER_WIDTH = 0.27  # along y
COUNTER = FRONT - TRAVEL  # left of this, an open drawer is in nobody's way
OPENED, CLOSED = 0.2, 0.04  # out at least, and at most, to count as either


def names(scene: world.Scene, state: world.State) -> tuple[str, ...]:
  """Every place of the scene."""
  return (*(r.name for r in scene.receptacles), *(DRAWERS if state.drawers_D.size else ()))


def center(scene: world.Scene, state: world.State, place: str) -> np.ndarray:
  """The middle [2] of the receptacle, or of what of the drawer is out."""
  if place in DRAWERS:
    i = DRAWERS.index(place)
    return np.array([FRONT - state.drawers_D[i] / 2, drawer_y(i)])
  return next(np.array([r.x, r.y]) for r in scene.receptacles if r.name == place)


def holds(scene: world.Scene, state: world.State, place: str, position_2: np.ndarray) -> bool:
  """Whether what lies at `position_2` is inside `place`."""
  if place in DRAWERS:
    return bool(in_drawer(state.drawers_D, DRAWERS.index(place), position_2))
  away = np.linalg.norm(position_2 - center(scene, state, place))
  return bool(away < RECEPTACLES[place])


def drawer_y(i: int) -> float:
  """The y of a drawer's middle and of its handle."""
  return (i + 0.5) / len(DRAWERS)


def handles(drawers_D: np.ndarray) -> np.ndarray:
  """Where the drawers' handles are, [D, 2]."""
  return np.stack([FRONT - drawers_D - HANDLE, [drawer_y(i) for i in range(len(DRAWERS))]], 1)


def in_drawer(drawers_D: np.ndarray, i: int, positions_Nx2: np.ndarray) -> np.ndarray:
  """Whether each of the positions [..., 2] is in drawer `i`, be it out or inside the cabinet."""
  x_N, y_N = positions_Nx2[..., 0], positions_Nx2[..., 1]
  face = FRONT - drawers_D[i]
  along_N = (face < x_N) & (x_N < face + TRAVEL)
  return along_N & (np.abs(y_N - drawer_y(i)) < DRAWER_WIDTH / 2)
