"""An image, what is known of it, and an objective -> the examples a model trains on.

`Examples` is what every reader of image-text data is: random access with the same members as
`rlds.RobotExamples`. `Files` reads what lies in image files, with the texts in memory; what lies in
shards is read by `image_text_records`. An empty text is a fault like a broken image.
"""

from collections.abc import Mapping, Sequence
import abc
import collections
import functools
import hashlib
import os
from typing import NamedTuple

import numpy as np
import tqdm

from rt2_train import prompts
from rt2_train.data import faults
from rt2_train.data import objectives
from rt2_train.processor import Processor

_MOST_MESSAGES = 20


class Examples(abc.ABC):
  """Random access to images with a prompt and an answer in words.

  Attributes:
    roles: what is known of an image.
    objective: what is asked and answered.
    fingerprint: changes when any example changes; not with the place the data lie in.
    report: counts for people.
    note: what the data go without, in words; '' when nothing.
  """

  roles: tuple[str, ...]
  fingerprint: str
  report: dict
  note: str

  def __init__(self, processor: Processor, objective: str | objectives.Objective, name: str):
    self._processor = processor
    self.objective = objectives.resolve(objective)
    if missing := [role for role in self.objective.roles if role not in self.roles]:
      fitting = [each.name for each in objectives.OBJECTIVES.values()
                 if set(each.roles) <= set(self.roles)]
      raise ValueError(
          f'{name}: objective {self.objective.name!r} takes {", ".join(missing)}, which these data '
          f'do not say; choose one of {", ".join(fitting)}')

  @abc.abstractmethod
  def __len__(self) -> int:
    """Number of examples."""

  @abc.abstractmethod
  def example_id(self, i: int) -> str:
    """What errors and results call the i-th example."""

  @abc.abstractmethod
  def _read(self, i: int) -> tuple[bytes, str, str]:
    """The encoded image, prompt and answer of the i-th example."""

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    """The i-th example; ValueError names it when its image does not decode."""
    if not 0 <= i < len(self):
      raise IndexError(f'{self.report["name"]} has examples 0 to {len(self) - 1}, not {i}')
    encoded, prompt, answer = self._read(i)
    try:
      images, image_mask = self._processor.images([encoded])
    except ValueError as e:
      raise ValueError(f'{self.example_id(i)}: {e}; replace the image') from e
    return {
        'images': images,
        'image_mask': image_mask,
        'inputs': self._processor.text_inputs(prompt),
        'targets': self._processor.text_targets(answer, self.objective.separator)}


class Row(NamedTuple):
  """What a file says of an image, before it is checked.

  Attributes:
    example_id: within the dataset, such as 'question 70'.
    path: of the image file.
    known: role -> what is known; or what is wrong with it.
    lang: the language to answer in.
  """

  example_id: str
  path: str
  known: objectives.Known | faults.Fault
  lang: str


class _Example(NamedTuple):
  example_id: str
  path: str
  prompt: str
  answer: str


class Files(Examples):
  """Examples whose images are files; each file is looked at once when the dataset is opened."""

  def __init__(
      self,
      rows: Sequence[Row],
      processor: Processor,
      objective: str | objectives.Objective,
      name: str,
      on_bad: str | Mapping[str, str],
      max_bad_share: float,
      left_out: Mapping[str, int] | None = None,
  ):
    """Checks `rows` and keeps the sound ones, in order.

    Args:
      rows, processor, objective: what examples are made of.
      name: what errors call the dataset.
      on_bad, max_bad_share: what broken rows may do, see `faults.enforce`.
      left_out: reason to number of examples that are not among `rows`, to be reported.

    Raises:
      ValueError: rows are broken beyond the policy, or none is left.
    """
    super().__init__(processor, objective, name)
    self._examples = []
    messages = collections.defaultdict(list)
    digest = hashlib.sha256()
    checked = functools.lru_cache(maxsize=None)(faults.check_file)
    for row in tqdm.tqdm(rows, unit='ex', desc=f'open {name}'):
      example_id = f'{name} {row.example_id}'
      found = checked(row.path)
      try:
        known = _checked(row.known)
      except faults.Fault as fault:
        found = fault
      if isinstance(found, faults.Fault):
        messages[found.reason].append(f'{example_id}: {found}')
        continue
      prompt, answer = self.objective(known, row.lang, example_id)
      image = os.path.basename(row.path)
      digest.update(repr((row.example_id, image, found, prompt, answer)).encode())
      self._examples.append(_Example(example_id, row.path, prompt, answer))
    broken = sum(map(len, messages.values()))
    left_out = dict(left_out or {})
    self.report = {
        'name': name, 'examples': len(self._examples),
        'steps': len(rows) + sum(left_out.values()), 'lost_steps': broken,
        'records': len(rows), 'lost_records': 0, 'left_out': left_out,
        'faults': {reason: len(found) for reason, found in messages.items()},
        'first_faults': {reason: found[:_MOST_MESSAGES] for reason, found in messages.items()}}
    faults.enforce(self.report, on_bad, max_bad_share)
    self.note = faults.note(self.report)
    if not self._examples:
      raise ValueError(f'{name} has no usable example among {self.report["steps"]} ({self.note})')
    self.fingerprint = digest.hexdigest()

  def __len__(self) -> int:
    return len(self._examples)

  def example_id(self, i: int) -> str:
    return self._examples[i].example_id

  def _read(self, i: int) -> tuple[bytes, str, str]:
    example = self._examples[i]
    with open(example.path, 'rb') as file:
      return file.read(), example.prompt, example.answer


def read_text(data: bytes, start: int, stop: int, what: str) -> str:
  """The text that lies in `data[start:stop]`, stripped, as prompts and answers may hold it.

  Raises:
    Fault: as `faults.text`; or it holds the mark by which prompts give images their place.
  """
  text = faults.text(data, start, stop, what)
  if prompts.IMAGE in text:
    raise faults.Fault('bad text', f'{what} holds {prompts.IMAGE!r}, which marks the place of an '
                       'image in a prompt')
  return text


def check_text(text: str, what: str) -> str:
  """`read_text` of a string, whose characters may have no encoding."""
  encoded = text.encode(errors='surrogatepass')
  return read_text(encoded, 0, len(encoded), what)


def _checked(known: objectives.Known | faults.Fault) -> objectives.Known:
  """`known` with its texts stripped; raises what is wrong with it."""
  if isinstance(known, faults.Fault):
    raise known
  found = {}
  for role, value in known.items():
    if isinstance(value, str):
      value = check_text(value, f'the {role}')
      if not value:
        raise faults.Fault('empty text', f'the {role} is empty')
    found[role] = value
  return found
