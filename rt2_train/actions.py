"""Action spaces: robot actions in physical units <-> the integers a model writes.

RT-2 writes an action as integers, one per dimension, each the index of a uniform bin between
fixed bounds (RT-2, section 3.2; the encoding is RT-1's). An `ActionSpace` is data: it
serialises to JSON and travels in the checkpoint, so that a robot decodes with the bounds its
policy was trained with.

Shape suffixes: D dimensions of the action; leading axes are free.
"""

import dataclasses
import functools
import json

import numpy as np

TERMINATE_STOP, TERMINATE_CONTINUE = 0, 1


@dataclasses.dataclass(frozen=True)
class Dimension:
  """One number of an action.

  Attributes:
    name: such as 'dx'; unique in its space.
    unit: of the value, such as 'm'; '' when it has none.
    low, high: smallest and largest value; values beyond are clipped (and counted).
    first, last: smallest and largest integer.
    kind: 'continuous', or 'discrete': the value is the integer itself, low == first and
      high == last.
  """

  name: str
  unit: str
  low: float
  high: float
  first: int = 0
  last: int = 255
  kind: str = 'continuous'

  def __post_init__(self):
    if self.kind not in ('continuous', 'discrete'):
      raise ValueError(
          f"dimension {self.name}: kind is {self.kind!r}; it must be 'continuous' or 'discrete'")
    if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
      raise ValueError(
          f'dimension {self.name}: bounds [{self.low}, {self.high}] must be finite and rising')
    if self.first >= self.last:
      raise ValueError(
          f'dimension {self.name}: integers {self.first}..{self.last} must be at least two, rising')
    if self.kind == 'discrete' and (self.low, self.high) != (self.first, self.last):
      raise ValueError(
          f'dimension {self.name} is discrete, so its bounds [{self.low}, {self.high}] must be its '
          f'integers {self.first}..{self.last}')
    bin_width = (self.high - self.low) / (self.last - self.first + 1)
    if bin_width < 4 * self.resolution:
      raise ValueError(
          f'dimension {self.name}: bins of {bin_width:.3g} {self.unit} in [{self.low}, '
          f'{self.high}] are finer than float32 can tell; widen the bounds or use fewer integers')

  @property
  def resolution(self) -> float:
    """Distance between neighbouring float32 numbers at the larger of the two bounds."""
    return float(np.spacing(np.float32(max(abs(self.low), abs(self.high)))))


