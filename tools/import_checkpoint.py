"""Makes public weights a checkpoint that INITIAL_CHECKPOINT_PATH takes.

  python -m tools.import_checkpoint --from=hf --source=umt5-xl --from=hf --source=siglip2-giant \
      --gin_file=gin/models/siglip2_umt5_5b.gin --output=runs/imported

--from and --source may be repeated: two halves, say, become one model. Ends with what every source
tensor was used for, which is also in assets/import.json of the checkpoint.
"""

from collections.abc import Sequence
import sys

from absl import app
from absl import flags
from absl import logging
import gin

from rt2_train import gin_files
from rt2_train import main as main_lib
from rt2_train.convert import importer
from rt2_train.convert import sources

_DEFAULTS = 'gin/runs/import.gin'

_FROM = flags.DEFINE_multi_enum('from', [], sorted(sources.FORMATS), 'Format of each --source.')
_SOURCE = flags.DEFINE_multi_string(
    'source', [], 'A directory of safetensors (hf), a checkpoint directory (t5x), a .npz '
    '(big_vision).')
_OUTPUT = flags.DEFINE_string('output', None, 'Where the checkpoint goes; a new directory.')


def main(argv: Sequence[str]) -> None:
  flag_values = flags.FLAGS
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  if not _OUTPUT.value or not _SOURCE.value or len(_FROM.value) != len(_SOURCE.value):
    raise app.UsageError('give --output, and a --from with every --source')
  try:
    gin_files.parse(
        [_DEFAULTS, *flag_values.gin_file], flag_values.gin_bindings, flag_values.gin_search_paths)
    report = gin.get_configurable(importer.import_checkpoint)(
        sources=list(zip(_FROM.value, _SOURCE.value)), output=_OUTPUT.value)
  except (ValueError, OSError) as error:
    if flag_values.traceback:
      raise
    sys.exit(f'import_checkpoint: {gin_files.message(error)} (--traceback shows where)')
  print(report)
  print(f'wrote {_OUTPUT.value}; train from it with '
        f"--gin.INITIAL_CHECKPOINT_PATH=\"'{_OUTPUT.value}'\"")


if __name__ == '__main__':
  logging.set_verbosity(logging.WARNING)
  app.run(main, argv=main_lib.gin_flags(sys.argv))
