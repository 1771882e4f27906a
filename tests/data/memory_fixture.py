"""Small datasets in memory with the random-access protocol, on real JPEGs and a real processor."""

import functools
import hashlib
import os
import tempfile

import numpy as np
import simplejpeg

from rt2_train import actions
from rt2_train import images
from rt2_train import processor as processor_lib
from rt2_train import prompts
from rt2_train import vocabulary

OBJECTS = ('cup', 'apple', 'can', 'bowl', 'pen')


@functools.cache
def model_file() -> str:
  """A SentencePiece model with integer pieces."""
  path = os.path.join(tempfile.mkdtemp(), 'vocabulary.model')
  texts = [prompts.robot(f'pick the {name}') for name in OBJECTS]
  texts += [prompts.vqa(f'what is left of the {name}?') for name in OBJECTS]
  vocabulary.train(texts * 10, path, vocab_size=1100)
  return path


@functools.cache
def processor(
    inputs_length: int = 64, targets_length: int = 12, size: int = 16, num_images: int = 1,
    **layout):
  """RT-2's processor, small."""
  return processor_lib.Processor(
      vocabulary.Vocabulary(model_file()), actions.RT2, images.ImageSpec(size, size, num_images),
      inputs_length, targets_length, **layout)


class InMemory:
  """`examples` (id, frames, inputs, targets) behind the random-access protocol."""

  note = ''

  def __init__(self, rows, processor):
    self._rows = rows
    self._processor = processor
    self.fingerprint = hashlib.sha256(repr(rows).encode()).hexdigest()

  def __len__(self):
    return len(self._rows)

  def __getitem__(self, i):
    _, frames, inputs, targets = self._rows[i]
    images, image_mask = self._processor.images(frames)
    return {'images': images, 'image_mask': image_mask, 'inputs': inputs, 'targets': targets}

  def example_id(self, i):
    return self._rows[i][0]


def robot(count: int, processor, height: int = 20, width: int = 24) -> InMemory:
  """Robot steps: one picture, an instruction and an action each."""
  rng = np.random.default_rng(count)
  space = processor.action_space
  rows = []
  for i in range(count):
    bins = [rng.integers(each.first, each.last + 1) for each in space.dimensions]
    rows.append((
        f'demo/train episode {i // 5} step {i % 5}', [picture(rng, height, width)],
        processor.robot_inputs(f'pick the {OBJECTS[i % 5]}'),
        processor.action_targets(space.decode(np.array(bins)))))
  return InMemory(rows, processor)


def web(count: int, processor, height: int = 24, width: int = 20) -> InMemory:
  """Questions; every third has no picture."""
  rng = np.random.default_rng(1000 + count)
  rows = []
  for i in range(count):
    name = OBJECTS[i % 5]
    rows.append((
        f'web question {i}', [picture(rng, height, width)] if i % 3 else [],
        processor.text_inputs(prompts.vqa(f'what is left of the {name}?')),
        processor.text_targets(OBJECTS[i * 7 % 5])))
  return InMemory(rows, processor)


def picture(rng: np.random.Generator, height: int, width: int) -> bytes:
  """A JPEG of coloured blocks."""
  blocks = rng.integers(0, 255, (height // 4, width // 4, 3), np.uint8)
  return simplejpeg.encode_jpeg(np.ascontiguousarray(np.kron(blocks, np.ones((4, 4, 1), np.uint8))))
