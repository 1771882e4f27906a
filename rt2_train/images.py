"""Decode, resize and augment: the one place where pixels change.

Training, evaluation and serving all come through here, so a policy sees the pixels it was
trained on. The decoder and the kernels are fixed, not chosen by what is installed: decoders
disagree by up to several grey levels, and resize kernels by more.

Resizing is defined in `resize_definition`, in integers, for arrays of NumPy and JAX alike, so that
an exported program makes the same pixels on any accelerator. `resize` is what runs on a host:
OpenCV's kernels, several times faster, and by test equal to the definition bit for bit.

Shape suffixes in array names: n frames, h and w as it comes, H height, W width, 3 RGB.
"""

from collections.abc import Callable
import dataclasses
import io
from typing import Any

import cv2
import numpy as np
import PIL.Image
import simplejpeg

# Names everything below that decides a pixel; changes with it (part of a processor's fingerprint).
PIXELS = 'jpeg islow+fancy; resize linear, mean beyond 2x'

# OpenCV's 8-bit INTER_LINEAR: weights are whole 2048ths, and of the sum along an axis the last four
# bits are dropped before the next axis, so that 16 bits hold everything.
_WEIGHT_ONE, _DROPPED_BITS = 2048, 4

# A header of a few bytes may promise more than memory holds.
MOST_PIXELS = 1 << 26

# What PIL may open, and the modes that become RGB without losing range (16-bit grey does not).
FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'GIF')
_MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr')
_JPEG_START, _JPEG_END, _JPEG_SCAN = b'\xff\xd8', b'\xff\xd9', b'\xff\xda'

# RGB <-> YIQ: brightness in the first row, colour in the other two.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])

# The loader's threads are the parallelism; OpenCV's own pool would only fight them.
cv2.setNumThreads(1)


@dataclasses.dataclass(frozen=True)
class ImageSpec:
  """The pictures a model takes.

  Attributes:
    height, width: pixels.
    num_images: frames per example.
    resize: what becomes of another aspect ratio: 'stretch' ignores it, 'pad' keeps the whole
      picture between black bars, 'crop' keeps the centre.
  """

  height: int
  width: int
  num_images: int = 1
  resize: str = 'stretch'

  def __post_init__(self):
    for name in ('height', 'width', 'num_images'):
      if getattr(self, name) < 1:
        raise ValueError(f'image spec: {name} is {getattr(self, name)}; it must be at least 1')
    if self.resize not in ('stretch', 'pad', 'crop'):
      raise ValueError(
          f"image spec: resize is {self.resize!r}; it must be 'stretch', 'pad' or 'crop'")


def decode(encoded: bytes) -> np.ndarray:
  """Decodes a JPEG (or PNG, WebP, BMP, GIF: first frame) to uint8 [h, w, 3] RGB.

  JPEG uses the accurate integer transform and smooth chroma, equal to PIL bit for bit.

  Raises:
    ValueError: empty, truncated, corrupt, larger than 2^26 pixels or no picture. A truncated JPEG is never filled up.
  """
  if not encoded:
    raise ValueError('image is empty (0 bytes)')
  if not encoded.startswith(_JPEG_START):
    return _decode_other(encoded)
  # Inside a scan every ff byte is escaped, so an end marker after the last start of scan is the
  # picture's own, not one of an embedded thumbnail.
  # It nearly always stands at the very end; a search through the whole costs 4 % of decoding.
  if (encoded.rfind(_JPEG_END, -64) < 0
      and encoded.rfind(_JPEG_END) < max(encoded.rfind(_JPEG_SCAN), 0) + 1):
    raise ValueError(f'JPEG truncated ({len(encoded)} bytes, no end marker)')
  try:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
    if colours not in ('CMYK', 'YCCK') and height * width <= MOST_PIXELS:
      return simplejpeg.decode_jpeg(encoded, 'RGB')
  except ValueError as error:
    raise ValueError(f'JPEG corrupt ({len(encoded)} bytes): {error}') from error
  return _decode_other(encoded)


def _decode_other(encoded: bytes) -> np.ndarray:
  try:
    with PIL.Image.open(io.BytesIO(encoded), formats=FORMATS) as picture:
      if picture.height * picture.width > MOST_PIXELS:
        raise ValueError(
            f'image is {picture.height}x{picture.width}, the limit is {MOST_PIXELS} pixels')
      if picture.mode not in _MODES:
        raise ValueError(f'image has mode {picture.mode}; convert it to 8 bits per channel')
      return np.array(picture.convert('RGB'))
  except PIL.UnidentifiedImageError as error:
    raise ValueError(
        f'not an image: {len(encoded)} bytes that start with {encoded[:8].hex(" ")}; '
        f'JPEG, PNG, WebP, BMP and GIF are read') from error
  # PIL reports a damaged PNG as SyntaxError, and a picture too large to be true as a bomb.
  except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
    raise ValueError(f'image corrupt or truncated ({len(encoded)} bytes): {error}') from error


