"""Writes tiny TFDS directories in the schemas of the real robot datasets, sound or broken.

An episode is a flat dict of feature path to the values of its steps, as a tf.train.Example
holds them; a test breaks one by changing that dict, or the shard's bytes afterwards.
"""

import functools
import json
import os
import tempfile

import numpy as np
import simplejpeg
import tensorflow as tf
import tensorflow_datasets as tfds

from rt2_train import actions
from rt2_train import images
from rt2_train import processor as processor_lib
from rt2_train import prompts
from rt2_train import vocabulary

HEIGHT, WIDTH = 48, 64
INSTRUCTIONS = ('pick the red apple', 'move the cup near the sponge', 'open the drawer')

_F = tfds.features
_IMAGE = _F.Image(shape=(HEIGHT, WIDTH, 3), encoding_format='jpeg')
_FLAGS = {'is_first': np.bool_, 'is_last': np.bool_, 'is_terminal': np.bool_, 'reward': np.float32}


def _vector(size: int, dtype=np.float32):
  return _F.Tensor(shape=(size,), dtype=dtype)


FEATURES = {
    'fractal': {
        'steps': _F.Dataset({
            'observation': {'image': _IMAGE, 'natural_language_instruction': np.str_},
            'action': {
                'world_vector': _vector(3),
                'rotation_delta': _vector(3),
                'gripper_closedness_action': _vector(1),
                'terminate_episode': _vector(3, np.int32),
                'base_displacement_vector': _vector(2),
            },
            **_FLAGS,
        }),
        'aspects': {'success': np.bool_},
    },
    'bridge_oxe': {
        'steps': _F.Dataset({
            'observation': {
                'image': _IMAGE, 'natural_language_instruction': np.str_, 'state': _vector(7)},
            'action': {
                'world_vector': _vector(3),
                'rotation_delta': _vector(3),
                'open_gripper': np.bool_,
                'terminate_episode': np.float32,
            },
            **_FLAGS,
        }),
        'episode_id': np.str_,
    },
    'bridge': {
        'steps': _F.Dataset({
            'observation': {'image_0': _IMAGE, 'image_1': _IMAGE, 'state': _vector(7)},
            'language_instruction': _F.Text(),
            'action': _vector(7),
            **_FLAGS,
        }),
        'episode_metadata': {'has_language': np.bool_, 'episode_id': np.int32},
    },
    'language_table': {
        'steps': _F.Dataset({
            'observation': {
                'rgb': _IMAGE, 'instruction': _vector(512, np.int32),
                'effector_translation': _vector(2)},
            'action': _vector(2),
            **_FLAGS,
        }),
        'episode_id': np.str_,
    },
}


def jpeg(seed: int, height: int = HEIGHT, width: int = WIDTH, quality: int = 90) -> bytes:
  """A smooth, coloured JPEG that differs with `seed`."""
  y, x = np.mgrid[:height, :width]
  waves = [np.sin(x / (5 + c) + seed) + np.cos(y / (7 + c) - seed * (c + 1)) for c in range(3)]
  return simplejpeg.encode_jpeg(
      np.uint8(127 + 60 * np.stack(waves, -1)), quality=quality, colorspace='RGB')


