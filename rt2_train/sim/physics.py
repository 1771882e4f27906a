"""What an action does: a pure function of state and action, which knows no pixels."""

import numpy as np

from rt2_train.sim import places
from rt2_train.sim import world

_SIDEWAYS = 0.02  # less is no sweep: fingers that come down beside a thing do not knock it over


def step_state(state: world.State, action: np.ndarray) -> world.State:
  """The state after an action [8] in RT-2's order: the arm moves, then the gripper acts.

  Displacements are clipped to MOTION_LIMITS and ROTATION_LIMIT. Gripper +1 closes, -1 opens, 0
  keeps. A closing gripper takes the nearest object or handle within GRASP_RADIUS if it is below
  GRASP_HEIGHT; an opening one drops what it holds straight down. Yaw turns what is held; roll puts
  what stands on its side, or back on its feet, and has no effect on a flat object, as pitch has
  none on anything. Closed fingers that sweep low knock over what stands in their way. A handle
  moves the way its drawer slides, and the arm with it. A stop action (terminate 0) moves nothing.
  """
  if action[0] < 0.5:
    return state
  motion_3 = np.clip(action[1:4], -world.MOTION_LIMITS, world.MOTION_LIMITS)
  closed = bool(action[7] > 0.5 or (state.closed and action[7] > -0.5))
  if state.pulled >= 0:
    return _slide(state, motion_3[0], closed)
  gripper_3 = np.clip(state.gripper_3 + motion_3, world.GRIPPER_LOW, world.GRIPPER_HIGH)
  positions_Nx2, angles_N, rolls_N = state.positions_Nx2, state.angles_N, state.rolls_N
  held, pulled = state.held, -1
  if held >= 0:
    positions_Nx2, angles_N = positions_Nx2.copy(), angles_N.copy()
    positions_Nx2[held] = gripper_3[:2]
    angles_N[held] += np.clip(action[6], -world.ROTATION_LIMIT, world.ROTATION_LIMIT)
    if rolls_N.size:
      turned = rolls_N[held] + np.clip(action[4], -world.ROTATION_LIMIT, world.ROTATION_LIMIT)
      # What is let go falls on its feet or on a side, whichever is nearer.
      rolls_N = _with(rolls_N, held, _wrap(turned) if closed else _settled(_wrap(turned)))
    if not closed and state.drawers_D.size:
      # The cabinet's top is sloped: nothing stays where its drawers would hide it.
      positions_Nx2[held, 0] = min(positions_Nx2[held, 0], places.FRONT - places.HANDLE)
  elif rolls_N.size and closed and state.closed:
    rolls_N = _knocked(rolls_N, positions_Nx2, state.gripper_3, gripper_3)
  if not closed:
    held = -1
  elif not state.closed and gripper_3[2] < world.GRASP_HEIGHT:
    held, pulled = _within_reach(positions_Nx2, state.drawers_D, gripper_3[:2])
    if held >= 0:
      positions_Nx2 = positions_Nx2.copy()
      positions_Nx2[held] = gripper_3[:2]
    elif pulled >= 0:
      gripper_3[:2] = places.handles(state.drawers_D)[pulled]
  return world.State(
      positions_Nx2, angles_N, gripper_3, closed, held, rolls_N, state.drawers_D, pulled)


def _within_reach(
    positions_Nx2: np.ndarray, drawers_D: np.ndarray, gripper_2: np.ndarray) -> tuple[int, int]:
  """The object and the drawer that closing fingers take: one of the two at most, else -1."""
  distances_N = np.linalg.norm(positions_Nx2 - gripper_2, axis=-1)
  if drawers_D.size:
    distances_N[positions_Nx2[:, 0] > places.FRONT] = np.inf  # inside the cabinet
    away_D = np.linalg.norm(places.handles(drawers_D) - gripper_2, axis=-1)
    if away_D.min() < min(world.GRASP_RADIUS, distances_N.min()):
      return -1, int(away_D.argmin())
  nearest = int(distances_N.argmin())
  return (nearest if distances_N[nearest] < world.GRASP_RADIUS else -1), -1


def _slide(state: world.State, dx: float, closed: bool) -> world.State:
  """The drawer that is pulled, what lies in it and the arm move along x, as far as it goes."""
  i = state.pulled
  drawers_D = _with(
      state.drawers_D, i, np.clip(state.drawers_D[i] - dx, 0.0, places.TRAVEL))
  moved = state.drawers_D[i] - drawers_D[i]
  positions_Nx2 = state.positions_Nx2.copy()
  positions_Nx2[places.in_drawer(state.drawers_D, i, positions_Nx2), 0] += moved
  return world.State(
      positions_Nx2, state.angles_N, state.gripper_3 + [moved, 0, 0], closed, -1, state.rolls_N,
      drawers_D, i if closed else -1)


def _knocked(
    rolls_N: np.ndarray, positions_Nx2: np.ndarray, start_3: np.ndarray, end_3: np.ndarray,
) -> np.ndarray:
  """Whatever stands in the way of closed fingers falls the way they go."""
  way_2 = end_3[:2] - start_3[:2]
  length = np.linalg.norm(way_2)
  if max(start_3[2], end_3[2]) > world.KNOCK_HEIGHT or length < _SIDEWAYS:
    return rolls_N
  from_start_Nx2 = positions_Nx2 - start_3[:2]
  along_N = np.clip(from_start_Nx2 @ way_2 / length**2, 0, 1)
  gaps_N = np.linalg.norm(from_start_Nx2 - along_N[:, None] * way_2, axis=-1)
  hit_N = (gaps_N < world.KNOCK_RADIUS) & (np.abs(rolls_N) < np.pi / 4)
  return np.where(hit_N, -np.copysign(np.pi / 2, way_2[0]), rolls_N)


def _settled(roll: float) -> float:
  """On its feet, or on a side."""
  return 0.0 if abs(roll) < np.pi / 4 else float(np.copysign(np.pi / 2, roll))


def _wrap(angle: float) -> float:
  """The same angle within -pi..pi."""
  return float((angle + np.pi) % (2 * np.pi) - np.pi)


def _with(values: np.ndarray, i: int, value: float) -> np.ndarray:
  """A copy with one value changed."""
  values = values.copy()
  values[i] = value
  return values
