"""Random access to shards in place (TFRecord, tar, JSON lines): a side-car index of them.

One sequential pass validates every record and notes (file, offset, length) of each step's images,
or of texts too large for a table, and its small columns; afterwards any step is one `pread` away.
The index is one file, an uncompressed npz with a JSON header in it, memory-mapped, and whole or
absent.

Shape suffixes: N rows (steps), R rows of one record, C cameras.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import collections
import dataclasses
import functools
import hashlib
import json
import os
import uuid
import weakref
import zipfile

from absl import logging
import numpy as np
import tqdm

from rt2_train.data import faults
from rt2_train.data import index_file
from rt2_train.data import tfrecord

VERSION = 3
_MAX_MESSAGES = 20
# What a row is called within its record.
_ROW_OF = {'episode': 'step', 'record': 'text', 'sample': 'text'}
_MOST_PARTS = 4096  # Arrays of a column that are held apart: small ones cost more than they hold.


@dataclasses.dataclass(frozen=True)
class Shard:
  """A file of records, and how many of them its metadata promise (None: nothing promises)."""

  path: str
  records: int | None = None


@dataclasses.dataclass
class Rows:
  """What one record adds to the index: R rows.

  Attributes:
    steps_R: the step each row stands for.
    images_RxCx2: start and stop of each image within the record; and of what is read as text.
    columns: name to array [R, ...].
    texts: name to R strings; kept once each.
    seen: steps in the record, with those left out and the broken ones.
    left_out: reason to number of steps left out because the layout says so.
    broken: a Fault for each broken step.
  """

  steps_R: np.ndarray
  images_RxCx2: np.ndarray
  columns: dict[str, np.ndarray]
  texts: dict[str, list[str]]
  seen: int
  left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
  broken: Sequence[faults.Fault] = ()


# Takes a record's payload, returns its rows; raises Fault when the whole record is lost.
Reader = Callable[[bytes], Rows]
# Takes the path of a shard, yields its records: `offset`, `payload`, `crc`, and `check()`, which
# raises Fault where the record is broken. Raises CorruptFileError where it cannot read on.
Records = Callable[[str], Iterator[tfrecord.Record]]


class Texts(Sequence):
  """A table of distinct strings in one memory-mapped buffer."""

  def __init__(self, data: np.ndarray, ends: np.ndarray):
    self._data, self._ends = data, ends

  def __len__(self) -> int:
    return len(self._ends)

  def __getitem__(self, i: int) -> str:
    start = self._ends[i - 1] if i else 0
    return self._data[start:self._ends[i]].tobytes().decode()


class Index:
  """An opened index.

  Attributes:
    header: what was counted when it was built: `name`, `fingerprint`, `records`, `steps`,
      `left_out`, `faults`, `first_faults`, ...
    columns: name to array [N, ...], memory-mapped: `file`, `record`, `step`, `offset` and `length`
      [N, C], the reader's columns, and for each text the id into its table.
    texts: name to Texts.
  """

  def __init__(self, path: str, shards: Sequence[Shard], name: str):
    self.path = path
    self.header, arrays = index_file.read(path)
    # Two datasets may share an index; each calls it by its own name.
    self.header['first_faults'] = {
        reason: [name + message.removeprefix(self.header['name']) for message in messages]
        for reason, messages in self.header['first_faults'].items()}
    self.header['name'] = name
    self.texts = {
        name: Texts(arrays.pop(f'{name}.text'), arrays.pop(f'{name}.ends'))
        for name in self.header['texts']}
    self.columns = arrays
    self._paths = [shard.path for shard in shards]
    # A dataset may have more shards than a process may have open files.
    self._file = functools.lru_cache(maxsize=256)(_File)

  def __len__(self) -> int:
    return len(self.columns['step'])

  @property
  def fingerprint(self) -> str:
    """Hex digest of the rows and of every record's CRC; the same wherever the data lies."""
    return self.header['fingerprint']

  def image(self, row: int, camera: int = 0) -> bytes:
    """The encoded image of a row, read with one `pread`: safe in threads and after fork.

    Raises:
      ValueError: the file is shorter than it was when indexed.
    """
    return self._pread(row, camera, 'image')

  def text(self, row: int, part: int = 0) -> bytes:
    """What was indexed at this place of `images_RxCx2` to be read as text; as `image`."""
    return self._pread(row, part, 'text')

  def _pread(self, row: int, part: int, what: str) -> bytes:
    path = self._paths[self.columns['file'][row]]
    length = int(self.columns['length'][row, part])
    # Held by name until the read is done: another thread may evict it meanwhile.
    file = self._file(path)
    data = os.pread(file.descriptor, length, int(self.columns['offset'][row, part]))
    if len(data) != length:
      raise ValueError(f'{self.example_id(row)}: {path} ends inside the {what}, it was cut after '
                       'indexing; copy the shard again')
    return data

  def example_id(self, row: int) -> str:
    """Such as 'tabletop/train shard 00003 episode 17 step 3'; the episode is the shard's 17th."""
    columns = self.columns
    return place(self.header['name'], self.header['unit'], int(columns['file'][row]),
                 int(columns['record'][row]), int(columns['step'][row]))


