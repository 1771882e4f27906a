"""Writes small image-text datasets as they lie on a user's disk, and checks what is read."""

import functools
import io
import json
import tarfile

import numpy as np

from rt2_train import images
from tests.data import rlds_fixture

# Its vocabulary spells out most words.
processor = functools.partial(rlds_fixture.a_processor, inputs_length=96)
REMEDY = "; write the data again, or leave what is broken out with on_bad='skip'"
SKIP_EMPTY = {'empty text': 'skip'}
EMPTY_REMEDY = "; write it, or leave such examples out with on_bad={'empty text': 'skip'}"


def write_json(path, value) -> str:
  path.write_text(json.dumps(value))
  return str(path)


def write_images(directory, *names: str | int) -> None:
  """JPEGs that differ by their number: 7 is 7.jpg, 'a12.jpg' is the 12th picture."""
  for name in names:
    number = int(''.join(filter(str.isdigit, str(name))))
    file = f'{name}.jpg' if isinstance(name, int) else name
    (directory / file).write_bytes(rlds_fixture.jpeg(number))


def write_records(directory, shards: list[list[dict]], name: str = 'captions-train') -> str:
  """TFRecords of flat Examples; returns their pattern."""
  for number, records in enumerate(shards):
    rlds_fixture.write_records(
        str(directory / f'{name}.tfrecord-{number:05d}-of-{len(shards):05d}'),
        [rlds_fixture.serialize(record) for record in records])
  return str(directory / f'{name}.tfrecord-*')


def write_tar(path, *members: tuple[str, bytes | str | dict], **options) -> str:
  """A tar file of (name, content), dicts as JSON; mtime is a float, as webdataset writes it."""
  with tarfile.open(path, 'w', **options) as archive:
    for name, content in members:
      content = json.dumps(content) if isinstance(content, dict) else content
      content = content.encode() if isinstance(content, str) else content
      info = tarfile.TarInfo(name)
      info.size, info.mtime = len(content), 1.5
      archive.addfile(info, io.BytesIO(content))
  return str(path)


def asked(dataset, i: int) -> tuple[str, str]:
  """Prompt and answer of the i-th example, read back from its tokens."""
  example, decode = dataset[i], processor().vocabulary.decode
  return decode(example['inputs']), decode(example['targets'])


def check(example, encoded: bytes, prompt: str, answer: str) -> None:
  """That an example has this image, prompt and answer."""
  expected = images.resize(images.decode(encoded), processor().image_spec)
  np.testing.assert_array_equal(example['images'], [expected])
  assert example['image_mask'].tolist() == [1]
  np.testing.assert_array_equal(example['inputs'], processor().text_inputs(prompt))
  np.testing.assert_array_equal(example['targets'], processor().text_targets(answer))
