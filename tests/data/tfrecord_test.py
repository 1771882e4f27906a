"""TFRecord framing and tf.train.Example as TensorFlow writes them, read without it."""

import numpy as np
import pytest
import tensorflow as tf

from rt2_train.data import tfrecord
from tests.data import rlds_fixture


def write(path, records: list[bytes]) -> str:
  rlds_fixture.write_records(str(path), records)
  return str(path)


def test_records_are_what_tensorflow_wrote_and_lie_where_the_offset_says(tmp_path):
  payloads = [b'', b'a', bytes(range(256)) * 40]
  path = write(tmp_path / 'a.tfrecord', payloads)
  found = list(tfrecord.records(path))
  assert [record.payload for record in found] == payloads
  assert all(record.intact for record in found)
  with open(path, 'rb') as file:
    file.seek(found[2].offset)
    assert file.read(5) == bytes(range(5))


def test_the_crc_is_castagnoli_masked():
  # CRC32C('123456789') is 0xe3069283 (RFC 3720); TFRecord rotates it right by 15 and adds.
  rotated = (0xE3069283 >> 15 | 0xE3069283 << 17) & 0xFFFFFFFF
  assert tfrecord.masked_crc32c(b'123456789') == (rotated + 0xA282EAD8) & 0xFFFFFFFF


def test_a_flipped_payload_byte_is_seen_and_the_next_record_still_read(tmp_path):
  path = write(tmp_path / 'a.tfrecord', [b'first', b'second'])
  with open(path, 'r+b') as file:
    file.seek(14)
    file.write(b'X')
  assert [record.intact for record in tfrecord.records(path)] == [False, True]


def test_a_flipped_length_ends_the_file_with_its_place(tmp_path):
  path = write(tmp_path / 'a.tfrecord', [b'first', b'second'])
  with open(path, 'r+b') as file:
    file.seek(21)
    file.write(b'X')
  records = tfrecord.records(path)
  assert next(records).payload == b'first'
  with pytest.raises(tfrecord.CorruptFileError, match='length at byte 21 fails its CRC'):
    next(records)


@pytest.mark.parametrize('cut, message', [
    (1, r'ends inside the record at byte 21 \(42 of 43 bytes\)'),
    (16, 'ends inside a record header at byte 21 of 27'),
])
def test_a_truncated_file_ends_with_its_place(tmp_path, cut, message):
  path = write(tmp_path / 'a.tfrecord', [b'first', b'second'])
  with open(path, 'r+b') as file:
    file.truncate(43 - cut)
  records = tfrecord.records(path)
  next(records)
  with pytest.raises(tfrecord.CorruptFileError, match=message):
    next(records)


def test_an_example_gives_spans_of_bytes_and_arrays_of_numbers():
  integers = np.array([0, 1, 127, 128, 300, 2**40, -1, -(2**63), 2**63 - 1])
  record = rlds_fixture.serialize({
      'image': [b'abc', b'', b'defg'],
      'floats': np.array([1.5, np.nan, -2], np.float32),
      'integers': integers,
      'other': np.arange(3),
  })
  found = tfrecord.example(record, {'image', 'floats', 'integers', 'absent'})
  assert set(found) == {'image', 'floats', 'integers'}
  assert [record[a:z] for a, z in found['image'].spans] == [b'abc', b'', b'defg']
  np.testing.assert_array_equal(found['floats'].values, np.array([1.5, np.nan, -2], np.float32))
  np.testing.assert_array_equal(found['integers'].values, integers)


def test_lists_that_were_never_set_or_are_empty_have_no_values():
  feature = {'unset': tf.train.Feature(), 'none': tf.train.Feature(
      int64_list=tf.train.Int64List(value=[]))}
  record = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
  found = tfrecord.example(record, {'unset', 'none'})
  assert len(found['unset']) == len(found['none']) == 0


def test_numbers_that_are_not_packed_are_read_too():
  # Old writers repeat the field: Int64List {1, 300} and FloatList {1.0} without packing.
  def message(field: int, body: bytes) -> bytes:
    return bytes([field << 3 | 2, len(body)]) + body

  integers = message(3, b'\x08\x01\x08\xac\x02')
  floats = message(2, b'\x0d' + np.float32(1).tobytes())
  entries = b''.join(
      message(1, message(1, key) + message(2, feature))
      for key, feature in [(b'i', integers), (b'f', floats)])
  found = tfrecord.example(message(1, entries), {'i', 'f'})
  assert found['i'].values.tolist() == [1, 300]
  assert found['f'].values.tolist() == [1.0]


@pytest.mark.parametrize('record', [b'\x0a\x05abc', b'\x0b', b'\xff' * 12, b'\x0a\x02\x0a\x80'])
def test_bytes_that_are_no_example_are_refused(record):
  with pytest.raises(ValueError, match='the record is no tf.train.Example'):
    tfrecord.example(record, {'a'})
