"""The side-car index: one pread per image, whole or absent, rebuilt when the data change."""

import concurrent.futures
import json
import multiprocessing
import os
import zipfile

import numpy as np
import pytest

from rt2_train.data import faults
from rt2_train.data import index
from rt2_train.data import tfrecord
from tests.data import rlds_fixture


def read(record: bytes) -> index.Rows:
  """A reader of records that hold images, numbers and words."""
  found = tfrecord.example(record, {'image', 'number', 'word'})
  spans = np.array(found['image'].spans, np.int64)
  return index.Rows(
      steps_R=np.arange(len(spans)), images_RxCx2=spans[:, None],
      columns={'number': found['number'].values},
      texts={'word': [record[a:z].decode() for a, z in found['word'].spans]}, seen=len(spans))


def record(first: int, size: int) -> dict:
  numbers = np.arange(first, first + size)
  return {
      'image': [b'image-%d' % n * (n + 1) for n in numbers],
      'number': numbers,
      'word': [('even', 'odd')[n % 2].encode() for n in numbers],
  }


def write_shards(directory) -> list[index.Shard]:
  shards = []
  for number, records in enumerate([[record(0, 3), record(3, 2)], [record(5, 4)]]):
    path = str(directory / f'data-{number:05d}-of-00002')
    rlds_fixture.write_records(path, [rlds_fixture.serialize(flat) for flat in records])
    shards.append(index.Shard(path, len(records)))
  return shards


def open_it(directory, shards, spec='spec', reader=read) -> index.Index:
  return index.open_index('data/train', shards, reader, spec=spec,
                          path=index.index_path(str(directory), None, 'train'))


def refuse(record: bytes) -> index.Rows:
  raise AssertionError('a fresh index was read from the records again')


def test_every_row_has_its_image_columns_and_text(tmp_path):
  opened = open_it(tmp_path, write_shards(tmp_path))
  assert len(opened) == 9
  for row in range(9):
    assert opened.image(row) == b'image-%d' % row * (row + 1)
    assert opened.columns['number'][row] == row
    assert opened.texts['word'][opened.columns['word'][row]] == ('even', 'odd')[row % 2]
  assert len(opened.texts['word']) == 2
  assert opened.example_id(4) == 'data/train shard 00000 episode 1 step 1'
  assert opened.example_id(8) == 'data/train shard 00001 episode 0 step 3'


def test_it_is_one_file_beside_the_data_and_opens_without_reading_records(tmp_path):
  shards = write_shards(tmp_path)
  built = open_it(tmp_path, shards)
  assert os.listdir(tmp_path / '.rt2_index') == ['train.npz']
  opened = open_it(tmp_path, shards, reader=refuse)
  assert opened.fingerprint == built.fingerprint
  assert opened.image(7) == built.image(7)


def test_arrays_are_memory_mapped_and_numpy_reads_them_without_pickle(tmp_path):
  opened = open_it(tmp_path, write_shards(tmp_path))
  assert isinstance(opened.columns['number'].base, np.memmap)
  assert not opened.columns['number'].flags.writeable
  with np.load(opened.path, allow_pickle=False) as archive:
    for key, column in opened.columns.items():
      np.testing.assert_array_equal(archive[key], column)
  with zipfile.ZipFile(opened.path) as archive:
    assert json.loads(archive.read('header.json'))['records'] == 3


def test_the_fingerprint_does_not_depend_on_the_place_but_on_the_data(tmp_path):
  fingerprints = []
  for name in 'ab':
    (tmp_path / name).mkdir()
    shards = write_shards(tmp_path / name)
    fingerprints.append(open_it(tmp_path / name, shards).fingerprint)
  assert fingerprints[0] == fingerprints[1]
  rlds_fixture.write_records(shards[1].path, [rlds_fixture.serialize(record(6, 4))])
  assert open_it(tmp_path / 'b', shards).fingerprint != fingerprints[0]


@pytest.mark.parametrize('change, why', [
    ('touch', 'data-00001-of-00002 changed, 1 of 2 shards'),
    ('rename', 'data-00009-of-00002 changed, 1 of 2 shards'),
    ('fewer', '2 shards then, 1 now'),
    ('spec', 'written by another layout or version'),
    ('damage', 'unreadable: File is not a zip file'),
])
def test_a_stale_index_is_built_again_and_says_why(tmp_path, caplog, change, why):
  shards = write_shards(tmp_path)
  opened = open_it(tmp_path, shards)
  spec = 'spec'
  if change == 'touch':
    os.utime(shards[1].path, ns=(1, 1))
  elif change == 'rename':
    os.rename(shards[1].path, tmp_path / 'data-00009-of-00002')
    shards[1] = index.Shard(str(tmp_path / 'data-00009-of-00002'), 1)
  elif change == 'fewer':
    shards.pop()
  elif change == 'spec':
    spec = 'another'
  elif change == 'damage':
    os.truncate(opened.path, 100)
  calls = []
  again = open_it(tmp_path, shards, spec, lambda payload: calls.append(1) or read(payload))
  assert len(calls) == (2 if change == 'fewer' else 3)
  assert len(again) == (5 if change == 'fewer' else 9)
  assert f'is stale ({why}): indexing data/train again' in caplog.text


def test_an_index_that_fails_half_way_leaves_nothing_behind(tmp_path):
  calls = []

  def fail(payload: bytes) -> index.Rows:
    calls.append(payload)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return read(payload)

  with pytest.raises(KeyboardInterrupt):
    open_it(tmp_path, write_shards(tmp_path), reader=fail)
  assert os.listdir(tmp_path / '.rt2_index') == []


