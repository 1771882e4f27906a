"""How a robot dataset says what the robot saw, was told and did, declared as data.

A layout is a table of keys and rules and one pure function. A lab adds its robot with one
`Layout(...)` of its own, in Python or gin, and no change here; `layouts` has those known by name.

Shape suffixes: T steps of an episode, M dimensions of the motion (all but terminate).
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import inspect
import json

import numpy as np

from rt2_train import actions
from rt2_train.data import tfds_directory

Motion = Callable[[Mapping[str, np.ndarray]], np.ndarray]

_CHOICES = {
    'text': ('utf8', 'code_points'),
    'gripper': ('relative', 'absolute', 'none'),
    'terminate': ('mode', 'flag', 'last', 'never'),
}
_DROPS = ('first_zero', 'last')
# They say something of a dataset, and change nothing of what is read from it.
_NOT_READ = ('bgr', 'control_hz')


def flat_motion(columns: Mapping[str, np.ndarray]) -> np.ndarray:
  """The columns side by side, in the order of the layout's motion_keys, are the motion."""
  return np.column_stack([*columns.values()])


def flat_open_motion(columns: Mapping[str, np.ndarray]) -> np.ndarray:
  """As `flat_motion`, where the last column is the gripper, 1 open and 0 closed."""
  motion_TxM = flat_motion(columns)
  return np.concatenate([motion_TxM[:, :-1], 1 - 2 * motion_TxM[:, -1:]], 1)


