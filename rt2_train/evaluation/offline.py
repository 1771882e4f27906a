"""Evaluates a checkpoint on held-out data, or writes its answers, without a robot.

The checkpoint brings its model, processor and parameters along; which data it is asked about is an
evaluator handed in by gin, driven by the tasks' SeqIO metrics (`data.evaluator`).
"""

from collections.abc import Callable
import json
from typing import Any

from absl import logging

from rt2_train import run_files
from rt2_train.serving import policy as policy_lib


def evaluate(
    *,
    checkpoint_path: str,
    evaluator: Callable[..., Any],
    output_path: str | None = None,
    step: int | None = None,
    ema: bool | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
  """Prints, writes and returns {task: {metric: value}}.

  Args:
    checkpoint_path: a run's directory or one of its checkpoints.
    evaluator: makes an object with `evaluate(predict)`.
    output_path: JSON file to write.
    step: of the checkpoint; the newest by default.
    ema: evaluate the averaged parameters; by default where the run kept them.
    temperature: of sampling; 0 takes the likeliest token.
    seed: of sampling.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    ValueError: the checkpoint's processor is not the one the evaluator's tasks are read with.
  """
  policy, asked = load(
      checkpoint_path, step=step, ema=ema, temperature=temperature, seed=seed, evaluator=evaluator)
  metrics = asked.evaluate(policy.predict_batch)
  for task, values in metrics.items():
    for name, value in values.items():
      print(f'{task:16s} {name:32s} {value:10.4f}')
  if output_path:
    run_files.write(output_path, json.dumps(metrics, indent=2) + '\n')
    logging.info('wrote %s', output_path)
  return metrics


def infer(
    *,
    checkpoint_path: str,
    evaluator: Callable[..., Any],
    output_path: str,
    step: int | None = None,
    ema: bool | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> int:
  """Writes one JSON line per example: prompt, target, prediction; returns their number.

  Arguments and errors are those of `evaluate`.
  """
  policy, asked = load(
      checkpoint_path, step=step, ema=ema, temperature=temperature, seed=seed, evaluator=evaluator)
  lines = [json.dumps(record) for record in asked.infer(policy.predict_batch)]
  run_files.write(output_path, '\n'.join(lines) + '\n')
  logging.info('wrote %d answers to %s', len(lines), output_path)
  return len(lines)


def load(
    checkpoint_path: str, *, evaluator: Callable[..., Any], **how: Any,
) -> tuple[policy_lib.Policy, Any]:
  """The policy and the evaluator, which must read and write tokens alike.

  Args:
    checkpoint_path: a run's directory, one of its checkpoints, or what was exported.
    evaluator: makes an object with a processor.
    **how: handed to `Policy.from_checkpoint`.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    ValueError: the checkpoint's processor is not the one the evaluator's tasks are read with.
  """
  policy = policy_lib.Policy.from_checkpoint(checkpoint_path, **how)
  asked = evaluator()
  if asked.processor.fingerprint != policy.processor.fingerprint:
    raise ValueError(
        f'the processor of {checkpoint_path} (vocabulary, action space, image size or lengths) is '
        'not the one these data are read with; give gin/runs/eval.gin after the data file, which '
        'takes it from the checkpoint'
    )
  return policy, asked
