"""Makes a checkpoint ready to be served: parameters alone, or programs that need no rt2_train.

  python -m tools.export_checkpoint --checkpoint=runs/demo/cofinetune --output=exported \\
      --format=params --dtype=int8
  python -m tools.export_checkpoint --checkpoint=runs/demo/cofinetune --output=programs \\
      --format=stablehlo --batch_sizes=1,8 --camera_size=480,640

docs/export.md says how to load either.
"""

from collections.abc import Sequence
import sys

from absl import app
from absl import flags

from rt2_train.serving import export
from rt2_train.serving import weights

_CHECKPOINT = flags.DEFINE_string(
    'checkpoint', None, 'A run, or one of its checkpoints.', required=True)
_OUTPUT = flags.DEFINE_string('output', None, 'A directory that does not exist yet.', required=True)
_FORMAT = flags.DEFINE_enum(
    'format', 'params', export.FORMATS, 'Parameters, or parameters and programs.')
_DTYPE = flags.DEFINE_enum('dtype', 'float32', weights.DTYPES, 'Of the parameters.')
_BATCH_SIZES = flags.DEFINE_list('batch_sizes', ['1'], 'Of the programs.')
_CAMERA_SIZE = flags.DEFINE_list(
    'camera_size', None, 'Height and width of the pictures that programs take; by default what the '
    'model sees.')
_STEP = flags.DEFINE_integer('step', None, 'Which checkpoint of the run; the newest by default.')
_EMA = flags.DEFINE_bool(
    'ema', None, 'Whether to take the averaged parameters; by default where the run kept them.')


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  try:
    manifest = export.export(
        checkpoint_path=_CHECKPOINT.value, output_path=_OUTPUT.value, format=_FORMAT.value,
        dtype=_DTYPE.value, step=_STEP.value, ema=_EMA.value,
        batch_sizes=_integers('batch_sizes', _BATCH_SIZES.value),
        camera_size=_CAMERA_SIZE.value and _integers('camera_size', _CAMERA_SIZE.value),
    )  # pyformat: disable
  except (ValueError, OSError) as error:
    sys.exit(f'export_checkpoint: {error}')
  programs = [program['file'] for program in manifest.get('programs', [])]
  print(f'wrote {", ".join([*manifest["files"], *programs])} of {manifest["checkpoint"]} to '
        f'{_OUTPUT.value}: {manifest["bytes"] / 1e6:.1f} MB of parameters in {manifest["dtype"]}')


def _integers(flag: str, words: Sequence[str]) -> list[int]:
  try:
    return [int(word) for word in words]
  except ValueError:
    raise ValueError(f'--{flag} is {",".join(words)}; it is whole numbers and commas') from None


if __name__ == '__main__':
  app.run(main)
