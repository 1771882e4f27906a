"""What T5X asks of a model (its trainer, evaluator and infer script), asked the way T5X asks it.

Batches come out of `seqio.get_dataset` with the model's own converter, shapes and types are taken
from them, and every method is called with T5X's arguments.
"""

import inspect
import uuid

from clu import metrics as clu_metrics
from flax import core
from flax.linen import partitioning
import jax
import numpy as np
import pytest
import seqio

from rt2_train.data import converters
from rt2_train.data import tasks
from rt2_train.models import decoder_only
from rt2_train.models import encoder_decoder
from rt2_train.models import pali_x
from rt2_train.models import palm_e
from rt2_train.models import vit
from rt2_train.models import vlm
from rt2_train.training import adafactor
from tests.data import memory_fixture

VIT = vit.ViTConfig(8, 1, 2, 16, 8, 16, 16, dtype='float32')  # 4 tokens per image
PROCESSORS = {
    'PaLI-X': memory_fixture.processor(),
    'PaLM-E': memory_fixture.processor(layout='decoder_only', image_tokens=4),
}


@pytest.fixture(scope='module', params=PROCESSORS)
def processor(request):
  return PROCESSORS[request.param]


@pytest.fixture(scope='module')
def task(processor) -> seqio.Task:
  dataset = memory_fixture.web(8, processor)
  return tasks.add_task(f't5x_{uuid.uuid4().hex}', {'train': lambda: dataset})


@pytest.fixture(scope='module')
def model(processor) -> vlm.VisionLanguageModel:
  vocab_size = processor.vocabulary.vocab_size
  if processor.layout == 'decoder_only':
    network = palm_e.Network(
        VIT, decoder_only.DecoderOnlyConfig(vocab_size, 1, 16, 2, 8, 16, dtype='float32'))
    return palm_e.PaLME(
        network, adafactor.Adafactor(), processor, converters.DecoderOnlyConverter,
        tasks.vocabulary())
  network = pali_x.Network(
      VIT, encoder_decoder.EncoderDecoderConfig(vocab_size, 1, 1, 16, 2, 8, 16, dtype='float32'))
  return pali_x.PaLIX(
      network, adafactor.Adafactor(), processor, converters.EncoderDecoderConverter,
      tasks.vocabulary())


@pytest.fixture(scope='module')
def batch(model, processor, task) -> dict[str, np.ndarray]:
  dataset = seqio.get_dataset(
      task.name, converters.task_feature_lengths(processor), dataset_split='train', shuffle=False,
      feature_converter=model.FEATURE_CONVERTER_CLS(pack=False, use_custom_packing_ops=False),
      batch_size=4,
  )
  return next(dataset.as_numpy_iterator())


@pytest.fixture(scope='module')
def variables(model, batch):
  # eval.py and export pass no types.
  shapes = {name: value.shape for name, value in batch.items()}
  return model.get_initial_variables(jax.random.PRNGKey(0), shapes, None)


def test_vocabularies_are_those_of_the_task(model, task):
  assert model.input_vocabulary == task.output_features['inputs'].vocabulary
  assert model.output_vocabulary == task.output_features['targets'].vocabulary


def test_initial_variables_come_from_a_bound_method_with_axes_for_every_parameter(model, variables):
  assert model.get_initial_variables.__self__ is model
  assert isinstance(model.module.scan_layers, bool)
  assert isinstance(variables, core.FrozenDict) and set(variables) == {'params', 'params_axes'}
  leaves = jax.tree.leaves(variables['params'])
  axes = jax.tree.leaves(variables['params_axes'], is_leaf=lambda x: hasattr(x, 'names'))
  assert len(leaves) == len(axes)


def test_loss_and_eval_take_positional_arguments_and_give_clu_metrics(model, variables, batch):
  gradient = jax.value_and_grad(model.loss_fn, has_aux=True)
  (loss, metrics), grads = gradient(variables['params'], batch, jax.random.PRNGKey(1))
  assert np.isfinite(loss) and all(isinstance(m, clu_metrics.Metric) for m in metrics.values())
  assert jax.tree.structure(grads) == jax.tree.structure(variables['params'])
  loss, metrics = model.eval_fn(variables['params'], batch)
  assert np.isfinite(loss) and {'loss', 'accuracy', 'z_loss'} <= set(metrics)


def test_predictions_and_scores_have_a_row_per_example(model, processor, variables, batch):
  params = variables['params']
  tokens, aux = model.predict_batch_with_aux(params, batch, jax.random.PRNGKey(0))
  assert tokens.shape == (4, processor.targets_length) and aux['scores'].shape == (4,)
  assert np.array_equal(model.predict_batch(params, batch, jax.random.PRNGKey(0)), tokens)
  assert model.score_batch(params, batch).shape == (4,)
  # T5X passes a key only where the signature names it so.
  assert 'rng' in inspect.signature(model.predict_batch).parameters


def test_the_optimizer_keeps_t5x_tree_of_state(model, variables):
  definition = model.optimizer_def
  definition.set_param_axes(partitioning.get_axis_names(variables['params_axes']))
  optimizer = jax.eval_shape(definition.create, variables['params'])
  tree = optimizer.state_dict()
  assert set(tree) == {'target', 'state'} and set(tree['state']) == {'step', 'param_states'}
  leaf = tree['state']['param_states']['token_embedder']['embedding']
  assert set(leaf) == {'v_row', 'v_col', 'v', 'm'}


def test_the_optimizer_takes_t5x_trees_and_gives_them_back(model, variables):
  definition, axes = model.optimizer_def, partitioning.get_axis_names(variables['params_axes'])
  definition.set_param_axes(axes)
  optimizer = jax.eval_shape(definition.create, variables['params'])
  update = lambda o, grads: o.apply_gradient(grads, learning_rate=0.1)
  updated = jax.eval_shape(update, optimizer, variables['params'])
  assert jax.tree.structure(updated) == jax.tree.structure(optimizer)
  assert isinstance(updated.target, core.FrozenDict)
  derived = definition.derive_logical_axes(optimizer, axes)
  assert tuple(derived.target['token_embedder']['embedding']) == ('vocab', 'embed')
  restored = optimizer.restore_state(optimizer.state_dict())
  assert jax.tree.structure(restored) == jax.tree.structure(optimizer)
