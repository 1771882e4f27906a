"""Task `robot`: one episode dataset in RLDS format, named in gin.

  import mixtures.robot
  mixtures.robot.source.data_dir = '/data/fractal20220817_data/0.1.0'
  mixtures.robot.source.layout = 'fractal'
  mixtures.robot.source.processor = %PROCESSOR
"""

from collections.abc import Mapping, Sequence
import functools

import gin

from rt2_train.data import layouts
from rt2_train.data import metrics
from rt2_train.data import rlds
from rt2_train.data import tasks
from rt2_train.processor import Processor


@gin.configurable
def source(
    data_dir: str | None = None,
    layout: str | layouts.Layout = 'fractal',
    processor: Processor | None = None,
    splits: Mapping[str, str] | None = None,
    index_dir: str | None = None,
    on_bad: str | Mapping[str, str] = 'error',
    max_bad_share: float = 0.001,
) -> tasks.Configured:
  """The dataset behind task `robot`.

  Args:
    data_dir: TFDS directory, the one that holds features.json.
    layout: a name of `layouts.LAYOUTS`, or a Layout of one's own.
    processor: of the model.
    splits: SeqIO split -> TFDS split; default: train -> train, validation -> val.
    index_dir: where the index is kept; default: beside the data.
    on_bad, max_bad_share: what broken data may do, see `faults.enforce`; for data of which some
      episodes have no instruction, as BridgeData V2: {'empty instruction': 'skip'}.

  Raises:
    ValueError: `data_dir` or `processor` is not set.
  """
  for name, value, example in (
      ('data_dir', data_dir, "'/data/fractal20220817_data/0.1.0'"),
      ('processor', processor, '%PROCESSOR'),
  ):
    if value is None:
      raise ValueError(
          f'task robot is not configured; add to the gin file: mixtures.robot.source.{name} = '
          f'{example}')
  splits = splits or {'train': 'train', 'validation': 'val'}
  return tasks.Configured(
      splits={
          name: functools.partial(
              rlds.RobotExamples, data_dir, split, processor, layout, index_dir, on_bad,
              max_bad_share)
          for name, split in splits.items()
      },
      processor=processor,
  )


def actions(targets: Sequence, predictions: Sequence) -> dict[str, float]:
  """`metrics.actions` with the processor of `source`."""
  return metrics.actions(targets, predictions, source().processor)


tasks.add_task(
    'robot', lambda: source().splits, [actions],
    remedy='name its splits in mixtures.robot.source.splits')
