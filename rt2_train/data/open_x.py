"""Layouts of the datasets of Open X-Embodiment by their own names, and a published mixture.

Where each fact is from:
  schema, words about a column: the dataset's page in the TFDS catalogue.
  which columns are the action, and the sense of the gripper: the standardisation functions of Octo
    and OpenVLA, which agree wherever both have one, and RT-1-X's training example
    (open_x_embodiment/colabs).
  control_hz: Open X-Embodiment's overview of its datasets.
  bgr, success: prepare_open_x.sh of rlds_dataset_mod, which repairs both for Octo.

Values stay as recorded where nobody publishes their unit: metres and radians per step for some, a
controller's own units or a velocity for others (said beside them). Choose the bounds of the action
space by what `tools.inspect_dataset` shows.

Shape suffixes: T steps, M = 7 dimensions of the motion.
"""

from collections.abc import Mapping
import functools
from typing import NamedTuple

import numpy as np

from rt2_train.data.layout import Layout

_INSTRUCTION = 'observation/natural_language_instruction'
_STOP = 'action/terminate_episode'


class _Columns(NamedTuple):
  """Neighbouring columns of one feature, from `first` on, times `scale`."""

  key: str
  first: int = 0
  scale: float = 1.0


def _motion(
    columns: Mapping[str, np.ndarray],
    position: _Columns,
    rotation: _Columns | None,
    gripper: _Columns | None,
    sense: str,
    quaternion: bool,
) -> np.ndarray:
  """[dx, dy, dz, droll, dpitch, dyaw, gripper] from their columns; zero where there are none.

  Args:
    columns: features by key.
    position, rotation, gripper: where they stand.
    sense: of the gripper: 'signed', -1 opens and 1 closes; 'closes', 0 (or less) is open and 1 is
      closed; 'opens', 0 (or less) is closed and 1 is open.
    quaternion: whether the rotation is four columns x, y, z, w.
  """
  steps = len(columns[position.key])

  def part(place: _Columns | None, width: int) -> np.ndarray:
    if place is None:
      return np.zeros((steps, width), np.float32)
    flat = columns[place.key].reshape(steps, -1).astype(np.float32)
    return place.scale * flat[:, place.first:place.first + width]

  turn_Tx3 = _roll_pitch_yaw(part(rotation, 4)) if quaternion else part(rotation, 3)
  closed_Tx1 = part(gripper, 1)
  if sense != 'signed':
    closed_Tx1 = (2 * np.clip(closed_Tx1, 0, 1) - 1) * (1 if sense == 'closes' else -1)
  return np.concatenate([part(position, 3), turn_Tx3, closed_Tx1], 1)


def _roll_pitch_yaw(quaternion_Tx4: np.ndarray) -> np.ndarray:
  """Angles about x, y and z, applied in this order, of rotations given as x, y, z, w."""
  with np.errstate(invalid='ignore'):  # A quaternion of zeros is no rotation: NaN, a bad action.
    x, y, z, w = (quaternion_Tx4 / np.linalg.norm(quaternion_Tx4, axis=1, keepdims=True)).T
  return np.stack([
      np.arctan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y)),
      np.arcsin(np.clip(2 * (w * y - z * x), -1, 1)),
      np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))], 1)


def _layout(
    name: str,
    control_hz: float,
    sense: str,
    *,
    position: _Columns = _Columns('action', 0),
    rotation: _Columns | None = _Columns('action', 3),
    gripper: _Columns | None = _Columns('action', 6),
    quaternion: bool = False,
    image: str = 'observation/image',
    instruction: str = 'language_instruction',
    **more,
) -> Layout:
  """A dataset whose action is one flat column, unless the arguments say otherwise."""
  places = [place for place in (position, rotation, gripper) if place]
  return Layout(
      name=name,
      images=(image,),
      instruction=instruction,
      motion_keys=tuple(dict.fromkeys(place.key for place in places)),
      motion=functools.partial(
          _motion, position=position, rotation=rotation, gripper=gripper, sense=sense,
          quaternion=quaternion),
      # Signed commands have a 0 between them, which keeps the gripper as it is.
      gripper='relative' if sense == 'signed' else 'absolute',
      control_hz=control_hz,
      **more,
  )


def _rt1_layout(name: str, control_hz: float, sense: str, **more) -> Layout:
  """A dataset whose action is a dictionary with RT-1's names, and a number that says stop."""
  return _layout(name, control_hz, sense, **{
      'position': _Columns('action/world_vector'),
      'rotation': _Columns('action/rotation_delta'),
      'gripper': _Columns('action/gripper_closedness_action'),
      'instruction': _INSTRUCTION,
      'terminate': 'flag',
      'terminate_key': _STOP,
      **more})


