"""The moves that experts are made of.

Motion is quantised to nine levels per axis (quarters of the limit), which leaves RT-2's 256-bin
codec as it is but lets few episodes cover the bins in use.
"""

import numpy as np

from rt2_train import actions
from rt2_train.sim import world

OPEN, CLOSE = -1.0, 1.0
GRASP_AT = 0.05  # height at which to close, metres
PLACE_AT = 0.06
TRAVEL_AT = 0.2  # height to move sideways at, or higher
LOW = 0.15  # below this it rises first; one full step up clears it
ALIGNED = 0.035  # sideways error per axis that is good enough to close or open
LOOSELY_ALIGNED = 0.05  # sideways distance from which to descend


def grasp(state: world.State, goal_2: np.ndarray) -> np.ndarray:
  """Towards what lies at `goal_2` and closed around it; whatever else is held is let go first."""
  if (state.held < 0 and state.pulled < 0 and not state.closed
      and is_at(state, goal_2, GRASP_AT)):
    return move(np.zeros(3), CLOSE)
  return approach(state, goal_2, GRASP_AT, OPEN)


def put(state: world.State, goal_2: np.ndarray) -> np.ndarray:
  """What is held is taken to `goal_2` and let go there."""
  if is_at(state, goal_2, PLACE_AT):
    return move(np.zeros(3), OPEN)
  return approach(state, goal_2, PLACE_AT, CLOSE)


def retreat(state: world.State, gripper: float) -> np.ndarray:
  """Done: up where everything can be seen, and stop."""
  if state.gripper_3[2] > LOW:
    return stop(gripper)
  return rise(gripper)


def approach(
    state: world.State, goal_2: np.ndarray, height: float, gripper: float) -> np.ndarray:
  """Up if low and far, sideways, then down: never low across other objects."""
  error_2 = goal_2 - state.gripper_3[:2]
  z = state.gripper_3[2]
  if np.linalg.norm(error_2) < LOOSELY_ALIGNED:
    return move([*error_2, height - z], gripper)
  if z < LOW and np.linalg.norm(error_2) > 0.09:
    return rise(gripper)
  return move([*error_2, max(0.0, TRAVEL_AT - z)], gripper)


def is_at(state: world.State, goal_2: np.ndarray, height: float) -> bool:
  error_2 = goal_2 - state.gripper_3[:2]
  return bool(np.abs(error_2).max() < ALIGNED and abs(state.gripper_3[2] - height) < 0.04)


def rise(gripper: float) -> np.ndarray:
  return move([0, 0, world.MOTION_LIMITS[2]], gripper)


def move(motion_3, gripper: float, roll: float = 0.0) -> np.ndarray:
  """One step; `roll` is as it is, and one of the nine levels if `quarters` has made it."""
  motion_3 = quarters(motion_3, world.MOTION_LIMITS)
  return np.array([actions.TERMINATE_CONTINUE, *motion_3, roll, 0, 0, gripper], np.float32)


def stop(gripper: float) -> np.ndarray:
  return np.array([actions.TERMINATE_STOP, 0, 0, 0, 0, 0, 0, gripper], np.float32)


def quarters(values, limits):
  """The nearest of nine levels between -limit and limit."""
  return np.clip(np.round(np.asarray(values) / limits * 4), -4, 4) / 4 * limits
