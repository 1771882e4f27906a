"""Examples become model features the same way in tf.data and in NumPy."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from rt2_train.data import converters
from rt2_train.data import tasks
from tests.data import memory_fixture


def both(dataset, processor):
  """The batch of all of `dataset`: through SeqIO's converter, and through Batch."""
  examples = [{**dataset[i], 'source': np.array([77], np.int32)} for i in range(len(dataset))]
  signature = {
      key: tf.TensorSpec((None, *examples[0][key].shape[1:]), examples[0][key].dtype)
      for key in tasks.OUTPUT_FEATURES}
  ds = tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=signature)
  converter = converters.EncoderDecoderConverter()
  ds = converter(ds, converters.task_feature_lengths(processor)).batch(len(dataset))
  batch = converters.Batch(len(dataset), processor)
  for row, example in enumerate(examples):
    batch.put(row, example, 77)
  return next(ds.as_numpy_iterator()), batch.features()


@pytest.mark.parametrize('make', [memory_fixture.robot, memory_fixture.web])
@pytest.mark.parametrize('num_images', [1, 3])
def test_the_seqio_converter_and_the_numpy_batch_are_equal(make, num_images):
  processor = memory_fixture.processor(num_images=num_images)
  by_seqio, by_numpy = both(make(7, processor), processor)
  assert by_seqio.keys() == by_numpy.keys()
  assert by_seqio.keys() == converters.EncoderDecoderConverter.MODEL_FEATURES.keys()
  for key, value in by_seqio.items():
    assert value.dtype == by_numpy[key].dtype, key
    np.testing.assert_array_equal(value, by_numpy[key], key)


def test_the_decoder_reads_its_targets_shifted_and_pays_for_no_padding():
  processor = memory_fixture.processor()
  _, batch = both(memory_fixture.web(3, processor), processor)
  targets = batch['decoder_target_tokens']
  np.testing.assert_array_equal(batch['decoder_input_tokens'][:, 1:], targets[:, :-1])
  assert (batch['decoder_input_tokens'][:, 0] == 0).all()
  np.testing.assert_array_equal(batch['decoder_loss_weights'], targets != 0)
  assert (targets == 1).sum() == 3


def test_packing_is_refused():
  with pytest.raises(ValueError, match='set pack = False'):
    converters.EncoderDecoderConverter(pack=True)
  # As T5X calls it.
  assert not converters.EncoderDecoderConverter(pack=False, use_custom_packing_ops=False).pack


def test_a_long_feature_is_never_trimmed():
  example = memory_fixture.robot(1, memory_fixture.processor())[0]
  short = converters.Batch(1, memory_fixture.processor(targets_length=9, inputs_length=3))
  with pytest.raises(ValueError, match='inputs has .* tokens, the processor allows 3; raise its'):
    short.put(0, example, 0)


def test_pictures_of_another_size_are_refused():
  example = memory_fixture.robot(1, memory_fixture.processor(num_images=1))[0]
  with pytest.raises(ValueError, match=r'images are \[1, 16, 16, 3\], the processor makes \[3, 16'):
    converters.Batch(1, memory_fixture.processor(num_images=3)).put(0, example, 0)


def test_it_is_a_seqio_converter():
  assert issubclass(converters.EncoderDecoderConverter, seqio.FeatureConverter)
