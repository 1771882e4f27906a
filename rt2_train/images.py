"""Decode, resize and augment: the one place where pixels change.

Training, evaluation and serving all come through here, so a policy sees the pixels it was
trained on. The decoder and the kernels are fixed, not chosen by what is installed: decoders
disagree by up to several grey levels, and resize kernels by more.

Shape suffixes in array names: n frames, H height, W width, 3 RGB.
"""

import dataclasses
import io

import cv2
import numpy as np
import PIL.Image
import simplejpeg

# Names everything below that decides a pixel; changes with it (part of a processor's fingerprint).
PIXELS = 'jpeg islow+fancy; resize linear, area beyond 2x'

# Bilinear costs a fifth of an antialiased Lanczos kernel. It reads two pixels per axis, so that a
# shrink by more than two would skip some: there INTER_AREA averages all of them.
RESIZE_KERNEL = cv2.INTER_LINEAR
SHRINK_KERNEL = cv2.INTER_AREA
_SHRINK_BEYOND = 2.0

# A header of a few bytes may promise more than memory holds.
MOST_PIXELS = 1 << 26

# What PIL may open, and the modes that become RGB without losing range (16-bit grey does not).
_OTHER_FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'GIF')
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
    with PIL.Image.open(io.BytesIO(encoded), formats=_OTHER_FORMATS) as picture:
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
  height, width = image.shape[:2]
  if (height, width) == (spec.height, spec.width):
    return image
  if spec.resize == 'stretch':
    return _scale(image, spec.height, spec.width)
  if spec.resize == 'crop':
    kept_height = min(height, max(1, round(width * spec.height / spec.width)))
    kept_width = min(width, max(1, round(height * spec.width / spec.height)))
    top, left = (height - kept_height) // 2, (width - kept_width) // 2
    centre = image[top:top + kept_height, left:left + kept_width]
    return _scale(centre, spec.height, spec.width)
  factor = min(spec.height / height, spec.width / width)
  inner_height = min(spec.height, max(1, round(height * factor)))
  inner_width = min(spec.width, max(1, round(width * factor)))
  top, left = (spec.height - inner_height) // 2, (spec.width - inner_width) // 2
  padded = np.zeros((spec.height, spec.width, 3), np.uint8)
  padded[top:top + inner_height, left:left + inner_width] = _scale(
      image, inner_height, inner_width)
  return padded


def _scale(image: np.ndarray, height: int, width: int) -> np.ndarray:
  if image.shape[:2] == (height, width):
    return image
  shrink = max(image.shape[0] / height, image.shape[1] / width)
  kernel = SHRINK_KERNEL if shrink > _SHRINK_BEYOND else RESIZE_KERNEL
  return cv2.resize(image, (width, height), interpolation=kernel)


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
