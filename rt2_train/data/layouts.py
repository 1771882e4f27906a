"""How each robot dataset says what the robot saw, was told and did, declared as data.

A layout is a table of keys and rules and one pure function. A lab adds its robot with one
`Layout(...)` of its own, in Python or gin, and no change here. Schemas: fractal20220817_data,
bridge (the Open X-Embodiment copy), bridge_dataset (BridgeData V2), language_table, as in the
features.json of each; ranges and signs are RT-1's (policy_specs.pbtxt).

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


def flat_motion(columns: Mapping[str, np.ndarray]) -> np.ndarray:
  """One flat action that already is the motion."""
  return columns['action']


def flat_open_motion(columns: Mapping[str, np.ndarray]) -> np.ndarray:
  """One flat action whose last dimension is the gripper, 1 open and 0 closed."""
  action_TxM = columns['action']
  return np.concatenate([action_TxM[:, :-1], 1 - 2 * action_TxM[:, -1:]], 1)


def fractal_motion(columns: Mapping[str, np.ndarray]) -> np.ndarray:
  """World vector, rotation, gripper closedness, as RT-1 recorded them."""
  keys = ('world_vector', 'rotation_delta', 'gripper_closedness_action')
  return np.concatenate([columns[f'action/{key}'] for key in keys], 1)


def bridge_oxe_motion(columns: Mapping[str, np.ndarray]) -> np.ndarray:
  """World vector, rotation, and `open_gripper` (1 open, 0 closed)."""
  closed_Tx1 = 1 - 2 * columns['action/open_gripper'].astype(np.float32)[:, None]
  return np.concatenate(
      [columns['action/world_vector'], columns['action/rotation_delta'], closed_Tx1], 1)


@dataclasses.dataclass(frozen=True)
class Layout:
  """One dataset schema. All keys are relative to `steps/`.

  Attributes:
    name: what `layout=` and reports call it.
    images: keys of the encoded images, in the order in which the model takes them.
    instruction: key of the instruction.
    motion_keys: keys handed to `motion`.
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

  def __post_init__(self):
    for field in ('images', 'motion_keys', 'drop'):
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

  @property
  def keys(self) -> tuple[str, ...]:
    """Every key that a dataset must have, relative to `steps/`."""
    last = (self.terminate_key,) if self.terminate_key else ()
    return (*self.images, self.instruction, *self.motion_keys, *last)

  def missing(self, features: Mapping[str, tfds_directory.FeatureSpec]) -> list[str]:
    """What `features` lack for this layout, each as 'steps/key' and why."""
    problems = [f'steps/{key}' for key in self.keys if f'steps/{key}' not in features]
    for key in set(self.images) - {p.removeprefix('steps/') for p in problems}:
      if (kind := features[f'steps/{key}'].kind) != 'image':
        problems.append(f'steps/{key} as an image (it is a {kind})')
    told = features.get(f'steps/{self.instruction}')
    if told and (told.kind == 'text' or told.dtype == 'string') != (self.text == 'utf8'):
      problems.append(f'steps/{self.instruction} as {self.text} (it is {told.dtype or told.kind})')
    return problems

  def spec(self, features: Mapping[str, tfds_directory.FeatureSpec]) -> str:
    """All that decides what is read from a dataset with these features, as text."""
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    fields['motion'] = _code(self.motion)
    fields['action_space'] = self.action_space.names
    used = {key: dataclasses.astuple(features[f'steps/{key}']) for key in self.keys}
    flags = [key for key in ('steps/is_first', 'steps/is_last') if key in features]
    return json.dumps([fields, used, flags], sort_keys=True)


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


FRACTAL = Layout(
    name='fractal',
    images=('observation/image',),
    instruction='observation/natural_language_instruction',
    motion_keys=(
        'action/world_vector', 'action/rotation_delta', 'action/gripper_closedness_action'),
    motion=fractal_motion,
    gripper='relative',
    terminate='mode',
    terminate_key='action/terminate_episode',
)

# The Open X-Embodiment copy, whose action is a dictionary and whose last action says nothing.
BRIDGE_OXE = Layout(
    name='bridge_oxe',
    images=('observation/image',),
    instruction='observation/natural_language_instruction',
    motion_keys=('action/world_vector', 'action/rotation_delta', 'action/open_gripper'),
    motion=bridge_oxe_motion,
    gripper='absolute',
    terminate='flag',
    terminate_key='action/terminate_episode',
    last_motion=False,
    drop=('first_zero',),
)

# BridgeData V2 as its authors publish it: a flat action and no terminate.
BRIDGE = Layout(
    name='bridge',
    images=('observation/image_0',),
    instruction='language_instruction',
    motion_keys=('action',),
    motion=flat_open_motion,
    gripper='absolute',
    terminate='last',
    drop=('first_zero',),
)

LANGUAGE_TABLE = Layout(
    name='language_table',
    images=('observation/rgb',),
    instruction='observation/instruction',
    text='code_points',
    motion_keys=('action',),
    action_space=actions.LANGUAGE_TABLE,
    gripper='none',
    terminate='never',
    drop=('last',),
)

LAYOUTS = {layout.name: layout for layout in (FRACTAL, BRIDGE_OXE, BRIDGE, LANGUAGE_TABLE)}

_HOW = ('declare your own: rt2_train.data.rlds.Layout(name=..., images=..., instruction=..., '
        'motion_keys=..., motion=...)')


def resolve(layout: str | Layout) -> Layout:
  """The layout of that name; ValueError lists the names there are."""
  if isinstance(layout, Layout):
    return layout
  if layout not in LAYOUTS:
    raise ValueError(f'no layout {layout!r}; there are {", ".join(LAYOUTS)}, or {_HOW}')
  return LAYOUTS[layout]


def detect(directory: tfds_directory.Directory) -> tuple[Layout, str]:
  """The one layout whose keys a dataset has, and why it is that one.

  Raises:
    ValueError: none fits, or several do.
  """
  fitting = [layout for layout in LAYOUTS.values() if not layout.missing(directory.features)]
  if len(fitting) == 1:
    return fitting[0], 'features.json has ' + ', '.join(f'steps/{k}' for k in fitting[0].keys)
  if fitting:
    raise ValueError(f'{directory.name} fits the layouts {", ".join(f.name for f in fitting)}; '
                     'say which with layout')
  lacks = '; '.join(f'{layout.name} misses {layout.missing(directory.features)[0]}'
                    for layout in LAYOUTS.values())
  raise ValueError(f'{directory.name} fits no layout ({lacks}); {_HOW}')
