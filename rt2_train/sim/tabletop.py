"""The embedded tabletop: a kinematic world with RT-2's 8-D actions, and its gymnasium environment.

The table is the unit square in metres, x to the right, y down the picture, z up. `step_state` and
`sample_episode` are pure functions; pixels come from `drawing`, which the physics does not know.

Shape suffixes: N objects, 2 = (x, y), 3 = (x, y, z).
"""

import dataclasses
import string
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from rt2_train import actions
from rt2_train.sim import drawing
from rt2_train.sim import objects

# Tune on dev, report test. The environment itself takes any seed.
TRAIN_SEEDS = range(0, 1_000_000)
DEV_SEEDS = range(1_000_000, 2_000_000)
TEST_SEEDS = range(2_000_000, 3_000_000)

# Per-step limits of (dx, dy, dz) in metres and of each angle in radians; the controller clips.
MOTION_LIMITS = np.array([0.12, 0.12, 0.15])
ROTATION_LIMIT = np.pi / 2
GRIPPER_LOW = np.array([0.0, 0.0, 0.03])
GRIPPER_HIGH = np.array([1.0, 1.0, 0.45])

GRASP_HEIGHT = 0.10
GRASP_RADIUS = 0.07
LIFTED_HEIGHT = 0.25
NEAR = 0.26
REACH = 0.10
SPACING = 0.24  # least distance between two objects at the start
MARGIN = 0.13  # least distance of an object from the table's edge


class _EqualByValue:
  """Equality for dataclasses that hold arrays."""

  def __eq__(self, other) -> bool:
    return type(self) is type(other) and all(
        np.array_equal(getattr(self, field.name), getattr(other, field.name))
        for field in dataclasses.fields(self))


@dataclasses.dataclass(frozen=True, eq=False)
class Scene(_EqualByValue):
  """What an episode fixes at reset.

  Attributes:
    skill: key of SKILLS.
    categories: category of each object (index into objects.CATEGORIES).
    target: the object the instruction names first.
    reference: the object it names second; another object than the target.
    start_Nx2: where the objects lie at the start.
    background: 'seen' or 'unseen'.
    look: seed of everything that is only looks: background texture, colour shades.
  """

  skill: str
  categories: tuple[int, ...]
  target: int
  reference: int
  start_Nx2: np.ndarray
  background: str
  look: int

  @property
  def instruction(self) -> str:
    names = [objects.CATEGORIES[c].name for c in self.categories]
    template = SKILLS[self.skill].template
    return template.format(target=names[self.target], reference=names[self.reference])


@dataclasses.dataclass(frozen=True, eq=False)
class State(_EqualByValue):
  """What a step may change.

  Attributes:
    positions_Nx2: where the objects are, metres.
    angles_N: how they are turned, radians.
    gripper_3: where the gripper is, metres.
    closed: whether its fingers are closed.
    held: the object between them, -1 for none.
  """

  positions_Nx2: np.ndarray
  angles_N: np.ndarray
  gripper_3: np.ndarray
  closed: bool = False
  held: int = -1


@dataclasses.dataclass(frozen=True)
class Skill:
  """An instruction template and what must be true at the end. Its expert is in expert.EXPERTS."""

  template: str
  succeeded: Callable[[Scene, State], bool]


def _lifted(scene: Scene, state: State) -> bool:
  return state.held == scene.target and state.gripper_3[2] > LIFTED_HEIGHT


def _placed_near(scene: Scene, state: State) -> bool:
  reference_2 = state.positions_Nx2[scene.reference]
  return bool(
      state.held < 0
      and np.linalg.norm(state.positions_Nx2[scene.target] - reference_2) < NEAR
      and np.array_equal(reference_2, scene.start_Nx2[scene.reference])
  )


SKILLS: Mapping[str, Skill] = {
    'pick': Skill('pick {target}', _lifted),
    'move_near': Skill('move {target} near {reference}', _placed_near),
}


