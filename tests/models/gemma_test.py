"""T5Gemma 2 and PaliGemma beyond what parity with `transformers` shows (tests/convert): their own
caches against whole sequences, frames that are padding, scan, windows, constrained answers."""

import dataclasses
import functools
import json
import re

from flax import core
from flax.linen import partitioning
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_train import grammar
from rt2_train import sequences
from rt2_train.models import architectures
from rt2_train.models import gemma
from rt2_train.models import layers
from rt2_train.models import logical_axes
from rt2_train.models import paligemma
from rt2_train.models import t5gemma
from rt2_train.models import vit

VOCAB, EOS, PAD = 40, 1, 0
INPUTS, TARGETS = 14, 8
VIT = vit.ViTConfig(
    width=8, depth=1, heads=2, mlp_dim=12, patch_size=4, image_height=8, image_width=8,
    dtype='float32')  # 4 tokens per image
DIMENSIONS = dict(
    vocab_size=VOCAB, layers=4, width=16, heads=4, kv_heads=2, head_dim=6, mlp_dim=24,
    dtype='float32', post_norms=True, window=5)
PALIGEMMA = gemma.GemmaConfig(
    **DIMENSIONS, global_every=2, attention_softcap=4.0, logits_softcap=1.0)
T5GEMMA = t5gemma.T5GemmaConfig(
    **DIMENSIONS, global_every=3, qk_norm=True, global_wavelength=1e6, global_position_scale=0.125,
    image_before=(3, 4), image_after=(5, 3), end_of_image_id=5, image_pool=2)
FAMILIES = ('T5Gemma', 'PaliGemma')


def make_model(family, vit_fields=None, settings=None, **fields):
  vit_config = dataclasses.replace(VIT, **(vit_fields or {}))
  if family == 'T5Gemma':
    network = t5gemma.Network(vit_config, dataclasses.replace(T5GEMMA, **fields))
    return t5gemma.T5Gemma(network, **(settings or {}))
  network = paligemma.Network(vit_config, dataclasses.replace(PALIGEMMA, **fields))
  return paligemma.PaliGemma(network, **(settings or {}))


def make_batch(family, seed=0) -> dict[str, np.ndarray]:
  """Three rows of unequal prompts, longer than the window, with two images, one and none."""
  rng = np.random.default_rng(seed)
  text = lambda count: rng.integers(6, VOCAB, count).tolist()
  images = [[sequences.IMAGE_TOKEN_ID] * 4] * 2 if family == 'PaliGemma' else [[], []]
  prompts = [[*images[0], *images[1], *text(6)], [*images[0], *text(9)], text(7)]
  inputs, targets = np.zeros((3, INPUTS), np.int32), np.zeros((3, TARGETS), np.int32)
  for row, prompt in enumerate(prompts):
    inputs[row, :len(prompt)] = prompt
    targets[row, :TARGETS - row] = [*text(TARGETS - row - 1), EOS]
  layout = sequences.decoder_only if family == 'PaliGemma' else sequences.encoder_decoder
  return {
      **layout(inputs, targets),
      'images': rng.integers(0, 256, (3, 2, 8, 8, 3)).astype(np.uint8),
      'image_mask': np.array([[1, 1], [1, 0], [0, 0]], np.int32),
  }


def variables_of(model, batch):
  """Shapes and logical axes of what the model starts with."""
  shapes = {key: value.shape for key, value in batch.items()}
  return jax.eval_shape(lambda key: model.get_initial_variables(key, shapes), jax.random.key(0))


def params_of(model, batch, seed=0):
  """Random parameters of a size at which no layer drowns the others."""
  rng = np.random.default_rng(seed)

  def draw(path, x):
    spread = 0.1 if 'embedding' in jax.tree_util.keystr(path[-1:]) else 0.4
    return (spread * rng.standard_normal(x.shape)).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, core.unfreeze(variables_of(model, batch)['params']))


@functools.cache
def compiled(model):
  return jax.jit(lambda p, b: model.module.apply({'params': p}, *model.network_inputs(b)))


def logits_of(model, params, batch):
  return np.asarray(compiled(model)(params, batch))


@pytest.fixture(scope='module', params=FAMILIES)
def family(request):
  return request.param


@pytest.fixture(scope='module')
def batch(family):
  return make_batch(family)


@pytest.fixture(scope='module')
def model(family):
  return make_model(family)


@pytest.fixture(scope='module')
def params(model, batch):
  return params_of(model, batch)