def resize(image: np.ndarray, spec: ImageSpec) -> np.ndarray:
  """Brings uint8 [h, w, 3] to uint8 [H, W, 3]; the same array when the sizes agree.

  Raises:
    ValueError: `image` is not uint8 [h, w, 3].
  """
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
    raise ValueError(f'an image is uint8 [h, w, 3], got {image.dtype} {list(image.shape)}')
  return _fit(image, spec, _scale)


def resize_definition(images_hxwx3: Any, spec: ImageSpec) -> Any:
  """What `resize` does to uint8 [..., h, w, 3], said in integers: uint8 [..., H, W, 3].

  Takes and returns an array of NumPy or JAX. Bit for bit the same wherever it runs: integers, and
  one rounded product of float32 numbers.
  """
  return _fit(images_hxwx3, spec, lambda images, height, width: _scale(
      images, height, width, _linear_in_integers, _mean_in_integers))


def _fit(images_hxwx3: Any, spec: ImageSpec, scale: Callable[[Any, int, int], Any]) -> Any:
  """Brings images to the size of `spec` as `spec.resize` says, by way of `scale`."""
  height, width = images_hxwx3.shape[-3:-1]
  if (height, width) == (spec.height, spec.width):
    return images_hxwx3
  if spec.resize == 'stretch':
    return scale(images_hxwx3, spec.height, spec.width)
  if spec.resize == 'crop':
    kept_height = min(height, max(1, round(width * spec.height / spec.width)))
    kept_width = min(width, max(1, round(height * spec.width / spec.height)))
    top, left = (height - kept_height) // 2, (width - kept_width) // 2
    centre = images_hxwx3[..., top:top + kept_height, left:left + kept_width, :]
    return scale(centre, spec.height, spec.width)
  factor = min(spec.height / height, spec.width / width)
  inner_height = min(spec.height, max(1, round(height * factor)))
  inner_width = min(spec.width, max(1, round(width * factor)))
  top, left = (spec.height - inner_height) // 2, (spec.width - inner_width) // 2
  inner = _between_bars(scale(images_hxwx3, inner_height, inner_width), left, spec.width, axis=-2)
  return _between_bars(inner, top, spec.height, axis=-3)


def _between_bars(images_hxwx3: Any, before: int, length: int, axis: int) -> Any:
  """Fills an axis up to `length` with black, `before` of it in front."""
  xp, shape = images_hxwx3.__array_namespace__(), list(images_hxwx3.shape)
  if shape[axis] == length:
    return images_hxwx3
  bars = []
  for thickness in (before, length - shape[axis] - before):
    shape[axis] = thickness
    bars.append(xp.zeros(shape, np.uint8))
  return xp.concat([bars[0], images_hxwx3, bars[1]], axis=axis)


