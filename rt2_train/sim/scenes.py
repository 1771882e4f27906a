"""Random scenes: which things are on the table, where, and what is to be done with them."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from rt2_train.sim import placement
from rt2_train.sim import things
from rt2_train.sim import wordings
from rt2_train.sim import world
from rt2_train.sim.skills import registry

DIFFICULTIES = ('easy', 'hard')
HARD_NUM_OBJECTS = 5  # a hard scene has at least so many
_SAME_SHAPE = 2  # how many of the distractors of a hard scene have the target's shape, if they can


def sample_categories(
    rng: np.random.Generator, targets: Sequence[int], others: Sequence[int], num_objects: int,
    mixed: bool,
) -> tuple[int, ...]:
  """The target's category, then the others'; no category twice.

  Where `mixed`, at least one of the others is of the group that the target is not of.
  """
  target = int(rng.choice(targets))
  pool = [c for c in others if c != target]
  while True:
    beside = tuple(int(c) for c in rng.choice(pool, num_objects - 1, replace=False))
    if not mixed or any((c - target) % 2 for c in beside):
      return (target, *beside)


def sample_look_alikes(
    rng: np.random.Generator, targets: Sequence[int], others: Sequence[int], num_objects: int,
    mixed: bool,
) -> tuple[int, ...]:
  """As `sample_categories`, with things of the target's shape where there are any."""
  target, *beside = sample_categories(rng, targets, others, num_objects, mixed)
  alike = [c for c in others if c != target and things.same_shape(c, target) and c not in beside]
  wanted = _SAME_SHAPE - sum(things.same_shape(c, target) for c in beside)
  for like in rng.permutation(alike)[:max(wanted, 0)].tolist():
    # What is of the group that makes a scene mixed stays.
    replaceable = [
        i for i, c in enumerate(beside)
        if not things.same_shape(c, target) and (like - c) % 2 == 0]
    if replaceable:
      beside[replaceable[0]] = like
  return (target, *beside)


def sample_episode(
    rng: np.random.Generator,
    skill: str,
    categories: tuple[int, ...],
    background: str,
    *,
    environment: str = 'seen',
    difficulty: str = 'easy',
    wording: str = 'name',
) -> tuple[world.Scene, world.State]:
  """A scene with categories[0] as target, and its first state: gripper open, above the table.

  In a hard scene every other object has the target's shape, or else its colour.
  """
  order = rng.permutation(len(categories))
  categories = tuple(categories[i] for i in order)
  target = int(np.flatnonzero(order == 0)[0])
  reference = int(rng.choice([i for i in range(len(categories)) if i != target]))
  while True:
    positions_Nx2 = placement.sample_positions(rng, len(categories))
    # Further apart than counts as near, so that `move near` always has something to do.
    if np.linalg.norm(positions_Nx2[target] - positions_Nx2[reference]) > world.NEAR + 0.1:
      break
  look = int(rng.integers(2**31))
  colors = _same_colors(categories, target) if difficulty == 'hard' else ()
  scene = world.Scene(
      skill, categories, target, reference, positions_Nx2, background, look,
      colors=colors, environment=environment)
  gripper_3 = rng.uniform([0.1, 0.1, 0.2], [0.9, 0.9, world.GRIPPER_HIGH[2]])
  state = world.State(positions_Nx2, placement.sample_angles(rng, len(categories)), gripper_3)
  scene, state = registry.SKILLS[skill].stage(rng, scene, state)
  return dataclasses.replace(scene, instruction=wordings.instruct(scene, wording)), state


def _same_colors(categories: Sequence[int], target: int) -> tuple[str, ...]:
  """Colours that leave only the shape to tell the target by, and only the colour from its like."""
  kind = categories[target]
  return tuple(
      things.THINGS[c if things.same_shape(c, kind) and not things.is_card(c) else kind].color
      for c in categories)
