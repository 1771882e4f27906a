"""Writes tabletop episodes as a TFDS directory with the keys of fractal20220817_data (RT-1's data).

One key is ours: observation/plan says in words what the expert does at that step (RT-2, section
4.4). TFDS encodes the examples and writes the metadata, so `tfds.builder_from_directory` reads
them. There is no builder, whose writer would shuffle the episodes by way of a second copy on disk.
"""

import dataclasses
import io
import os
from collections.abc import Iterable, Sequence

import numpy as np
import simplejpeg
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from rt2_train import actions
from rt2_train.sim import expert
from rt2_train.sim import world
from rt2_train.sim.skills import registry

# Colour at full resolution: glyphs are a few pixels wide, and 4:2:0 would smear them.
_JPEG = {'quality': 95, 'colorspace': 'RGB', 'colorsubsampling': '444'}
_IDENTITY = (0.0, 0.0, 0.0, 1.0)  # quaternion x y z w

# Key under steps/ -> shape and type; all but the image.
_STEP_TENSORS = {
    'action/world_vector': ((3,), np.float32),
    'action/rotation_delta': ((3,), np.float32),
    'action/gripper_closedness_action': ((1,), np.float32),
    'action/terminate_episode': ((3,), np.int32),
    'action/base_displacement_vector': ((2,), np.float32),
    'action/base_displacement_vertical_rotation': ((1,), np.float32),
    'observation/natural_language_instruction': ((), np.str_),
    'observation/plan': ((), np.str_),
    'observation/natural_language_embedding': ((512,), np.float32),
    'observation/base_pose_tool_reached': ((7,), np.float32),
    'observation/gripper_closed': ((1,), np.float32),
    'observation/gripper_closedness_commanded': ((1,), np.float32),
    'observation/height_to_bottom': ((1,), np.float32),
    'observation/orientation_start': ((4,), np.float32),
    'observation/src_rotation': ((4,), np.float32),
    'observation/vector_to_go': ((3,), np.float32),
    'observation/rotation_delta_to_go': ((3,), np.float32),
    'observation/orientation_box': ((2, 3), np.float32),
    'observation/robot_orientation_positions_box': ((3, 3), np.float32),
    'observation/workspace_bounds': ((3, 3), np.float32),
    'reward': ((), np.float32),
    'is_first': ((), np.bool_),
    'is_last': ((), np.bool_),
    'is_terminal': ((), np.bool_),
}
_ASPECTS = {
    'already_success': False, 'feasible': True, 'has_aspects': True, 'success': True,
    'undesirable': False,
}
_ATTRIBUTES = {
    'collection_mode': 'scripted', 'data_type': 'simulated', 'env': 'tabletop', 'location': 'table',
    'objects_family': 'glyphs', 'task_family': '',
}


@dataclasses.dataclass(frozen=True)
class RecordedStep:
  """One step of an episode: what was seen, and what the expert would do.

  Attributes:
    image: uint8 [S, S, 3].
    scene, state: what the picture shows.
    action: float [8] in RT-2's order, the label.
    reward: of the step that followed.
  """

  image: np.ndarray
  scene: world.Scene
  state: world.State
  action: np.ndarray
  reward: float


def jpeg(image: np.ndarray) -> bytes:
  """A picture uint8 [S, S, 3] as JPEG, quality 95, colour at full resolution."""
  return simplejpeg.encode_jpeg(np.ascontiguousarray(image), **_JPEG)


def features(image_size: int) -> tfds.features.FeaturesDict:
  """The schema, with pictures of `image_size` pixels squared."""
  steps = {'action': {}, 'observation': {}}
  for key, (shape, dtype) in _STEP_TENSORS.items():
    group, _, name = key.rpartition('/')
    (steps[group] if group else steps)[name] = tfds.features.Tensor(shape=shape, dtype=dtype)
  steps['observation']['image'] = tfds.features.Image(
      shape=(image_size, image_size, 3), encoding_format='jpeg')
  attributes = {}
  for name in _ATTRIBUTES:
    attributes[name] = tfds.features.Scalar(dtype=np.int64)
    attributes[f'{name}_name'] = tfds.features.Tensor(shape=(), dtype=np.str_)
  return tfds.features.FeaturesDict({
      'steps': tfds.features.Dataset(steps),
      'aspects': {name: tfds.features.Scalar(dtype=np.bool_) for name in _ASPECTS},
      'attributes': attributes,
  })


