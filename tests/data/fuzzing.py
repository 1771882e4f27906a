"""Datasets of every layout, each broken in a way that its case number decides.

`case(number)` is a pure function: layout, files and what was done to them. The test that reads them
is fuzz_test; cases that once were read wrongly stand in fuzz_corpus_test.
"""

import copy
import dataclasses
import functools
import json
import pathlib
import random

from tests.data import fuzz_datasets
from tests.data import fuzz_values

DIRECTORY = 'a directory'  # Stands for the bytes of a file.
_HUGE, _HUGE_PERIOD = 100 << 20, 301  # One string of 100 MB in so many cases.


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
    """In a layout of JSON and image files: the rows that nothing was done to ('question 7')."""
    wholes = {name: _loaded(content) for name, content in self.files.items()}
    return {
        row for row, (entries, image) in fuzz_datasets.rows(self.layout).items()
        if self.files[image] == fuzz_datasets.files(self.layout)[image]
        and all(_holds(wholes[name], key, entry) for name, key, entry in entries)}

  def write(self, directory: pathlib.Path) -> None:
    """Writes the dataset into `directory`, which is made."""
    directory.mkdir(parents=True)
    for name, content in self.files.items():
      if content is DIRECTORY:
        (directory / name).mkdir()
      elif content is not None:
        (directory / name).write_bytes(content)


def layout_of(number: int) -> str:
  """Layouts take turns."""
  return fuzz_datasets.LAYOUTS[number % len(fuzz_datasets.LAYOUTS)]


def case(number: int) -> Case:
  """The broken dataset of this number."""
  rng = random.Random(number)
  found = sound(layout_of(number), number)
  if number % _HUGE_PERIOD == 4:
    _long_text(found, rng, _HUGE)
    return found
  ways = _FILE_WAYS if found.layout in fuzz_datasets.FILES else _SHARD_WAYS
  if found.layout in fuzz_datasets.ROBOT:
    ways = (*ways, _change_json)
  chosen = rng.choices(ways, k=rng.choice([1, 1, 1, 2, 3]))
  for way in sorted(set(chosen), key=ways.index):
    way(found, rng)
  return found


def sound(layout: str, number: int = 0) -> Case:
  """The dataset of `layout` with nothing broken."""
  files = dict(fuzz_datasets.files(layout))
  shards = sorted(name for name in files if '.tfrecord-' in name)
  sizes = {name: len(fuzz_datasets.records(layout)[i]) for i, name in enumerate(shards)}
  return Case(number, layout, files, [], {name: [*range(n)] for name, n in sizes.items()}, sizes)


def _loaded(content):
  try:
    return json.loads(content)
  except (TypeError, ValueError, RecursionError):
    return None


def _holds(whole, key: str, entry: dict | list) -> bool:
  entries = whole.get(key) if isinstance(whole, dict) else None
  if isinstance(entry, list) and isinstance(entries, list):
    entries = [[each for each in entries if isinstance(each, dict)
                and each.get('image_id') == entry[0]['image_id']]]
  entries = entries if isinstance(entries, list) else [entries]
  # As text, since 1 is True to Python.
  return json.dumps(entry) in map(json.dumps, entries)


def _take(found: Case, rng: random.Random) -> tuple[str, int, dict | None]:
  """A shard that is a file, a position in it, and its flat record (None: changed before)."""
  names = [name for name in found.origins if found.origins[name]]
  name = rng.choice(names)
  position = rng.randrange(len(found.origins[name]))
  origin = found.origins[name][position]
  flat = None
  if origin is not None:
    shard = sorted(found.origins).index(name)
    flat = copy.deepcopy(fuzz_datasets.records(found.layout)[shard][origin])
  return name, position, flat


def _put(found: Case, name: str, position: int, payload: bytes):
  data = found.files[name]
  start, stop = fuzz_datasets.frames(data)[position]
  found.files[name] = data[:start] + fuzz_datasets.frame(payload) + data[stop:]
  found.origins[name][position] = None


def _change_value(found: Case, rng: random.Random):
  name, position, flat = _take(found, rng)
  if flat is None:
    return
  words, noticed = fuzz_values.change(found.layout, flat, rng)
  found.said.append(f'{name} record {position}: {words}')
  found.noticed |= noticed
  _put(found, name, position, fuzz_datasets.serialize(flat))


