"""What gin may say of a dataset, and the SeqIO task that it becomes.

A module of sources is a table: each row has a name, the class that reads its files, and what is
fixed about it. Gin names the files, per split, and may set any option of the reader:

  import mixtures.sources
  import mixtures.web
  mixtures.sources.files.below = '/data'  # of paths that do not begin with a slash
  mixtures.web.vqa.questions = {'train': 'vqa/train_q.json', 'validation': 'vqa/val_q.json'}
  mixtures.web.vqa.annotations = {'train': 'vqa/train_a.json', 'validation': 'vqa/val_a.json'}
  mixtures.web.vqa.images = {'train': 'coco/train/{image_id:012d}.jpg', 'validation': ...}
  mixtures.web.rates.vqa = 2.0

A source without files leaves its weight to the others of its mixture, and the mixture's report
says so.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import inspect
import os

import gin
import seqio

from rt2_train.data import metrics
from rt2_train.data import tasks
from rt2_train.processor import Processor

Source = Callable[..., tasks.Configured]
# Of a reader, what is not gin's to say.
_FIXED = ('self', 'processor', 'name')

# Task -> what gin says of it, for those that look for all of them.
ALL: dict[str, Source] = {}


@gin.configurable
def model(processor: Processor | None = None) -> Processor | None:
  """The model that all sources make examples for; gin/data/processor.gin binds it."""
  return processor


@gin.configurable
def files(below: str = '') -> str:
  """The directory that relative paths of data start from; where the command runs by default."""
  return below


def path(of_gin: str) -> str:
  """A path as gin gives it, below `files`."""
  return os.path.join(files(), of_gin)


@gin.configurable
def accuracy(consensus: bool = True, integer_tolerance: int = 0) -> dict[str, object]:
  """How answers to questions are judged, see `metrics.vqa`; the defaults are VQAv2's rule."""
  return {'consensus': consensus, 'integer_tolerance': integer_tolerance}


def add(
    module: str,
    name: str,
    reader: type,
    *,
    task: str | None = None,
    judged: bool = False,
    **fixed: object,
) -> Source:
  """Registers a source of files and its task; returns what gin configures, for `module` to keep.

  Args:
    module: where the source is kept; with `name` it is gin's name for it.
    name: of the source.
    reader: opens one split: reader(*paths, processor, *, option=...). Its parameters before
      `processor` are paths, which gin gives as {split: path}; its options are gin's too.
    task: name of the task; `name` when None.
    judged: whether an answer is right or wrong; a caption has many right wordings.
    **fixed: options of the reader that make the source what it is; gin may still say otherwise.
  """
  task = task or name
  parameters = inspect.signature(reader.__init__).parameters
  paths = list(parameters)[1:list(parameters).index('processor')]
  if parameters['name'].default is not None:
    fixed['name'] = task  # What errors call it; where None, the reader calls it as its files are.

  def source(**given) -> tasks.Configured:
    found = {key: given.pop(key, None) for key in paths}
    return _configured(
        f'{module}.{name}', task, found, functools.partial(reader, **{**fixed, **given}))

  source = configurable(module, name, source, [
      parameter.replace(
          default=None if key in paths else fixed.get(key, parameter.default))
      for key, parameter in parameters.items() if key not in _FIXED], reader.__doc__)
  ALL[task] = source
  tasks.add_task(
      task, lambda: source().splits, [_accuracy] if judged else [],
      remedy=f'name its files in {module}.{name}.{paths[0]}'
      + (' and the other parameters' if paths[1:] else ''),
      postprocess_fn=_all_answers)
  return source


def absent(task: str, why: str) -> None:
  """Registers a task that the paper has and this project has not, for reports to name."""
  ALL[task] = lambda: tasks.Configured({}, None)
  tasks.add_task(task, dict, remedy=why)


def rates(module: str, weights: Mapping[str, float]) -> Callable[[], dict[str, float]]:
  """What gin configures as `module`.rates: the relative weight of each task, by name."""

  def weights_of(**given: float) -> dict[str, float]:
    return {**weights, **given}

  return configurable(module, 'rates', weights_of, [
      inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=weight)
      for name, weight in weights.items()], f'Relative weights of the sources of {module}.')


