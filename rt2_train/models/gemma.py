"""Gemma's transformer, versions 1 to 3: the language half of PaliGemma, both halves of T5Gemma 2.

Grouped-query attention with rotary positions, gated MLP, RMSNorm with a scale of 1 + the parameter,
one token table for input and output whose rows are scaled by the root of the width. Version 2 adds
norms behind each block, softly capped scores, and layers that only see a window; version 3 norms
queries and keys instead of capping, and gives windowed layers shorter wavelengths.

Shape suffixes: B batch, Q queries, K keys, S sequence length, M memory length, E width, V
vocabulary, N layers, F rotary frequencies.
"""

import dataclasses
import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rt2_train.models import attention
from rt2_train.models import layers
from rt2_train.models import stacks

NORM = 'zero_centered_rmsnorm'


@dataclasses.dataclass(frozen=True)
class GemmaConfig:
  """Dimensions and options of one stack of layers.

  Attributes:
    kv_heads: heads of keys and values, shared by groups of query heads.
    attention_scale: factor on the scores; None is head_dim ** -0.5.
    qk_norm: norms on queries and keys per head (version 3).
    post_norms: norms behind attention and MLP (versions 2 and 3).
    attention_softcap, logits_softcap: bounds of scores and logits (version 2), or None.
    window: positions that a local layer sees, itself included; None makes all layers global.
    global_every: every so manieth layer is global, the others are local.
    local_wavelength, global_wavelength: longest rotary wavelengths, over 2 pi.
    global_position_scale: factor on the positions of global layers (linear "rope scaling").
    scan_layers, remat_policy: see stacks.stack.
  """

  vocab_size: int
  layers: int
  width: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp_dim: int
  attention_scale: float | None = None
  qk_norm: bool = False
  post_norms: bool = False
  attention_softcap: float | None = None
  logits_softcap: float | None = None
  window: int | None = None
  global_every: int = 1
  local_wavelength: float = 10_000.0
  global_wavelength: float = 10_000.0
  global_position_scale: float = 1.0
  dropout_rate: float = 0.0
  dtype: str = 'bfloat16'
  scan_layers: bool = True
  remat_policy: str = 'none'

  def __post_init__(self):
    if self.heads % self.kv_heads:
      raise ValueError(f'{self.heads} heads do not divide by kv_heads {self.kv_heads}')
    if self.head_dim % 2:
      raise ValueError(f'head_dim {self.head_dim} is odd; rotary positions turn pairs')
    if self.global_every < 1:
      raise ValueError(f'global_every is {self.global_every}; give 1 or more')
    if self.window is not None and self.window < 1:
      raise ValueError(f'window is {self.window}; give 1 or more, or None for none')
    stacks.check_remat_policy(self.remat_policy)

  @property
  def score_scale(self) -> float:
    """The factor on the scores."""
    return self.head_dim ** -0.5 if self.attention_scale is None else self.attention_scale

  @property
  def global_layers(self) -> list[int]:
    """Which layers are global; the others are local."""
    every = 1 if self.window is None else self.global_every
    return list(range(every - 1, self.layers, every))


class Masks(NamedTuple):
  """Which keys each query sees, bool [B, 1, Q, K] each; may broadcast."""

  global_Bx1xQxK: jax.Array
  local_Bx1xQxK: jax.Array


class Transformer(nn.Module):
  """Vectors [B, S, E], what each sees, and positions -> vectors [B, S, E].

  Attributes:
    cache_length: 0 without caches; else how many tokens they hold (see attention.Attention).
  """

  config: GemmaConfig
  deterministic: bool = True
  cache_length: int = 0

  @nn.compact
  def __call__(
      self,
      x_BxSxE: jax.Array,
      masks: Masks,
      position_BxS: jax.Array,
      memory_BxMxE: jax.Array | None = None,
      memory_mask_Bx1x1xM: jax.Array | None = None,
  ) -> jax.Array:
    config = self.config
    drop = functools.partial(layers.dropout, config.dropout_rate, self.deterministic)
    is_local_N = ~np.isin(np.arange(config.layers), config.global_layers)
    fields = {
        'config': config, 'deterministic': self.deterministic, 'cache_length': self.cache_length
    }
    x_BxSxE = stacks.stack(
        self, Layer, fields, drop()(x_BxSxE.astype(config.dtype)), masks, position_BxS,
        memory_BxMxE, memory_mask_Bx1x1xM, per_layer=[is_local_N], count=config.layers,
        name=self.name, scan=config.scan_layers,
        remat_policy=config.remat_policy if not self.cache_length else 'none',
    )
    return drop()(layers.Norm(kind=NORM, dtype=config.dtype, name=f'{self.name}_norm')(x_BxSxE))