_ALL = (
    # Holds failed grasps too, and an instruction that says nothing of the object (Octo empties it).
    _rt1_layout('kuka', 10, 'signed', terminate='mode', success='success'),
    # The relative action is 50 times metres and 20 times radians, clipped to +-1, and its gripper
    # 1 open, -1 closed (CALVIN's dataset/README.md, whose tools recorded it); its angles are about
    # x, y and z. The catalogue has both the other way round.
    _rt1_layout(
        'taco_play', 15, 'opens', image='observation/rgb_static',
        position=_Columns('action/rel_actions_world', 0, 1 / 50),
        rotation=_Columns('action/rel_actions_world', 3, 1 / 20),
        gripper=_Columns('action/rel_actions_world', 6)),
    # Moves in three dimensions; their unit is not published (RT-1-X divides by a deviation of 0.1).
    _rt1_layout('jaco_play', 10, 'signed', rotation=None, terminate='mode'),
    # A velocity; the action has no gripper.
    _rt1_layout('berkeley_cable_routing', 10, 'signed', gripper=None),
    _rt1_layout('roboturk', 10, 'closes', image='observation/front_rgb'),
    # The camera is on the wrist; moves of up to 0.07 per step in space and angle (RT-1-X).
    _rt1_layout('nyu_door_opening_surprising_effectiveness', 3, 'signed'),
    # In units of the controller, +-1. A gripper of 0 is padding, which counts as open.
    _rt1_layout('viola', 20, 'closes', image='observation/agentview_rgb'),
    # Metres and radians per step; the gripper 1 closes, -1 opens, 0 keeps (catalogue).
    _rt1_layout('berkeley_autolab_ur5', 5, 'signed'),
    _layout('stanford_hydra_dataset_converted_externally_to_rlds', 10, 'closes', bgr=True),
    # These three and utaustin_mutex: in units of the controller, +-1; the gripper -1 opens, 1
    # closes.
    _layout('austin_buds_dataset_converted_externally_to_rlds', 20, 'closes'),
    _layout('austin_sailor_dataset_converted_externally_to_rlds', 20, 'closes'),
    _layout('austin_sirius_dataset_converted_externally_to_rlds', 20, 'closes'),
    _layout('utaustin_mutex', 20, 'closes', bgr=True),
    # Before the end effector's columns stand seven of joint velocities.
    _layout(
        'nyu_franka_play_dataset_converted_externally_to_rlds', 3, 'opens',
        position=_Columns('action', 7), rotation=_Columns('action', 10),
        gripper=_Columns('action', 13)),
    _layout(
        'furniture_bench_dataset_converted_externally_to_rlds', 10, 'closes', quaternion=True,
        gripper=_Columns('action', 7)),
    # The first of ten future actions. The rotation is a difference of axis-angle vectors, which
    # Octo and OpenVLA take for angles. Version 0.1.0; OpenVLA calls later ones broken.
    _layout(
        'bc_z', 10, 'closes', instruction=_INSTRUCTION,
        position=_Columns('action/future/xyz_residual'),
        rotation=_Columns('action/future/axis_angle_residual'),
        gripper=_Columns('action/future/target_close')),
    # The catalogue calls these two actions a pose; Octo and OpenVLA take them for displacements.
    _layout('dlr_edan_shared_control_converted_externally_to_rlds', 5, 'closes'),
    _layout('cmu_stretch', 10, 'opens'),
    # There is no command for the gripper, but its state; the catalogue says 'open status', Octo and
    # OpenVLA read 1 as closed.
    _layout(
        'berkeley_fanuc_manipulation', 10, 'closes', gripper=_Columns('observation/state', 6),
        bgr=True),
    # The camera is on the wrist; the gripper is how far it is open, 0 to 1 (OpenVLA).
    _layout('dobbe', 3.75, 'opens', image='observation/wrist_image'),
)

LAYOUTS = {layout.name: layout for layout in _ALL}

# What mixtures below name and no layout reads, and why.
LEFT_OUT = {
    'toto': 'its action is an absolute pose whose angles have no published convention',
    'iamlab_cmu_pickup_insert_converted_externally_to_rlds':
        'its action is an absolute pose, and nobody says whether reached or commanded',
    'ucsd_kitchen_dataset_converted_externally_to_rlds':
        'its action is an absolute pose in unpublished units',
    'fmb_dataset': 'the sense of its gripper is not published',
    'droid': 'its action map has not been checked',
}

# Share of every dataset in a batch, up to a factor (open_x_embodiment's training example, which
# lists kuka and language_table but does not read them).
RT_1_X_WEIGHTS = {
    'fractal20220817_data': 150,
    'kuka': 20,
    'bridge': 50,
    'taco_play': 5,
    'jaco_play': 20,
    'berkeley_cable_routing': 20,
    'roboturk': 10,
    'nyu_door_opening_surprising_effectiveness': 5,
    'viola': 3,
    'berkeley_autolab_ur5': 5,
    'language_table': 30,
    'toto': 5,
}
