"""Draws loss and token accuracy of every source over the steps of runs, side by side.

  python -m tools.curves runs/demo/pretrain runs/demo/cofinetune --output=curves.png
"""

from collections.abc import Sequence
import sys

from absl import app
from absl import flags

from rt2_train.evaluation import pictures

_OUTPUT = flags.DEFINE_string('output', 'curves.png', 'The picture.')


def main(argv: Sequence[str]) -> None:
  run_dirs = argv[1:]
  if not run_dirs:
    raise app.UsageError('name one MODEL_DIR or several')
  try:
    pictures.curves(_OUTPUT.value, {run_dir: run_dir for run_dir in run_dirs})
  except (ValueError, OSError) as error:
    sys.exit(f'curves: {error}')
  print(f'wrote {_OUTPUT.value}')


if __name__ == '__main__':
  app.run(main)
