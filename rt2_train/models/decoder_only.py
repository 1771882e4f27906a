"""Decoder-only transformer (PaLM): the language half of PaLM-E.

Pre-norm without biases, rotary positions, multi-query attention, attention and gated MLP side by
side on one norm, one table for input and output embeddings. The decoder takes vectors, so that
image tokens can stand anywhere in the text.

Shape suffixes: B batch, S sequence length, E width, V vocabulary.
"""

from collections.abc import Sequence
import dataclasses
import functools

from flax import linen as nn
import jax

from rt2_train.models import attention
from rt2_train.models import layers
from rt2_train.models import stacks

_NORMS = ('layernorm', 'rmsnorm')
_PREFIX_MASKS = ('causal', 'bidirectional')


@dataclasses.dataclass(frozen=True)
class DecoderOnlyConfig:
  """Dimensions and options of the decoder.

  Attributes:
    kv_heads: heads of keys and values, shared by groups of query heads; 1 is multi-query (PaLM).
    activations: of the MLP; ('silu', 'linear') is PaLM's SwiGLU.
    parallel: attention and MLP read the same norm and are added together (PaLM).
    norm: 'layernorm' or 'rmsnorm', without bias.
    rope_wavelength: longest wavelength of the rotary positions, over 2 pi.
    prefix_mask: what a prompt's tokens see of the prompt: 'causal' (PaLM-E) or 'bidirectional'.
    tied_embeddings: logits come from the token table instead of an own output layer.
    logits_scale: factor on the logits; None is width ** -0.5 when tied (PaLM) and 1 when not.
    scan_layers, remat_policy: see stacks.stack.
  """

  vocab_size: int
  layers: int
  width: int
  heads: int
  head_dim: int
  mlp_dim: int
  kv_heads: int = 1
  activations: Sequence[str] = ('silu', 'linear')
  parallel: bool = True
  norm: str = 'layernorm'
  rope_wavelength: float = 10_000.0
  prefix_mask: str = 'causal'
  tied_embeddings: bool = True
  logits_scale: float | None = None
  dropout_rate: float = 0.0
  dtype: str = 'bfloat16'
  scan_layers: bool = True
  remat_policy: str = 'none'

  def __post_init__(self):
    # JSON and gin give lists; a frozen config is hashable.
    object.__setattr__(self, 'activations', tuple(self.activations))
    layers.check_activations(self.activations)
    for name, choices in (('norm', _NORMS), ('prefix_mask', _PREFIX_MASKS)):
      if getattr(self, name) not in choices:
        raise ValueError(f'{name} is {getattr(self, name)!r}; choose one of {choices}')
    if self.heads % self.kv_heads:
      raise ValueError(f'{self.heads} heads do not divide by kv_heads {self.kv_heads}')
    if self.head_dim % 2:
      raise ValueError(f'head_dim {self.head_dim} is odd; rotary positions turn pairs')
    stacks.check_remat_policy(self.remat_policy)


class Decoder(nn.Module):
  """Vectors [B, S, E], which keys each query sees, and positions -> decoded vectors [B, S, E].

  Attributes:
    cache_length: 0 without caches; else how many tokens they hold. The first call then fills them
      with a prompt, later ones add one token each (see attention.Attention).
  """

  config: DecoderOnlyConfig
  deterministic: bool = True
  cache_length: int = 0

  @nn.compact
  def __call__(
      self, x_BxSxE: jax.Array, mask_Bx1xSxK: jax.Array, position_BxS: jax.Array
  ) -> jax.Array:
    config = self.config
    drop = functools.partial(layers.dropout, config.dropout_rate, self.deterministic)
    fields = {
        'config': config, 'deterministic': self.deterministic, 'cache_length': self.cache_length
    }
    x_BxSxE = stacks.stack(
        self, DecoderLayer, fields, drop()(x_BxSxE.astype(config.dtype)), mask_Bx1xSxK,
        position_BxS, count=config.layers, name='decoder', scan=config.scan_layers,
        remat_policy=config.remat_policy if not self.cache_length else 'none',
    )
    return drop()(layers.Norm(kind=config.norm, dtype=config.dtype, name='decoder_norm')(x_BxSxE))


class DecoderLayer(nn.Module):
  """One pre-norm layer, parallel or sequential."""

  config: DecoderOnlyConfig
  deterministic: bool
  cache_length: int

  @nn.compact
  def __call__(self, x_BxSxE, mask_Bx1xSxK, position_BxS):
    config = self.config
    shared = dict(
        dropout_rate=config.dropout_rate, deterministic=self.deterministic, dtype=config.dtype)
    attend = attention.Attention(
        config.heads, config.head_dim, kv_heads=config.kv_heads, scale=config.head_dim ** -0.5,
        cache='self' if self.cache_length else 'none', cache_length=self.cache_length,
        name='self_attention', **shared,
    )
    mlp = layers.Mlp(config.mlp_dim, config.activations, name='mlp', **shared)
    norm = functools.partial(layers.Norm, kind=config.norm, dtype=config.dtype)
    drop = functools.partial(layers.dropout, config.dropout_rate, self.deterministic)

    x_BxSxE = layers.constrain(x_BxSxE, ('batch', 'length', 'embed'))
    y_BxSxE = norm(name='pre_self_attention_layer_norm')(x_BxSxE)
    frequency_F = attention.frequencies(config.rope_wavelength, config.head_dim)
    attended_BxSxE = attend(y_BxSxE, y_BxSxE, None, mask_Bx1xSxK, position_BxS, frequency_F)
    if config.parallel:
      return x_BxSxE + drop()(attended_BxSxE + mlp(y_BxSxE)), None
    x_BxSxE = x_BxSxE + drop()(attended_BxSxE)
    y_BxSxE = norm(name='pre_mlp_layer_norm')(x_BxSxE)
    return x_BxSxE + drop()(mlp(y_BxSxE)), None


class Logits(nn.Module):
  """Vectors [B, S, E] -> scores of every token, float32 [B, S, V]."""

  config: DecoderOnlyConfig
  token_embedder: layers.Embed

  @nn.compact
  def __call__(self, x_BxSxE: jax.Array) -> jax.Array:
    return layers.logits(self.config, self.token_embedder, x_BxSxE)
