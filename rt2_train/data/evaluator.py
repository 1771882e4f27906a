"""Runs a model over the splits of a mixture, and hands answers to the tasks' SeqIO metrics.

`seqio.Evaluator` keeps every example of every task in memory, pixels included, and wants lengths
that depend on the data. This one reads each split once per evaluation, in order, in batches of
one shape, and calls the same `metric_fns` in the same way.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures

import jax
import numpy as np
import seqio
import tqdm

from rt2_train.data import converters
from rt2_train.data import tasks
from rt2_train.processor import Processor

Features = Mapping[str, np.ndarray]


class Evaluator:
  """Evaluates and infers over one split of every task of a mixture.

  Attributes:
    tasks: the tasks that have the split.
    processor: what their examples are made with.
  """

  def __init__(
      self,
      mixture_or_task_name: str,
      batch_size: int,
      processor: Processor,
      *,
      split: str = 'validation',
      max_examples: int | None = None,
  ):
    """Opens the datasets.

    Args:
      mixture_or_task_name: registered with SeqIO.
      batch_size: rows of every batch; the last one is filled up with copies, which are dropped.
      processor: what the tasks' examples were made with.
      split: of every task; a task without it is left out.
      max_examples: at most so many of each task, evenly spread over the split, so that a few
        examples are not all from one episode.

    Raises:
      ValueError: the name is unknown, or no task has the split.
    """
    if batch_size < 1 or (max_examples is not None and max_examples < 1):
      raise ValueError(
          f'batch_size is {batch_size} and max_examples {max_examples}; both must be at least 1')
    every = seqio.get_subtasks(tasks.get(mixture_or_task_name))
    self.tasks = [task for task in every if split in tasks.source_of(task).splits]
    if not self.tasks:
      reasons = '; '.join(f'{task.name}: {tasks.source_of(task).missing}' for task in every)
      raise ValueError(f'no task of {mixture_or_task_name} has split {split!r}. {reasons}')
    self._datasets = {task.name: tasks.source_of(task).open(split) for task in self.tasks}
    self._starts = processor.grammar()[1]
    self._batch_size = batch_size
    self.processor = processor
    self._max_examples = max_examples

  def evaluate(
      self,
      predict: Callable[[Features], np.ndarray] | None = None,
      *,
      predict_with_aux: Callable[[Features], tuple[np.ndarray, Features]] | None = None,
      score: Callable[[Features], np.ndarray] | None = None,
  ) -> dict[str, dict[str, float]]:
    """Task -> metric -> value, for every task that has metrics.

    Args:
      predict: batch -> tokens [B, T]; for metrics of (targets, predictions).
      predict_with_aux: batch -> tokens [B, T], {name: [B, ...]}; for (targets, predictions,
        aux_values).
      score: batch -> log likelihood [B] of the targets; for (targets, scores).

    Raises:
      ValueError: a metric needs a function that was not passed, or two metrics share a name.
    """
    results = {}
    for task in self.tasks:
      found: dict[str, float] = {}
      for metric_fns, function, name in (
          (task.predict_metric_fns, predict, 'predict'),
          (task.predict_with_aux_metric_fns, predict_with_aux, 'predict_with_aux'),
          (task.score_metric_fns, score, 'score'),
      ):
        if not metric_fns:
          continue
        if function is None:
          raise ValueError(
              f'metric {metric_fns[0].__name__} of task {task.name} needs the function {name}')
        arguments = self._arguments(task, function, name)
        for metric_fn in metric_fns:
          values = metric_fn(*arguments)
          if twice := found.keys() & values.keys():
            raise ValueError(f'two metrics of task {task.name} are called {sorted(twice)}')
          found.update(values)
      if found:
        results[task.name] = found
    return results

  def infer(self, predict: Callable[[Features], np.ndarray]) -> Iterator[dict[str, object]]:
    """JSON-able dicts, one per example, in order.

    Yields:
      example_id, source (task name), prompt, target and prediction (text), prediction_ids; and
      where the target is an action, target_action and action in physical units (None for an
      answer that is no action).
    """
    words = self.processor.vocabulary.decode
    for task in self.tasks:
      for i, example, prediction in self._run(task, predict):
        prediction = tasks.VOCABULARY.decode(prediction.tolist())
        row = {
            'example_id': self._datasets[task.name].example_id(i),
            'source': task.name,
            'prompt': words(example['inputs']),
            'target': words(example['targets']),
            'prediction': words(prediction),
            'prediction_ids': prediction,
        }
        if (target_action := self._action(example['targets'], task)) is not None:
          row['target_action'] = target_action
          row['action'] = self._action(prediction, task)
        yield row

  def _arguments(self, task: seqio.Task, function, name: str) -> tuple:
    """What SeqIO passes to a metric function: targets and outputs, decoded and postprocessed."""
    targets, outputs = [], []
    for _, example, output in self._run(task, function):
      targets.append(_postprocessed(task, example, example['targets'], is_target=True))
      if name == 'predict':
        output = _postprocessed(task, example, output, is_target=False)
      elif name == 'predict_with_aux':
        output = (_postprocessed(task, example, output[0], is_target=False), output[1])
      outputs.append(output)
    if name == 'predict_with_aux':
      predictions, rows = zip(*outputs)
      aux = {key: np.array([row[key] for row in rows]) for key in rows[0]}
      return targets, list(predictions), aux
    return targets, outputs if name == 'predict' else np.array(outputs)

  def _run(self, task: seqio.Task, function) -> Iterator[tuple[int, Features, object]]:
    """(position, tokens of the example, row of what `function` returns) for every example."""
    dataset = self._datasets[task.name]
    count = min(len(dataset), self._max_examples or len(dataset))
    chosen = [i * len(dataset) // count for i in range(count)]
    batches = [chosen[begin:begin + self._batch_size]
               for begin in range(0, count, self._batch_size)]
    with futures.ThreadPoolExecutor(1, 'evaluator') as reader, tqdm.tqdm(
        total=count, desc=f'eval {task.name}', unit='ex', disable=jax.process_index() != 0
    ) as progress:
      ahead = reader.submit(self._read, task.name, batches[0])
      for number, positions in enumerate(batches):
        batch, examples = ahead.result()
        # The next batch is read while the model works on this one.
        if number + 1 < len(batches):
          ahead = reader.submit(self._read, task.name, batches[number + 1])
        output = jax.tree.map(np.asarray, function(batch))
        for row, (i, example) in enumerate(zip(positions, examples)):
          yield i, example, jax.tree.map(lambda rows: rows[row], output)
        progress.update(len(positions))

  def _read(self, task: str, positions: Sequence[int]) -> tuple[Features, list[Features]]:
    """A whole batch, and the tokens of the examples that are not copies."""
    dataset = self._datasets[task]
    batch = converters.Batch(self._batch_size, self.processor)
    examples = []
    for row in range(self._batch_size):
      i = positions[min(row, len(positions) - 1)]
      example = tasks.read_example(dataset, i, task)
      try:
        batch.put(row, example, tasks.source_id(task))
      except ValueError as error:
        raise ValueError(tasks.failure(task, dataset.example_id(i), error)) from error
      if row < len(positions):
        kept = {key: example[key] for key in ('inputs', 'targets')}
        if hasattr(dataset, 'answers'):
          kept['answers'] = dataset.answers(i)
        examples.append(kept)
    start = self._starts[tasks.answered_with(dataset)]
    grammar_state_B = np.full(self._batch_size, start, np.int32)
    return {**batch.features(), 'grammar_state': grammar_state_B}, examples

  def _action(self, tokens: Sequence[int], task: seqio.Task) -> list[float] | None:
    try:
      if tasks.answered_with(self._datasets[task.name]) == 'plan':
        _, tokens = self.processor.split_plan(tokens)
      return self.processor.action_from_tokens(tokens).tolist()
    except ValueError:
      return None


def _postprocessed(task: seqio.Task, example: Features, tokens: np.ndarray, is_target: bool):
  """Ids up to EOS, through the task's postprocessor if it has one."""
  ids = tasks.VOCABULARY.decode(tokens.tolist())
  return task.postprocess_fn(ids, example=example, is_target=is_target)