@dataclasses.dataclass(frozen=True)
class ActionSpace:
  """A list of dimensions and the rule that bins them.

  Attributes:
    name: what errors and reports call it.
    dimensions: in the order in which the model writes them.
    scheme: 'rt1' truncates and decodes to the left edge of the bin, with the last integer
      kept for the upper bound alone (RT-1's action tokenizer); 'center' has equal bins and
      decodes to their centres, which removes RT-1's bias of half a bin.
    control_hz: actions carried out per second; None where nothing depends on it.
  """

  name: str
  dimensions: tuple[Dimension, ...]
  scheme: str = 'rt1'
  control_hz: float | None = None

  def __post_init__(self):
    if self.scheme not in ('rt1', 'center'):
      raise ValueError(
          f"action space {self.name}: scheme is {self.scheme!r}; it must be 'rt1' or 'center'")
    if not self.dimensions:
      raise ValueError(f'action space {self.name} has no dimensions')
    if self.control_hz is not None and not 0 < self.control_hz < np.inf:
      raise ValueError(f'action space {self.name}: control_hz is {self.control_hz}; it is actions '
                       'per second, above 0, or None')
    # A list, which is what gin and JSON hand over, would make the space unhashable.
    object.__setattr__(self, 'dimensions', tuple(self.dimensions))
    for name in self.names:
      if self.names.count(name) > 1:
        raise ValueError(f'action space {self.name} has two dimensions named {name}')

  @property
  def size(self) -> int:
    """Number of dimensions."""
    return len(self.dimensions)

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(dimension.name for dimension in self.dimensions)

  def encode(self, values) -> np.ndarray:
    """Bins `values`: float [..., D] in physical units -> int32 [..., D]; clips.

    Raises:
      ValueError: a value is NaN or infinite, a discrete value is no integer, or the last axis
        is not D; the message names dimension and position.
    """
    return self.encode_and_count(values)[0]

  def encode_and_count(self, values) -> tuple[np.ndarray, np.ndarray]:
    """As `encode`; also bool [..., D], True where the value was beyond the bounds."""
    values = np.asarray(values, np.float64)
    self._check_width(values)
    self._refuse(~np.isfinite(values), values, 'is not finite')
    self._refuse(self._discrete_D & (values != np.rint(values)), values, 'is not an integer')
    # A decoded value is rounded to float32, by half of `resolution` at most, and may so fall
    # a hair below its edge; truncation would then give the bin before (63 of RT-1's 256 do).
    # A whole `resolution` covers that and the float64 arithmetic here, and is far below a bin.
    slack_D = self._resolution_D
    clipped = (values < self._low_D - slack_D) | (values > self._high_D + slack_D)
    offset = np.clip(values, self._low_D, self._high_D) - self._low_D
    if self.scheme == 'rt1':
      index = np.floor((offset + slack_D) / self._step_D)
    else:
      index = np.floor(offset / self._step_D)
    index = np.where(self._discrete_D, np.rint(offset), index)
    bins = np.minimum(self._first_D + index, self._last_D)
    return bins.astype(np.int32), clipped

  def decode(self, bins) -> np.ndarray:
    """The values that `bins` stand for: int [..., D] -> float32 [..., D] in physical units.

    Raises:
      ValueError: an integer is outside first..last of its dimension, or no integer at all.
    """
    bins = np.asarray(bins)
    if not np.issubdtype(bins.dtype, np.integer):
      raise ValueError(f'action space {self.name} decodes integers, got {bins.dtype}')
    self._check_width(bins)
    self._refuse((bins < self._first_D) | (bins > self._last_D), bins, 'is outside its integers')
    index = (bins - self._first_D).astype(np.float64)
    if self.scheme == 'center':
      index = np.where(self._discrete_D, index, index + 0.5)
    return (self._low_D + index * self._step_D).astype(np.float32)

  def to_json(self) -> str:
    """The whole space as JSON text; `from_json` reads it back."""
    fields = dataclasses.asdict(self)
    # Checkpoints of before there was a rate hold, and are compared with, spaces without the field.
    if self.control_hz is None:
      del fields['control_hz']
    return json.dumps(fields, indent=2, sort_keys=True)

  @classmethod
  def from_json(cls, text: str) -> 'ActionSpace':
    """Reads `to_json`; raises ValueError when `text` is no action space."""
    try:
      fields = json.loads(text)
      dimensions = tuple(Dimension(**dimension) for dimension in fields.pop('dimensions'))
      return cls(dimensions=dimensions, **fields)
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
      raise ValueError(
          f'this JSON is not an action space ({error}): {text[:80]!r}; write it with to_json'
      ) from error

  def _check_width(self, array: np.ndarray):
    if array.ndim == 0 or array.shape[-1] != self.size:
      raise ValueError(
          f'action space {self.name} has {self.size} dimensions ({", ".join(self.names)}), '
          f'got shape {array.shape}')

  def _refuse(self, wrong: np.ndarray, array: np.ndarray, what: str):
    if wrong.any():
      position = tuple(int(i) for i in np.argwhere(wrong)[0])
      dimension = self.dimensions[position[-1]]
      raise ValueError(
          f'action space {self.name}: {dimension.name} at position {position} is '
          f'{array[position]}, which {what} ([{dimension.low}, {dimension.high}] {dimension.unit}, '
          f'integers {dimension.first}..{dimension.last})')

  @functools.cached_property
  def _low_D(self) -> np.ndarray:
    return np.array([dimension.low for dimension in self.dimensions], np.float64)

  @functools.cached_property
  def _high_D(self) -> np.ndarray:
    return np.array([dimension.high for dimension in self.dimensions], np.float64)

  @functools.cached_property
  def _first_D(self) -> np.ndarray:
    return np.array([dimension.first for dimension in self.dimensions], np.int64)

  @functools.cached_property
  def _last_D(self) -> np.ndarray:
    return np.array([dimension.last for dimension in self.dimensions], np.int64)

  @functools.cached_property
  def _discrete_D(self) -> np.ndarray:
    return np.array([dimension.kind == 'discrete' for dimension in self.dimensions])

  @functools.cached_property
  def _resolution_D(self) -> np.ndarray:
    return np.array([dimension.resolution for dimension in self.dimensions], np.float64)

  @functools.cached_property
  def _step_D(self) -> np.ndarray:
    """What one integer more means, in physical units."""
    spaces_D = self._last_D - self._first_D
    if self.scheme == 'center':
      spaces_D = np.where(self._discrete_D, spaces_D, spaces_D + 1)
    return (self._high_D - self._low_D) / spaces_D


def rt2(
    position: float = 1.0,
    rotation: float = np.pi / 2,
    gripper: float = 1.0,
    scheme: str = 'rt1',
    control_hz: float | None = None,
) -> ActionSpace:
  """RT-2's eight dimensions: terminate, displacement, rotation, gripper (RT-2, section 3.2).

  Args:
    position: bound of the three displacements, metres either way.
    rotation: bound of the three rotations, radians either way.
    gripper: bound of the gripper either way: +1 closes, -1 opens, 0 keeps when relative.
    scheme, control_hz: see `ActionSpace`.
  """
  return ActionSpace(
      name='rt2',
      dimensions=(
          Dimension('terminate', '', TERMINATE_STOP, TERMINATE_CONTINUE, 0, 1, 'discrete'),
          *(Dimension(name, 'm', -position, position) for name in ('dx', 'dy', 'dz')),
          *(Dimension(name, 'rad', -rotation, rotation) for name in ('droll', 'dpitch', 'dyaw')),
          Dimension('gripper', '', -gripper, gripper),
      ),
      scheme=scheme,
      control_hz=control_hz,
  )


def language_table(unit: float = 0.003, control_hz: float | None = 10.0) -> ActionSpace:
  """Language-Table's 'X Y': two displacements of -10..10 units, without terminate.

  Args:
    unit: metres per unit. Real moves stay within 3 cm, so the 1 cm that would span the
      environment's +-0.1 m box is larger than most of them and stalls the robot.
    control_hz: actions per second; the data's 10, or a whole part of it, such as RT-2's 5, at
      which moves are as many times longer (`data.language_table` sums them).
  """
  # With centred bins the bounds lie half a unit outside -10 and 10: encoding rounds to the
  # nearest unit, and integer n means exactly n units.
  bound = 10.5 * unit
  return ActionSpace(
      name='language_table',
      dimensions=tuple(Dimension(name, 'm', -bound, bound, first=-10, last=10) for name in 'xy'),
      scheme='center',
      control_hz=control_hz,
  )


RT2 = rt2()
LANGUAGE_TABLE = language_table()
