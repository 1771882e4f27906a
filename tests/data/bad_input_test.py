"""Each fault a robot dataset can have: found when it is indexed, named exactly, counted, capped.

TensorFlow's own readers drop, swallow or misname most of these; every test states the whole
message a person gets.
"""

import json
import os
import re
import struct

import numpy as np
import pytest

from rt2_train.data import faults
from rt2_train.data import rlds
from rt2_train.data import tfrecord
from tests.data import rlds_fixture

IMAGE = 'steps/observation/image'
REMEDY = "; write the data again, or leave what is broken out with on_bad='skip'"
WHERE = 'tabletop/train shard 00001 episode 2 step 3: '
EPISODE = 'tabletop/train shard 00001 episode 2: '
SHARD = 'tabletop/train shard 00001: '


def write(directory, change=lambda episode: None, schema='fractal') -> list[str]:
  """Two shards of three episodes of five steps; `change` breaks the last episode."""
  first, second = rlds_fixture.episodes(schema, 3), rlds_fixture.episodes(schema, 3, 5, 3)
  change(second[2])
  return rlds_fixture.write(directory, schema, [first, second])


def open_error(directory, layout='fractal', **kwargs) -> str:
  with pytest.raises((ValueError, OSError)) as error:
    rlds.RobotSteps(str(directory), 'train', layout, **kwargs)
  assert '\n' not in str(error.value)
  return str(error.value)


def open_skipping(directory, layout='fractal') -> rlds.RobotSteps:
  return rlds.RobotSteps(str(directory), 'train', layout, on_bad='skip', max_bad_share=0.5)


def steps_of_last_episode(steps: rlds.RobotSteps) -> list[int]:
  return [steps.step(i).step for i in np.flatnonzero(steps.episode_N == 5)]


def set_image(encoded):
  def change(episode):
    original = episode[IMAGE][3]
    episode[IMAGE][3] = encoded(original) if callable(encoded) else encoded
  return change


def set_value(key, value, step=3):
  def change(episode):
    episode[f'steps/{key}'][step] = value
  return change


def without_frame_header(encoded: bytes) -> bytes:
  return encoded.replace(b'\xff\xc0', b'\xff\xfe')


JPEG = rlds_fixture.jpeg(503)
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
EMPTY = 'the instruction is empty'
EMPTY_REMEDY = ("; write it, or leave such examples out with on_bad={'empty instruction': 'skip'}")


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


def starts(path: str) -> list[int]:
  return [record.offset - 12 for record in tfrecord.records(path)]


def overwrite(path: str, position: int, data: bytes):
  with open(path, 'r+b') as file:
    file.seek(position)
    file.write(data)


def test_a_flipped_payload_byte_is_named_and_costs_one_episode(tmp_path):
  path = write(tmp_path)[1]
  overwrite(path, starts(path)[1] + 500, b'\x00\x01\x02')
  message = 'tabletop/train shard 00001 episode 1: the record fails its CRC'
  assert open_error(tmp_path) == message + REMEDY
  steps = open_skipping(tmp_path)
  assert np.unique(steps.episode_N).tolist() == [0, 1, 2, 3, 5]
  assert steps.report['faults'] == {'record CRC': 1}


def test_a_flipped_length_costs_the_rest_of_its_shard_and_says_how_much(tmp_path):
  path = write(tmp_path)[1]
  at = starts(path)[1]
  overwrite(path, at, b'\xff')
  message = SHARD + f'the record length at byte {at} fails its CRC; episodes lost: 2'
  assert open_error(tmp_path) == message + REMEDY
  steps = open_skipping(tmp_path)
  assert np.unique(steps.episode_N).tolist() == [0, 1, 2, 3]
  assert steps.report['lost_episodes'] == 2
  assert steps.note == 'skipped: truncated shard 1; 2 of 6 records lost'


def test_a_truncated_shard_says_where_it_ends_and_what_is_lost(tmp_path):
  path = write(tmp_path)[1]
  at, size = starts(path)[2], os.path.getsize(path)
  os.truncate(path, size - 1000)
  message = (SHARD + f'ends inside the record at byte {at} ({size - 1000} of {size} bytes); '
             'episodes lost: 1')
  assert open_error(tmp_path) == message + REMEDY
  assert np.unique(open_skipping(tmp_path).episode_N).tolist() == [0, 1, 2, 3, 4]


def test_a_shard_cut_between_two_records_is_noticed(tmp_path):
  path = write(tmp_path)[1]
  os.truncate(path, starts(path)[2])
  assert open_error(tmp_path) == (
      SHARD + 'holds 2 episodes, dataset_info.json promises 3; episodes lost: 1' + REMEDY)


