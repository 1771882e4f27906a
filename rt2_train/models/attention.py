"""Multi-head attention: T5's relative or rotary positions, QK-norm, shared keys, decoding caches.

Scores and softmax are float32. In decoding, self-attention keeps its keys and values in the
collection `cache` (leaf names and shapes of T5X: `cached_key`, `cached_value` [B, H, D, L] and
`cache_index`), cross-attention keeps those of the encoder output in `cross`, computed once.

Shape suffixes: B batch, Q queries, K keys, M memory length, L cache length, E embed, H heads, G
heads of keys and values, R query heads per such head, D head_dim, F rotary frequencies (D / 2).
"""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import numpy as np

from rt2_train.models import layers

_BUCKETS = 32
_MAX_DISTANCE = 128
# Finite, so that a row whose keys are all masked gives a mean and not NaN.
_MASKED = -1e10


class Attention(nn.Module):
  """Attends from queries [B, Q, E] to keys and values [B, K, E'].

  Attributes:
    heads: number of heads.
    head_dim: width of one head.
    kv_heads: heads of keys and values, each read by an equal group of query heads; None is one
      per query head, 1 is multi-query attention.
    scale: factor on the scores; T5 has none and folds it into the initial query kernel.
    softcap: bound that the scores approach smoothly (Gemma 2, see layers.softcap), or None.
    qk_norm: kind of the scale-only norm on queries and keys per head (ViT-22B, Gemma 3), or None.
    embed_axis: logical name of the outer width.
    qkv_bias, out_bias: biases of the projections.
    cache: 'none', 'self' (the call that creates the cache may fill it with a prompt, later ones
      add one token each) or 'cross' (keys and values of `kv` are computed by the call that
      creates them and then only read).
    cache_length: tokens that the self cache holds.
  """

  heads: int
  head_dim: int
  kv_heads: int | None = None
  scale: float = 1.0
  softcap: float | None = None
  qk_norm: str | None = None
  embed_axis: str = 'embed'
  qkv_bias: bool = False
  out_bias: bool = False
  kernel_init: Callable[..., jax.Array] = layers.fan_in_normal
  query_init: Callable[..., jax.Array] | None = None
  dropout_rate: float = 0.0
  deterministic: bool = True
  cache: str = 'none'
  cache_length: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
      self,
      x_BxQxE: jax.Array,
      kv_BxKxE: jax.Array,
      bias_1xHxQxK: jax.Array | None = None,
      mask_Bx1xQxK: jax.Array | None = None,
      position_BxQ: jax.Array | None = None,
      frequency_F: jax.Array | None = None,
      memory_BxMxE: jax.Array | None = None,
      memory_mask_Bx1xQxM: jax.Array | None = None,
  ) -> jax.Array:
    """Returns [B, Q, E].

    Args:
      x_BxQxE: what asks.
      kv_BxKxE: what is asked.
      bias_1xHxQxK: added to the scores.
      mask_Bx1xQxK: bool, True where a query sees a key; may broadcast. With a self cache that holds
        a prompt, K is the cache's length and the tokens to come are hidden here.
      position_BxQ: int32, of rotary positions.
      frequency_F: of rotary positions (see `frequencies`); None has none.
      memory_BxMxE: what is asked as well, under the same softmax and with the same projections, but
        without positions: T5Gemma 2's merged attention. With a self cache, the keys and values of
        the first call are kept as those of cross-attention are.
      memory_mask_Bx1xQxM: the mask of the memory; may broadcast.
    """
    query, key, value = map(self._projection, ('query', 'key', 'value'))
    query_BxQxHxD = query(x_BxQxE, position_BxQ, frequency_F)
    if self.cache == 'cross':
      key_BxGxDxK, value_BxGxDxK = self._once(key, value, kv_BxKxE)
    else:
      key_BxGxDxK = key(kv_BxKxE, position_BxQ, frequency_F).transpose(0, 2, 3, 1)
      value_BxGxDxK = value(kv_BxKxE).transpose(0, 2, 3, 1)
    if self.cache == 'self':
      key_BxGxDxK, value_BxGxDxK, bias_1xHxQxK, mask_Bx1xQxK = self._append(
          key_BxGxDxK, value_BxGxDxK, bias_1xHxQxK, mask_Bx1xQxK
      )
    if memory_BxMxE is not None:
      mask_Bx1xQxK = _beside(mask_Bx1xQxK, memory_mask_Bx1xQxM)
      key_BxGxDxK, value_BxGxDxK = (
          jnp.concatenate(both, axis=-1) for both in zip(
              (key_BxGxDxK, value_BxGxDxK), self._once(key, value, memory_BxMxE)))

    groups = self.kv_heads or self.heads
    query_BxQxGxRxD = query_BxQxHxD.reshape(*query_BxQxHxD.shape[:2], groups, -1, self.head_dim)
    scores_BxGxRxQxK = jnp.einsum(
        'bqgrd,bgdk->bgrqk', query_BxQxGxRxD, key_BxGxDxK, preferred_element_type=jnp.float32
    )
    b, _, _, q, k = scores_BxGxRxQxK.shape
    scores_BxHxQxK = scores_BxGxRxQxK.reshape(b, self.heads, q, k)
    if self.scale != 1.0:
      scores_BxHxQxK = scores_BxHxQxK * self.scale
    scores_BxHxQxK = layers.softcap(scores_BxHxQxK, self.softcap)
    if bias_1xHxQxK is not None:
      scores_BxHxQxK = scores_BxHxQxK + bias_1xHxQxK
    if mask_Bx1xQxK is not None:
      scores_BxHxQxK = jnp.where(mask_Bx1xQxK, scores_BxHxQxK, _MASKED)
    weights_BxHxQxK = jax.nn.softmax(scores_BxHxQxK).astype(self.dtype)
    weights_BxHxQxK = layers.dropout(self.dropout_rate, self.deterministic)(weights_BxHxQxK)
    y_BxQxGxRxD = jnp.einsum(
        'bgrqk,bgdk->bqgrd', weights_BxHxQxK.reshape(b, groups, -1, q, k), value_BxGxDxK)
    y_BxQxHxD = y_BxQxGxRxD.reshape(b, q, self.heads, self.head_dim)
    y_BxQxHxD = checkpoint_name(y_BxQxHxD, 'attn')
    return layers.Dense(
        x_BxQxE.shape[-1:], ('heads', 'kv', self.embed_axis), in_dims=2, use_bias=self.out_bias,
        kernel_init=self.kernel_init, dtype=self.dtype, name='out',
    )(y_BxQxHxD)

  def _projection(self, name: str) -> Callable[..., jax.Array]:
    """'query', 'key' or 'value': maps [B, L, E] to [B, L, H, D], for any sequence that it reads."""
    kernel_init = self.kernel_init
    if name == 'query' and self.query_init is not None:
      kernel_init = self.query_init
    heads, axis = self.heads, 'heads'
    if name != 'query' and self.kv_heads not in (None, self.heads):
      heads, axis = self.kv_heads, 'kv_heads'
    dense = layers.Dense(
        (heads, self.head_dim), (self.embed_axis, axis, 'kv'), use_bias=self.qkv_bias,
        kernel_init=kernel_init, dtype=self.dtype, name=name,
    )
    norm = None
    if self.qk_norm and name != 'value':
      norm = layers.Norm('kv', self.qk_norm, dtype=self.dtype, name=f'{name}_norm')

    def project(x_BxLxE, position_BxL=None, frequency_F=None):
      y_BxLxHxD = layers.constrain(dense(x_BxLxE), ('batch', 'length', axis, 'kv'))
      y_BxLxHxD = checkpoint_name(y_BxLxHxD, 'qkv')
      if norm is not None:
        y_BxLxHxD = norm(y_BxLxHxD)
      if frequency_F is not None:
        y_BxLxHxD = rotate(y_BxLxHxD, position_BxL, frequency_F)
      return y_BxLxHxD

    return project

  def _once(self, key, value, kv_BxMxE):
    """Keys and values [B, G, D, M]; with a cache, those of the call that created it."""
    if self.has_variable('cross', 'cached_key'):
      return self.get_variable('cross', 'cached_key'), self.get_variable('cross', 'cached_value')
    key_BxGxDxM = key(kv_BxMxE).transpose(0, 2, 3, 1)
    value_BxGxDxM = value(kv_BxMxE).transpose(0, 2, 3, 1)
    if self.cache != 'none':
      self.put_variable('cross', 'cached_key', key_BxGxDxM)
      self.put_variable('cross', 'cached_value', value_BxGxDxM)
    return key_BxGxDxM, value_BxGxDxM

  def _append(self, key_BxGxDxQ, value_BxGxDxQ, bias_1xHxLxL, mask_Bx1xQxL):
    """Writes tokens into the cache; returns what they attend to, with its bias and mask."""
    ready = self.has_variable('cache', 'cached_key')
    shape = key_BxGxDxQ.shape[:3] + (self.cache_length,)
    key = self.variable('cache', 'cached_key', jnp.zeros, shape, key_BxGxDxQ.dtype)
    value = self.variable('cache', 'cached_value', jnp.zeros, shape, value_BxGxDxQ.dtype)
    index = self.variable('cache', 'cache_index', lambda: jnp.zeros((), jnp.int32))
    position, length = index.value, key_BxGxDxQ.shape[-1]
    # The call that creates the cache of an encoder-decoder only asks for its shapes.
    if ready or length > 1:
      write = jax.lax.dynamic_update_slice_in_dim
      key.value = write(key.value, key_BxGxDxQ, position, axis=3)
      value.value = write(value.value, value_BxGxDxQ, position, axis=3)
      index.value = position + length
    if length > 1:
      return key_BxGxDxQ, value_BxGxDxQ, bias_1xHxLxL, mask_Bx1xQxL
    if bias_1xHxLxL is not None:
      bias_1xHxLxL = jax.lax.dynamic_slice_in_dim(bias_1xHxLxL, position, 1, axis=2)
    seen_Bx1x1xL = (jnp.arange(self.cache_length) <= position)[None, None, None]
    if mask_Bx1xQxL is not None:
      seen_Bx1x1xL = seen_Bx1x1xL & mask_Bx1xQxL
    return key.value, value.value, bias_1xHxLxL, seen_Bx1x1xL


