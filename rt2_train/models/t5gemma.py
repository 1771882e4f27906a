"""T5Gemma 2: PaLI-X's layout with Gemma 3 for both towers; the open stand-in for PaLI-X.

The encoder reads <bos>, each image between tokens that frame it, then the text, all of which see
one another. Squares of patch tokens are averaged into one image token. Each layer of the decoder
attends once, over what it has written and what the encoder read, with the same keys and values.

Source: T5Gemma 2 (Zhang et al. 2025).

Shape suffixes: B batch, n images, H height, W width, P patches per image, K tokens per image, L
text length, S encoder length, T decoder length, E width, V vocabulary.
"""

from collections.abc import Sequence
import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from rt2_train.models import decoding
from rt2_train.models import gemma
from rt2_train.models import layers
from rt2_train.models import vit
from rt2_train.models import vlm

_PAD = 0


@dataclasses.dataclass(frozen=True)
class T5GemmaConfig(gemma.GemmaConfig):
  """Dimensions and options of each tower, and how images enter the encoder.

  Attributes:
    layers: of the encoder, and of the decoder.
    bos_id: id that both towers read first.
    image_before, image_after: ids around each image's tokens.
    end_of_image_id: id whose vector is a parameter of its own, unscaled.
    image_pool: side of the squares of patches that are averaged into one token.
  """

  bos_id: int = 2
  image_before: Sequence[int] = (108, 255_999)
  image_after: Sequence[int] = (256_000, 108)
  end_of_image_id: int = 256_000
  image_pool: int = 4

  def __post_init__(self):
    super().__post_init__()
    # JSON and gin give lists; a frozen config is hashable.
    object.__setattr__(self, 'image_before', tuple(self.image_before))
    object.__setattr__(self, 'image_after', tuple(self.image_after))
    for id_ in (self.bos_id, self.end_of_image_id, *self.image_before, *self.image_after):
      if not 0 <= id_ < self.vocab_size:
        raise ValueError(
            f'bos_id, end_of_image_id, image_before and image_after name the id {id_}; the model '
            f'has {self.vocab_size}')


class T5Gemma(vlm.VisionLanguageModel):
  """A ViT and T5Gemma 2's two towers; `module` is a `Network`."""

  layout = 'encoder_decoder'

  def network_inputs(self, batch):
    tokens_BxT = batch.get('decoder_input_tokens')
    if tokens_BxT is not None:
      tokens_BxT = jnp.asarray(tokens_BxT).at[:, 0].set(self.module.config.bos_id)
    return batch['encoder_input_tokens'], tokens_BxT, *vlm.images_of(batch)

  def targets(self, batch):
    return batch['decoder_target_tokens'], vlm.loss_weights(batch)

  def start_decoding(self, params, batch, length):
    tokens_BxL, _, *images = self.network_inputs(batch)
    module, variables = self.module.clone(cache_length=length), {'params': params}
    encoded, valid = module.apply(variables, tokens_BxL, *images, method='encode')
    first_B = jnp.full(tokens_BxL.shape[0], self.module.config.bos_id, jnp.int32)
    start = jnp.int32(0)
    _, created = module.apply(
        variables, first_B[:, None], encoded, valid, start, method='decode',
        mutable=['cache', 'cross'])
    # Only the self-attention cache changes from token to token; keys and values of the encoded
    # inputs stay outside the loop's carry.
    variables['cross'] = created['cross']

    def next_logits(token_B, cache):
      cache, position = cache
      logits_Bx1xV, changed = module.apply(
          {**variables, 'cache': cache}, token_B[:, None], encoded, valid, position,
          method='decode', mutable=['cache'])
      return logits_Bx1xV[:, 0], (changed['cache'], position + 1)

    return decoding.Start(next_logits, (created['cache'], start), length, token_B=first_B)


