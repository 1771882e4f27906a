"""Small datasets of every layout, each broken in a way that its case number decides.

`case(number)` is a pure function: layout, files and what was done to them. The test that reads them
is fuzz_test; cases that once were read wrongly stand in fuzz_corpus_test.
"""

from collections.abc import Callable
import copy
import dataclasses
import functools
import json
import os
import pathlib
import random
import struct
import tempfile

import cv2
import numpy as np
import tensorflow as tf

from rt2_train.data import layouts
from rt2_train.data import tfrecord
from tests.data import rlds_fixture

ROBOT = ('fractal', 'bridge_oxe', 'bridge', 'language_table')
RECORDS = ('caption_records', 'vqa_records')
FILES = ('vqa_json', 'coco_json')
LAYOUTS = (*ROBOT, *RECORDS, *FILES)

DIRECTORY = 'a directory'  # Stands for the bytes of a file.
_HUGE, _HUGE_PERIOD = 100 << 20, 301
_STEP = 1  # Of every episode: neither first nor last, which layouts may leave out.
_TEXTS = (('the apple', 'der Apfel'), ('a cup',), ('the sponge', 'two cups', 'a drawer'))


@dataclasses.dataclass
class Case:
  """A broken dataset.

  Attributes:
    number, layout: which it is.
    files: name to content; None where the file is missing, DIRECTORY where it is no file.
    said: what was done, in words.
    origins: shard to the sound record that stands at each position, None where it was changed.
    certain: shard to how many leading positions must be read if the dataset opens at all.
    noticed: whether on_bad='error' must refuse it.
  """

  number: int
  layout: str
  files: dict[str, bytes | str | None]
  said: list[str]
  origins: dict[str, list[int | None]]
  certain: dict[str, int]
  noticed: bool = False

  @functools.cached_property
  def untouched(self) -> set[str]:
    """The rows of a layout of JSON and image files that nothing was done to, such as 'question 7'."""
    now, before = (_rows(files) for files in (self.files, _sound_files(self.layout)))
    return {row for row, said in before.items() if said in now.get(row, ())} if self.layout in FILES else set()

  def write(self, directory: pathlib.Path) -> None:
    """Writes the dataset into `directory`, which is made."""
    directory.mkdir(parents=True)
    for name, content in self.files.items():
      if content is DIRECTORY:
        (directory / name).mkdir()
      elif content is not None:
        (directory / name).write_bytes(content)


def layout_of(number: int) -> str:
  return LAYOUTS[number % len(LAYOUTS)]


def case(number: int) -> Case:
  """The broken dataset of this number."""
  rng = random.Random(number)
  found = sound(layout_of(number), number)
  if number % _HUGE_PERIOD == 4:
    _long_text(found, rng, _HUGE)
    return found
  ways = _WAYS['files' if found.layout in FILES else 'shards']
  if found.layout in ROBOT:
    ways = (*ways, _change_json)
  # Values first, then the bytes around them, so that a later change meets the earlier one.
  chosen = rng.choices(ways, k=rng.choice([1, 1, 1, 2, 3]))
  for way in sorted(set(chosen), key=ways.index):
    way(found, rng)
  return found


def sound(layout: str, number: int = 0) -> Case:
  """The dataset of `layout` with nothing broken."""
  files = dict(_sound_files(layout))
  shards = sorted(name for name in files if '.tfrecord-' in name)
  sizes = {name: len(_sound_records(layout)[i]) for i, name in enumerate(shards)}
  return Case(number, layout, files, [], {name: [*range(n)] for name, n in sizes.items()}, sizes)


