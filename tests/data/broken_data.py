"""A robot dataset of two shards in which a test breaks one thing, and what opening it then says."""

import numpy as np
import pytest

from rt2_train.data import rlds
from rt2_train.data import tfrecord
from tests.data import rlds_fixture

IMAGE = 'steps/observation/image'
REMEDY = "; write the data again, or leave what is broken out with on_bad='skip'"
WHERE = 'tabletop/train shard 00001 episode 2 step 3: '
EPISODE = 'tabletop/train shard 00001 episode 2: '
SHARD = 'tabletop/train shard 00001: '
JPEG = rlds_fixture.jpeg(503)


def write(directory, change=lambda episode: None, schema='fractal') -> list[str]:
  """Two shards of three episodes of five steps; `change` breaks the last episode."""
  first, second = rlds_fixture.episodes(schema, 3), rlds_fixture.episodes(schema, 3, 5, 3)
  change(second[2])
  return rlds_fixture.write(directory, schema, [first, second])


def open_error(directory, layout='fractal', **kwargs) -> str:
  with pytest.raises((ValueError, OSError)) as error:
    rlds.RobotSteps(str(directory), 'train', layout, **kwargs)
  assert '\n' not in str(error.value)
  return str(error.value)


def open_skipping(directory, layout='fractal') -> rlds.RobotSteps:
  return rlds.RobotSteps(str(directory), 'train', layout, on_bad='skip', max_bad_share=0.5)


def steps_of_last_episode(steps: rlds.RobotSteps) -> list[int]:
  return [steps.step(i).step for i in np.flatnonzero(steps.episode_N == 5)]


def set_image(encoded):
  def change(episode):
    original = episode[IMAGE][3]
    episode[IMAGE][3] = encoded(original) if callable(encoded) else encoded
  return change


def set_value(key, value, step=3):
  def change(episode):
    episode[f'steps/{key}'][step] = value
  return change


def starts(path: str) -> list[int]:
  return [record.offset - 12 for record in tfrecord.records(path)]


def overwrite(path: str, position: int, data: bytes):
  with open(path, 'r+b') as file:
    file.seek(position)
    file.write(data)
