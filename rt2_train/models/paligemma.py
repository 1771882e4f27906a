"""PaliGemma 1 and 2: PaLM-E's way with images, Gemma for its decoder; the open stand-in for PaLM-E.

What differs from PaLM-E: prompts see all of themselves, also through the windows of version 2; no
token stands before the prompt, so the one that `sequences` puts there is hidden; a prompt is its
images, <bos>, text and a newline (`processor.Processor`).

Source: PaliGemma (Beyer et al. 2024), PaliGemma 2 (Steiner et al. 2024).

Shape suffixes: as in palm_e.
"""

import jax.numpy as jnp

from rt2_train.models import gemma
from rt2_train.models import layers
from rt2_train.models import palm_e
from rt2_train.models import vit

class PaliGemma(palm_e.PaLME):
  """A ViT and a Gemma; `module` is a `Network`."""


class Network(palm_e.Network):
  """See palm_e.Network; `config` is a gemma.GemmaConfig."""

  config: gemma.GemmaConfig

  def setup(self):
    config = self.config
    self.vit = vit.ViT(self.vit_config, self.deterministic)
    self.image_projection = layers.Dense(
        (config.width,), ('vit_embed', 'embed'), use_bias=self.projection_bias, dtype=config.dtype)
    self.token_embedder = gemma.embedder(config)
    self.decoder = gemma.Transformer(config, self.deterministic, self.cache_length)

  def logits(self, x_BxTxE):
    return gemma.logits(self.config, self.token_embedder, x_BxTxE)

  def _embed(self, tokens_BxS, images_BxnxHxWx3, image_mask_Bxn):
    x_BxSxE, seen_BxS = super()._embed(tokens_BxS, images_BxnxHxWx3, image_mask_Bxn)
    return x_BxSxE, seen_BxS & (jnp.arange(tokens_BxS.shape[1]) > 0)

  def _mask(self, prefix_BxS, seen_BxS):
    position_1xS = jnp.arange(seen_BxS.shape[1])[None]
    causal_1x1xSxS = gemma.within(position_1xS, position_1xS, None, ahead=1)
    near_1x1xSxS = causal_1x1xSxS & gemma.within(position_1xS, position_1xS, self.config.window)
    is_prompt_BxS = prefix_BxS > 0
    both_Bx1xSxS = is_prompt_BxS[:, None, :, None] & is_prompt_BxS[:, None, None]
    seen_Bx1x1xS = seen_BxS[:, None, None]
    return gemma.Masks(
        (causal_1x1xSxS | both_Bx1xSxS) & seen_Bx1x1xS,
        (near_1x1xSxS | both_Bx1xSxS) & seen_Bx1x1xS)

  def _answer_mask(self, position_B, place_BxL):
    position_Bx1 = position_B[:, None]
    sees_Bx1x1xL = gemma.within(position_Bx1, place_BxL, None, ahead=1)
    near_Bx1x1xL = gemma.within(position_Bx1, place_BxL, self.config.window)
    return gemma.Masks(sees_Bx1x1xL, sees_Bx1x1xL & near_Bx1x1xL)
