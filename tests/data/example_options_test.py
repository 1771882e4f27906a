"""What RobotExamples may do beyond the paper: frames before a step, idle steps, other wordings."""

import collections
import dataclasses
import json
import re

import numpy as np
import pytest

from rt2_train import actions
from rt2_train.data import layouts
from rt2_train.data import rlds
from tests.data import rlds_fixture

IDLE = {'m': 0.01, 'rad': 0.01}


def open_examples(
    directory, schema='fractal', num_images=1, split='train', history=1, **options):
  processor = rlds_fixture.a_processor(
      layouts.LAYOUTS[schema].action_space, num_images, history=history)
  return rlds.RobotExamples(str(directory), split, processor, schema, **options)


# Frames before the step.


def test_the_frames_before_a_step_come_first_and_an_episodes_first_frame_is_repeated(tmp_path):
  rlds_fixture.write(tmp_path, 'fractal', [rlds_fixture.episodes('fractal', 2, num_steps=4)])
  steps = rlds.RobotSteps(str(tmp_path))

  def of(episode, *numbers):
    return tuple(rlds_fixture.jpeg(100 * episode + number) for number in numbers)

  assert [steps.images(i, history=3) for i in range(8)] == [
      of(0, 0, 0, 0), of(0, 0, 0, 1), of(0, 0, 1, 2), of(0, 1, 2, 3),
      of(1, 0, 0, 0), of(1, 0, 0, 1), of(1, 0, 1, 2), of(1, 1, 2, 3)]
  examples = open_examples(tmp_path, num_images=3, history=3)
  one = open_examples(tmp_path, num_images=1)
  for i in (0, 2, 5):
    assert examples[i]['image_mask'].tolist() == [1, 1, 1]
    np.testing.assert_array_equal(examples[i]['images'][-1], one[i]['images'][0])
  np.testing.assert_array_equal(examples[3]['images'][0], one[1]['images'][0])


def test_all_cameras_of_a_step_stand_together(tmp_path):
  rlds_fixture.write(tmp_path, 'bridge', [[rlds_fixture.episode('bridge', num_steps=4)]])
  both = dataclasses.replace(
      layouts.BRIDGE, images=('observation/image_0', 'observation/image_1'), drop=())
  steps = rlds.RobotSteps(str(tmp_path), 'train', both)
  flat = rlds_fixture.episode('bridge', num_steps=4)
  zero, one = flat['steps/observation/image_0'], flat['steps/observation/image_1']
  assert steps.images(2, history=2) == (zero[1], one[1], zero[2], one[2])


def test_a_step_that_was_left_out_is_no_frame_before_and_an_idle_one_is(tmp_path):
  episode = rlds_fixture.episode('fractal', num_steps=5)
  modes = np.array([1, 2, 1, 1, 0])  # The base moves at step 1.
  episode['steps/action/terminate_episode'] = np.eye(3, dtype=np.int64)[modes]
  for key in ('world_vector', 'rotation_delta', 'gripper_closedness_action'):
    episode[f'steps/action/{key}'][2] = 0  # And nothing does at step 2.
  rlds_fixture.write(tmp_path, 'fractal', [[episode]])
  steps = rlds.RobotSteps(str(tmp_path), idle={'m': 1e-3, 'rad': 1e-3})
  images = episode['steps/observation/image']
  assert steps.step_N.tolist() == [0, 3, 4]
  assert [steps.images(i, history=2) for i in range(3)] == [
      (images[0], images[0]), (images[2], images[3]), (images[3], images[4])]


def test_history_is_part_of_the_fingerprint_and_one_frame_is_what_always_was(tmp_path):
  rlds_fixture.write(tmp_path, 'fractal', [rlds_fixture.episodes('fractal', 1)])
  plain = open_examples(tmp_path, num_images=2)
  assert open_examples(tmp_path, num_images=2, history=1).fingerprint == plain.fingerprint
  assert open_examples(tmp_path, num_images=2, history=2).fingerprint != plain.fingerprint


@pytest.mark.parametrize('history, message', [
    (0, 'processor: history is 0; it must be a whole number of at least 1'),
    (1.5, 'processor: history is 1.5; it must be a whole number of at least 1'),
    (3, 'processor: history is 3, but the model takes 2 images; raise num_images'),
])
def test_a_history_that_cannot_be_is_refused(tmp_path, history, message):
  rlds_fixture.write(tmp_path, 'fractal', [rlds_fixture.episodes('fractal', 1)])
  with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
    open_examples(tmp_path, num_images=2, history=history)


def test_more_cameras_than_the_model_takes_at_each_time_are_refused(tmp_path):
  rlds_fixture.write(tmp_path, 'bridge', [rlds_fixture.episodes('bridge', 1)])
  layout = dataclasses.replace(
      layouts.BRIDGE, images=('observation/image_0', 'observation/image_1'))
  message = 'has 2 cameras with 2 frames each, the model takes 2 images'
  with pytest.raises(ValueError, match=message):
    rlds.RobotExamples(
        str(tmp_path), 'train', rlds_fixture.a_processor(num_images=2, history=2), layout)


