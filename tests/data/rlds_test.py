"""What each layout says about the same kind of episode, and how steps become examples."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from rt2_train import actions
from rt2_train import images
from rt2_train.data import layouts
from rt2_train.data import rlds
from tests.data import rlds_fixture

SCHEMAS = list(rlds_fixture.FEATURES)


def open_steps(directory, schema: str, episodes: list[dict], **kwargs) -> rlds.RobotSteps:
  rlds_fixture.write(directory, schema, [episodes])
  return rlds.RobotSteps(str(directory), 'train', schema, **kwargs)


def all_steps(steps: rlds.RobotSteps) -> list[rlds.Step]:
  return [steps.step(i) for i in range(len(steps))]


@pytest.mark.parametrize('schema', SCHEMAS)
def test_every_schema_gives_the_steps_that_tfds_reads(tmp_path, schema):
  rlds_fixture.write(
      tmp_path, schema, [rlds_fixture.episodes(schema, 2), rlds_fixture.episodes(schema, 1, 7, 5)])
  steps = rlds.RobotSteps(str(tmp_path), 'train', schema)
  layout = rlds.LAYOUTS[schema]
  theirs = tfds.builder_from_directory(str(tmp_path)).as_dataset(
      split='train', decoders={'steps': tfds.decode.SkipDecoding()},
      read_config=tfds.ReadConfig(interleave_cycle_length=1))
  theirs = [episode['steps'] for episode in tfds.as_numpy(theirs)]
  for i, step in enumerate(all_steps(steps)):
    flat = theirs[steps.episode_N[i]]
    value = functools.reduce(lambda node, key: node[key], layout.images[0].split('/'), flat)
    assert step.images == (value[step.step],)
    assert step.is_last == bool(flat['is_last'][step.step])
    assert step.dataset == 'tabletop'
    assert step.instruction in rlds_fixture.INSTRUCTIONS
    assert step.action.dtype == np.float32
    assert step.action.shape == (layout.action_space.size,)
  assert steps.step(0).instruction == rlds_fixture.INSTRUCTIONS[0]
  assert all_steps(steps)[-1].episode == 'train/00001/0'


def test_fractal_takes_terminate_from_the_data_and_leaves_base_moves_out(tmp_path):
  episode = rlds_fixture.episode('fractal', num_steps=6)
  # Steps 0, 1 go on, 2 moves the base, 3 goes on, 4 and 5 stop.
  modes = np.array([1, 1, 2, 1, 0, 0])
  episode['steps/action/terminate_episode'] = np.eye(3, dtype=np.int64)[modes]
  steps = open_steps(tmp_path, 'fractal', [episode])
  assert [step.step for step in all_steps(steps)] == [0, 1, 3, 4, 5]
  assert steps.action_NxD[:, 0].tolist() == [1, 1, 1, 0, 0]
  assert steps.report['left_out'] == {'base moves': 1}
  moved = np.concatenate([
      episode['steps/action/world_vector'], episode['steps/action/rotation_delta'],
      episode['steps/action/gripper_closedness_action']], 1)
  np.testing.assert_array_equal(steps.action_NxD[:, 1:], moved[[0, 1, 3, 4, 5]])


def test_a_final_step_whose_motion_means_nothing_keeps_its_frame_and_stops(tmp_path):
  episode = rlds_fixture.episode('fractal', num_steps=3)
  episode['steps/action/world_vector'][2] = np.nan
  steps = open_steps(tmp_path, 'fractal', [episode])
  assert steps.action_NxD[2].tolist() == [0] * 8
  assert steps.step(2).images == (episode['steps/observation/image'][2],)
  assert steps.report['faults'] == {}


def test_bridge_oxe_turns_open_into_minus_one_and_holds_the_gripper_at_the_end(tmp_path):
  episode = rlds_fixture.episode('bridge_oxe', num_steps=5)
  episode['steps/action/world_vector'][4] = 0.7  # Past the end of the episode: no meaning.
  episode['steps/action/open_gripper'] = np.array([1, 1, 0, 0, 1])
  steps = open_steps(tmp_path, 'bridge_oxe', [episode])
  assert [step.step for step in all_steps(steps)] == [1, 2, 3, 4]
  assert steps.report['left_out'] == {'first step does not move': 1}
  assert steps.action_NxD[:, -1].tolist() == [-1, 1, 1, 1]
  assert steps.action_NxD[:, 0].tolist() == [1, 1, 1, 0]
  assert steps.action_NxD[3].tolist() == [0, 0, 0, 0, 0, 0, 0, 1]


def test_bridge_v2_stops_at_the_last_step_and_keeps_its_motion(tmp_path):
  episode = rlds_fixture.episode('bridge', num_steps=4)
  episode['steps/action'][:, 6] = [1, 0.9, 0.5, 0]
  steps = open_steps(tmp_path, 'bridge', [episode])
  assert steps.action_NxD[:, 0].tolist() == [1, 1, 0]
  np.testing.assert_allclose(steps.action_NxD[:, 7], [-0.8, 0, 1], atol=1e-6)
  np.testing.assert_array_equal(steps.action_NxD[:, 1:7], episode['steps/action'][1:, :6])


def test_bridge_keeps_a_first_step_that_moves(tmp_path):
  episode = rlds_fixture.episode('bridge', num_steps=4)
  episode['steps/action'][0, 2] = 0.01
  assert len(open_steps(tmp_path, 'bridge', [episode])) == 4


def test_language_table_decodes_code_points_and_drops_the_last_step(tmp_path):
  text = 'slide the blue cube to the caf\u00e9'
  steps = open_steps(tmp_path, 'language_table', [
      rlds_fixture.episode('language_table', num_steps=4, instruction=text)])
  assert steps.instructions == [text]
  assert steps.report['left_out'] == {'last step': 1}
  assert steps.action_NxD.shape == (3, 2)


def test_is_last_comes_from_the_position_when_the_data_never_set_it(tmp_path):
  episode = rlds_fixture.episode('bridge', num_steps=4)
  episode['steps/is_last'][:] = 0
  steps = open_steps(tmp_path, 'bridge', [episode])
  assert [step.is_last for step in all_steps(steps)] == [False, False, True]
  assert steps.action_NxD[:, 0].tolist() == [1, 1, 0]


def test_two_cameras_come_in_the_order_of_the_layout(tmp_path):
  both = dataclasses.replace(
      layouts.BRIDGE, name='two', images=('observation/image_1', 'observation/image_0'))
  episode = rlds_fixture.episode('bridge', num_steps=4)
  rlds_fixture.write(tmp_path, 'bridge', [[episode]])
  step = rlds.RobotSteps(str(tmp_path), 'train', both).step(0)
  assert step.images == (
      episode['steps/observation/image_1'][1], episode['steps/observation/image_0'][1])


@pytest.mark.parametrize('split, episodes', [
    ('train', [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ('train[:80%]', [0, 1, 2, 3, 4, 5, 6, 7]),
    ('train[80%:]', [8, 9]),
    ('train[2:4]', [2, 3]),
    ('train[-1:]', [9]),
    ('train[25%:75%]', [2, 3, 4, 5, 6, 7]),
])
def test_a_part_of_a_split_has_the_episodes_that_tfds_gives_it(tmp_path, split, episodes):
  rlds_fixture.write(tmp_path, 'bridge', [
      rlds_fixture.episodes('bridge', 4, 3), rlds_fixture.episodes('bridge', 6, 3, 4)])
  steps = rlds.RobotSteps(str(tmp_path), split, 'bridge')
  assert np.unique(steps.episode_N).tolist() == episodes
  theirs = tfds.builder_from_directory(str(tmp_path)).as_dataset(split=split)
  numbers = [int(episode['episode_metadata']['episode_id']) for episode in theirs]
  assert sorted(numbers) == episodes


def test_parts_of_a_split_have_different_fingerprints_and_share_one_index(tmp_path):
  rlds_fixture.write(tmp_path, 'bridge', [rlds_fixture.episodes('bridge', 4)])
  parts = [rlds.RobotSteps(str(tmp_path), f'train{part}', 'bridge') for part in ('[:2]', '[2:]')]
  assert parts[0].fingerprint != parts[1].fingerprint
  assert parts[0].report['index'] == parts[1].report['index']


def test_the_index_goes_to_index_dir_when_it_is_given(tmp_path):
  rlds_fixture.write(tmp_path / 'data', 'bridge', [[rlds_fixture.episode('bridge')]])
  rlds.RobotSteps(str(tmp_path / 'data'), 'train', 'bridge', index_dir=str(tmp_path / 'index'))
  assert (tmp_path / 'index' / 'tabletop-0.1.0.train.bridge.npz').exists()
  assert not (tmp_path / 'data' / '.rt2_index').exists()


def test_examples_are_what_the_processor_makes_of_each_step(tmp_path):
  rlds_fixture.write(tmp_path, 'fractal', [rlds_fixture.episodes('fractal', 3)])
  processor = rlds_fixture.a_processor(num_images=2)
  examples = rlds.RobotExamples(str(tmp_path), 'train', processor)
  assert len(examples) == 15
  for i in (0, 6, 14):
    example, step = examples[i], examples.step(i)
    expected = images.resize(images.decode(step.images[0]), processor.image_spec)
    np.testing.assert_array_equal(example['images'], [expected, np.zeros_like(expected)])
    assert example['image_mask'].tolist() == [1, 0]
    np.testing.assert_array_equal(example['inputs'], processor.robot_inputs(step.instruction))
    np.testing.assert_array_equal(example['targets'], processor.action_targets(step.action))
  assert examples.example_id(6) == 'tabletop/train shard 00000 episode 1 step 1'
  with pytest.raises(IndexError, match='tabletop/train has examples 0 to 14, not 15'):
    examples[15]


def test_out_of_range_actions_are_clipped_counted_and_told_per_dimension(
    tmp_path, caplog):
  episode = rlds_fixture.episode('fractal', num_steps=4)
  episode['steps/action/world_vector'][1, 0] = 37.0
  rlds_fixture.write(tmp_path, 'fractal', [[episode]])
  with caplog.at_level('WARNING'):
    examples = rlds.RobotExamples(str(tmp_path), 'train', rlds_fixture.a_processor())
  assert examples.note == 'clipped: dx 25 %'
  assert caplog.text.count('beyond the bounds of action space rt2 are clipped') == 1
  assert examples.report['clipped'] == {
      name: 0.25 if name == 'dx' else 0.0 for name in actions.RT2.names}
  decoded = rlds_fixture.a_processor().action_from_tokens(examples[1]['targets'])
  assert decoded[1] == 1.0


def test_a_few_clipped_values_are_told_without_a_warning(tmp_path, caplog):
  episodes = rlds_fixture.episodes('bridge', 30, num_steps=5)
  episodes[3]['steps/action'][2, 1] = -9
  rlds_fixture.write(tmp_path, 'bridge', [episodes])
  with caplog.at_level('WARNING'):
    examples = rlds.RobotExamples(str(tmp_path), 'train', rlds_fixture.a_processor(), 'bridge')
  assert examples.note == 'left out: first step does not move 30; clipped: dy 0.833 %'
  assert not caplog.text


def test_sound_data_have_no_note(tmp_path):
  rlds_fixture.write(tmp_path, 'fractal', [rlds_fixture.episodes('fractal', 1)])
  assert rlds.RobotExamples(str(tmp_path), 'train', rlds_fixture.a_processor()).note == ''


def test_a_layout_of_another_action_space_is_refused(tmp_path):
  rlds_fixture.write(tmp_path, 'language_table', [[rlds_fixture.episode('language_table')]])
  with pytest.raises(ValueError, match=r"layout 'language_table' yields \(x, y\), action space "
                     r"'rt2' is \(terminate, dx.*choose another of either"):
    rlds.RobotExamples(str(tmp_path), 'train', rlds_fixture.a_processor(), 'language_table')


def test_bounds_may_differ_from_the_layouts_own(tmp_path):
  rlds_fixture.write(tmp_path, 'bridge', [[rlds_fixture.episode('bridge')]])
  space = actions.rt2(position=0.01)
  examples = rlds.RobotExamples(
      str(tmp_path), 'train', rlds_fixture.a_processor(space), 'bridge')
  assert examples.report['clipped']['dx'] > 0


def test_more_cameras_than_the_model_takes_are_refused(tmp_path):
  both = dataclasses.replace(
      layouts.BRIDGE, images=('observation/image_0', 'observation/image_1'))
  rlds_fixture.write(tmp_path, 'bridge', [[rlds_fixture.episode('bridge')]])
  with pytest.raises(ValueError, match='has 2 cameras, the model takes 1 images; name fewer'):
    rlds.RobotExamples(str(tmp_path), 'train', rlds_fixture.a_processor(), both)


def test_an_instruction_longer_than_the_model_takes_is_named(tmp_path):
  rlds_fixture.write(tmp_path, 'fractal', [rlds_fixture.episodes('fractal', 2)])
  with pytest.raises(ValueError, match='tabletop/train shard 00000 episode 0 step 0: .*'
                     'inputs_length'):
    rlds.RobotExamples(str(tmp_path), 'train', rlds_fixture.a_processor(inputs_length=4))


def test_the_report_is_json(tmp_path):
  rlds_fixture.write(tmp_path, 'fractal', [[rlds_fixture.episode('fractal')]])
  examples = rlds.RobotExamples(str(tmp_path), 'train', rlds_fixture.a_processor())
  assert json.loads(json.dumps(examples.report)) == examples.report
