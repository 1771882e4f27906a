"""The loader's part of tools.benchmark: CPU time per example, ours and others', on equal files."""

from collections.abc import Callable, Iterator, Sequence
import os
import statistics
import tempfile
import time

import cv2
import numpy as np
import simplejpeg
import tensorflow as tf
import tensorflow_datasets as tfds

from rt2_train import actions
from rt2_train import images
from rt2_train import processor as processor_lib
from rt2_train import prompts
from rt2_train import vocabulary
from rt2_train.data import loader as loader_lib
from rt2_train.data import rlds
from rt2_train.data import tasks
from rt2_train.sim import tabletop
from tools import fractal_writer

_HEIGHT, _WIDTH, _SIZE = 256, 320, 224
_EPISODE = 16  # steps
_BATCH = 64


def measure(examples: int, rounds: int) -> tuple[float, dict[str, list[float]]]:
  """Reads `examples` JPEGs in three ways, in turns, in batches of 64 (or of all).

  Returns:
    Mean size of a JPEG in kB; and CPU milliseconds per example in each round of decoding and
    resizing alone, our loader with one thread, and TFDS with tf.data, by name, in this order.
  """
  batch_size = min(_BATCH, examples)
  batches = examples // batch_size
  with tempfile.TemporaryDirectory() as directory:
    data_dir = os.path.join(directory, 'photos', '0.1.0')
    processor = _processor(directory, _write_photos(data_dir, examples))
    dataset = rlds.RobotExamples(data_dir, 'train', processor)
    encoded = [dataset.step(i).images[0] for i in range(len(dataset))]
    ours = _our_batches(dataset, processor, batch_size)
    theirs = _tfds_batches(data_dir, batch_size)

    def limit() -> None:
      for one in encoded[:batches * batch_size]:
        image = simplejpeg.decode_jpeg(one, 'RGB')
        cv2.resize(image, (_SIZE, _SIZE), interpolation=cv2.INTER_LINEAR)

    def take(source: Iterator) -> None:
      for _ in range(batches):
        next(source)

    contestants = {
        'decode + resize alone': limit,
        'our loader': lambda: take(ours),
        'TFDS + tf.data': lambda: take(theirs),
    }
    for work in contestants.values():
      work()  # Threads start, and tf.data finds its settings.
    times = {name: [] for name in contestants}
    for _ in range(rounds):
      for name, work in contestants.items():
        times[name].append(_cpu_ms(work) / (batches * batch_size))
    ours.close()
  return statistics.mean(map(len, encoded)) / 1000, times


def _write_photos(data_dir: str, examples: int) -> list[str]:
  """Writes steps with pictures of the size and weight of RT-1's; returns the instructions."""
  rng = np.random.default_rng(0)
  env = tabletop.Tabletop()
  episodes = []
  for first in range(0, examples, _EPISODE):
    env.reset(seed=tabletop.TRAIN_SEEDS[first])
    length = min(_EPISODE, examples - first)
    episode = []
    for step in range(length):
      action = rng.uniform(-0.5, 0.5, actions.RT2.size)
      action[0] = actions.TERMINATE_STOP if step == length - 1 else actions.TERMINATE_CONTINUE
      episode.append(
          fractal_writer.RecordedStep(_photo(rng), env.scene, env.state, action, reward=0.0))
    episodes.append(episode)
  # None: pictures of any size, which is what the schema of real datasets often says.
  info = fractal_writer.write_split(data_dir, 'train', None, episodes, len(episodes), num_shards=1)
  fractal_writer.write_metadata(data_dir, None, [info], 'Noise that weighs what photos weigh.')
  return [episode[0].scene.instruction for episode in episodes]


def _photo(rng: np.random.Generator) -> np.ndarray:
  """Soft colours, texture and grain: uint8 [256, 320, 3]."""

  def smooth(height: int, width: int, channels: int) -> np.ndarray:
    values = rng.standard_normal((height, width, channels)).astype(np.float32)
    larger = cv2.resize(values, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_CUBIC)
    return larger.reshape(_HEIGHT, _WIDTH, channels)

  pixels = 128 + 45 * smooth(4, 5, 3) + 15 * smooth(64, 80, 1) + 2.5 * smooth(_HEIGHT, _WIDTH, 1)
  return np.clip(pixels, 0, 255).astype(np.uint8)


def _processor(directory: str, instructions: Sequence[str]) -> processor_lib.Processor:
  """RT-2's, with 224x224 images."""
  model_file = os.path.join(directory, 'vocabulary.model')
  vocabulary.train(map(prompts.robot, instructions), model_file, vocab_size=1280)
  return processor_lib.Processor(
      vocabulary.Vocabulary(model_file), actions.RT2, images.ImageSpec(_SIZE, _SIZE),
      inputs_length=64, targets_length=16)


def _our_batches(
    dataset: rlds.RobotExamples, processor: processor_lib.Processor, batch_size: int,
) -> loader_lib.Loader:
  """As in training, with one thread that reads one batch ahead."""
  tasks.add_task('benchmark', {'train': lambda: dataset})
  return loader_lib.Loader('benchmark', batch_size, processor, num_threads=1, prefetch=1)


def _tfds_batches(data_dir: str, batch_size: int) -> Iterator:
  """What most people write: no tokens, no shuffling, no bookkeeping."""

  def example(step):
    observation = step['observation']
    image = tf.image.resize(observation['image'], (_SIZE, _SIZE), method='bilinear')
    return {
        'image': tf.cast(image, tf.uint8),
        'instruction': observation['natural_language_instruction'],
        'action': step['action'],
    }

  # TFDS keeps a dataset as small as this one in memory, but none that robots are trained on.
  episodes = tfds.builder_from_directory(data_dir).as_dataset(
      split='train', read_config=tfds.ReadConfig(try_autocache=False))
  steps = episodes.flat_map(lambda episode: episode['steps'])
  batches = steps.map(example, num_parallel_calls=tf.data.AUTOTUNE).repeat().batch(batch_size)
  return batches.prefetch(1).as_numpy_iterator()


def _cpu_ms(work: Callable[[], None]) -> float:
  """CPU time that `work` costs all threads of this process."""
  _wait_until_idle()
  begin = time.process_time()
  work()
  # Full buffers before and after: what was read ahead is paid for by whoever took it.
  _wait_until_idle()
  return 1000 * (time.process_time() - begin)


def _wait_until_idle() -> None:
  """Waits until all readers have filled their buffers."""
  deadline = time.monotonic() + 30
  while time.monotonic() < deadline:
    begin = time.process_time()
    time.sleep(0.05)
    if time.process_time() - begin < 0.001:
      return
  raise ValueError('the readers are still at work after 30 s; the figures would be worthless')