def sample_positions(rng: np.random.Generator, num_objects: int) -> np.ndarray:
  """Positions [N, 2] inside the margin and no closer than SPACING to each other."""
  for _ in range(10_000):
    positions_Nx2 = rng.uniform(MARGIN, 1 - MARGIN, (num_objects, 2))
    gaps_NxN = np.linalg.norm(positions_Nx2[:, None] - positions_Nx2[None], axis=-1)
    if (gaps_NxN + np.eye(num_objects) >= SPACING).all():
      return positions_Nx2
  raise ValueError(f'num_objects is {num_objects}; so many do not fit on the table {SPACING} apart')


def sample_angles(rng: np.random.Generator, num_objects: int) -> np.ndarray:
  """Angles [N] of -15, 0 or 15 degrees, in radians."""
  return np.radians(rng.integers(-1, 2, num_objects) * 15.0)


def sample_episode(
    rng: np.random.Generator, skill: str, categories: tuple[int, ...], background: str
) -> tuple[Scene, State]:
  """A scene with categories[0] as target, and its first state: gripper open, above the table."""
  order = rng.permutation(len(categories))
  categories = tuple(categories[i] for i in order)
  target = int(np.flatnonzero(order == 0)[0])
  reference = int(rng.choice([i for i in range(len(categories)) if i != target]))
  while True:
    positions_Nx2 = sample_positions(rng, len(categories))
    # Further apart than counts as near, so that `move near` always has something to do.
    if np.linalg.norm(positions_Nx2[target] - positions_Nx2[reference]) > NEAR + 0.1:
      break
  look = int(rng.integers(2**31))
  scene = Scene(skill, categories, target, reference, positions_Nx2, background, look)
  gripper_3 = rng.uniform([0.1, 0.1, 0.2], [0.9, 0.9, GRIPPER_HIGH[2]])
  return scene, State(positions_Nx2, sample_angles(rng, len(categories)), gripper_3)


