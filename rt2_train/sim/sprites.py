"""Small pictures that are laid over the table: what each covers of how much, drawn once and kept.

Objects are glyphs of the DejaVu Sans font that matplotlib carries.
"""

from collections.abc import Callable
import functools
import os

import matplotlib
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

OBJECT_RADIUS = 0.13
GRIPPER_SIZE = 0.24  # width of the gripper's picture at the middle of its range, metres
_CARD_ASPECT = 0.78  # width of a card to its height
_OVERSAMPLING = 4


@functools.lru_cache(maxsize=4096)
def glyph(
    character: str, degrees: int, size: int, share: float = 0.95, bold: bool = False,
) -> np.ndarray:
  """Coverage float32 [p, p, 1] of a character, turned by `degrees`.

  Glyphs differ in size within the font; the longer side of each fills `share` of its sprite.
  """
  pixels = int(round(2 * OBJECT_RADIUS * size))
  canvas = pixels * _OVERSAMPLING
  name = 'DejaVuSans-Bold.ttf' if bold else 'DejaVuSans.ttf'
  path = os.path.join(matplotlib.get_data_path(), 'fonts/ttf', name)
  left, top, right, bottom = ImageFont.truetype(path, canvas).getbbox(character)
  font = ImageFont.truetype(path, int(canvas * canvas * share / max(right - left, bottom - top)))
  left, top, right, bottom = font.getbbox(character)
  picture = Image.new('L', (canvas, canvas))
  corner = ((canvas - right + left) / 2 - left, (canvas - bottom + top) / 2 - top)
  ImageDraw.Draw(picture).text(corner, character, fill=255, font=font)
  return _coverage(picture.rotate(degrees, resample=Image.Resampling.BILINEAR), pixels)


@functools.lru_cache(maxsize=256)
def card(degrees: int, size: int, inset: float = 0.0) -> np.ndarray:
  """Coverage of a card, `inset` of its sprite smaller on every side."""

  def draw(pen: ImageDraw.ImageDraw, canvas: int) -> None:
    half = canvas * (0.5 - inset)
    half_width = canvas * (0.5 * _CARD_ASPECT - inset)
    middle = canvas / 2
    pen.rounded_rectangle(
        [middle - half_width, middle - half, middle + half_width, middle + half],
        radius=canvas * 0.08, fill=255)

  return _drawn(int(round(2 * OBJECT_RADIUS * size)), draw, degrees)


@functools.lru_cache(maxsize=256)
def stand(degrees: int, size: int) -> np.ndarray:
  """Coverage of the foot that an object stands on, and that shows where down was if it fell."""

  def draw(pen: ImageDraw.ImageDraw, canvas: int) -> None:
    pen.rectangle([canvas * 0.1, canvas * 0.83, canvas * 0.9, canvas * 0.98], fill=255)

  return _drawn(int(round(2 * OBJECT_RADIUS * size)), draw, degrees)


@functools.lru_cache(maxsize=64)
def disc(radius: float, size: int) -> np.ndarray:
  """Coverage of a disc; radius in metres."""

  def draw(pen: ImageDraw.ImageDraw, canvas: int) -> None:
    pen.ellipse([0, 0, canvas - 1, canvas - 1], fill=255)

  return _drawn(int(round(2 * radius * size)), draw)


@functools.lru_cache(maxsize=64)
def weave(radius: float, size: int) -> np.ndarray:
  """Coverage of the wickerwork of a basket: crossed bands in a square."""

  def draw(pen: ImageDraw.ImageDraw, canvas: int) -> None:
    width = canvas * 0.05
    for middle in np.linspace(0, canvas, 6).tolist():
      pen.rectangle([middle - width, 0, middle + width, canvas], fill=255)
      pen.rectangle([0, middle - width, canvas, middle + width], fill=255)

  return _drawn(int(round(2 * radius * size)), draw)


@functools.lru_cache(maxsize=256)
def gripper(closed: bool, level: int, size: int) -> np.ndarray:
  """Coverage float32 [p, p, 1] of two fingers and the bar between; larger nearer the camera."""
  pixels = max(5, int(round(int(GRIPPER_SIZE * size) * (0.8 + 0.11 * level))))

  def draw(pen: ImageDraw.ImageDraw, canvas: int) -> None:
    gap, width = canvas * (0.17 if closed else 0.36), canvas * 0.07
    finger, bar = canvas * 0.22, canvas * 0.045  # half their heights
    middle = canvas / 2
    for left, right, half_height in (
        (-gap - width, -gap + width, finger),
        (gap - width, gap + width, finger),
        (-gap - width, gap + width, bar),
    ):
      pen.rectangle(
          [middle + left, middle - half_height, middle + right, middle + half_height], fill=255)

  return _drawn(pixels, draw)


@functools.lru_cache(maxsize=4096)
def span(low: float, high: float, size: int) -> tuple[slice, np.ndarray]:
  """Pixels of an axis between two places in metres, and how much of each is between, float32."""
  first, last = max(0, int(np.floor(low * size))), min(size, int(np.ceil(high * size)))
  edges = np.arange(first, max(first, last))
  covered = np.minimum(high * size, edges + 1) - np.maximum(low * size, edges)
  return slice(first, max(first, last)), covered.astype(np.float32)


def _drawn(
    pixels: int, draw: Callable[[ImageDraw.ImageDraw, int], None], degrees: int = 0) -> np.ndarray:
  """What `draw` draws with its pen on a square canvas, as coverage float32 [p, p, 1]."""
  canvas = pixels * _OVERSAMPLING
  picture = Image.new('L', (canvas, canvas))
  draw(ImageDraw.Draw(picture), canvas)
  if degrees:
    picture = picture.rotate(degrees, resample=Image.Resampling.BILINEAR)
  return _coverage(picture, pixels)


def _coverage(picture: Image.Image, pixels: int) -> np.ndarray:
  small = picture.resize((pixels, pixels), Image.Resampling.LANCZOS)
  return np.asarray(small, np.float32)[..., None] / 255
