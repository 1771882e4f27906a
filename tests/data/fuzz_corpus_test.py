"""Cases that the fuzzer found, each once read wrongly, unnamed or for ever; now as they must be."""

import json
import os
import pathlib

import numpy as np
import pytest

from rt2_train.data import caption_files
from rt2_train.data import image_text_records
from rt2_train.data import question_files
from rt2_train.data import rlds
from rt2_train.data import tfrecord
from tests.data import broken_data
from tests.data import rlds_fixture
from tests.data.broken_data import EPISODE
from tests.data.broken_data import open_error
from tests.data.broken_data import REMEDY
from tests.data.broken_data import SHARD
from tests.data.broken_data import WHERE

PICTURE = rlds_fixture.jpeg(1, 16, 16)
FRAME = PICTURE.index(b'\xff\xc0') + 5
SOUND = {'image': [PICTURE], 'caption': [b'a cup']}


def write_captions(directory: pathlib.Path, *records: dict | bytes) -> str:
  """One shard of caption records; returns its path."""
  path = str(directory / 'web.tfrecord-00000-of-00001')
  rlds_fixture.write_records(path, [
      record if isinstance(record, bytes) else rlds_fixture.serialize(record)
      for record in records])
  return path


def open_captions(directory: pathlib.Path, **policy) -> image_text_records.Records:
  return image_text_records.Records(
      str(directory / 'web.tfrecord-*'), rlds_fixture.a_processor(), **policy)


def captions_error(directory: pathlib.Path, **policy) -> str:
  with pytest.raises((ValueError, OSError)) as error:
    open_captions(directory, **policy)
  return str(error.value)


# Bytes.


def test_an_integer_that_never_ends_is_refused_at_its_tenth_byte(tmp_path):
  # Case 80: a megabyte of ff made one number of seven million bits, digit by digit.
  write_captions(tmp_path, SOUND, b'\x0a' + b'\xff' * (1 << 20))
  assert captions_error(tmp_path) == (
      'web shard 00000 record 1: the record is no tf.train.Example (the integer at byte 1 does not '
      'end)' + REMEDY)


def test_a_packed_integer_that_never_ends_is_refused():
  values = b'\x0a\x0b' + b'\xff' * 10 + b'\x01'
  entry = b'\x0a\x01n\x12\x0f\x1a\x0d' + values
  features = b'\x0a' + bytes([len(entry)]) + entry
  with pytest.raises(ValueError, match=r'no tf.train.Example \(an integer of 11 bytes\)'):
    tfrecord.example(b'\x0a' + bytes([len(features)]) + features, {'n'})


def test_what_protobuf_skips_as_unknown_is_no_value():
  # Cases 525 and 6457: a flipped bit in a tag; its field was read as if it had its old number.
  sound = rlds_fixture.serialize({'lang': [b'en']})
  value = sound.index(b'en') - 2
  assert len(tfrecord.example(sound, {'lang'})['lang']) == 1
  assert not tfrecord.example(sound[:2] + b'\x12' + sound[3:], {'lang'})
  unknown = sound[:value] + b'\x12' + sound[value + 1:]
  assert not len(tfrecord.example(unknown, {'lang'})['lang'])


def test_a_record_of_more_than_protobuf_can_hold_is_not_read_into_memory(tmp_path):
  path = write_captions(tmp_path, SOUND)
  at, head = os.path.getsize(path), (3 << 30).to_bytes(8, 'little')
  with open(path, 'r+b') as file:
    file.seek(at)
    file.write(head + tfrecord.masked_crc32c(head).to_bytes(4, 'little'))
    file.truncate(4 << 30)  # A hole: it takes no disk.
  assert captions_error(tmp_path) == (
      f'web shard 00000: the record at byte {at} has {3 << 30} bytes, more than 2 GiB' + REMEDY)


def test_a_shard_that_is_a_directory_is_named(tmp_path):
  path = broken_data.write(tmp_path)[1]
  os.unlink(path)
  os.mkdir(path)
  assert open_error(tmp_path) == SHARD + f'{path} cannot be read (Is a directory)'


