"""Writes small random models of `transformers` with what they answer: what imports are held to.

  python -m tools.make_parity_fixtures [umt5_siglip ...]

Needs torch and transformers (pip install '.[convert]'); nothing else of ours does. A fixture is a
directory of tests/convert/fixtures: one with `config.json` and `model.safetensors` per source,
`model.gin` that says the same dimensions to us, `expected.npz` with inputs, logits and greedy
decodes, and `versions.json`, with the seed. Every parameter is random: several start as zeros or
ones, which would hide that they are not read.
"""

from collections.abc import Callable, Sequence
import importlib.metadata
import io
import itertools
import json
import os
import pathlib
from typing import Any
import zipfile
import zlib

from absl import app
import numpy as np

from tools import parity_gemma

_FIXTURES = pathlib.Path(__file__).parents[1] / 'tests/convert/fixtures'

_SIDE, _PATCH, _IMAGES, _ROWS = 16, 4, 2, 3
_INPUTS, _TARGETS = 7, 12
_VOCAB, _WIDTH, _HEADS, _HEAD_DIM, _MLP, _LAYERS = 96, 24, 3, 8, 40, 2
_VIT_WIDTH, _VIT_HEADS, _VIT_MLP, _VIT_LAYERS = 16, 2, 24, 2
_PAD, _EOS = 0, 1

# Writes the sources of a fixture into its directory, and returns inputs and answers.
Case = Callable[[pathlib.Path, np.random.Generator], dict[str, np.ndarray]]


def main(argv: Sequence[str]) -> None:
  unknown = set(argv[1:]) - set(CASES)
  if unknown:
    raise app.UsageError(f'unknown fixtures {sorted(unknown)}; known are {sorted(CASES)}')
  for name in argv[1:] or CASES:
    make(name, _FIXTURES / name)
    print(f'wrote {_FIXTURES / name}')


def make(name: str, directory: pathlib.Path, seed: int | None = None) -> None:
  """Writes one fixture: that of `seed`, or of the first with something to tell."""
  os.environ['HF_HUB_OFFLINE'] = '1'
  directory.mkdir(parents=True, exist_ok=True)
  for seed in itertools.count(zlib.crc32(name.encode())) if seed is None else [seed]:
    expected = CASES[name](directory, np.random.default_rng(seed))
    # Some random models say one token over and over, which would show little.
    if len(np.unique(expected['decodes'])) > 6:
      break
  save_npz(directory / 'expected.npz', expected)
  versions = {package: importlib.metadata.version(package) for package in ('torch', 'transformers')}
  write_json(directory / 'versions.json', versions | {'seed': seed})


def encoder_decoder(language: str, vision: str, tied: bool, activation: str = 'gelu') -> Case:
  """What makes a fixture of two halves: a T5 and a vision tower, by their classes' first names."""

  def case(directory, rng):
    projection = {
        'kernel': rng.normal(size=(_VIT_WIDTH, _WIDTH)) * 0.3,
        'bias': rng.normal(size=_WIDTH) * 0.3}
    projection = {key: value.astype(np.float32) for key, value in projection.items()}
    see = _vision(vision, directory / 'vision', rng)
    logits = _language(language, directory / 'language', tied, activation, rng)
    (directory / 'model.gin').write_text(_gin(language, vision, tied, activation))
    batch = _batch(rng)

    def answer(decoder_input_tokens_BxT):
      images = batch['images'].reshape(-1, _SIDE, _SIDE, 3)
      tokens = see(images) @ projection['kernel'] + projection['bias']
      k = tokens.shape[1]
      return logits(
          tokens.reshape(_ROWS, _IMAGES * k, _WIDTH), np.repeat(batch['image_mask'], k, 1),
          batch['encoder_input_tokens'], decoder_input_tokens_BxT)

    return {
        **batch,
        **{f'image_projection/{key}': value for key, value in projection.items()},
        'logits': answer(batch['decoder_input_tokens']),
        'decodes': greedy(answer, _ROWS, _TARGETS),
    }

  return case


CASES: dict[str, Case] = {
    't5_1_1_siglip': encoder_decoder('T5', 'Siglip', tied=False),
    'ul2_siglip2': encoder_decoder('T5', 'Siglip2', tied=True, activation='silu'),
    'mt5_vit': encoder_decoder('MT5', 'ViT', tied=False),
    'umt5_siglip': encoder_decoder('UMT5', 'Siglip', tied=False),
    **parity_gemma.cases(lambda *args: loaded(*args)),
}