def test_greedy_answers_through_caches_are_those_of_the_whole_network(family, model, params, batch):
  answers, aux = jax.jit(
      lambda p: model.predict_batch_with_aux(p, batch, decode_length=TARGETS))(params)
  answers = np.asarray(answers)
  layout = sequences.LAYOUTS[model.layout]
  inputs = sequences.inputs_of(batch)[:, :INPUTS]
  logits = np.asarray(jax.nn.log_softmax(
      logits_of(model, params, {**batch, **layout(inputs, answers)})))
  first = np.count_nonzero(inputs, axis=1) if family == 'PaliGemma' else np.zeros(3, int)
  for row in range(3):
    answer = logits[row, first[row]:first[row] + TARGETS]
    length = np.flatnonzero(np.append(answers[row] == EOS, True))[0] + 1
    np.testing.assert_array_equal(answers[row][:length], answer.argmax(-1)[:length])
    np.testing.assert_allclose(aux['scores'][row], answer.max(-1)[:length].sum(), rtol=1e-4)
  assert len(np.unique(answers)) > 4


@pytest.mark.slow
def test_layers_written_out_compute_what_scanned_ones_do(family, model, params, batch):
  plain = make_model(family, {'scan_layers': False}, scan_layers=False)
  unstacked = dict(params)
  for tower in ('vit', 'encoder', 'decoder'):
    if tower in params:
      own = dict(params[tower])
      stacked = own.pop(tower)
      for i in range(jax.tree.leaves(stacked)[0].shape[1]):
        own[f'layers_{i}'] = jax.tree.map(lambda x, i=i: x[:, i], stacked)
      unstacked[tower] = own
  np.testing.assert_allclose(
      logits_of(plain, unstacked, batch), logits_of(model, params, batch), atol=1e-5)


def test_depth_does_not_change_the_program(family, model, params, batch):
  deeper = make_model(family, layers=9)
  nine = {name: dict(leaves) for name, leaves in params.items() if name in ('encoder', 'decoder')}
  for tower, leaves in nine.items():
    leaves[tower] = jax.tree.map(lambda x: np.repeat(x, 3, axis=1)[:, :9], leaves[tower])
  count = lambda lowered: len(re.findall('= "?stablehlo', lowered.as_text()))
  assert count(compiled(deeper).lower({**params, **nine}, batch)) == count(
      compiled(model).lower(params, batch))


@pytest.mark.slow
@pytest.mark.parametrize('policy', ['full', 'dots', 'names'])
def test_remat_policies_keep_the_gradient(model, params, batch, policy):
  gradient = lambda m: jax.jit(jax.grad(lambda p: m.loss_fn(p, batch, None)[0]))(params)
  expected, actual = gradient(model), gradient(model.with_remat_policy(policy))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), actual, expected)
  assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(expected))


def test_a_frame_that_is_padding_changes_nothing(family, model, params, batch):
  before = np.asarray(logits_of(model, params, batch))
  images = batch['images'].copy()
  images[1, 1], images[2] = 255 - images[1, 1], 255 - images[2]
  np.testing.assert_array_equal(logits_of(model, params, {**batch, 'images': images}), before)
  images[1, 0] = 255 - images[1, 0]
  assert np.any(logits_of(model, params, {**batch, 'images': images}) != before)


@pytest.mark.slow
def test_t5gemma_reads_a_text_without_images_as_if_it_knew_none():
  model, batch = make_model('T5Gemma'), make_batch('T5Gemma')
  params = params_of(model, batch)
  text = {**batch, 'image_mask': np.zeros((3, 2), np.int32)}
  fewer = {**text, 'images': batch['images'][:, :1], 'image_mask': text['image_mask'][:, :1]}
  np.testing.assert_allclose(
      logits_of(model, params, text), logits_of(model, params, fewer), atol=1e-5)


def test_a_prompt_sees_all_of_itself_and_an_answer_only_what_came_before(
    family, model, params, batch):
  def first_to_change(feature, position):
    changed = batch[feature].copy()
    changed[0, position] = 6 + (changed[0, position] - 5) % (VOCAB - 6)
    different = logits_of(model, params, {**batch, feature: changed}) != logits_of(
        model, params, batch)
    return np.flatnonzero(np.any(different, axis=(0, 2)))[0]

  length = batch['decoder_input_tokens'].shape[1]
  assert first_to_change('decoder_input_tokens', length - 2) == length - 2
  # Position 0 is hidden padding in PaliGemma, which sees the prompt as well.
  end_of_prompt = {
      'PaliGemma': ('decoder_input_tokens', INPUTS), 'T5Gemma': ('encoder_input_tokens', 5)}
  assert first_to_change(*end_of_prompt[family]) == 0


