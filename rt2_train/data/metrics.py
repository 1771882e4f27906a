"""What answers are worth: SeqIO metric functions for actions and for text.

Both take token ids, since overwritten action tokens do not survive text. They close over a
processor; a task's `metric_fns` are thin functions `(targets, predictions)` around them.

Shape suffixes: N examples, D action dimensions.
"""

from collections.abc import Sequence
import re
import string

import numpy as np

from rt2_train import actions as actions_lib
from rt2_train.processor import Processor

_ARTICLES = re.compile(r'\b(a|an|the)\b')
_PUNCTUATION = str.maketrans('', '', string.punctuation)


def actions(
    targets: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]], processor: Processor
) -> dict[str, float]:
  """How near predicted actions are to the demonstrated ones.

  An answer that is no action is wrong in every dimension, and as far off as the dimension is wide.

  Returns:
    exact_match: share of answers equal in all dimensions.
    valid: share of answers that are an action.
    token_accuracy and token_accuracy/NAME: share of equal integers.
    bin_error and bin_error/NAME: mean distance in bins.
    l1/NAME: mean distance in the unit of a continuous dimension.
    terminate/precision, /recall, /f1: of stopping, 0 where nothing can be divided; and
      terminate/stops, how many targets stop. Only where the action space has `terminate`.
  """
  space = processor.action_space
  target_NxD = np.array([processor.integers_from_tokens(target) for target in targets])
  predicted_NxD = np.zeros_like(target_NxD)
  valid_N = np.zeros(len(targets), bool)
  for row, prediction in enumerate(predictions):
    try:
      predicted_NxD[row] = processor.integers_from_tokens(prediction)
      valid_N[row] = True
    except ValueError:
      # Not an action: the target's place is only held, `valid_N` is what counts.
      predicted_NxD[row] = target_NxD[row]
  equal_NxD = (predicted_NxD == target_NxD) & valid_N[:, None]
  widest_D = np.array([each.last - each.first for each in space.dimensions])
  bins_NxD = np.where(valid_N[:, None], np.abs(predicted_NxD - target_NxD), widest_D)
  range_D = np.array([each.high - each.low for each in space.dimensions])
  distance_NxD = np.where(
      valid_N[:, None], np.abs(space.decode(predicted_NxD) - space.decode(target_NxD)), range_D)

  values = {
      'exact_match': equal_NxD.all(1).mean(),
      'valid': valid_N.mean(),
      'token_accuracy': equal_NxD.mean(),
      'bin_error': bins_NxD.mean(),
  }
  for d, dimension in enumerate(space.dimensions):
    values[f'token_accuracy/{dimension.name}'] = equal_NxD[:, d].mean()
    values[f'bin_error/{dimension.name}'] = bins_NxD[:, d].mean()
    if dimension.kind == 'continuous':
      values[f'l1/{dimension.name}'] = distance_NxD[:, d].mean()
  if 'terminate' in space.names:
    d = space.names.index('terminate')
    values.update(_stops(
        target_NxD[:, d] == actions_lib.TERMINATE_STOP,
        valid_N & (predicted_NxD[:, d] == actions_lib.TERMINATE_STOP)))
  return {name: float(value) for name, value in values.items()}


def plans(
    targets: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]], processor: Processor
) -> dict[str, float]:
  """`actions` of what stands behind the plans, and `plan`: share of plans that say the same.

  An answer without the marker between plan and action is no plan and no action.
  """
  aimed = [processor.split_plan(target) for target in targets]
  written = []
  for prediction in predictions:
    try:
      written.append(processor.split_plan(prediction))
    except ValueError:
      written.append(('', []))
  same = [normalise(a) == normalise(b) for (a, _), (b, _) in zip(aimed, written)]
  return {
      'plan': float(np.mean(same)),
      **actions([action for _, action in aimed], [action for _, action in written], processor)}


def vqa(
    targets: Sequence[Sequence[str] | Sequence[int]],
    predictions: Sequence[Sequence[int]],
    processor: Processor,
    consensus: bool = True,
    integer_tolerance: int = 0,
) -> dict[str, float]:
  """`accuracy`: how right the answers are, on average.

  Args:
    targets: all answers that people gave to a question, or the ids of the only one.
    predictions: ids.
    processor: of the model.
    consensus: VQAv2's rule: an answer is as right as min(1, people who gave it / 3), on average
      over all choices of nine out of ten people. Otherwise any of the answers is right.
    integer_tolerance: how far an integer (a coordinate) may be off.
  """
  words = processor.vocabulary.decode
  scores = []
  for target, prediction in zip(targets, predictions):
    answers = target if isinstance(target[0], str) else [words(target)]
    predicted = words(prediction)
    same = [matches(answer, predicted, integer_tolerance) for answer in answers]
    if consensus and len(answers) > 1:
      others = [sum(same) - one for one in same]
      scores.append(np.mean([min(1.0, count / 3) for count in others]))
    else:
      scores.append(float(any(same)))
  return {'accuracy': float(np.mean(scores))}


def matches(answer: str, predicted: str, integer_tolerance: int = 0) -> bool:
  """Whether two answers say the same, up to normalisation and `integer_tolerance`.

  A single integer is a count and must be right; two or more are coordinates.
  """
  answer, predicted = normalise(answer).split(), normalise(predicted).split()
  if sum(word.isdecimal() for word in answer) < 2:
    integer_tolerance = 0
  return len(answer) == len(predicted) and all(
      a == b or (a.isdecimal() and b.isdecimal() and abs(int(a) - int(b)) <= integer_tolerance)
      for a, b in zip(answer, predicted))


def normalise(answer: str) -> str:
  """Lower case, without punctuation, articles and extra space: 'The red cup.' is 'red cup'."""
  bare = _ARTICLES.sub(' ', answer.lower().translate(_PUNCTUATION))
  # An answer may be nothing but an article.
  return ' '.join(bare.split()) or answer.lower().strip()


def _stops(target_N: np.ndarray, predicted_N: np.ndarray) -> dict[str, float]:
  hits = int((target_N & predicted_N).sum())
  precision = hits / max(int(predicted_N.sum()), 1)
  recall = hits / max(int(target_N.sum()), 1)
  return {
      'terminate/precision': precision,
      'terminate/recall': recall,
      'terminate/f1': 2 * precision * recall / max(precision + recall, 1e-9),
      'terminate/stops': int(target_N.sum()),
  }