# Idle steps.


def still_episode() -> dict:
  """Ten steps of fractal that only move or act at some."""
  episode = rlds_fixture.episode('fractal', num_steps=10)
  for key in ('world_vector', 'rotation_delta', 'gripper_closedness_action'):
    episode[f'steps/action/{key}'][:] = 0
  episode['steps/action/world_vector'][2] = [0, 0.011, 0]
  episode['steps/action/world_vector'][3] = [0, 0.009, -0.009]  # Below the limit in each.
  episode['steps/action/rotation_delta'][4] = [-0.02, 0, 0]
  episode['steps/action/gripper_closedness_action'][6] = -1
  return episode


def test_idle_steps_are_left_out_and_counted(tmp_path):
  rlds_fixture.write(tmp_path, 'fractal', [[still_episode()]])
  assert len(open_examples(tmp_path)) == 10
  examples = open_examples(tmp_path, idle=IDLE)
  # It moves, turns, opens its gripper, stops.
  assert [examples.step(i).step for i in range(len(examples))] == [2, 4, 6, 9]
  assert examples.note == 'idle steps left out: 6'
  assert examples.report['idle_steps'] == 6 and examples.report['examples'] == 4
  assert examples.example_id(1) == 'tabletop/train shard 00000 episode 0 step 4'
  with pytest.raises(IndexError, match='examples 0 to 3, not 4'):
    examples[4]
  assert examples.fingerprint != open_examples(tmp_path).fingerprint


def test_an_absolute_gripper_acts_where_it_differs_from_the_step_before(tmp_path):
  episode = rlds_fixture.episode('bridge', num_steps=7)
  episode['steps/action'][:, :6] = 0
  episode['steps/action'][:, 6] = [1, 1, 0, 0, 0, 1, 1]
  first = rlds_fixture.episode('bridge', num_steps=3)  # Ends with another gripper.
  first['steps/action'][:] = 0
  rlds_fixture.write(tmp_path, 'bridge', [[first, episode]])
  examples = open_examples(tmp_path, 'bridge', idle=IDLE)
  found = [(examples.step(i).episode[-1], examples.step(i).step) for i in range(len(examples))]
  assert found == [('0', 2), ('1', 2), ('1', 5), ('1', 6)]


@pytest.mark.parametrize('idle', [
    {'m': 0.01}, {'m': 0.01, 'rad': 0.01, 'deg': 1}, {'m': 0, 'rad': 0.01},
    {'m': float('nan'), 'rad': 0.01}, {'m': '1', 'rad': 0.01}, 0.01])
def test_limits_of_idleness_that_cannot_be_are_refused(tmp_path, idle):
  rlds_fixture.write(tmp_path, 'fractal', [[still_episode()]])
  with pytest.raises(ValueError, match=re.escape(
      f"idle is {idle}; for layout 'fractal' it takes the smallest motion that counts, above 0, "
      "for each unit of ['m', 'rad']")):
    open_examples(tmp_path, idle=idle)


def test_limits_that_leave_nothing_are_refused(tmp_path):
  episode = rlds_fixture.episode('language_table', num_steps=4)
  rlds_fixture.write(tmp_path, 'language_table', [[episode]])
  with pytest.raises(ValueError, match='all 3 steps are idle by .*; lower these limits'):
    open_examples(tmp_path, 'language_table', idle={'m': 1})


# Other wordings.

OTHERS = {
    'pick the red apple': ['pick the cup', 'open the red drawer', 'move the red apple'],
    'open the drawer': ['pick the drawer'],
}


def write_wordings(directory, whole) -> str:
  path = directory / 'wordings.json'
  path.write_text(whole if isinstance(whole, str) else json.dumps(whole))
  return str(path)


def prompts(examples: rlds.RobotExamples) -> list[bytes]:
  return [examples[i]['inputs'].tobytes() for i in range(len(examples))]


def test_a_share_of_the_examples_keep_their_words_and_the_others_spread_over_the_rest(tmp_path):
  rlds_fixture.write(tmp_path / 'data', 'fractal', [
      [rlds_fixture.episode('fractal', num_steps=80, seed=3 * i) for i in range(5)]])
  path = write_wordings(tmp_path, {'pick the red apple': OTHERS['pick the red apple']})
  examples = open_examples(tmp_path / 'data', paraphrase_file=path, original_share=0.4)
  robot_inputs = rlds_fixture.a_processor().robot_inputs
  counts = collections.Counter(prompts(examples))
  assert sum(counts.values()) == 400
  own = counts.pop(robot_inputs('pick the red apple').tobytes())
  assert 130 < own < 190
  assert set(counts) == {
      robot_inputs(text).tobytes() for text in OTHERS['pick the red apple']}
  assert all(50 < count < 110 for count in counts.values())


