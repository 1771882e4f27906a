"""How much of what a checkpoint says is left when it is exported in fewer bits."""

from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np

from rt2_train.evaluation import offline


@dataclasses.dataclass
class Agreement:
  """Counts over the examples of one task.

  Attributes:
    answers, same_answers: how many, and how many of them are the same to the last token.
    tokens, same_tokens: positions up to the longer answer's end, EOS included, and how many of
      them hold the same token. Each model goes on from its own tokens, so that one difference
      may bring others after it.
  """

  answers: int = 0
  same_answers: int = 0
  tokens: int = 0
  same_tokens: int = 0

  def add(self, first_T: np.ndarray, second_T: np.ndarray) -> None:
    """Counts one example: two answers int32 [T], padded with 0 behind EOS."""
    written_T = (first_T != 0) | (second_T != 0)
    same_T = (first_T == second_T) & written_T
    self.answers += 1
    self.same_answers += int(same_T.sum() == written_T.sum())
    self.tokens += int(written_T.sum())
    self.same_tokens += int(same_T.sum())


def measure(
    *, checkpoint_path: str, exported_path: str, evaluator: Callable[..., Any],
) -> dict[str, Agreement]:
  """The agreement of an exported checkpoint with the checkpoint on held-out data, per task.

  Args:
    checkpoint_path: a run's directory or one of its checkpoints.
    exported_path: what was exported of it.
    evaluator: makes an object with `infer(predict)`.

  Raises:
    FileNotFoundError: there is no such checkpoint or export.
    ValueError: either reads or writes tokens otherwise than the evaluator's tasks.
  """
  answers = []
  for path in (checkpoint_path, exported_path):
    policy, asked = offline.load(path, evaluator=evaluator)
    answers.append([
        (row['source'], np.array(row['prediction_ids'])) for row in asked.infer(policy.predict_batch)])
  result: dict[str, Agreement] = {}
  for (task, first_T), (_, second_T) in zip(*answers, strict=True):
    result.setdefault(task, Agreement()).add(first_T, second_T)
  return result
