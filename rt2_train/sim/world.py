"""The tabletop's world as data: its measures, what an episode fixes, what a step may change.

The table is the unit square in metres, x to the right, y down the picture, z up.

Shape suffixes: N objects, 2 = (x, y), 3 = (x, y, z). N and D may be 0: most scenes have nothing
that stands, and no drawers.
"""

import dataclasses

import numpy as np

# Per-step limits of (dx, dy, dz) in metres and of each angle in radians; the controller clips.
MOTION_LIMITS = np.array([0.12, 0.12, 0.15])
ROTATION_LIMIT = np.pi / 2
GRIPPER_LOW = np.array([0.0, 0.0, 0.03])
GRIPPER_HIGH = np.array([1.0, 1.0, 0.45])

GRASP_HEIGHT = 0.10
GRASP_RADIUS = 0.07
KNOCK_HEIGHT = 0.12
KNOCK_RADIUS = 0.06
LIFTED_HEIGHT = 0.25
NEAR = 0.26
REACH = 0.10
SPACING = 0.24  # least distance between two objects at the start
MARGIN = 0.13  # least distance of an object from the table's edge

_NONE = np.zeros(0)
_NONE.flags.writeable = False


class _EqualByValue:
  """Equality for dataclasses that hold arrays."""

  def __eq__(self, other) -> bool:
    return type(self) is type(other) and all(
        np.array_equal(getattr(self, field.name), getattr(other, field.name))
        for field in dataclasses.fields(self))


@dataclasses.dataclass(frozen=True)
class Receptacle:
  """A bowl or a basket, which stays where it is.

  Attributes:
    name: key of places.RECEPTACLES.
    x, y: where its middle is, metres.
  """

  name: str
  x: float
  y: float


@dataclasses.dataclass(frozen=True, eq=False)
class Scene(_EqualByValue):
  """What an episode fixes at reset.

  Attributes:
    skill: key of registry.SKILLS.
    categories: what each object is (index into things.THINGS).
    target: the object the instruction names first.
    reference: the object it names second; another object than the target.
    start_Nx2: where the objects lie at the start.
    background: one of backdrops.BACKGROUNDS.
    look: seed of everything that is only looks: textures, colour shades, the unseen camera.
    instruction: what the robot is told.
    second: the object that a two-step instruction names last, -1 for none.
    place: what the instruction calls a receptacle or drawer, '' for none.
    receptacles: those on the table.
    fallen: in scenes where objects stand, which of them lie at the start.
    colors: key of objects.COLORS_RGB for each object; () where each has its category's own.
    environment: one of backdrops.ENVIRONMENTS.
  """

  skill: str
  categories: tuple[int, ...]
  target: int
  reference: int
  start_Nx2: np.ndarray
  background: str
  look: int
  instruction: str = ''
  second: int = -1
  place: str = ''
  receptacles: tuple[Receptacle, ...] = ()
  fallen: tuple[bool, ...] = ()
  colors: tuple[str, ...] = ()
  environment: str = 'seen'


@dataclasses.dataclass(frozen=True, eq=False)
class State(_EqualByValue):
  """What a step may change.

  Attributes:
    positions_Nx2: where the objects are, metres.
    angles_N: how they are turned about the vertical, radians.
    gripper_3: where the gripper is, metres.
    closed: whether its fingers are closed.
    held: the object between them, -1 for none.
    rolls_N: in scenes where objects stand, how far each is off its feet, radians, positive to the
      left; empty in all others.
    drawers_D: in scenes with a cabinet, how far each drawer is out, metres; empty in all others.
    pulled: the drawer whose handle is between the fingers, -1 for none.
  """

  positions_Nx2: np.ndarray
  angles_N: np.ndarray
  gripper_3: np.ndarray
  closed: bool = False
  held: int = -1
  rolls_N: np.ndarray = dataclasses.field(default_factory=lambda: _NONE)
  drawers_D: np.ndarray = dataclasses.field(default_factory=lambda: _NONE)
  pulled: int = -1

  @property
  def fallen(self) -> tuple[bool, ...]:
    """Which objects are off their feet; () where nothing stands."""
    return tuple((np.abs(self.rolls_N) > np.pi / 4).tolist())