def test_the_encoders_window_lies_around_each_token():
  position = jnp.arange(8)[None]
  # transformers' T5Gemma 2 with window 5: two back, itself, two ahead.
  seen = np.asarray(gemma.within(position, position, (5 + 1) // 2, 5 // 2 + 1))[0, 0]
  assert np.flatnonzero(seen[4]).tolist() == [2, 3, 4, 5, 6]


def test_layers_are_global_at_the_end_of_each_group():
  config = dataclasses.replace(PALIGEMMA, layers=8, global_every=3)
  assert config.global_layers == [2, 5]
  assert dataclasses.replace(config, window=None).global_layers == list(range(8))


def test_scores_and_logits_stay_below_their_bounds():
  x = jnp.array([-1e4, -1.0, 0.0, 1e-3, 1e4])
  np.testing.assert_allclose(
      layers.softcap(x, 2.0), [-2, -2 * np.tanh(0.5), 0, 1e-3, 2], rtol=1e-5)
  assert layers.softcap(x, None) is x


def test_paligemma_2_keeps_its_logits_within_bounds(family, model, params, batch):
  most = np.abs(logits_of(model, params, batch)).max()
  assert most > 1.0 if family == 'T5Gemma' else 0.7 < most <= PALIGEMMA.logits_softcap


def test_a_zero_centred_norm_starts_as_a_plain_one():
  x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8)), jnp.float32)
  zero, plain = layers.Norm(kind='zero_centered_rmsnorm'), layers.Norm(kind='rmsnorm')
  variables = zero.init(jax.random.key(0), x)
  assert np.all(np.asarray(variables['params']['scale']) == 0)
  np.testing.assert_allclose(zero.apply(variables, x), plain.apply(
      plain.init(jax.random.key(0), x), x), rtol=1e-6)


def test_token_vectors_are_scaled_by_the_root_of_the_width_in_their_own_precision():
  embed = layers.Embed(4, 24, scale=24 ** 0.5, dtype=jnp.bfloat16)
  variables = embed.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  row = np.asarray(variables['params']['embedding'])[3].astype(jnp.bfloat16)
  expected = row * np.asarray(24 ** 0.5, jnp.bfloat16)
  np.testing.assert_array_equal(embed.apply(variables, jnp.array([[3]]))[0, 0], expected)


def test_the_end_of_an_image_has_a_vector_of_its_own():
  model, batch = make_model('T5Gemma'), make_batch('T5Gemma')
  params = params_of(model, batch)
  params['token_embedder']['embedding'][5] = np.nan
  vectors = model.module.apply({'params': params}, jnp.array([[5]]), method='_embed')
  np.testing.assert_array_equal(vectors[0, 0], params['end_of_image_embedding'])


def test_an_architecture_survives_json(model):
  again = architectures.from_json(json.loads(json.dumps(model.architecture())))
  assert type(again) is type(model)
  assert again.module == model.module
  assert again.architecture() == model.architecture()


def test_every_axis_has_a_logical_name(model, batch):
  variables = variables_of(model, batch)
  axes = partitioning.get_axis_names(variables['params_axes'])
  params = variables['params']
  ranks = jax.tree.map(lambda spec: len(spec), axes, is_leaf=lambda x: isinstance(x, tuple))
  assert jax.tree.leaves(ranks) == [x.ndim for x in jax.tree.leaves(params)]
  names = {name for spec in jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple))
           for name in spec}
  assert names <= set(logical_axes.LOGICAL_AXES)


def test_answers_follow_their_grammar(family, tiny, params, batch):
  grammars = {
      'question': grammar.anything(VOCAB, eos=EOS, pad=PAD),
      'action': grammar.slots([[6, 7, 8], range(20, 30)], VOCAB, eos=EOS, pad=PAD),
  }
  processor = tiny.make_processor(grammars)
  processor.image_spec.width = 8
  if family == 'PaliGemma':
    processor.layout, processor.image_tokens, processor.prompt_length = 'decoder_only', 4, INPUTS
  model = make_model(family, settings={'processor': processor})
  starts = grammar.union(grammars)[1]
  state = np.array([starts['action'], starts['question'], starts['action']], np.int32)
  answers = np.asarray(jax.jit(model.predict_batch)(params, {**batch, 'grammar_state': state}))
  for row in (0, 2):
    assert answers[row, 0] in (6, 7, 8) and 20 <= answers[row, 1] < 30
    assert answers[row, 2:].tolist() == [EOS, *[PAD] * (answers.shape[1] - 3)]


@pytest.mark.parametrize('fields, message', [
    ({'kv_heads': 3}, 'heads do not divide'),
    ({'head_dim': 7}, 'head_dim 7 is odd'),
    ({'global_every': 0}, 'global_every is 0'),
    ({'window': 0}, 'window is 0'),
    ({'end_of_image_id': VOCAB}, f'name the id {VOCAB}; the model has {VOCAB}'),
])
def test_impossible_dimensions_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(T5GEMMA, **fields)


def test_patches_that_leave_a_rest_are_refused():
  model, batch = make_model('T5Gemma', image_pool=3), make_batch('T5Gemma')
  with pytest.raises(ValueError, match='2x2 patches do not divide into squares of image_pool 3'):
    params_of(model, batch)
