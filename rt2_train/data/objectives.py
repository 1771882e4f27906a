"""What is asked about an image and what is learnt to answer: the objectives of PaLI and PaLM-E.

A dataset is a storage format and an objective. The format says what is known of an image, by role:
a caption, a question and its answer, the texts to be read in it, the objects in it. The objective
makes a prompt and an answer of that, so that one file of questions and answers trains to answer
(VQA), to ask (VQG), or to answer as PaLM-E is asked.

What an objective draws at random it draws by the example's id: an example is the same in every
epoch, through SeqIO and through our loader.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import re

import numpy as np

from rt2_train import prompts
from rt2_train.data import draws

# Role -> what is known: a text, or for 'objects' and 'names' a sequence.
Known = Mapping[str, object]
Write = Callable[[Known, str, np.random.Generator | None], tuple[str, str]]

# Languages that put no space between words: their texts are cut between any two characters.
_WITHOUT_SPACES = ('BO', 'JA', 'KM', 'LO', 'MY', 'TH', 'ZH')


@dataclasses.dataclass(frozen=True)
class Object:
  """Something in an image.

  Attributes:
    name: of its kind.
    box: (y0, x0, y1, x1) as shares of height and width; None where only its presence is known.
  """

  name: str
  box: tuple[float, float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Objective:
  """How a prompt and an answer are made of what is known of an image.

  Attributes:
    name: what gin and reports call it.
    roles: what it takes: texts ('caption', 'question', 'answer', 'ocr'), 'objects' (a sequence of
      Object) and 'names' (of all kinds of object in the dataset).
    write: pure function of what is known, the language to answer in and a random generator; returns
      prompt and answer.
    draws: whether it draws; what does not gets None, since a generator takes longer to make than
      everything else.
    joined: whether all texts of a record are one answer; otherwise each is an example of its own.
    learnt: the role whose text is the answer as it stands; None where the answer is made up.
    separator: what stands between the parts of an answer, of which a model learns whole ones only.
  """

  name: str
  roles: tuple[str, ...]
  write: Write
  draws: bool = False
  joined: bool = False
  learnt: str | None = None
  separator: str | None = None

  def __call__(self, known: Known, lang: str, example_id: str) -> tuple[str, str]:
    """Prompt and answer of the example that is called `example_id`, the same every time."""
    return self.write(known, lang, draws.rng(example_id) if self.draws else None)


def object_aware(most_names: int = 4) -> Objective:
  """PaLI's object-aware VQA: one of its three questions, drawn for each image.

  All names that are in the image; whether one name is, which it is every other time; or which of
  several are, of which at least one is.

  Args:
    most_names: how many names the third question lists at most, absent ones included.
  """
  _check_at_least(2, 'object_aware', most_names=most_names)

  def write(known: Known, lang: str, rng: np.random.Generator) -> tuple[str, str]:
    del lang  # PaLI asks these in English only.
    present = sorted({each.name for each in known['objects']})
    absent = _absent(known['names'], present, most_names, rng)
    kind = rng.integers(3)
    if kind == 0:
      return prompts.list_objects(), ', '.join(present)
    if kind == 1:
      yes = not absent or rng.random() < 0.5
      return prompts.is_present(_some(present, 1, rng)[0] if yes else absent[0]), (
          'yes' if yes else 'no')
    count = rng.integers(2, most_names + 1)
    right = _some(present, rng.integers(1, min(count, len(present)) + 1), rng)
    asked = [*right, *absent[:count - len(right)]]
    asked = _some(asked, len(asked), rng)
    return prompts.which_present(asked), ', '.join(name for name in asked if name in right)

  return Objective('object_aware', ('objects', 'names'), write, draws=True)


def detection(most_names: int = 2, most_boxes: int = 10) -> Objective:
  """PaLI's detection: the boxes of one or several names, as integers on a grid of 1000.

  Args:
    most_names: for how many of the image's names it asks at most.
    most_boxes: how many boxes of a name are answered at most; the largest come first.
  """
  _check_at_least(1, 'detection', most_names=most_names, most_boxes=most_boxes)

  def area(box: Sequence[float]) -> float:
    y0, x0, y1, x1 = box
    return (y1 - y0) * (x1 - x0)

  def write(known: Known, lang: str, rng: np.random.Generator) -> tuple[str, str]:
    del lang  # The prompt has none.
    boxes = {}
    for each in known['objects']:
      if each.box is not None:
        boxes.setdefault(each.name, []).append(each.box)
    names = sorted(boxes)
    asked = _some(names, rng.integers(1, min(most_names, len(names)) + 1), rng)
    answer = [(name, box) for name in asked
              for box in sorted(boxes[name], key=area, reverse=True)[:most_boxes]]
    return prompts.detect(asked), prompts.detection_target(answer)

  return Objective('detection', ('objects',), write, draws=True, separator=' and ')


def resolve(objective: str | Objective) -> Objective:
  """The objective of that name; ValueError lists the names there are."""
  if isinstance(objective, Objective):
    return objective
  if objective not in OBJECTIVES:
    raise ValueError(f'no objective {objective!r}; there are {", ".join(OBJECTIVES)}')
  return OBJECTIVES[objective]


def _caption(known: Known, lang: str, rng: None) -> tuple[str, str]:
  del rng
  return prompts.caption(lang), known['caption']


def _split_caption(known: Known, lang: str, rng: np.random.Generator) -> tuple[str, str]:
  """The rest of a caption whose beginning is told; nothing is told as often as any part."""
  caption = known['caption']
  if lang.split('-')[0] in _WITHOUT_SPACES:
    cuts = [(at, at) for at in range(1, len(caption))]
  else:
    cuts = [space.span() for space in re.finditer(r'\s+', caption)]
  end, start = [(0, 0), *cuts][rng.integers(len(cuts) + 1)]
  return prompts.split_caption(caption[:end], end, lang), caption[start:]


def _ocr(known: Known, lang: str, rng: None) -> tuple[str, str]:
  del rng
  return prompts.ocr(lang), known['ocr']


def _answer(known: Known, lang: str, rng: None) -> tuple[str, str]:
  del rng
  return prompts.vqa(known['question'], lang), known['answer']


def _palm_e_answer(known: Known, lang: str, rng: None) -> tuple[str, str]:
  del lang, rng  # PaLM-E names no language.
  return prompts.palm_e_vqa(known['question']), known['answer']


def _question(known: Known, lang: str, rng: None) -> tuple[str, str]:
  del rng
  return prompts.question(known['answer'], lang), known['question']


def _some(names: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
  """`count` of `names`, none twice, in an order drawn as well."""
  return [names[i] for i in rng.choice(len(names), count, replace=False)]


def _absent(
    names: Sequence[str], present: Sequence[str], count: int, rng: np.random.Generator
) -> list[str]:
  """`count` of `names` that are not `present`, or as many as there are."""
  # So many that enough remain, whichever of them are present.
  drawn = _some(names, min(len(names), count + len(present)), rng)
  return [name for name in drawn if name not in present][:count]


def _check_at_least(least: int, objective: str, **values: int) -> None:
  for name, value in values.items():
    if value < least:
      raise ValueError(f'{objective}: {name} is {value}; it must be at least {least}')


OBJECTIVES = {each.name: each for each in (
    Objective('caption', ('caption',), _caption, learnt='caption'),
    Objective('split_caption', ('caption',), _split_caption, draws=True),
    Objective('ocr', ('ocr',), _ocr, joined=True, learnt='ocr'),
    Objective('answer', ('question', 'answer'), _answer, learnt='answer'),
    Objective('palm_e_answer', ('question', 'answer'), _palm_e_answer, learnt='answer'),
    Objective('question', ('question', 'answer'), _question, learnt='question'),
    object_aware(),
    detection(),
)}
