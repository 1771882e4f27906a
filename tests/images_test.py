"""What happens to pixels: exact decoding, no half pictures, one crop and colour per example."""

import io
import tracemalloc

import cv2
import jax
import numpy as np
import PIL.Image
import pytest

from rt2_train import images


def picture(height=120, width=160, seed=0) -> np.ndarray:
  """A smooth coloured picture: noise, enlarged."""
  small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
  return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(image, format_='JPEG', mode='RGB', **options) -> bytes:
  file = io.BytesIO()
  PIL.Image.fromarray(image).convert(mode).save(file, format_, **options)
  return file.getvalue()


@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
@pytest.mark.parametrize('options', [{'quality': 95}, {'quality': 40}, {'progressive': True}])
def test_jpeg_decodes_as_pil_does_bit_for_bit(mode, options):
  data = encoded(picture(), mode=mode, **options)
  expected = np.array(PIL.Image.open(io.BytesIO(data)).convert('RGB'))
  assert np.array_equal(images.decode(data), expected)


@pytest.mark.parametrize('format_, mode', [
    ('PNG', 'RGB'), ('PNG', 'L'), ('PNG', 'P'), ('PNG', 'RGBA'), ('BMP', 'RGB'), ('GIF', 'P'),
    ('WEBP', 'RGB')])
def test_other_pictures_decode_to_rgb(format_, mode):
  options = {'lossless': True} if format_ == 'WEBP' else {}
  data = encoded(picture(), format_, mode, **options)
  expected = np.array(PIL.Image.fromarray(picture()).convert(mode).convert('RGB'))
  assert images.decode(data).shape == (120, 160, 3)
  assert np.array_equal(images.decode(data), expected)


@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
@pytest.mark.parametrize('options', [{}, {'progressive': True}])
def test_a_truncated_jpeg_is_an_error_with_its_size_wherever_it_ends(mode, options):
  data = encoded(picture(), mode=mode, **options)
  for size in [*range(2, len(data), 41), len(data) - 2, len(data) - 1]:
    with pytest.raises(ValueError, match=rf'JPEG truncated \({size} bytes'):
      images.decode(data[:size])


def test_a_thumbnail_inside_does_not_hide_a_truncation():
  thumbnail = encoded(picture(24, 32))
  exif = b'Exif\0\0' + thumbnail
  header = b'\xff\xd8\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif
  data = header + encoded(picture())[2:]
  assert images.decode(data).shape == (120, 160, 3)
  with pytest.raises(ValueError, match='truncated'):
    images.decode(data[:-500])


def test_bytes_behind_the_end_of_a_jpeg_are_ignored():
  data = encoded(picture())
  assert np.array_equal(images.decode(data + b'\0' * 7 + b'junk'), images.decode(data))


@pytest.mark.parametrize('format_', ['PNG', 'GIF', 'BMP', 'WEBP'])
def test_another_truncated_picture_is_an_error_with_its_size(format_):
  options = {'lossless': True} if format_ == 'WEBP' else {}
  data = encoded(picture(), format_, **options)
  for share in (0.2, 0.5, 0.9):
    size = int(len(data) * share)
    with pytest.raises(ValueError, match=rf'{size} bytes'):
      images.decode(data[:size])


@pytest.mark.parametrize('data, message', [
    (b'', 'empty'),
    (b'hello, world', 'not an image: 12 bytes'),
    (b'\xff\xd8\xff\xd9', 'JPEG corrupt'),
])
def test_what_is_no_picture_is_refused(data, message):
  with pytest.raises(ValueError, match=message):
    images.decode(data)


def test_a_jpeg_with_broken_markers_is_refused():
  data = bytearray(encoded(picture()))
  data[2:60] = bytes(58)
  with pytest.raises(ValueError, match='JPEG corrupt'):
    images.decode(bytes(data))


def test_a_depth_picture_is_refused_not_washed_out():
  file = io.BytesIO()
  PIL.Image.fromarray(np.full((8, 8), 5000, np.uint16)).save(file, 'PNG')
  with pytest.raises(ValueError, match='8 bits per channel'):
    images.decode(file.getvalue())