@functools.lru_cache(maxsize=None)
def _sound_files(layout: str) -> dict[str, bytes]:
  with tempfile.TemporaryDirectory() as directory:
    if layout in ROBOT:
      rlds_fixture.write(directory, layout, _sound_records(layout))
      for path in pathlib.Path(directory).glob('*.tfrecord-*'):
        path.unlink()
    files = {path.name: path.read_bytes() for path in pathlib.Path(directory).iterdir()}
  name = 'tabletop-train' if layout in ROBOT else 'web'
  for i, records in enumerate(_sound_records(layout) if layout not in FILES else ()):
    payloads = [_serialize(flat) for flat in records]
    files[f'{name}.tfrecord-{i:05d}-of-00002'] = b''.join(map(_frame, payloads))
  if layout in FILES:
    files |= {f'{number}.jpg': rlds_fixture.jpeg(number, 16, 16) for number in (1, 2, 3)}
    entries = [(10 * i + n, i, text) for i, texts in enumerate(_TEXTS, 1)
               for n, text in enumerate(texts)]
    if layout == 'vqa_json':
      questions = [{'question_id': q, 'image_id': i, 'question': f'is it {text}?'}
                   for q, i, text in entries]
      answers = [{'question_id': q, 'multiple_choice_answer': text,
                  'answers': [{'answer': text, 'answer_id': 1}, {'answer': 'no', 'answer_id': 2}]}
                 for q, _, text in entries]
      files['questions.json'] = json.dumps({'questions': questions}).encode()
      files['annotations.json'] = json.dumps({'annotations': answers}).encode()
    else:
      listed = [{'id': i, 'file_name': f'{i}.jpg'} for i in (1, 2, 3)]
      captions = [{'id': q, 'image_id': i, 'caption': text} for q, i, text in entries]
      files['captions.json'] = json.dumps({'images': listed, 'annotations': captions}).encode()
  return files


@functools.lru_cache(maxsize=None)
def _sound_records(layout: str) -> list[list[dict]]:
  """Two shards of three flat records."""
  if layout in ROBOT:
    return [rlds_fixture.episodes(layout, 3, 3), rlds_fixture.episodes(layout, 3, 4, 3)]
  records = []
  for number in range(6):
    texts = [text.encode() for text in _TEXTS[number % 3]]
    record = {'image': [rlds_fixture.jpeg(number, 16, 16)], 'lang': [b'en'] * len(texts)}
    if layout == 'caption_records':
      record['caption'] = [b'%s %d' % (text, number) for text in texts]
    else:
      record['question'] = [b'is it %s %d?' % (text, number) for text in texts]
      record['answer'] = texts
    records.append(record)
  return [records[:3], records[3:]]


def read_keys(layout: str) -> list[str]:
  """The keys of a record that its reader looks at."""
  if layout in ROBOT:
    flags = ('is_first', 'is_last')
    return [f'steps/{key}' for key in (*layouts.LAYOUTS[layout].keys, *flags)]
  return sorted(_sound_records(layout)[0][0])


def _serialize(flat: dict) -> bytes:
  example = tf.train.Example.FromString(rlds_fixture.serialize(flat))
  # The order of a protobuf map differs from process to process; a case must not.
  return example.SerializeToString(deterministic=True)


def _frame(payload: bytes, length: int | None = None) -> bytes:
  """A TFRecord of `payload` whose CRCs are right, whatever length it states."""
  head = struct.pack('<Q', len(payload) if length is None else length)
  crcs = [struct.pack('<I', tfrecord.masked_crc32c(part)) for part in (head, payload)]
  return head + crcs[0] + payload + crcs[1]


def _frames(data: bytes) -> list[tuple[int, int]]:
  """(start, stop) of each whole record of a shard."""
  found, start = [], 0
  while start + 16 <= len(data):
    stop = start + 16 + struct.unpack_from('<Q', data, start)[0]
    if stop > len(data):
      break
    found.append((start, stop))
    start = stop
  return found


def _flipped(data: bytes, rng: random.Random, most: int = 8) -> tuple[bytes, list[int]]:
  changed = bytearray(data)
  places = sorted(rng.sample(range(len(data)), min(len(data), rng.randint(1, most))))
  for place in places:
    changed[place] ^= rng.choice([1 << rng.randrange(8), rng.randint(1, 255)])
  return bytes(changed), places


