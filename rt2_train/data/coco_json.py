"""The lists in VQAv2's and COCO's JSON files, checked before anything is made of them."""

from collections.abc import Callable
import json
import re
import reprlib

_SCHEMAS = 'this reader takes the VQAv2 and COCO schemas'
# Both stand in paths and in messages of one line.
_IDENTITY, _FILE_NAME = r'[\w./:-]{1,100}', r'[^\0-\x1f\ud800-\udfff]{1,300}'


def text(value) -> bool:
  return isinstance(value, str)


def identity(value) -> bool:
  # True is an int, too.
  return type(value) is int or text(value) and bool(re.fullmatch(_IDENTITY, value))


def file_name(value) -> bool:
  return text(value) and bool(re.fullmatch(_FILE_NAME, value))


def entries(path: str, key: str, **fields: Callable) -> list[dict]:
  """The list under `key` of a JSON file.

  Args:
    path, key: of the list.
    **fields: what each entry must have: name to `text`, `identity` or `file_name`. No two entries
      may have the same first field.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it holds no such list, or an entry is of another form; names it.
  """
  try:
    with open(path, encoding='utf-8') as file:
      whole = json.load(file)
  except FileNotFoundError:
    raise FileNotFoundError(f'{path} is missing; it should hold {key}') from None
  except (RecursionError, ValueError) as e:
    raise ValueError(f'{path} is not JSON ({e}); copy it again') from e
  if not isinstance(whole, dict) or not isinstance(whole.get(key), list):
    raise ValueError(f'{path} has no list {key!r}; {_SCHEMAS}')
  found = checked(f'{path}: {key}', whole[key], **fields)
  first, seen = next(iter(fields)), set()
  for number, entry in enumerate(found):
    if entry[first] in seen:
      raise ValueError(f'{path}: {key}[{number}] has {first} {entry[first]!r}, as another '
                       'before it; leave one of them out')
    seen.add(entry[first])
  return found


def checked(where: str, listed, **fields: Callable) -> list[dict]:
  """`listed` as it is: a list of objects with `fields`, name to what its value must be."""
  if not isinstance(listed, list):
    raise ValueError(f'{where} is {reprlib.repr(listed)}, not a list; {_SCHEMAS}')
  for number, entry in enumerate(listed):
    if not isinstance(entry, dict):
      raise ValueError(f'{where}[{number}] is {reprlib.repr(entry)}, not an object; {_SCHEMAS}')
    for field, fits in fields.items():
      if field not in entry:
        raise ValueError(f'{where}[{number}] has no {field}; {_SCHEMAS}')
      if not fits(entry[field]):
        raise ValueError(f'{where}[{number}] has {field} {reprlib.repr(entry[field])}; {_SCHEMAS}')
  return listed
