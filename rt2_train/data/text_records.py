"""Text without images in shards: TFRecords of tf.train.Example, and JSON lines (C4's form).

Only where each text lies is indexed, so that 100 GB are read once and start at once afterwards. An
example has black images that are masked everywhere.
"""

from collections.abc import Iterator, Mapping
import functools
import hashlib
import json
import os

import numpy as np

from rt2_train.data import draws
from rt2_train.data import faults
from rt2_train.data import index
from rt2_train.data import shards
from rt2_train.data import text_objectives
from rt2_train.data import tfrecord
from rt2_train.processor import Processor

_LONGEST_LINE = 1 << 28
# A token has fewer characters than this; of a book only so many are turned into tokens.
_CHARACTERS_PER_TOKEN = 16


class TextRecords:
  """Texts, one example each; a long text gives a part of it that its example's id decides.

  Attributes:
    objective: what is learnt of a text.
    fingerprint, report, note: as `image_text.Examples`.
  """

  def __init__(
      self,
      pattern: str,
      processor: Processor,
      *,
      objective: str | text_objectives.TextObjective = 'span_corruption',
      key: str = 'text',
      name: str | None = None,
      index_dir: str | None = None,
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
  ):
    """Opens the files, indexing them first if need be.

    Args:
      pattern: of the files, such as '/data/c4-train.*.json' or '/data/wiki.tfrecord-*'.
      processor: of the model.
      objective: what is made of a text, a name in `text_objectives.TEXT_OBJECTIVES`.
      key: of a line's object or of an Example: one text.
      name: what errors call the data; how the files' names begin when None.
      index_dir: where the index goes; `.rt2_index` beside the files when None.
      on_bad, max_bad_share: what broken records may do, see `faults.enforce`.

    Raises:
      FileNotFoundError: no file matches, or one of its '-of-' siblings is missing.
      ValueError: the processor cannot do the objective, or records are broken beyond the policy.
    """
    name = name or shards.name_of(pattern)
    self.objective = text_objectives.resolve(objective)
    try:
      self.objective.check(processor)
    except ValueError as e:
      raise ValueError(f'{name}: {e}') from e
    self._processor, self._key = processor, key
    files, form = shards.find(pattern, ('tfrecord', 'json lines'))
    self._lines = form == 'json lines'
    self._index = index.open_index(
        name, files, functools.partial(_read_line if self._lines else _read_example, key=key),
        spec=json.dumps([form, key]), unit='record', records=_lines if self._lines else (
            tfrecord.records), path=shards.index_path(pattern, index_dir, ['text', key]))
    header = self._index.header
    faults.enforce(header, on_bad, max_bad_share)
    self.note = faults.note(header)
    if not len(self._index):
      raise ValueError(
          f'{pattern} has no usable text in {header["records"]} records ({self.note})')
    self.report = {'examples': len(self._index), 'index': self._index.path, **{
        key: value for key, value in header.items() if key not in ('source', 'texts', 'unit')}}
    asked = json.dumps([self._index.fingerprint, self.objective.name, *self.objective.settings])
    self.fingerprint = hashlib.sha256(asked.encode()).hexdigest()

  def __len__(self) -> int:
    return len(self._index)

  def example_id(self, i: int) -> str:
    """Such as 'c4-train shard 00003 record 17 text 0'."""
    return self._index.example_id(i)

  def text(self, i: int) -> str:
    """The whole i-th text."""
    if not 0 <= i < len(self):
      raise IndexError(f'{self.report["name"]} has examples 0 to {len(self) - 1}, not {i}')
    data = self._index.text(i)
    return (json.loads(data)[self._key] if self._lines else data.decode()).strip()

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    """The i-th example."""
    text, rng = self.text(i), draws.rng(self.example_id(i))
    processor = self._processor
    most = (processor.inputs_length + processor.targets_length) * _CHARACTERS_PER_TOKEN
    if len(text) > most:
      start = int(rng.integers(len(text) - most + 1))
      # Not in the middle of a word, where there are words.
      start = text.find(' ', start, start + _CHARACTERS_PER_TOKEN) + 1 or start
      text = text[start:start + most]
    vocabulary = processor.vocabulary
    ids_N = np.array(vocabulary.encode(text) or [vocabulary.unk_id], np.int32)
    inputs, targets = self.objective.write(ids_N, processor, rng)
    images, image_mask = processor.images([])
    return {
        'images': images,
        'image_mask': image_mask,
        'inputs': np.array(inputs, np.int32),
        'targets': np.array(targets, np.int32)}


def _lines(path: str) -> Iterator[tfrecord.Record]:
  """The lines of a file, without their ends."""
  with open(path, 'rb', buffering=1 << 20) as file:
    start, size = 0, os.fstat(file.fileno()).st_size
    while line := file.readline(_LONGEST_LINE):
      if len(line) == _LONGEST_LINE:
        raise tfrecord.CorruptFileError(
            f'the line at byte {start} of {size} has {_LONGEST_LINE} bytes or more')
      payload = line.rstrip(b'\r\n')
      yield tfrecord.Record(start, payload, tfrecord.masked_crc32c(payload))
      start += len(line)


def _read_line(line: bytes, key: str) -> index.Rows:
  try:
    whole = json.loads(line)
  except (RecursionError, ValueError) as e:
    raise faults.Fault('not JSON', f'the line is not JSON ({e})') from e
  text = whole.get(key) if isinstance(whole, dict) else None
  if not isinstance(text, str):
    raise faults.Fault('missing feature', f'has no text under {key!r}')
  try:
    text.encode()
  except UnicodeEncodeError as e:
    raise faults.Fault('bad text', f'{key} is not Unicode ({e})') from e
  return _row(0, len(line), text, key)


def _read_example(record: bytes, key: str) -> index.Rows:
  try:
    found = tfrecord.example(record, {key})
  except ValueError as e:
    raise faults.Fault('not an Example', str(e)) from e
  if key not in found or found[key].kind != 'bytes':
    raise faults.Fault('missing feature', f'has no {key}')
  if len(found[key]) != 1:
    raise faults.Fault('unequal lengths', f'{key} has {len(found[key])} values, not 1')
  ((start, stop),) = found[key].spans
  try:
    text = record[start:stop].decode()
  except UnicodeDecodeError as e:
    raise faults.Fault('bad text', f'{key} is not UTF-8 ({e})') from e
  return _row(start, stop, text, key)


def _row(start: int, stop: int, text: str, key: str) -> index.Rows:
  """The row of one text, or of none where it is empty."""
  kept = int(bool(text.strip()))
  return index.Rows(
      steps_R=np.zeros(kept, np.int32),
      images_RxCx2=np.tile(np.array([start, stop], np.int64), (kept, 1, 1)),
      columns={}, texts={}, seen=1,
      broken=[] if kept else [faults.Fault('empty text', f'{key} is empty', 0)])
