"""Experts: in any state, the right action and the step of the instruction that it belongs to.

Both are pure functions of what one frame shows; see `skills.skill`.
"""

import numpy as np

from rt2_train.sim import wordings
from rt2_train.sim import world
from rt2_train.sim.skills import registry


def act(scene: world.Scene, state: world.State) -> np.ndarray:
  """The expert's action float32 [8] for the scene's skill, in physical units and RT-2's order."""
  return registry.SKILLS[scene.skill].act(scene, state)


def plan(scene: world.Scene, state: world.State) -> str:
  """What is to be done now, in plain English, as a plan says it before its action.

  Things go by their names here, whatever the instruction calls them; of an instruction of two
  steps it is the one that is not done yet.
  """
  skill = registry.SKILLS[scene.skill]
  return wordings.plain(scene, skill.step(scene, state) if skill.step else skill.template)