class Network(nn.Module):
  """Images and text in, logits of the target text out.

  Attributes:
    projection_bias: bias of the projection from the vision tower; T5Gemma 2's has none.
    deterministic: False turns dropout on, which needs the rng 'dropout'.
    cache_length: 0 for teacher forcing; the target length in decoding (attention.Attention).
  """

  vit_config: vit.ViTConfig
  config: T5GemmaConfig
  projection_bias: bool = False
  deterministic: bool = True
  cache_length: int = 0

  @property
  def scan_layers(self) -> bool:
    """Whether layers are stacked; T5X reads it from the module."""
    return self.config.scan_layers

  def setup(self):
    config = self.config
    self.vit = vit.ViT(self.vit_config, self.deterministic)
    self.image_norm = layers.Norm('vit_embed', gemma.NORM, dtype=config.dtype)
    self.image_projection = layers.Dense(
        (config.width,), ('vit_embed', 'embed'), use_bias=self.projection_bias, dtype=config.dtype)
    self.token_embedder = gemma.embedder(config)
    self.end_of_image_embedding = layers.param_with_axes(
        'end_of_image_embedding', nn.initializers.normal(1.0), (config.width,), jnp.float32,
        axes=('embed',), module=self)
    self.encoder = gemma.Transformer(config, self.deterministic)
    self.decoder = gemma.Transformer(config, self.deterministic, self.cache_length)

  def __call__(
      self,
      encoder_input_tokens_BxL: jax.Array,
      decoder_input_tokens_BxT: jax.Array,
      images_BxnxHxWx3: jax.Array,
      image_mask_Bxn: jax.Array,
  ) -> jax.Array:
    """Returns teacher-forced logits, float32 [B, T, V]; the decoder's tokens start with <bos>."""
    encoded_BxSxE, valid_BxS = self.encode(
        encoder_input_tokens_BxL, images_BxnxHxWx3, image_mask_Bxn)
    return self.decode(decoder_input_tokens_BxT, encoded_BxSxE, valid_BxS)

  def encode(
      self,
      encoder_input_tokens_BxL: jax.Array,
      images_BxnxHxWx3: jax.Array,
      image_mask_Bxn: jax.Array,
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the encoded sequence [B, S, E] and which of its positions are real, bool [B, S].

    Padding frames (image_mask 0) and padding text are masked in every attention and take no
    position: a text without images is read as if the model knew none.
    """
    b, n, *shape = images_BxnxHxWx3.shape
    config = self.config
    image_BnxKxE = self._image_tokens(images_BxnxHxWx3.reshape(b * n, *shape))
    frame = lambda ids: jnp.broadcast_to(
        self._embed(jnp.array([ids], jnp.int32)), (b * n, len(ids), config.width))
    framed_BnxKxE = jnp.concatenate(
        [frame(config.image_before), image_BnxKxE, frame(config.image_after)], axis=1)
    framed = framed_BnxKxE.shape[1]
    bos_Bx1 = jnp.full((b, 1), config.bos_id, jnp.int32)
    x_BxSxE = jnp.concatenate([
        self._embed(bos_Bx1), framed_BnxKxE.reshape(b, n * framed, -1),
        self._embed(encoder_input_tokens_BxL)
    ], axis=1)
    valid_BxS = jnp.concatenate([
        jnp.ones((b, 1), bool), jnp.repeat(image_mask_Bxn > 0, framed, axis=1),
        encoder_input_tokens_BxL != _PAD
    ], axis=1)
    position_BxS = jnp.cumsum(valid_BxS, axis=1) - 1
    valid_Bx1x1xS = valid_BxS[:, None, None]
    back = ahead = config.window
    if config.window is not None:
      back, ahead = (config.window + 1) // 2, config.window // 2 + 1
    masks = gemma.Masks(
        valid_Bx1x1xS, valid_Bx1x1xS & gemma.within(position_BxS, position_BxS, back, ahead))
    return self.encoder(x_BxSxE, masks, position_BxS), valid_BxS

  def decode(
      self,
      decoder_input_tokens_BxT: jax.Array,
      encoded_BxSxE: jax.Array,
      valid_BxS: jax.Array,
      start: jax.Array | int = 0,
  ) -> jax.Array:
    """Returns logits, float32 [B, T, V]; with a cache T is 1, and `start` the token's position."""
    length = decoder_input_tokens_BxT.shape[1]
    position_1xT = start + jnp.arange(length)[None]
    place_1xK = jnp.arange(self.cache_length or length)[None]
    causal_1x1xTxK = gemma.within(position_1xT, place_1xK, None, ahead=1)
    near_1x1xTxK = gemma.within(position_1xT, place_1xK, self.config.window)
    x_BxTxE = self.decoder(
        self._embed(decoder_input_tokens_BxT),
        gemma.Masks(causal_1x1xTxK, causal_1x1xTxK & near_1x1xTxK), position_1xT, encoded_BxSxE,
        valid_BxS[:, None, None])
    return gemma.logits(self.config, self.token_embedder, x_BxTxE)

  def _image_tokens(self, images_NxHxWx3):
    patches_NxPxE, side = self.vit(images_NxHxWx3), self.config.image_pool
    rows, columns = self.vit_config.grid
    if rows % side or columns % side:
      raise ValueError(
          f'{rows}x{columns} patches do not divide into squares of image_pool {side}; change '
          'image_height and image_width, or image_pool')
    squares = patches_NxPxE.reshape(-1, rows // side, side, columns // side, side,
                                    patches_NxPxE.shape[-1])
    pooled_NxKxE = jnp.mean(squares, axis=(2, 4)).reshape(
        patches_NxPxE.shape[0], -1, patches_NxPxE.shape[-1])
    return self.image_projection(self.image_norm(pooled_NxKxE))

  def _embed(self, tokens_BxL):
    is_end_BxLx1 = (tokens_BxL == self.config.end_of_image_id)[..., None]
    end_E = self.end_of_image_embedding.astype(self.config.dtype)
    return jnp.where(is_end_BxLx1, end_E, self.token_embedder(tokens_BxL))