def step_state(state: State, action: np.ndarray) -> State:
  """The state after an action [8] in RT-2's order: the arm moves, then the gripper acts.

  Displacements are clipped to MOTION_LIMITS and ROTATION_LIMIT. Gripper +1 closes, -1 opens, 0
  keeps. A closing gripper takes the nearest object within GRASP_RADIUS if it is below
  GRASP_HEIGHT; an opening one drops what it holds straight down. Yaw turns what is held; roll and
  pitch have no effect on a flat object. A stop action (terminate 0) moves nothing.
  """
  if action[0] < 0.5:
    return state
  motion_3 = np.clip(action[1:4], -MOTION_LIMITS, MOTION_LIMITS)
  gripper_3 = np.clip(state.gripper_3 + motion_3, GRIPPER_LOW, GRIPPER_HIGH)
  closed = action[7] > 0.5 or (state.closed and action[7] > -0.5)
  positions_Nx2, angles_N, held = state.positions_Nx2, state.angles_N, state.held
  if held >= 0:
    positions_Nx2, angles_N = positions_Nx2.copy(), angles_N.copy()
    positions_Nx2[held] = gripper_3[:2]
    angles_N[held] += np.clip(action[6], -ROTATION_LIMIT, ROTATION_LIMIT)
  if not closed:
    held = -1
  elif not state.closed and gripper_3[2] < GRASP_HEIGHT:
    distances_N = np.linalg.norm(positions_Nx2 - gripper_3[:2], axis=-1)
    nearest = int(distances_N.argmin())
    if distances_N[nearest] < GRASP_RADIUS:
      held = nearest
      positions_Nx2 = positions_Nx2.copy()
      positions_Nx2[held] = gripper_3[:2]
  return State(positions_Nx2, angles_N, gripper_3, bool(closed), held)


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
      num_objects: int = 3,
      image_size: int = 48,
      max_steps: int = 20,
      num_categories: int = 16,
  ):
    """Declares the episodes.

    Args:
      skill: key of SKILLS.
      targets: group of the named object, 'seen', 'unseen' or 'all' (objects.indices).
      others: group of the objects beside it. With 'all' at least one of them is of the group
        that the target is not of: a mixed scene.
      backgrounds: 'seen' (plain wood) or 'unseen' (stripes in any colour).
      num_objects: objects on the table, at least 2.
      image_size: height and width of the picture, pixels.
      max_steps: steps after which an episode is truncated.
      num_categories: how many of objects.CATEGORIES are in play.

    Raises:
      ValueError: an unknown name, or fewer categories than the scene needs.
    """
    if skill not in SKILLS:
      raise ValueError(f"skill {skill!r} is unknown; use one of {', '.join(SKILLS)}")
    if backgrounds not in drawing.BACKGROUNDS:
      raise ValueError(
          f"backgrounds {backgrounds!r} is unknown; use one of {', '.join(drawing.BACKGROUNDS)}")
    self._skill, self._background = skill, backgrounds
    self._targets = objects.indices(targets, num_categories)
    self._others = objects.indices(others, num_categories)
    self._mixed = others == 'all'
    left = len(self._others) - (len(set(self._targets) & set(self._others)) > 0)
    if not 2 <= num_objects <= left + 1:
      raise ValueError(
          f'num_objects is {num_objects}; it must be between 2 and {left + 1} with '
          f'others={others!r} and num_categories={num_categories}')
    self._num_objects, self._image_size, self._max_steps = num_objects, image_size, max_steps
    self.observation_space = gymnasium.spaces.Dict({
        'image': gymnasium.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
        'instruction': gymnasium.spaces.Text(64, charset=string.ascii_lowercase + ' '),
    })
    high = np.array([1, *MOTION_LIMITS, *[ROTATION_LIMIT] * 3, 1], np.float32)
    low = np.where(np.arange(8) == 0, 0, -high).astype(np.float32)
    self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
    super().reset(seed=seed)
    rng = self.np_random
    categories = self._sample_categories(rng)
    self.scene, self.state = sample_episode(rng, self._skill, categories, self._background)
    self._steps = 0
    return self._observation(), self._info()

  def step(self, action: np.ndarray):
    """One action; see step_state.

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
    self.state = step_state(self.state, action)
    self._steps += 1
    terminated = bool(action[0] < 0.5)
    truncated = not terminated and self._steps >= self._max_steps
    info = self._info()
    reward = 1.0 if info['success'] and (terminated or truncated) else 0.0
    return self._observation(), reward, terminated, truncated, info

  def render(self) -> np.ndarray:
    return drawing.draw(self.scene, self.state, self._image_size)

  def _sample_categories(self, rng: np.random.Generator) -> tuple[int, ...]:
    """The target's category, then the others'; no category twice."""
    target = int(rng.choice(self._targets))
    pool = [c for c in self._others if c != target]
    while True:
      others = tuple(int(c) for c in rng.choice(pool, self._num_objects - 1, replace=False))
      if not self._mixed or any((c - target) % 2 for c in others):
        return (target, *others)

  def _observation(self) -> dict[str, Any]:
    return {'image': self.render(), 'instruction': self.scene.instruction}

  def _info(self) -> dict[str, Any]:
    scene, state = self.scene, self.state
    distances_N = np.linalg.norm(state.positions_Nx2 - state.gripper_3[:2], axis=-1)
    distance = float(distances_N[scene.target])
    return {
        'success': bool(SKILLS[scene.skill].succeeded(scene, state)),
        'reach': distance < REACH,
        'nearest_is_target': int(distances_N.argmin()) == scene.target,
        'distance': distance,
        'held': objects.CATEGORIES[scene.categories[state.held]].name if state.held >= 0 else None,
        'scene': scene,
        'state': state,
    }
