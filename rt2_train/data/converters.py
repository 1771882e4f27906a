"""Examples -> what the encoder-decoder model reads, twice: for tf.data and for NumPy.

The SeqIO converter is T5X's `EncDecFeatureConverter` with images; `Batch` is the same for the
loader and the evaluator, which fill arrays in place. A test holds them equal.

Shape suffixes: B rows, L inputs, T targets, n images, H height, W width.
"""

from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from rt2_train.processor import Processor


def task_feature_lengths(processor: Processor) -> dict[str, int]:
  """TASK_FEATURE_LENGTHS of everything `processor` makes."""
  num_images = processor.image_spec.num_images
  return {
      'inputs': processor.inputs_length,
      'targets': processor.targets_length,
      'images': num_images,
      'image_mask': num_images,
      'source': 1,
  }


class EncoderDecoderConverter(seqio.EncDecFeatureConverter):
  """`seqio.EncDecFeatureConverter` that carries images, image_mask and source along.

  Raises:
    ValueError: packing is asked for; an image belongs to one example.
  """

  _CARRIED = {
      'images': seqio.FeatureConverter.FeatureSpec(dtype=tf.uint8, rank=4),
      'image_mask': seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
      'source': seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
  }
  TASK_FEATURES = {**seqio.EncDecFeatureConverter.TASK_FEATURES, **_CARRIED}
  MODEL_FEATURES = {**seqio.EncDecFeatureConverter.MODEL_FEATURES, **_CARRIED}

  def __init__(self, pack: bool = False, **kwargs):
    if pack:
      raise ValueError('examples with images cannot be packed; set pack = False')
    super().__init__(pack=False, **kwargs)

  def _convert_example(self, features: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
    return {**super()._convert_example(features), **{key: features[key] for key in self._CARRIED}}

  def get_model_feature_lengths(
      self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
    return {
        **super().get_model_feature_lengths(task_feature_lengths),
        **{key: task_feature_lengths[key] for key in self._CARRIED},
    }


class Batch:
  """One batch being filled, row by row, in place: no example is stacked or copied twice."""

  def __init__(self, rows: int, processor: Processor):
    spec = processor.image_spec
    self._lengths = {'inputs': processor.inputs_length, 'targets': processor.targets_length}
    self._inputs_BxL = np.zeros((rows, processor.inputs_length), np.int32)
    self._targets_BxT = np.zeros((rows, processor.targets_length), np.int32)
    # Every row's pixels are written whole, so they need no clearing.
    self._images_BxnxHxWx3 = np.empty(
        (rows, spec.num_images, spec.height, spec.width, 3), np.uint8)
    self._image_mask_Bxn = np.zeros((rows, spec.num_images), np.int32)
    self._source_Bx1 = np.zeros((rows, 1), np.int32)

  def put(self, row: int, example: Mapping[str, np.ndarray], source: int) -> None:
    """Writes `example` (see tasks.add_task) of the task with hash `source` into `row`.

    Raises:
      ValueError: a feature is too long, or the images are of another size. Nothing is trimmed.
    """
    inputs, targets, images = example['inputs'], example['targets'], example['images']
    for key, value in (('inputs', inputs), ('targets', targets)):
      if len(value) > self._lengths[key]:
        raise ValueError(
            f'{key} has {len(value)} tokens, the processor allows {self._lengths[key]}; raise its '
            f'{key}_length')
    # NumPy would spread one picture over all frames.
    if images.shape != self._images_BxnxHxWx3.shape[1:]:
      raise ValueError(
          f'images are {list(images.shape)}, the processor makes '
          f'{list(self._images_BxnxHxWx3.shape[1:])}; give the task the same processor')
    self._inputs_BxL[row, :len(inputs)] = inputs
    self._targets_BxT[row, :len(targets)] = targets
    self._images_BxnxHxWx3[row] = images
    self._image_mask_Bxn[row] = example['image_mask']
    self._source_Bx1[row, 0] = source

  def features(self) -> dict[str, np.ndarray]:
    """The filled batch under T5X's names; the decoder reads its targets shifted right."""
    shifted_BxT = np.zeros_like(self._targets_BxT)
    shifted_BxT[:, 1:] = self._targets_BxT[:, :-1]
    return {
        'encoder_input_tokens': self._inputs_BxL,
        'decoder_input_tokens': shifted_BxT,
        'decoder_target_tokens': self._targets_BxT,
        'decoder_loss_weights': (self._targets_BxT != 0).astype(np.int32),
        'images': self._images_BxnxHxWx3,
        'image_mask': self._image_mask_Bxn,
        'source': self._source_Bx1,
    }