def test_which_words_an_example_has_its_id_decides(tmp_path):
  episodes = rlds_fixture.episodes('fractal', 6)
  path = write_wordings(tmp_path, OTHERS)
  rlds_fixture.write(tmp_path / 'a', 'fractal', [episodes])
  whole = open_examples(tmp_path / 'a', paraphrase_file=path)
  part = open_examples(tmp_path / 'a', split='train[3:]', paraphrase_file=path)
  assert prompts(part) == prompts(whole)[15:]
  assert prompts(open_examples(tmp_path / 'a', paraphrase_file=path)) == prompts(whole)
  # An instruction without other wordings keeps its own.
  near = [i for i in range(30) if whole.step(i).instruction.startswith('move')]
  assert {whole[i]['inputs'].tobytes() for i in near} == {
      rlds_fixture.a_processor().robot_inputs('move the cup near the sponge').tobytes()}


@pytest.mark.parametrize('share', [0, 1])
def test_the_share_may_be_none_or_all(tmp_path, share):
  rlds_fixture.write(tmp_path / 'data', 'fractal', [rlds_fixture.episodes('fractal', 3)])
  path = write_wordings(tmp_path, OTHERS)
  plain = open_examples(tmp_path / 'data')
  examples = open_examples(tmp_path / 'data', paraphrase_file=path, original_share=share)
  same = np.array([a == b for a, b in zip(prompts(examples), prompts(plain))])
  other = np.array([plain.step(i).instruction in OTHERS for i in range(len(plain))])
  assert same.tolist() == (~other | bool(share)).tolist()
  assert examples.fingerprint != plain.fingerprint


def test_an_instruction_that_does_not_occur_is_noted(tmp_path, caplog):
  rlds_fixture.write(tmp_path / 'data', 'fractal', [rlds_fixture.episodes('fractal', 3)])
  path = write_wordings(tmp_path, OTHERS | {'pick the red appel': ['pick it']})
  examples = open_examples(tmp_path / 'data', paraphrase_file=path)
  assert examples.note == (
      f"{path}: 1 of 3 instructions not in the dataset: 'pick the red appel'")
  assert "did you mean 'pick the red apple'?" in caplog.text


@pytest.mark.parametrize('whole, message', [
    ({'pick the red appel': ['x']}, 'none of its 1 instructions is in the dataset; the first is '
     "'pick the red appel' (did you mean 'pick the red apple'?)"),
    ({}, 'holds {}; write an object {instruction: [other wordings]}'),
    (['pick'], "holds ['pick']; write an object {instruction: [other wordings]}"),
    ({'open the drawer': 'pick it'}, "'open the drawer' has 'pick it'; write a list of other "
     'wordings'),
    ({'open the drawer': []}, "'open the drawer' has []; write a list of other wordings"),
    ({'open the drawer': ['pull', ' ']}, "'open the drawer': a wording is ' '; write words"),
    ({'open the drawer': ['pull', 7]}, "'open the drawer': a wording is 7; write words"),
    ('{', 'is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char '
     '1)); copy it again'),
])
def test_a_file_of_wordings_of_another_form_is_named(tmp_path, whole, message):
  rlds_fixture.write(tmp_path / 'data', 'fractal', [rlds_fixture.episodes('fractal', 3)])
  path = write_wordings(tmp_path, whole)
  with pytest.raises(ValueError) as error:
    open_examples(tmp_path / 'data', paraphrase_file=path)
  assert str(error.value).removeprefix(path).removeprefix(':') == f' {message}'


def test_a_wording_longer_than_the_model_takes_is_named(tmp_path):
  rlds_fixture.write(tmp_path / 'data', 'fractal', [rlds_fixture.episodes('fractal', 3)])
  path = write_wordings(tmp_path, {'open the drawer': ['open the drawer ' * 20]})
  with pytest.raises(ValueError, match=f'^{path}: tabletop/train shard 00000 episode 2 step 0: the '
                     r"prompt 'Q: .* takes \d+ tokens, inputs_length is 32"):
    open_examples(tmp_path / 'data', paraphrase_file=path)


def test_a_missing_file_of_wordings_and_a_share_beyond_one_are_refused(tmp_path):
  rlds_fixture.write(tmp_path, 'fractal', [rlds_fixture.episodes('fractal', 1)])
  with pytest.raises(FileNotFoundError, match='no.json is missing; it should hold an object'):
    open_examples(tmp_path, paraphrase_file='no.json')
  with pytest.raises(ValueError, match='original_share is 1.5; it is a share, 0 to 1'):
    open_examples(tmp_path, paraphrase_file='no.json', original_share=1.5)


# Rates.


def test_an_action_space_of_another_rate_is_refused(tmp_path):
  rlds_fixture.write(tmp_path, 'fractal', [rlds_fixture.episodes('fractal', 1)])
  for rate in (None, 3, 3.0):
    processor = rlds_fixture.a_processor(actions.rt2(control_hz=rate))
    assert len(rlds.RobotExamples(str(tmp_path), 'train', processor)) == 5
  processor = rlds_fixture.a_processor(actions.rt2(control_hz=5))
  with pytest.raises(ValueError, match=re.escape(
      "tabletop/train: its actions are 3 per second, those of action space 'rt2' 5; give both the "
      'same control_hz')):
    rlds.RobotExamples(str(tmp_path), 'train', processor)
