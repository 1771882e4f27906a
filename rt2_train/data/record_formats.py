"""How one record of image-text data lies in a shard: a tf.train.Example, or a sample of a tar file.

A format says how a shard is walked (`records`), what of a record goes into the index (`read`), and
how the texts of a row come back (`texts`).

Shape suffixes: R rows of a record, C places that an index points to.
"""

from collections.abc import Mapping, Sequence
import json
import reprlib

import numpy as np

from rt2_train.data import faults
from rt2_train.data import image_text
from rt2_train.data import index
from rt2_train.data import tar
from rt2_train.data import tfrecord

_IMAGES = ('.jpg', '.jpeg', '.png', '.webp')
_LANG = 'lang'


class TfExamples:
  """tf.train.Examples with one image and lists of texts, which the index keeps."""

  unit = 'record'
  records = staticmethod(tfrecord.records)

  def __init__(self, keys: Mapping[str, str], image_key: str, lang_key: str, joined: bool):
    """Takes role to key, the keys of image and language, and whether texts are one example."""
    self._keys, self._image_key, self._lang_key, self._joined = keys, image_key, lang_key, joined
    # By number: the same texts in another role are the same index.
    self._columns = {role: f'text{n}' for n, role in enumerate(keys)}
    self.spec = json.dumps([image_key, *keys.values(), lang_key]) + ' joined' * joined

  def read(self, record: bytes) -> index.Rows:
    """The rows of a record; raises Fault when it is broken as a whole."""
    try:
      found = tfrecord.example(record, {self._image_key, self._lang_key, *self._keys.values()})
    except ValueError as e:
      raise faults.Fault('not an Example', str(e)) from e
    for key in (self._image_key, *self._keys.values()):
      if key not in found or found[key].kind != 'bytes':
        raise faults.Fault('missing feature', f'has no {key}')
    image = found[self._image_key]
    if len(image) != 1:
      raise faults.Fault('unequal lengths', f'{self._image_key} has {len(image)} values, not 1')
    ((start, stop),) = image.spans
    faults.image_size(record, start, stop)

    def texts(key: str) -> list[str]:
      return [image_text.read_text(record, a, z, key) for a, z in found[key].spans]

    langs = texts(self._lang_key) if self._lang_key in found else ['']
    steps, values, langs, broken = _rows(
        {key: texts(key) for key in self._keys.values()}, langs, self._lang_key, self._joined)
    return index.Rows(
        steps_R=steps,
        images_RxCx2=np.tile(np.array([start, stop], np.int64), (len(steps), 1, 1)),
        columns={},
        texts={**dict(zip(self._columns.values(), values)), _LANG: langs},
        seen=len(steps) + len(broken),
        broken=broken)

  def texts(self, opened: index.Index, row: int) -> tuple[dict[str, str], str]:
    """Role to text, and the language, of one row."""
    said = {column: opened.texts[column][int(opened.columns[column][row])]
            for column in (*self._columns.values(), _LANG)}
    return {role: said[column] for role, column in self._columns.items()}, said[_LANG]


