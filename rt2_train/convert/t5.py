"""T5 1.1, mT5, umT5, UL2 and Flan-UL2 -> the encoder-decoder of PaLI-X.

Names and shapes are those of `transformers` and of T5X's two layouts: a directory per layer (all
that was published), or stacked layers, which lie as ours do. In both, key presence tells whether
logits come from the token table and whether each layer has its own table of relative positions.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from rt2_train.convert import mapping
from rt2_train.convert import sources
from rt2_train.models import encoder_decoder

Rule = mapping.Rule

_TABLE = 'token_embedder/embedding'
_HEAD = 'decoder/logits_dense/kernel'
_RELATIVE = 'relpos_bias/rel_embedding'
_DEPTHS = {'encoder': 'encoder_layers', 'decoder': 'decoder_layers'}

# Of one layer, ours -> transformers': what stands after `block.N.layer.`
_NORMS = {
    'encoder': {'pre_attention_layer_norm': 0, 'pre_mlp_layer_norm': 1},
    'decoder': {
        'pre_self_attention_layer_norm': 0, 'pre_cross_attention_layer_norm': 1,
        'pre_mlp_layer_norm': 2},
}
_ATTENTIONS = {
    'encoder': {'attention': '0.SelfAttention'},
    'decoder': {
        'self_attention': '0.SelfAttention', 'encoder_decoder_attention': '1.EncDecAttention'},
}
_MLP = {'encoder': '1.DenseReluDense', 'decoder': '2.DenseReluDense'}
_PROJECTIONS = {'query': 'q', 'key': 'k', 'value': 'v'}


def hugging_face(network: Any, source: sources.Source) -> list[Rule]:
  """Rules for T5ForConditionalGeneration, MT5... and UMT5..."""
  config = _config(network, source)
  _check_depth(config, source, lambda tower, i: f'{tower}.block.{i}.layer.0.layer_norm.weight')
  second = 'encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight'
  _check_relative(config, source, 'per_layer' if second in source else 'shared')
  rules = [
      Rule(_TABLE, ('shared.weight',), rows=0),
      *_head(config, source, 'lm_head.weight', mapping.transposed, rows=1),
  ]
  for tower in _DEPTHS:
    rules += [
        Rule(f'{tower}/{tower}_norm/scale', (f'{tower}.final_layer_norm.weight',)),
        *_shared_table(config, tower, lambda t: _relative_name(t, 0), mapping.transposed)]
  for tower, name, i in _layer_parameters(config):
    place = mapping.layer_target(tower, tower, name, i, config.scan_layers)
    there, make = _hugging_face_layer(tower, name, config.heads)
    rules.append(Rule(**place, sources=(f'{tower}.block.{i}.layer.{there}.weight',), make=make))
  return rules


def t5x(network: Any, source: sources.Source) -> list[Rule]:
  """Rules for checkpoints of T5X's `examples/t5` and `examples/scalable_t5`, and of flaxformer."""
  config = _config(network, source)
  stacked = 'encoder/encoder/mlp/wo/kernel' in source
  if stacked:
    depths = {
        tower: source.shape(f'{tower}/{tower}/mlp/wo/kernel')[1] for tower in _DEPTHS}
    _check_depths(config, source, depths)
  else:
    _check_depth(config, source, lambda tower, i: f'{tower}/layers_{i}/mlp/wo/kernel')
  shared = f'encoder/{_RELATIVE}' in source
  _check_relative(config, source, 'shared' if shared else 'per_layer')
  rules = [
      Rule(_TABLE, (_TABLE,), rows=0),
      *_head(config, source, _HEAD, mapping.same, rows=0),
  ]
  for tower in _DEPTHS:
    norm = f'{tower}/{tower}_norm/scale'
    # UL2's decoder ends in a norm without a scale.
    there, make = ((norm,), mapping.same) if norm in source else ((), lambda: np.ones(config.width))
    rules += [
        Rule(norm, there, make),
        *_shared_table(config, tower, lambda t: f'{t}/{_RELATIVE}', mapping.same)]
  if stacked and config.scan_layers:
    for tower, name, i in _layer_parameters(config):
      if i == 0:
        there = f'{tower}/{tower}/{name}'
        rules.append(Rule(there, (there,), rows=0))
    return rules
  for tower, name, i in _layer_parameters(config):
    place = mapping.layer_target(tower, tower, name, i, config.scan_layers)
    if stacked:
      rules.append(Rule(
          **place, sources=(f'{tower}/{tower}/{name}',), index=(slice(None), i)))
    else:
      make = _t5x_layer(name, config.heads)
      rules.append(Rule(**place, sources=(f'{tower}/layers_{i}/{name}',), make=make))
  return rules


