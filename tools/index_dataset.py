"""Indexes and validates a robot dataset: python -m tools.index_dataset DIR.

DIR is a TFDS directory (features.json, dataset_info.json, TFRecord shards). The index is what
training reads; making it beforehand finds every broken record before a run does.
"""

import sys

from absl import app
from absl import flags

from rt2_train.data import layouts
from rt2_train.data import rlds
from rt2_train.data import tfds_directory

LAYOUT = flags.DEFINE_string(
    'layout', None, f'One of {", ".join(layouts.LAYOUTS)}; found from features.json by default.')
SPLIT = flags.DEFINE_string('split', None, 'The split to index; all of them by default.')
INDEX_DIR = flags.DEFINE_string(
    'index_dir', None, 'Where the index goes; DIR/.rt2_index by default.')
_ON_BAD = flags.DEFINE_enum(
    'on_bad', 'error', ['error', 'skip'],
    'With error, broken records make the exit status 1; with skip, they are only counted.')


def main(argv: list[str]) -> int:
  if len(argv) != 2:
    raise app.UsageError('give one directory: python -m tools.index_dataset DIR')
  try:
    return index(argv[1], LAYOUT.value, SPLIT.value, INDEX_DIR.value, _ON_BAD.value)
  except (ValueError, OSError) as e:
    print(f'error: {e}', file=sys.stderr)
    return 1


def index(
    data_dir: str, layout: str | None, split: str | None, index_dir: str | None, on_bad: str,
) -> int:
  """Indexes the splits, prints what was found, returns the exit status."""
  directory = tfds_directory.open_directory(data_dir)
  chosen = choose(directory, layout)
  broken = 0
  for name in [split] if split else directory.splits:
    steps = rlds.RobotSteps(
        data_dir, name, chosen, index_dir=index_dir, on_bad='skip', max_bad_share=1)
    print_report(steps.report)
    broken += sum(steps.report['faults'].values())
  return int(broken > 0 and on_bad == 'error')


def choose(directory: tfds_directory.Directory, layout: str | None) -> layouts.Layout:
  """The layout that was named, or the one that fits; says which and why."""
  if layout:
    return layouts.resolve(layout)
  found, why = layouts.detect(directory)
  print(f'layout {found.name}: {why}')
  return found


def print_report(report: dict):
  """Prints the counts of one split, and what is broken in it."""
  print(f'{report["name"]}: {report["examples"]} examples from {report["steps"]} steps of '
        f'{report["episodes"]} episodes, {report["instructions"]} instructions; '
        f'index {report["index"]}')
  for reason, count in sorted(report['left_out'].items()):
    print(f'  left out, {reason}: {count}')
  for reason, count in sorted(report['faults'].items()):
    print(f'  BROKEN, {reason}: {count}')
    for message in report['first_faults'][reason]:
      print(f'    {message}')


if __name__ == '__main__':
  app.run(main)
