"""The shards that a pattern names, of whatever format, and what to call them."""

from collections.abc import Sequence
import glob
import os
import re

from rt2_train.data import index

# 'train.tfrecord-00003-of-00016', and 'c4-train.00003-of-01024.json'.
_OF = re.compile(r'[-.](\d{5})-of-(\d{5})')
_MAGIC = re.compile(r'[*?\[]')
_STEM = re.compile(r'\.tfrecord|\.tar|\.jsonl?\b|[-.]\d{5}-of-|[*?\[]')
_FORMATS = {'.tar': 'tar', '.json': 'json lines', '.jsonl': 'json lines'}
_COMPRESSED = ('.gz', '.tgz', '.bz2', '.xz', '.zst', '.zip')


def find(pattern: str, formats: Sequence[str]) -> tuple[list[index.Shard], str]:
  """The files that a glob pattern names, in order, and their format.

  Args:
    pattern: such as '/data/train.tfrecord-*', '/data/*.tar' or '/data/c4-train.*.json'.
    formats: those that the caller reads, of 'tfrecord', 'tar' and 'json lines'. The end of a file's
      name decides; what has none of its own is TFRecord.

  Raises:
    FileNotFoundError: no file matches, or one of its '-of-' siblings is missing.
    ValueError: files are compressed, or of other formats or of several.
  """
  paths = sorted(glob.glob(pattern))
  if not paths:
    raise FileNotFoundError(f'no file matches {pattern}; it is a pattern such as '
                            "'/data/captions-train.tfrecord-*'")
  found = {}
  for path in paths:
    end = os.path.splitext(path)[1]
    if end in _COMPRESSED:
      raise ValueError(f'{path} is compressed, which has no random access; unpack it')
    found.setdefault(_FORMATS.get(end, 'tfrecord'), path)
  if len(found) > 1 or not found.keys() <= set(formats):
    listed = ', '.join(f'{path} ({form})' for form, path in found.items())
    raise ValueError(f'{pattern} matches {listed}; name files of one format, out of '
                     f'{", ".join(formats)}')
  numbered = [match.groups() for match in map(_OF.search, paths) if match]
  there = {int(number) for number, _ in numbered}
  for number in range(int(numbered[0][1]) if numbered else 0):
    if number not in there:
      raise FileNotFoundError(f'{pattern}: shard {number:05d} of {numbered[0][1]} is missing; '
                              'copy the rest')
  return [index.Shard(path) for path in paths], next(iter(found))


def name_of(pattern: str) -> str:
  """What errors call the files of a pattern: how their names begin, or else their directory's."""
  directory, base = os.path.split(os.path.abspath(pattern))
  begin = _STEM.split(base)[0].strip('-_.')
  return begin or os.path.basename(directory) or base


def index_path(pattern: str, index_dir: str | None, reads: Sequence[str]) -> str:
  """Where the index of a pattern's files lies; other things that are read are another index.

  Raises:
    ValueError: the pattern is of several directories, and nothing says which is to hold it.
  """
  directory, base = os.path.split(pattern)
  if index_dir is None and _MAGIC.search(directory):
    raise ValueError(f'{pattern} is of several directories; pass index_dir, which is to hold the '
                     'index of them all')
  stem = re.sub(r'[^\w.-]+', '_', base)
  what = '-'.join(key.strip('.') for key in reads).replace('/', '_')
  return index.index_path(directory or '.', index_dir, f'{stem}.{what}')
