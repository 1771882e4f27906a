"""pick, move near, and both in a row: objects on a table, nothing else."""

import dataclasses

import numpy as np

from rt2_train.sim import world
from rt2_train.sim.skills import arm
from rt2_train.sim.skills import skill

PLACE_DISTANCE = 0.2  # from the reference's centre; world.NEAR counts as near
_APART = 0.17  # more than twice the radius within which fingers take a thing
_SIDES_S = np.arange(16) * np.pi / 8


def _lifted(scene: world.Scene, state: world.State) -> bool:
  return state.held == scene.target and state.gripper_3[2] > world.LIFTED_HEIGHT


def _pick(scene: world.Scene, state: world.State) -> np.ndarray:
  if state.held == scene.target:
    if state.gripper_3[2] > world.LIFTED_HEIGHT + 0.05:
      return arm.stop(arm.CLOSE)
    return arm.rise(arm.CLOSE)
  return arm.grasp(state, state.positions_Nx2[scene.target])


def _placed_near(scene: world.Scene, state: world.State) -> bool:
  reference_2 = state.positions_Nx2[scene.reference]
  return bool(
      state.held not in (scene.target, scene.reference)
      and np.linalg.norm(state.positions_Nx2[scene.target] - reference_2) < world.NEAR
      and np.array_equal(reference_2, scene.start_Nx2[scene.reference])
  )


def _placed_near_and_let_go(scene: world.Scene, state: world.State) -> bool:
  return state.held < 0 and _placed_near(scene, state)


def _move_near(scene: world.Scene, state: world.State) -> np.ndarray:
  if _placed_near_and_let_go(scene, state):
    return arm.retreat(state, arm.OPEN)
  if state.held != scene.target:
    return arm.grasp(state, state.positions_Nx2[scene.target])
  reference_2 = state.positions_Nx2[scene.reference]
  away_2 = state.gripper_3[:2] - reference_2
  distance = np.linalg.norm(away_2)
  # Straight above the reference every side is as good; the table's middle is always on the table.
  if distance < 0.01:
    away_2, distance = np.array([0.5, 0.5]) - reference_2, np.linalg.norm([0.5, 0.5] - reference_2)
  return arm.put(state, reference_2 + away_2 / max(distance, 1e-6) * PLACE_DISTANCE)


PICK = skill.Skill(
    'pick {target}',
    {'de': 'nimm {target}', 'es': 'toma {target}', 'fr': 'prends {target}'},
    succeeded=_lifted, act=_pick)

MOVE_NEAR = skill.Skill(
    'move {target} near {reference}',
    {'de': 'bewege {target} zu {reference}', 'es': 'mueve {target} junto a {reference}',
     'fr': 'mets {target} près de {reference}'},
    succeeded=_placed_near_and_let_go, act=_move_near)


def _second_as_target(scene: world.Scene) -> world.Scene:
  return dataclasses.replace(scene, target=scene.second)


def _moved_and_picked(scene: world.Scene, state: world.State) -> bool:
  return _placed_near(scene, state) and _lifted(_second_as_target(scene), state)


def _move_then_pick(scene: world.Scene, state: world.State) -> np.ndarray:
  if _placed_near(scene, state):
    return _pick(_second_as_target(scene), state)
  if state.held != scene.target:
    return arm.grasp(state, state.positions_Nx2[scene.target])
  return arm.put(state, _free_side(scene, state))


def _free_side(scene: world.Scene, state: world.State) -> np.ndarray:
  """Beside the reference, where the fingers can still tell what is there from what they pick."""
  around_Sx2 = np.stack([np.cos(_SIDES_S), np.sin(_SIDES_S)], 1) * PLACE_DISTANCE
  sides_Sx2 = state.positions_Nx2[scene.reference] + around_Sx2
  others_Nx2 = np.delete(state.positions_Nx2, [scene.target, scene.reference], 0)
  gaps_S = np.linalg.norm(sides_Sx2[:, None] - others_Nx2, axis=-1).min(1)
  on_table_S = (np.abs(sides_Sx2 - 0.5) < 0.5 - world.MARGIN / 2).all(1)
  free_S = on_table_S & (gaps_S >= np.where(on_table_S, gaps_S, 0).max().clip(max=_APART))
  # The nearest side stays the nearest on the way there.
  away_S = np.linalg.norm(sides_Sx2 - state.gripper_3[:2], axis=-1)
  return sides_Sx2[np.where(free_S, away_S, np.inf).argmin()]


def _stage_second(
    rng: np.random.Generator, scene: world.Scene, state: world.State,
) -> tuple[world.Scene, world.State]:
  named = (scene.target, scene.reference)
  second = int(rng.choice([i for i in range(len(scene.categories)) if i not in named]))
  return dataclasses.replace(scene, second=second), state


MOVE_THEN_PICK = skill.Skill(
    f'{MOVE_NEAR.template} then pick {{second}}',
    {'de': f"{MOVE_NEAR.translations['de']} dann nimm {{second}}",
     'es': f"{MOVE_NEAR.translations['es']} luego toma {{second}}",
     'fr': f"{MOVE_NEAR.translations['fr']} puis prends {{second}}"},
    succeeded=_moved_and_picked, act=_move_then_pick, stage=_stage_second,
    step=lambda scene, state:
        'pick {second}' if _placed_near(scene, state) else MOVE_NEAR.template,
    aim=lambda scene, state:
        (state.positions_Nx2, scene.second if _placed_near(scene, state) else scene.target),
    least_objects=3, max_steps=40)
