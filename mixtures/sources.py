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

A source without files leaves its weight to the others of its part of a mixture, and the mixture's
report says so.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import inspect
import math
import os

import gin
import seqio

from rt2_train.data import metrics
from rt2_train.data import tasks
from rt2_train.processor import Processor

Source = Callable[..., tasks.Splits]
Weights = Callable[[], Mapping[str, float]]

# Task -> gin's name of its source, for those who look for all of them.
NAMES: dict[str, str] = {}


@gin.configurable
def model(processor: Processor | None = None) -> Processor | None:
  """The model that all sources make examples for; gin/data/processor.gin binds it."""
  return processor


@gin.configurable
def files(below: str = '') -> str:
  """The directory that relative paths of data start from; where the command runs by default."""
  return below


@gin.configurable
def accuracy(consensus: bool = True, integer_tolerance: int = 0) -> dict[str, object]:
  """How answers to questions are judged, see `metrics.vqa`; the defaults are VQAv2's rule."""
  return {'consensus': consensus, 'integer_tolerance': integer_tolerance}


def path(of_gin: str) -> str:
  """A path as gin gives it, below `files`."""
  return os.path.join(files(), of_gin)


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
  parameters = inspect.signature(reader).parameters
  paths = list(parameters)[:list(parameters).index('processor')]
  if parameters['name'].default is not None:
    fixed['name'] = task  # What errors call it; where None, the reader calls it as its files are.

  def splits(**given) -> tasks.Splits:
    found = {key: given.pop(key, None) for key in paths}
    return _splits(f'{module}.{name}', task, found, functools.partial(reader, **{**fixed, **given}))

  source = configurable(module, name, splits, [
      parameter.replace(default=None) if key in paths else parameter
      for key, parameter in options(reader, fixed, ('processor', 'name')).items()], reader.__doc__)
  register(
      task, source, [_accuracy] if judged else [],
      remedy=f'name its files in {module}.{name}.{paths[0]}'
      + (' and the other parameters' if paths[1:] else ''),
      postprocess_fn=_all_answers)
  return source


def absent(task: str, why: str) -> None:
  """Registers a task that the paper has and this project has not, for reports to name."""
  NAMES[task] = ''
  tasks.add_task(task, dict, remedy=why)


def register(task: str, source: Source, metric_fns: Sequence[Callable], **options_) -> None:
  """Registers the task of a source; options are those of `tasks.add_task`."""
  NAMES[task] = name_of(source)
  tasks.add_task(task, source, metric_fns, **options_)


def rates(module: str, weights: Mapping[str, float]) -> Weights:
  """What gin configures as `module`.rates: the relative weight of each task, by name.

  Raises (when it is called):
    ValueError: a weight is negative, not finite, or no number.
  """

  def weights_of(**given: float) -> dict[str, float]:
    for task, weight in given.items():
      if not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
        raise ValueError(f'{module}.rates.{task} is {weight!r}; a weight is a number of 0 or more')
    return {**weights, **given}

  return configurable(module, 'rates', weights_of, [
      inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=weight)
      for name, weight in weights.items()], f'Relative weights of the sources of {module}.')


def add_mixture(name: str, *parts: tuple[Callable[[], float], Weights]) -> None:
  """Registers mixture `name`: each part has a share of every batch, and its sources share that.

  Raises (when the mixture is read):
    ValueError: no source of a part with a share above 0 has files, or their weights are all 0.
  """
  seqio.MixtureRegistry.add(name, [
      (task, functools.partial(_rate, name, part, weights))
      for part, weights in parts for task in weights()])


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


def options(
    reader: Callable, fixed: Mapping[str, object], but: Sequence[str]
) -> dict[str, inspect.Parameter]:
  """The parameters of a reader, but some, with what is fixed as defaults."""
  parameters = inspect.signature(functools.partial(reader, **fixed)).parameters
  return {key: parameter for key, parameter in parameters.items() if key not in but}


def name_of(function: Callable) -> str:
  """Gin's name of what `configurable` made."""
  if isinstance(function, functools.partial):
    function = function.func
  return f'{function.__module__}.{function.__name__}'


def the_model(task: str) -> Processor:
  """`model`; ValueError where nothing says which model the files of `task` are read for."""
  if (processor := model()) is None:
    raise ValueError(f'task {task} has files but no model to read them for; add to the gin file: '
                     'mixtures.sources.model.processor = %PROCESSOR')
  return processor


def judged_answers(
    targets: Sequence, predictions: Sequence, processor: Processor) -> dict[str, float]:
  """`metrics.vqa` by the rule that gin configures as `accuracy`."""
  return metrics.vqa(targets, predictions, processor, **accuracy())


def _rate(mixture: str, part: Callable[[], float], weights: Weights, task: seqio.Task) -> float:
  """Share of `task` in `mixture`, of which `weights` share `part`."""
  whole, weights_of = part(), weights()
  if not whole:
    return 0.0
  if not any(tasks.source_of(tasks.get(name)).splits for name in weights_of):
    first = next(iter(weights_of))
    raise ValueError(
        f'mixture {mixture}: none of {", ".join(weights_of)} has files. {first}: '
        f'{tasks.source_of(tasks.get(first)).missing}')
  used = {name: weight for name, weight in weights_of.items() if tasks.takes_part(name)}
  if used and not sum(used.values()):
    raise ValueError(
        f'the weights of all sources that have files are 0 ({", ".join(sorted(used))}); raise one '
        f'in {name_of(weights)}')
  return whole * used[task.name] / sum(used.values()) if task.name in used else 0.0


def _splits(
    where: str, task: str, paths: Mapping[str, Mapping[str, str] | None], reader: Callable
) -> tasks.Splits:
  """One dataset per split that all of `paths` name; none at all if nothing is set."""
  if not any(paths.values()):
    return {}
  for key, per_split in paths.items():
    if not per_split:
      raise ValueError(f'task {task} is half configured; add to the gin file: {where}.{key}')
    if not isinstance(per_split, Mapping):
      raise ValueError(f'{where}.{key} is {per_split!r}; it takes a path per split: '
                       f"{{'train': {per_split!r}}}")
  processor, splits = the_model(task), sorted(set().union(*paths.values()))
  for key, per_split in paths.items():
    if missing := [split for split in splits if split not in per_split]:
      raise ValueError(
          f'task {task}: split {missing[0]!r} is not in {where}.{key}, but in another parameter; '
          'name it in all or in none')
  return {
      split: functools.partial(
          reader, *(path(per_split[split]) for per_split in paths.values()), processor)
      for split in splits}


def _accuracy(targets: Sequence, predictions: Sequence) -> dict[str, float]:
  return judged_answers(targets, predictions, model())


def _all_answers(ids: Sequence[int], example: Mapping | None = None, is_target: bool = False, **_):
  """Questions are judged against everything people answered, not only what is learnt."""
  return example['answers'] if is_target and example and 'answers' in example else ids