def test_an_empty_shard_is_named(tmp_path):
  path = write(tmp_path)[1]
  os.truncate(path, 0)
  assert open_error(tmp_path) == (
      SHARD + 'is empty (0 bytes, 3 episodes expected); episodes lost: 3' + REMEDY)
  steps = open_skipping(tmp_path)
  assert len(steps) == 15 and steps.report['lost_episodes'] == 3


def test_a_missing_shard_is_always_an_error(tmp_path):
  path = write(tmp_path)[1]
  os.unlink(path)
  message = (f'tabletop/train shard 00001 is missing: {path}; dataset_info.json promises 2 shards, '
             'copy the rest')
  assert open_error(tmp_path) == message
  assert open_error(tmp_path, on_bad='skip', max_bad_share=1) == message


def test_a_record_that_is_no_example_is_named(tmp_path):
  path = write(tmp_path)[1]
  records = [record.payload for record in tfrecord.records(path)]
  rlds_fixture.write_records(path, [*records[:2], b'\x0a\x05abc'])
  assert open_error(tmp_path) == (
      EPISODE + 'the record is no tf.train.Example (a field ends at byte 7, its message at 5)'
      + REMEDY)


@pytest.mark.parametrize('name', ['features.json', 'dataset_info.json'])
def test_a_missing_metadata_file_is_named(tmp_path, name):
  write(tmp_path / '0.1.0')
  os.unlink(tmp_path / '0.1.0' / name)
  assert open_error(tmp_path / '0.1.0') == (
      f'{tmp_path}/0.1.0/{name} is missing; a TFDS directory holds features.json, '
      'dataset_info.json and its shards')


def test_the_parent_of_a_version_directory_says_where_to_look(tmp_path):
  write(tmp_path / '0.1.0')
  assert open_error(tmp_path) == (
      f'{tmp_path}/features.json is missing; did you mean {tmp_path}/0.1.0?')


def test_metadata_that_is_no_json_is_named(tmp_path):
  write(tmp_path)
  (tmp_path / 'features.json').write_text('{"featuresDict": ')
  assert re.fullmatch(f'{tmp_path}/features.json is not JSON .*; copy it again',
                      open_error(tmp_path))


def test_another_file_format_is_refused(tmp_path):
  write(tmp_path)
  info = json.loads((tmp_path / 'dataset_info.json').read_text())
  (tmp_path / 'dataset_info.json').write_text(json.dumps({**info, 'fileFormat': 'array_record'}))
  assert open_error(tmp_path) == (
      f"{tmp_path}/dataset_info.json: files are 'array_record'; this reader takes 'tfrecord', "
      'convert them with tfds.convert_format')


def test_a_remote_directory_is_refused():
  assert open_error('gs://bucket/fractal/0.1.0') == (
      'gs://bucket/fractal/0.1.0 is remote; copy it to local disk, or mount it and give the mount')


@pytest.mark.parametrize('split, message', [
    ('test', "tabletop has no split 'test'; it has ['train']"),
    ('train[:10', "split is 'train[:10'; it is a name, or a part such as 'train[:95%]'"),
    ('train[6:]', 'tabletop/train[6:] is empty: episodes 6 to 6 of 6 hold no usable step; take a '
     'larger part of the split'),
])
def test_a_split_that_is_not_there_is_refused(tmp_path, split, message):
  write(tmp_path)
  with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
    rlds.RobotSteps(str(tmp_path), split, 'fractal')


def test_an_unknown_layout_lists_those_there_are(tmp_path):
  write(tmp_path)
  assert open_error(tmp_path, 'fractl') == (
      "no layout 'fractl'; there are fractal, bridge_oxe, bridge, language_table, or declare your "
      'own: rt2_train.data.rlds.Layout(name=..., images=..., instruction=..., motion_keys=..., '
      'motion=...)')


def test_a_layout_that_reads_what_the_dataset_lacks_is_refused_before_indexing(tmp_path):
  write(tmp_path)
  assert open_error(tmp_path, 'language_table') == (
      f'{tmp_path}/features.json has no steps/observation/rgb, steps/observation/instruction, '
      "steps/action, which layout 'language_table' reads; choose another of fractal, bridge_oxe, "
      'bridge, language_table, or declare yours')
  assert not (tmp_path / '.rt2_index').exists()


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


def test_several_faults_are_counted_behind_the_first(tmp_path):
  def change(episode):
    set_image(b'')(episode)
    set_value('action/world_vector', np.nan, step=1)(episode)
  write(tmp_path, change)
  assert open_error(tmp_path) == (
      'tabletop/train shard 00001 episode 2 step 1: dx is nan, not a finite number '
      '(and 1 more; bad action: 1, not an image: 1)' + REMEDY)