@pytest.mark.parametrize('resize', ['stretch', 'pad', 'crop'])
@pytest.mark.parametrize('shape', [(120, 160), (1, 900), (900, 1), (48, 47), (7, 5)])
def test_every_picture_gets_the_size_asked_for(resize, shape):
  spec = images.ImageSpec(48, 64, resize=resize)
  out = images.resize(np.full((*shape, 3), 77, np.uint8), spec)
  assert out.shape == (48, 64, 3) and out.dtype == np.uint8
  # A plain picture stays plain; only 'pad' may add black.
  assert set(np.unique(out)) <= ({0, 77} if resize == 'pad' else {77})


@pytest.mark.parametrize('resize', ['stretch', 'pad', 'crop'])
def test_the_right_size_is_left_alone(resize):
  image = picture()
  assert images.resize(image, images.ImageSpec(120, 160, resize=resize)) is image


def test_pad_keeps_the_whole_picture_and_its_aspect_ratio():
  out = images.resize(np.full((100, 200, 3), 255, np.uint8), images.ImageSpec(64, 64, resize='pad'))
  assert (out[16:48] == 255).all() and (out[:16] == 0).all() and (out[48:] == 0).all()


def test_crop_keeps_the_centre():
  image = np.zeros((100, 300, 3), np.uint8)
  image[:, 100:200] = 200
  assert (images.resize(image, images.ImageSpec(100, 100, resize='crop')) == 200).all()


def test_a_strong_shrink_averages_instead_of_skipping_pixels():
  lines = np.zeros((64, 64, 3), np.uint8)
  lines[::4] = 255
  assert (images.resize(lines, images.ImageSpec(16, 16)) == 64).all()


def test_means_of_whole_blocks_are_opencv_area_averages():
  image = picture(120, 160)
  for height, width in [(40, 40), (30, 32), (24, 16), (12, 20)]:
    expected = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    assert np.array_equal(images.resize(image, images.ImageSpec(height, width)), expected)


def test_a_long_thin_picture_takes_no_more_memory_on_its_way_than_before_and_after():
  # Enlarging the height first would take 48 times the picture.
  thin = np.full((1, 1_000_000, 3), 9, np.uint8)
  tracemalloc.start()
  assert (images.resize(thin, images.ImageSpec(48, 64)) == 9).all()
  assert (images.resize_definition(thin[:, :64_000], images.ImageSpec(48, 64)) == 9).all()
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 20_000_000