def _mangled(data: bytes, rng: random.Random) -> tuple[bytes, str]:
  """Bytes that are like `data`, and how they differ."""
  way = rng.choice(['flipped', 'flipped', 'cut', 'cut out', 'inserted', 'ones', 'twice', 'random'])
  a = rng.randrange(len(data) + 1)
  z = min(len(data), a + rng.choice([1, 4, 64, 4096]))
  noise = rng.randbytes(rng.choice([1, 2, 16, 300]))
  if way == 'flipped':
    data, places = _flipped(data, rng)
    return data, f'bytes {places[:4]} are flipped'
  if way == 'ones':
    size = rng.choice([2, 10, 16, 1 << 20])
    return data[:a] + b'\xff' * size + data[a:], f'{size} bytes ff stand at byte {a}'
  return {
      'cut': (data[:a], f'cut after {a} bytes'),
      'cut out': (data[:a] + data[z:], f'bytes {a} to {z} are cut out'),
      'inserted': (data[:a] + noise + data[a:], f'{len(noise)} random bytes stand at byte {a}'),
      'twice': (data + data[a:], f'repeated from byte {a}'),
      'random': (noise, f'{len(noise)} random bytes'),
  }[way]


# What is done to a record, then to a shard, then to the metadata.


def _take(found: Case, rng: random.Random) -> tuple[str, int, dict | None]:
  """A shard that is a file, a position in it, and its flat record (None: changed before)."""
  names = [name for name in found.origins if found.origins[name]]
  name = rng.choice(names)
  position = rng.randrange(len(found.origins[name]))
  origin = found.origins[name][position]
  flat = None
  if origin is not None:
    flat = copy.deepcopy(_sound_records(found.layout)[sorted(found.origins).index(name)][origin])
  return name, position, flat


def _put(found: Case, name: str, position: int, payload: bytes):
  data = found.files[name]
  start, stop = _frames(data)[position]
  found.files[name] = data[:start] + _frame(payload) + data[stop:]
  found.origins[name][position] = None


def _change_value(found: Case, rng: random.Random):
  name, position, flat = _take(found, rng)
  if flat is None:
    return
  key = rng.choice(read_keys(found.layout))
  way = rng.choice(_VALUE_WAYS)
  done = way(found.layout, flat, key, rng)
  if done is None:
    key = [each for each in read_keys(found.layout) if _is_image(each)][0]
    done = _bad_image(found.layout, flat, key, rng)
  words, noticed = done
  found.said.append(f'{name} record {position}: {key} {words}')
  found.noticed |= noticed
  _put(found, name, position, _serialize(flat))


def _is_image(key: str) -> bool:
  return key.endswith(('image', 'image_0', 'rgb'))


def _row(layout: str) -> int:
  return _STEP if layout in ROBOT else 0


def _no_key(layout, flat, key, rng):
  del flat[key]
  return 'is not there', key != 'lang'


def _other_length(layout, flat, key, rng):
  values = flat[key] if isinstance(flat[key], list) else flat[key].ravel()
  size = rng.choice([0, len(values) - 1, len(values) + 1, 2 * len(values), 1000])
  if isinstance(values, list):
    flat[key] = [values[i % len(values)] for i in range(size)]
  else:
    flat[key] = np.resize(values, size)
  # One language goes for all captions; captions alone may be more or fewer.
  fits = size == len(values) or size > 0 and layout == 'caption_records' and (
      key != 'image' and len(flat['lang']) == 1) or key == 'lang' and size == 1
  return f'has {size} values, not {len(values)}', not fits