def configurable(
    module: str,
    name: str,
    function: Callable,
    parameters: Sequence[inspect.Parameter],
    doc: str | None,
) -> Callable:
  """`function` of keyword arguments, for gin to know as `module`.`name`(`parameters`)."""
  function.__module__, function.__name__, function.__qualname__ = module, name, name
  function.__doc__ = doc
  # What gin checks names against.
  function.__signature__ = inspect.Signature(
      [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters])
  return gin.configurable(name, module=module)(function)


def name_of(function: Callable) -> str:
  """Gin's name of what `configurable` made."""
  if isinstance(function, functools.partial):
    function = function.func
  return f'{function.__module__}.{function.__name__}'


def share(weights: Callable[[], Mapping[str, float]], task: seqio.Task) -> float:
  """Share of `task` in those of `weights` that are configured; 0 for one that is not.

  Raises:
    ValueError: all that are configured have weight 0.
  """
  used = {name: weight for name, weight in weights().items() if ALL[name]().splits}
  if task.name not in used:
    return 0.0
  if not sum(used.values()):
    raise ValueError(
        f'the weights of all sources that have files are 0 ({", ".join(sorted(used))}); raise one '
        f'in {name_of(weights)}')
  return used[task.name] / sum(used.values())


def add_mixture(name: str, *parts: tuple[Callable[[], float], Callable[[], Mapping[str, float]]]):
  """Registers mixture `name`: each part has a share of every batch, and its sources share that.

  Raises (when the mixture is read):
    ValueError: a part with a share above 0 has no source with files, or its weights are all 0.
  """

  def rate(part: Callable[[], float], weights: Callable, task: seqio.Task) -> float:
    if not part():
      return 0.0
    names = list(weights())
    if not any(ALL[other]().splits for other in names):
      raise ValueError(
          f'mixture {name}: none of {", ".join(names)} has files. {names[0]}: '
          f'{tasks.source_of(tasks.get(names[0])).missing}')
    return part() * share(weights, task)

  seqio.MixtureRegistry.add(name, [
      (task, functools.partial(rate, part, weights))
      for part, weights in parts for task in weights()])


def check_model(task: str, processor: Processor | None) -> None:
  """Raises ValueError where nothing says which model a task's files are read for."""
  if processor is None:
    raise ValueError(f'task {task} has files but no model to read them for; add to the gin file: '
                     'mixtures.sources.model.processor = %PROCESSOR')


def _configured(
    where: str, task: str, paths: Mapping[str, Mapping[str, str] | None], reader: Callable
) -> tasks.Configured:
  """One dataset per split that all of `paths` name; none at all if nothing is set."""
  processor = model()
  if not any(paths.values()):
    return tasks.Configured({}, processor)
  for key, per_split in paths.items():
    if not per_split:
      raise ValueError(f'task {task} is half configured; add to the gin file: {where}.{key}')
    if not isinstance(per_split, Mapping):
      raise ValueError(f'{where}.{key} is {per_split!r}; it takes a path per split: '
                       f"{{'train': {per_split!r}}}")
  check_model(task, processor)
  splits = sorted(set().union(*paths.values()))
  for key, per_split in paths.items():
    if absent_splits := [split for split in splits if split not in per_split]:
      raise ValueError(
          f'task {task}: split {absent_splits[0]!r} is not in {where}.{key}, but in another '
          'parameter; name it in all or in none')
  return tasks.Configured(
      splits={
          split: functools.partial(
              reader, *(path(per_split[split]) for per_split in paths.values()), processor)
          for split in splits
      },
      processor=processor)


def judged_answers(
    targets: Sequence, predictions: Sequence, processor: Processor) -> dict[str, float]:
  """`metrics.vqa` by the rule that gin configures as `accuracy`."""
  return metrics.vqa(targets, predictions, processor, **accuracy())


def _accuracy(targets: Sequence, predictions: Sequence) -> dict[str, float]:
  return judged_answers(targets, predictions, model())


def _all_answers(ids: Sequence[int], example: Mapping | None = None, is_target: bool = False, **_):
  """Questions are judged against everything people answered, not only what is learnt."""
  return example['answers'] if is_target and example and 'answers' in example else ids
