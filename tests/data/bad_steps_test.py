"""Each fault a step or an episode can have: found when it is indexed, named exactly, counted.

TensorFlow's own readers drop, swallow or misname most of these; every test states the whole
message a person gets.
"""

import numpy as np
import pytest

from rt2_train.data import rlds
from tests.data import rlds_fixture
from tests.data.broken_data import EPISODE
from tests.data.broken_data import IMAGE
from tests.data.broken_data import JPEG
from tests.data.broken_data import open_error
from tests.data.broken_data import open_skipping
from tests.data.broken_data import REMEDY
from tests.data.broken_data import set_image
from tests.data.broken_data import set_value
from tests.data.broken_data import steps_of_last_episode
from tests.data.broken_data import WHERE
from tests.data.broken_data import write

EMPTY = 'the instruction is empty'
EMPTY_REMEDY = ("; write it, or leave such examples out with on_bad={'empty instruction': 'skip'}")


def without_frame_header(encoded: bytes) -> bytes:
  return encoded.replace(b'\xff\xc0', b'\xff\xfe')


STEP_FAULTS = {
    'truncated image': (
        set_image(JPEG[:500]),
        'truncated image', 'observation/image: JPEG truncated (500 bytes, no end marker)'),
    'header only': (
        set_image(JPEG[:2]),
        'truncated image', 'observation/image: JPEG truncated (2 bytes, no end marker)'),
    'no header': (
        set_image(without_frame_header(JPEG)),
        'not an image', f'observation/image: JPEG has no frame header ({len(JPEG)} bytes)'),
    'not an image': (
        set_image(b'these bytes are text'),
        'not an image', 'observation/image: not an image: 20 bytes that start with '
        '74 68 65 73 65 20 62 79; JPEG, PNG, WebP, BMP and GIF are read'),
    'empty image': (
        set_image(b''), 'not an image', 'observation/image: image is empty (0 bytes)'),
    'wrong size': (
        set_image(rlds_fixture.jpeg(1, 40, 60)), 'image size',
        'observation/image: image is 40x60, features.json says 48x64'),
    'nan': (
        set_value('action/world_vector', (0, np.nan, 0)), 'bad action',
        'dy is nan, not a finite number'),
    'infinite': (
        set_value('action/gripper_closedness_action', np.inf), 'bad action',
        'gripper is inf, not a finite number'),
    'terminate': (
        set_value('action/terminate_episode', 0), 'bad action',
        'action/terminate_episode is [0, 0, 0], not one-hot'),
    'not text': (
        lambda episode: episode.update({'steps/observation/natural_language_instruction': [
            b'pick', b'pick', b'pick', b'\xff\xfe', b'pick']}), 'bad text',
        "the instruction is not UTF-8 ('utf-8' codec can't decode byte 0xff in position 0: "
        'invalid start byte)'),
}


@pytest.mark.parametrize('fault', STEP_FAULTS)
def test_a_broken_step_is_named_and_skipping_loses_that_step_alone(tmp_path, fault):
  change, reason, message = STEP_FAULTS[fault]
  write(tmp_path, change)
  assert open_error(tmp_path) == WHERE + message + REMEDY
  steps = open_skipping(tmp_path)
  assert len(steps) == 29
  assert steps_of_last_episode(steps) == [0, 1, 2, 4]
  assert steps.report['faults'] == {reason: 1}
  assert steps.report['lost_steps'] == 1
  assert steps.report['first_faults'] == {reason: [WHERE + message]}


