"""What the fuzzer does to one record: another value, length, kind or picture under a key.

Each of `_WAYS` takes (layout, flat record, key, random numbers), changes the record, and returns
what it did in words and whether that must be noticed; None where it does not apply to the key.
"""

import functools
import random
import struct

import cv2
import numpy as np

from tests.data import fuzz_datasets

STEP = 1  # Of every episode: neither first nor last, which layouts may leave out.


def change(layout: str, flat: dict, rng: random.Random) -> tuple[str, bool]:
  """Does one thing to a record; returns it in words, and whether it must be noticed."""
  keys = fuzz_datasets.read_keys(layout)
  key, way = rng.choice(keys), rng.choice(_WAYS)
  done = way(layout, flat, key, rng)
  if done is None:
    [key, *_] = filter(_is_image, keys)
    done = _bad_image(layout, flat, key, rng)
  return f'{key} {done[0]}', done[1]


def row(layout: str) -> int:
  """Which of a record's values is changed."""
  return STEP if layout in fuzz_datasets.ROBOT else 0


def _is_image(key: str) -> bool:
  return key.endswith(('image', 'image_0', 'rgb'))


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
  flat[key][STEP] = value
  return f'is {value} at step {STEP}', True


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
    flat[key][STEP] = 0
    flat[key][STEP, :3] = point
    return f'has code points {point} at step {STEP}', True
  text = rng.choice([b'', b' \n', b'\xff', b'\xed\xa0\x80', b'x' * (1 << 17)])
  flat[key][row(layout)] = text
  return f'is {text[:8]!r} ({len(text)} bytes) at row {row(layout)}', True


def _odd_text(layout, flat, key, rng):
  if not isinstance(flat[key], list) or _is_image(key):
    return None
  text = rng.choice(
      ['\0', '\u202e', 'a\nb', '<img>', '{0}', '\U0001f916', '\ufeff', '<extra_id_0>'])
  flat[key][row(layout)] = text.encode()
  return f'is {text!r}', False


def _bad_image(layout, flat, key, rng):
  if not _is_image(key):
    return None
  encoded = flat[key][row(layout)]
  frame = encoded.index(b'\xff\xc0') + 5
  size = rng.choice([(0, 0), (65535, 65535), (20000, 20000), (1, 65535)])
  flat[key][row(layout)], words = rng.choice([
      (b'', 'is empty'),
      (encoded[:rng.randrange(1, len(encoded) - 2)], 'is cut'),
      (rng.randbytes(rng.randint(1, 99)), 'is random bytes'),
      (encoded[:frame] + struct.pack('>HH', *size) + encoded[frame + 4:], f'says it is {size}'),
  ])
  # A strip of web picture may be of any size that memory can hold; its lack of pixels is found
  # when it is decoded.
  return words, layout in fuzz_datasets.ROBOT or words != f'says it is {(1, 65535)}'


def _odd_image(layout, flat, key, rng):
  if not _is_image(key):
    return None
  encoded, words = odd_picture(flat[key][row(layout)], rng)
  flat[key][row(layout)] = encoded
  return words, False


def odd_picture(encoded: bytes, rng: random.Random) -> tuple[bytes, str]:
  """A picture of any format, with something wrong inside."""
  kind = rng.choice(['.jpg', '.jpg', '.png', '.bmp', '.webp', '.gif'])
  if kind != '.jpg':
    encoded = _encoded(kind, *cv2.imdecode(np.frombuffer(encoded, np.uint8), 1).shape[:2])
  encoded, words = mangled(encoded, rng)
  return encoded, f'is a {kind}, {words}'


@functools.lru_cache(maxsize=None)
def _encoded(kind: str, height: int, width: int) -> bytes:
  pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
  return cv2.imencode(kind, pixels)[1].tobytes()


_WAYS = (_no_key, _other_length, _other_dtype, _not_finite, _absurd_number, _bad_text,
               _odd_text, _bad_image, _odd_image)


def flipped(data: bytes, rng: random.Random, most: int = 8) -> tuple[bytes, list[int]]:
  """`data` with some bytes changed, and their places."""
  changed = bytearray(data)
  places = sorted(rng.sample(range(len(data)), min(len(data), rng.randint(1, most))))
  for place in places:
    changed[place] ^= rng.choice([1 << rng.randrange(8), rng.randint(1, 255)])
  return bytes(changed), places


def mangled(data: bytes, rng: random.Random) -> tuple[bytes, str]:
  """Bytes that are like `data`, and how they differ."""
  way = rng.choice(['flipped', 'flipped', 'cut', 'cut out', 'inserted', 'ones', 'twice', 'random'])
  a = rng.randrange(len(data) + 1)
  z = min(len(data), a + rng.choice([1, 4, 64, 4096]))
  noise = rng.randbytes(rng.choice([1, 2, 16, 300]))
  if way == 'flipped':
    data, places = flipped(data, rng)
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