def place(name: str, unit: str, file: int, record: int | None, step: int | None) -> str:
  """How errors and reports name a shard, a record of it, and a row of that."""
  words = f'{name} shard {file:05d}'
  if record is not None:
    words += f' {unit} {record}'
  return words if step is None else f'{words} {_ROW_OF[unit]} {step}'


def open_index(
    name: str,
    shards: Sequence[Shard],
    read: Reader,
    *,
    spec: str,
    path: str,
    unit: str = 'episode',
    records: Records = tfrecord.records,
) -> Index:
  """Opens the index at `path`; builds it first when it is absent, stale or unreadable.

  Args:
    name: what errors call the data, such as 'tabletop/train'.
    shards: the files, in order.
    read: turns a record into rows.
    spec: everything that decides what `read` returns, as text; another spec is another index.
    path: of the index file; its directory is made.
    unit: what a record is: an 'episode' of steps, or a 'record' or 'sample' of texts.
    records: walks through a shard, whatever its format.

  Raises:
    FileNotFoundError: a shard is missing.
    OSError: the index cannot be written where `path` says.
  """
  source = {'version': VERSION, 'spec': spec, 'shards': [_identity(name, s) for s in shards]}
  if os.path.exists(path):
    stale = _why_stale(path, source)
    if not stale:
      return Index(path, shards, name)
    logging.warning('index %s is stale (%s): indexing %s again', path, stale, name)
  temporary = _writable(path)
  try:
    header, arrays = _build(name, shards, read, unit, records)
    index_file.write(temporary, {'source': source, **header}, arrays)
    os.replace(temporary, path)
  finally:
    if os.path.exists(temporary):
      os.unlink(temporary)
  return Index(path, shards, name)


def index_path(data_dir: str, index_dir: str | None, stem: str) -> str:
  """Where an index lies: in `index_dir`, else in `.rt2_index` next to the data."""
  return os.path.join(index_dir or os.path.join(data_dir, '.rt2_index'), f'{stem}.npz')


def _identity(name: str, shard: Shard) -> list:
  try:
    status = os.stat(shard.path)
  except FileNotFoundError:
    raise FileNotFoundError(f'{name}: {shard.path} is missing; copy it') from None
  return [os.path.basename(shard.path), status.st_size, status.st_mtime_ns, shard.records]


def _why_stale(path: str, source: Mapping) -> str:
  try:
    with zipfile.ZipFile(path) as archive:
      # A flipped bit here would give one record's image to another.
      if damaged := archive.testzip():
        return f'unreadable: {damaged} fails its CRC'
      old = json.loads(archive.read('header.json'))['source']
  except Exception as e:  # Whatever zipfile makes of damaged headers.
    return f'unreadable: {e}'
  if old['version'] != source['version'] or old['spec'] != source['spec']:
    return 'written by another layout or version'
  if len(old['shards']) != len(source['shards']):
    return f'{len(old["shards"])} shards then, {len(source["shards"])} now'
  changed = [new[0] for was, new in zip(old['shards'], source['shards']) if was != new]
  if not changed:
    return ''
  return f'{changed[0]} changed, {len(changed)} of {len(source["shards"])} shards'


def _writable(path: str) -> str:
  """A temporary file beside `path`, made before the long pass, not after it."""
  temporary = f'{path}.{uuid.uuid4().hex}.tmp'
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(temporary, 'xb').close()
  except OSError as e:
    raise type(e)(f'cannot write an index into {os.path.dirname(path)} ({e.strerror}); pass '
                  'index_dir, a directory that can be written') from e
  return temporary


