"""A PaLI-X of a few thousand parameters and a batch for it."""

import dataclasses
import types

import flax
import jax
import numpy as np
import pytest

from rt2_train import grammar
from rt2_train.models import encoder_decoder
from rt2_train.models import pali_x
from rt2_train.models import vit

VOCAB, EOS, PAD = 40, 1, 0
VIT = vit.ViTConfig(
    width=8, depth=1, heads=2, mlp_dim=12, patch_size=4, image_height=8, image_width=12,
    dtype='float32')
TEXT = encoder_decoder.EncoderDecoderConfig(
    vocab_size=VOCAB, encoder_layers=2, decoder_layers=3, width=16, heads=2, head_dim=6,
    mlp_dim=24, dtype='float32')


def make_model(vit=None, text=None, **settings) -> pali_x.PaLIX:
  """The tiny model with some fields of its configs changed."""
  return pali_x.PaLIX(
      pali_x.Network(
          dataclasses.replace(VIT, **(vit or {})), dataclasses.replace(TEXT, **(text or {}))),
      **settings)


def make_batch(rows=3, seed=0) -> dict[str, np.ndarray]:
  """Rows of unequal length with two images each; the second of row 1 is padding."""
  rng = np.random.default_rng(seed)
  targets = rng.integers(2, VOCAB, (rows, 6)).astype(np.int32)
  inputs = rng.integers(2, VOCAB, (rows, 5)).astype(np.int32)
  for row in range(rows):
    targets[row, 6 - row % 3:] = PAD
    inputs[row, 5 - row % 2:] = PAD
  image_mask = np.ones((rows, 2), np.int32)
  image_mask[1, 1] = 0
  return {
      'encoder_input_tokens': inputs,
      'decoder_input_tokens': np.pad(targets[:, :-1], ((0, 0), (1, 0))),
      'decoder_target_tokens': targets,
      'decoder_loss_weights': (targets != PAD).astype(np.int32),
      'images': rng.integers(0, 256, (rows, 2, 8, 12, 3)).astype(np.uint8),
      'image_mask': image_mask,
  }


def make_params(init, *args, seed=0):
  """Random float32 parameters of the shapes that `init(key, *args)` gives.

  Every parameter is random, so that ones and zeros hide no error, and nothing is compiled.
  """
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    values = 0.3 * rng.standard_normal(leaf.shape)
    return np.asarray(values + (jax.tree_util.keystr(path[-1:]) == "['scale']"), np.float32)

  shapes = flax.core.unfreeze(jax.eval_shape(init, jax.random.key(0), *args))['params']
  return jax.tree_util.tree_map_with_path(draw, shapes)


def model_params(model, batch):
  """Random parameters of a model."""
  shapes = {key: value.shape for key, value in batch.items()}
  return make_params(lambda key: model.get_initial_variables(key, shapes))


def unstack(params):
  """Parameters of a scanned model in the layout of an unscanned one."""
  params = dict(params)
  for tower, stacked in (('vit', 'vit'), ('encoder', 'encoder'), ('decoder', 'decoder')):
    own = dict(params[tower])
    layers = own.pop(stacked)
    count = jax.tree.leaves(layers)[0].shape[1]
    for i in range(count):
      own[f'layers_{i}'] = jax.tree.map(lambda x, i=i: x[:, i], layers)
    params[tower] = own
  return params


def make_processor(grammars, vocab_size=VOCAB, height=8):
  """What PaLIX reads of a processor, with the given grammars by name."""
  return types.SimpleNamespace(
      vocabulary=types.SimpleNamespace(vocab_size=vocab_size, eos_id=EOS), targets_length=6,
      layout='encoder_decoder', image_tokens=0,
      image_spec=types.SimpleNamespace(height=height, width=12),
      grammar=lambda: grammar.union(grammars))


@pytest.fixture(scope='session')
def tiny():
  """The functions and constants above."""
  return types.SimpleNamespace(**{k: v for k, v in globals().items() if not k.startswith('_')})


@pytest.fixture(scope='session')
def batch():
  return make_batch()


@pytest.fixture(scope='session')
def model():
  return make_model()


@pytest.fixture(scope='session')
def params(model, batch):
  return model_params(model, batch)