def _other_dtype(layout, flat, key, rng):
  values = flat[key]
  size = len(values) if isinstance(values, list) else values.size
  if isinstance(values, list):
    flat[key] = rng.choice([np.zeros(size, np.float32), np.ones(size, np.int64)])
  elif rng.random() < 0.5:
    flat[key] = [b'1'] * size
  else:
    other = np.int64 if values.dtype == np.float32 else np.float32
    flat[key] = values.astype(other)
  dtype = 'bytes' if isinstance(flat[key], list) else flat[key].dtype
  return f'holds {dtype}', True


def _not_finite(layout, flat, key, rng):
  if isinstance(flat[key], list) or flat[key].dtype != np.float32:
    return None
  value = rng.choice([np.nan, np.inf, -np.inf])
  flat[key][_STEP] = value
  return f'is {value} at step {_STEP}', True


def _absurd_number(layout, flat, key, rng):
  if isinstance(flat[key], list):
    return None
  value = rng.choice([3.4e38, -3.4e38, 1e-45]) if flat[key].dtype == np.float32 else rng.choice(
      [-1, 2, 2**31, 2**62, -2**63])
  flat[key][rng.randrange(len(flat[key]))] = value
  return f'is {value} at a step', False


def _bad_text(layout, flat, key, rng):
  if key == 'lang' or not key.endswith(('instruction', 'caption', 'question', 'answer')):
    return None
  if not isinstance(flat[key], list):
    point = rng.choice([0, -1, 0xD800, 0x110000, 2**40])
    flat[key][_STEP] = 0
    flat[key][_STEP, :3] = point
    return f'has code points {point} at step {_STEP}', True
  text = rng.choice([b'', b' \n', b'\xff', b'\xed\xa0\x80', b'x' * (1 << 17)])
  flat[key][_row(layout)] = text
  return f'is {text[:8]!r} ({len(text)} bytes) at row {_row(layout)}', True


def _odd_text(layout, flat, key, rng):
  if not isinstance(flat[key], list) or _is_image(key):
    return None
  text = rng.choice(['\0', '\u202e', 'a\nb', '<img>', '{0}', '\U0001f916', '\ufeff', '<extra_id_0>'])
  flat[key][_row(layout)] = text.encode()
  return f'is {text!r}', False


def _bad_image(layout, flat, key, rng):
  if not _is_image(key):
    return None
  encoded = flat[key][_row(layout)]
  frame = encoded.index(b'\xff\xc0') + 5
  size = rng.choice([(0, 0), (65535, 65535), (20000, 20000), (1, 65535)])
  flat[key][_row(layout)], words = rng.choice([
      (b'', 'is empty'),
      (encoded[:rng.randrange(1, len(encoded) - 2)], 'is cut'),
      (rng.randbytes(rng.randint(1, 99)), 'is random bytes'),
      (encoded[:frame] + struct.pack('>HH', *size) + encoded[frame + 4:], f'says it is {size}'),
  ])
  # A strip of web picture may be of any size that memory can hold; its lack of pixels is found
  # when it is decoded.
  return words, layout in ROBOT or words != f'says it is {(1, 65535)}'


def _odd_image(layout, flat, key, rng):
  if not _is_image(key):
    return None
  encoded, words = _odd_picture(flat[key][_row(layout)], rng)
  flat[key][_row(layout)] = encoded
  return words, False


def _odd_picture(encoded: bytes, rng: random.Random) -> tuple[bytes, str]:
  """A picture of any format, with something wrong inside."""
  kind = rng.choice(['.jpg', '.jpg', '.png', '.bmp', '.webp', '.gif'])
  if kind != '.jpg':
    encoded = _encoded(kind, *cv2.imdecode(np.frombuffer(encoded, np.uint8), 1).shape[:2])
  encoded, words = _mangled(encoded, rng)
  return encoded, f'is a {kind}, {words}'


@functools.lru_cache(maxsize=None)
def _encoded(kind: str, height: int, width: int) -> bytes:
  pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
  return cv2.imencode(kind, pixels)[1].tobytes()


