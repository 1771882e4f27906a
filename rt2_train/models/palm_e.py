"""PaLM-E (RT-2, section 3.1): a decoder that reads images as tokens anywhere in its text.

Each image is encoded alone by a ViT; an affine map brings its patch tokens to the decoder's width,
and they take the places of the image's run of `sequences.IMAGE_TOKEN_ID`s. One position counts one
token, image or text (PaLM-E, section 3). The loss is on what follows the prompt.

Shape suffixes: B batch, n images, H height, W width, K tokens per image, S sequence length, P
prompt length, T scored positions, L cache length, E width, V vocabulary.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from rt2_train import sequences
from rt2_train.models import decoder_only
from rt2_train.models import decoding
from rt2_train.models import layers
from rt2_train.models import vit
from rt2_train.models import vlm

# Of places in the caches that nobody may see; no token's position reaches it.
_NEVER = 2**30


class PaLME(vlm.VisionLanguageModel):
  """A ViT and a decoder; `module` is a `Network`."""

  layout = 'decoder_only'

  def __init__(
      self, module: 'Network', *args: Any, targets_length: int | None = None, **kwargs: Any):
    """As `VisionLanguageModel`, and:

    Args:
      module: the network.
      *args: see the base class.
      targets_length: most tokens of an answer; logits are computed for so many positions after
        each row's prompt. The processor's by default; without one, for all positions.
      **kwargs: see the base class.
    """
    super().__init__(module, *args, **kwargs)
    if targets_length is None and self.processor is not None:
      targets_length = self.processor.targets_length
    self._targets_length = targets_length

  @property
  def image_tokens(self):
    return self.module.vit_config.num_tokens

  def network_inputs(self, batch):
    tokens_BxS = batch['decoder_input_tokens']
    return (
        tokens_BxS, batch['decoder_causal_attention'], *vlm.images_of(batch),
        self._scored(batch['decoder_causal_attention']))

  def targets(self, batch):
    scored_BxT = self._scored(batch['decoder_causal_attention'])
    return _take(batch['decoder_target_tokens'], scored_BxT), _take(
        vlm.loss_weights(batch), scored_BxT)

  def start_decoding(self, params, batch, length):
    prefix_BxP, images = batch['decoder_causal_attention'], vlm.images_of(batch)
    tokens_BxP = batch['decoder_input_tokens']
    if self.processor is not None:
      # What lies behind the longest prompt are the batch's targets.
      longest = self.processor.prompt_length + 1
      prefix_BxP, tokens_BxP = prefix_BxP[:, :longest], tokens_BxP[:, :longest]
    module = self.module.clone(cache_length=tokens_BxP.shape[1] + length)
    (logits_BxV, position_B, place_BxL), created = module.apply(
        {'params': params}, tokens_BxP * prefix_BxP, prefix_BxP, *images, method='prefill',
        mutable=['cache'])

    def next_logits(token_B, cache):
      cache, position_B = cache
      logits_BxV, changed = module.apply(
          {'params': params, 'cache': cache}, token_B, position_B, place_BxL, method='extend',
          mutable=['cache'])
      return logits_BxV, (changed['cache'], position_B + 1)

    return decoding.Start(
        next_logits, (created['cache'], position_B), length, logits_BxV=logits_BxV)

  def _scored(self, prefix_BxS: jax.Array) -> jax.Array | None:
    """The positions that predict targets, int32 [B, T]; None for all."""
    if self._targets_length is None:
      return None
    first_B = jnp.sum(prefix_BxS, axis=1) - 1
    last = prefix_BxS.shape[1] - 1
    return jnp.minimum(first_B[:, None] + jnp.arange(self._targets_length), last)


class Network(nn.Module):
  """Images and text in, logits of the text that follows out.

  Attributes:
    projection_bias: bias of the map from the vision tower; PaLM-E's is affine.
    deterministic: False turns dropout on, which needs the rng 'dropout'.
    cache_length: 0 for teacher forcing; in decoding, the lengths of prompt and answer.
  """

  vit_config: vit.ViTConfig
  config: decoder_only.DecoderOnlyConfig
  projection_bias: bool = True
  deterministic: bool = True
  cache_length: int = 0

  @property
  def scan_layers(self) -> bool:
    """Whether layers are stacked; T5X reads it from the module."""
    return self.config.scan_layers

  def setup(self):
    config = self.config
    self.vit = vit.ViT(self.vit_config, self.deterministic)
    self.image_projection = layers.Dense(
        (config.width,), ('vit_embed', 'embed'), use_bias=self.projection_bias, dtype=config.dtype)
    self.token_embedder = layers.Embed(config.vocab_size, config.width, dtype=config.dtype)
    self.decoder = decoder_only.Decoder(config, self.deterministic, self.cache_length)
    self.logits = decoder_only.Logits(config, self.token_embedder)

  def __call__(
      self,
      tokens_BxS: jax.Array,
      prefix_BxS: jax.Array,
      images_BxnxHxWx3: jax.Array,
      image_mask_Bxn: jax.Array,
      scored_BxT: jax.Array | None = None,
  ) -> jax.Array:
    """Returns teacher-forced logits, float32 [B, T, V].

    Args:
      tokens_BxS: int32, prompt and answer shifted right.
      prefix_BxS: 1 where a position belongs to the prompt.
      images_BxnxHxWx3: uint8.
      image_mask_Bxn: 0 hides an image's tokens from every query.
      scored_BxT: int32, the positions that logits are wanted for; all when None.
    """
    x_BxSxE, seen_BxS = self._embed(tokens_BxS, images_BxnxHxWx3, image_mask_Bxn)
    x_BxSxE = self.decoder(
        x_BxSxE, self._mask(prefix_BxS, seen_BxS), jnp.arange(tokens_BxS.shape[1])[None])
    return self.logits(_take(x_BxSxE, scored_BxT))

  def prefill(
      self,
      tokens_BxP: jax.Array,
      prefix_BxP: jax.Array,
      images_BxnxHxWx3: jax.Array,
      image_mask_Bxn: jax.Array,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Reads the prompts into the caches.

    Returns:
      The logits of each row's first answer token [B, V], the position int32 [B] of the token after
      that prompt, and the position that each place of the caches has or will have, int32 [B, L].
    """
    x_BxPxE, seen_BxP = self._embed(tokens_BxP, images_BxnxHxWx3, image_mask_Bxn)
    length = tokens_BxP.shape[1]
    x_BxPxE = self.decoder(
        x_BxPxE, self._mask(prefix_BxP, seen_BxP), jnp.arange(length)[None])
    position_B = jnp.sum(prefix_BxP, axis=1)
    logits_Bx1xV = self.logits(_take(x_BxPxE, position_B[:, None] - 1))
    # Answers follow the longest prompt in the caches; shorter ones leave a gap that nobody sees.
    place_BxP = jnp.where(seen_BxP & (prefix_BxP > 0), jnp.arange(length), _NEVER)
    place_BxT = position_B[:, None] + jnp.arange(self.cache_length - length)
    return logits_Bx1xV[:, 0], position_B, jnp.concatenate([place_BxP, place_BxT], axis=1)

  def extend(
      self, token_B: jax.Array, position_B: jax.Array, place_BxL: jax.Array
  ) -> jax.Array:
    """The logits [B, V] that follow one more token of each row."""
    x_Bx1xE = self.token_embedder(token_B[:, None])
    x_Bx1xE = self.decoder(
        x_Bx1xE, self._answer_mask(position_B, place_BxL), position_B[:, None])
    return self.logits(x_Bx1xE)[:, 0]

  def _embed(self, tokens_BxS, images_BxnxHxWx3, image_mask_Bxn):
    """Vectors [B, S, E], those of images in their places, and what may be seen, bool [B, S]."""
    b, n, *shape = images_BxnxHxWx3.shape
    patches_BnxKxE = self.image_projection(self.vit(images_BxnxHxWx3.reshape(b * n, *shape)))
    k = patches_BnxKxE.shape[1]
    is_image_BxS = tokens_BxS == sequences.IMAGE_TOKEN_ID
    # The i-th image token of a row stands for the i-th patch of its images.
    patch_BxS = jnp.clip(jnp.cumsum(is_image_BxS, axis=1) - 1, 0, n * k - 1)
    x_BxSxE = jnp.where(
        is_image_BxS[..., None], _take(patches_BnxKxE.reshape(b, n * k, -1), patch_BxS),
        self.token_embedder(jnp.where(is_image_BxS, 0, tokens_BxS)))
    is_real_BxS = _take(image_mask_Bxn > 0, patch_BxS // k)
    return x_BxSxE, is_real_BxS | ~is_image_BxS

  def _mask(self, prefix_BxS, seen_BxS):
    causal_SxS = jnp.tril(jnp.ones((seen_BxS.shape[1],) * 2, bool))
    sees_Bx1xSxS = causal_SxS[None, None]
    if self.config.prefix_mask == 'bidirectional':
      # Queries behind the prompt see it all in any case.
      sees_Bx1xSxS = sees_Bx1xSxS | (prefix_BxS > 0)[:, None, None]
    return sees_Bx1xSxS & seen_BxS[:, None, None]

  def _answer_mask(self, position_B, place_BxL):
    return (place_BxL <= position_B[:, None])[:, None, None]


def _take(x_BxSx: jax.Array, index_BxT: jax.Array | None) -> jax.Array:
  """The entries of each row at its positions; all of them when None."""
  if index_BxT is None:
    return x_BxSx
  index = index_BxT.reshape(index_BxT.shape + (1,) * (x_BxSx.ndim - 2))
  return jnp.take_along_axis(x_BxSx, index, axis=1)
