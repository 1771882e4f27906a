"""How a layout is declared, what it refuses, and how that of a dataset is found."""

import dataclasses

import numpy as np
import pytest

from rt2_train import actions
from rt2_train.data import layouts
from rt2_train.data import rlds
from rt2_train.data import tfds_directory
from tests.data import rlds_fixture

SCHEMAS = list(rlds_fixture.FEATURES)


def test_a_lab_declares_its_robot_without_touching_this_package(tmp_path):
  mine = rlds.Layout(
      name='mine',
      images='observation/image',
      instruction='observation/natural_language_instruction',
      motion_keys=['action/world_vector'],
      motion=lambda columns: 2 * columns['action/world_vector'],
      action_space=actions.ActionSpace(
          'xyz', tuple(actions.Dimension(name, 'm', -1, 1) for name in ('dx', 'dy', 'dz'))),
      gripper='none',
      terminate='never',
  )
  episode = rlds_fixture.episode('fractal')
  rlds_fixture.write(tmp_path, 'fractal', [[episode]])
  steps = rlds.RobotSteps(str(tmp_path), 'train', mine)
  np.testing.assert_array_equal(steps.action_NxD, 2 * episode['steps/action/world_vector'])


def test_columns_lie_side_by_side_in_the_order_of_their_keys(tmp_path):
  episode = rlds_fixture.episode('bridge_oxe')
  rlds_fixture.write(tmp_path, 'bridge_oxe', [[episode]])
  keys = ('action/rotation_delta', 'action/world_vector', 'action/open_gripper')
  layout = dataclasses.replace(
      layouts.BRIDGE_OXE, name='turned', motion_keys=keys, motion=layouts.flat_motion, drop=(),
      last_motion=True)
  steps = rlds.RobotSteps(str(tmp_path), 'train', layout)
  np.testing.assert_array_equal(steps.action_NxD[:, 1:4], episode['steps/action/rotation_delta'])
  np.testing.assert_array_equal(steps.action_NxD[:, 4:7], episode['steps/action/world_vector'])
  np.testing.assert_array_equal(steps.action_NxD[:, 7], episode['steps/action/open_gripper'])
  opened = dataclasses.replace(layout, motion=layouts.flat_open_motion)
  steps = rlds.RobotSteps(str(tmp_path), 'train', opened)
  np.testing.assert_array_equal(
      steps.action_NxD[:, 7], 1 - 2 * episode['steps/action/open_gripper'])


def test_numbers_beside_the_action_are_kept_for_each_step(tmp_path):
  episodes = rlds_fixture.episodes('bridge', 2)
  for number, episode in enumerate(episodes):
    episode['steps/observation/state'][:] = 10 * number + np.arange(5)[:, None]
  rlds_fixture.write(tmp_path, 'bridge', [episodes])
  layout = dataclasses.replace(
      layouts.BRIDGE, name='with_state', extra_keys='observation/state')
  steps = rlds.RobotSteps(str(tmp_path), 'train', layout)
  assert steps.step_N.tolist() == [1, 2, 3, 4] * 2
  assert steps.extra('observation/state')[:, 6].tolist() == [1, 2, 3, 4, 11, 12, 13, 14]
  part = rlds.RobotSteps(str(tmp_path), 'train[1:]', layout)
  assert part.extra('observation/state')[:, 0].tolist() == [11, 12, 13, 14]


def test_words_are_no_numbers_to_keep(tmp_path):
  rlds_fixture.write(tmp_path, 'bridge', [[rlds_fixture.episode('bridge')]])
  layout = dataclasses.replace(
      layouts.BRIDGE, extra_keys=('language_instruction', 'observation/image_0'))
  with pytest.raises(ValueError, match=r'has no steps/language_instruction as numbers \(it is '
                     r'text\), steps/observation/image_0 as numbers \(it is uint8\), which'):
    rlds.RobotSteps(str(tmp_path), 'train', layout)


def test_what_is_only_said_of_a_dataset_leaves_its_index_as_it_is(tmp_path, caplog):
  rlds_fixture.write(tmp_path, 'bridge', [[rlds_fixture.episode('bridge')]])
  for change in ({}, {'bgr': True, 'control_hz': 7}):
    rlds.RobotSteps(str(tmp_path), 'train', dataclasses.replace(layouts.BRIDGE, **change))
  assert 'stale' not in caplog.text


def test_an_edited_motion_makes_the_index_stale(tmp_path, caplog):
  rlds_fixture.write(tmp_path, 'bridge', [[rlds_fixture.episode('bridge')]])

  def scaled(factor):
    return lambda columns: factor * layouts.flat_open_motion(columns)

  for factor in (1, 2):
    layout = dataclasses.replace(layouts.BRIDGE, motion=scaled(factor))
    steps = rlds.RobotSteps(str(tmp_path), 'train', layout)
  assert 'is stale (written by another layout or version)' in caplog.text
  assert steps.action_NxD[0, 7] == -2


@pytest.mark.parametrize('change, message', [
    (dict(gripper='both'), "layout 'bridge': gripper is 'both', it takes one of relative"),
    (dict(terminate='flag'), "terminate='flag' and terminate_key='' do not fit"),
    (dict(terminate='never'), "terminate='never', but its action space is \\(terminate, dx"),
    (dict(drop=('second',)), "drop has \\['second'\\], it takes any of first_zero, last"),
    (dict(images=()), 'needs at least one key in images'),
    (dict(control_hz=0), "layout 'bridge': control_hz is 0; it is steps per second, above 0"),
])
def test_a_layout_that_contradicts_itself_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(layouts.BRIDGE, **change)


def test_a_motion_of_the_wrong_width_names_the_columns_it_should_give(tmp_path):
  layout = dataclasses.replace(layouts.BRIDGE, motion=lambda columns: columns['action'][:, :6])
  rlds_fixture.write(tmp_path, 'bridge', [[rlds_fixture.episode('bridge')]])
  with pytest.raises(ValueError, match=r"layout 'bridge': motion gave shape \(5, 6\) for 5 steps; "
                     r'it must give \[5, 7\], one column each for dx, dy'):
    rlds.RobotSteps(str(tmp_path), 'train', layout)


@pytest.mark.parametrize('schema', SCHEMAS)
def test_the_layout_is_found_from_features_json(tmp_path, schema):
  rlds_fixture.write(tmp_path, schema, [[rlds_fixture.episode(schema)]])
  found, why = layouts.detect(tfds_directory.open_directory(str(tmp_path)))
  assert found.name == schema
  assert f'steps/{found.images[0]}' in why


def test_an_unknown_schema_lists_what_each_layout_misses_and_how_to_declare_one():
  directory = tfds_directory.Directory('/data', 'other', '1.0.0', {}, {})
  with pytest.raises(ValueError, match='other fits no layout .*bridge misses steps/observation/'
                     r'image_0.*declare your own, as at the end of gin/data/my_robot.gin'):
    layouts.detect(directory)


def test_several_fitting_layouts_are_named(tmp_path, monkeypatch):
  monkeypatch.setitem(layouts.LAYOUTS, 'twin', dataclasses.replace(layouts.BRIDGE, name='twin'))
  rlds_fixture.write(tmp_path, 'bridge', [[rlds_fixture.episode('bridge')]])
  with pytest.raises(ValueError, match='fits the layouts bridge, twin; say which with layout'):
    layouts.detect(tfds_directory.open_directory(str(tmp_path)))
