"""What makes a skill: what the robot is told, what the scene needs, what must come of it, and how.

An expert is a pure function of scene and state, so that one frame explains its action, and noise
may push the arm anywhere: it recovers, also from missed grasps and wrong objects.
"""

from collections.abc import Callable, Mapping
import dataclasses

import numpy as np

from rt2_train.sim import world


def unchanged(
    rng: np.random.Generator, scene: world.Scene, state: world.State,
) -> tuple[world.Scene, world.State]:
  """For a skill that asks for nothing but objects."""
  del rng
  return scene, state


def target_of(scene: world.Scene, state: world.State) -> tuple[np.ndarray, int]:
  """Of all objects, the first that the instruction names."""
  return state.positions_Nx2, scene.target


@dataclasses.dataclass(frozen=True)
class Skill:
  """One kind of instruction.

  Attributes:
    template: the instruction, with {target}, {reference}, {second} or {place}.
    translations: the same in the other languages of objects.LANGUAGES.
    succeeded: whether the state is what was asked for.
    act: the expert: an action float32 [8] in physical units and RT-2's order.
    stage: makes a plain scene one that has what the skill needs, such as a cabinet. Its random
      numbers come after those of the scene.
    step: the template of what is to be done now, for an instruction of several steps.
    aim: where the arm should be: places [K, 2], and which of them it is.
    least_objects: how many a scene must have.
    max_steps: enough for the expert, with some to spare.
  """

  template: str
  translations: Mapping[str, str]
  succeeded: Callable[[world.Scene, world.State], bool]
  act: Callable[[world.Scene, world.State], np.ndarray]
  stage: Callable[
      [np.random.Generator, world.Scene, world.State], tuple[world.Scene, world.State]] = unchanged
  step: Callable[[world.Scene, world.State], str] | None = None
  aim: Callable[[world.Scene, world.State], tuple[np.ndarray, int]] = target_of
  least_objects: int = 2
  max_steps: int = 20
