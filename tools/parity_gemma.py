"""The fixtures of PaliGemma 1 and 2 and of T5Gemma 2, see make_parity_fixtures.

Sequences are longer than the windows; rows have two images, one and none, and unequal lengths.
Decodes are those of `generate`, with its caches.
"""

from collections.abc import Callable
import pathlib
from typing import Any

import numpy as np

from rt2_train import sequences

_SIDE, _PATCH, _TOKENS = 16, 4, 16
_VOCAB, _WIDTH, _HEADS, _HEAD_DIM, _MLP = 96, 24, 4, 8, 32
_WINDOW, _SCALAR = 7, 12
_PAD, _EOS, _BOS = 0, 1, 2
_NEWLINE, _IMAGE_START, _IMAGE_END, _IMAGE = 92, 93, 94, 95
_TARGETS = 12

_VISION = dict(
    model_type='siglip_vision_model', hidden_size=16, intermediate_size=24, num_hidden_layers=2,
    num_attention_heads=2, patch_size=_PATCH, image_size=_SIDE, vision_use_head=False)
_TEXT = dict(
    vocab_size=_VOCAB, hidden_size=_WIDTH, intermediate_size=_MLP, num_attention_heads=_HEADS,
    head_dim=_HEAD_DIM, attn_implementation='eager')

_GIN = f"""
vit.ViTConfig:
  width = 16
  depth = 2
  heads = 2
  mlp_dim = 24
  patch_size = {_PATCH}

IMAGE_SIZE = {_SIDE}
VOCAB_SIZE = 128  # The source has {_VOCAB}.
DTYPE = 'float32'
"""


def cases(loaded: Callable[..., Any]) -> dict[str, Callable[..., dict[str, np.ndarray]]]:
  """Fixture name -> what makes it; `loaded` as in make_parity_fixtures."""
  return {
      'paligemma': lambda directory, rng: _paligemma(1, loaded, directory, rng),
      'paligemma2': lambda directory, rng: _paligemma(2, loaded, directory, rng),
      't5gemma2': lambda directory, rng: _t5gemma2(loaded, directory, rng),
  }


def _paligemma(version: int, loaded, directory: pathlib.Path, rng) -> dict[str, np.ndarray]:
  import torch
  import transformers

  text = dict(_TEXT, model_type='gemma', num_hidden_layers=3, num_key_value_heads=1)
  if version == 2:
    text |= dict(
        model_type='gemma2', num_hidden_layers=4, num_key_value_heads=2, sliding_window=_WINDOW,
        query_pre_attn_scalar=_SCALAR, attn_logit_softcapping=2.0, final_logit_softcapping=3.0)
  config = transformers.PaliGemmaConfig(
      text_config=text, vision_config=_VISION, image_token_index=_IMAGE, projection_dim=_WIDTH,
      hidden_size=_WIDTH, vocab_size=_VOCAB, attn_implementation='eager')
  model = loaded('PaliGemmaForConditionalGeneration', directory / 'model', config, rng)
  (directory / 'model.gin').write_text(_paligemma_gin(version))

  image = [sequences.IMAGE_TOKEN_ID] * _TOKENS
  texts, answers = _texts(rng, (4, 13, 9)), _texts(rng, (_TARGETS - 1, 7, 3))
  images, image_mask = _images(rng)
  inputs = _padded([
      [*image * count, _BOS, *text, _NEWLINE] for count, text in zip(image_mask.sum(1), texts)])
  batch = {
      **sequences.decoder_only(inputs, _padded([[*answer, _EOS] for answer in answers])),
      'images': images, 'image_mask': image_mask,
  }
  # The token that our layout puts first is not there in theirs.
  tokens = np.where(
      batch['decoder_input_tokens'] == sequences.IMAGE_TOKEN_ID, _IMAGE,
      batch['decoder_input_tokens'])[:, 1:].astype(np.int64)
  suffix = 1 - batch['decoder_causal_attention'][:, 1:].astype(np.int64)
  with torch.no_grad():
    logits = model(
        input_ids=torch.tensor(tokens), attention_mask=torch.tensor((tokens != _PAD).astype(int)),
        token_type_ids=torch.tensor(suffix), pixel_values=_pixels(images[image_mask > 0]),
    ).logits.numpy()
  decodes = []
  for row, prompt in enumerate(inputs):
    prompt = torch.tensor(tokens[row:row + 1, :np.count_nonzero(prompt)])
    decodes.append(_generated(
        model, prompt, images[row][image_mask[row] > 0],
        token_type_ids=torch.zeros_like(prompt))[prompt.shape[1]:])
  is_real = np.pad(tokens != _PAD, ((0, 0), (1, 0)))
  logits = np.pad(logits, ((0, 0), (1, 0), (0, 0))) * is_real[..., None]
  return {**batch, 'logits': logits, 'is_real': is_real, 'decodes': _padded(decodes)}


