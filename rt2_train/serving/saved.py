"""What a policy is made of on disk: a checkpoint, or what `export` made of one."""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib

import jax

from rt2_train import processor as processor_lib
from rt2_train import run_files
from rt2_train.models import architectures
from rt2_train.models import vlm
from rt2_train.serving import weights

ASSETS = 'assets'
# The last file that `export` writes.
MANIFEST = 'manifest.json'
_ARCHITECTURE = 'model.json'


def find(path: str | os.PathLike[str], step: int | None = None) -> pathlib.Path:
  """The directory of one checkpoint (see `run_files.find_checkpoint`), or an exported one.

  Raises:
    FileNotFoundError: it is neither.
    ValueError: a step is asked of what holds only one.
  """
  if not is_export(path):
    return run_files.find_checkpoint(path, step)
  if step is not None:
    raise ValueError(f'{path} was exported from one checkpoint; leave step {step} out')
  return pathlib.Path(path)


def is_export(directory: str | os.PathLike[str]) -> bool:
  return os.path.isfile(os.path.join(directory, MANIFEST))


def read(directory: pathlib.Path) -> tuple[vlm.VisionLanguageModel, processor_lib.Processor]:
  """Model and processor, out of the assets.

  Raises:
    FileNotFoundError: there are none.
  """
  architecture = directory / ASSETS / _ARCHITECTURE
  if not architecture.exists():
    raise FileNotFoundError(f'{architecture} is missing; serve a checkpoint that has its assets')
  processor = processor_lib.Processor.load(directory / ASSETS)
  return architectures.from_json(json.loads(architecture.read_text()), processor), processor


def check_fits(
    shapes: Mapping[str, Sequence[int]], model: vlm.VisionLanguageModel, directory: pathlib.Path
) -> None:
  """Raises ValueError at the first parameter that the model has not, or has in another shape."""
  processor = model.processor
  batch = model.batch_shapes(
      batch_size=1, inputs_length=processor.inputs_length,
      targets_length=processor.targets_length, num_images=processor.image_spec.num_images)
  features = {name: feature.shape for name, feature in batch.items()}
  variables = jax.eval_shape(
      lambda rng: model.get_initial_variables(rng, features), jax.random.key(0))
  wanted = {name: list(leaf.shape) for name, leaf in weights.flat(variables['params']).items()}
  saved = {name: list(shape) for name, shape in shapes.items()}
  for name in sorted({*saved, *wanted}):
    if saved.get(name) != wanted.get(name):
      raise ValueError(
          f'{directory}: parameter {name} is {saved.get(name, "missing")}, the model of '
          f'assets/model.json has {wanted.get(name, "none of that name")}'
      )
