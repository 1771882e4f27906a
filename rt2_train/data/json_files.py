"""What JSON files of datasets hold, checked before anything is made of it."""

from collections.abc import Callable, Iterator
import json
import re
import reprlib

# Both stand in paths and in messages of one line.
_IDENTITY, _FILE_NAME = r'[\w./:-]{1,100}', r'[^\0-\x1f\ud800-\udfff]{1,300}'
_LARGEST = 1 << 53


def text(value) -> bool:
  return isinstance(value, str)


def texts(value) -> bool:
  return isinstance(value, list) and all(map(text, value))


def identity(value) -> bool:
  # True is an int, too.
  return type(value) is int or text(value) and bool(re.fullmatch(_IDENTITY, value))


def file_name(value) -> bool:
  return text(value) and bool(re.fullmatch(_FILE_NAME, value))


def number(value) -> bool:
  # JSON's integers have no limit, and those that no float can hold end in an OverflowError.
  return type(value) is float or type(value) is int and abs(value) < _LARGEST


def size(value) -> bool:
  """Of an image, in pixels."""
  return number(value) and 0 < value < _LARGEST


def box(value) -> bool:
  return isinstance(value, list) and len(value) == 4 and all(map(number, value))


def load(path: str, holds: str):
  """What a JSON file says.

  Raises:
    FileNotFoundError: there is no such file; says what it should hold.
    ValueError: it is not JSON.
  """
  try:
    with open(path, encoding='utf-8') as file:
      return json.load(file)
  except FileNotFoundError:
    raise FileNotFoundError(f'{path} is missing; it should hold {holds}') from None
  except (RecursionError, ValueError) as e:
    raise ValueError(f'{path} is not JSON ({e}); copy it again') from e


def lines(path: str, holds: str) -> Iterator[tuple[str, object]]:
  """(place, what it says) of each line of a file of JSON lines; raises as `load`."""
  try:
    with open(path, 'rb') as file:
      for count, line in enumerate(file, 1):
        try:
          yield f'{path} line {count}', json.loads(line)
        except (RecursionError, ValueError) as e:
          raise ValueError(f'{path} line {count} is not JSON ({e}); copy it again') from e
  except FileNotFoundError:
    raise FileNotFoundError(f'{path} is missing; it should hold {holds}') from None


def entries(whole, path: str, schema: str, key: str, **fields: Callable) -> list[dict]:
  """The list under `key` of what a JSON file says.

  Args:
    whole: from `load`.
    path: of the file, for errors.
    schema: what this reader takes, for errors: 'VQAv2'.
    key: of the list.
    **fields: what each entry must have: name to `text`, `identity`, ... No two entries may have
      the same first field.

  Raises:
    ValueError: it holds no such list, or an entry is of another form; names it.
  """
  if not isinstance(whole, dict) or not isinstance(whole.get(key), list):
    raise ValueError(f'{path} has no list {key!r}; {_takes(schema)}')
  found = checked(whole[key], f'{path}: {key}', schema, **fields)
  first, seen = next(iter(fields)), set()
  for count, entry in enumerate(found):
    if entry[first] in seen:
      raise ValueError(f'{path}: {key}[{count}] has {first} {entry[first]!r}, as another '
                       'before it; leave one of them out')
    seen.add(entry[first])
  return found


def checked(listed, where: str, schema: str, **fields: Callable) -> list[dict]:
  """`listed` as it is: a list of objects with `fields`, name to what its value must be."""
  if not isinstance(listed, list):
    raise ValueError(f'{where} is {reprlib.repr(listed)}, not a list; {_takes(schema)}')
  for count, entry in enumerate(listed):
    if wrong := _wrong(entry, fields):
      raise ValueError(f'{where}[{count}] {wrong}; {_takes(schema)}')
  return listed


def check_entry(entry, where: str, schema: str, **fields: Callable) -> None:
  """Raises ValueError unless `entry` is an object with `fields`."""
  if wrong := _wrong(entry, fields):
    raise ValueError(f'{where} {wrong}; {_takes(schema)}')


def _wrong(entry, fields: dict[str, Callable]) -> str:
  """What is wrong with an entry; '' if nothing."""
  if not isinstance(entry, dict):
    return f'is {reprlib.repr(entry)}, not an object'
  for field, fits in fields.items():
    if field not in entry:
      return f'has no {field}'
    if not fits(entry[field]):
      return f'has {field} {reprlib.repr(entry[field])}'
  return ''


def image_path(images: str, image_id: int | str) -> str:
  """Where an image lies: `images` is a path with a format field for its id.

  Raises:
    ValueError: it has none, or one that does not fit the id.
  """
  try:
    path = images.format(image_id=image_id)
  except (KeyError, IndexError, ValueError) as e:
    raise ValueError(f'images is {images!r}, which takes no image_id ({e}); write it as '
                     "'/coco/COCO_val2014_{image_id:012d}.jpg'") from e
  return path


def _takes(schema: str) -> str:
  return f'this reader takes the schema of {schema}'
