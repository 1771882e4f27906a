"""knock over, place upright: scenes whose objects stand on feet, or lie on a side."""

from collections.abc import Callable
import dataclasses

import numpy as np

from rt2_train.sim import world
from rt2_train.sim.skills import arm
from rt2_train.sim.skills import skill

_SWEEP_AT = 0.06  # height of the closed fingers beside what they will knock over
_SWEEP_BELOW = 0.1
_BESIDE = 0.12  # one full step away
_FALLEN_SHARE = 0.4  # of the objects that the instruction does not name


def _stage(fallen: bool) -> Callable[..., tuple[world.Scene, world.State]]:
  """Scenes in which objects stand or lie at random, and the target does as `fallen` says."""

  def stage(
      rng: np.random.Generator, scene: world.Scene, state: world.State,
  ) -> tuple[world.Scene, world.State]:
    fallen_N = rng.random(len(scene.categories)) < _FALLEN_SHARE
    fallen_N[scene.target] = fallen
    sides_N = rng.choice([-np.pi / 2, np.pi / 2], len(scene.categories))
    return (dataclasses.replace(scene, fallen=tuple(fallen_N.tolist())),
            dataclasses.replace(state, rolls_N=np.where(fallen_N, sides_N, 0.0)))

  return stage


def _turned_over(scene: world.Scene, state: world.State) -> bool:
  """The target, and nothing but the target, stands where it lay or lies where it stood."""
  return state.held < 0 and all(
      now != before if i == scene.target else now == before
      for i, (now, before) in enumerate(zip(state.fallen, scene.fallen)))


def _knock_over(scene: world.Scene, state: world.State) -> np.ndarray:
  target, (x, y, z) = scene.target, state.gripper_3
  if state.held >= 0:
    return arm.move(np.zeros(3), arm.OPEN)
  if state.fallen[target]:
    return arm.retreat(state, arm.CLOSE)
  # Fingers that close down there would take what they are to push.
  if not state.closed and z < arm.LOW:
    return arm.rise(arm.OPEN)
  dx, dy = state.positions_Nx2[target] - (x, y)
  if z < _SWEEP_BELOW and abs(dx) < _BESIDE + arm.ALIGNED and abs(dy) < arm.ALIGNED:
    return arm.move([np.copysign(world.MOTION_LIMITS[0], dx), dy, 0], arm.CLOSE)
  beside_2 = state.positions_Nx2[target] - [np.copysign(_BESIDE, dx), 0]
  return arm.approach(state, beside_2, _SWEEP_AT, arm.CLOSE)


def _place_upright(scene: world.Scene, state: world.State) -> np.ndarray:
  target = scene.target
  if state.held != target:
    if not state.fallen[target]:
      return arm.retreat(state, arm.OPEN)
    return arm.grasp(state, state.positions_Nx2[target])
  roll = arm.quarters(-state.rolls_N[target], world.ROTATION_LIMIT)
  if abs(roll) > 0:
    # Lifted while it turns, so that it does not scrape over the table.
    return arm.move([0, 0, world.MOTION_LIMITS[2] / 2], arm.CLOSE, roll)
  return arm.put(state, state.gripper_3[:2])


KNOCK_OVER = skill.Skill(
    'knock {target} over',
    {'de': 'wirf {target} um', 'es': 'tumba {target}', 'fr': 'renverse {target}'},
    succeeded=_turned_over, act=_knock_over, stage=_stage(fallen=False))

PLACE_UPRIGHT = skill.Skill(
    'place {target} upright',
    {'de': 'stelle {target} auf', 'es': 'pon {target} de pie', 'fr': 'redresse {target}'},
    succeeded=_turned_over, act=_place_upright, stage=_stage(fallen=True))
