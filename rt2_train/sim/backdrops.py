"""What is behind and around the things on the table, and the camera that looks at it.

All of it is drawn by the scene's `look`, so that a scene looks the same at every step.
"""

import functools

import numpy as np
from PIL import Image
from PIL import ImageDraw

BACKGROUNDS = ('seen', 'unseen', 'cluttered')
ENVIRONMENTS = ('seen', 'unseen', 'desk')

_RIM = 0.025  # width of the table's edge where one is seen, metres
_CORNER = 0.2  # radius of a round table's corners
# Environment -> bounds of the camera's zoom, and of its shear either way.
_CAMERAS = {'unseen': (0.86, 0.96, 0.08), 'desk': (0.72, 0.8, 0.16)}


@functools.lru_cache(maxsize=256)
def table(background: str, environment: str, look: int, size: int) -> np.ndarray:
  """A table top float32 [size, size, 3]."""
  image = _top(background, look, size)
  if environment == 'seen':
    return image
  rng = np.random.default_rng([look, 2])
  floor_3, rim_3 = _floor(look), rng.uniform(30, 230, 3)
  corner = rng.choice([0.0, _CORNER])
  within = _rounded(corner, 0.0, size)
  inner = _rounded(max(corner - _RIM, 0.0), _RIM, size)
  image = inner * image + (within - inner) * rim_3 + (1 - within) * floor_3
  return image.astype(np.float32)


def through_camera(image: np.ndarray, environment: str, look: int) -> np.ndarray:
  """A frame uint8 [S, S, 3] of the table as another camera sees it, with what is around."""
  size = image.shape[0]
  room, coefficients = _room(environment, look, size)
  frame = Image.fromarray(image).convert('RGBA')
  frame = frame.transform(
      (size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
  room = room.copy()
  room.paste(frame, mask=frame.getchannel('A'))
  return np.array(room)


def _top(background: str, look: int, size: int) -> np.ndarray:
  """Plain wood, stripes of any colour, or patches of many."""
  rng = np.random.default_rng(look)
  if background == 'seen':
    base = np.array([200.0, 185.0, 160.0]) + rng.uniform(-15, 15, 3)
  else:
    base = rng.uniform(60, 230, 3)
  y, x = np.mgrid[:size, :size] / size
  slope_x, slope_y = rng.uniform(-12, 12, 2)
  image = base + (slope_x * x + slope_y * y)[..., None]
  if background == 'unseen':
    per_x, per_y = rng.uniform(1, 4, 2)
    image = image + 18 * np.sign(np.sin(2 * np.pi * (per_x * x + per_y * y)))[..., None]
  if background == 'cluttered':
    for _ in range(12):
      left, top = rng.uniform(-0.2, 0.9, 2)
      width, height = rng.uniform(0.15, 0.5, 2)
      patch = (left < x) & (x < left + width) & (top < y) & (y < top + height)
      image = np.where(patch[..., None], image + rng.uniform(-45, 45, 3), image)
  return (image + rng.normal(0, 2, (size, size, 1))).astype(np.float32)


def _floor(look: int) -> np.ndarray:
  return np.random.default_rng([look, 4]).uniform(40, 130, 3)


def _rounded(radius: float, inset: float, size: int) -> np.ndarray:
  """Coverage [size, size, 1] of a square with round corners, `inset` smaller on every side."""
  middles = np.abs((np.arange(size) + 0.5) / size - 0.5) - (0.5 - inset - radius)
  past_y, past_x = middles[:, None], middles[None]
  # Distance to the border, negative inside.
  away = (np.hypot(np.maximum(past_y, 0), np.maximum(past_x, 0))
          + np.minimum(np.maximum(past_y, past_x), 0) - radius)
  return np.clip(0.5 - away * size, 0, 1)[..., None]


@functools.lru_cache(maxsize=256)
def _room(environment: str, look: int, size: int) -> tuple[Image.Image, tuple[float, ...]]:
  """What is around the table, and PIL's affine coefficients from picture to table."""
  rng = np.random.default_rng([look, 5])
  low, high, shear = _CAMERAS[environment]
  zoom, shear_x, shear_y = rng.uniform(low, high), *rng.uniform(-shear, shear, 2)
  forward = zoom * np.array([[1, shear_x], [shear_y, 1]])
  backward = np.linalg.inv(forward)
  shift = (np.eye(2) - backward) @ [size / 2, size / 2]
  coefficients = (*backward[0].tolist(), float(shift[0]), *backward[1].tolist(), float(shift[1]))
  room = Image.new('RGB', (size, size), tuple(_floor(look).astype(int).tolist()))
  if environment == 'desk':
    _furnish(ImageDraw.Draw(room), rng, size)
  return room, coefficients


def _furnish(pen: ImageDraw.ImageDraw, rng: np.random.Generator, size: int) -> None:
  """A monitor behind the table, a keyboard before it, paper and a mug at its sides."""

  def fill(left: float, top: float, right: float, bottom: float, color) -> None:
    pen.rectangle([left * size, top * size, right * size, bottom * size], fill=tuple(color))

  left = rng.uniform(0.1, 0.4)
  fill(left, 0.0, left + 0.5, 0.13, (25, 25, 30))
  fill(left + 0.03, 0.0, left + 0.47, 0.1, rng.integers(120, 230, 3).tolist())
  left = rng.uniform(0.05, 0.35)
  fill(left, 0.9, left + 0.55, 1.0, (60, 62, 66))
  for key in np.linspace(left + 0.03, left + 0.5, 10):
    fill(key, 0.92, key + 0.03, 0.95, (190, 190, 190))
  top = rng.uniform(0.2, 0.6)
  fill(0.0, top, 0.1, top + 0.25, (235, 235, 230))
  top = rng.uniform(0.2, 0.7)
  pen.ellipse(
      [0.89 * size, top * size, 1.02 * size, (top + 0.13) * size],
      fill=tuple(rng.integers(90, 220, 3).tolist()))
