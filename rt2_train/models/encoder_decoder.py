"""T5-style encoder-decoder (T5 1.1, mT5, umT5, UL2): the language half of PaLI-X.

Pre-norm with RMSNorm, relative positions instead of absolute ones, gated MLP, no biases, no
1/sqrt(head_dim) in attention. The encoder takes vectors, so that image tokens can stand before
text.

Shape suffixes: B batch, S encoder length, T decoder length, E width, V vocabulary.
"""

from collections.abc import Sequence
import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from rt2_train.models import attention
from rt2_train.models import layers
from rt2_train.models import stacks

_RELATIVE_POSITIONS = ('shared', 'per_layer')


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig:
  """Dimensions and options of the encoder-decoder.

  Attributes:
    activations: of the MLP; ('gelu', 'linear') for T5 1.1 and mT5, ('silu', 'linear') for UL2.
    tied_embeddings: logits come from the token table instead of an own output layer.
    logits_scale: factor on the logits; None is width ** -0.5 when tied and 1 when not (T5).
    relative_positions: 'shared' (one table per tower: T5, mT5, UL2) or 'per_layer' (umT5).
    scan_layers, remat_policy: see stacks.stack.
  """

  vocab_size: int
  encoder_layers: int
  decoder_layers: int
  width: int
  heads: int
  head_dim: int
  mlp_dim: int
  activations: Sequence[str] = ('gelu', 'linear')
  tied_embeddings: bool = False
  logits_scale: float | None = None
  relative_positions: str = 'shared'
  dropout_rate: float = 0.0
  dtype: str = 'bfloat16'
  scan_layers: bool = True
  remat_policy: str = 'none'

  def __post_init__(self):
    # JSON and gin give lists; a frozen config is hashable.
    object.__setattr__(self, 'activations', tuple(self.activations))
    layers.check_activations(self.activations)
    if self.relative_positions not in _RELATIVE_POSITIONS:
      raise ValueError(
          f'relative_positions is {self.relative_positions!r}; choose one of {_RELATIVE_POSITIONS}'
      )
    stacks.check_remat_policy(self.remat_policy)


class Encoder(nn.Module):
  """Vectors [B, S, E] and a mask of real positions bool [B, S] -> encoded [B, S, E]."""

  config: EncoderDecoderConfig
  deterministic: bool = True

  @nn.compact
  def __call__(self, x_BxSxE: jax.Array, valid_BxS: jax.Array) -> jax.Array:
    config, length = self.config, x_BxSxE.shape[1]
    bias = None
    if config.relative_positions == 'shared':
      # Outside the scan, so that all layers read one table.
      bias = attention.RelativePositions(config.heads, True, name='relpos_bias')(length, length)
    drop = functools.partial(layers.dropout, config.dropout_rate, self.deterministic)
    x_BxSxE = stacks.stack(
        self, EncoderLayer, {'config': config, 'deterministic': self.deterministic},
        drop()(x_BxSxE.astype(config.dtype)), valid_BxS[:, None, None], bias,
        count=config.encoder_layers, name='encoder', scan=config.scan_layers,
        remat_policy=config.remat_policy,
    )
    return drop()(layers.Norm(dtype=config.dtype, name='encoder_norm')(x_BxSxE))


class EncoderLayer(nn.Module):
  """Self-attention and MLP, each on a normed residual branch."""

  config: EncoderDecoderConfig
  deterministic: bool

  @nn.compact
  def __call__(self, x_BxSxE, mask_Bx1x1xS, bias_1xHxSxS):
    config = self.config
    drop = functools.partial(layers.dropout, config.dropout_rate, self.deterministic)
    if bias_1xHxSxS is None:
      length = x_BxSxE.shape[1]
      bias_1xHxSxS = attention.RelativePositions(config.heads, True, name='relpos_bias')(
          length, length)
    x_BxSxE = layers.constrain(x_BxSxE, ('batch', 'length', 'embed'))
    y_BxSxE = layers.Norm(dtype=config.dtype, name='pre_attention_layer_norm')(x_BxSxE)
    y_BxSxE = _attention(config, self.deterministic, 'attention')(
        y_BxSxE, y_BxSxE, bias_1xHxSxS, mask_Bx1x1xS)
    x_BxSxE = x_BxSxE + drop()(y_BxSxE)
    y_BxSxE = layers.Norm(dtype=config.dtype, name='pre_mlp_layer_norm')(x_BxSxE)
    return x_BxSxE + drop()(_mlp(config, self.deterministic)(y_BxSxE)), None


