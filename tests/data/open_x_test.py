"""Each layout of Open X-Embodiment on a small dataset in the schema of its TFDS catalogue page."""

import dataclasses

import numpy as np
import pytest
import tensorflow_datasets as tfds

from rt2_train import images
from rt2_train.data import layouts
from rt2_train.data import open_x
from rt2_train.data import rlds
from rt2_train.data import tfds_directory
from tests.data import rlds_fixture

STEPS = 4
_F = tfds.features
_VECTOR = {'action/world_vector': 3, 'action/rotation_delta': 3}
_RT1 = {**_VECTOR, 'action/gripper_closedness_action': 1}
LANGUAGE = 'observation/natural_language_instruction'

# Image, instruction, and the numbers that the catalogue lists: size, None for a lone number.
SCHEMAS = {
    'kuka': ('image', LANGUAGE, _RT1, 3),
    'taco_play': ('rgb_static', LANGUAGE, {'action/rel_actions_world': 7}, None),
    'jaco_play': (
        'image', LANGUAGE, {'action/world_vector': 3, 'action/gripper_closedness_action': 1}, 3),
    'berkeley_cable_routing': ('image', LANGUAGE, _VECTOR, None),
    'roboturk': ('front_rgb', LANGUAGE, _RT1, None),
    'nyu_door_opening_surprising_effectiveness': ('image', LANGUAGE, _RT1, None),
    'viola': (
        'agentview_rgb', LANGUAGE, {**_VECTOR, 'action/gripper_closedness_action': None}, None),
    'berkeley_autolab_ur5': (
        'image', LANGUAGE, {**_VECTOR, 'action/gripper_closedness_action': None}, None),
    'bc_z': ('image', LANGUAGE, {
        'action/future/xyz_residual': 30, 'action/future/axis_angle_residual': 30,
        'action/future/target_close': 10}, 'last'),
    'berkeley_fanuc_manipulation': (
        'image', 'language_instruction', {'action': 6, 'observation/state': 13}, 'last'),
    'dobbe': ('wrist_image', 'language_instruction', {'action': 7}, 'last'),
    **{name: ('image', 'language_instruction', {'action': size}, 'last') for name, size in {
        'stanford_hydra_dataset_converted_externally_to_rlds': 7,
        'austin_buds_dataset_converted_externally_to_rlds': 7,
        'austin_sailor_dataset_converted_externally_to_rlds': 7,
        'austin_sirius_dataset_converted_externally_to_rlds': 7,
        'utaustin_mutex': 7,
        'nyu_franka_play_dataset_converted_externally_to_rlds': 15,
        'furniture_bench_dataset_converted_externally_to_rlds': 8,
        'dlr_edan_shared_control_converted_externally_to_rlds': 7,
        'cmu_stretch': 8,
    }.items()},
}


def episode(name: str, rng: np.random.Generator) -> dict:
  """An episode whose gripper opens, opens, closes, closes, as the dataset writes it."""
  image, instruction, numbers, stop = SCHEMAS[name]
  flat = {
      f'steps/observation/{image}': [rlds_fixture.jpeg(step) for step in range(STEPS)],
      f'steps/{instruction}': [b'open the drawer'] * STEPS,
      'steps/is_first': np.eye(STEPS, dtype=np.int64)[0],
      'steps/is_last': np.eye(STEPS, dtype=np.int64)[-1],
  }
  for key, size in numbers.items():
    flat[f'steps/{key}'] = rng.uniform(-1, 1, (STEPS, size or 1)).astype(np.float32)
  last = flat['steps/is_last']
  if stop == 3:
    flat['steps/action/terminate_episode'] = np.stack([last, 1 - last, 0 * last], 1)
  elif stop is None:
    flat['steps/action/terminate_episode'] = last.astype(np.float32)
  if name == 'kuka':
    flat['success'] = np.ones(1, np.int64)
  if name == 'bc_z':
    flat['steps/action/future/target_close'] = np.repeat([[0], [0], [1], [1]], 10, 1)
  else:
    key, column, written = GRIPPERS[name]
    if key:
      flat[f'steps/{key}'][:, column] = written
  return flat