def episode(
    schema: str, num_steps: int = 5, seed: int = 0, instruction: str | None = None,
) -> dict[str, list | np.ndarray]:
  """A sound episode of `schema`; its last step stops."""
  rng = np.random.default_rng(seed)
  text = INSTRUCTIONS[seed % len(INSTRUCTIONS)] if instruction is None else instruction
  images = [jpeg(100 * seed + step) for step in range(num_steps)]
  position = np.arange(num_steps)
  last = (position == num_steps - 1).astype(np.int64)
  motion = rng.uniform(-0.05, 0.05, (num_steps, 6)).astype(np.float32)
  flat = {
      'steps/is_first': (position == 0).astype(np.int64),
      'steps/is_last': last,
      'steps/is_terminal': last,
      'steps/reward': last.astype(np.float32),
  }
  if schema == 'fractal':
    motion[-1] = 0
    flat |= {
        'steps/observation/image': images,
        'steps/observation/natural_language_instruction': [text.encode()] * num_steps,
        'steps/action/world_vector': motion[:, :3],
        'steps/action/rotation_delta': motion[:, 3:],
        'steps/action/gripper_closedness_action':
            rng.choice([-1, 0, 1], (num_steps, 1)).astype(np.float32),
        'steps/action/terminate_episode': np.stack([last, 1 - last, 0 * last], 1),
        'steps/action/base_displacement_vector': np.zeros((num_steps, 2), np.float32),
        'aspects/success': np.ones(1, np.int64),
    }
  elif schema == 'bridge_oxe':
    motion[0] = 0
    flat |= {
        'steps/observation/image': images,
        'steps/observation/natural_language_instruction': [text.encode()] * num_steps,
        'steps/observation/state': np.zeros((num_steps, 7), np.float32),
        'steps/action/world_vector': motion[:, :3],
        'steps/action/rotation_delta': motion[:, 3:],
        'steps/action/open_gripper': (position < 2).astype(np.int64),
        'steps/action/terminate_episode': last.astype(np.float32),
        'episode_id': [b'%d' % seed],
    }
  elif schema == 'bridge':
    motion[0] = 0
    opened = (position < 2).astype(np.float32)[:, None]
    flat |= {
        'steps/observation/image_0': images,
        'steps/observation/image_1': images[::-1],
        'steps/observation/state': np.zeros((num_steps, 7), np.float32),
        'steps/language_instruction': [text.encode()] * num_steps,
        'steps/action': np.concatenate([motion, opened], 1),
        'episode_metadata/has_language': np.array([bool(text)], np.int64),
        'episode_metadata/episode_id': np.array([seed]),
    }
  elif schema == 'language_table':
    points = np.zeros((num_steps, 512), np.int64)
    points[:, :len(text)] = [ord(letter) for letter in text]
    flat |= {
        'steps/observation/rgb': images,
        'steps/observation/instruction': points,
        'steps/observation/effector_translation':
            np.array([0.3, 0], np.float32) + np.cumsum(motion[:, :2] / 2, 0),
        'steps/action': motion[:, :2] / 2,
        'episode_id': [b'%d' % seed],
    }
  return flat


def serialize(flat: dict) -> bytes:
  """The tf.train.Example of a flat episode."""
  features = {}
  for key, values in flat.items():
    if isinstance(values, list):
      feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    elif np.issubdtype(values.dtype, np.floating):
      feature = tf.train.Feature(float_list=tf.train.FloatList(value=values.ravel()))
    else:
      feature = tf.train.Feature(int64_list=tf.train.Int64List(value=values.ravel()))
    features[key] = feature
  return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write(
    directory, schema: str, shards: list[list[dict]], split: str = 'train', name: str = 'tabletop',
) -> list[str]:
  """Writes `shards` (lists of flat episodes) as a TFDS directory; returns their paths.

  A second call with another split adds to the directory.
  """
  directory = os.fspath(directory)
  os.makedirs(directory, exist_ok=True)
  _F.FeaturesDict(FEATURES[schema]).save_config(directory)
  paths = []
  for number, episodes in enumerate(shards):
    file = f'{name}-{split}.tfrecord-{number:05d}-of-{len(shards):05d}'
    paths.append(os.path.join(directory, file))
    write_records(paths[-1], [serialize(flat) for flat in episodes])
  info_path = os.path.join(directory, 'dataset_info.json')
  info = {'name': name, 'version': '0.1.0', 'fileFormat': 'tfrecord', 'splits': []}
  if os.path.exists(info_path):
    with open(info_path, encoding='utf-8') as f:
      info = json.load(f)
  info['splits'].append({
      'name': split,
      'shardLengths': [str(len(episodes)) for episodes in shards],
      'numBytes': str(sum(map(os.path.getsize, paths))),
      'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
  })
  with open(info_path, 'w', encoding='utf-8') as f:
    json.dump(info, f)
  return paths


def write_records(path: str, records: list[bytes]):
  """Writes one TFRecord file."""
  with tf.io.TFRecordWriter(path) as writer:
    for record in records:
      writer.write(record)


def episodes(schema: str, count: int, num_steps: int = 5, first_seed: int = 0) -> list[dict]:
  """`count` different sound episodes."""
  return [episode(schema, num_steps, first_seed + i) for i in range(count)]


@functools.lru_cache(maxsize=None)
def a_processor(
    action_space: actions.ActionSpace = actions.RT2, num_images: int = 1, inputs_length: int = 32,
    targets_length: int = 24, plan_length: int = 0, history: int = 1,
) -> processor_lib.Processor:
  """A processor whose vocabulary knows the instructions above."""
  return processor_lib.Processor(
      vocabulary=_vocabulary(), action_space=action_space,
      image_spec=images.ImageSpec(32, 40, num_images), inputs_length=inputs_length,
      targets_length=targets_length, plan_length=plan_length, history=history)


@functools.lru_cache(maxsize=None)
def _vocabulary() -> vocabulary.Vocabulary:
  with tempfile.TemporaryDirectory() as directory:
    model_file = os.path.join(directory, 'vocabulary.model')
    texts = [prompts.robot(text) for text in INSTRUCTIONS] * 20
    vocabulary.train(texts, model_file, vocab_size=600, num_integers=256)
    return vocabulary.Vocabulary(model_file)
