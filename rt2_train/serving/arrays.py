"""Messages with NumPy arrays in them: msgpack as openpi's client packs it, JSON as json-numpy does.

Both decoders take bytes of strangers. Nothing is unpickled; an array is booleans, integers or
floats, and exactly as long as it says; how many values a message may hold is bounded while
they are made, since an empty map takes a byte on the wire and sixty in memory.
"""

import base64
from collections.abc import Mapping
import json
import math
import re
from typing import Any

import msgpack
import numpy as np

# One of many small arrays, not an image, is what comes near these.
MOST_ITEMS = 4096  # of one map or list
MOST_VALUES = 8192

_DTYPE = re.compile(r'[<>|=]?[biuf][1248]')
_MOST_AXES = 8


def pack_msgpack(message: Mapping[str, Any]) -> bytes:
  """`message` as msgpack, arrays and NumPy scalars in openpi's coding."""
  return msgpack.packb(message, default=_to_msgpack)


def unpack_msgpack(data: bytes) -> dict[str, Any]:
  """Reads a map that openpi's client packed; its arrays are read-only views of `data`.

  Raises:
    ValueError: it is no such map, or an array in it is of a kind or size that is not taken.
  """
  count = 0

  def container(values):
    nonlocal count
    count += 1 + len(values)
    if count > MOST_VALUES:
      raise ValueError(f'more than {MOST_VALUES} values in maps and lists')
    return _from_msgpack(values) if isinstance(values, dict) else values

  try:
    message = msgpack.unpackb(
        data, object_hook=container, list_hook=container, ext_hook=_refuse_extension,
        max_map_len=MOST_ITEMS, max_array_len=MOST_ITEMS)
  except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
    raise ValueError(f'not a msgpack message: {error}') from error
  return _map(message, 'msgpack')


def pack_json(message: Any) -> str:
  """`message` as JSON, arrays in json-numpy's coding."""
  return json.dumps(message, default=_to_json)


def unpack_json(data: bytes) -> tuple[dict[str, Any], bool]:
  """Reads a JSON object with json-numpy's arrays.

  Returns:
    The message, and whether it was encoded twice, as {"encoded": "<JSON text>"}.

  Raises:
    ValueError: it is no such object, or an array in it is of a kind or size that is not taken.
  """
  message = _map(_parse_json(data), 'JSON')
  if set(message) != {'encoded'}:
    return message, False
  inner = message['encoded']
  if not isinstance(inner, str):
    raise ValueError('"encoded" of the JSON message must be a string, the text of another message')
  return _map(_parse_json(inner.encode('utf-8', 'surrogatepass')), 'JSON'), True


def _parse_json(data: bytes) -> Any:
  # Base64 has none of these, so only what is not an image is counted.
  if sum(map(data.count, (b'{', b'[', b','))) > MOST_VALUES:
    raise ValueError(
        f'not a JSON message: more than {MOST_VALUES} values; send arrays as '
        'json-numpy encodes them')
  try:
    return json.loads(data, object_hook=_from_json)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'not a JSON message: {error}') from error


def _map(message: Any, what: str) -> dict[str, Any]:
  if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
    raise ValueError(f'the {what} message must be a map with text keys, such as "prompt"')
  return message


def _to_msgpack(value: Any) -> dict[bytes, Any]:
  if isinstance(value, np.ndarray):
    return {b'__ndarray__': True, b'data': value.tobytes(), b'dtype': value.dtype.str,
            b'shape': value.shape}
  if isinstance(value, np.generic):
    return {b'__npgeneric__': True, b'data': value.item(), b'dtype': value.dtype.str}
  raise TypeError(f'{type(value).__name__} cannot be sent')


def _from_msgpack(values: dict[Any, Any]) -> Any:
  if b'__ndarray__' in values:
    return _array(*(values.get(key) for key in (b'data', b'dtype', b'shape')))
  if b'__npgeneric__' in values:
    data, dtype = values.get(b'data'), _dtype(values.get(b'dtype'))
    if not isinstance(data, (bool, int, float)):
      raise ValueError(f'a scalar of {dtype} is a {type(data).__name__}')
    return dtype.type(data)
  return values


def _refuse_extension(code: int, data: bytes) -> None:
  raise ValueError(f'extension type {code} of {len(data)} bytes; there is none in this protocol')


def _to_json(value: Any) -> dict[str, Any]:
  if not isinstance(value, (np.ndarray, np.generic)):
    raise TypeError(f'{type(value).__name__} cannot be sent')
  return {'__numpy__': base64.b64encode(value.tobytes()).decode(), 'dtype': value.dtype.str,
          'shape': list(value.shape)}


def _from_json(values: dict[str, Any]) -> Any:
  if '__numpy__' not in values:
    return values
  text = values['__numpy__']
  if not isinstance(text, str):
    raise ValueError('"__numpy__" is no text; it is the base64 of an array')
  return _array(
      base64.b64decode(text, validate=True), values.get('dtype'), values.get('shape'))


def _array(data: Any, dtype: Any, shape: Any) -> np.ndarray:
  """A read-only view of `data`, which must be as long as dtype and shape say."""
  dtype = _dtype(dtype)
  if not isinstance(shape, (list, tuple)) or len(shape) > _MOST_AXES or not all(
      type(length) is int and length >= 0 for length in shape):
    raise ValueError(
        f'an array has shape {str(shape)[:80]}; it is a list of at most {_MOST_AXES} lengths')
  if not isinstance(data, bytes):
    raise ValueError(f'the data of an array are a {type(data).__name__}, not bytes')
  expected = math.prod(shape) * dtype.itemsize
  if len(data) != expected:
    raise ValueError(
        f'an array {dtype} {list(shape)} has {len(data)} bytes where {expected} are needed')
  return np.frombuffer(data, dtype).reshape(shape)


def _dtype(name: Any) -> np.dtype:
  if not isinstance(name, str) or not _DTYPE.fullmatch(name):
    raise ValueError(
        f'an array has dtype {str(name)[:40]!r}; booleans, integers and floats are taken')
  try:
    return np.dtype(name)
  except TypeError as error:
    raise ValueError(f'an array has dtype {name!r}: {error}') from error