def greedy(
    answer: Callable[[np.ndarray], np.ndarray], rows: int, length: int, start: int = _PAD
) -> np.ndarray:
  """The likeliest tokens int32 [rows, length], padded after EOS; reads all anew for each token."""
  tokens = np.full((rows, 1), start, np.int64)
  for _ in range(length):
    token = answer(tokens)[:, -1].argmax(-1)
    ended = (tokens[:, 1:] == _EOS).any(1)
    tokens = np.concatenate([tokens, np.where(ended, _PAD, token)[:, None]], axis=1)
  return tokens[:, 1:].astype(np.int32)


def random_weights(shapes: dict[str, Sequence[int]], rng) -> dict[str, np.ndarray]:
  """Random float32 weights of a size at which no layer drowns the others."""
  weights = {}
  for name, shape in sorted(shapes.items()):
    # Weights of a norm are around 1, those of a layer as its inputs ask for, the tables wide.
    centre = float('norm' in name and name.endswith('weight'))
    table = 'embed' in name or name == 'shared.weight'
    spread = 0.3 if len(shape) < 2 else 1.0 if table else np.prod(shape[1:]) ** -0.5
    if 'embed_tokens' in name:
      # Gemma's, which it multiplies and has for output layer: a wide one repeats what it reads.
      spread = 0.1
    weights[name] = (centre + spread * rng.normal(size=shape)).astype(np.float32)
  return weights


def write_json(path: pathlib.Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2, sort_keys=True) + '\n')


