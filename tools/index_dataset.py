"""Indexes and validates a robot dataset: python -m tools.index_dataset DIR.

DIR is a TFDS directory (features.json, dataset_info.json, TFRecord shards). The index is what
training reads; making it beforehand finds every broken record before a run does. In place of DIR,
--gin_file=my_data.gin reads what that file names for task `robot`, a layout of its own included.
"""

from collections.abc import Callable, Sequence
import copy
import dataclasses
import os
import sys

from absl import app
from absl import flags
import gin

from rt2_train import gin_files
from rt2_train import main as main_lib
from rt2_train.data import layouts
from rt2_train.data import rlds
from rt2_train.data import tfds_directory

_LAYOUT = flags.DEFINE_string(
    'layout', None, f'One of {", ".join(layouts.LAYOUTS)}; by default the gin file\'s, and without '
    'one found from features.json.')
_SPLIT = flags.DEFINE_string(
    'split', None, "The split to read; by default the gin file's, and of a DIR all of them.")
_INDEX_DIR = flags.DEFINE_string(
    'index_dir', None, "Where the index goes; by default the gin file's, or DIR/.rt2_index.")
_ON_BAD = flags.DEFINE_enum(
    'on_bad', 'error', ['error', 'skip'],
    'With error, broken records make the exit status 1; with skip, they are only counted.')

# What says which data a tool reads, for its --help.
SOURCE_FLAGS = ('gin_file', 'layout', 'split', 'index_dir')
for _name in SOURCE_FLAGS:
  flags.declare_key_flag(_name)


@dataclasses.dataclass(frozen=True)
class Source:
  """A robot dataset, and how a tool reads it.

  Attributes:
    directory: its metadata.
    layout: of its steps.
    splits: those to read, such as 'train' or 'train[:95%]'.
    index_dir: where the index goes; beside the data when None.
  """

  directory: tfds_directory.Directory
  layout: layouts.Layout
  splits: tuple[str, ...]
  index_dir: str | None = None

  def steps(self, split: str) -> rlds.RobotSteps:
    """The split; broken records are counted, however many."""
    return rlds.RobotSteps(
        self.directory.path, split, self.layout, index_dir=self.index_dir, on_bad='skip',
        max_bad_share=1)


def main(argv: list[str]) -> int:
  if len(argv) > 2:
    raise app.UsageError('give one directory: python -m tools.index_dataset DIR')
  (source,) = named_sources(argv[1:])
  return index(source, _ON_BAD.value)


def index(source: Source, on_bad: str = 'error') -> int:
  """Indexes the splits, prints what was found, returns the exit status."""
  broken = 0
  # An index is of a whole split, whichever parts of it are trained on.
  for name in dict.fromkeys(split.partition('[')[0] for split in source.splits):
    steps = source.steps(name)
    print_report(steps.report)
    broken += sum(steps.report['faults'].values())
  return int(broken > 0 and on_bad == 'error')


def named_sources(directories: Sequence[str]) -> list[Source]:
  """What the command line names: `directories`, or what its gin file says of task `robot`.

  Directories stand in place of the gin file's, with all their splits; --layout, --split and
  --index_dir in place of what else it says.

  Raises:
    ValueError: no directory is named, the gin file cannot be read, or no layout fits.
  """
  bound = _gin_source()
  if not directories:
    if not bound.get('data_dir'):
      raise ValueError('no directory is named; give DIR, or with --gin_file a file that sets '
                       'mixtures.robot.source.data_dir')
    directories, splits = [bound['data_dir']], (bound.get('splits') or {}).values()
  else:
    splits = ()
  splits = (_SPLIT.value,) if _SPLIT.value else splits
  layout = _LAYOUT.value or bound.get('layout')
  index_dir = _INDEX_DIR.value or bound.get('index_dir')
  return [open_source(directory, layout, splits, index_dir) for directory in directories]


def open_source(
    data_dir: str,
    layout: str | layouts.Layout | None = None,
    splits: Sequence[str] = (),
    index_dir: str | None = None,
) -> Source:
  """Finds what is left open: the layout by features.json, and all splits."""
  directory = tfds_directory.open_directory(data_dir)
  if layout:
    layout = layouts.resolve(layout)
  else:
    layout, why = layouts.detect(directory)
    print(f'layout {layout.name}: {why}')
  return Source(directory, layout, tuple(splits or directory.splits), index_dir)


def _gin_source() -> dict[str, object]:
  """What the gin flags bind of `mixtures.robot.source`."""
  if not flags.FLAGS.gin_file and not flags.FLAGS.gin_bindings:
    return {}
  main_lib.parse_gin()
  # Brings TensorFlow along, which takes seconds that a plain DIR need not wait for.
  from mixtures import robot
  from mixtures import sources

  bound = gin.get_bindings(robot.source, resolve_references=False)
  wanted = ('data_dir', 'layout', 'splits', 'index_dir')
  try:
    # Gin builds what is copied, such as a Layout.
    found = {name: copy.deepcopy(bound[name]) for name in wanted if name in bound}
  except TypeError as error:  # A field of a Layout that has no default.
    raise ValueError(f'gin: {gin_files.message(error)}') from error
  if found.get('data_dir'):
    found['data_dir'] = sources.path(found['data_dir'])
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


def run(main_fn: Callable[[list[str]], int]) -> None:
  """Runs a tool with its flags and gin's; bad input is one line and a status."""

  def guarded(argv: list[str]) -> int:
    try:
      return main_fn(argv)
    except (ValueError, OSError) as error:
      print(f'error: {gin_files.message(error)}', file=sys.stderr)
      return 1

  # TensorFlow only comes along; it must not talk over the report.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  app.run(guarded, argv=main_lib.gin_flags(sys.argv))


if __name__ == '__main__':
  run(main)