class Layer(nn.Module):
  """Attention and MLP, each on a residual branch that is normed before and perhaps behind."""

  config: GemmaConfig
  deterministic: bool
  cache_length: int

  @nn.compact
  def __call__(self, x_BxSxE, masks, position_BxS, memory_BxMxE, memory_mask_Bx1x1xM, is_local):
    config = self.config
    shared = dict(
        dropout_rate=config.dropout_rate, deterministic=self.deterministic, dtype=config.dtype)
    attend = attention.Attention(
        config.heads, config.head_dim, kv_heads=config.kv_heads,
        scale=config.score_scale, softcap=config.attention_softcap,
        qk_norm=NORM if config.qk_norm else None,
        cache='self' if self.cache_length else 'none', cache_length=self.cache_length,
        name='self_attention', **shared,
    )
    mlp = layers.Mlp(config.mlp_dim, ('gelu', 'linear'), name='mlp', **shared)
    norm = functools.partial(layers.Norm, kind=NORM, dtype=config.dtype)
    drop = functools.partial(layers.dropout, config.dropout_rate, self.deterministic)
    frequencies = functools.partial(attention.frequencies, head_dim=config.head_dim)
    frequency_F = jnp.where(
        is_local, frequencies(config.local_wavelength),
        frequencies(config.global_wavelength) * np.float32(config.global_position_scale))
    mask_Bx1xSxK = jnp.where(is_local, masks.local_Bx1xQxK, masks.global_Bx1xQxK)

    x_BxSxE = layers.constrain(x_BxSxE, ('batch', 'length', 'embed'))
    y_BxSxE = norm(name='pre_self_attention_layer_norm')(x_BxSxE)
    y_BxSxE = attend(
        y_BxSxE, y_BxSxE, None, mask_Bx1xSxK, position_BxS, frequency_F, memory_BxMxE,
        memory_mask_Bx1x1xM)
    if config.post_norms:
      y_BxSxE = norm(name='post_self_attention_layer_norm')(y_BxSxE)
    x_BxSxE = x_BxSxE + drop()(y_BxSxE)
    y_BxSxE = mlp(norm(name='pre_mlp_layer_norm')(x_BxSxE))
    if config.post_norms:
      y_BxSxE = norm(name='post_mlp_layer_norm')(y_BxSxE)
    return x_BxSxE + drop()(y_BxSxE), None


def within(
    position_BxQ: jax.Array, place_BxK: jax.Array, back: int | None, ahead: int | None = None
) -> jax.Array:
  """Keys at places less than `back` behind and `ahead` before each query's, bool [B, 1, Q, K].

  None is no limit.
  """
  distance_Bx1xQxK = (position_BxQ[..., None] - place_BxK[:, None])[:, None]
  is_within_Bx1xQxK = jnp.ones_like(distance_Bx1xQxK, bool)
  if back is not None:
    is_within_Bx1xQxK &= distance_Bx1xQxK < back
  if ahead is not None:
    is_within_Bx1xQxK &= -distance_Bx1xQxK < ahead
  return is_within_Bx1xQxK


def embedder(config: GemmaConfig) -> layers.Embed:
  """The token table."""
  return layers.Embed(
      config.vocab_size, config.width, scale=config.width ** 0.5, dtype=config.dtype)


def logits(config: GemmaConfig, token_embedder: layers.Embed, x_BxSxE: jax.Array) -> jax.Array:
  """Scores of every token, float32 [B, S, V]."""
  logits_BxSxV = layers.softcap(token_embedder.logits(x_BxSxE), config.logits_softcap)
  return layers.constrain(logits_BxSxV, ('batch', 'length', 'vocab'))
