"""A TFDS directory on disk, read without TFDS: features.json, dataset_info.json, shard names.

This is all that is needed to read any RLDS dataset in place, without its builder's code.
"""

import dataclasses
import json
import os
import re
import reprlib

_DEFAULT_TEMPLATE = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
# Names become parts of paths and of messages.
_NAME, _TEMPLATE = r'[\w.+-]{0,100}', r'[\w.+{}-]{1,200}'
_COUNT, _DIMENSION = r'[0-9]{1,9}', r'-?[0-9]{1,9}'


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
  """One leaf of features.json.

  Attributes:
    kind: 'image', 'text', 'tensor', or whatever else TFDS calls it.
    shape: of one value (one step's, under `steps/`); None for a free dimension.
    dtype: NumPy's name of it; '' where TFDS states none.
  """

  kind: str
  shape: tuple[int | None, ...]
  dtype: str


@dataclasses.dataclass(frozen=True)
class Directory:
  """What the two metadata files of a TFDS directory say.

  Attributes:
    path: the directory that holds features.json.
    name: the dataset's name.
    version: the dataset's version.
    features: leaf path, such as 'steps/observation/image', to its FeatureSpec.
    splits: split name to (shard path, number of episodes) of each shard.
  """

  path: str
  name: str
  version: str
  features: dict[str, FeatureSpec]
  splits: dict[str, tuple[tuple[str, int], ...]]

  def shards(self, split: str) -> tuple[tuple[str, int], ...]:
    """(path, episodes) of each shard of `split`.

    Raises:
      ValueError: there is no such split.
      FileNotFoundError: a shard is not there.
    """
    if split not in self.splits:
      raise ValueError(f'{self.name} has no split {split!r}; it has {sorted(self.splits)}')
    shards = self.splits[split]
    for number, (path, _) in enumerate(shards):
      if not os.path.exists(path):
        raise FileNotFoundError(
            f'{self.name}/{split} shard {number:05d} is missing: {path}; dataset_info.json '
            f'promises {len(shards)} shards, copy the rest')
    return shards


def open_directory(path: str) -> Directory:
  """Reads the metadata of a TFDS directory.

  Args:
    path: local directory with features.json, dataset_info.json and TFRecord shards, such as
      '/data/fractal20220817_data/0.1.0'.

  Raises:
    FileNotFoundError: a metadata file is missing.
    ValueError: one says something this reader cannot follow; the path is remote.
  """
  path = os.fspath(path)
  if '://' in path:
    raise ValueError(f'{path} is remote; copy it to local disk, or mount it and give the mount')
  features = _read_json(path, 'features.json')
  info = _read_json(path, 'dataset_info.json')
  if info.get('fileFormat', 'tfrecord') != 'tfrecord':
    raise ValueError(f'{path}/dataset_info.json: files are '
                     f"{reprlib.repr(info['fileFormat'])}; this reader takes 'tfrecord', convert "
                     'them with tfds.convert_format')
  where, splits = f'{path}/dataset_info.json', {}
  name = _text(info.get('name'), _NAME, f'{where}: name')
  version = _text(info.get('version') or '', _NAME, f'{where}: version')
  for split in _of(list, info.get('splits') or [], f'{where}: splits'):
    split_name = _text(_of(dict, split, f'{where}: a split').get('name'), _NAME,
                       f'{where}: name of a split')
    if 'shardLengths' not in split:
      raise ValueError(f'{where}: split {split_name!r} has no shardLengths; '
                       'write it again with a current tensorflow-datasets')
    lengths_of = f'{where}: shardLengths of split {split_name!r}'
    lengths = [int(_text(str(n), _COUNT, lengths_of))
               for n in _of(list, split['shardLengths'], lengths_of)]
    template = _text(split.get('filepathTemplate') or _DEFAULT_TEMPLATE, _TEMPLATE,
                     f'{where}: filepathTemplate of split {split_name!r}')
    splits[split_name] = tuple(
        (os.path.join(path, _shard_name(template, name, split_name, i, len(lengths))), n)
        for i, n in enumerate(lengths))
  leaves = dict(_leaves(features, '', f'{path}/features.json'))
  return Directory(path, name, version, leaves, splits)


def _of(kind: type, value, what: str):
  if not isinstance(value, kind):
    raise ValueError(f'{what} is {reprlib.repr(value)}, not a {kind.__name__}; copy the file again')
  return value


def _text(value, pattern: str, what: str) -> str:
  if not isinstance(value, str) or not re.fullmatch(pattern, value):
    raise ValueError(f'{what} is {reprlib.repr(value)}, not like {pattern}; copy the file again')
  return value


def _read_json(directory: str, name: str) -> dict:
  path = os.path.join(directory, name)
  try:
    with open(path, encoding='utf-8') as file:
      whole = json.load(file)
  except FileNotFoundError:
    below = sorted(d for d in (os.listdir(directory) if os.path.isdir(directory) else ())
                   if os.path.exists(os.path.join(directory, d, name)))
    remedy = (f'did you mean {os.path.join(directory, below[-1])}?' if below else
              'a TFDS directory holds features.json, dataset_info.json and its shards')
    raise FileNotFoundError(f'{path} is missing; {remedy}') from None
  except (RecursionError, ValueError) as e:
    raise ValueError(f'{path} is not JSON ({e}); copy it again') from e
  return _of(dict, whole, path)


def _shard_name(template: str, dataset: str, split: str, shard: int, shards: int) -> str:
  fields = {
      '{DATASET}': dataset, '{SPLIT}': split, '{FILEFORMAT}': 'tfrecord',
      '{SHARD_X_OF_Y}': f'{shard:05d}-of-{shards:05d}',
      '{SHARD_INDEX}': f'{shard:05d}', '{NUM_SHARDS}': f'{shards:05d}',
  }
  for field, value in fields.items():
    template = template.replace(field, value)
  return template


def _leaves(node: dict, prefix: str, where: str):
  """(path, FeatureSpec) of each leaf; a sequence (such as `steps`) adds nothing to the path."""
  what = f'{where}: {prefix or "what it holds"}'
  if 'featuresDict' in _of(dict, node, what):
    children = _of(dict, node['featuresDict'], what).get('features', {})
    for key, child in _of(dict, children, what).items():
      yield from _leaves(child, f'{prefix}/{key}' if prefix else key, where)
  elif 'sequence' in node:
    yield from _leaves(_of(dict, node['sequence'], what).get('feature'), prefix, where)
  else:
    kind = next((k for k in node if k not in ('pythonClassName', 'description')), '')
    leaf = _of(dict, node.get(kind) or {}, what)
    shape = _of(dict, leaf.get('shape') or {}, f'{what}: shape')
    sizes = [int(_text(str(d), _DIMENSION, f'{what}: a dimension'))
             for d in _of(list, shape.get('dimensions', []), f'{what}: dimensions')]
    dtype = _text(leaf.get('dtype', ''), _NAME, f'{what}: dtype')
    yield prefix, FeatureSpec(kind, tuple(None if d < 0 else d for d in sizes), dtype)
