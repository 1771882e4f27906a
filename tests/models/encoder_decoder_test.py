"""The encoder-decoder is T5's, however its layers are stored and recomputed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_train.models import attention
from rt2_train.models import encoder_decoder
from rt2_train.models import stacks


def logits_of(model, params, batch):
  return model.module.apply(
      {'params': params}, batch['encoder_input_tokens'], batch['decoder_input_tokens'],
      batch['images'], batch['image_mask'])


class T5:
  """One-layer T5 1.1 in NumPy, written from its definition."""

  def __init__(self, params):
    self.p = params

  def norm(self, x, scale):
    return x / np.sqrt(np.mean(x ** 2, -1, keepdims=True) + 1e-6) * scale

  def attend(self, p, x, memory, bias, mask):
    q, k, v = (
        np.einsum('ble,ehd->bhld', y, p[name]['kernel'])
        for name, y in (('query', x), ('key', memory), ('value', memory)))
    scores = np.where(mask, q @ k.transpose(0, 1, 3, 2) + bias, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum('bhld,hde->ble', weights @ v, p['out']['kernel'])

  def mlp(self, p, x):
    gate = x @ p['wi_0']['kernel']
    gelu = gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate ** 3)))
    return (gelu * (x @ p['wi_1']['kernel'])) @ p['wo']['kernel']

  def bias(self, table_HxR, length, bidirectional):
    distance = np.arange(length)[None] - np.arange(length)[:, None]
    return table_HxR[:, attention.bucket(distance, bidirectional)][None]

  def encode(self, x, valid):
    p, layer = self.p['encoder'], self.p['encoder']['layers_0']
    mask = valid[:, None, None]
    y = self.norm(x, layer['pre_attention_layer_norm']['scale'])
    bias = self.bias(p['relpos_bias']['rel_embedding'], x.shape[1], True)
    x = x + self.attend(layer['attention'], y, y, bias, mask)
    x = x + self.mlp(layer['mlp'], self.norm(x, layer['pre_mlp_layer_norm']['scale']))
    return self.norm(x, p['encoder_norm']['scale'])

  def decode(self, x, encoded, valid):
    p, layer = self.p['decoder'], self.p['decoder']['layers_0']
    length = x.shape[1]
    y = self.norm(x, layer['pre_self_attention_layer_norm']['scale'])
    bias = self.bias(p['relpos_bias']['rel_embedding'], length, False)
    x = x + self.attend(layer['self_attention'], y, y, bias, np.tril(np.ones((length,) * 2, bool)))
    y = self.norm(x, layer['pre_cross_attention_layer_norm']['scale'])
    x = x + self.attend(
        layer['encoder_decoder_attention'], y, encoded, 0.0, valid[:, None, None])
    x = x + self.mlp(layer['mlp'], self.norm(x, layer['pre_mlp_layer_norm']['scale']))
    return self.norm(x, p['decoder_norm']['scale'])


@pytest.mark.parametrize('tied', [False, True])
def test_logits_are_those_of_t5_written_from_its_definition(tiny, batch, tied):
  model = tiny.make_model(
      vit={'depth': 1},
      text=dict(encoder_layers=1, decoder_layers=1, scan_layers=False, tied_embeddings=tied))
  params = tiny.model_params(model, batch)
  images = jax.jit(lambda p: model.module.apply(
      {'params': p}, batch['images'].reshape(-1, 8, 12, 3),
      method=lambda module, x: module.image_projection(module.vit(x))))(params)
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  valid = np.concatenate(
      [np.repeat(batch['image_mask'], 6, 1), batch['encoder_input_tokens'] != 0], 1).astype(bool)
  table = params['token_embedder']['embedding']
  reference = T5(params)
  encoded = reference.encode(
      np.concatenate([images.reshape(3, 12, 16), table[batch['encoder_input_tokens']]], 1), valid)
  states = reference.decode(table[batch['decoder_input_tokens']], encoded, valid)
  head = table.T / 16 ** 0.5 if tied else params['decoder']['logits_dense']['kernel']
  logits = jax.jit(lambda p: logits_of(model, p, batch))(params)
  np.testing.assert_allclose(logits, states @ head, atol=2e-4)


@pytest.mark.parametrize('relative_positions', ['shared', 'per_layer'])
def test_scanned_and_unscanned_layers_compute_the_same(tiny, batch, relative_positions):
  text = {'relative_positions': relative_positions}
  scanned = tiny.make_model(text=text)
  params = tiny.model_params(scanned, batch)
  loops = {'scan_layers': False}
  plain = tiny.make_model(vit=loops, text=text | loops)
  np.testing.assert_allclose(
      jax.jit(lambda p: logits_of(plain, p, batch))(tiny.unstack(params)),
      jax.jit(lambda p: logits_of(scanned, p, batch))(params), atol=1e-4)


def test_relative_positions_are_one_table_per_tower_or_one_per_layer(tiny, params, batch):
  assert params['encoder']['relpos_bias']['rel_embedding'].shape == (2, 32)
  assert params['decoder']['relpos_bias']['rel_embedding'].shape == (2, 32)
  own = tiny.model_params(tiny.make_model(text={'relative_positions': 'per_layer'}), batch)
  assert own['encoder']['encoder']['relpos_bias']['rel_embedding'].shape == (2, 2, 32)
  assert own['decoder']['decoder']['relpos_bias']['rel_embedding'].shape == (2, 3, 32)
  assert 'relpos_bias' not in own['encoder'] and 'relpos_bias' not in own['decoder']


def test_what_is_rematerialised_changes_what_is_saved_and_not_the_gradient(tiny):
  saved, gradients = {}, {}
  x = np.random.default_rng(3).normal(size=(2, 5, 16)).astype(np.float32)
  valid = np.ones((2, 5), bool)
  config = dataclasses.replace(tiny.TEXT, encoder_layers=3)
  params = tiny.make_params(encoder_decoder.Encoder(config).init, x, valid)
  for policy in stacks.REMAT_POLICIES:
    module = encoder_decoder.Encoder(dataclasses.replace(config, remat_policy=policy))
    run = lambda p, m=module: m.apply({'params': p}, x, valid)
    pullback = jax.eval_shape(lambda p: jax.vjp(run, p)[1], params)
    saved[policy] = sum(leaf.size for leaf in jax.tree.leaves(pullback))
    gradients[policy] = jax.jit(jax.grad(lambda p: jnp.sum(run(p) ** 3)))(params)
  assert saved['full'] < saved['names'] < saved['dots'] < saved['none']
  # Its MLPs are gated.
  assert saved['names_mlp'] == saved['names']
  for policy in ('full', 'dots', 'names'):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        gradients[policy], gradients['none'])


@pytest.mark.parametrize('scan', [True, False])
@pytest.mark.parametrize('policy', stacks.REMAT_POLICIES)
def test_every_remat_policy_gives_gradients_of_the_whole_model(tiny, batch, policy, scan):
  fields = {'remat_policy': policy, 'scan_layers': scan}
  model = tiny.make_model(vit=fields, text=fields)
  params = tiny.model_params(model, batch)
  gradients = jax.eval_shape(jax.grad(lambda p: model.loss_fn(p, batch, None)[0]), params)
  assert jax.tree.map(np.shape, gradients) == jax.tree.map(np.shape, params)


def test_later_targets_do_not_change_earlier_logits(model, params, batch):
  run = jax.jit(lambda tokens: logits_of(model, params, {**batch, 'decoder_input_tokens': tokens}))
  tokens = batch['decoder_input_tokens']
  later = tokens.copy()
  later[:, 3:] = 7
  before, after = run(tokens), run(later)
  np.testing.assert_array_equal(after[:, :3], before[:, :3])
  assert not np.allclose(after[:, 3:], before[:, 3:])


@pytest.mark.parametrize('wrong, message', [
    (dict(activations=('gelu', 'swishy')), 'activations are'),
    (dict(activations=()), 'activations are'),
    (dict(relative_positions='none'), "relative_positions is 'none'"),
    (dict(remat_policy='minimal'), "remat_policy is 'minimal'"),
])
def test_a_config_that_cannot_be_built_is_refused(tiny, wrong, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(tiny.TEXT, **wrong)
