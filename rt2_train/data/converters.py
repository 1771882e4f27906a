"""Examples -> what a model reads, twice: for tf.data and for NumPy.

The SeqIO converters are SeqIO's own with images carried along; `Batch` is the same for the loader
and the evaluator, which fill arrays in place. A test holds them equal.

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
      'inputs': processor.prompt_length,
      'targets': processor.targets_length,
      'images': num_images,
      'image_mask': num_images,
      'source': 1,
  }


# What belongs to an example as it is.
_CARRIED = {
    'images': seqio.FeatureConverter.FeatureSpec(dtype=tf.uint8, rank=4),
    'image_mask': seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
    'source': seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
}


class EncoderDecoderConverter(seqio.EncDecFeatureConverter):
  """`seqio.EncDecFeatureConverter` that carries images, image_mask and source along.

  Raises:
    ValueError: packing is asked for; an image belongs to one example.
  """

  def __init__(self, pack: bool = False, **kwargs):
    _refuse_packing(pack)
    super().__init__(pack=False, passthrough_features=_CARRIED, **kwargs)


class DecoderOnlyConverter(seqio.PrefixLMFeatureConverter):
  """`seqio.PrefixLMFeatureConverter` that carries images, image_mask and source along.

  Raises:
    ValueError: packing is asked for; an image belongs to one example.
  """

  def __init__(self, pack: bool = False, **kwargs):
    _refuse_packing(pack)
    super().__init__(pack=False, passthrough_features=_CARRIED, **kwargs)


def _refuse_packing(pack: bool) -> None:
  if pack:
    raise ValueError('examples with images cannot be packed; set pack = False')


class Batch:
  """One batch being filled, row by row, in place: no example is stacked or copied twice."""

  def __init__(self, rows: int, processor: Processor):
    spec = processor.image_spec
    self._processor = processor
    self._lengths = {'inputs': processor.prompt_length, 'targets': processor.targets_length}
    self._inputs_BxL = np.zeros((rows, processor.prompt_length), np.int32)
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
    """The filled batch under T5X's names, laid out as the processor says."""
    return {
        **self._processor.features(self._inputs_BxL, self._targets_BxT),
        'images': self._images_BxnxHxWx3,
        'image_mask': self._image_mask_Bxn,
        'source': self._source_Bx1,
    }
