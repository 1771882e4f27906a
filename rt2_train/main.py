"""The one entry point: trains, evaluates and runs a vision-language-action model from gin files.

  python -m rt2_train.main --run_mode=train --gin_file=gin/experiments/demo_cofinetune.gin
  python -m rt2_train.main --run_mode=eval --gin_file=gin/data/demo.gin ...

Everything a run does is in its gin files; `--gin.NAME=VALUE` overrides one line of them. Training
on several hosts is the same command on each of them, see `distributed`.
"""

from collections.abc import Sequence
import os
import re
import sys

from absl import app
from absl import flags
from absl import logging
import gin

from rt2_train import distributed
from rt2_train import gin_files

_RUN_MODE = flags.DEFINE_enum(
    'run_mode', 'train', ['train', 'eval', 'infer', 'export', 'precompile'],
    'What to do.')
_GIN_FILE = flags.DEFINE_multi_string(
    'gin_file', [], 'A gin file; may be given several times, later files override earlier ones.'
)
_GIN_BINDINGS = flags.DEFINE_multi_string(
    'gin_bindings', [],
    'One gin line, such as "TRAIN_STEPS=100"; --gin.TRAIN_STEPS=100 is short for it.',
)
_GIN_SEARCH_PATHS = flags.DEFINE_list(
    'gin_search_paths', ['.'], 'Folders in which gin files and their includes are looked up.'
)
_TRACEBACK = flags.DEFINE_bool('traceback', False, 'Show where in the code an error was found.')


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}; gin lines are passed as --gin.NAME=VALUE')
  try:
    parse_gin()
    if _RUN_MODE.value == 'train':
      distributed.initialize()
    elif distributed.is_wanted():
      raise ValueError('only training is done by several processes; leave their flags out')
    _RUN[_RUN_MODE.value]()
  except Exception as error:  # pylint: disable=broad-exception-caught
    # Bad input ends in one clear line; what is no input error keeps its traceback.
    expected = isinstance(error, (ValueError, OSError)) and not _TRACEBACK.value
    said = f'rt2_train {_RUN_MODE.value}: {gin_files.message(error)} (--traceback shows where)'
    if distributed.is_initialized():
      distributed.leave(error, said if expected else None)
    if expected:
      sys.exit(said)
    raise


def parse_gin() -> None:
  """Parses what the gin flags name."""
  gin_files.parse(_GIN_FILE.value, _GIN_BINDINGS.value, _GIN_SEARCH_PATHS.value)


# Each mode loads only the rooms it needs.
def _train() -> None:
  from rt2_train.training import preemption
  from rt2_train.training import train

  summary = gin.get_configurable(train.train)()
  if not summary['finished']:
    # Preempted: whoever started this run should start it again.
    sys.exit(preemption.STATUS)


def _eval() -> None:
  from rt2_train.evaluation import offline

  gin.get_configurable(offline.evaluate)()


def _infer() -> None:
  from rt2_train.evaluation import offline

  gin.get_configurable(offline.infer)()


def _export() -> None:
  from rt2_train.serving import export

  gin.get_configurable(export.export)()


def _precompile() -> None:
  from rt2_train.precompile import precompile

  gin.get_configurable(precompile.precompile)()


_RUN = {
    'train': _train, 'eval': _eval, 'infer': _infer, 'export': _export, 'precompile': _precompile,
}


def gin_flags(argv: Sequence[str]) -> list[str]:
  """T5X's notation --gin.NAME=VALUE as --gin_bindings=NAME=VALUE."""
  return [re.sub('^--gin[.]', '--gin_bindings=', argument) for argument in argv]


if __name__ == '__main__':
  # TensorFlow only reads data here; it must not talk over the progress bars.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  logging.set_verbosity(logging.INFO)
  app.run(main, argv=gin_flags(sys.argv))
