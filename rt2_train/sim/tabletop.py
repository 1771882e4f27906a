"""The embedded tabletop as a gymnasium environment: a kinematic world with RT-2's 8-D actions.

What other rooms need of the world is here, too; its parts are `world` (data), `physics`, `skills`
(instructions and experts), `scenes` (random episodes) and `drawing` (pixels), none of which knows
this one.
"""

import string
from typing import Any

import gymnasium
import numpy as np

from rt2_train import actions
from rt2_train.sim import backdrops
from rt2_train.sim import drawing
from rt2_train.sim import expert
from rt2_train.sim import physics
from rt2_train.sim import scenes
from rt2_train.sim import things
from rt2_train.sim import wordings
from rt2_train.sim import world
from rt2_train.sim.skills import registry

# Tune on dev, report test. The environment itself takes any seed.
TRAIN_SEEDS = range(0, 1_000_000)
DEV_SEEDS = range(1_000_000, 2_000_000)
TEST_SEEDS = range(2_000_000, 3_000_000)

SKILLS = registry.SKILLS
Scene, State = world.Scene, world.State
MOTION_LIMITS = world.MOTION_LIMITS
REACH = world.REACH

_NUM_OBJECTS = 3
_LONGEST_INSTRUCTION = 160
_CHARACTERS = string.ascii_letters + string.digits + ' ' + 'äöüßáéíóúñçèêàâîôûœ'


class Tabletop(gymnasium.Env):
  """One skill on the tabletop; `reset(seed=...)` determines the whole episode.

  Observation: {'image': uint8 [S, S, 3], 'instruction': str}. Action: float [8] in physical units
  and RT-2's order (terminate 0 stop / 1 continue, dx, dy, dz, droll, dpitch, dyaw, gripper).
  Reward is 1.0 on the last step of an episode that ends in success, else 0.0.
  """

  metadata = {'render_modes': ['rgb_array'], 'render_fps': 3}
  render_mode = 'rgb_array'

  def __init__(
      self,
      skill: str = 'pick',
      targets: str = 'seen',
      others: str = 'seen',
      backgrounds: str = 'seen',
      num_objects: int | None = None,
      image_size: int = 48,
      max_steps: int | None = None,
      num_categories: int = 16,
      environment: str = 'seen',
      difficulty: str = 'easy',
      wording: str = 'name',
  ):
    """Declares the episodes.

    Args:
      skill: key of SKILLS.
      targets: group of the named object: 'seen', 'unseen' or 'all' (objects.indices), or 'cards'.
      others: group of the objects beside it. With 'all' at least one of them is of the group
        that the target is not of: a mixed scene.
      backgrounds: 'seen' (plain wood), 'unseen' (stripes in any colour) or 'cluttered' (patches of
        many colours).
      num_objects: objects on the table, at least 2; by default 3, or 5 in a hard scene.
      image_size: height and width of the picture, pixels.
      max_steps: steps after which an episode is truncated; by default the skill's own, which is
        20 for `pick`.
      num_categories: how many of objects.CATEGORIES are in play.
      environment: 'seen', 'unseen' (another table, camera and gripper) or 'desk' (a camera further
        off its place, and an office around the table).
      difficulty: 'easy', or 'hard': at least 5 objects, and every other one has the target's shape
        or its colour.
      wording: one of wordings.WORDINGS: how the instruction names things.

    Raises:
      ValueError: an unknown name, or fewer categories than the scene needs.
    """
    chosen = registry.lookup(skill)
    for name, value, known in (
        ('backgrounds', backgrounds, backdrops.BACKGROUNDS),
        ('environment', environment, backdrops.ENVIRONMENTS),
        ('difficulty', difficulty, scenes.DIFFICULTIES),
        ('wording', wording, wordings.WORDINGS),
    ):
      if value not in known:
        raise ValueError(f"{name} {value!r} is unknown; use one of {', '.join(known)}")
    self._targets = things.indices(targets, num_categories)
    self._others = things.indices(others, num_categories)
    self._mixed = others == 'all'
    hard = difficulty == 'hard'
    if num_objects is None:
      num_objects = scenes.HARD_NUM_OBJECTS if hard else _NUM_OBJECTS
    least = scenes.HARD_NUM_OBJECTS if hard else chosen.least_objects
    most = len(self._others) - (len(set(self._targets) & set(self._others)) > 0) + 1
    if not least <= num_objects <= most:
      raise ValueError(
          f'num_objects is {num_objects}; it must be between {least} and {most} with '
          f'skill={skill!r}, difficulty={difficulty!r}, others={others!r} and '
          f'num_categories={num_categories}')
    self._skill, self._num_objects, self._image_size = skill, num_objects, image_size
    self._max_steps = chosen.max_steps if max_steps is None else max_steps
    self._background, self._hard = backgrounds, hard
    self._said = {'environment': environment, 'difficulty': difficulty, 'wording': wording}
    self.observation_space = gymnasium.spaces.Dict({
        'image': gymnasium.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
        'instruction': gymnasium.spaces.Text(_LONGEST_INSTRUCTION, charset=_CHARACTERS),
    })
    high = np.array([1, *MOTION_LIMITS, *[world.ROTATION_LIMIT] * 3, 1], np.float32)
    low = np.where(np.arange(8) == 0, 0, -high).astype(np.float32)
    self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
    super().reset(seed=seed)
    rng = self.np_random
    sample = scenes.sample_look_alikes if self._hard else scenes.sample_categories
    categories = sample(rng, self._targets, self._others, self._num_objects, self._mixed)
    self.scene, self.state = scenes.sample_episode(
        rng, self._skill, categories, self._background, **self._said)
    self._steps = 0
    return self._observation(), self._info()

  def step(self, action: np.ndarray):
    """One action; see physics.step_state.

    Raises:
      ValueError: the action is not eight finite numbers.
    """
    action = np.asarray(action, np.float64)
    if action.shape != (8,):
      raise ValueError(
          f'step {self._steps}: the action has shape {action.shape}; RT-2 actions have shape (8,)')
    if not np.isfinite(action).all():
      i = int(np.flatnonzero(~np.isfinite(action))[0])
      raise ValueError(
          f'step {self._steps}: action {actions.RT2.names[i]} is {action[i]}; it must be finite')
    self.state = physics.step_state(self.state, action)
    self._steps += 1
    terminated = bool(action[0] < 0.5)
    truncated = not terminated and self._steps >= self._max_steps
    info = self._info()
    reward = 1.0 if info['success'] and (terminated or truncated) else 0.0
    return self._observation(), reward, terminated, truncated, info

  def render(self) -> np.ndarray:
    return drawing.draw(self.scene, self.state, self._image_size)

  def _observation(self) -> dict[str, Any]:
    return {'image': self.render(), 'instruction': self.scene.instruction}

  def _info(self) -> dict[str, Any]:
    scene, state = self.scene, self.state
    skill = SKILLS[scene.skill]
    places_Kx2, aim = skill.aim(scene, state)
    distances_K = np.linalg.norm(places_Kx2 - state.gripper_3[:2], axis=-1)
    distance = float(distances_K[aim])
    return {
        'success': bool(skill.succeeded(scene, state)),
        'reach': distance < REACH,
        'nearest_is_target': int(distances_K.argmin()) == aim,
        'distance': distance,
        'plan': expert.plan(scene, state),
        'held': things.THINGS[scene.categories[state.held]].name if state.held >= 0 else None,
        'scene': scene,
        'state': state,
    }