@dataclasses.dataclass(frozen=True)
class Layout:
  """One dataset schema. All keys are relative to `steps/`.

  Attributes:
    name: what `layout=` and reports call it.
    images: keys of the encoded images, in the order in which the model takes them.
    instruction: key of the instruction.
    motion_keys: keys handed to `motion`, in this order.
    motion: pure function of {key: [T, ...]} to float [T, M]: the action without terminate, in
      physical units and the order of `action_space`; gripper +1 closes, -1 opens.
    action_space: the space whose dimension names, in order, this layout yields. Another space
      with the same names (other bounds, other scheme) may be trained on.
    text: 'utf8' for a string, 'code_points' for zero-padded integers (Language-Table).
    gripper: 'relative' (0 keeps), 'absolute' (0 is half-way), or 'none'. A step whose motion is
      set to zero keeps an absolute gripper where it was.
    terminate: 'mode': argmax of `terminate_key`, 0 stop, 1 arm and gripper, 2 base (left out);
      'flag': stop where `terminate_key` is above 0.5; 'last': stop at the last step; 'never':
      the action space has no terminate.
    terminate_key: see `terminate`.
    last_motion: whether the last step's action means anything. If not, that frame is kept with
      zero motion and terminate, so that stopping is learnt.
    drop: 'first_zero' leaves out a first step that does not move; 'last' the last step.
    success: key of the episode itself, not below `steps/`, that says whether it reached its goal;
      episodes that did not are left out. '' where all did.
    plan: key of a string per step, what to do now on the way to the instruction (RT-2, section
      4.4), '' where there is none; a step whose plan is empty has none.
    extra_keys: keys of numbers that are kept beside the actions, for `RobotSteps.extra`.
    bgr: whether the images hold blue where they should hold red.
    control_hz: steps per second; None where nobody says.
  """

  name: str
  images: tuple[str, ...]
  instruction: str
  motion_keys: tuple[str, ...]
  motion: Motion = flat_motion
  action_space: actions.ActionSpace = actions.RT2
  text: str = 'utf8'
  gripper: str = 'relative'
  terminate: str = 'last'
  terminate_key: str = ''
  last_motion: bool = True
  drop: tuple[str, ...] = ()
  success: str = ''
  plan: str = ''
  extra_keys: tuple[str, ...] = ()
  bgr: bool = False
  control_hz: float | None = None

  def __post_init__(self):
    for field in ('images', 'motion_keys', 'drop', 'extra_keys'):
      # gin hands over lists, and a lone string would be read letter by letter.
      value = getattr(self, field)
      object.__setattr__(self, field, (value,) if isinstance(value, str) else tuple(value))
    for field, choices in _CHOICES.items():
      if getattr(self, field) not in choices:
        raise ValueError(f'layout {self.name!r}: {field} is {getattr(self, field)!r}, '
                         f'it takes one of {", ".join(choices)}')
    if unknown := set(self.drop) - set(_DROPS):
      raise ValueError(f'layout {self.name!r}: drop has {sorted(unknown)}, '
                       f'it takes any of {", ".join(_DROPS)}')
    if not self.images or not self.motion_keys:
      raise ValueError(f'layout {self.name!r} needs at least one key in images and motion_keys')
    if (self.terminate in ('mode', 'flag')) != bool(self.terminate_key):
      raise ValueError(f'layout {self.name!r}: terminate={self.terminate!r} and terminate_key='
                       f"{self.terminate_key!r} do not fit; 'mode' and 'flag' read a key")
    names = self.action_space.names
    if (self.terminate == 'never') == ('terminate' in names) or 'terminate' in names[1:]:
      raise ValueError(f'layout {self.name!r}: terminate={self.terminate!r}, but its action space '
                       f"is ({', '.join(names)}); terminate comes first, or 'never'")
    if self.control_hz is not None and not 0 < self.control_hz < np.inf:
      raise ValueError(f'layout {self.name!r}: control_hz is {self.control_hz}; it is steps per '
                       'second, above 0, or None')

  @property
  def keys(self) -> tuple[str, ...]:
    """Every key that a dataset must have, relative to `steps/`."""
    optional = filter(None, (self.terminate_key, self.plan))
    return (*self.images, self.instruction, *self.motion_keys, *optional, *self.extra_keys)

  @property
  def features(self) -> tuple[str, ...]:
    """As `keys`, whole; and what is read of the episode itself."""
    return (*(f'steps/{key}' for key in self.keys), *filter(None, [self.success]))

  def missing(self, features: Mapping[str, tfds_directory.FeatureSpec]) -> list[str]:
    """What `features` lack for this layout, each as 'steps/key' and why."""
    problems = [key for key in self.features if key not in features]
    there = {key: features[f'steps/{key}'] for key in self.keys if f'steps/{key}' in features}

    def expect(key: str, fits: Callable[[tfds_directory.FeatureSpec], bool], what: str):
      if key in there and not fits(there[key]):
        problems.append(f'steps/{key} as {what} (it is {there[key].dtype or there[key].kind})')

    for key in self.images:
      if key in there and there[key].kind != 'image':
        problems.append(f'steps/{key} as an image (it is a {there[key].kind})')
    expect(self.instruction, lambda told: _is_text(told) == (self.text == 'utf8'), self.text)
    expect(self.plan, _is_text, 'utf8')
    for key in self.extra_keys:
      expect(key, lambda extra: extra.kind == 'tensor' and not _is_text(extra), 'numbers')
    return problems

  def spec(self, features: Mapping[str, tfds_directory.FeatureSpec]) -> str:
    """All that decides what is read from a dataset with these features, as text."""
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)
              if field.name not in _NOT_READ}
    fields['motion'] = _code(self.motion)
    fields['action_space'] = self.action_space.names
    used = {key: dataclasses.astuple(features[key]) for key in self.features}
    flags = [key for key in ('steps/is_first', 'steps/is_last') if key in features]
    return json.dumps([fields, used, flags], sort_keys=True)


def _is_text(feature: tfds_directory.FeatureSpec) -> bool:
  return feature.kind == 'text' or feature.dtype == 'string'


def _code(function: Callable) -> list:
  """A function as plain data, so that an index notices an edited motion (not what it calls)."""
  function = inspect.unwrap(function)
  if isinstance(function, functools.partial):
    return [_code(function.func), repr(function.args), repr(sorted(function.keywords.items()))]
  if not inspect.isfunction(function):
    raise ValueError(f'{function!r} cannot be a motion: it must be a plain function')
  captured = [repr(cell.cell_contents) for cell in function.__closure__ or ()]
  return [_plain(function.__code__), captured, repr(function.__defaults__)]


def _plain(constant) -> str | list:
  if inspect.iscode(constant):
    return [constant.co_code.hex(), constant.co_names, [_plain(c) for c in constant.co_consts]]
  # The order in which a set prints differs from process to process.
  return sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)