class Samples:
  """Samples of a tar file: an image, and texts in files of their own or in a JSON file."""

  unit = 'sample'
  records = staticmethod(tar.samples)

  def __init__(self, keys: Mapping[str, str], lang_key: str, joined: bool):
    """Takes role to suffix or key, the JSON key of the language, and as TfExamples."""
    self._keys, self._lang_key, self._joined = keys, lang_key, joined
    self.spec = json.dumps(['tar', *keys.values(), lang_key]) + ' joined' * joined

  def read(self, sample: bytes) -> index.Rows:
    """The rows of a sample; raises Fault when it is broken as a whole."""
    listed = tar.members(sample)
    found = {member.suffix: member for member in listed}
    images = [found[suffix] for suffix in _IMAGES if suffix in found]
    key = reprlib.repr(listed[0].key)
    try:
      if len(found) < len(listed):
        raise faults.Fault('sample order', 'two members have one name')
      if not images:
        raise faults.Fault('missing image', f'no image beside it ({", ".join(_IMAGES)})')
      if len(images) > 1:
        raise faults.Fault('unequal lengths', f'{len(images)} images, not 1')
      image = images[0]
      faults.image_size(sample, image.start, image.stop)
      places = [_member(found, source) for source in self._keys.values()]
      values = {source: _values(sample[at.start:at.stop], source)
                for source, at in zip(self._keys.values(), places)}
      langs = ['']
      if '.json' in found:
        at = found['.json']
        langs = _values(sample[at.start:at.stop], self._lang_key, optional=True) or langs
      steps, _, langs, broken = _rows(values, langs, self._lang_key, self._joined)
    except faults.Fault as fault:
      raise faults.Fault(fault.reason, f'{key}: {fault}') from fault
    spans_Cx2 = np.array([(at.start, at.stop) for at in (image, *places)], np.int64)
    return index.Rows(
        steps_R=steps,
        images_RxCx2=np.tile(spans_Cx2, (len(steps), 1, 1)),
        columns={},
        texts={_LANG: langs},
        seen=len(steps) + len(broken),
        broken=[faults.Fault(each.reason, f'{key}: {each}', each.step) for each in broken])

  def texts(self, opened: index.Index, row: int) -> tuple[dict[str, str], str]:
    """Role to text, and the language, of one row."""
    step = int(opened.columns['step'][row])
    said = {}
    for part, (role, source) in enumerate(self._keys.items(), 1):
      values = _values(opened.text(row, part), source)
      said[role] = _join(values) if self._joined else values[step]
    return said, opened.texts[_LANG][int(opened.columns[_LANG][row])]


def _member(found: Mapping[str, tar.Member], source: str) -> tar.Member:
  suffix = source if source.startswith('.') else '.json'
  if suffix not in found:
    raise faults.Fault('missing feature', f'no {suffix} beside it')
  return found[suffix]


def _values(data: bytes, source: str, optional: bool = False) -> list[str]:
  """The texts of a role in the member that holds them: all of it, or a key of its JSON."""
  if source.startswith('.'):
    return [image_text.read_text(data, 0, len(data), source)]
  try:
    whole = json.loads(data)
  except (RecursionError, ValueError) as e:
    raise faults.Fault('not JSON', f'.json is not JSON ({e})') from e
  value = whole.get(source) if isinstance(whole, dict) else None
  if optional and value is None:
    return []
  values = value if isinstance(value, list) else [value]
  if not all(isinstance(each, str) for each in values):
    raise faults.Fault('missing feature', f'.json has no text under {source!r}')
  return [image_text.check_text(each, source) for each in values]


def _rows(
    values: Mapping[str, Sequence[str]], langs: Sequence[str], lang_key: str, joined: bool
) -> tuple[np.ndarray, list[list[str]], list[str], list[faults.Fault]]:
  """(steps, texts of each key, languages, faults) of the rows that a record's texts make."""
  if joined:
    values = {key: [_join(texts)] for key, texts in values.items()}
    langs = langs[:1] or ['']
  first = next(iter(values))
  size = len(values[first])
  if not size:
    raise faults.Fault('unequal lengths', f'{first} has 0 values')
  langs = [*langs] * size if len(langs) == 1 else [*langs]
  for key, texts in (*values.items(), (lang_key, langs)):
    if len(texts) != size:
      raise faults.Fault(
          'unequal lengths', f'{key} has {len(texts)} values, {first} has {size}')
  empty = {i: key for key, texts in values.items() for i, text in enumerate(texts) if not text}
  kept = [i for i in range(size) if i not in empty]
  return (
      np.array(kept, np.int32),
      [[texts[i] for i in kept] for texts in values.values()],
      [langs[i] for i in kept],
      [faults.Fault('empty text', f'{key} is empty', i) for i, key in empty.items()])


def _join(texts: Sequence[str]) -> str:
  return ' '.join(filter(None, texts))
