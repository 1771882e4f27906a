"""Loss and gradients under rule sets, named or all, on eight simulated devices; prints JSON.

A program of its own, since the number of devices is settled before JAX starts.
"""

import json
import sys

from flax import core
import jax
import numpy as np

from rt2_train import sequences
from rt2_train.models import decoder_only
from rt2_train.models import encoder_decoder
from rt2_train.models import pali_x
from rt2_train.models import palm_e
from rt2_train.models import vit
from rt2_train.models import vlm
from rt2_train.training import adafactor
from rt2_train.training import optimizers
from rt2_train.training import partitioning
from rt2_train.training import state as state_lib

ROWS = 8
MESHES = {
    'data_parallel': ('data_parallel', 1, 1),
    'fsdp': ('fsdp', 1, 1),
    'fsdp_two_stage': ('fsdp_two_stage', 2, 1),
    'hsdp': ('hsdp', 2, 1),
    'fsdp_tensor': ('fsdp_tensor', 2, 1),
    'fsdp, two slices': ('fsdp', 1, 2),
    'fsdp_tensor, two slices': ('fsdp_tensor', 2, 2),
}

VIT = vit.ViTConfig(
    width=16, depth=1, heads=2, mlp_dim=32, patch_size=4, image_height=8, image_width=8,
    parallel=True, qk_norm=True, dtype='float32')


def models() -> dict[str, vlm.VisionLanguageModel]:
  pali = encoder_decoder.EncoderDecoderConfig(
      vocab_size=64, encoder_layers=1, decoder_layers=1, width=32, heads=4, head_dim=8, mlp_dim=64,
      dtype='float32')
  palm = decoder_only.DecoderOnlyConfig(
      vocab_size=64, layers=1, width=32, heads=4, head_dim=8, mlp_dim=64, dtype='float32')
  return {
      # By names, so that saved and recomputed values are cut too.
      'PaLI-X': pali_x.PaLIX(pali_x.Network(VIT, pali)).with_remat_policy('names'),
      'PaLM-E': palm_e.PaLME(palm_e.Network(VIT, palm), targets_length=6),
  }


def make_batch(layout: str) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  inputs = rng.integers(2, 64, (ROWS, 9)).astype(np.int32)
  if layout == 'decoder_only':
    inputs[:, 1:5] = sequences.IMAGE_TOKEN_ID
  targets = rng.integers(2, 64, (ROWS, 6)).astype(np.int32)
  for row in range(ROWS):
    inputs[row, 9 - row % 3:], targets[row, 6 - row % 4:] = 0, 0
  return {
      **sequences.LAYOUTS[layout](inputs, targets),
      'images': rng.integers(0, 256, (ROWS, 1, 8, 8, 3)).astype(np.uint8),
      'image_mask': np.ones((ROWS, 1), np.int32),
  }


def random_params(model: vlm.VisionLanguageModel, shapes) -> dict:
  """Of the model's shapes; its own initial values would be compiled one by one."""
  rng = np.random.default_rng(0)
  variables = jax.eval_shape(
      lambda key: model.get_initial_variables(key, shapes), jax.random.key(0))
  return jax.tree.map(
      lambda leaf: (0.3 * rng.standard_normal(leaf.shape)).astype(np.float32),
      core.unfreeze(variables['params']))


def loss_and_gradients(model, params, partitioner):
  """Computed where the rules say, gradients included; returned whole."""
  batch = partitioner.batch(make_batch(model.layout))
  with partitioner.scope():
    planned, _ = state_lib.plan(model, adafactor.Adafactor(), partitioner, batch, False)
    places = state_lib.placements(planned.optimizer.target)
    step = jax.jit(
        jax.value_and_grad(lambda p, b: model.loss_fn(p, b, None)[0]),
        out_shardings=(partitioner.replicated, places))
    loss, gradients = step(jax.device_put(params, places), batch)
  cut = sum(not place.is_fully_replicated for place in jax.tree.leaves(places))
  return float(loss), optimizers.flatten(jax.device_get(gradients)), cut


def main() -> None:
  results = {}
  for name, model in models().items():
    shapes = {key: rows.shape for key, rows in make_batch(model.layout).items()}
    params = random_params(model, shapes)
    one = partitioning.Partitioner(devices=jax.devices()[:1])
    expected, expected_gradients, _ = loss_and_gradients(model, params, one)
    scale = max(float(np.abs(g).max()) for g in expected_gradients.values())
    for mesh in sys.argv[1:] or MESHES:
      rules, model_parallelism, slices = MESHES[mesh]
      partitioner = partitioning.Partitioner(rules, model_parallelism, slices, small=512)
      loss, gradients, cut = loss_and_gradients(model, params, partitioner)
      error = max(
          float(np.abs(gradients[path] - g).max()) for path, g in expected_gradients.items())
      results[f'{name}: {mesh}'] = {
          'loss': abs(loss - expected) / expected, 'gradient': error / scale, 'cut': cut}
  print(json.dumps({'devices': jax.device_count(), 'results': results}))


if __name__ == '__main__':
  main()
