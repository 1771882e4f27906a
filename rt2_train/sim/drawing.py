"""Pixels of a tabletop state: NumPy and PIL only.

RT-2 sees one frame, so one frame says all that a policy needs: height shows three ways (the
gripper's size, its brightness, the offset of its shadow), closed fingers show as a colour. Objects
are glyphs of the DejaVu Sans font that matplotlib carries.
"""

import functools
import os

import matplotlib
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from rt2_train.sim import objects

BACKGROUNDS = ('seen', 'unseen')
OBJECT_RADIUS = 0.13
GRIPPER_SIZE = 0.24  # width of the gripper's picture at the middle of its range, metres
HEIGHT_LEVELS = 6
_TOP = 0.45  # height that gets the last level
_SHADOW = 0.35  # shadow offset per metre of height
_OVERSAMPLING = 4


def draw(scene, state, size: int, gripper: bool = True) -> np.ndarray:
  """The picture uint8 [size, size, 3] of a state; web pictures are drawn without the gripper.

  `scene` and `state` are tabletop.Scene and tabletop.State, of which nothing else is asked than
  their attributes: tabletop imports this module, not the other way round.
  """
  image = _background(scene.background, scene.look, size).copy()
  shades = _shades(scene.look, len(scene.categories))
  above = []
  for i, category in enumerate(scene.categories):
    x, y = state.positions_Nx2[i]
    alpha = _glyph(category, _degrees(state.angles_N[i]), size)
    color = np.clip(objects.COLORS_RGB[objects.CATEGORIES[category].color] + shades[i], 0, 255)
    if gripper and state.held == i:
      above.append((alpha, color))
      continue
    _blend(image, alpha * 0.35, 40.0, x + 0.015, y + 0.02)
    _blend(image, alpha, color, x, y)
  if gripper:
    x, y, z = state.gripper_3
    level = int(round(min(z / _TOP, 1.0) * HEIGHT_LEVELS))
    fingers = _gripper(state.closed, level, size)
    offset = z * _SHADOW
    _blend(image, fingers * 0.4, 20.0, x + offset, y + offset)
    for alpha, color in above:
      _blend(image, alpha * 0.3, 20.0, x + offset, y + offset)
      _blend(image, alpha, color, x, y)
    magenta, grey = np.array([150.0, 0, 150]) + [14 * level, 0, 14 * level], 20.0 + 16 * level
    _blend(image, fingers, magenta if state.closed else grey, x, y)
  return np.clip(image, 0, 255).astype(np.uint8)


def object_box(scene, state, i: int, size: int) -> tuple[float, float, float, float]:
  """The tight box (y0, x0, y1, x1) of object `i` as drawn, in table units."""
  alpha = _glyph(scene.categories[i], _degrees(state.angles_N[i]), size)[..., 0] > 0.2
  rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
  x, y = state.positions_Nx2[i]
  top, left = _corner(alpha.shape[0], y, size), _corner(alpha.shape[1], x, size)
  box = np.array([top + rows[0], left + columns[0], top + rows[-1] + 1, left + columns[-1] + 1])
  return tuple(np.clip(box / size, 0, 1).tolist())


def _degrees(angle: float) -> int:
  """The nearest multiple of 15 degrees: few enough that sprites are drawn once."""
  return int(round(np.degrees(angle) / 15)) * 15 % 360


def _corner(length: int, center: float, size: int) -> int:
  return int(round(center * size - length / 2))


def _blend(
    image: np.ndarray, alpha: np.ndarray, color: np.ndarray | float, x: float, y: float) -> None:
  """Lays `color` over `image` [S, S, 3] by `alpha` [h, w, 1] centred at (x, y), in place."""
  size, (height, width) = image.shape[0], alpha.shape[:2]
  top, left = _corner(height, y, size), _corner(width, x, size)
  y0, x0 = max(0, -top), max(0, -left)
  y1, x1 = min(height, size - top), min(width, size - left)
  if y1 <= y0 or x1 <= x0:
    return
  a = alpha[y0:y1, x0:x1]
  view = image[top + y0:top + y1, left + x0:left + x1]
  view += a * (color - view)


@functools.lru_cache(maxsize=256)
def _background(background: str, look: int, size: int) -> np.ndarray:
  """A table top float32 [size, size, 3]: plain wood, or stripes of any colour."""
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
  return (image + rng.normal(0, 2, (size, size, 1))).astype(np.float32)


@functools.lru_cache(maxsize=256)
def _shades(look: int, num_objects: int) -> np.ndarray:
  """How far each object's colour is off its category's, [N, 3]."""
  return np.random.default_rng([look, 1]).uniform(-18, 18, (num_objects, 3))


@functools.lru_cache(maxsize=4096)
def _glyph(category: int, degrees: int, size: int) -> np.ndarray:
  """Coverage float32 [p, p, 1] of a category's glyph, turned by `degrees`."""
  pixels = int(round(2 * OBJECT_RADIUS * size))
  canvas = pixels * _OVERSAMPLING
  path = os.path.join(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf')
  character = objects.CATEGORIES[category].glyph
  left, top, right, bottom = ImageFont.truetype(path, canvas).getbbox(character)
  # Glyphs differ in size within the font; the longer side of each fills 95 % of its sprite.
  font = ImageFont.truetype(path, int(canvas * canvas * 0.95 / max(right - left, bottom - top)))
  left, top, right, bottom = font.getbbox(character)
  picture = Image.new('L', (canvas, canvas))
  corner = ((canvas - right + left) / 2 - left, (canvas - bottom + top) / 2 - top)
  ImageDraw.Draw(picture).text(corner, character, fill=255, font=font)
  picture = picture.rotate(degrees, resample=Image.Resampling.BILINEAR)
  return _coverage(picture, pixels)


@functools.lru_cache(maxsize=256)
def _gripper(closed: bool, level: int, size: int) -> np.ndarray:
  """Coverage float32 [p, p, 1] of two fingers and the bar between; larger nearer the camera."""
  pixels = max(5, int(round(int(GRIPPER_SIZE * size) * (0.8 + 0.11 * level))))
  canvas = pixels * _OVERSAMPLING
  picture = Image.new('L', (canvas, canvas))
  pen = ImageDraw.Draw(picture)
  gap, width = canvas * (0.17 if closed else 0.36), canvas * 0.07
  finger, bar = canvas * 0.22, canvas * 0.045  # half their heights

  def rectangle(left: float, right: float, half_height: float):
    middle = canvas / 2
    pen.rectangle(
        [middle + left, middle - half_height, middle + right, middle + half_height], fill=255)

  rectangle(-gap - width, -gap + width, finger)
  rectangle(gap - width, gap + width, finger)
  rectangle(-gap - width, gap + width, bar)
  return _coverage(picture, pixels)


def _coverage(picture: Image.Image, pixels: int) -> np.ndarray:
  small = picture.resize((pixels, pixels), Image.Resampling.LANCZOS)
  return np.asarray(small, np.float32)[..., None] / 255