def test_the_policy_may_differ_by_fault(tmp_path):
  write(tmp_path, set_image(b''))
  policy = {'not an image': 'skip'}
  assert len(rlds.RobotSteps(str(tmp_path), 'train', 'fractal', on_bad=policy)) == 29
  assert open_error(tmp_path, on_bad={'not an image': 'error', 'bad action': 'skip'}) == (
      WHERE + 'observation/image: image is empty (0 bytes)' + REMEDY)


def test_skipping_is_capped(tmp_path):
  write(tmp_path, set_image(b''))
  assert open_error(tmp_path, on_bad='skip') == (
      'tabletop/train: 1 of 30 steps are broken, more than max_bad_share=0.001 allows '
      f'(not an image: 1); first: {WHERE}observation/image: image is empty (0 bytes); write the '
      "data again, raise max_bad_share, or name the reasons in on_bad ({'not an image': 'skip'})")


@pytest.mark.parametrize('policy', ['ignore', {'not an image': 'drop'}, {'typo': 'skip'}])
def test_an_unknown_policy_is_refused(tmp_path, policy):
  write(tmp_path)
  assert open_error(tmp_path, on_bad=policy).startswith(
      f"on_bad is {policy!r}; it takes 'error', 'skip', or one of them for each of empty shard, ")


def test_the_cap_is_a_share(tmp_path):
  write(tmp_path)
  assert open_error(tmp_path, max_bad_share=5) == 'max_bad_share is 5; it is a share, 0 to 1'


def test_a_jpeg_broken_after_indexing_names_its_step_when_it_is_decoded(tmp_path):
  path = write(tmp_path)[1]
  processor = rlds_fixture.a_processor()
  examples = rlds.RobotExamples(str(tmp_path), 'train', processor)
  encoded = examples.step(28).images[0]
  with open(path, 'rb') as file:
    at = file.read().index(encoded)
  status = os.stat(path)
  overwrite(path, at, b'\0' * 40)
  with pytest.raises(ValueError, match=f'^{re.escape(WHERE)}not an image: .*; the shard changed '
                     'after indexing, or was broken when written: write it again$'):
    examples[28]
  # The others are untouched, and a fresh process finds the change when it opens the data.
  assert examples[27]['images'].any()
  os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
  assert open_error(tmp_path) == EPISODE + 'the record fails its CRC' + REMEDY


def test_a_broken_jpeg_that_looks_sound_from_outside_is_named_when_it_is_decoded(tmp_path):
  damaged = bytearray(JPEG)
  tables = JPEG.index(b'\xff\xc4')
  damaged[tables + 5:tables + 21] = b'\xff' * 16
  write(tmp_path, set_image(bytes(damaged)))
  examples = rlds.RobotExamples(str(tmp_path), 'train', rlds_fixture.a_processor())
  with pytest.raises(ValueError, match=f'^{re.escape(WHERE)}JPEG corrupt'):
    examples[28]


def test_png_and_grey_images_and_padding_after_the_jpeg_are_sound():
  import cv2  # Writes the formats that simplejpeg does not.
  grey = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
  for encoded in (
      cv2.imencode('.png', grey)[1].tobytes(), cv2.imencode('.jpg', grey)[1].tobytes(),
      cv2.imencode('.webp', grey)[1].tobytes(), JPEG + b'\0' * 5, JPEG + b'\0' * 500):
    data = b'before' + encoded + b'after'
    assert faults.image_size(data, 6, 6 + len(encoded)) == (48, 64)


def test_a_truncated_png_is_named():
  import cv2
  encoded = cv2.imencode('.png', np.zeros((48, 64), np.uint8))[1].tobytes()[:-1]
  with pytest.raises(faults.Fault, match=r'^PNG truncated \(\d+ bytes, no end chunk\)$') as error:
    faults.image_size(encoded, 0, len(encoded))
  assert error.value.reason == 'truncated image'


def test_a_jpeg_whose_thumbnail_is_whole_but_whose_picture_is_not_is_truncated():
  thumbnail = rlds_fixture.jpeg(1, 8, 8)
  segment = b'\xff\xe1' + struct.pack('>H', 2 + len(thumbnail)) + thumbnail
  whole = JPEG[:2] + segment + JPEG[2:]
  assert faults.image_size(whole, 0, len(whole)) == (48, 64)
  with pytest.raises(faults.Fault, match='JPEG truncated'):
    faults.image_size(whole[:-200], 0, len(whole) - 200)
