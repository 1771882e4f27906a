"""PaliGemma 1 and 2, and T5Gemma 2, of transformers -> the models of these names.

Scales of norms stay as they are stored: ours, too, are added to 1. Logits come from the token table
in all of them; an output layer that lies beside it is its copy and stays unused.
"""

from collections.abc import Mapping
import copy
from typing import Any

from rt2_train.convert import mapping
from rt2_train.convert import siglip
from rt2_train.convert import sources
from rt2_train.models import gemma
from rt2_train.models import t5gemma

Rule = mapping.Rule

_TABLE = 'token_embedder/embedding'
_MLP = {'mlp/wi_0': 'gate_proj', 'mlp/wi_1': 'up_proj', 'mlp/wo': 'down_proj'}

# Norms of one layer, ours -> theirs. Version 1 calls its second norm by where it stands, behind
# attention; the later ones have another norm there.
_NORMS_1 = {
    'pre_self_attention_layer_norm': 'input_layernorm',
    'pre_mlp_layer_norm': 'post_attention_layernorm',
}
_NORMS_2 = {
    'pre_self_attention_layer_norm': 'input_layernorm',
    'post_self_attention_layer_norm': 'post_attention_layernorm',
    'pre_mlp_layer_norm': 'pre_feedforward_layernorm',
    'post_mlp_layer_norm': 'post_feedforward_layernorm',
}
_NORMS_T5 = {
    **_NORMS_2,
    'pre_self_attention_layer_norm': 'pre_self_attn_layernorm',
    'post_self_attention_layer_norm': 'post_self_attn_layernorm',
    'self_attention/query_norm': 'self_attn.q_norm',
    'self_attention/key_norm': 'self_attn.k_norm',
}

# What transformers takes where a config.json leaves a field out.
_DEFAULTS = {
    'gemma': {'global_every': 1, 'rope_theta': 10_000.0},
    'gemma2': {
        'global_every': 2, 'rope_theta': 10_000.0, 'sliding_window': 4096,
        'query_pre_attn_scalar': 256, 'attn_logit_softcapping': 50.0,
        'final_logit_softcapping': 30.0,
    },
    't5gemma2': {
        'global_every': 6, 'rope_theta': 1_000_000.0, 'rope_local_base_freq': 10_000.0,
        'sliding_window': 4096, 'query_pre_attn_scalar': 256,
    },
}


def paligemma(network: Any, source: sources.Source) -> list[Rule]:
  """Rules for PaliGemmaForConditionalGeneration of both versions."""
  config, text = _config(network, source, gemma.GemmaConfig), source.config.get('text_config', {})
  family = text.get('model_type', 'gemma')
  if family not in ('gemma', 'gemma2'):
    raise ValueError(
        f'{source.path} has a {family!r} as language model; PaliGemma has a gemma or gemma2')
  _check(config, _described(text, family, source), source)
  table = _find(source, '.embed_tokens.weight')
  projector = _find(source, 'multi_modal_projector.linear.weight').removesuffix('weight')
  path = table.removesuffix('embed_tokens.weight')
  return [
      *siglip.siglip(network, source),
      Rule('image_projection/kernel', (f'{projector}weight',), mapping.transposed),
      Rule('image_projection/bias', (f'{projector}bias',)),
      Rule(_TABLE, (table,), rows=0),
      *_stack(config, 'decoder', path, _NORMS_1 if family == 'gemma' else _NORMS_2),
  ]


def t5gemma2(network: Any, source: sources.Source) -> list[Rule]:
  """Rules for T5Gemma2ForConditionalGeneration."""
  config, there = _config(network, source, t5gemma.T5GemmaConfig), source.config.get('encoder', {})
  for text in (there.get('text_config', {}), source.config.get('decoder', {})):
    _check(config, _described(text, 't5gemma2', source), source)
  _check(config, _framing(source.config), source)
  vision = copy.copy(source)
  vision.config = there
  paths = {
      tower: _find(source, 'layers.0.pre_self_attn_layernorm.weight', f'{tower}.').removesuffix(
          'layers.0.pre_self_attn_layernorm.weight')
      for tower in ('encoder', 'decoder')}
  table = f'{paths["encoder"]}embed_tokens.'
  projector = _find(source, 'mm_input_projection_weight').removesuffix('mm_input_projection_weight')
  return [
      *siglip.siglip(network, vision),
      Rule('image_norm/scale', (f'{projector}mm_soft_emb_norm.weight',)),
      Rule('image_projection/kernel', (f'{projector}mm_input_projection_weight',)),
      Rule(_TABLE, (f'{table}weight',), rows=0),
      Rule('end_of_image_embedding', (f'{table}eoi_embedding',)),
      *(rule for tower, path in paths.items() for rule in _stack(config, tower, path, _NORMS_T5)),
  ]


