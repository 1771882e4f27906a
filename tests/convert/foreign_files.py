"""Writes parameters of ours as T5X and big_vision lay theirs out."""

import json

from flax import serialization
from flax import traverse_util
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts


def t5x_names(flat, heads, stacked):
  """The language half of {path: array} as T5X names and shapes it."""
  found = {}
  for path, array in flat.items():
    if path.startswith(('vit/', 'image_projection/')):
      continue
    tower, *rest = path.split('/')
    if stacked or rest[:1] != [tower]:
      found[path] = array
      continue
    name = '/'.join(rest[1:])
    for i in range(array.shape[1]):
      layer = array[:, i]
      if 'attention/' in path and name.endswith('out/kernel'):
        layer = layer.reshape(-1, layer.shape[-1])
      elif 'attention/' in path and name.endswith('kernel'):
        layer = layer.reshape(layer.shape[0], -1)
      found[f'{tower}/layers_{i}/{name}'] = layer
  return found


def write_legacy(directory, flat, version=3):
  """T5X's own format: a msgpack tree whose large leaves are TensorStore specs of zarr arrays."""
  directory.mkdir()
  leaves = {'state/step': np.int32(7), 'state/param_states/some/v': np.zeros(1, np.float32)}
  for path, array in flat.items():
    name = f'target/{path}'
    if array.size < 64:
      leaves[name] = array
      continue
    if version == 2:  # bfloat16 as its bits.
      array = np.asarray(array, jnp.bfloat16).view(np.uint16)
    chunks = [max(1, size // 2) for size in array.shape]
    metadata = {
        'shape': list(array.shape), 'chunks': chunks, 'dtype': array.dtype.str,
        'compressor': {'id': 'gzip', 'level': 1}}
    leaf = name.replace('/', '.')
    ts.open({
        'driver': 'zarr', 'metadata': metadata,
        'kvstore': {'driver': 'file', 'path': f'{directory / leaf}/'}}, create=True,
    ).result().write(array).result()
    # Specs name the bucket that they were written to.
    store = {'driver': 'gfile', 'path': f'/elsewhere/{leaf}/'}
    leaves[name] = {'driver': 'zarr', 'kvstore': store, 'metadata': metadata}
  tree = {'version': version, 'optimizer': traverse_util.unflatten_dict(leaves, sep='/')}
  (directory / 'checkpoint').write_bytes(serialization.msgpack_serialize(tree))


def write_orbax(directory, flat):
  """What T5X writes today."""
  tree = traverse_util.unflatten_dict(flat, sep='/')
  state = {'target': tree, 'state': {'step': np.int32(7), 'param_states': {'v': np.ones(3)}}}
  with ocp.CheckpointManager(
      directory, options=ocp.CheckpointManagerOptions(step_prefix='checkpoint'),
      item_names=('state',)) as manager:
    manager.save(7, args=ocp.args.Composite(state=ocp.args.StandardSave(state)))


_BIG_VISION = {
    'pre_attention_layer_norm': 'LayerNorm_0', 'pre_mlp_layer_norm': 'LayerNorm_1',
    'attention': 'MultiHeadDotProductAttention_0', 'mlp/wi': 'MlpBlock_0/Dense_0',
    'mlp/wo': 'MlpBlock_0/Dense_1',
}


def write_big_vision(file, flat, patch, stacked):
  """The vision half of {path: array} as the image tower of a SigLIP."""
  found = {'params/t': np.ones(1, np.float32), 'params/txt/head/bias': np.ones(4, np.float32)}
  for path, array in flat.items():
    if not path.startswith('vit/'):
      continue
    name = path.removeprefix('vit/')
    if name.startswith('vit/'):
      name = name.removeprefix('vit/')
      for ours, theirs in _BIG_VISION.items():
        name = name.replace(ours, theirs)
      layers = np.moveaxis(array, 1, 0)
      if stacked:
        found[f'params/img/Transformer/encoderblock/{name}'] = layers
      else:
        for i, layer in enumerate(layers):
          found[f'params/img/Transformer/encoderblock_{i}/{name}'] = layer
    elif name == 'patch_embedding/kernel':
      found['params/img/embedding/kernel'] = array.reshape(patch, patch, 3, -1)
    elif name == 'pos_embedding':
      found['params/img/pos_embedding'] = array[None]
    else:
      name = name.replace('patch_', '').replace('vit_norm', 'Transformer/encoder_norm')
      found[f'params/img/{name}'] = array
  np.savez(file, **{name: np.ascontiguousarray(array) for name, array in found.items()})


def write_safetensors(directory, tensors, config, shards=1):
  """A model directory of transformers, from {name: array}, without the library of that name."""
  directory.mkdir()
  (directory / 'config.json').write_text(json.dumps(config))
  names, weight_map = list(tensors), {}
  for shard in range(shards):
    file = 'model.safetensors' if shards == 1 else f'model-{shard + 1:05}-of-{shards:05}.safetensors'
    header, content = {'__metadata__': {'format': 'pt'}}, b''
    for name in names[shard::shards]:
      array = np.ascontiguousarray(tensors[name])
      kind = {'float32': 'F32', 'bfloat16': 'BF16', 'float16': 'F16'}[array.dtype.name]
      data = array.tobytes()
      header[name] = {
          'dtype': kind, 'shape': array.shape,
          'data_offsets': [len(content), len(content) + len(data)]}
      content += data
      weight_map[name] = file
    head = json.dumps(header).encode()
    (directory / file).write_bytes(len(head).to_bytes(8, 'little') + head + content)
  if shards > 1:
    (directory / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': weight_map}))
