"""Small models of both families with random parameters, and checkpoints of them as runs write them."""

import json
import pathlib
from typing import Any

import flax
import jax
import numpy as np

from rt2_train import actions
from rt2_train import images
from rt2_train import processor as processor_lib
from rt2_train import prompts
from rt2_train import vocabulary
from rt2_train.models import decoder_only
from rt2_train.models import encoder_decoder
from rt2_train.models import pali_x
from rt2_train.models import palm_e
from rt2_train.models import vit
from rt2_train.models import vlm
from rt2_train.training import checkpoints
from rt2_train.training import optimizers
from rt2_train.training import state

SIZE, VOCAB_SIZE = 16, 400
FAMILIES = ('pali_x', 'palm_e')


def make(
    directory: pathlib.Path, family: str, space: actions.ActionSpace = actions.RT2, *,
    resize: str = 'stretch', num_images: int = 1, **text: Any,
) -> vlm.VisionLanguageModel:
  """A model with its processor; `text` changes its language half."""
  model_file = str(directory / f'{family}.model')
  texts = [prompts.given_images(prompts.robot('pick anchor'), 2), prompts.vqa('where is the sun?')]
  vocabulary.train(texts, model_file, VOCAB_SIZE, num_integers=256)
  tower = vit.ViTConfig(
      width=16, depth=1, heads=2, mlp_dim=32, patch_size=8, image_height=SIZE, image_width=SIZE,
      dtype='float32')
  common = {
      'vocab_size': VOCAB_SIZE, 'width': 16, 'heads': 2, 'head_dim': 8, 'mlp_dim': 32, 'dtype': 'float32',
  }
  words = vocabulary.Vocabulary(model_file)
  spec = images.ImageSpec(SIZE, SIZE, num_images, resize)
  if family == 'pali_x':
    processor = processor_lib.Processor(words, space, spec, 64, 12)
    # Two layers, so that the layer axis of a stack is not 1.
    config = encoder_decoder.EncoderDecoderConfig(
        **{**common, 'encoder_layers': 2, 'decoder_layers': 2, **text})
    return pali_x.PaLIX(pali_x.Network(tower, config), processor=processor)
  processor = processor_lib.Processor(
      words, space, spec, 64, 12, layout='decoder_only', image_tokens=tower.num_tokens)
  config = decoder_only.DecoderOnlyConfig(**{**common, 'layers': 2, **text})
  return palm_e.PaLME(palm_e.Network(tower, config), processor=processor)


def params(model: vlm.VisionLanguageModel, seed: int = 0) -> Any:
  """Random parameters, without compiling the model's own initialisation."""
  processor = model.processor
  batch = model.batch_shapes(
      batch_size=1, inputs_length=processor.inputs_length,
      targets_length=processor.targets_length, num_images=processor.image_spec.num_images)
  shapes = {name: feature.shape for name, feature in batch.items()}
  variables = jax.eval_shape(
      lambda rng: model.get_initial_variables(rng, shapes), jax.random.key(0))
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda leaf: rng.standard_normal(leaf.shape, np.float32) * np.float32(0.3),
      flax.core.unfreeze(variables['params']))


def write_assets(directory: str, model: vlm.VisionLanguageModel) -> None:
  model.processor.save(directory)
  pathlib.Path(directory, 'model.json').write_text(json.dumps(model.architecture()))


def write_checkpoint(
    run_dir: pathlib.Path, model: vlm.VisionLanguageModel, target: Any, ema: Any = None,
    step: int = 100,
) -> None:
  """A checkpoint as training writes it, optimizer and assets included."""
  optimizer = optimizers.adamw().create(target)
  saved = checkpoints.Checkpoints(
      str(run_dir), assets=lambda directory: write_assets(directory, model))
  saved.save(step, state.TrainState(optimizer=optimizer, ema=ema), data={'step': step})
  saved.close()