_VALUE_WAYS = (_no_key, _other_length, _other_dtype, _not_finite, _absurd_number, _bad_text,
               _odd_text, _bad_image, _odd_image)


def _long_text(found: Case, rng: random.Random, size: int):
  """One string of `size` bytes, in a record or in a JSON file."""
  if found.layout in FILES:
    name, key = {'vqa_json': ('annotations.json', 'multiple_choice_answer'),
                 'coco_json': ('captions.json', 'caption')}[found.layout]
    whole = json.loads(found.files[name])
    whole['annotations'][2][key] = 'x' * size
    found.files[name] = json.dumps(whole).encode()
    found.said.append(f'{name}: {key} 2 has {size} bytes')
    found.noticed = True
    return
  name, position, flat = _take(found, rng)
  key = rng.choice([key for key in read_keys(found.layout) if key != 'lang'])
  values = flat[key] if isinstance(flat[key], list) else [b''] * len(flat[key])
  flat[key] = [*values[:_row(found.layout)], b'x' * size, *values[_row(found.layout) + 1:]]
  found.said.append(f'{name} record {position}: {key} has a string of {size} bytes')
  found.noticed = True
  _put(found, name, position, _serialize(flat))


def _change_payload(found: Case, rng: random.Random):
  """Other bytes under a CRC that is right."""
  name, position, _ = _take(found, rng)
  start, stop = _frames(found.files[name])[position]
  payload, words = _mangled(found.files[name][start + 12:stop - 4], rng)
  found.said.append(f'{name} record {position}, CRC right: {words}')
  _put(found, name, position, payload)


def _change_order(found: Case, rng: random.Random):
  """Records dropped, repeated or exchanged."""
  name = rng.choice([*found.origins])
  data = found.files[name]
  frames = [data[start:stop] for start, stop in _frames(data)]
  order = [*range(len(frames))]
  way = rng.choice(['dropped', 'repeated', 'shuffled'])
  if way == 'dropped':
    order = sorted(rng.sample(order, rng.randrange(len(order))))
  elif way == 'repeated':
    order = sorted(order + rng.choices(order, k=rng.randint(1, 3)))
  else:
    rng.shuffle(order)
  robot = found.layout in ROBOT
  found.said.append(f'{name}: records {way}, now {order}')
  found.noticed |= not order or robot and len(order) != len(frames)
  found.files[name] = b''.join(frames[i] for i in order)
  found.origins[name] = [found.origins[name][i] for i in order]
  # What dataset_info.json does not promise is not read.
  found.certain[name] = min(len(order), len(frames)) if robot else len(order)


def _change_shard(found: Case, rng: random.Random):
  """Bytes of the file changed, so that framing or CRC is wrong."""
  name = rng.choice([*found.origins])
  data, frames = found.files[name], _frames(found.files[name])
  way = rng.choice([_flip_shard, _flip_shard, _cut_shard, _wrong_length, _more_bytes, _no_shard])
  if data:
    found.said.append(f'{name}: {way(found, rng, name, data, frames)}')


def _flip_shard(found, rng, name, data, frames):
  found.files[name], places = _flipped(data, rng)
  for position, (start, stop) in enumerate(frames):
    if any(start <= place < stop for place in places):
      found.origins[name][position] = None
    if any(start <= place < start + 12 for place in places):
      found.certain[name] = min(found.certain[name], position)
  found.noticed = True
  return f'bytes {places[:4]} are flipped'


def _cut_shard(found, rng, name, data, frames):
  size = rng.choice([rng.randrange(len(data)), rng.choice(frames)[0]])
  whole = sum(stop <= size for _, stop in frames)
  found.files[name] = data[:size]
  found.certain[name] = min(found.certain[name], whole)
  found.noticed |= found.layout in ROBOT or size not in {start for start, _ in frames} or size == 0
  return f'cut after {size} bytes'