# Where the gripper stands, and what opening, opening, closing, closing looks like there.
_SIGNED, _CLOSES, _OPENS = [-1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]
_OWN = 'action/gripper_closedness_action'
GRIPPERS = {
    **dict.fromkeys(
        ('kuka', 'jaco_play', 'nyu_door_opening_surprising_effectiveness', 'berkeley_autolab_ur5'),
        (_OWN, 0, _SIGNED)),
    **dict.fromkeys(('roboturk', 'viola'), (_OWN, 0, [-1, -1, 1, 1])),
    'taco_play': ('action/rel_actions_world', 6, [1, 1, -1, -1]),
    'berkeley_cable_routing': ('', 0, None),
    'berkeley_fanuc_manipulation': ('observation/state', 6, _CLOSES),
    'dobbe': ('action', 6, _OPENS),
    'cmu_stretch': ('action', 6, _OPENS),
    'nyu_franka_play_dataset_converted_externally_to_rlds': ('action', 13, _OPENS),
    'furniture_bench_dataset_converted_externally_to_rlds': ('action', 7, [-1, -1, 1, 1]),
    'stanford_hydra_dataset_converted_externally_to_rlds': ('action', 6, _CLOSES),
    'dlr_edan_shared_control_converted_externally_to_rlds': ('action', 6, _CLOSES),
    **dict.fromkeys(
        ('austin_buds_dataset_converted_externally_to_rlds',
         'austin_sailor_dataset_converted_externally_to_rlds',
         'austin_sirius_dataset_converted_externally_to_rlds', 'utaustin_mutex'),
        ('action', 6, [-1, -1, 1, 1])),
}


def write(directory, name: str, episodes: list[dict], monkeypatch):
  """A TFDS directory in the schema of `name`."""
  steps = {}
  for key, values in episodes[0].items():
    if not key.startswith('steps/'):
      continue
    *path, leaf = _path(key.removeprefix('steps/'))
    node = steps
    for part in path:
      node = node.setdefault(part, {})
    if leaf in ('is_first', 'is_last'):
      node[leaf] = np.bool_
    elif isinstance(values, list):
      is_image = values[0].startswith(b'\xff\xd8')
      node[leaf] = rlds_fixture.FEATURES['fractal']['steps'].feature['observation'][
          'image'] if is_image else _F.Text()
    else:
      one = SCHEMAS[name][2].get(key.removeprefix('steps/'), 0) is None or values.ndim == 1
      dtype = np.float32 if values.dtype == np.float32 else np.int64
      node[leaf] = dtype if one else _F.Tensor(shape=values.shape[1:], dtype=dtype)
  whole = {key: np.bool_ for key in episodes[0] if '/' not in key}
  monkeypatch.setitem(rlds_fixture.FEATURES, name, {'steps': _F.Dataset(steps), **whole})
  rlds_fixture.write(directory, name, [episodes], name=name)


def _path(key: str) -> list[str]:
  """A feature's own name may hold a slash, as bc_z's do."""
  group, _, rest = key.partition('/')
  return [group, rest] if rest else [group]


def numbers(flat: dict, key: str) -> np.ndarray:
  return flat[f'steps/{key}'].reshape(STEPS, -1)


def pose(name: str, flat: dict) -> np.ndarray:
  """The six numbers of the motion, as its publishers describe them."""
  zeros = np.zeros((STEPS, 3), np.float32)
  if name == 'taco_play':  # Scaled by 50 and 20 when it was recorded.
    return numbers(flat, 'action/rel_actions_world')[:, :6] / [50, 50, 50, 20, 20, 20]
  if name == 'jaco_play':
    return np.concatenate([numbers(flat, 'action/world_vector'), zeros], 1)
  if name == 'bc_z':
    keys = ('action/future/xyz_residual', 'action/future/axis_angle_residual')
    return np.concatenate([numbers(flat, key)[:, :3] for key in keys], 1)
  if name.startswith('nyu_franka'):
    return numbers(flat, 'action')[:, 7:13]
  if 'action' in SCHEMAS[name][2]:
    return numbers(flat, 'action')[:, :6]
  return np.concatenate([numbers(flat, key) for key in _VECTOR], 1)


def test_every_layout_has_a_schema_here():
  assert set(SCHEMAS) == set(open_x.LAYOUTS)


@pytest.mark.parametrize('name', SCHEMAS)
def test_the_dataset_is_known_by_its_name_and_gives_rt2s_eight_numbers(
    name, tmp_path, monkeypatch):
  flat = episode(name, np.random.default_rng(0))
  write(tmp_path, name, [flat], monkeypatch)
  layout, why = layouts.detect(tfds_directory.open_directory(str(tmp_path)))
  assert layout is open_x.LAYOUTS[name] and name in why
  steps = rlds.RobotSteps(str(tmp_path), 'train', name)
  assert steps.layout is layout
  assert steps.instructions == ['open the drawer']
  assert steps.images(2) == (rlds_fixture.jpeg(2),)
  assert steps.action_NxD[:, 0].tolist() == [1, 1, 1, 0]
  # The gripper opens and closes; what is signed keeps it in between.
  expected = {'relative': [-1, 0, 1, 0], 'absolute': [-1, -1, 1, 1]}[layout.gripper]
  expected = [0] * STEPS if name == 'berkeley_cable_routing' else expected
  assert steps.action_NxD[:, 7].tolist() == expected
  moved = steps.action_NxD[:, 1:7]
  if 'furniture' in name:
    np.testing.assert_allclose(moved[:, :3], numbers(flat, 'action')[:, :3])
  else:
    np.testing.assert_allclose(moved, pose(name, flat), rtol=1e-6)