EPISODE_FAULTS = {
    'missing feature': (
        lambda episode: episode.pop('steps/action/rotation_delta'),
        'missing feature', 'has no steps/action/rotation_delta'),
    'images too few': (
        lambda episode: episode[IMAGE].pop(), 'unequal lengths',
        'steps/action/gripper_closedness_action has 5 numbers for 4 steps of 1'),
    'actions too few': (
        lambda episode: episode.update({
            'steps/action/world_vector': episode['steps/action/world_vector'][:4]}),
        'unequal lengths', 'steps/action/world_vector has 12 numbers for 5 steps of 3'),
    'instructions too few': (
        lambda episode: episode['steps/observation/natural_language_instruction'].pop(),
        'unequal lengths',
        'steps/observation/natural_language_instruction has 4 values for 5 steps'),
    'another type': (
        lambda episode: episode.update({IMAGE: np.zeros(5, np.float32)}),
        'missing feature', f'{IMAGE} holds float, features.json says uint8'),
    'no steps': (
        lambda episode: episode.update({
            key: values[:0] for key, values in episode.items() if key.startswith('steps/')}),
        'unequal lengths', 'holds no steps'),
    'last too early': (
        set_value('is_last', 1), 'step order', 'steps/is_last is set at step 3, 4 of 5 steps'),
    'first too late': (
        set_value('is_first', 1), 'step order', 'steps/is_first is set at step 0, 3 of 5 steps'),
}


@pytest.mark.parametrize('fault', EPISODE_FAULTS)
def test_a_broken_episode_is_named_and_skipping_loses_that_episode_alone(tmp_path, fault):
  change, reason, message = EPISODE_FAULTS[fault]
  write(tmp_path, change)
  assert open_error(tmp_path) == EPISODE + message + REMEDY
  steps = open_skipping(tmp_path)
  assert np.unique(steps.episode_N).tolist() == [0, 1, 2, 3, 4]
  assert steps.report['faults'] == {reason: 1}
  assert steps.report['lost_episodes'] == 1


@pytest.mark.parametrize('layout', ['fractal', 'bridge_oxe', 'bridge', 'language_table'])
def test_an_empty_instruction_is_named_in_every_layout(tmp_path, layout):
  rlds_fixture.write(tmp_path, layout, [
      rlds_fixture.episodes(layout, 1), [rlds_fixture.episode(layout, 3, instruction='  ')]])
  # Bridge's first step is left out anyway: it does not move.
  step = int(layout.startswith('bridge'))
  message = open_error(tmp_path, layout)
  assert message.startswith(f'tabletop/train shard 00001 episode 0 step {step}: {EMPTY} (and ')
  assert message.endswith(EMPTY_REMEDY)


def test_one_empty_instruction_loses_one_step_when_it_is_to_be_skipped(tmp_path):
  write(tmp_path, set_value('observation/natural_language_instruction', b''))
  assert open_error(tmp_path) == WHERE + EMPTY + EMPTY_REMEDY
  steps = open_skipping(tmp_path)
  assert steps_of_last_episode(steps) == [0, 1, 2, 4]
  assert steps.report['faults'] == {'empty instruction': 1}
  assert steps.note == 'skipped: empty instruction 1'
  assert 'more than max_bad_share=0.001' in open_error(tmp_path, on_bad='skip')


def test_a_reason_that_is_named_is_skipped_whatever_its_share(tmp_path):
  silent = [rlds_fixture.episode('bridge', 4, instruction='') for _ in range(9)]
  rlds_fixture.write(tmp_path, 'bridge', [[*silent, rlds_fixture.episode('bridge', 4)]])
  steps = rlds.RobotSteps(
      str(tmp_path), 'train', 'bridge', on_bad={'empty instruction': 'skip'})
  assert len(steps) == 3
  assert steps.note == 'left out: first step does not move 10; skipped: empty instruction 27'


def test_a_split_without_instructions_says_why_nothing_is_left(tmp_path):
  rlds_fixture.write(tmp_path, 'bridge', [[rlds_fixture.episode('bridge', 3, instruction='')]])
  assert open_error(tmp_path, 'bridge', on_bad={'empty instruction': 'skip'}) == (
      'tabletop/train has no usable step among 3 '
      '(left out: first step does not move 1; skipped: empty instruction 2)')