def _wrong_length(found, rng, name, data, frames):
  position = rng.randrange(len(frames))
  start, stop = frames[position]
  right = stop - start - 16
  length = rng.choice([0, right - 1, right + 1, 2 * right, 2**31, 2**40, 2**63, 2**64 - 1])
  found.files[name] = data[:start] + _frame(b'', length)[:12] + data[start + 12:]
  found.certain[name] = min(found.certain[name], position)
  found.origins[name][position:] = [None] * (len(frames) - position)
  found.noticed = True
  return f'record {position} says it has {length} bytes, with the CRC of that'


def _more_bytes(found, rng, name, data, frames):
  more = rng.choice([b'\0' * rng.randint(1, 99), rng.randbytes(rng.randint(1, 99))])
  found.files[name] = data + more
  found.noticed = True
  return f'{len(more)} bytes follow the last record'


def _no_shard(found, rng, name, data, frames):
  found.files[name] = rng.choice([None, b'', DIRECTORY])
  found.certain[name] = 0
  found.noticed = True
  return {None: 'missing', b'': 'empty', DIRECTORY: DIRECTORY}[found.files[name]]


_ODD_VALUES = (None, True, -1, 0, 10**30, 0.5, float('nan'), float('inf'), '', 'x', '\0', 'a\nb',
               '../x', '\ud800', 'x' * (1 << 17), [], [[]], {}, [None], ['7'], {'x': 1})


def _change_json(found: Case, rng: random.Random):
  """A JSON file of the dataset says something else, or is none."""
  name = rng.choice([name for name in found.files if name.endswith('.json')])
  data = found.files[name]
  way = rng.choice(['bytes', 'value', 'value', 'value', 'key', 'text'])
  if way == 'bytes':
    found.files[name], words = _mangled(data, rng)
  elif way == 'text':
    text = rng.choice([b'', b'null', b'[]', b'[' * 100_000, b'9' * 5000, b'{"a": NaN}', b'\xff'])
    found.files[name], words = text, f'is {text[:8]!r} ({len(text)} bytes)'
  else:
    whole = json.loads(data)
    container, key = rng.choice(_nodes(whole))
    if way == 'value':
      container[key] = rng.choice([*_ODD_VALUES, copy.deepcopy(rng.choice(_nodes(whole))[0])])
      words = f'{key!r} of {str(container)[:60]!r} is changed'
    elif isinstance(container, list) and rng.random() < 0.5:
      container.append(container[key])
      words = f'entry {key} is repeated'
    else:
      words = f'{key!r} is taken out'
      del container[key]
    found.files[name] = json.dumps(whole).encode()
  found.said.append(f'{name}: {words}')
  # It may hide what was broken before, and break what was sound.
  found.certain, found.noticed = dict.fromkeys(found.certain, 0), False


def _nodes(node) -> list[tuple[dict | list, str | int]]:
  """Every (container, key) of a JSON value."""
  if not isinstance(node, (dict, list)):
    return []
  keys = [*node] if isinstance(node, dict) else [*range(len(node))]
  return [(node, key) for key in keys] + [each for key in keys for each in _nodes(node[key])]


def _change_image_file(found: Case, rng: random.Random):
  name = rng.choice([name for name in found.files if name.endswith('.jpg')])
  data = found.files[name]
  if rng.random() < 0.5:
    found.files[name], words = _odd_picture(data, rng)
  else:
    found.files[name], words = rng.choice([
        (b'', 'is empty'), (None, 'is missing'), (DIRECTORY, 'is a directory'),
        (data[:rng.randrange(1, len(data) - 2)], 'is cut')])
    found.noticed = True
  found.said.append(f'{name}: {words}')


_Way = Callable[[Case, random.Random], None]
_WAYS: dict[str, tuple[_Way, ...]] = {
    'shards': (_change_value, _change_value, _change_payload, _change_order, _change_shard),
    'files': (_change_image_file, _change_json, _change_json),
}