def random_picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Any bytes, few levels (so that means are halves) or hard edges."""
  image = rng.integers(0, 256, (height, width, 3), np.uint8)
  return [image, image % 4, (image > 127) * np.uint8(255)][rng.integers(3)]


@pytest.mark.parametrize('resize', ['stretch', 'pad', 'crop'])
def test_opencv_makes_the_pixels_of_the_definition(resize):
  rng = np.random.default_rng(0)
  sizes = [(256, 320, 224, 224), (480, 640, 224, 224), (360, 640, 96, 96), (64, 64, 96, 96)]
  # Down to the last pixel, up to 60 times smaller and larger, whole and broken ratios.
  sizes += rng.integers([1, 1, 1, 1], [60, 60, 70, 70], (300, 4)).tolist()
  sizes += [(height * r, width * c, height, width)
            for height, width, r, c in rng.integers([1, 1, 1, 1], [12, 12, 9, 9], (100, 4))]
  sizes += rng.integers([60, 60, 1, 1], [600, 600, 40, 40], (30, 4)).tolist()
  for h, w, height, width in sizes:
    image = random_picture(rng, h, w)
    spec = images.ImageSpec(int(height), int(width), resize=resize)
    assert np.array_equal(images.resize(image, spec), images.resize_definition(image, spec)), (
        f'{h}x{w} -> {spec}')


@pytest.mark.parametrize('resize', ['stretch', 'pad', 'crop'])
@pytest.mark.parametrize('h, w, height, width', [
    (48, 64, 28, 28), (48, 64, 16, 16), (48, 64, 18, 13), (30, 30, 41, 41), (60, 90, 20, 18),
    (20, 100, 32, 32), (9, 7, 1, 1), (16, 16, 16, 16)])
def test_a_compiled_program_resizes_as_the_host_does_bit_for_bit(resize, h, w, height, width):
  rng = np.random.default_rng(0)
  batch = np.stack([[random_picture(rng, h, w) for _ in range(2)] for _ in range(3)])
  spec = images.ImageSpec(height, width, resize=resize)
  expected = np.stack([[images.resize(image, spec) for image in row] for row in batch])
  out = jax.jit(lambda images_: images.resize_definition(images_, spec))(batch)
  assert out.dtype == np.uint8 and np.array_equal(out, expected)


@pytest.mark.parametrize('name', ['JPEG', 'PNG'])
def test_a_header_that_promises_more_than_memory_holds_is_refused(name):
  encoded = io.BytesIO()
  PIL.Image.new('L', (8200, 8200)).save(encoded, name)
  with pytest.raises(ValueError, match='^image is 8200x8200, the limit is 67108864 pixels$'):
    images.decode(encoded.getvalue())


@pytest.mark.parametrize('image', [
    np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32),
    np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_rgb_image_is_refused(image):
  with pytest.raises(ValueError, match='an image is uint8'):
    images.resize(image, images.ImageSpec(8, 8))


def test_augmentation_depends_on_the_generator_alone():
  augmentation = images.Augmentation()
  frames = np.stack([picture(), picture(seed=1)])
  first, again, other = (augmentation(frames, np.random.default_rng(s)) for s in (3, 3, 4))
  assert first.dtype == np.uint8 and first.shape == frames.shape
  assert np.array_equal(first, again)
  assert not np.array_equal(first, other)


def test_all_frames_of_an_example_change_alike():
  frames = np.stack([picture()] * 3)
  for seed in range(5):
    out = images.Augmentation()(frames, np.random.default_rng(seed))
    assert np.array_equal(out[0], out[1]) and np.array_equal(out[0], out[2])


def test_augmentation_that_is_switched_off_changes_nothing():
  frames = picture()[None]
  off = dict(crop=1, brightness=0, contrast=0, saturation=0, hue=0)
  assert np.array_equal(images.Augmentation(**off)(frames, np.random.default_rng(0)), frames)


def test_one_setting_does_not_shift_the_draws_of_another():
  frames = picture()[None]
  off = dict(crop=1, brightness=0, contrast=0, saturation=0, hue=0)
  hue_only = images.Augmentation(**{**off, 'hue': 0.1})(frames, np.random.default_rng(5))
  # So small a crop is no crop, but it is switched on.
  both = images.Augmentation(**{**off, 'hue': 0.1, 'crop': 0.999999})(
      frames, np.random.default_rng(5))
  assert np.array_equal(hue_only, both)


def test_a_grey_picture_stays_grey_under_saturation_and_hue():
  grey = np.repeat(picture()[..., :1], 3, -1)[None]
  colour_only = dict(crop=1, brightness=0, contrast=0, saturation=1, hue=0.5)
  for seed in range(5):
    out = images.Augmentation(**colour_only)(grey, np.random.default_rng(seed)).astype(int)
    assert np.abs(out - grey).max() <= 1


def test_brightness_moves_every_pixel_by_the_same_step():
  frames = np.full((1, 8, 8, 3), 128, np.uint8)
  only = dict(crop=1, brightness=0.2, contrast=0, saturation=0, hue=0)
  steps = {int(images.Augmentation(**only)(frames, np.random.default_rng(s))[0, 0, 0, 0]) - 128
           for s in range(20)}
  assert len(steps) > 10 and min(steps) >= -51 and max(steps) <= 51


def test_a_crop_moves_an_edge_but_keeps_the_frame():
  image = np.zeros((1, 100, 100, 3), np.uint8)
  image[:, :, 50:] = 255
  only = dict(crop=0.8, brightness=0, contrast=0, saturation=0, hue=0)
  crop = images.Augmentation(**only)
  edges = {int((crop(image, np.random.default_rng(s))[0, 50, :, 0] < 128).sum())
           for s in range(20)}
  assert len(edges) > 5 and min(edges) >= 35 and max(edges) <= 65


@pytest.mark.parametrize('wrong', [
    dict(crop=0), dict(crop=1.1), dict(brightness=-0.1), dict(contrast=2), dict(hue=0.6)])
def test_an_augmentation_out_of_range_is_refused_by_name(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    images.Augmentation(**wrong)


@pytest.mark.parametrize('wrong', [dict(height=0), dict(num_images=0), dict(resize='lanczos')])
def test_an_image_spec_that_cannot_work_is_refused_by_name(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    images.ImageSpec(**{'height': 8, 'width': 8, **wrong})
