"""PaLM-E against a plain NumPy transformer, and its caches against its own whole sequence."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from rt2_train import grammar
from rt2_train import sequences
from rt2_train.models import architectures
from rt2_train.models import attention
from rt2_train.models import decoder_only
from rt2_train.models import palm_e
from rt2_train.models import vit

VOCAB, EOS, PAD = 40, 1, 0
INPUTS, TARGETS = 16, 6
VIT = vit.ViTConfig(
    width=8, depth=1, heads=2, mlp_dim=12, patch_size=4, image_height=8, image_width=8,
    dtype='float32')  # 4 tokens per image
TEXT = decoder_only.DecoderOnlyConfig(
    vocab_size=VOCAB, layers=3, width=16, heads=4, head_dim=6, mlp_dim=24, dtype='float32')
VARIANTS = [
    {},
    {'prefix_mask': 'bidirectional', 'kv_heads': 2, 'scan_layers': False},
    {'parallel': False, 'norm': 'rmsnorm', 'tied_embeddings': False, 'kv_heads': 4},
]


def make_model(text=None, **settings) -> palm_e.PaLME:
  return palm_e.PaLME(palm_e.Network(VIT, dataclasses.replace(TEXT, **(text or {}))), **settings)


def make_batch(seed=0) -> dict[str, np.ndarray]:
  """Three rows of unequal prompts with images in front, inside and nowhere; two frames each."""
  rng = np.random.default_rng(seed)
  image = [sequences.IMAGE_TOKEN_ID] * 4
  text = lambda count: rng.integers(2, VOCAB, count).tolist()
  prompts = [[*image, *image, *text(5)], [*text(2), *image, *text(3), *image, *text(3)], text(7)]
  inputs, targets = np.zeros((3, INPUTS), np.int32), np.zeros((3, TARGETS), np.int32)
  for row, prompt in enumerate(prompts):
    inputs[row, :len(prompt)] = prompt
    targets[row, :TARGETS - row] = [*text(TARGETS - row - 1), EOS]
  return {
      **sequences.decoder_only(inputs, targets),
      'images': rng.integers(0, 256, (3, 2, 8, 8, 3)).astype(np.uint8),
      'image_mask': np.array([[1, 1], [1, 0], [0, 0]], np.int32),
  }


@pytest.fixture(scope='module')
def batch():
  return make_batch()


def logits_of(model, params, batch):
  return jax.jit(lambda p: model.module.apply({'params': p}, *model.network_inputs(batch)))(params)


# -- a second implementation, a row and a layer at a time -------------------------------------------


def reference_logits(params, config, row, image_tokens):
  """Logits [S, V] of one row, loops instead of masks and caches."""
  tokens, prefix = row['decoder_input_tokens'], row['decoder_causal_attention']
  table = params['token_embedder']['embedding']
  x, hidden, patch = [], [], 0
  for token in tokens:
    is_image = token == sequences.IMAGE_TOKEN_ID
    x.append(image_tokens[patch] if is_image else table[token])
    hidden.append(is_image and not row['image_mask'][patch // 4])
    patch += is_image
  x = np.stack(x)
  for i in range(config.layers):
    if config.scan_layers:
      layer = jax.tree.map(lambda leaf, i=i: leaf[:, i], params['decoder']['decoder'])
    else:
      layer = params['decoder'][f'layers_{i}']
    y = norm(x, config, layer['pre_self_attention_layer_norm'])
    attended = attend(y, config, layer['self_attention'], prefix, hidden)
    if config.parallel:
      x = x + attended + mlp(y, layer['mlp'])
    else:
      x = x + attended
      x = x + mlp(norm(x, config, layer['pre_mlp_layer_norm']), layer['mlp'])
  x = norm(x, config, params['decoder']['decoder_norm'])
  if config.tied_embeddings:
    return x @ table.T / np.sqrt(config.width)
  return x @ params['logits']['logits_dense']['kernel']


def norm(x, config, params):
  if config.norm == 'layernorm':
    x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * params['scale']


def mlp(x, params):
  gate = x @ params['wi_0']['kernel']
  return (gate / (1 + np.exp(-gate)) * (x @ params['wi_1']['kernel'])) @ params['wo']['kernel']


def attend(x, config, params, prefix, hidden):
  project = lambda name: np.einsum('se,ehd->shd', x, params[name]['kernel'])
  query, key, value = turn(project('query')), turn(project('key')), project('value')
  result = np.zeros(query.shape)
  for head in range(config.heads):
    shared = head * config.kv_heads // config.heads
    for q in range(len(x)):
      sees = lambda k, q=q: not hidden[k] and (
          k <= q or config.prefix_mask == 'bidirectional' and prefix[k])
      keys = [k for k in range(len(x)) if sees(k)]
      scores = np.array([query[q, head] @ key[k, shared] for k in keys]) / np.sqrt(config.head_dim)
      weights = np.exp(scores - scores.max())
      result[q, head] = (weights / weights.sum()) @ value[keys, shared]
  return np.einsum('shd,hde->se', result, params['out']['kernel'])


def turn(x_SxHxD):
  """Rotary positions as complex numbers."""
  half = x_SxHxD.shape[-1] // 2
  number = x_SxHxD[..., :half] + 1j * x_SxHxD[..., half:]
  angle = np.arange(len(x_SxHxD))[:, None] * 10_000.0 ** (-np.arange(half) / half)
  turned = number * np.exp(1j * angle)[:, None]
  return np.concatenate([turned.real, turned.imag], -1)


# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('text', VARIANTS)
def test_logits_are_those_of_a_plain_transformer(tiny, batch, text):
  model = make_model(text)
  params = tiny.model_params(model, batch)
  images = jax.jit(lambda p: model.module.apply(
      {'params': p}, batch['images'],
      method=lambda m, x: m.image_projection(m.vit(x.reshape(6, 8, 8, 3)))))(params)
  images = np.asarray(images, np.float64).reshape(3, 8, 16)
  actual = logits_of(model, params, batch)
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  for row in range(3):
    expected = reference_logits(
        params, model.module.config, {k: v[row] for k, v in batch.items()}, images[row])
    real = batch['decoder_target_tokens'][row] != PAD
    np.testing.assert_allclose(actual[row][real], expected[real], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize('text', VARIANTS)
def test_greedy_answers_and_scores_are_those_of_the_whole_network(tiny, batch, text):
  model = make_model(text)
  params = tiny.model_params(model, batch)
  answers, aux = jax.jit(
      lambda p: model.predict_batch_with_aux(p, batch, decode_length=TARGETS))(params)
  answers = np.asarray(answers)
  inputs = sequences.inputs_of(batch)[:, :INPUTS]
  written = {**batch, **sequences.decoder_only(inputs, answers)}
  logits = np.asarray(jax.nn.log_softmax(logits_of(model, params, written)))
  first = np.count_nonzero(inputs, axis=1)
  for row in range(3):
    answer = logits[row, first[row]:first[row] + TARGETS]
    length = np.flatnonzero(np.append(answers[row] == EOS, True))[0] + 1
    np.testing.assert_array_equal(answers[row][:length], answer.argmax(-1)[:length])
    np.testing.assert_allclose(aux['scores'][row], answer.max(-1)[:length].sum(), rtol=1e-4)
  assert len(np.unique(answers)) > 2


def test_logits_of_answers_alone_give_the_same_loss(tiny, batch):
  whole, answers = make_model(), make_model(targets_length=TARGETS)
  params = tiny.model_params(whole, batch)
  assert logits_of(answers, params, batch).shape == (3, TARGETS, VOCAB)
  losses = [jax.jit(model.row_losses)(params, batch) for model in (whole, answers)]
  for one, other in zip(*losses):
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_the_loss_counts_nothing_of_the_prompt_and_images_change_only_their_rows(tiny, batch):
  model = make_model()
  params = tiny.model_params(model, batch)
  loss = jax.jit(lambda b: model.row_losses(params, b)[0])
  before = np.asarray(loss(batch))
  targets = batch['decoder_target_tokens'].copy()
  targets[batch['decoder_causal_attention'] * (1 - batch['decoder_loss_weights']) > 0] = 7
  np.testing.assert_array_equal(loss({**batch, 'decoder_target_tokens': targets}), before)
  # The second frame of row 1 is padding, row 2 has no image in its text.
  images = batch['images'].copy()
  images[1, 1], images[2] = 255 - images[1, 1], 255 - images[2]
  np.testing.assert_array_equal(loss({**batch, 'images': images}), before)
  images[1, 0] = 255 - images[1, 0]
  changed = np.asarray(loss({**batch, 'images': images})) != before
  assert changed.tolist() == [False, True, False]


def test_scores_under_rotary_positions_depend_on_the_distance_alone():
  rng = np.random.default_rng(0)
  query, key = rng.standard_normal((2, 1, 1, 1, 8)).astype(np.float32)
  frequency = attention.frequencies(100.0, 8)
  score = lambda q, k: float(np.sum(
      attention.rotate(query, np.array([[q]]), frequency) *
      attention.rotate(key, np.array([[k]]), frequency)))
  assert score(3, 1) == pytest.approx(score(12, 10), rel=1e-4)
  assert score(3, 1) != pytest.approx(score(3, 2), rel=1e-2)


def test_rows_answer_within_their_grammar(tiny, batch):
  grammars = {
      'question': grammar.anything(VOCAB, eos=EOS, pad=PAD),
      'action': grammar.slots([[5, 6, 7], range(20, 30)], VOCAB, eos=EOS, pad=PAD),
  }
  processor = tiny.make_processor(grammars)
  processor.image_spec = types.SimpleNamespace(height=8, width=8)
  processor.layout, processor.image_tokens, processor.prompt_length = 'decoder_only', 4, INPUTS
  model = make_model(processor=processor)
  _, starts = grammar.union(grammars)
  params = tiny.model_params(model, batch)
  state = np.array([starts['action'], starts['question'], starts['action']], np.int32)
  answers = np.asarray(jax.jit(model.predict_batch)(params, {**batch, 'grammar_state': state}))
  for row in (0, 2):
    assert grammars['action'].accepts(answers[row].tolist())
  assert not grammars['action'].accepts(answers[1].tolist())
  processor.image_tokens = 0
  with pytest.raises(ValueError, match="with 0 tokens per image inside the text, PaLME reads"):
    make_model(processor=processor)


def test_architecture_survives_json():
  model = make_model({'prefix_mask': 'bidirectional'}, z_loss=0.5)
  text = json.dumps(model.architecture())
  again = architectures.from_json(json.loads(text))
  assert isinstance(again, palm_e.PaLME) and again.module == model.module
  assert json.dumps(again.architecture()) == text


@pytest.mark.parametrize('fields, message', [
    ({'heads': 3, 'kv_heads': 2}, '3 heads do not divide by kv_heads 2'),
    ({'head_dim': 5}, 'head_dim 5 is odd'),
    ({'prefix_mask': 'full'}, "prefix_mask is 'full'"),
    ({'activations': ('swish',)}, 'choose out of'),
])
def test_impossible_dimensions_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(TEXT, **fields)
