"""Evaluation during training: losses on held-out data, and answers judged by a task's metrics.

An evaluator is called as evaluator(model, params, partitioner) and returns {task: {metric: value}};
`train` writes that to MODEL_DIR/<name of the evaluator>/<task>. Evaluators open their data when
they are made, so that missing data end a run at its start.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from rt2_train.training import guard
from rt2_train.training import hosts
from rt2_train.training import metrics as metrics_lib
from rt2_train.training import partitioning
from rt2_train.training import step as step_lib

Results = dict[str, dict[str, float]]


class TrainingEval:
  """Losses and accuracies of given answers (T5X's train_eval), per task and over 'all'."""

  def __init__(self, data: Callable[[], Any], num_batches: int):
    """Reads the first `num_batches` batches of the loader that `data` opens, each time the same."""
    self._data, self._num_batches = data(), num_batches
    self._eval_step = None

  def __call__(self, model: Any, params: Any, partitioner: partitioning.Partitioner) -> Results:
    data = self._data
    data.seek(0)
    if self._eval_step is None:
      data.select(hosts.rows(partitioner, data.batch_size))
      eval_step = step_lib.make_eval_step(model, sources=data.sources)
      self._eval_step = jax.jit(eval_step, out_shardings=partitioner.replicated)
    window = metrics_lib.Window()
    with partitioner.scope():
      for i in range(self._num_batches):
        rows = partitioner.batch(next(data))
        metrics = jax.device_get(self._eval_step(params, rows))
        if broken := guard.not_finite(metrics):
          raise ValueError(f'evaluation: not finite in batch {i}: {", ".join(broken)}')
        window.add(metrics)
    results: Results = {}
    for name, value in window.take().items():
      metric, _, task = name.partition('/')
      # Metrics of a source are named metric/source; others may have a slash of their own.
      task = task if task in data.sources.values() else ''
      results.setdefault(task or 'all', {})[metric if task else name] = value
    return results


class InferenceEval:
  """Answers, decoded and judged by the tasks' own metric functions (T5X's infer_eval)."""

  def __init__(self, evaluator: Callable[[], Any]):
    """`evaluator` makes what has evaluate(predict) -> Results; predict(batch) -> tokens [B, T]."""
    self._evaluator = evaluator()
    self._predict = None

  def __call__(self, model: Any, params: Any, partitioner: partitioning.Partitioner) -> Results:
    if self._predict is None:
      decode = lambda params, batch: model.predict_batch_with_aux(params, batch)[0]
      # Every process judges all answers: what they are judged by is not on devices.
      self._predict = jax.jit(decode, out_shardings=partitioner.replicated)

    def predict(batch: Mapping[str, np.ndarray]) -> np.ndarray:
      mine = hosts.rows(partitioner, len(batch['source']))
      with partitioner.scope():
        held = partitioner.batch({name: rows[mine] for name, rows in batch.items()})
        return np.asarray(self._predict(params, held))

    return self._evaluator.evaluate(predict)