def _long_text(found: Case, rng: random.Random, size: int):
  """One string of `size` bytes, in a record or in a JSON file."""
  if found.layout in fuzz_datasets.FILES:
    name, *keys = {
        'vqa_json': ('annotations.json', 'annotations', 2, 'multiple_choice_answer'),
        'coco_json': ('captions.json', 'annotations', 2, 'caption'),
        'text_vqa_json': ('questions.json', 'data', 2, 'question'),
        'gqa_json': ('questions.json', '20', 'answer'),
        'objects_json': ('instances.json', 'categories', 2, 'name')}[found.layout]
    whole = entry = json.loads(found.files[name])
    for key in keys[:-1]:
      entry = entry[key]
    entry[keys[-1]] = 'x' * size
    found.files[name] = json.dumps(whole).encode()
    found.said.append(f'{name}: {keys[-1]} of {keys[-2]} has {size} bytes')
    found.noticed = True
    return
  name, position, flat = _take(found, rng)
  key = rng.choice([key for key in fuzz_datasets.read_keys(found.layout) if key != 'lang'])
  values = flat[key] if isinstance(flat[key], list) else [b''] * len(flat[key])
  flat[key] = [*values]
  flat[key][fuzz_values.row(found.layout)] = b'x' * size
  found.said.append(f'{name} record {position}: {key} has a string of {size} bytes')
  found.noticed = True
  _put(found, name, position, fuzz_datasets.serialize(flat))


def _change_payload(found: Case, rng: random.Random):
  """Other bytes under a CRC that is right."""
  name, position, _ = _take(found, rng)
  start, stop = fuzz_datasets.frames(found.files[name])[position]
  payload, words = fuzz_values.mangled(found.files[name][start + 12:stop - 4], rng)
  found.said.append(f'{name} record {position}, CRC right: {words}')
  _put(found, name, position, payload)


def _change_order(found: Case, rng: random.Random):
  """Records dropped, repeated or exchanged."""
  name = rng.choice([*found.origins])
  data = found.files[name]
  frames = [data[start:stop] for start, stop in fuzz_datasets.frames(data)]
  order = [*range(len(frames))]
  way = rng.choice(['dropped', 'repeated', 'shuffled'])
  if way == 'dropped':
    order = sorted(rng.sample(order, rng.randrange(len(order))))
  elif way == 'repeated':
    order = sorted(order + rng.choices(order, k=rng.randint(1, 3)))
  else:
    rng.shuffle(order)
  robot = found.layout in fuzz_datasets.ROBOT
  found.said.append(f'{name}: records {way}, now {order}')
  # Where nothing promises a record, what was wrong with it may go with it.
  found.noticed = not order or (
      found.noticed or len(order) != len(frames) if robot else found.noticed and way != 'dropped')
  found.files[name] = b''.join(frames[i] for i in order)
  found.origins[name] = [found.origins[name][i] for i in order]
  # What dataset_info.json does not promise is not read.
  found.certain[name] = min(len(order), len(frames)) if robot else len(order)


def _change_shard(found: Case, rng: random.Random):
  """Bytes of the file changed, so that framing or CRC is wrong."""
  name = rng.choice([*found.origins])
  data, frames = found.files[name], fuzz_datasets.frames(found.files[name])
  way = rng.choice([_flip_shard, _flip_shard, _cut_shard, _wrong_length, _more_bytes, _no_shard])
  if data:
    found.said.append(f'{name}: {way(found, rng, name, data, frames)}')


def _flip_shard(found, rng, name, data, frames):
  found.files[name], places = fuzz_values.flipped(data, rng)
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
  at_an_end = size in {start for start, _ in frames[1:]}
  found.noticed = found.layout in fuzz_datasets.ROBOT or not at_an_end
  return f'cut after {size} bytes'


def _wrong_length(found, rng, name, data, frames):
  position = rng.randrange(len(frames))
  start, stop = frames[position]
  right = stop - start - 16
  length = rng.choice([0, right - 1, right + 1, 2 * right, 2**31, 2**40, 2**63, 2**64 - 1])
  found.files[name] = data[:start] + fuzz_datasets.frame(b'', length)[:12] + data[start + 12:]
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
    found.files[name], words = fuzz_values.mangled(data, rng)
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
    found.files[name], words = fuzz_values.odd_picture(data, rng)
  else:
    found.files[name], words = rng.choice([
        (b'', 'is empty'), (None, 'is missing'), (DIRECTORY, 'is a directory'),
        (data[:rng.randrange(1, len(data) - 2)], 'is cut')])
    found.noticed = True
  found.said.append(f'{name}: {words}')


# Values first, then the bytes around them, so that a later change meets the earlier one. What
# stands twice is done twice as often.
_SHARD_WAYS = (_change_value, _change_value, _change_payload, _change_order, _change_shard)
_FILE_WAYS = (_change_image_file, _change_json, _change_json)
