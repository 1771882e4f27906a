"""How much of what a checkpoint says is left when it is exported in fewer bits."""

from collections.abc import Callable, Sequence
import dataclasses
import itertools
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

  def add(self, first: Sequence[int], second: Sequence[int]) -> None:
    """Counts one example: the tokens of two answers; padding, which is 0, is not looked at."""
    first_T, second_T = np.array(list(itertools.zip_longest(first, second, fillvalue=0))).T
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
    rows = asked.infer(policy.predict_batch)
    answers.append([(row['source'], row['prediction_ids']) for row in rows])
  result: dict[str, Agreement] = {}
  for (task, first), (_, second) in zip(*answers, strict=True):
    result.setdefault(task, Agreement()).add(first, second)
  return result