def _stack(
    config: gemma.GemmaConfig, tower: str, path: str, norms: Mapping[str, str]) -> list[Rule]:
  made = {f'{ours}/scale': (theirs, mapping.same) for ours, theirs in norms.items()}
  made |= {f'{ours}/kernel': (f'mlp.{theirs}', mapping.transposed) for ours, theirs in _MLP.items()}
  for ours, theirs, make in (
      ('query', 'q', mapping.heads_in(config.heads)),
      ('key', 'k', mapping.heads_in(config.kv_heads)),
      ('value', 'v', mapping.heads_in(config.kv_heads)),
      ('out', 'o', mapping.heads_out(config.heads))):
    made[f'self_attention/{ours}/kernel'] = (f'self_attn.{theirs}_proj', make)
  rules = [Rule(f'{tower}/{tower}_norm/scale', (f'{path}norm.weight',))]
  for ours, (theirs, make) in made.items():
    rules += [
        Rule(**mapping.layer_target(tower, tower, ours, i, config.scan_layers),
             sources=(f'{path}layers.{i}.{theirs}.weight',), make=make)
        for i in range(config.layers)]
  return rules


def _described(
    text: Mapping[str, Any], family: str, source: sources.Source) -> dict[str, Any]:
  """The fields of our config that a text configuration settles; shapes tell of the others."""
  given = _DEFAULTS[family] | dict(text)
  depth = given.get('num_hidden_layers', 0)
  every = given['global_every']
  kinds = given.get('layer_types') or [
      'sliding_attention' if (i + 1) % every else 'full_attention' for i in range(depth)]
  full, sliding = _rope(given, source)
  settled = {
      'layers': depth,
      'qk_norm': family == 't5gemma2',
      'post_norms': family != 'gemma',
      'attention_softcap': given.get('attn_logit_softcapping'),
      'logits_softcap': given.get('final_logit_softcapping'),
      'global_layers': [i for i, kind in enumerate(kinds) if kind == 'full_attention'],
      'global_wavelength': full['rope_theta'],
      'global_position_scale': 1.0 / full['factor'],
  }
  if 'query_pre_attn_scalar' in given:
    settled['score_scale'] = given['query_pre_attn_scalar'] ** -0.5
  if len(settled['global_layers']) < depth:
    settled |= {'window': given['sliding_window'], 'local_wavelength': sliding['rope_theta']}
  activation = given.get('hidden_activation') or 'gelu_pytorch_tanh'
  if activation != 'gelu_pytorch_tanh' or given.get('attention_bias'):
    raise ValueError(
        f'{source.path} has hidden_activation {activation!r}, attention_bias '
        f'{bool(given.get("attention_bias"))}; models of this family have '
        "'gelu_pytorch_tanh' and no biases")
  return settled


def _rope(
    given: Mapping[str, Any], source: sources.Source) -> tuple[dict[str, Any], dict[str, Any]]:
  """theta and factor of global and of local layers, in today's spelling or those before it."""
  parameters = given.get('rope_parameters') or {}
  scaling = given.get('rope_scaling') or {}
  plain = {'rope_theta': given['rope_theta'], 'factor': 1.0}
  full = plain | scaling | (parameters.get('full_attention') or {})
  local = {'rope_theta': given.get('rope_local_base_freq', given['rope_theta'])}
  sliding = plain | local | (parameters.get('sliding_attention') or {})
  if 'rope_theta' in parameters:  # One for all layers.
    full = sliding = plain | parameters
  for rope in (full, sliding):
    kind = rope.get('rope_type', rope.get('type', 'default'))
    if kind not in ('default', 'linear'):
      raise ValueError(
          f"{source.path} has rope_type {kind!r}; 'default' and 'linear' are known here")
  return full, sliding


def _framing(there: Mapping[str, Any]) -> dict[str, Any]:
  """How T5Gemma 2 takes in images, as far as a configuration says."""
  encoder, settled = there.get('encoder', {}), {}
  if 'eoi_token_index' in encoder:
    settled['end_of_image_id'] = encoder['eoi_token_index']
  vision = encoder.get('vision_config', {})
  if {'image_size', 'patch_size'} <= vision.keys() and 'mm_tokens_per_image' in encoder:
    side = vision['image_size'] // vision['patch_size']
    settled['image_pool'] = side // round(encoder['mm_tokens_per_image'] ** 0.5)
  if 'bos_token_id' in there.get('decoder', {}):
    settled['bos_id'] = there['decoder']['bos_token_id']
  return settled


def _check(config: gemma.GemmaConfig, settled: Mapping[str, Any], source: sources.Source) -> None:
  """Raises ValueError at the first field of `config` that computes something else."""
  for name, value in settled.items():
    if getattr(config, name) != value:
      raise ValueError(
          f'{source.path} has {name} {value!r}, the model {getattr(config, name)!r}; set '
          f'{type(config).__name__} so, or use a model file of that architecture')


def _find(source: sources.Source, suffix: str, part: str = '') -> str:
  found = [name for name in source.names() if name.endswith(suffix) and part in name]
  if len(found) != 1:
    raise ValueError(
        f'{source.path} has {len(found)} tensors {part}...{suffix}, there should be one; name the '
        'directory of a whole model')
  return found[0]


def _config(network: Any, source: sources.Source, kind: type[Any]) -> Any:
  config = network.config
  if type(config) is not kind:
    raise ValueError(
        f'{source.path} needs a model with a {kind.__name__}, this one has a '
        f'{type(config).__name__}; use the model file of its architecture')
  return config