def _beside(mask_Bx1xQxK: jax.Array, memory_mask_Bx1xQxM: jax.Array) -> jax.Array:
  """The mask over keys, then memory; each may have an axis of 1 where the other does not."""
  shape = jnp.broadcast_shapes(mask_Bx1xQxK.shape[:3], memory_mask_Bx1xQxM.shape[:3])
  return jnp.concatenate([
      jnp.broadcast_to(mask, (*shape, mask.shape[3]))
      for mask in (mask_Bx1xQxK, memory_mask_Bx1xQxM)
  ], axis=3)


def frequencies(wavelength: float, head_dim: int) -> np.ndarray:
  """Radians per position that each pair of a head turns by, float32 [F]: wavelength ** -(2 i / D).

  The longest wavelength, in positions, is `wavelength` times 2 pi.
  """
  half = head_dim // 2
  return wavelength ** -(np.arange(half, dtype=np.float32) / half)


def rotate(x_BxLxHxD: jax.Array, position_BxL: jax.Array, frequency_F: jax.Array) -> jax.Array:
  """Rotary positions (Su et al. 2021): turns element i of each half with its fellow, in float32."""
  angle_BxLx1xF = position_BxL[..., None, None].astype(jnp.float32) * frequency_F
  cos, sin = jnp.cos(angle_BxLx1xF), jnp.sin(angle_BxLx1xF)
  first, second = jnp.split(x_BxLxHxD.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return turned.astype(x_BxLxHxD.dtype)


class RelativePositions(nn.Module):
  """T5's learned bias per head and bucket of the distance between key and query."""

  heads: int
  bidirectional: bool

  @nn.compact
  def __call__(self, queries: int, keys: int) -> jax.Array:
    """Returns the bias, float32 [1, H, queries, keys]."""
    table_HxR = layers.param_with_axes(
        'rel_embedding', nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform'),
        (self.heads, _BUCKETS), jnp.float32, axes=('heads', 'relpos_buckets'),
    )
    # The bias depends on key - query only. Repeating the `period` biases of one row and cutting
    # the copies at `period - 1` moves each row by one: no gather (or, backwards, scatter) of
    # queries x keys elements.
    period = queries + keys
    distance = np.arange(period)
    distance = np.where(distance < keys, distance, distance - period)
    row_HxP = jnp.take(table_HxR, bucket(distance, self.bidirectional), axis=1)
    rows_HxQxP = jnp.broadcast_to(row_HxP[:, None], (self.heads, queries, period))
    flat = rows_HxQxP.reshape(self.heads, queries * period)[:, :queries * (period - 1)]
    return flat.reshape(1, self.heads, queries, period - 1)[..., :keys]


def bucket(distance: np.ndarray, bidirectional: bool) -> np.ndarray:
  """Bucket 0..31 of key position - query position: exact when near, logarithmic up to 128.

  Source: T5X `RelativePositionBiases`, with its epsilon inside the logarithm.
  """
  buckets = _BUCKETS // 2 if bidirectional else _BUCKETS
  offset = np.where(distance > 0, buckets, 0) if bidirectional else 0
  n = np.abs(distance) if bidirectional else np.maximum(-distance, 0)
  exact = buckets // 2
  steps = np.log(n.astype(np.float32) / exact + np.finfo(np.float32).eps) / np.log(
      _MAX_DISTANCE / exact)
  far = np.minimum(exact + (steps * (buckets - exact)).astype(np.int32), buckets - 1)
  return (offset + np.where(n < exact, n, far)).astype(np.int32)
