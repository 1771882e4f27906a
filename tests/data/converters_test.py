"""Examples become model features the same way in tf.data and in NumPy."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from rt2_train import sequences
from rt2_train.data import converters
from rt2_train.data import tasks
from tests.data import memory_fixture


CONVERTERS = {
    'encoder_decoder': converters.EncoderDecoderConverter,
    'decoder_only': converters.DecoderOnlyConverter,
}


def both(dataset, processor):
  """The batch of all of `dataset`: through SeqIO's converter, and through Batch."""
  examples = [{**dataset[i], 'source': np.array([77], np.int32)} for i in range(len(dataset))]
  signature = {
      key: tf.TensorSpec((None, *examples[0][key].shape[1:]), examples[0][key].dtype)
      for key in tasks.OUTPUT_FEATURES}
  ds = tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=signature)
  converter = CONVERTERS[processor.layout]()
  ds = converter(ds, converters.task_feature_lengths(processor)).batch(len(dataset))
  batch = converters.Batch(len(dataset), processor)
  for row, example in enumerate(examples):
    batch.put(row, example, 77)
  return next(ds.as_numpy_iterator()), batch.features()


@pytest.mark.parametrize('make', [memory_fixture.robot, memory_fixture.web])
@pytest.mark.parametrize('num_images', [1, 3])
@pytest.mark.parametrize('layout', [{}, {'layout': 'decoder_only', 'image_tokens': 4}])
def test_the_seqio_converter_and_the_numpy_batch_are_equal(make, num_images, layout):
  processor = memory_fixture.processor(num_images=num_images, **layout)
  by_seqio, by_numpy = both(make(7, processor), processor)
  assert by_seqio.keys() == by_numpy.keys()
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


def test_the_decoder_alone_reads_prompt_and_answer_and_pays_for_the_answer():
  processor = memory_fixture.processor(layout='decoder_only', image_tokens=4)
  dataset = memory_fixture.robot(2, processor)
  _, batch = both(dataset, processor)
  assert batch['decoder_input_tokens'].shape == (2, 64 + 4 + 12)
  for row in range(2):
    example = dataset[row]
    length = len(example['inputs'])
    assert (example['inputs'] == sequences.IMAGE_TOKEN_ID).sum() == 4
    read = batch['decoder_input_tokens'][row]
    np.testing.assert_array_equal(read[1:length + 1], example['inputs'])
    np.testing.assert_array_equal(
        batch['decoder_target_tokens'][row][batch['decoder_loss_weights'][row] > 0],
        example['targets'])
    assert batch['decoder_causal_attention'][row].sum() == length + 1
    inputs = sequences.inputs_of(batch)[row]
    np.testing.assert_array_equal(inputs[:length], example['inputs'])
    assert not inputs[length:].any()


@pytest.mark.parametrize('converter', CONVERTERS.values())
def test_packing_is_refused(converter):
  with pytest.raises(ValueError, match='set pack = False'):
    converter(pack=True)
  # As T5X calls it.
  assert not converter(pack=False, use_custom_packing_ops=False).pack


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
