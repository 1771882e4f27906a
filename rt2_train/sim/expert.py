"""Experts: the right action in any state, as a pure function of it.

So one frame explains the action, and noise may push the arm anywhere: the expert recovers, also
from missed grasps and wrong objects. Motion is quantised to nine levels per axis (quarters of the
limit), which leaves RT-2's 256-bin codec as it is but lets few episodes cover the bins in use.
"""

from collections.abc import Callable, Mapping

import numpy as np

from rt2_train import actions
from rt2_train.sim import tabletop

OPEN, CLOSE = -1.0, 1.0
GRASP_AT = 0.05  # height at which to close, metres
PLACE_AT = 0.06
TRAVEL_AT = 0.2  # height to move sideways at, or higher
LOW = 0.15  # below this it rises first; one full step up clears it
ALIGNED = 0.035  # sideways error per axis that is good enough to close or open
LOOSELY_ALIGNED = 0.05  # sideways distance from which to descend
PLACE_DISTANCE = 0.2  # from the reference's centre; tabletop.NEAR counts as near


def act(scene: tabletop.Scene, state: tabletop.State) -> np.ndarray:
  """The expert's action float32 [8] for the scene's skill, in physical units and RT-2's order."""
  return EXPERTS[scene.skill](scene, state)


def _pick(scene: tabletop.Scene, state: tabletop.State) -> np.ndarray:
  if state.held == scene.target:
    if state.gripper_3[2] > tabletop.LIFTED_HEIGHT + 0.05:
      return _stop(CLOSE)
    return _move([0, 0, tabletop.MOTION_LIMITS[2]], CLOSE)
  return _grasp_target(scene, state)


def _move_near(scene: tabletop.Scene, state: tabletop.State) -> np.ndarray:
  if tabletop.SKILLS['move_near'].succeeded(scene, state):
    if state.gripper_3[2] > LOW:
      return _stop(OPEN)
    return _move([0, 0, tabletop.MOTION_LIMITS[2]], OPEN)
  if state.held != scene.target:
    return _grasp_target(scene, state)
  reference_2 = state.positions_Nx2[scene.reference]
  away_2 = state.gripper_3[:2] - reference_2
  distance = np.linalg.norm(away_2)
  # Straight above the reference every side is as good; the table's middle is always on the table.
  if distance < 0.01:
    away_2, distance = np.array([0.5, 0.5]) - reference_2, np.linalg.norm([0.5, 0.5] - reference_2)
  goal_2 = reference_2 + away_2 / max(distance, 1e-6) * PLACE_DISTANCE
  if _is_at(state, goal_2, PLACE_AT):
    return _move(np.zeros(3), OPEN)
  return _approach(state, goal_2, PLACE_AT, CLOSE)


EXPERTS: Mapping[str, Callable[[tabletop.Scene, tabletop.State], np.ndarray]] = {
    'pick': _pick,
    'move_near': _move_near,
}


def _grasp_target(scene: tabletop.Scene, state: tabletop.State) -> np.ndarray:
  """Towards the target and closed around it; whatever else is held is let go first."""
  target_2 = state.positions_Nx2[scene.target]
  if state.held < 0 and not state.closed and _is_at(state, target_2, GRASP_AT):
    return _move(np.zeros(3), CLOSE)
  return _approach(state, target_2, GRASP_AT, OPEN)


def _approach(
    state: tabletop.State, goal_2: np.ndarray, height: float, gripper: float) -> np.ndarray:
  """Up if low and far, sideways, then down: never low across other objects."""
  error_2 = goal_2 - state.gripper_3[:2]
  z = state.gripper_3[2]
  if np.linalg.norm(error_2) < LOOSELY_ALIGNED:
    return _move([*error_2, height - z], gripper)
  if z < LOW and np.linalg.norm(error_2) > 0.09:
    return _move([0, 0, tabletop.MOTION_LIMITS[2]], gripper)
  return _move([*error_2, max(0.0, TRAVEL_AT - z)], gripper)


def _is_at(state: tabletop.State, goal_2: np.ndarray, height: float) -> bool:
  error_2 = goal_2 - state.gripper_3[:2]
  return bool(np.abs(error_2).max() < ALIGNED and abs(state.gripper_3[2] - height) < 0.04)


def _move(motion_3, gripper: float) -> np.ndarray:
  levels_3 = np.clip(np.round(np.asarray(motion_3) / tabletop.MOTION_LIMITS * 4), -4, 4) / 4
  motion_3 = levels_3 * tabletop.MOTION_LIMITS
  return np.array([actions.TERMINATE_CONTINUE, *motion_3, 0, 0, 0, gripper], np.float32)


def _stop(gripper: float) -> np.ndarray:
  return np.array([actions.TERMINATE_STOP, 0, 0, 0, 0, 0, 0, gripper], np.float32)