@pytest.mark.parametrize('array', ['offset', 'action', 'record'])
def test_a_flipped_bit_in_the_index_is_seen_before_it_gives_a_step_another_image(
    tmp_path, caplog, array):
  broken_data.write(tmp_path)
  steps = rlds.RobotSteps(str(tmp_path), 'train', 'fractal')
  sound = [steps.images(i) for i in range(30)]
  [path] = (tmp_path / '.rt2_index').iterdir()
  data = path.read_bytes()
  at = data.index(f'{array}.npy'.encode()) + 200
  path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])
  again = rlds.RobotSteps(str(tmp_path), 'train', 'fractal')
  assert f'is stale (unreadable: {array}.npy fails its CRC)' in caplog.text
  assert [again.images(i) for i in range(30)] == sound


# Counts.


def test_episodes_beyond_the_promise_are_lost_so_that_all_others_keep_their_numbers(tmp_path):
  # Case 98: the first shard's surplus had the numbers of the second shard's episodes.
  paths = broken_data.write(tmp_path)
  records = [record.payload for record in tfrecord.records(paths[0])]
  rlds_fixture.write_records(paths[0], [*records, *records[:2]])
  steps = broken_data.open_skipping(tmp_path)
  assert steps.episode_N.tolist() == np.repeat(range(6), 5).tolist()
  assert (steps.report['episodes'], steps.report['lost_episodes']) == (8, 2)
  assert open_error(tmp_path) == (
      'tabletop/train shard 00000: holds 5 episodes, dataset_info.json promises 3; episodes lost: 2'
      + REMEDY)


def test_bytes_after_the_last_episode_are_a_fault_that_loses_nothing(tmp_path):
  path = broken_data.write(tmp_path)[1]
  size = os.path.getsize(path)
  with open(path, 'ab') as file:
    file.write(b'\0' * 51)
  assert open_error(tmp_path) == SHARD + f'the record length at byte {size} fails its CRC' + REMEDY
  steps = broken_data.open_skipping(tmp_path)
  assert len(steps) == 30
  assert (steps.report['episodes'], steps.report['lost_episodes']) == (6, 0)


def test_a_file_that_ends_too_early_loses_a_record_besides_those_it_yields(tmp_path):
  path = write_captions(tmp_path, SOUND, SOUND)
  os.truncate(path, os.path.getsize(path) - 10)
  examples = open_captions(tmp_path, on_bad='skip', max_bad_share=0.5)
  assert (len(examples), examples.note) == (1, 'skipped: truncated shard 1; 1 of 2 records lost')


def test_a_picture_without_any_caption_is_counted(tmp_path):
  write_captions(tmp_path, SOUND, SOUND | {'caption': []})
  assert captions_error(tmp_path) == 'web shard 00000 record 1: caption has 0 values' + REMEDY


# Values.


def test_a_picture_whose_header_promises_more_than_memory_is_refused_unread(tmp_path):
  huge = PICTURE[:FRAME] + b'\x4e\x20\x4e\x20' + PICTURE[FRAME + 4:]
  write_captions(tmp_path, SOUND, SOUND | {'image': [huge]})
  assert captions_error(tmp_path) == (
      'web shard 00000 record 1: image is 20000x20000, the limit is 67108864 pixels' + REMEDY)


def test_a_text_that_is_a_file_by_mistake_is_refused(tmp_path):
  write_captions(tmp_path, SOUND, SOUND | {'caption': [b'x' * 65537]})
  assert captions_error(tmp_path) == (
      'web shard 00000 record 1: caption has 65537 bytes, the limit is 65536' + REMEDY)


@pytest.mark.parametrize('change, message', [
    (lambda episode: episode.update({
        'steps/action/rotation_delta': np.zeros((5, 3), np.int64)}),
     EPISODE + 'steps/action/rotation_delta holds int64, features.json says float32'),
    (lambda episode: episode.update({
        'steps/action/terminate_episode':
            episode['steps/action/terminate_episode'].astype(np.float32)}),
     EPISODE + 'steps/action/terminate_episode holds float, features.json says int32'),
    (broken_data.set_value('observation/natural_language_instruction', b'x' * 65537),
     WHERE + 'the instruction has 65537 bytes, the limit is 65536'),
])
def test_numbers_of_another_kind_and_endless_instructions_are_named(tmp_path, change, message):
  broken_data.write(tmp_path, change)
  assert open_error(tmp_path) == message + REMEDY


