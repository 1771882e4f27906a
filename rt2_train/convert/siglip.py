"""SigLIP, SigLIP 2 and ViT of transformers -> the vision tower.

Only patch tokens are used: pooling heads and text towers stay unused.
"""

import functools
from typing import Any

import numpy as np

from rt2_train.convert import mapping
from rt2_train.convert import patch_positions
from rt2_train.convert import sources
from rt2_train.models import vit as vit_lib

Rule = mapping.Rule

# Of one layer, ours -> theirs.
_SIGLIP = {
    'pre_attention_layer_norm': 'layer_norm1', 'pre_mlp_layer_norm': 'layer_norm2',
    'attention/query': 'self_attn.q_proj', 'attention/key': 'self_attn.k_proj',
    'attention/value': 'self_attn.v_proj', 'attention/out': 'self_attn.out_proj',
    'mlp/wi': 'mlp.fc1', 'mlp/wo': 'mlp.fc2',
}
_VIT = {
    'pre_attention_layer_norm': 'layernorm_before', 'pre_mlp_layer_norm': 'layernorm_after',
    'attention/query': 'attention.attention.query', 'attention/key': 'attention.attention.key',
    'attention/value': 'attention.attention.value', 'attention/out': 'attention.output.dense',
    'mlp/wi': 'intermediate.dense', 'mlp/wo': 'output.dense',
}
_ACTIVATIONS = {'gelu_pytorch_tanh': 'gelu', 'gelu': 'gelu_exact', None: 'gelu'}


def siglip(network: Any, source: sources.Source) -> list[Rule]:
  """Rules for SiglipModel, SiglipVisionModel, and their successors of any resolution."""
  prefix = _prefix(source, 'embeddings.patch_embedding.weight', no='text_model.')
  config = _config(network, source, class_token=False)
  positions = f'{prefix}embeddings.position_embedding.weight'
  there = patch_positions.square(source.shape(positions)[0], f'{source.path}: {positions}')
  make, note = patch_positions.resize(there, config.grid)
  return [
      *_embedding(source, f'{prefix}embeddings.patch_embedding'),
      Rule('vit/pos_embedding', (positions,), make, note=note),
      *_norm('vit/vit_norm', f'{prefix}post_layernorm'),
      *_layers(config, f'{prefix}encoder.layers', _SIGLIP),
  ]


def vit(network: Any, source: sources.Source) -> list[Rule]:
  """Rules for ViTModel and its heads: a class token stands before the patches."""
  prefix = _prefix(source, 'embeddings.patch_embeddings.projection.weight')
  config = _config(network, source, class_token=True)
  positions = f'{prefix}embeddings.position_embeddings'
  there = patch_positions.square(source.shape(positions)[1] - 1, f'{source.path}: {positions}')
  make, note = patch_positions.resize(there, config.grid)
  return [
      *_embedding(source, f'{prefix}embeddings.patch_embeddings.projection'),
      Rule('vit/pos_embedding', (positions,), lambda table: make(table[0, 1:]), note=note),
      # Its position is no place in the image: part of the token here.
      Rule('vit/class_token', (f'{prefix}embeddings.cls_token', positions),
           lambda token, table: token[0, 0] + table[0, 0]),
      *_norm('vit/vit_norm', f'{prefix}layernorm'),
      *_layers(config, f'{prefix}encoder.layer', _VIT),
  ]


def _prefix(source: sources.Source, suffix: str, no: str = '\n') -> str:
  found = [name for name in source.names() if name.endswith(suffix) and not name.startswith(no)]
  if len(found) != 1:
    raise ValueError(
        f'{source.path} has {len(found)} tensors {suffix}, a vision tower has one; name a model '
        'with a vision tower')
  return found[0].removesuffix(suffix)


def _config(network: Any, source: sources.Source, class_token: bool) -> vit_lib.ViTConfig:
  """The tower wanted, which must compute what the source's does: shapes alone do not tell."""
  config, there = network.vit_config, source.config.get('vision_config', source.config)
  wanted = {
      'depth': there.get('num_hidden_layers', config.depth),
      'heads': there.get('num_attention_heads', config.heads),
      'activation': _ACTIVATIONS.get(there.get('hidden_act'), there.get('hidden_act')),
      'class_token': class_token,
      **PLAIN,
  }
  check(config, wanted, source)
  return config


# What no published SigLIP or ViT has.
PLAIN = {
    'parallel': False, 'qk_norm': False, 'norm': 'layernorm', 'qkv_bias': True, 'pixels': 'range',
    'patch_overlap': 0, 'stem_dim': 0,
}


def check(config: vit_lib.ViTConfig, wanted: dict[str, Any], source: sources.Source) -> None:
  """Raises ValueError at the first field of `config` that is not as `wanted`."""
  for name, value in wanted.items():
    if getattr(config, name) != value:
      raise ValueError(
          f'{source.path} has {name} {value!r}, the model {getattr(config, name)!r}; set '
          f'ViTConfig.{name} so, or use a model file of that architecture')


def _embedding(source: sources.Source, name: str) -> list[Rule]:
  # A convolution [E, 3, rows, columns], or a linear layer over (rows, columns, 3).
  convolution = len(source.shape(f'{name}.weight')) == 4
  return [
      Rule('vit/patch_embedding/kernel', (f'{name}.weight',),
           _convolution if convolution else mapping.transposed),
      Rule('vit/patch_embedding/bias', (f'{name}.bias',)),
  ]


def _convolution(weight: np.ndarray) -> np.ndarray:
  return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])


def _norm(target: str, name: str) -> list[Rule]:
  return [
      Rule(f'{target}/scale', (f'{name}.weight',)), Rule(f'{target}/bias', (f'{name}.bias',))]


def _layers(config: vit_lib.ViTConfig, path: str, names: dict[str, str]) -> list[Rule]:
  rules = []
  for ours, theirs in names.items():
    weight, kind = mapping.transposed, 'kernel'
    bias = mapping.same
    if ours.endswith('norm'):
      weight, kind = mapping.same, 'scale'
    elif ours == 'attention/out':
      weight = mapping.heads_out(config.heads)
    elif ours.startswith('attention'):
      weight, bias = mapping.heads_in(config.heads), mapping.heads_bias(config.heads)
    for part, their_part, make in ((kind, 'weight', weight), ('bias', 'bias', bias)):
      place = functools.partial(mapping.layer_target, 'vit', 'vit', f'{ours}/{part}')
      rules += [
          Rule(**place(i, config.scan_layers), sources=(f'{path}.{i}.{theirs}.{their_part}',),
               make=make)
          for i in range(config.depth)]
  return rules