def _linear(image: np.ndarray, height: int, width: int) -> np.ndarray:
  return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _mean(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
  size = image.shape[1] // columns, image.shape[0] // rows
  return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _scale(
    image: Any, height: int, width: int, linear: Callable[[Any, int, int], Any] = _linear,
    mean: Callable[[Any, int, int], Any] = _mean,
) -> Any:
  """Brings [..., h, w, 3] to [..., height, width, 3].

  Bilinear costs a fifth of an antialiased Lanczos kernel, but reads two pixels per axis: a shrink
  by more than two would skip some. Such an axis is first brought to the next multiple of its new
  length, and its pixels are then averaged; this is also cheaper than averaging shares of pixels.

  Args:
    image: uint8.
    height, width: of the result.
    linear: brings images to a height and width.
    mean: averages blocks of so many rows and columns.
  """
  old_height, old_width = image.shape[-3:-1]
  rows = old_height // height if old_height > 2 * height else 1
  columns = old_width // width if old_width > 2 * width else 1
  if rows * columns > 1:
    # An axis that is not averaged keeps its length until the end: nothing grows in between.
    between = (
        rows * height if rows > 1 else old_height, columns * width if columns > 1 else old_width)
    if image.shape[-3:-1] != between:
      image = linear(image, *between)
    image = mean(image, rows, columns)
  return image if image.shape[-3:-1] == (height, width) else linear(image, height, width)


def _linear_in_integers(images_hxwx3: Any, height: int, width: int) -> Any:
  xp = images_hxwx3.__array_namespace__()
  left, right, left_W, right_W = _taps(images_hxwx3.shape[-2], width, at_border='one pixel')
  top, bottom, top_H, bottom_H = _taps(images_hxwx3.shape[-3], height, at_border='one pixel twice')
  x = images_hxwx3.astype(xp.int32)
  x = (xp.take(x, left, axis=-2) * left_W[:, None] + xp.take(x, right, axis=-2) * right_W[:, None])
  x = x >> _DROPPED_BITS
  # Products are cut to 16 bits one by one, as the vector instructions do.
  x = (xp.take(x, top, axis=-3) * top_H[:, None, None] >> 16) + (
      xp.take(x, bottom, axis=-3) * bottom_H[:, None, None] >> 16)
  return ((x + 2) >> 2).astype(xp.uint8)


def _taps(length: int, new: int, at_border: str) -> tuple[np.ndarray, ...]:
  """Two source positions and two weights for each of `new` positions, int32 [new] each.

  Args:
    length: of the axis.
    new: length that it gets.
    at_border: what a position beyond the outermost pixels' centres reads: 'one pixel', or
      'one pixel twice', with both of its weights (which are cut one by one).
  """
  # In the precision of OpenCV: float64 for the scale, float32 for what is left of a position.
  position = ((np.arange(new) + 0.5) * (1 / (new / length)) - 0.5).astype(np.float32)
  first = np.floor(position).astype(np.int32)
  share = position - first.astype(np.float32)
  if at_border == 'one pixel':
    share[(first < 0) | (first >= length - 1)] = 0
  weights = [
      np.rint(part * np.float32(_WEIGHT_ONE)).astype(np.int32) for part in (1 - share, share)]
  return np.clip(first, 0, length - 1), np.clip(first + 1, 0, length - 1), *weights


def _mean_in_integers(images_hxwx3: Any, rows: int, columns: int) -> Any:
  xp = images_hxwx3.__array_namespace__()
  *n, height, width, _ = images_hxwx3.shape
  blocks = images_hxwx3.reshape(*n, height // rows, rows, width // columns, columns, 3)
  sums = xp.sum(blocks, axis=(-4, -2), dtype=xp.int32)
  if (rows, columns) == (2, 2):
    return ((sums + 2) >> 2).astype(xp.uint8)
  # OpenCV rounds halves up in the common case above, and to even otherwise.
  means = sums.astype(xp.float32) * (np.float32(1) / np.float32(rows * columns))
  return xp.round(means).astype(xp.uint8)


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Random crop and colour, drawn once per example and applied to all of its frames.

  Attributes:
    crop: smallest share of each side that a crop keeps; 1 switches cropping off. The aspect
      ratio is kept, and the crop is resized back.
    brightness: largest shift either way, as a share of the full range.
    contrast, saturation: the factor is within 1 - x and 1 + x.
    hue: largest turn either way, as a share of the colour circle.
  """

  crop: float = 0.9
  brightness: float = 0.2
  contrast: float = 0.2
  saturation: float = 0.2
  hue: float = 0.05

  def __post_init__(self):
    limits = {'brightness': 1, 'contrast': 1, 'saturation': 1, 'hue': 0.5}
    for name, limit in limits.items():
      if not 0 <= getattr(self, name) <= limit:
        raise ValueError(
            f'augmentation: {name} is {getattr(self, name)}; it must be within 0 and {limit}')
    if not 0 < self.crop <= 1:
      raise ValueError(f'augmentation: crop is {self.crop}; it must be above 0 and at most 1')

  def __call__(self, images_nxHxWx3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Augments uint8 [n, H, W, 3]; the result depends on the images and `rng` alone."""
    num_images, height, width, _ = images_nxHxWx3.shape
    # All draws are made whatever is switched on: one setting never shifts another's numbers.
    share, top, left = rng.uniform([self.crop, 0, 0], 1)
    shift, contrast, saturation, hue = rng.uniform(-1, 1, 4)
    kept_height, kept_width = max(1, round(height * share)), max(1, round(width * share))
    top = round(top * (height - kept_height))
    left = round(left * (width - kept_width))
    cropped_nxHxWx3 = np.stack([
        _scale(image[top:top + kept_height, left:left + kept_width], height, width)
        for image in images_nxHxWx3
    ])
    # All colour changes are linear, so they are one matrix and one pass over the pixels.
    tall = cropped_nxHxWx3.reshape(num_images * height, width, 3)
    grey = _YIQ[0] @ cv2.mean(tall)[:3]
    return cv2.transform(
        tall,
        _colour_matrix(
            shift=255 * self.brightness * shift,
            contrast=1 + self.contrast * contrast,
            saturation=1 + self.saturation * saturation,
            turn=2 * np.pi * self.hue * hue,
            grey=grey,
        ),
    ).reshape(images_nxHxWx3.shape)


def _colour_matrix(
    *, shift: float, contrast: float, saturation: float, turn: float, grey: float) -> np.ndarray:
  """[3, 4] that maps RGB and 1 to RGB: contrast about `grey`, shift, saturation, hue."""
  in_yiq = np.eye(3)
  in_yiq[1:, 1:] = saturation * np.array(
      [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
  linear = contrast * np.linalg.inv(_YIQ) @ in_yiq @ _YIQ
  # Grey stays grey under saturation and hue, so the offset is the same for the three channels.
  offset = np.full((3, 1), grey * (1 - contrast) + shift)
  return np.concatenate([linear, offset], 1)