def test_whether_to_stop_must_be_a_number(tmp_path):
  # NaN is not above 0.5, and so said: go on.
  broken_data.write(
      tmp_path, broken_data.set_value('action/terminate_episode', np.nan), 'bridge_oxe')
  assert open_error(tmp_path, 'bridge_oxe') == (
      WHERE + 'action/terminate_episode is nan, not a finite number' + REMEDY)


def test_half_a_surrogate_pair_is_no_instruction(tmp_path):
  broken_data.write(
      tmp_path, broken_data.set_value('observation/instruction', 0xD800), 'language_table')
  assert open_error(tmp_path, 'language_table') == (
      WHERE + 'the instruction is not Unicode code points' + REMEDY)


# Metadata.


def change_json(path: pathlib.Path, change):
  whole = json.loads(path.read_text())
  change(whole)
  path.write_text(json.dumps(whole))


@pytest.mark.parametrize('text, message', [
    (b'\xff', "is not JSON ('utf-8' codec can't decode byte 0xff in position 0: invalid start "
              'byte); copy it again'),
    (b'9' * 5000, 'is not JSON (Exceeds the limit (4300 digits) for integer string conversion: '
                  'value has 5000 digits; use sys.set_int_max_str_digits() to increase the limit); '
                  'copy it again'),
    (b'[' * 100_000, 'is not JSON (maximum recursion depth exceeded while decoding a JSON array '
                     'from a unicode string); copy it again'),
    (b'[]', 'is [], not a dict; copy the file again'),
])
def test_metadata_that_cannot_be_read_are_named(tmp_path, text, message):
  broken_data.write(tmp_path)
  (tmp_path / 'features.json').write_bytes(text)
  assert open_error(tmp_path).removeprefix(f'{tmp_path}/features.json') in (
      f' {message}', f': {message}')


NAME = r'not like [\w.+-]{0,100}; copy the file again'


@pytest.mark.parametrize('change, message', [
    (lambda info: info.update(name='../x'), f"name is '../x', {NAME}"),
    (lambda info: info.update(version='\0'), f"version is '\\x00', {NAME}"),
    (lambda info: info.pop('name'), f'name is None, {NAME}'),
    (lambda info: info.update(splits=7), 'splits is 7, not a list; copy the file again'),
    (lambda info: info['splits'].append(-1), 'a split is -1, not a dict; copy the file again'),
    (lambda info: info['splits'][0].update(shardLengths=['3', '-3']),
     "shardLengths of split 'train' is '-3', not like [0-9]{1,9}; copy the file again"),
    (lambda info: info['splits'][0].update(filepathTemplate='a\nb'),
     "filepathTemplate of split 'train' is 'a\\nb', not like [\\w.+{}-]{1,200}; copy the file "
     'again'),
])
def test_a_dataset_info_of_another_form_is_named(tmp_path, change, message):
  broken_data.write(tmp_path)
  change_json(tmp_path / 'dataset_info.json', change)
  assert open_error(tmp_path) == f'{tmp_path}/dataset_info.json: {message}'
  assert not (tmp_path / '.rt2_index').exists()


def set_shape(*dimensions):
  def change(features):
    steps = features['featuresDict']['features']['steps']['sequence']['feature']['featuresDict']
    vector = steps['features']['action']['featuresDict']['features']['world_vector']
    vector['tensor']['shape'] = {'dimensions': [*dimensions]}
  return change


@pytest.mark.parametrize('shape, message', [
    ((None,), "{path}/features.json: steps/action/world_vector: a dimension is 'None', not like "
              '-?[0-9]{{1,9}}; copy the file again'),
    (('3', '1'), "tabletop/train shard 00000 episode 0: layout 'fractal': motion cannot take "
     'action/world_vector [5, 3, 1], action/rotation_delta [5, 3], '
     'action/gripper_closedness_action [5, 1] (all the input arrays must have same number of '
     'dimensions, but the array at index 0 has 3 dimension(s) and the array at index 1 has 2 '
     'dimension(s))'),
])
def test_a_shape_that_is_none_or_another_is_named(tmp_path, shape, message):
  broken_data.write(tmp_path)
  change_json(tmp_path / 'features.json', set_shape(*shape))
  assert open_error(tmp_path) == message.format(path=tmp_path)


# JSON beside image files.


