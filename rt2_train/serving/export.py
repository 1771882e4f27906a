"""From a checkpoint to a directory that serves: parameters and assets, and programs if asked for.

  params.safetensors     parameters alone (`weights`); several files and an index when large
  assets/                the checkpoint's: model, processor, action space, SentencePiece model
  manifest.json          what this is; for programs also how to call them
  program_b<B>.stablehlo one program per batch size (`programs`)

`Policy` loads such a directory like a checkpoint; programs run with jax, numpy and safetensors
alone (docs/export.md).
"""

from collections.abc import Sequence
import json
import pathlib
import shutil
from typing import Any

from absl import logging
import jax

from rt2_train import images
from rt2_train import processor as processor_lib
from rt2_train import run_files
from rt2_train.models import vlm
from rt2_train.serving import programs
from rt2_train.serving import saved
from rt2_train.serving import tensors as tensors_lib
from rt2_train.serving import weights

FORMATS = ('params', 'stablehlo')
# Such files are copied, and may be read, side by side.
_MOST_BYTES = 4 * 2**30


def export(
    *,
    checkpoint_path: str,
    output_path: str,
    format: str = 'params',  # pylint: disable=redefined-builtin
    dtype: str = 'float32',
    step: int | None = None,
    ema: bool | None = None,
    batch_sizes: Sequence[int] = (1,),
    camera_size: Sequence[int] | None = None,
    most_bytes: int = _MOST_BYTES,
) -> dict[str, Any]:
  """Writes `output_path`, which is there whole or not at all; returns its manifest.

  Args:
    checkpoint_path: a run's MODEL_DIR, or one of its checkpoints.
    output_path: a directory that does not exist yet.
    format: 'params', or 'stablehlo' for programs beside them.
    dtype: of the parameters, one of `weights.DTYPES`.
    step: which checkpoint of MODEL_DIR; the newest when None.
    ema: the averaged parameters; by default where the run kept them.
    batch_sizes: of the programs.
    camera_size: (height, width) of the pictures that programs take, which they resize as training
      did; what the model sees when None.
    most_bytes: of one file of parameters that holds several.

  Raises:
    FileNotFoundError: there is no such checkpoint, or a part of it is missing.
    FileExistsError: there is something at `output_path`.
    ValueError: an argument is out of range, or the parameters are not those of the model.
  """
  if format not in FORMATS:
    raise ValueError(f'export: format is {format!r}; choose one of {", ".join(FORMATS)}')
  if not batch_sizes or min(batch_sizes) < 1:
    raise ValueError(f'export: batch_sizes {tuple(batch_sizes)} must be one or more, each > 0')
  if camera_size is not None and (
      len(camera_size) != 2 or min(camera_size) < 1
      or camera_size[0] * camera_size[1] > images.MOST_PIXELS):
    raise ValueError(f'export: camera_size is {tuple(camera_size)}; it is height and width in '
                     f'pixels, at most {images.MOST_PIXELS} of them')
  checkpoint = run_files.find_checkpoint(checkpoint_path, step)
  model, processor = saved.read(checkpoint)
  ema = (checkpoint / 'ema').is_dir() if ema is None else ema
  tensors = tensors_lib.of_checkpoint(checkpoint, ema=ema)
  saved.check_fits({name: tensor.shape for name, tensor in tensors.items()}, model, checkpoint)
  entries = weights.entries(tensors, dtype)
  manifest = {
      'format': format,
      'dtype': dtype,
      'checkpoint': checkpoint.name,
      'averaged': ema,
      'bytes': sum(entry.size for entry in entries),
  }
  with run_files.new_directory(output_path) as directory:
    shutil.copytree(checkpoint / saved.ASSETS, directory / saved.ASSETS)
    if format == 'stablehlo':
      manifest |= _write_programs(directory, model, processor, entries, batch_sizes, camera_size)
    manifest['files'] = weights.write(directory, entries, most_bytes)
    (directory / saved.MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n')
  logging.info(
      'wrote %.1f MB of parameters in %s to %s', manifest['bytes'] / 1e6, dtype, output_path)
  return manifest


def _write_programs(
    directory: pathlib.Path, model: vlm.VisionLanguageModel, processor: processor_lib.Processor,
    entries: Sequence[weights.Entry], batch_sizes: Sequence[int],
    camera_size: Sequence[int] | None,
) -> dict[str, Any]:
  """Writes one program per batch size; returns what the manifest says about them."""
  height, width = camera_size or (processor.image_spec.height, processor.image_spec.width)
  params = {entry.name: jax.ShapeDtypeStruct(entry.shape, entry.dtype) for entry in entries}
  act = programs.policy_function(model, processor)
  for batch_size in sorted(set(batch_sizes)):
    program = programs.serialized(act, params, processor, batch_size, height, width)
    (directory / programs.file_name(batch_size)).write_bytes(program)
    logging.info('program of batch size %d: %d kB', batch_size, len(program) // 1000)
  return programs.description(params, processor, sorted(set(batch_sizes)), height, width)
