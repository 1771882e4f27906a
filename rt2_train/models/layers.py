"""Building blocks shared by both towers: dense projections, norms, embedding, MLP.

Parameters are float32 and carry logical axis names; compute runs in `dtype`. Parameter names and
initial values follow T5X (T5 1.1), so that its checkpoints map one to one.

Shape suffixes: B batch, L length, E embed, F hidden width of the MLP, V vocabulary.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any

from flax import linen as nn
from flax.linen import partitioning
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from rt2_train.models import sharding

param_with_axes = partitioning.param_with_axes
constrain = sharding.constrain

fan_in_normal = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')

ACTIVATIONS = {
    'gelu': functools.partial(jax.nn.gelu, approximate=True),
    'gelu_exact': functools.partial(jax.nn.gelu, approximate=False),
    'silu': jax.nn.silu,
    'relu': jax.nn.relu,
    'linear': lambda x: x,
}


class Dense(nn.Module):
  """Projects the last `in_dims` axes to `features`; the kernel keeps its full rank.

  Attributes:
    features: trailing axes of the result, such as (heads, head_dim).
    kernel_axes: logical names, input axes first.
    in_dims: number of trailing input axes that are contracted.
    use_bias: adds a bias of shape `features`.
    kernel_init: initializer, called on the kernel flattened to (inputs, outputs).
    out_dtype: dtype of the result; `dtype` when None.
  """

  features: Sequence[int]
  kernel_axes: Sequence[str]
  in_dims: int = 1
  use_bias: bool = False
  kernel_init: Callable[..., jax.Array] = fan_in_normal
  dtype: Any = jnp.float32
  out_dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    features = tuple(self.features)
    inputs = x.shape[x.ndim - self.in_dims:]

    def init(key, shape, dtype):
      flat = (math.prod(inputs), math.prod(features))
      return self.kernel_init(key, flat, dtype).reshape(shape)

    kernel = param_with_axes(
        'kernel', init, inputs + features, jnp.float32, axes=tuple(self.kernel_axes)
    )
    kernel = sharding.gather(kernel.astype(self.dtype), self.kernel_axes)
    features_axes = self.kernel_axes[self.in_dims:]
    # Devices that share the features first add up the gradients of all that reads x, to send one.
    x = x if sharding.is_cut(features_axes) else _alone(x)
    # One token axis instead of batch and length: XLA's CPU backend otherwise lays the hidden
    # activations out for the kernel's gradient, which nearly doubles the time of an MLP.
    tokens = x.shape[:x.ndim - self.in_dims]
    contract = tuple(range(1, self.in_dims + 1)), tuple(range(self.in_dims))
    out_dtype = self.out_dtype or self.dtype
    y = jax.lax.dot_general(
        x.astype(self.dtype).reshape(-1, *inputs), kernel, (contract, ((), ())),
        preferred_element_type=out_dtype,
    ).reshape(*tokens, *features)
    y = _alone(y)
    if self.use_bias:
      bias = param_with_axes(
          'bias', nn.initializers.zeros, features, jnp.float32, axes=tuple(features_axes),
      )
      y = y + bias.astype(out_dtype)
    return y


class Norm(nn.Module):
  """RMSNorm (no centring) or LayerNorm over the last axis, in float32 with epsilon 1e-6.

  Attributes:
    axis: logical name of the normalised axis.
    kind: 'rmsnorm', 'layernorm', or 'zero_centered_rmsnorm', whose scale is 1 + the parameter
      (Gemma).
    use_bias: adds a bias after the scale.
  """

  axis: str = 'embed'
  kind: str = 'rmsnorm'
  use_bias: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    features = x.shape[-1:]
    y = x.astype(jnp.float32)
    if self.kind == 'layernorm':
      y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + 1e-6)
    zero_centered = self.kind == 'zero_centered_rmsnorm'
    init = nn.initializers.zeros if zero_centered else nn.initializers.ones
    scale = param_with_axes('scale', init, features, jnp.float32, axes=(self.axis,))
    y = y * (1.0 + scale if zero_centered else scale)
    if self.use_bias:
      y = y + param_with_axes(
          'bias', nn.initializers.zeros, features, jnp.float32, axes=(self.axis,)
      )
    return y.astype(self.dtype)


class Embed(nn.Module):
  """Token table: ids int32 [B, L] -> [B, L, E], and back to logits when tied.

  Attributes:
    scale: factor on the vectors, which start with deviation 1, but not on the way back (Gemma:
      the root of the width, rounded to `dtype`).
  """

  vocab_size: int
  width: int
  scale: float = 1.0
  dtype: Any = jnp.float32

  def setup(self):
    self.embedding = param_with_axes(
        'embedding', nn.initializers.normal(1.0 / self.scale), (self.vocab_size, self.width),
        jnp.float32, axes=('vocab', 'embed'), module=self,
    )

  def __call__(self, ids_BxL: jax.Array) -> jax.Array:
    # Rows are cast after the lookup: a cast of the whole table would read all of it each step.
    x_BxLxE = jnp.take(self.embedding, ids_BxL, axis=0).astype(self.dtype)
    return x_BxLxE if self.scale == 1.0 else x_BxLxE * jnp.asarray(self.scale, self.dtype)

  def logits(self, x_BxLxE: jax.Array) -> jax.Array:
    """Scores of every token, float32 [B, L, V]."""
    contract = (x_BxLxE.ndim - 1,), (1,)
    return jax.lax.dot_general(
        x_BxLxE.astype(self.dtype), self.embedding.astype(self.dtype), (contract, ((), ())),
        preferred_element_type=jnp.float32,
    )


class Mlp(nn.Module):
  """Dense, activation, dropout, dense; several activations are multiplied (gated MLP).

  Attributes:
    mlp_dim: hidden width F.
    activations: names out of ACTIVATIONS, one input projection each: `wi`, or `wi_0`, `wi_1`.
    embed_axis: logical name of the outer width.
  """

  mlp_dim: int
  activations: Sequence[str] = ('gelu', 'linear')
  embed_axis: str = 'embed'
  use_bias: bool = False
  kernel_init: Callable[..., jax.Array] = fan_in_normal
  dropout_rate: float = 0.0
  deterministic: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BxLxE: jax.Array) -> jax.Array:
    dense = functools.partial(
        Dense, use_bias=self.use_bias, kernel_init=self.kernel_init, dtype=self.dtype
    )
    hidden = None
    for i, activation in enumerate(self.activations):
      name = 'wi' if len(self.activations) == 1 else f'wi_{i}'
      y = dense((self.mlp_dim,), (self.embed_axis, 'mlp'), name=name)(x_BxLxE)
      if len(self.activations) == 1:
        y = checkpoint_name(y, 'mlp')
      y = ACTIVATIONS[activation](y)
      hidden = y if hidden is None else hidden * y
    hidden = dropout(self.dropout_rate, self.deterministic)(hidden)
    hidden = constrain(hidden, ('batch', 'length', 'mlp'))
    return dense(x_BxLxE.shape[-1:], ('mlp', self.embed_axis), name='wo')(hidden)


@jax.custom_vjp
def _alone(x: jax.Array) -> jax.Array:
  """`x`, whose gradient a TPU has finished before anything reads it.

  Its compiler otherwise makes sums of gradients and the gradients of norms and activations part of
  the matrix products on both sides, which then take, as it reckons itself, up to half as long again.
  """
  return x


def _alone_backward(_, gradient: jax.Array) -> tuple[jax.Array]:
  finished = jax.lax.platform_dependent(
      gradient, tpu=jax.lax.optimization_barrier, default=lambda gradient: gradient)
  return (finished,)


_alone.defvjp(lambda x: (x, None), _alone_backward)


def logits(config: Any, token_embedder: Embed, x_BxLxE: jax.Array) -> jax.Array:
  """Scores of every token, float32 [B, L, V]; called inside a module's compact method.

  `config` says vocab_size, width, dtype, tied_embeddings (from the token table, or from an own
  layer `logits_dense`) and logits_scale (None is width ** -0.5 when tied and 1 when not).
  """
  if config.tied_embeddings:
    logits_BxLxV = token_embedder.logits(x_BxLxE)
  else:
    logits_BxLxV = Dense(
        (config.vocab_size,), ('embed', 'vocab'), dtype=config.dtype, out_dtype=jnp.float32,
        name='logits_dense')(x_BxLxE)
  scale = config.logits_scale
  if scale is None:
    scale = config.width ** -0.5 if config.tied_embeddings else 1.0
  if scale != 1.0:
    logits_BxLxV = logits_BxLxV * scale
  return constrain(logits_BxLxV, ('batch', 'length', 'vocab'))


def softcap(x: jax.Array, bound: float | None) -> jax.Array:
  """`x` squeezed smoothly between -bound and bound (Gemma 2); as it is when None."""
  return x if bound is None else bound * jnp.tanh(x / bound)


def check_activations(names: Sequence[str]) -> None:
  """Raises ValueError when one of `names` is no activation, or there is none."""
  if not names or any(name not in ACTIVATIONS for name in names):
    raise ValueError(f'activations are {tuple(names)}; choose out of {sorted(ACTIVATIONS)}')


def dropout(rate: float, deterministic: bool) -> nn.Dropout:
  """T5X's dropout: one mask for all positions of a row (broadcast over length)."""
  return nn.Dropout(rate, broadcast_dims=(-2,), deterministic=deterministic)
