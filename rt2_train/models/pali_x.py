"""PaLI-X (RT-2, section 3.1): ViT, linear projection, encoder over image tokens then text, decoder.

Each image is encoded alone; its patch tokens are projected to the encoder's width and laid, image
by image, before the text embeddings. The concatenation is one sequence for relative positions.

Shape suffixes: B batch, n images, H height, W width, L text length, K tokens per image, S encoder
length (n x K + L), T decoder length, E width, V vocabulary.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from rt2_train.models import decoding
from rt2_train.models import encoder_decoder
from rt2_train.models import layers
from rt2_train.models import vit
from rt2_train.models import vlm

_PAD = 0


class PaLIX(vlm.VisionLanguageModel):
  """A ViT and an encoder-decoder; `module` is a `Network`."""

  layout = 'encoder_decoder'

  def network_inputs(self, batch):
    return (
        batch['encoder_input_tokens'], batch.get('decoder_input_tokens'), *vlm.images_of(batch))

  def targets(self, batch):
    return batch['decoder_target_tokens'], vlm.loss_weights(batch)

  def start_decoding(self, params, batch, length):
    tokens_BxL, _, *images = self.network_inputs(batch)
    module, variables = self.module.clone(cache_length=length), {'params': params}
    encoded, valid = module.apply(variables, tokens_BxL, *images, method='encode')
    first_B = jnp.full(tokens_BxL.shape[0], _PAD, jnp.int32)
    _, created = module.apply(
        variables, first_B[:, None], encoded, valid, method='decode', mutable=['cache', 'cross'])
    # Only the self-attention cache changes from token to token; keys and values of the encoded
    # inputs stay outside the loop's carry.
    variables['cross'] = created['cross']

    def next_logits(token_B, cache):
      logits_Bx1xV, changed = module.apply(
          {**variables, 'cache': cache}, token_B[:, None], encoded, valid, method='decode',
          mutable=['cache'])
      return logits_Bx1xV[:, 0], changed['cache']

    return decoding.Start(next_logits, created['cache'], length, token_B=first_B)


class Network(nn.Module):
  """Images and text in, logits of the target text out.

  Attributes:
    projection_bias: bias of the projection from the vision tower.
    deterministic: False turns dropout on, which needs the rng 'dropout'.
    cache_length: 0 for teacher forcing; the target length in decoding (encoder_decoder.Decoder).
  """

  vit_config: vit.ViTConfig
  config: encoder_decoder.EncoderDecoderConfig
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
    self.encoder = encoder_decoder.Encoder(config, self.deterministic)
    self.decoder = encoder_decoder.Decoder(
        config, self.token_embedder, self.deterministic, self.cache_length)

  def __call__(
      self,
      encoder_input_tokens_BxL: jax.Array,
      decoder_input_tokens_BxT: jax.Array,
      images_BxnxHxWx3: jax.Array,
      image_mask_Bxn: jax.Array,
  ) -> jax.Array:
    """Returns teacher-forced logits, float32 [B, T, V]."""
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

    Tokens of padding frames (image_mask 0) and of padding text are masked in every attention.
    """
    b, n, *shape = images_BxnxHxWx3.shape
    tokens_BnxKxE = self.image_projection(self.vit(images_BxnxHxWx3.reshape(b * n, *shape)))
    k = tokens_BnxKxE.shape[1]
    x_BxSxE = jnp.concatenate([
        tokens_BnxKxE.reshape(b, n * k, -1), self.token_embedder(encoder_input_tokens_BxL)
    ], axis=1)
    valid_BxS = jnp.concatenate([
        jnp.repeat(image_mask_Bxn > 0, k, axis=1), encoder_input_tokens_BxL != _PAD
    ], axis=1)
    return self.encoder(x_BxSxE, valid_BxS), valid_BxS

  def decode(
      self, decoder_input_tokens_BxT: jax.Array, encoded_BxSxE: jax.Array, valid_BxS: jax.Array
  ) -> jax.Array:
    """Returns logits, float32 [B, T, V]; with a cache T is 1."""
    return self.decoder(decoder_input_tokens_BxT, encoded_BxSxE, valid_BxS)
