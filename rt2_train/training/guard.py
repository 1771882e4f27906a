"""Watches the numbers of every step: what is not finite is not applied, what jumps is told.

The step itself leaves parameters and optimizer as they were if its loss or gradient is not finite
(see step.make_train_step); here it is noticed, its examples are written down, and the run ends or
goes on.
"""

from collections.abc import Callable, Mapping, Sequence
import json
import math
import os
from typing import Any

from absl import logging
import jax
import numpy as np

from rt2_train import run_files

FOLDER = 'not_finite'

# A loss jumps when it exceeds what it was by this many standard deviations, and by half.
_DEVIATIONS, _RATIO = 6.0, 1.5
# Steps over which mean and deviation forget, and before which nothing is judged.
_MEMORY, _WARM_UP = 100, 50


class Guard:
  """Looks at the metrics of every step."""

  def __init__(
      self,
      model_dir: str,
      examples: Callable[[int], Sequence[tuple[str, str]]],
      patience: int | None,
      active: bool = True,
  ):
    """Starts with no history.

    Args:
      model_dir: gets not_finite/step_<n>.json, with the examples of each such step.
      examples: (source, id) of every example of the step of that number, counted from 0.
      patience: how many steps in a row may be not finite; None lets any number pass.
      active: whether this process writes files and log lines.
    """
    self._directory = os.path.join(model_dir, FOLDER)
    self._examples, self._patience, self._active = examples, patience, active
    self._losses: dict[str, _Recent] = {}
    self._in_a_row = 0
    self.not_finite = 0

  def look(self, step: int, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Waits for the metrics of a step and fetches them; None if the step was not applied.

    Raises:
      ValueError: more steps in a row than `patience` were not finite; names sources and file.
    """
    metrics = jax.device_get(dict(metrics))
    broken = not_finite(metrics)
    if not broken:
      self._in_a_row = 0
      self._tell_jumps(step, metrics)
      return metrics
    self.not_finite += 1
    self._in_a_row += 1
    path = os.path.join(self._directory, f'step_{step}.json')
    said = f'not finite in step {step}: {", ".join(broken)}; its examples are in {path}'
    if self._active:
      by_source = {}
      for source, example in self._examples(step - 1):
        by_source.setdefault(source, []).append(example)
      found = {'step': step, 'not_finite': broken, 'examples': by_source}
      run_files.write(path, json.dumps(found, indent=2) + '\n')
    if self._patience is not None and self._in_a_row > self._patience:
      raise ValueError(
          f'{said}; the step is not applied. Look at them, train with a lower learning rate, a '
          'longer warm-up or gradient clipping, or let more such steps pass with '
          'MAX_NOT_FINITE_STEPS')
    if self._active:
      logging.warning('%s; the step is not applied', said)
    return None

  def _tell_jumps(self, step: int, metrics: Mapping[str, Any]) -> None:
    for name, metric in metrics.items():
      if not name.startswith('loss/') or not np.all(metric.count):
        continue
      value = float(metric.compute())
      before = self._losses.setdefault(name, _Recent())
      if before.jumps(value) and self._active:
        logging.warning(
            'loss spike in step %d: %s is %.4g after %.4g', step, name, value, before.mean)
      before.add(value)


def not_finite(metrics: Mapping[str, Any]) -> list[str]:
  """Names of the losses, and of the gradient's norm, that are inf or NaN; metrics are fetched."""
  return [
      name for name, metric in sorted(metrics.items())
      if name.startswith(('loss', 'gradient_norm')) and not np.isfinite(metric.total)
  ]  # pyformat: disable


class _Recent:
  """Mean and deviation of the last values, older ones counting less and less."""

  def __init__(self):
    self.mean, self._variance, self._count = 0.0, 0.0, 0

  def jumps(self, value: float) -> bool:
    above = value - self.mean
    return (
        self._count >= _WARM_UP
        and above > _DEVIATIONS * math.sqrt(self._variance)
        and value > _RATIO * self.mean
    )

  def add(self, value: float) -> None:
    self._count += 1
    share = 1.0 / min(self._count, _MEMORY)
    change = value - self.mean
    self.mean += share * change
    self._variance = (1.0 - share) * (self._variance + share * change * change)