def episode(steps: Sequence[RecordedStep]) -> dict:
  """An episode as `features` describes it."""
  attributes = {**_ATTRIBUTES, 'task_family': steps[0].scene.skill}
  return {
      'steps': [
          _step_values(step, is_first=i == 0, is_last=i == len(steps) - 1)
          for i, step in enumerate(steps)],
      'aspects': _ASPECTS,
      'attributes': {
          **dict.fromkeys(attributes, 0), **{f'{k}_name': v for k, v in attributes.items()}},
  }


def write_split(
    directory: str, split: str, image_size: int, episodes: Iterable[Sequence[RecordedStep]],
    num_episodes: int, num_shards: int,
) -> tfds.core.SplitInfo:
  """Writes the shards of one split; the metadata follows with `write_metadata`.

  Args:
    directory: NAME/VERSION, such as 'data/tabletop/0.1.0'.
    split: 'train' or 'val'.
    image_size: of all pictures, pixels.
    episodes: at least one step each; consumed one by one.
    num_episodes: how many there are.
    num_shards: over how many files they are spread, evenly and in order.

  Returns:
    What `write_metadata` needs.
  """
  name = os.path.basename(os.path.dirname(os.path.abspath(directory)))
  os.makedirs(directory, exist_ok=True)
  ends = [num_episodes * (shard + 1) // num_shards for shard in range(num_shards)]
  episodes = iter(episodes)
  schema = features(image_size)
  serializer = example_serializer.ExampleSerializer(schema.get_serialized_info())
  lengths, num_bytes, done = [], 0, 0
  for shard, end in enumerate(ends):
    path = os.path.join(directory, f'{name}-{split}.tfrecord-{shard:05d}-of-{num_shards:05d}')
    with tf.io.TFRecordWriter(path) as writer:
      for _ in range(end - done):
        encoded = schema.encode_example(episode(next(episodes)))
        # Not the serializer's own bytes, whose order of keys differs from process to process.
        record = serializer.get_tf_example(encoded).SerializeToString(deterministic=True)
        writer.write(record)
        num_bytes += len(record)
    lengths.append(end - done)
    done = end
  template = tfds.core.ShardedFileTemplate(
      data_dir=directory, dataset_name=name, split=split, filetype_suffix='tfrecord')
  return tfds.core.SplitInfo(
      name=split, shard_lengths=lengths, num_bytes=num_bytes, filename_template=template)


def write_metadata(
    directory: str, image_size: int, splits: Sequence[tfds.core.SplitInfo], description: str,
) -> None:
  """Writes features.json and dataset_info.json beside the shards."""
  tfds.folder_dataset.write_metadata(
      data_dir=directory, features=features(image_size), split_infos=splits,
      description=description, check_data=False)


def _step_values(step: RecordedStep, is_first: bool, is_last: bool) -> dict:
  """Everything about a step, nested; what a tabletop has no notion of is zero."""
  gripper_3 = step.state.gripper_3
  places_Kx2, aim = registry.SKILLS[step.scene.skill].aim(step.scene, step.state)
  stop = step.action[0] == actions.TERMINATE_STOP
  values = {
      'action/world_vector': step.action[1:4],
      'action/rotation_delta': step.action[4:7],
      'action/gripper_closedness_action': step.action[7:],
      'action/terminate_episode': (1, 0, 0) if stop else (0, 1, 0),
      'observation/image': io.BytesIO(jpeg(step.image)),
      'observation/natural_language_instruction': step.scene.instruction,
      'observation/plan': expert.plan(step.scene, step.state),
      'observation/base_pose_tool_reached': (*gripper_3, *_IDENTITY),
      'observation/gripper_closed': [step.state.closed],
      'observation/gripper_closedness_commanded': [step.action[7] > 0],
      'observation/height_to_bottom': gripper_3[2:],
      'observation/orientation_start': _IDENTITY,
      'observation/src_rotation': _IDENTITY,
      'observation/vector_to_go': (*(places_Kx2[aim] - gripper_3[:2]), -gripper_3[2]),
      'observation/workspace_bounds': (world.GRIPPER_LOW, world.GRIPPER_HIGH, np.zeros(3)),
      'reward': step.reward,
      'is_first': is_first,
      'is_last': is_last,
      'is_terminal': bool(is_last and stop),
  }
  nested = {'action': {}, 'observation': {'image': values.pop('observation/image')}}
  for key, (shape, dtype) in _STEP_TENSORS.items():
    value = values.get(key, np.zeros(shape))
    group, _, name = key.rpartition('/')
    (nested[group] if group else nested)[name] = (
        value if dtype is np.str_ else np.asarray(value, dtype))
  return nested