def _t5gemma2(loaded, directory: pathlib.Path, rng) -> dict[str, np.ndarray]:
  import torch
  import transformers

  text = dict(
      _TEXT, num_hidden_layers=4, num_key_value_heads=2, sliding_window=_WINDOW,
      query_pre_attn_scalar=_SCALAR, layer_types=2 * ['sliding_attention', 'full_attention'],
      rope_parameters={
          'full_attention': {'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 1e6},
          'sliding_attention': {'rope_type': 'default', 'rope_theta': 1e4}})
  encoder = dict(
      text_config=text, vision_config=_VISION, mm_tokens_per_image=4, boi_token_index=_IMAGE_START,
      eoi_token_index=_IMAGE_END, image_token_index=_IMAGE)
  config = transformers.T5Gemma2Config(
      encoder=encoder, decoder=dict(text), image_token_index=_IMAGE, attn_implementation='eager')
  model = loaded('T5Gemma2ForConditionalGeneration', directory / 'model', config, rng)
  (directory / 'model.gin').write_text(_T5GEMMA2_GIN)

  texts, targets = _texts(rng, (4, 13, 9)), _padded(_texts(rng, (_TARGETS, 7, 3)))
  images, image_mask = _images(rng)
  batch = {
      **sequences.encoder_decoder(_padded(texts), targets),
      'images': images, 'image_mask': image_mask,
  }
  logits, decodes = np.zeros((*targets.shape, _VOCAB), np.float32), []
  framed = [_NEWLINE, _IMAGE_START, *[_IMAGE] * 4, _IMAGE_END, _NEWLINE]
  for row, (text, count) in enumerate(zip(texts, image_mask.sum(1))):
    # Padding behind the text, as a batch of theirs has it.
    tokens = torch.tensor([[_BOS, *framed * count, *text, _PAD, _PAD]])
    seen, there = images[row][image_mask[row] > 0], np.count_nonzero(targets[row])
    with torch.no_grad():
      logits[row, :there] = model(
          input_ids=tokens, attention_mask=(tokens != _PAD).long(),
          pixel_values=_pixels(seen) if count else None,
          decoder_input_ids=torch.tensor([[_BOS, *targets[row, :there - 1].tolist()]]),
      ).logits[0].numpy()
    decodes.append(_generated(model, tokens, seen, decoder_start_token_id=_BOS)[1:])
  return {**batch, 'logits': logits, 'is_real': targets != _PAD, 'decodes': _padded(decodes)}


def _generated(model, tokens, images, **inputs) -> np.ndarray:
  if len(images):
    inputs['pixel_values'] = _pixels(images)
  return model.generate(
      input_ids=tokens, attention_mask=(tokens != _PAD).long(), do_sample=False,
      max_new_tokens=_TARGETS, eos_token_id=_EOS, pad_token_id=_PAD, **inputs)[0].numpy()


def _texts(rng, lengths) -> list[list[int]]:
  return [rng.integers(3, _NEWLINE, length).tolist() for length in lengths]


def _images(rng) -> tuple[np.ndarray, np.ndarray]:
  images = rng.integers(0, 256, (3, 2, _SIDE, _SIDE, 3)).astype(np.uint8)
  return images, np.array([[1, 1], [1, 0], [0, 0]], np.int32)


def _padded(rows) -> np.ndarray:
  padded = np.full((len(rows), max(map(len, rows))), _PAD, np.int32)
  for row, tokens in enumerate(rows):
    padded[row, :len(tokens)] = tokens
  return padded


def _pixels(images_NxHxWx3: np.ndarray) -> Any:
  import torch

  return torch.tensor(images_NxHxWx3.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)


def _paligemma_gin(version: int) -> str:
  own = """
  layers = 3
  kv_heads = 1"""
  if version == 2:
    own = f"""
  layers = 4
  kv_heads = 2
  window = {_WINDOW}
  attention_scale = {_SCALAR ** -0.5!r}
  attention_softcap = 2.0
  logits_softcap = 3.0"""
  return f"""# Made by tools.make_parity_fixtures.
from __gin__ import dynamic_registration

from rt2_train.models import gemma
from rt2_train.models import vit

include 'gin/models/{'paligemma' if version == 1 else 'paligemma2'}.gin'

gemma.GemmaConfig:
  width = {_WIDTH}
  heads = {_HEADS}
  head_dim = {_HEAD_DIM}
  mlp_dim = {_MLP}{own}
{_GIN}IMAGE_TOKENS = {_TOKENS}
"""


_T5GEMMA2_GIN = f"""# Made by tools.make_parity_fixtures.
from __gin__ import dynamic_registration

from rt2_train.models import t5gemma
from rt2_train.models import vit

include 'gin/models/t5gemma2.gin'

t5gemma.T5GemmaConfig:
  layers = 4
  width = {_WIDTH}
  heads = {_HEADS}
  kv_heads = 2
  head_dim = {_HEAD_DIM}
  mlp_dim = {_MLP}
  window = {_WINDOW}
  global_every = 2
  attention_scale = {_SCALAR ** -0.5!r}
  image_before = ({_NEWLINE}, {_IMAGE_START})
  image_after = ({_IMAGE_END}, {_NEWLINE})
  end_of_image_id = {_IMAGE_END}
  image_pool = 2
{_GIN}"""