def _layer_parameters(config) -> list[tuple[str, str, int]]:
  """(tower, path inside a layer, layer) of all parameters of all layers."""
  inputs = ['wi'] if len(config.activations) == 1 else [
      f'wi_{i}' for i in range(len(config.activations))]
  found = []
  for tower, depth in _DEPTHS.items():
    names = [f'{norm}/scale' for norm in _NORMS[tower]]
    names += [
        f'{attention}/{part}/kernel'
        for attention in _ATTENTIONS[tower] for part in (*_PROJECTIONS, 'out')]
    names += [f'mlp/{part}/kernel' for part in (*inputs, 'wo')]
    if config.relative_positions == 'per_layer':
      names.append(_RELATIVE)
    found += [(tower, name, i) for name in names for i in range(getattr(config, depth))]
  return found


def _hugging_face_layer(tower: str, name: str, heads: int) -> tuple[str, Callable[..., np.ndarray]]:
  """The name between `layer.` and `.weight`, and how it becomes ours."""
  if name == _RELATIVE:
    return '0.SelfAttention.relative_attention_bias', mapping.transposed
  module, *rest = name.split('/')
  if module in _NORMS[tower]:
    return f'{_NORMS[tower][module]}.layer_norm', mapping.same
  if module == 'mlp':
    return f'{_MLP[tower]}.{rest[0]}', mapping.transposed
  there = _ATTENTIONS[tower][module]
  if rest[0] == 'out':
    return f'{there}.o', mapping.heads_out(heads)
  return f'{there}.{_PROJECTIONS[rest[0]]}', mapping.heads_in(heads)


def _t5x_layer(name: str, heads: int) -> Callable[[np.ndarray], np.ndarray]:
  """T5X's single layers keep heads and head_dim in one axis."""
  if name.endswith('attention/out/kernel'):
    return lambda kernel: kernel.reshape(heads, -1, kernel.shape[-1])
  if 'attention/' in name and name.endswith('/kernel'):
    return lambda kernel: kernel.reshape(kernel.shape[0], heads, -1)
  return mapping.same


def _relative_name(tower: str, layer: int) -> str:
  return f'{tower}.block.{layer}.layer.0.SelfAttention.relative_attention_bias.weight'


def _shared_table(config, tower, name, make) -> list[Rule]:
  if config.relative_positions == 'per_layer':
    return []
  return [Rule(f'{tower}/{_RELATIVE}', (name(tower),), make)]


def _head(config, source, name, make, rows) -> list[Rule]:
  """The output layer, where model and source both have one."""
  if not config.tied_embeddings:
    if name not in source:
      raise ValueError(
          f'{source.path} has no {name}: its logits come from the token table; set '
          'TIED_EMBEDDINGS = True')
    return [Rule(_HEAD, (name,), make, rows=rows)]
  if name in source and not _same_tensor(source, 'shared.weight', name):
    raise ValueError(
        f'{source.path} has an output layer {name} of its own, the model takes logits from the '
        'token table; set TIED_EMBEDDINGS = False')
  return []


def _same_tensor(source: sources.Source, one: str, other: str) -> bool:
  """Whether an output layer is a copy of the table, as Flan-UL2's is in transformers' format."""
  if one not in source or source.shape(one) != source.shape(other):
    return False
  step = 2**14
  return all(
      np.array_equal(source.read(one, rows), source.read(other, rows))
      for start in range(0, source.shape(one)[0], step)
      for rows in [(slice(start, min(start + step, source.shape(one)[0])),)])


def _config(network, source) -> encoder_decoder.EncoderDecoderConfig:
  config = network.config
  if not isinstance(config, encoder_decoder.EncoderDecoderConfig):
    raise ValueError(
        f'{source.path} is an encoder-decoder, the model has a {type(config).__name__}; use a '
        'model file of PaLI-X')
  return config


def _check_depth(config, source, name: Callable[[str, int], str]) -> None:
  depths = {}
  for tower in _DEPTHS:
    depths[tower] = 0
    while name(tower, depths[tower]) in source:
      depths[tower] += 1
  _check_depths(config, source, depths)


def _check_depths(config, source, depths) -> None:
  for tower, field in _DEPTHS.items():
    if depths[tower] != getattr(config, field):
      raise ValueError(
          f'{source.path} has {depths[tower]} {tower} layers, the model {getattr(config, field)}; '
          'use a model file of that architecture')


def _check_relative(config, source, there: str) -> None:
  if config.relative_positions != there:
    raise ValueError(
        f'{source.path} has relative positions {there!r}, the model '
        f'{config.relative_positions!r}; set EncoderDecoderConfig.relative_positions so')
