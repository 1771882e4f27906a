"""The layouts that are known by name: of the paper's datasets here, of Open X-Embodiment beside.

Schemas: fractal20220817_data, bridge (the Open X-Embodiment copy), bridge_dataset (BridgeData V2),
language_table, as in the features.json of each; ranges and signs are RT-1's (policy_specs.pbtxt);
rates are those of Open X-Embodiment's overview of its datasets.
"""

import difflib

from rt2_train import actions
from rt2_train.data import open_x
from rt2_train.data import tfds_directory
from rt2_train.data.layout import flat_motion, flat_open_motion, Layout, Motion

__all__ = [
    'BRIDGE', 'BRIDGE_OXE', 'FRACTAL', 'LANGUAGE_TABLE', 'LAYOUTS', 'Layout', 'Motion', 'detect',
    'flat_motion', 'flat_open_motion', 'resolve']

FRACTAL = Layout(
    name='fractal',
    images=('observation/image',),
    instruction='observation/natural_language_instruction',
    motion_keys=(
        'action/world_vector', 'action/rotation_delta', 'action/gripper_closedness_action'),
    gripper='relative',
    terminate='mode',
    terminate_key='action/terminate_episode',
    control_hz=3,
)

# The Open X-Embodiment copy, whose action is a dictionary and whose last action says nothing.
BRIDGE_OXE = Layout(
    name='bridge_oxe',
    images=('observation/image',),
    instruction='observation/natural_language_instruction',
    motion_keys=('action/world_vector', 'action/rotation_delta', 'action/open_gripper'),
    motion=flat_open_motion,
    gripper='absolute',
    terminate='flag',
    terminate_key='action/terminate_episode',
    last_motion=False,
    drop=('first_zero',),
    control_hz=5,
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
    control_hz=5,
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
    extra_keys=('observation/effector_translation',),
    control_hz=10,
)

LAYOUTS = {layout.name: layout for layout in (FRACTAL, BRIDGE_OXE, BRIDGE, LANGUAGE_TABLE)}

_HOW = 'declare your own, as at the end of gin/data/my_robot.gin'


def resolve(layout: str | Layout) -> Layout:
  """The layout of that name; ValueError says which names there are."""
  if isinstance(layout, Layout):
    return layout
  known = {**open_x.LAYOUTS, **LAYOUTS}
  if layout not in known:
    if layout in open_x.LEFT_OUT:
      raise ValueError(f'no layout {layout!r}: {open_x.LEFT_OUT[layout]}; {_HOW}')
    near = difflib.get_close_matches(layout, known, 1)
    hint = f'did you mean {near[0]!r}? ' if near else ''
    raise ValueError(
        f'no layout {layout!r}; {hint}There are {", ".join(LAYOUTS)}, datasets of Open '
        f'X-Embodiment by their own names (rt2_train/data/open_x.py), or {_HOW}')
  return known[layout]


def detect(directory: tfds_directory.Directory) -> tuple[Layout, str]:
  """The layout of a dataset, and why it is that one: its name is known, or one has its keys.

  Raises:
    ValueError: none fits, or several do.
  """
  by_name = open_x.LAYOUTS.get(directory.name)
  if by_name and not by_name.missing(directory.features):
    return by_name, f'dataset {directory.name} is one of Open X-Embodiment'
  fitting = [layout for layout in LAYOUTS.values() if not layout.missing(directory.features)]
  if len(fitting) == 1:
    return fitting[0], 'features.json has ' + ', '.join(f'steps/{k}' for k in fitting[0].keys)
  if fitting:
    raise ValueError(f'{directory.name} fits the layouts {", ".join(f.name for f in fitting)}; '
                     'say which with layout')
  named = {by_name.name: by_name} if by_name else {}
  lacks = '; '.join(f'{name} misses {layout.missing(directory.features)[0]}'
                    for name, layout in {**named, **LAYOUTS}.items())
  raise ValueError(f'{directory.name} fits no layout ({lacks}); {_HOW}')
