"""Broken shards and metadata, and splits and layouts that are not there, each named exactly."""

import json
import os
import re

import numpy as np
import pytest

from rt2_train.data import rlds
from rt2_train.data import tfrecord
from tests.data import rlds_fixture
from tests.data.broken_data import EPISODE
from tests.data.broken_data import open_error
from tests.data.broken_data import open_skipping
from tests.data.broken_data import overwrite
from tests.data.broken_data import REMEDY
from tests.data.broken_data import SHARD
from tests.data.broken_data import starts
from tests.data.broken_data import write


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
      "no layout 'fractl'; did you mean 'fractal'? There are fractal, bridge_oxe, bridge, "
      'language_table, datasets of Open X-Embodiment by their own names '
      '(rt2_train/data/open_x.py), or declare your own, as at the end of gin/data/my_robot.gin')


def test_a_layout_that_reads_what_the_dataset_lacks_is_refused_before_indexing(tmp_path):
  write(tmp_path)
  assert open_error(tmp_path, 'language_table') == (
      f'{tmp_path}/features.json has no steps/observation/rgb, steps/observation/instruction, '
      "steps/action, steps/observation/effector_translation, which layout 'language_table' reads; "
      'choose another of fractal, bridge_oxe, bridge, language_table, or declare yours')
  assert not (tmp_path / '.rt2_index').exists()