def test_a_place_that_cannot_be_written_is_refused_before_the_data_are_read(tmp_path):
  shards = write_shards(tmp_path)
  (tmp_path / '.rt2_index').write_text('a file where the directory should be')
  with pytest.raises(OSError, match=f'cannot write an index into {tmp_path}/.rt2_index .*; '
                     'pass index_dir, a directory that can be written'):
    open_it(tmp_path, shards, reader=refuse)


def test_two_datasets_that_share_an_index_each_have_their_name(tmp_path):
  def refuse_last(payload: bytes) -> index.Rows:
    rows = read(payload)
    if rows.columns['number'][0] == 5:
      raise faults.Fault('not an Example', 'will not do')
    return rows

  shards = write_shards(tmp_path)
  open_it(tmp_path, shards, reader=refuse_last)
  again = index.open_index('web/val', shards, refuse, spec='spec',
                           path=index.index_path(str(tmp_path), None, 'train'))
  assert again.example_id(4) == 'web/val shard 00000 episode 1 step 1'
  assert again.header['name'] == 'web/val'
  assert again.header['first_faults'] == {
      'not an Example': ['web/val shard 00001 episode 0: will not do']}


def test_however_many_records_a_shard_has_their_rows_stay_in_order(tmp_path):
  path = str(tmp_path / 'data-00000')
  rlds_fixture.write_records(
      path, [rlds_fixture.serialize(record(number, 1)) for number in range(5)] * 2000)
  opened = open_it(tmp_path, [index.Shard(path)])
  assert opened.columns['record'].tolist() == list(range(10_000))
  assert opened.columns['number'].tolist() == list(range(5)) * 2000
  assert opened.image(9_998) == opened.image(3)


def test_other_formats_bring_their_own_walk_through_a_shard(tmp_path):
  def halves(path: str):
    with open(path, 'rb') as file:
      data = file.read()
    for start in (0, 5):
      yield tfrecord.Record(start, data[start:start + 5], tfrecord.masked_crc32c(
          data[start:start + 5]))

  def whole(payload: bytes) -> index.Rows:
    spans = np.array([[[0, 2], [2, len(payload)]]], np.int64)
    return index.Rows(np.zeros(1), spans, columns={}, texts={}, seen=1)

  (tmp_path / 'words').write_bytes(b'ab123cd456')
  opened = index.open_index(
      'words', [index.Shard(str(tmp_path / 'words'))], whole, spec='', records=halves,
      unit='record', path=index.index_path(str(tmp_path), None, 'words'))
  assert [(opened.image(row), opened.text(row, 1)) for row in range(2)] == [
      (b'ab', b'123'), (b'cd', b'456')]
  (tmp_path / 'words').write_bytes(b'ab123cd')
  with pytest.raises(ValueError, match='words shard 00000 record 1 text 0: .* inside the text'):
    opened.text(1, 1)


def test_a_missing_shard_is_named(tmp_path):
  shards = write_shards(tmp_path)
  os.unlink(shards[1].path)
  with pytest.raises(FileNotFoundError, match='data/train: .*data-00001-of-00002 is missing'):
    open_it(tmp_path, shards)


def test_a_shard_cut_after_indexing_is_named_when_its_image_is_read(tmp_path):
  shards = write_shards(tmp_path)
  opened = open_it(tmp_path, shards)
  os.truncate(shards[1].path, 40)
  with pytest.raises(ValueError, match='data/train shard 00001 episode 0 step 3: .* ends inside '
                     'the image, it was cut after indexing; copy the shard again'):
    opened.image(8)


def test_a_record_the_reader_cannot_use_is_counted_and_the_rest_is_kept(tmp_path):
  def pick(payload: bytes) -> index.Rows:
    rows = read(payload)
    if rows.columns['number'][0] == 3:
      raise faults.Fault('not an Example', 'will not do')
    return rows

  opened = open_it(tmp_path, write_shards(tmp_path), reader=pick)
  assert len(opened) == 7
  assert opened.header['lost_records'] == 1
  assert opened.header['first_faults'] == {
      'not an Example': ['data/train shard 00000 episode 1: will not do']}


def test_threads_read_the_right_images_from_more_shards_than_files_stay_open(tmp_path):
  shards = []
  for number in range(300):
    path = str(tmp_path / f'data-{number:05d}')
    rlds_fixture.write_records(path, [rlds_fixture.serialize(record(number, 1))])
    shards.append(index.Shard(path, 1))
  opened = open_it(tmp_path, shards)
  before = len(os.listdir('/proc/self/fd'))
  rows = np.random.default_rng(0).integers(0, 300, 4000).tolist()
  with concurrent.futures.ThreadPoolExecutor(8) as threads:
    read_images = list(threads.map(opened.image, rows))
  assert read_images == [b'image-%d' % row * (row + 1) for row in rows]
  assert len(os.listdir('/proc/self/fd')) - before <= 256


def _images(opened: index.Index, queue):
  queue.put([opened.image(row) for row in range(9)])


def test_a_forked_process_reads_through_the_files_its_parent_opened(tmp_path):
  opened = open_it(tmp_path, write_shards(tmp_path))
  expected = [opened.image(row) for row in range(9)]
  context = multiprocessing.get_context('fork')
  queue = context.Queue()
  children = [context.Process(target=_images, args=(opened, queue)) for _ in range(2)]
  for child in children:
    child.start()
  results = [queue.get(timeout=20) for _ in children]
  for child in children:
    child.join()
  assert results == [expected, expected]
