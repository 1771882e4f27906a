"""WebDataset shards: tar files in which neighbouring members make a sample, walked in place.

The members of a sample share their name up to the first dot: 000000123.jpg, 000000123.txt and
000000123.json, as img2dataset writes them. Nothing is ever unpacked and no name is used as a path:
an index points to the bytes of a member where they lie.
"""

from collections.abc import Callable, Iterator
import dataclasses
import os
import re
import reprlib

import google_crc32c

from rt2_train.data import faults
from rt2_train.data import tfrecord

_BLOCK = 512
_END = bytes(_BLOCK)
_LONGEST_SAMPLE, _LONGEST_NAME = 1 << 31, 1 << 20
# Key and suffix: names of directories may have dots. What webdataset calls its own is no sample.
_SAMPLE = re.compile(r'((?:.*/)?[^./]+)(\.[^/]*)', re.DOTALL)
_META = re.compile(r'__[^/]*__(/|$)')
_CHUNK = 1 << 20
# Types of headers: files, what has no data (links, devices, directories, pipes), and headers that
# say more of the next one.
_FILES, _WITHOUT_DATA = (b'0', b'\0', b'7'), (b'1', b'2', b'3', b'4', b'5', b'6')
_EXTENDING = (b'x', b'X', b'g', b'L', b'K')


@dataclasses.dataclass(frozen=True)
class Sample:
  """One sample: members that lie side by side.

  Attributes:
    offset: byte of the file at which its first header starts.
    payload: the archive's bytes from there to the end of its last member.
    crc: CRC32C of the payload; tar has none of its own.
    key: what the members' names have in common.
    again: whether members of this key lie elsewhere in the file, too.
  """

  offset: int
  payload: bytes
  crc: int
  key: str
  again: bool

  def check(self) -> None:
    """Raises Fault where the sample is not whole."""
    if self.again:
      raise faults.Fault('sample order', f'members of {reprlib.repr(self.key)} do not lie side by '
                         'side; sort the archive by name')


@dataclasses.dataclass(frozen=True)
class Member:
  """One file of a sample: its suffix in lower case ('.jpg'), and where its bytes lie."""

  key: str
  suffix: str
  start: int
  stop: int


@dataclasses.dataclass(frozen=True)
class _Entry:
  """A member as it lies: `begin` is where its headers start, `name` None where it is no file."""

  name: str | None
  begin: int
  start: int
  stop: int

  @property
  def end(self) -> int:
    return -(-self.stop // _BLOCK) * _BLOCK


def samples(path: str) -> Iterator[Sample]:
  """The samples of one shard, in order, read once from front to back.

  Raises:
    tfrecord.CorruptFileError: the file ends too early, or is no tar file past some byte.
  """
  with open(path, 'rb', buffering=_CHUNK) as file:
    size = os.fstat(file.fileno()).st_size

    def read(start: int, length: int) -> bytes:
      file.seek(start)
      return file.read(length)

    def sample(key: str, begin: int, stop: int) -> Sample:
      if stop - begin >= _LONGEST_SAMPLE:
        raise tfrecord.CorruptFileError(f'the sample at byte {begin} has more than 2 GiB')
      payload = read(begin, stop - begin)
      return Sample(begin, payload, google_crc32c.value(payload), key, key in seen)

    seen, key, begin, stop, at = set(), None, 0, 0, 0
    while (entry := _entry(read, at, size)) is not None:
      at = entry.end
      split = _split(entry.name)
      if split and split[0] != key:
        if key is not None:
          yield sample(key, begin, stop)
          seen.add(key)
        key, begin = split[0], entry.begin
      if entry.stop > size:
        raise tfrecord.CorruptFileError(
            f'ends inside the member at byte {entry.begin} ({size} of {entry.stop} bytes)')
      if split:
        stop = entry.stop
    if key is not None:
      yield sample(key, begin, stop)
    # Archives that were joined end to end would lose all but the first.
    for start in range(at, size, _CHUNK):
      if read(start, _CHUNK).strip(b'\0'):
        raise tfrecord.CorruptFileError(f'goes on after its end at byte {at}; join archives with '
                                        'tar --concatenate')


def members(sample: bytes) -> list[Member]:
  """The files in the payload of a Sample."""

  def read(start: int, length: int) -> bytes:
    return sample[start:start + length]

  found, at = [], 0
  while at < len(sample):
    entry = _entry(read, at, len(sample))
    at = entry.end
    if split := _split(entry.name):
      found.append(Member(split[0], split[1].lower(), entry.start, entry.stop))
  return found


def _split(name: str | None) -> tuple[str, str] | None:
  """Key and suffix of a member; None where it belongs to no sample."""
  match = None if name is None or _META.match(name) else _SAMPLE.fullmatch(name)
  return match.groups() if match else None


def _entry(read: Callable[[int, int], bytes], begin: int, size: int) -> _Entry | None:
  """The entry that begins at a byte, None for the mark at the end of an archive.

  The entry may say that it ends behind `size`, where the archive does.
  """
  at, name, length = begin, None, None
  while True:
    block = read(at, _BLOCK)
    if len(block) < _BLOCK:
      raise tfrecord.CorruptFileError(f'ends at byte {size} without the mark of its end')
    if block == _END and at == begin:
      return None
    try:
      stated_name, kind, stated = _header(block)
      extends = kind in _EXTENDING
      if length is not None and not extends:
        stated = length
      if not 0 <= stated < (_LONGEST_NAME if extends else _LONGEST_SAMPLE):
        raise ValueError(f'it states {stated} bytes')
      start = at + _BLOCK
      stop = start + (0 if kind in _WITHOUT_DATA else stated)
      if not extends:
        return _Entry((name or stated_name) if kind in _FILES else None, begin, start, stop)
      # A header of its own says what does not fit into the next one.
      data = read(start, stated)
      if kind == b'L':
        name = _text(data)
      elif kind in b'xX':
        records = _pax(data)
        name = records.get('path', name)
        length = int(records['size']) if 'size' in records else length
    except ValueError as e:
      raise tfrecord.CorruptFileError(f'the header at byte {at} is broken ({e})') from e
    at = -(-stop // _BLOCK) * _BLOCK


def _header(block: bytes) -> tuple[str, bytes, int]:
  """Name, type and size that a block states; ValueError where it is no header."""
  if _number(block[148:156]) != sum(block[:148]) + sum(block[156:]) + 8 * ord(' '):
    raise ValueError('bad checksum')
  name = _text(block[:100])
  # GNU's own form holds times where POSIX has the beginning of a long name.
  if block[257:263] == b'ustar\0' and block[345]:
    name = f'{_text(block[345:500])}/{name}'
  return name, block[156:157], _number(block[124:136])


def _number(field: bytes) -> int:
  """Octal digits, or in base 256 after a first bit of 1."""
  if field[0] & 0x80:
    return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], 'big')
  return int(field.partition(b'\0')[0].strip() or b'0', 8)


def _text(field: bytes) -> str:
  return field.partition(b'\0')[0].decode('utf-8', 'surrogateescape')


def _pax(data: bytes) -> dict[str, str]:
  """The records of an extended header, each 'length key=value', newline last."""
  records, at = {}, 0
  while at < len(data) and data[at]:
    space = data.index(b' ', at)
    length = int(data[at:space])
    if not space - at < length <= len(data) - at:
      raise ValueError(f'a record of {length} bytes')
    key, _, value = data[space + 1:at + length - 1].partition(b'=')
    records[key.decode()] = value.decode('utf-8', 'surrogateescape')
    at += length
  return records
