"""Robot episodes in RLDS format: task `robot`, and how to add others.

  import mixtures.robot
  mixtures.robot.source.data_dir = '/data/fractal20220817_data/0.1.0'
  mixtures.robot.source.layout = 'fractal'
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import inspect

from mixtures import sources
from rt2_train.data import metrics
from rt2_train.data import rlds
from rt2_train.data import tasks

# Options that name files of data beside the episodes.
_FILES = ('annotation_file', 'paraphrase_file')
_EXAMPLE = '/data/fractal20220817_data/0.1.0'


def dataset(module: str, name: str, reader: Callable, **fixed: object) -> sources.Source:
  """What gin configures of an episode dataset, for `module` to keep under `name`.

  Gin names `data_dir` (a TFDS directory, the one that holds features.json) and `splits` (SeqIO
  split -> TFDS split; train -> train and validation -> val when it says nothing), and may set any
  option of the reader.

  Args:
    module: with `name` it is gin's name for the dataset.
    name: see `module`.
    reader: opens one split: reader(data_dir, split, processor, option=...).
    **fixed: options whose defaults differ from the reader's.
  """

  def of_gin(
      data_dir: str | None = None, splits: Mapping[str, str] | None = None, **options
  ) -> tasks.Splits:
    if data_dir is None:
      return {}
    processor = sources.the_model(f'of {module}.{name}')
    options.update({key: sources.path(options[key]) for key in _FILES if options.get(key)})
    return {
        ours: functools.partial(
            reader, sources.path(data_dir), theirs, processor, **{**fixed, **options})
        for ours, theirs in (splits or {'train': 'train', 'validation': 'val'}).items()}

  own = [parameter for key, parameter in inspect.signature(of_gin).parameters.items()
         if key != 'options']
  options = sources.options(reader, fixed, ('data_dir', 'split', 'processor'))
  return sources.configurable(module, name, of_gin, [*own, *options.values()], reader.__doc__)


def register(
    task: str,
    source: sources.Source,
    metric: Callable[..., Mapping[str, float]] = metrics.actions,
    example: str = _EXAMPLE,
) -> None:
  """Registers the task of a `dataset`.

  Args:
    task: its name.
    source: what gin says of it.
    metric: of (targets, predictions, processor).
    example: of a directory, for messages.
  """

  def judged(targets: Sequence, predictions: Sequence) -> dict[str, float]:
    return metric(targets, predictions, sources.model())

  judged.__name__ = metric.__name__
  name = sources.name_of(source)
  sources.register(
      task, source, [judged],
      remedy=f"add to the gin file: {name}.data_dir = '{example}'; its splits are named in "
             f'{name}.splits')


source = dataset('mixtures.robot', 'source', rlds.RobotExamples)
register('robot', source)

rates = sources.rates('mixtures.robot', {'robot': 1.0})
