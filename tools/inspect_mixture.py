"""Shows what a training run feeds its model: a table of sources, and a picture of real batches.

  python -m tools.inspect_mixture --gin_file=gin/experiments/demo_cofinetune.gin --output=m.png
"""

from collections.abc import Sequence
import os
import sys

from absl import app
from absl import flags
import gin

from rt2_train import gin_files
from rt2_train import main as main_lib
from rt2_train.data import loader as loader_lib
from rt2_train.evaluation import pictures
from rt2_train.training import records

_OUTPUT = flags.DEFINE_string('output', 'mixture.png', 'PNG to write.')
_BATCHES = flags.DEFINE_integer('batches', 40, 'Batches to look at.', lower_bound=1)


def main(argv: Sequence[str]) -> None:
  del argv
  try:
    main_lib.parse_gin()
    with gin.config_scope('train'):
      loader = gin.get_configurable(loader_lib.Loader)()
    batches = [next(loader) for _ in range(_BATCHES.value)]
  except (ValueError, OSError) as error:
    sys.exit(f'inspect_mixture: {gin_files.message(error)}')
  rows = loader.table()
  print(records.mixture_table(rows), end='')
  os.makedirs(os.path.dirname(_OUTPUT.value) or '.', exist_ok=True)
  pictures.mixture(
      _OUTPUT.value, batches, sources=loader.sources,
      shares={row['source']: row['weight'] for row in rows if row['weight']},
      processor=loader.processor,
  )
  print(f'wrote {_OUTPUT.value}')
  loader.close()


if __name__ == '__main__':
  app.run(main, argv=main_lib.gin_flags(sys.argv))
