"""What is learnt from text without images: span corruption (T5) and continuation, on token ids.

Both are pure functions of a text's ids and a random generator, and make inputs and targets of the
lengths that a processor allows.

Shape suffixes: N ids of a text, L inputs, T targets.
"""

from collections.abc import Callable
import dataclasses
import functools

import numpy as np

from rt2_train.processor import Processor

Write = Callable[[np.ndarray, Processor, np.random.Generator], tuple[list[int], list[int]]]


@dataclasses.dataclass(frozen=True)
class TextObjective:
  """How inputs and targets are made of a text.

  Attributes:
    name: what gin and reports call it.
    write: pure function of int32 ids [N], a processor and a generator; returns inputs [<=L] and
      targets [<=T], EOS last.
    check: raises ValueError where a processor cannot do it, and says why.
    settings: what else decides what is made of a text.
  """

  name: str
  write: Write
  check: Callable[[Processor], None]
  settings: tuple[float, ...] = ()


def span_corruption(noise_density: float = 0.15, mean_span: float = 3.0) -> TextObjective:
  """T5's objective (sections 3.1.4 and 3.3.4): spans of the text are left out, and answered.

  In the inputs a sentinel stands for each span; the targets are the sentinels, each with its span
  behind it, and one more sentinel for the end. A longer text gives a part of it, drawn at random.

  Args:
    noise_density: share of the tokens that is left out.
    mean_span: tokens of a span, on average.
  """
  if not 0 < noise_density < 1 or mean_span < 1:
    raise ValueError(f'span_corruption: noise_density is {noise_density} and mean_span '
                     f'{mean_span}; the first must be between 0 and 1, the second at least 1')

  def counts(size: int) -> tuple[int, int]:
    """How many of `size` tokens are left out, in how many spans."""
    noise = min(max(round(size * noise_density), 1), size - 1)
    return noise, min(max(round(noise / mean_span), 1), size - noise)

  @functools.lru_cache(maxsize=None)
  def longest(inputs_length: int, targets_length: int, num_sentinels: int) -> int:
    """The most tokens that fit, 1 where two do not."""
    size = 1
    while True:
      noise, spans = counts(size + 1)
      if (size + 1 - noise + spans > inputs_length or noise + spans + 2 > targets_length
          or spans + 1 > num_sentinels):
        return size
      size += 1

  def room(processor: Processor) -> int:
    return longest(processor.inputs_length, processor.targets_length,
                   len(processor.vocabulary.sentinel_ids))

  def check(processor: Processor) -> None:
    if room(processor) < 2:
      raise ValueError(
          'span_corruption needs an inputs_length of 2, a targets_length of 4 and 2 sentinels at '
          f'least; the processor has {processor.inputs_length}, {processor.targets_length} and '
          f'{len(processor.vocabulary.sentinel_ids)}')

  def write(
      ids_N: np.ndarray, processor: Processor, rng: np.random.Generator
  ) -> tuple[list[int], list[int]]:
    sentinels, eos = processor.vocabulary.sentinel_ids, processor.vocabulary.eos_id
    ids_N = _part(ids_N, room(processor), rng)
    if len(ids_N) == 1:
      return [sentinels[0]], [sentinels[0], *ids_N.tolist(), sentinels[1], eos]
    noise, spans = counts(len(ids_N))
    # The text begins with what is kept and ends with what is left out, as T5's does.
    lengths = np.stack([_split(len(ids_N) - noise, spans, rng), _split(noise, spans, rng)], 1)
    pieces = np.split(ids_N, np.cumsum(lengths)[:-1])
    inputs, targets = [], []
    for sentinel, kept, left_out in zip(sentinels, pieces[::2], pieces[1::2]):
      inputs += [*kept.tolist(), sentinel]
      targets += [sentinel, *left_out.tolist()]
    return inputs, [*targets, sentinels[spans], eos]

  return TextObjective('span_corruption', write, check, (noise_density, mean_span))


def continuation() -> TextObjective:
  """Prefix language modelling: a text is cut at a random place, and its rest is the answer.

  A longer text gives a part of it, drawn at random; the part ends in EOS, wherever it was cut.
  """

  def check(processor: Processor) -> None:
    if processor.targets_length < 2:
      raise ValueError('continuation needs a targets_length of 2 at least, a token and EOS; the '
                       f'processor has {processor.targets_length}')

  def write(
      ids_N: np.ndarray, processor: Processor, rng: np.random.Generator
  ) -> tuple[list[int], list[int]]:
    most_inputs, most_targets = processor.inputs_length, processor.targets_length - 1
    ids_N = _part(ids_N, most_inputs + most_targets, rng)
    first, last = max(1, len(ids_N) - most_targets), min(most_inputs, max(1, len(ids_N) - 1))
    cut = int(rng.integers(first, last + 1))
    return ids_N[:cut].tolist(), [*ids_N[cut:].tolist(), processor.vocabulary.eos_id]

  return TextObjective('continuation', write, check)


def resolve(objective: str | TextObjective) -> TextObjective:
  """The objective of that name; ValueError lists the names there are."""
  if isinstance(objective, TextObjective):
    return objective
  if objective not in TEXT_OBJECTIVES:
    raise ValueError(f'no objective {objective!r} for text without images; there are '
                     f'{", ".join(TEXT_OBJECTIVES)}')
  return TEXT_OBJECTIVES[objective]


def _part(ids_N: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
  """At most so many neighbouring ids, from a random place."""
  start = int(rng.integers(max(0, len(ids_N) - most) + 1))
  return ids_N[start:start + most]


def _split(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
  """`parts` whole numbers of at least 1 that add up to `total`, every choice as likely."""
  cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
  return np.diff(np.concatenate([[0], cuts, [total]]))


TEXT_OBJECTIVES = {each.name: each for each in (span_corruption(), continuation())}