QUESTION = {'question_id': 70, 'image_id': 7, 'question': 'What is red?'}
ANSWER = {'question_id': 70, 'multiple_choice_answer': 'the apple', 'answers': [{'answer': 'tea'}]}
SCHEMA = '; this reader takes the schema of VQAv2'
COCO_SCHEMA = '; this reader takes the schema of COCO captions'


def vqa_error(directory: pathlib.Path, questions: list, annotations: list) -> str:
  """What opening says, without the directory."""
  for image in (7, 8):
    (directory / f'{image}.jpg').write_bytes(PICTURE)
  for name, entries in (('questions', questions), ('annotations', annotations)):
    (directory / f'{name}.json').write_text(json.dumps({name: entries}))
  with pytest.raises(ValueError) as error:
    question_files.Vqa(
        f'{directory}/questions.json', f'{directory}/annotations.json',
        f'{directory}/{{image_id}}.jpg', rlds_fixture.a_processor())
  return str(error.value).replace(f'{directory}/', '')


@pytest.mark.parametrize('question, message', [
    ({'question': 7}, 'questions[1] has question 7' + SCHEMA),
    ({'question_id': True}, 'questions[1] has question_id True' + SCHEMA),
    ({'image_id': ['7']}, "questions[1] has image_id ['7']" + SCHEMA),
    ({'question_id': 'a\nb'}, "questions[1] has question_id 'a\\nb'" + SCHEMA),
    ({'question_id': 70}, 'questions[1] has question_id 70, as another before it; leave one of '
                          'them out'),
])
def test_a_question_of_another_form_is_named(tmp_path, question, message):
  asked = [QUESTION, QUESTION | {'question_id': 71} | question]
  assert vqa_error(tmp_path, asked, [ANSWER]) == 'questions.json: ' + message


def test_an_entry_that_is_no_object_is_named(tmp_path):
  assert vqa_error(tmp_path, [QUESTION, 0], [ANSWER]) == (
      'questions.json: questions[1] is 0, not an object' + SCHEMA)


@pytest.mark.parametrize('answer, message', [
    ({'multiple_choice_answer': {}},
     'annotations.json: annotations[1] has multiple_choice_answer {}' + SCHEMA),
    ({'answers': None},
     'annotations.json: annotations[1].answers is None, not a list' + SCHEMA),
    ({'answers': ['tea']},
     "annotations.json: annotations[1].answers[0] is 'tea', not an object" + SCHEMA),
    ({'multiple_choice_answer': '\ud800'},
     "vqa question 71: the answer is not UTF-8 ('utf-8' codec can't decode byte 0xed in "
     'position 0: invalid continuation byte)' + REMEDY),
    # The last of two answers was learnt, and one question lost its own.
    ({'question_id': 70}, 'annotations.json: annotations[1] has question_id 70, as another before '
                          'it; leave one of them out'),
])
def test_an_answer_of_another_form_is_named(tmp_path, answer, message):
  asked = [QUESTION, QUESTION | {'question_id': 71, 'image_id': 8}]
  assert vqa_error(tmp_path, asked, [ANSWER, ANSWER | {'question_id': 71} | answer]) == message


@pytest.mark.parametrize('file_name, message', [
    ('\0.jpg', "captions.json: images[0] has file_name '\\x00.jpg'" + COCO_SCHEMA),
    ('\ud800', "captions.json: images[0] has file_name '\\ud800'" + COCO_SCHEMA),
    (7, 'captions.json: images[0] has file_name 7' + COCO_SCHEMA),
    ('', "captions.json: images[0] has file_name ''" + COCO_SCHEMA),
    ('.', 'coco_captions annotation 10: . cannot be read (Is a directory)' + REMEDY),
])
def test_an_image_that_cannot_be_a_file_is_named(tmp_path, file_name, message):
  (tmp_path / 'captions.json').write_text(json.dumps({
      'images': [{'id': 1, 'file_name': file_name}],
      'annotations': [{'id': 10, 'image_id': 1, 'caption': 'a cup'}]}))
  with pytest.raises(ValueError) as error:
    caption_files.CocoCaptions(
        str(tmp_path / 'captions.json'), str(tmp_path), rlds_fixture.a_processor())
  assert str(error.value).replace(f'{tmp_path}/', '') == message