def _build(
    name: str, shards: Sequence[Shard], read: Reader, unit: str, walk: Records
) -> tuple[dict, dict]:
  """Reads every record once; returns the header and the arrays of the index."""
  rows = collections.defaultdict(list)
  ids = collections.defaultdict(dict)
  left_out, counts = collections.Counter(), collections.Counter()
  messages = collections.defaultdict(list)
  steps = records = lost_steps = lost_records = parts = 0
  digest = hashlib.sha256()

  def note(fault: faults.Fault, file: int, record: int | None):
    counts[fault.reason] += 1
    if len(messages[fault.reason]) < _MAX_MESSAGES:
      messages[fault.reason].append(f'{place(name, unit, file, record, fault.step)}: {fault}')

  sizes = [os.path.getsize(shard.path) for shard in shards]
  begins = np.cumsum([0, *sizes])
  with tqdm.tqdm(total=sum(sizes), unit='B', unit_scale=True, desc=f'index {name}') as progress:
    for file, shard in enumerate(shards):
      count, end, promised = 0, None, shard.records
      try:
        for count, record in enumerate(walk(shard.path), 1):
          progress.update(begins[file] + record.offset + len(record.payload) - progress.n)
          digest.update(record.crc.to_bytes(4, 'little'))
          if promised is not None and count > promised:
            continue  # The numbers of all later records go by the promise.
          try:
            got = _rows(read, record)
          except faults.Fault as fault:
            lost_records += 1
            note(fault, file, count - 1)
            continue
          except ValueError as e:
            raise ValueError(f'{place(name, unit, file, count - 1, None)}: {e}') from e
          steps += got.seen
          lost_steps += len({fault.step for fault in got.broken})
          left_out.update(got.left_out)
          for fault in got.broken:
            note(fault, file, count - 1)
          if len(got.steps_R):
            _append(rows, ids, got, file, count - 1, record.offset)
            parts += 1
          if parts == _MOST_PARTS:
            for column in rows.values():
              column[-parts:] = [np.concatenate(column[-parts:])]
            parts = 0
      except tfrecord.CorruptFileError as e:
        end = ('truncated shard', str(e))
      except OSError as e:
        raise type(e)(
            f'{place(name, unit, file, None, None)}: {shard.path} cannot be read ({e.strerror})'
        ) from e
      if not sizes[file]:
        end = ('empty shard', f'is empty (0 bytes, {promised or "some"} {unit}s expected)')
      elif end is None and promised not in (None, count):
        end = ('record count', f'holds {count} {unit}s, dataset_info.json promises {promised}')
      # Without a promise at least the record is lost in which reading ended.
      lost = int(end is not None) if promised is None else abs(promised - count)
      if end is not None:
        known = f'; {unit}s lost: {lost}' if promised is not None and lost else ''
        note(faults.Fault(end[0], end[1] + known), file, None)
      lost_records += lost
      records += count + lost if promised is None else max(count, promised)

  arrays = {key: np.concatenate(column) for key, column in rows.items()}
  for key, table in ids.items():
    encoded = [text.encode() for text in table]
    arrays[f'{key}.text'] = np.frombuffer(b''.join(encoded), np.uint8)
    arrays[f'{key}.ends'] = np.cumsum([len(text) for text in encoded], dtype=np.int64)
  if not arrays:
    arrays = {'step': np.zeros(0, np.int32)}
  for key in sorted(arrays):
    digest.update(key.encode() + arrays[key].tobytes())
  header = {
      'name': name, 'unit': unit, 'fingerprint': digest.hexdigest(), 'texts': sorted(ids),
      'records': records, 'lost_records': lost_records, 'steps': steps, 'lost_steps': lost_steps,
      'left_out': dict(left_out), 'faults': dict(counts), 'first_faults': dict(messages),
  }
  return header, arrays


def _rows(read: Reader, record: tfrecord.Record) -> Rows:
  record.check()
  return read(record.payload)


def _append(rows, ids, got: Rows, file: int, record: int, offset: int):
  """Adds the rows of one record to the growing columns."""
  size = len(got.steps_R)
  rows['file'].append(np.full(size, file, np.int32))
  rows['record'].append(np.full(size, record, np.int32))
  rows['step'].append(np.asarray(got.steps_R, np.int32))
  rows['offset'].append(np.int64(offset) + got.images_RxCx2[..., 0])
  rows['length'].append((got.images_RxCx2[..., 1] - got.images_RxCx2[..., 0]).astype(np.int32))
  for key, column in got.columns.items():
    rows[key].append(column)
  for key, texts in got.texts.items():
    table = ids[key]
    rows[key].append(np.array([table.setdefault(t, len(table)) for t in texts], np.int32))


class _File:
  """An open file that closes when the last reader lets go of it, so eviction is safe."""

  def __init__(self, path: str):
    self.descriptor = os.open(path, os.O_RDONLY)
    weakref.finalize(self, os.close, self.descriptor)
