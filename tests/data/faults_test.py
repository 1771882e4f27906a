"""What faults may do is a policy; images are judged sound without decoding them."""

import os
import re
import struct

import numpy as np
import pytest

from rt2_train.data import faults
from rt2_train.data import rlds
from tests.data import rlds_fixture
from tests.data.broken_data import EPISODE
from tests.data.broken_data import JPEG
from tests.data.broken_data import open_error
from tests.data.broken_data import overwrite
from tests.data.broken_data import REMEDY
from tests.data.broken_data import set_image
from tests.data.broken_data import set_value
from tests.data.broken_data import WHERE
from tests.data.broken_data import write


def test_several_faults_are_counted_behind_the_first(tmp_path):
  def change(episode):
    set_image(b'')(episode)
    set_value('action/world_vector', np.nan, step=1)(episode)
  write(tmp_path, change)
  assert open_error(tmp_path) == (
      'tabletop/train shard 00001 episode 2 step 1: dx is nan, not a finite number '
      '(and 1 more; bad action: 1, not an image: 1)' + REMEDY)


def test_the_policy_may_differ_by_fault(tmp_path):
  write(tmp_path, set_image(b''))
  policy = {'not an image': 'skip'}
  assert len(rlds.RobotSteps(str(tmp_path), 'train', 'fractal', on_bad=policy)) == 29
  assert open_error(tmp_path, on_bad={'not an image': 'error', 'bad action': 'skip'}) == (
      WHERE + 'observation/image: image is empty (0 bytes)' + REMEDY)


def test_skipping_is_capped(tmp_path):
  write(tmp_path, set_image(b''))
  assert open_error(tmp_path, on_bad='skip') == (
      'tabletop/train: 1 of 30 steps are broken, more than max_bad_share=0.001 allows '
      f'(not an image: 1); first: {WHERE}observation/image: image is empty (0 bytes); write the '
      "data again, raise max_bad_share, or name the reasons in on_bad ({'not an image': 'skip'})")


@pytest.mark.parametrize('policy', ['ignore', {'not an image': 'drop'}, {'typo': 'skip'}])
def test_an_unknown_policy_is_refused(tmp_path, policy):
  write(tmp_path)
  assert open_error(tmp_path, on_bad=policy).startswith(
      f"on_bad is {policy!r}; it takes 'error', 'skip', or one of them for each of empty shard, ")


def test_the_cap_is_a_share(tmp_path):
  write(tmp_path)
  assert open_error(tmp_path, max_bad_share=5) == 'max_bad_share is 5; it is a share, 0 to 1'


def test_a_jpeg_broken_after_indexing_names_its_step_when_it_is_decoded(tmp_path):
  path = write(tmp_path)[1]
  processor = rlds_fixture.a_processor()
  examples = rlds.RobotExamples(str(tmp_path), 'train', processor)
  encoded = examples.step(28).images[0]
  with open(path, 'rb') as file:
    at = file.read().index(encoded)
  status = os.stat(path)
  overwrite(path, at, b'\0' * 40)
  with pytest.raises(ValueError, match=f'^{re.escape(WHERE)}not an image: .*; the shard changed '
                     'after indexing, or was broken when written: write it again$'):
    examples[28]
  # The others are untouched, and a fresh process finds the change when it opens the data.
  assert examples[27]['images'].any()
  os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
  assert open_error(tmp_path) == EPISODE + 'the record fails its CRC' + REMEDY


def test_a_broken_jpeg_that_looks_sound_from_outside_is_named_when_it_is_decoded(tmp_path):
  damaged = bytearray(JPEG)
  tables = JPEG.index(b'\xff\xc4')
  damaged[tables + 5:tables + 21] = b'\xff' * 16
  write(tmp_path, set_image(bytes(damaged)))
  examples = rlds.RobotExamples(str(tmp_path), 'train', rlds_fixture.a_processor())
  with pytest.raises(ValueError, match=f'^{re.escape(WHERE)}JPEG corrupt'):
    examples[28]


def test_png_and_grey_images_and_padding_after_the_jpeg_are_sound():
  import cv2  # Writes the formats that simplejpeg does not.
  grey = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
  for encoded in (
      cv2.imencode('.png', grey)[1].tobytes(), cv2.imencode('.jpg', grey)[1].tobytes(),
      cv2.imencode('.webp', grey)[1].tobytes(), JPEG + b'\0' * 5, JPEG + b'\0' * 500):
    data = b'before' + encoded + b'after'
    assert faults.image_size(data, 6, 6 + len(encoded)) == (48, 64)


def test_a_truncated_png_is_named():
  import cv2
  encoded = cv2.imencode('.png', np.zeros((48, 64), np.uint8))[1].tobytes()[:-1]
  with pytest.raises(faults.Fault, match=r'^PNG truncated \(\d+ bytes, no end chunk\)$') as error:
    faults.image_size(encoded, 0, len(encoded))
  assert error.value.reason == 'truncated image'


def test_a_jpeg_whose_thumbnail_is_whole_but_whose_picture_is_not_is_truncated():
  thumbnail = rlds_fixture.jpeg(1, 8, 8)
  segment = b'\xff\xe1' + struct.pack('>H', 2 + len(thumbnail)) + thumbnail
  whole = JPEG[:2] + segment + JPEG[2:]
  assert faults.image_size(whole, 0, len(whole)) == (48, 64)
  with pytest.raises(faults.Fault, match='JPEG truncated'):
    faults.image_size(whole[:-200], 0, len(whole) - 200)
