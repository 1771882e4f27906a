"""big_vision's ViT (SigLIP, SigLIP 2, ViT) in a `.npz` -> the vision tower.

Its kernels lie as ours do. Layers have a number each, or are stacked along axis 0.
"""

from typing import Any

import numpy as np

from rt2_train.convert import mapping
from rt2_train.convert import patch_positions
from rt2_train.convert import siglip
from rt2_train.convert import sources

Rule = mapping.Rule

_ATTENTION, _MLP = 'MultiHeadDotProductAttention_0', 'MlpBlock_0'
# Of one layer, ours -> theirs, without `scale`, `kernel` and `bias`.
_LAYER = {
    'pre_attention_layer_norm': 'LayerNorm_0', 'pre_mlp_layer_norm': 'LayerNorm_1',
    'attention/query': f'{_ATTENTION}/query', 'attention/key': f'{_ATTENTION}/key',
    'attention/value': f'{_ATTENTION}/value', 'attention/out': f'{_ATTENTION}/out',
    'mlp/wi': f'{_MLP}/Dense_0', 'mlp/wo': f'{_MLP}/Dense_1',
}


def rules(network: Any, source: sources.Source) -> list[Rule]:
  """Rules for the image tower of a two-tower model, or for a ViT alone."""
  config, prefix = network.vit_config, _prefix(source)
  there = prefix + 'Transformer/'
  stacked = f'{there}encoderblock/LayerNorm_0/scale' in source
  first = f'{there}encoderblock{"" if stacked else "_0"}/'
  query = source.shape(f'{first}{_ATTENTION}/query/kernel') if (
      f'{first}{_ATTENTION}/query/kernel' in source) else (0, 0, 0)
  depth = query[0] if stacked else sum(
      f'{there}encoderblock_{i}/LayerNorm_0/scale' in source for i in range(config.depth + 1))
  siglip.check(config, {
      'depth': depth, 'heads': query[-2], 'class_token': f'{prefix}cls' in source,
      'activation': 'gelu', **siglip.PLAIN}, source)
  positions = f'{prefix}pos_embedding'
  make, note = patch_positions.resize(
      patch_positions.square(source.shape(positions)[1], f'{source.path}: {positions}'),
      config.grid)
  found = [
      Rule('vit/patch_embedding/kernel', (f'{prefix}embedding/kernel',),
           lambda kernel: kernel.reshape(-1, kernel.shape[-1])),
      Rule('vit/patch_embedding/bias', (f'{prefix}embedding/bias',)),
      Rule('vit/pos_embedding', (positions,), lambda table: make(table[0]), note=note),
      Rule('vit/vit_norm/scale', (f'{there}encoder_norm/scale',)),
      Rule('vit/vit_norm/bias', (f'{there}encoder_norm/bias',)),
  ]
  if config.class_token:
    found.append(Rule('vit/class_token', (f'{prefix}cls',), lambda token: token[0, 0]))
  for ours, theirs in _LAYER.items():
    for part in ('scale' if ours.endswith('norm') else 'kernel', 'bias'):
      found += _layers(
          config, f'{there}encoderblock', stacked, f'{ours}/{part}', f'{theirs}/{part}')
  return found


def _layers(config, path: str, stacked: bool, ours: str, theirs: str) -> list[Rule]:
  if stacked and config.scan_layers:
    return [Rule(
        f'vit/vit/{ours}', (f'{path}/{theirs}',), lambda layers: np.moveaxis(layers, 0, 1), rows=1)]
  found = []
  for i in range(config.depth):
    place = mapping.layer_target('vit', 'vit', ours, i, config.scan_layers)
    if stacked:
      found.append(Rule(**place, sources=(f'{path}/{theirs}',), index=(i,)))
    else:
      found.append(Rule(**place, sources=(f'{path}_{i}/{theirs}',)))
  return found


def _prefix(source: sources.Source) -> str:
  """What stands before the names of the image tower, such as 'params/img/'."""
  suffix = 'embedding/kernel'
  found = [
      name.removesuffix(suffix) for name in source.names()
      if f'/{name}'.endswith(f'/{suffix}') and len(source.shape(name)) == 4]
  if len(found) != 1:
    raise ValueError(
        f'{source.path} has {len(found)} patch embeddings {suffix} of rank 4, a ViT has one; name '
        'the .npz of a big_vision ViT or SigLIP')
  return found[0]
