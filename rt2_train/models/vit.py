"""Vision Transformer: one token per patch of an image, without class token or pooling.

The plain pre-LN ViT (big_vision, SigLIP, ViT-G) by default; ViT-22B by options: parallel block,
QK-norm, RMSNorm, no biases on queries, keys and values.

Shape suffixes: N images, H height, W width, K tokens, P pixels x channels of a patch, E width.
"""

import dataclasses
import functools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rt2_train.models import attention
from rt2_train.models import layers
from rt2_train.models import stacks

_POSITIONS = ('normal', 'sincos2d')
_PIXELS = ('range', 'centered')
_NORMS = ('layernorm', 'rmsnorm')


@dataclasses.dataclass(frozen=True)
class ViTConfig:
  """Dimensions and options of the vision tower.

  Attributes:
    image_height, image_width: pixels; multiples of patch_size.
    parallel: attention and MLP read the same norm and are added together (ViT-22B).
    qk_norm: scale-only norm on queries and keys per head (ViT-22B).
    norm: 'layernorm' with bias, or 'rmsnorm' without ("without bias and centering", ViT-22B).
    qkv_bias: biases of the query, key and value projections.
    pixels: 'range' maps 0..255 to -1..1; 'centered' removes each image's mean colour and
      divides by 64, so that a small model sees what stands out from the background.
    patch_overlap: pixels that a patch reaches over each of its sides into its neighbours.
    stem_dim: width of a hidden layer between pixels and tokens; 0 is the plain linear embedding.
      With overlapping patches it is a convolutional stem (Xiao et al. 2021), without which models
      this side of a million parameters hardly learn to tell objects apart.
    position_init: initial value of the learned positions, 'normal' or 'sincos2d'.
    activation: of the MLP; 'gelu' is its tanh form (big_vision, SigLIP), 'gelu_exact' the first
      ViT's.
    class_token: a learned token stands before the patches inside the tower, as in the first ViT
      (Dosovitskiy et al. 2021); it is no output.
    scan_layers, remat_policy: see stacks.stack.
  """

  width: int
  depth: int
  heads: int
  mlp_dim: int
  patch_size: int
  image_height: int
  image_width: int
  parallel: bool = False
  qk_norm: bool = False
  norm: str = 'layernorm'
  qkv_bias: bool = True
  pixels: str = 'range'
  patch_overlap: int = 0
  stem_dim: int = 0
  position_init: str = 'normal'
  activation: str = 'gelu'
  class_token: bool = False
  dropout_rate: float = 0.0
  dtype: str = 'bfloat16'
  scan_layers: bool = True
  remat_policy: str = 'none'

  def __post_init__(self):
    for name, length in (('height', self.image_height), ('width', self.image_width)):
      if length <= 0 or length % self.patch_size:
        raise ValueError(
            f'image_{name} {length} is no multiple of patch_size {self.patch_size}; '
            'change one of them'
        )
    if self.width % self.heads:
      raise ValueError(f'ViT width {self.width} is not divisible by its {self.heads} heads')
    for name, choices in (
        ('pixels', _PIXELS), ('position_init', _POSITIONS), ('norm', _NORMS)
    ):
      if getattr(self, name) not in choices:
        raise ValueError(f'ViT {name} is {getattr(self, name)!r}; choose one of {choices}')
    if self.position_init == 'sincos2d' and self.width % 4:
      raise ValueError(f'sincos2d positions need a width divisible by 4, got {self.width}')
    layers.check_activations((self.activation,))
    stacks.check_remat_policy(self.remat_policy)

  @property
  def grid(self) -> tuple[int, int]:
    """Patches per column and per row."""
    return self.image_height // self.patch_size, self.image_width // self.patch_size

  @property
  def num_tokens(self) -> int:
    """Tokens per image."""
    return math.prod(self.grid)


class ViT(nn.Module):
  """Images uint8 [N, H, W, 3] -> patch tokens [N, K, E]."""

  config: ViTConfig
  deterministic: bool = True

  @nn.compact
  def __call__(self, images_NxHxWx3: jax.Array) -> jax.Array:
    config = self.config
    expected = (config.image_height, config.image_width, 3)
    if images_NxHxWx3.shape[1:] != expected:
      raise ValueError(
          f'images are {images_NxHxWx3.shape[1:]}, the model takes {expected}; '
          "set the image spec and the model's image_height and image_width alike"
      )
    dense = functools.partial(
        layers.Dense, use_bias=True, kernel_init=nn.initializers.lecun_normal(), dtype=config.dtype)
    x_NxKxP = patches(
        _normalise(images_NxHxWx3, config.pixels), config.patch_size, config.patch_overlap)
    if config.stem_dim:
      x_NxKxP = nn.gelu(dense((config.stem_dim,), ('patch', 'mlp'), name='patch_stem')(x_NxKxP))
    axes = ('mlp' if config.stem_dim else 'patch', 'vit_embed')
    x_NxKxE = dense((config.width,), axes, name='patch_embedding')(x_NxKxP)
    positions_KxE = layers.param_with_axes(
        'pos_embedding', _position_init(config), (config.num_tokens, config.width), jnp.float32,
        axes=('vit_positions', 'vit_embed'),
    )
    x_NxKxE = x_NxKxE + positions_KxE.astype(config.dtype)
    if config.class_token:
      token_E = layers.param_with_axes(
          'class_token', nn.initializers.zeros, (config.width,), jnp.float32, axes=('vit_embed',))
      token_Nx1xE = jnp.broadcast_to(
          token_E.astype(config.dtype), (x_NxKxE.shape[0], 1, config.width))
      x_NxKxE = jnp.concatenate([token_Nx1xE, x_NxKxE], axis=1)
    x_NxKxE = layers.dropout(config.dropout_rate, self.deterministic)(x_NxKxE)
    x_NxKxE = stacks.stack(
        self, ViTLayer, {'config': config, 'deterministic': self.deterministic}, x_NxKxE,
        count=config.depth, name='vit', scan=config.scan_layers, remat_policy=config.remat_policy,
    )
    if config.class_token:
      x_NxKxE = x_NxKxE[:, 1:]
    return _norm(config, 'vit_norm')(x_NxKxE)