def save_npz(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
  """Like numpy.savez_compressed, with the same bytes for the same arrays at any time."""
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, array in arrays.items():
      content = io.BytesIO()
      np.lib.format.write_array(content, np.asarray(array))
      archive.writestr(zipfile.ZipInfo(f'{name}.npy'), content.getvalue(), zipfile.ZIP_DEFLATED)


def loaded(kind: str, directory: pathlib.Path, config: Any, rng, untied: bool = False, **fields):
  """Saves a random model of the class `kind`, as a hub has it, and gives what is loaded of it.

  `untied` gives it an output layer of its own; `fields` stand in config.json as well.
  """
  import transformers
  from safetensors import numpy as safetensors

  kind, file = getattr(transformers, kind), directory / 'model.safetensors'
  # Names on hubs are older than those in memory.
  kind(config).save_pretrained(directory)
  shapes = {name: value.shape for name, value in safetensors.load_file(file).items()}
  if untied:
    shapes['lm_head.weight'] = shapes['shared.weight']
  safetensors.save_file(random_weights(shapes, rng), file, {'format': 'pt'})
  described = json.loads((directory / 'config.json').read_text())
  write_json(directory / 'config.json', described | fields)
  model, found = kind.from_pretrained(directory, output_loading_info=True)
  assert not found['missing_keys'] and not found['unexpected_keys'], found
  return model.eval()


def _vision(name: str, directory: pathlib.Path, rng) -> Callable[[np.ndarray], np.ndarray]:
  """A vision tower: images uint8 [N, H, W, 3] -> patch tokens [N, K, E]."""
  import torch
  import transformers

  # The first ViT's default here is 1e-12, where Flax, in which it was trained, has 1e-6.
  config = dict(
      layer_norm_eps=1e-6, hidden_size=_VIT_WIDTH, num_hidden_layers=_VIT_LAYERS, num_attention_heads=_VIT_HEADS,
      intermediate_size=_VIT_MLP, patch_size=_PATCH, attn_implementation='eager')
  grid = _SIDE // _PATCH
  if name == 'Siglip2':
    config |= {'num_patches': grid * grid}
  else:
    config |= {'image_size': _SIDE}
  kind = {'ViT': ('ViTModel', 'ViTConfig')}.get(name, (f'{name}VisionModel', f'{name}VisionConfig'))
  model = loaded(kind[0], directory, getattr(transformers, kind[1])(**config), rng)

  @torch.no_grad()
  def see(images):
    pixels = torch.tensor(images.astype(np.float32) / 127.5 - 1)
    if name == 'Siglip2':
      n, k = len(images), grid * grid
      x = pixels.reshape(n, grid, _PATCH, grid, _PATCH, 3).transpose(2, 3)
      return model(
          pixel_values=x.reshape(n, k, -1), pixel_attention_mask=torch.ones(n, k),
          spatial_shapes=torch.full((n, 2), grid)).last_hidden_state.numpy()
    tokens = model(pixel_values=pixels.permute(0, 3, 1, 2)).last_hidden_state
    return (tokens[:, 1:] if name == 'ViT' else tokens).numpy()

  return see


def _language(
    name: str, directory: pathlib.Path, tied: bool, activation: str, rng
) -> Callable[..., np.ndarray]:
  """A T5: image tokens, which are real, text tokens and targets so far -> logits."""
  import torch
  import transformers

  config = getattr(transformers, f'{name}Config')(
      vocab_size=_VOCAB, d_model=_WIDTH, d_kv=_HEAD_DIM, num_heads=_HEADS, d_ff=_MLP,
      num_layers=_LAYERS, num_decoder_layers=_LAYERS, tie_word_embeddings=tied,
      feed_forward_proj=f'gated-{activation}')
  model = loaded(
      f'{name}ForConditionalGeneration', directory, config, rng, untied=not tied,
      tie_word_embeddings=tied)

  @torch.no_grad()
  def logits(image_tokens, image_mask, text, targets):
    text, targets = torch.tensor(text), torch.tensor(targets)
    inputs = dict(
        inputs_embeds=torch.cat([torch.tensor(image_tokens), model.shared(text)], 1),
        attention_mask=torch.cat([torch.tensor(image_mask), (text != _PAD).int()], 1))
    if name != 'UMT5':
      return model(**inputs, decoder_input_ids=targets).logits.numpy()
    # transformers scales umT5's states before its own output layer, which T5X, where it was
    # trained, does not: the arithmetic is mT5's, with a table of positions per layer.
    encoded = model.encoder(**inputs).last_hidden_state
    states = model.decoder(
        input_ids=targets, encoder_hidden_states=encoded,
        encoder_attention_mask=inputs['attention_mask']).last_hidden_state
    return model.lm_head(states).numpy()

  return logits


def _batch(rng) -> dict[str, np.ndarray]:
  """Rows of unequal length; the second image of row 1 is padding."""
  inputs = rng.integers(2, _VOCAB, (_ROWS, _INPUTS)).astype(np.int32)
  targets = rng.integers(2, _VOCAB, (_ROWS, _TARGETS)).astype(np.int32)
  inputs[1, 4:] = inputs[2, 6:] = _PAD
  targets[:, 0] = _PAD
  image_mask = np.ones((_ROWS, _IMAGES), np.int32)
  image_mask[1, 1] = 0
  return {
      'encoder_input_tokens': inputs,
      'decoder_input_tokens': targets,
      'images': rng.integers(0, 256, (_ROWS, _IMAGES, _SIDE, _SIDE, 3)).astype(np.uint8),
      'image_mask': image_mask,
  }


def _gin(language: str, vision: str, tied: bool, activation: str) -> str:
  first_vit = "\n  activation = 'gelu_exact'\n  class_token = True" if vision == 'ViT' else ''
  relative = 'per_layer' if language == 'UMT5' else 'shared'
  return f"""# Made by tools.make_parity_fixtures.
from __gin__ import dynamic_registration

from rt2_train.models import encoder_decoder
from rt2_train.models import vit

include 'gin/models/pali_x.gin'

vit.ViTConfig:
  width = {_VIT_WIDTH}
  depth = {_VIT_LAYERS}
  heads = {_VIT_HEADS}
  mlp_dim = {_VIT_MLP}
  patch_size = {_PATCH}{first_vit}

encoder_decoder.EncoderDecoderConfig:
  encoder_layers = {_LAYERS}
  decoder_layers = {_LAYERS}
  width = {_WIDTH}
  heads = {_HEADS}
  head_dim = {_HEAD_DIM}
  mlp_dim = {_MLP}
  activations = ('{activation}', 'linear')
  tied_embeddings = {tied}
  relative_positions = '{relative}'

IMAGE_SIZE = {_SIDE}
VOCAB_SIZE = 128  # The source has {_VOCAB}.
DTYPE = 'float32'
"""


if __name__ == '__main__':
  app.run(main)