def test_a_rotation_as_a_quaternion_becomes_angles_about_x_y_and_z(tmp_path, monkeypatch):
  name = 'furniture_bench_dataset_converted_externally_to_rlds'
  flat = episode(name, np.random.default_rng(0))
  angles = [(0.3, 0, 0), (0, -0.4, 0), (0, 0, 0.5), (0.1, 0.2, -0.3)]
  for step, (roll, pitch, yaw) in enumerate(angles):
    quaternion = np.array([0, 0, 0, 1.0])
    for axis, angle in enumerate((roll, pitch, yaw)):
      turn = np.zeros(4)
      turn[axis], turn[3] = np.sin(angle / 2), np.cos(angle / 2)
      # Hamilton's product, the new turn from the left: about fixed axes, x first.
      x, y, z, w = turn
      quaternion = np.array(
          [[w, -z, y, x], [z, w, -x, y], [-y, x, w, z], [-x, -y, -z, w]]) @ quaternion
    flat['steps/action'][step, 3:7] = 2 * quaternion  # Of any length.
  write(tmp_path, name, [flat], monkeypatch)
  steps = rlds.RobotSteps(str(tmp_path), 'train', name)
  np.testing.assert_allclose(steps.action_NxD[:, 4:7], angles, atol=1e-6)


def test_a_quaternion_of_zeros_is_a_bad_action(tmp_path, monkeypatch):
  name = 'furniture_bench_dataset_converted_externally_to_rlds'
  flat = episode(name, np.random.default_rng(0))
  flat['steps/action'][1, 3:7] = 0
  write(tmp_path, name, [flat], monkeypatch)
  with pytest.raises(ValueError, match='episode 0 step 1: droll is nan, not a finite number'):
    rlds.RobotSteps(str(tmp_path), 'train', name)


def test_failed_grasps_of_kuka_are_left_out_and_counted(tmp_path, monkeypatch):
  episodes = [episode('kuka', np.random.default_rng(i)) for i in range(3)]
  episodes[1]['success'] = np.zeros(1, np.int64)
  write(tmp_path, 'kuka', episodes, monkeypatch)
  steps = rlds.RobotSteps(str(tmp_path), 'train', 'kuka')
  assert np.unique(steps.episode_N).tolist() == [0, 2]
  assert steps.note == f'left out: episode without success {STEPS}'


def test_an_episode_that_does_not_say_whether_it_succeeded_is_named(tmp_path, monkeypatch):
  episodes = [episode('kuka', np.random.default_rng(i)) for i in range(2)]
  episodes[1]['success'] = np.ones(2, np.int64)
  write(tmp_path, 'kuka', episodes, monkeypatch)
  with pytest.raises(ValueError, match='episode 1: success holds 2 values of int64, not one'):
    rlds.RobotSteps(str(tmp_path), 'train', 'kuka')


def test_swapped_channels_are_put_right(tmp_path, monkeypatch):
  write(tmp_path, 'utaustin_mutex', [episode('utaustin_mutex', np.random.default_rng(0))],
        monkeypatch)
  processor = rlds_fixture.a_processor()
  examples = rlds.RobotExamples(str(tmp_path), 'train', processor, 'utaustin_mutex')
  right = images.resize(images.decode(rlds_fixture.jpeg(1)), processor.image_spec)[..., ::-1]
  np.testing.assert_array_equal(examples[1]['images'][0], right)
  as_stored = dataclasses.replace(open_x.LAYOUTS['utaustin_mutex'], bgr=False)
  plain = rlds.RobotExamples(str(tmp_path), 'train', processor, as_stored)
  np.testing.assert_array_equal(plain[1]['images'][0], right[..., ::-1])
  assert plain.fingerprint != examples.fingerprint


def test_a_known_name_with_another_schema_is_found_by_its_keys(tmp_path):
  rlds_fixture.write(tmp_path, 'bridge', [[rlds_fixture.episode('bridge')]], name='viola')
  found, _ = layouts.detect(tfds_directory.open_directory(str(tmp_path)))
  assert found.name == 'bridge'


def test_published_mixtures_name_datasets_that_are_read_or_say_why_not():
  known = {*open_x.LAYOUTS, *open_x.LEFT_OUT, 'fractal20220817_data', 'bridge', 'bridge_dataset',
           'language_table'}
  assert known.issuperset(open_x.RT_1_X_WEIGHTS)
  assert not set(open_x.LAYOUTS) & set(open_x.LEFT_OUT)
