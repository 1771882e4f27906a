"""TFRecord files without TensorFlow: the framing, its CRC32C, and where the values of a
tf.train.Example lie in a record.

Images stay byte spans, so that an index can point into the shard instead of copying it.
"""

from collections.abc import Collection, Iterator
import dataclasses
import os
import struct

import google_crc32c
import numpy as np

from rt2_train.data import faults

# Tags, field << 3 | wire type. What has another tag is skipped as unknown, as protobuf does.
_FIRST, _SECOND = 0x0A, 0x12  # Of a message, as bytes: messages, strings, packed numbers.
_BYTES, _FLOAT, _INT64 = 0x0A, 0x12, 0x1A  # Of tf.train.Feature.
_FLOATS, _INT64S = (_FIRST, 0x0D), (_FIRST, 0x08)  # Packed, or one by one.
_LENGTH = 2  # Wire type.
_LONGEST_RECORD = 1 << 31  # Protobuf's own limit.
_LONGEST_VARINT = 10  # Bytes that 64 bits take, seven in each.


class CorruptFileError(ValueError):
  """A shard cannot be read past some byte; the records before it are sound."""


@dataclasses.dataclass(frozen=True)
class Record:
  """One record.

  Attributes:
    offset: byte of the file at which the payload starts.
    payload: what the writer handed in, for our data a serialised tf.train.Example.
    crc: the masked CRC32C of the payload as the file states it.
  """

  offset: int
  payload: bytes
  crc: int

  @property
  def intact(self) -> bool:
    """Whether the payload is what was written."""
    return masked_crc32c(self.payload) == self.crc

  def check(self) -> None:
    """Raises Fault where the payload is not what was written."""
    if not self.intact:
      raise faults.Fault('record CRC', 'the record fails its CRC')


@dataclasses.dataclass(frozen=True)
class Feature:
  """The values of one key of a tf.train.Example.

  Attributes:
    kind: 'bytes', 'float', 'int64', or 'empty' where the list was never set.
    spans: for bytes, (start, stop) of each value within the record.
    values: for numbers, float32 or int64 [N], flattened as on disk.
  """

  kind: str
  spans: list[tuple[int, int]]
  values: np.ndarray

  def __len__(self) -> int:
    return len(self.spans) if self.kind == 'bytes' else len(self.values)


def masked_crc32c(data: bytes) -> int:
  """CRC32C of `data`, rotated and offset as TFRecord stores it."""
  crc = google_crc32c.value(data)
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: str) -> Iterator[Record]:
  """The records of one file, in order, read once from front to back.

  The payload's CRC is left to `Record.intact`, because one may read on after a bad payload.

  Raises:
    CorruptFileError: a length fails its CRC, or the file ends inside a record.
  """
  with open(path, 'rb', buffering=1 << 20) as file:
    size = os.fstat(file.fileno()).st_size
    start = 0
    while start < size:
      head = file.read(12)
      if len(head) < 12:
        raise CorruptFileError(f'ends inside a record header at byte {start} of {size}')
      length, length_crc = struct.unpack('<QI', head)
      if masked_crc32c(head[:8]) != length_crc:
        raise CorruptFileError(f'the record length at byte {start} fails its CRC')
      stop = start + 12 + length + 4
      if stop <= size and length >= _LONGEST_RECORD:
        raise CorruptFileError(f'the record at byte {start} has {length} bytes, more than 2 GiB')
      if stop > size:
        raise CorruptFileError(f'ends inside the record at byte {start} ({size} of {stop} bytes)')
      payload = file.read(length)
      (crc,) = struct.unpack('<I', file.read(4))
      yield Record(start + 12, payload, crc)
      start = stop


def example(record: bytes, keys: Collection[str]) -> dict[str, Feature]:
  """Those of `keys` that a serialised tf.train.Example holds.

  Raises:
    ValueError: the bytes are no tf.train.Example.
  """
  found = {}
  try:
    for tag, start, stop in _fields(record, 0, len(record)):
      if tag != _FIRST:
        continue
      for tag, entry, entry_stop in _fields(record, start, stop):
        if tag != _FIRST:
          continue
        parts = {tag: (a, z) for tag, a, z in _fields(record, entry, entry_stop)}
        if _FIRST not in parts:
          raise ValueError('an entry of its map has no key')
        key = record[slice(*parts[_FIRST])].decode()
        if key in keys:
          found[key] = _feature(record, *parts.get(_SECOND, (0, 0)))
  except (IndexError, ValueError) as e:
    raise ValueError(f'the record is no tf.train.Example ({e})') from e
  return found


def _feature(record: bytes, start: int, stop: int) -> Feature:
  feature = Feature('empty', [], np.zeros(0, np.float32))
  for kind, a, z in _fields(record, start, stop):
    values = _fields(record, a, z)  # Not looked at before it is known what they are.
    if kind == _BYTES:
      spans = [(s, e) for tag, s, e in values if tag == _FIRST]
      feature = Feature('bytes', spans, feature.values)
    elif kind == _FLOAT:
      parts = [np.frombuffer(record[s:e], '<f4') for tag, s, e in values if tag in _FLOATS]
      feature = Feature('float', [], _concatenate(parts, np.float32))
    elif kind == _INT64:
      parts = [_varints(record[s:e]) for tag, s, e in values if tag in _INT64S]
      feature = Feature('int64', [], _concatenate(parts, np.int64))
  return feature


def _concatenate(parts: list[np.ndarray], dtype: type) -> np.ndarray:
  return np.concatenate(parts) if parts else np.zeros(0, dtype)


def _varints(data: bytes) -> np.ndarray:
  """Base-128 integers as int64, without a Python loop (Language-Table holds 512 per step)."""
  byte = np.frombuffer(data, np.uint8)
  ends = byte < 128
  if ends.all():
    return byte.astype(np.int64)
  if not ends[-1]:
    raise ValueError('an integer is cut off')
  starts = np.flatnonzero(np.concatenate([[True], ends[:-1]]))
  lengths = np.diff(np.append(starts, len(byte)))
  if lengths.max() > _LONGEST_VARINT:
    raise ValueError(f'an integer of {lengths.max()} bytes')
  place = np.arange(len(byte)) - np.repeat(starts, lengths)
  groups = (byte & 127).astype(np.uint64) << (7 * place).astype(np.uint64)
  return np.add.reduceat(groups, starts).view(np.int64)


def _fields(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
  """(tag, start, stop) of each protobuf field between two bytes."""
  while start < stop:
    tag, start = _varint(data, start)
    wire = tag & 7
    if wire == _LENGTH:
      length, start = _varint(data, start)
      end = start + length
    elif wire == 0:
      _, end = _varint(data, start)
    elif wire in (1, 5):
      end = start + (8 if wire == 1 else 4)
    else:
      raise ValueError(f'wire type {wire} at byte {start}')
    if end > stop:
      raise ValueError(f'a field ends at byte {end}, its message at {stop}')
    yield tag, start, end
    start = end


def _varint(data: bytes, position: int) -> tuple[int, int]:
  """The base-128 integer at `position`, and the position after it."""
  value = 0
  for place in range(_LONGEST_VARINT):
    byte = data[position + place]
    value |= (byte & 127) << (7 * place)
    if byte < 128:
      return value, position + place + 1
  raise ValueError(f'the integer at byte {position} does not end')