class ViTLayer(nn.Module):
  """One pre-norm layer, sequential or parallel."""

  config: ViTConfig
  deterministic: bool

  @nn.compact
  def __call__(self, x_NxKxE: jax.Array) -> tuple[jax.Array, None]:
    config = self.config
    head_dim = config.width // config.heads
    shared = dict(
        embed_axis='vit_embed', kernel_init=nn.initializers.xavier_uniform(),
        dropout_rate=config.dropout_rate, deterministic=self.deterministic, dtype=config.dtype,
    )
    attend = attention.Attention(
        config.heads, head_dim, scale=head_dim ** -0.5,
        qk_norm=config.norm if config.qk_norm else None,
        qkv_bias=config.qkv_bias, out_bias=True, name='attention', **shared,
    )
    mlp = layers.Mlp(config.mlp_dim, (config.activation,), use_bias=True, name='mlp', **shared)
    drop = functools.partial(layers.dropout, config.dropout_rate, self.deterministic)

    x_NxKxE = layers.constrain(x_NxKxE, ('batch', 'length', 'vit_embed'))
    y_NxKxE = _norm(config, 'pre_attention_layer_norm')(x_NxKxE)
    if config.parallel:
      return x_NxKxE + drop()(attend(y_NxKxE, y_NxKxE) + mlp(y_NxKxE)), None
    x_NxKxE = x_NxKxE + drop()(attend(y_NxKxE, y_NxKxE))
    y_NxKxE = _norm(config, 'pre_mlp_layer_norm')(x_NxKxE)
    return x_NxKxE + drop()(mlp(y_NxKxE)), None


def patches(images_NxHxWx3: jax.Array, size: int, overlap: int = 0) -> jax.Array:
  """Cuts images into patches [N, K, P], row by row; the pixels of a patch likewise.

  A patch is size + 2 * overlap pixels high and wide; beyond the border the image's edge repeats.
  """
  n, height, width, channels = images_NxHxWx3.shape
  rows, columns, reach = height // size, width // size, size + 2 * overlap
  if not overlap:
    x = images_NxHxWx3.reshape(n, rows, size, columns, size, channels).swapaxes(2, 3)
    return x.reshape(n, rows * columns, size * size * channels)
  row = np.clip(np.arange(rows)[:, None] * size - overlap + np.arange(reach), 0, height - 1)
  column = np.clip(np.arange(columns)[:, None] * size - overlap + np.arange(reach), 0, width - 1)
  x = images_NxHxWx3[:, row[:, None, :, None], column[None, :, None, :]]
  return x.reshape(n, rows * columns, reach * reach * channels)


def _normalise(images_NxHxWx3: jax.Array, pixels: str) -> jax.Array:
  x = images_NxHxWx3.astype(jnp.float32)
  if pixels == 'range':
    return x / 127.5 - 1.0
  return (x - jnp.mean(x, axis=(1, 2), keepdims=True)) / 64.0


def _norm(config: ViTConfig, name: str) -> layers.Norm:
  return layers.Norm(
      'vit_embed', config.norm, use_bias=config.norm == 'layernorm', dtype=config.dtype, name=name
  )


def _position_init(config: ViTConfig):
  if config.position_init == 'normal':
    return nn.initializers.normal(config.width ** -0.5)
  # Waves along each axis, from a quarter of a cycle per image to one per two patches: on the
  # grids of tiny models most of the usual 1..10000 wavelengths would be constants.
  waves = []
  for length, axis in zip(config.grid, (0, 1)):
    cycles = np.linspace(0.25, max(length / 2, 0.25), config.width // 4)
    angles = 2 * np.pi * np.outer((np.arange(length) + 0.5) / length, cycles)
    wave = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    wave = wave[:, None] if axis == 0 else wave[None]
    waves.append(np.broadcast_to(wave, (*config.grid, config.width // 2)))
  table = np.concatenate(waves, axis=-1).reshape(config.num_tokens, config.width)
  return lambda key, shape, dtype: jnp.asarray(0.7 * table, dtype).reshape(shape)