class Decoder(nn.Module):
  """Tokens int32 [B, T] and the encoded sequence -> logits, float32 [B, T, V].

  Attributes:
    token_embedder: the token table, shared with the encoder.
    cache_length: 0 for a whole sequence under a causal mask; else one token per call against
      caches that hold this many (see attention.Attention).
  """

  config: EncoderDecoderConfig
  token_embedder: layers.Embed
  deterministic: bool = True
  cache_length: int = 0

  @nn.compact
  def __call__(
      self, tokens_BxT: jax.Array, encoded_BxSxE: jax.Array, valid_BxS: jax.Array
  ) -> jax.Array:
    config, length = self.config, self.cache_length or tokens_BxT.shape[1]
    bias = None
    if config.relative_positions == 'shared':
      bias = attention.RelativePositions(config.heads, False, name='relpos_bias')(length, length)
    causal_1x1xTxT = None
    if not self.cache_length:
      causal_1x1xTxT = jnp.tril(jnp.ones((length, length), bool))[None, None]
    drop = functools.partial(layers.dropout, config.dropout_rate, self.deterministic)
    fields = {
        'config': config, 'deterministic': self.deterministic, 'cache_length': self.cache_length
    }
    x_BxTxE = stacks.stack(
        self, DecoderLayer, fields, drop()(self.token_embedder(tokens_BxT)), encoded_BxSxE,
        causal_1x1xTxT, valid_BxS[:, None, None], bias,
        count=config.decoder_layers, name='decoder', scan=config.scan_layers,
        remat_policy=config.remat_policy if not self.cache_length else 'none',
    )
    x_BxTxE = drop()(layers.Norm(dtype=config.dtype, name='decoder_norm')(x_BxTxE))
    return layers.logits(config, self.token_embedder, x_BxTxE)


class DecoderLayer(nn.Module):
  """Causal self-attention, cross-attention and MLP, each on a normed residual branch."""

  config: EncoderDecoderConfig
  deterministic: bool
  cache_length: int

  @nn.compact
  def __call__(self, x_BxTxE, encoded_BxSxE, mask_1x1xTxT, cross_mask_Bx1x1xS, bias_1xHxTxT):
    config = self.config
    drop = functools.partial(layers.dropout, config.dropout_rate, self.deterministic)
    if bias_1xHxTxT is None:
      length = self.cache_length or x_BxTxE.shape[1]
      bias_1xHxTxT = attention.RelativePositions(config.heads, False, name='relpos_bias')(
          length, length)
    attend = functools.partial(
        _attention, config, self.deterministic, cache_length=self.cache_length)
    x_BxTxE = layers.constrain(x_BxTxE, ('batch', 'length', 'embed'))
    y_BxTxE = layers.Norm(dtype=config.dtype, name='pre_self_attention_layer_norm')(x_BxTxE)
    y_BxTxE = attend('self_attention', cache='self')(y_BxTxE, y_BxTxE, bias_1xHxTxT, mask_1x1xTxT)
    x_BxTxE = x_BxTxE + drop()(y_BxTxE)
    y_BxTxE = layers.Norm(dtype=config.dtype, name='pre_cross_attention_layer_norm')(x_BxTxE)
    y_BxTxE = attend('encoder_decoder_attention', cache='cross')(
        y_BxTxE, encoded_BxSxE, None, cross_mask_Bx1x1xS)
    x_BxTxE = x_BxTxE + drop()(y_BxTxE)
    y_BxTxE = layers.Norm(dtype=config.dtype, name='pre_mlp_layer_norm')(x_BxTxE)
    return x_BxTxE + drop()(_mlp(config, self.deterministic)(y_BxTxE)), None


def _attention(
    config: EncoderDecoderConfig, deterministic: bool, name: str, cache: str = 'none',
    cache_length: int = 0,
) -> attention.Attention:
  # T5 starts with queries that already hold the 1/sqrt(head_dim) which its scores lack.
  query_init = nn.initializers.variance_scaling(
      1.0 / config.head_dim, 'fan_in', 'truncated_normal')
  return attention.Attention(
      config.heads, config.head_dim, query_init=query_init, dropout_rate=config.dropout_rate,
      deterministic=deterministic, cache=cache if cache_length else 'none',
      cache_length=cache_length, dtype=config.dtype, name=name,
  )


def _mlp(config: EncoderDecoderConfig, deterministic: bool) -> layers.Mlp:
  return layers.Mlp(
      config.mlp_dim, config.activations, dropout_rate=config.dropout_rate,
      deterministic=deterministic, dtype=config.dtype, name='mlp',
  )
