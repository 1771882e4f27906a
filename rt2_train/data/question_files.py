"""Questions about images in JSON files beside them: VQAv2, OK-VQA, TextVQA, GQA and xGQA.

`images` is the path of an image with its id as a format field: '/gqa/images/{image_id}.jpg'.
`lang` is the language to answer in, which is what PaLI's prompt names. In xGQA the questions are in
another, and that needs no saying: its answers are English. Only with objective 'question', where
the question is what is learnt, `lang` is the question's.
"""

from collections.abc import Mapping, Sequence
import collections
from typing import NamedTuple

from rt2_train.data import image_text
from rt2_train.data import json_files
from rt2_train.data import objectives
from rt2_train.processor import Processor


class _Asked(NamedTuple):
  """A question as a file has it: `answers` are all that people gave, `answer` the one to learn."""

  question_id: int | str
  image_id: int | str
  question: str
  answer: str
  answers: Sequence[str]


class _Questions(image_text.Files):
  """Questions about image files, each with the answer to learn and all that count as right."""

  roles = ('question', 'answer')

  def __init__(
      self, asked: Sequence[_Asked], images: str, processor: Processor, objective, name: str,
      lang: str, on_bad, max_bad_share: float):
    self._answers = {
        f'{name} question {each.question_id}': tuple(each.answers)
        for each in asked if each.answers}
    rows = [
        image_text.Row(
            f'question {each.question_id}', json_files.image_path(images, each.image_id),
            {'question': each.question, 'answer': each.answer}, lang)
        for each in asked]
    super().__init__(rows, processor, objective, name, on_bad, max_bad_share)

  def answers(self, i: int) -> tuple[str, ...]:
    """What people answered to the i-th question (VQAv2: ten of them); metrics judge by it.

    Where something else is learnt, only that is right.
    """
    learnt = (self._examples[i].answer,)
    if self.objective.learnt != 'answer':
      return learnt
    return self._answers.get(self.example_id(i), learnt)


class Vqa(_Questions):
  """VQAv2's and OK-VQA's two JSON files and a directory of images."""

  def __init__(
      self,
      questions: str,
      annotations: str,
      images: str,
      processor: Processor,
      *,
      objective: str | objectives.Objective = 'answer',
      name: str = 'vqa',
      lang: str = 'EN',
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
  ):
    """Opens the dataset.

    The answer to learn is `multiple_choice_answer`; where there is none (OK-VQA), the most frequent
    of `answers`, the first of equals.

    Args:
      questions: JSON with `questions`: `question_id`, `image_id`, `question`.
      annotations: JSON with `annotations`: `question_id`, and `multiple_choice_answer` or `answers`
        (each with `answer`) or both.
      images: path of an image, with its id as a format field:
        '/coco/val2014/COCO_val2014_{image_id:012d}.jpg'.
      processor: of the model.
      objective: what is made of questions and answers, a name in `objectives.OBJECTIVES`.
      name: what errors call it.
      lang: the language to answer in.
      on_bad, max_bad_share: what broken images and empty texts may do, see `faults.enforce`.

    Raises:
      FileNotFoundError: a JSON file is missing.
      ValueError: one has another schema; images or texts are broken beyond the policy.
    """
    identity, text, schema = json_files.identity, json_files.text, 'VQAv2'
    asked = json_files.entries(
        json_files.load(questions, 'questions'), questions, schema, 'questions',
        question_id=identity, image_id=identity, question=text)
    answered = json_files.entries(
        json_files.load(annotations, 'annotations'), annotations, schema, 'annotations',
        question_id=identity)
    answers = {}
    for count, entry in enumerate(answered):
      where = f'{annotations}: annotations[{count}]'
      listed = json_files.checked(
          entry.get('answers', []), f'{where}.answers', schema, answer=text)
      everyone = [each['answer'] for each in listed]
      if 'multiple_choice_answer' in entry or not everyone:
        json_files.check_entry(entry, where, schema, multiple_choice_answer=text)
      answer = entry.get('multiple_choice_answer', _most_frequent(everyone))
      answers[entry['question_id']] = answer, everyone
    joined = []
    for entry in asked:
      number = entry['question_id']
      if number not in answers:
        raise ValueError(f'{annotations} has no annotation for question {number} of {questions}; '
                         'take both files from the same split')
      joined.append(_Asked(number, entry['image_id'], entry['question'], *answers[number]))
    super().__init__(joined, images, processor, objective, name, lang, on_bad, max_bad_share)


class TextVqa(_Questions):
  """TextVQA's JSON file (TextVQA_0.5.1_train.json) and a directory of images."""

  def __init__(
      self,
      questions: str,
      images: str,
      processor: Processor,
      *,
      objective: str | objectives.Objective = 'answer',
      name: str = 'text_vqa',
      lang: str = 'EN',
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
  ):
    """Opens the dataset; the answer to learn is the most frequent one, the first of equals.

    Images are read as they lie: a few of OpenImages are turned, which its rotation table says.

    Args:
      questions: JSON with `data`: `question_id`, `image_id`, `question`, `answers` (texts).
      images: path of an image: '/textvqa/train_images/{image_id}.jpg'.
      processor, objective, name, lang, on_bad, max_bad_share: as in Vqa.

    Raises:
      FileNotFoundError: the JSON file is missing.
      ValueError: it has another schema (the test split has no answers); images or texts are broken
        beyond the policy.
    """
    identity = json_files.identity
    data = json_files.entries(
        json_files.load(questions, 'data'), questions, 'TextVQA', 'data', question_id=identity,
        image_id=identity, question=json_files.text, answers=json_files.texts)
    asked = [
        _Asked(entry['question_id'], entry['image_id'], entry['question'],
               _most_frequent(entry['answers']), entry['answers'])
        for entry in data]
    super().__init__(asked, images, processor, objective, name, lang, on_bad, max_bad_share)


class Gqa(_Questions):
  """GQA's JSON file (train_balanced_questions.json), xGQA's too, and a directory of images."""

  def __init__(
      self,
      questions: str,
      images: str,
      processor: Processor,
      *,
      objective: str | objectives.Objective = 'answer',
      name: str = 'gqa',
      lang: str = 'EN',
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
  ):
    """Opens the dataset.

    Args:
      questions: JSON: question id -> `question`, `answer`, `imageId`.
      images: path of an image: '/gqa/images/{image_id}.jpg'.
      processor, objective, name, on_bad, max_bad_share: as in Vqa.
      lang: the language to answer in; 'EN' for every file of xGQA.

    Raises:
      FileNotFoundError: the JSON file is missing.
      ValueError: it has another schema (the challenge split has no answers); images or texts are
        broken beyond the policy.
    """
    whole = json_files.load(questions, 'questions')
    if not isinstance(whole, dict):
      raise ValueError(f'{questions} is no object of questions by id; this reader takes the schema '
                       'of GQA')
    asked = []
    for number, entry in whole.items():
      if not json_files.identity(number):
        raise ValueError(f'{questions} has the question id {number[:60]!r}; this reader takes the '
                         'schema of GQA')
      json_files.check_entry(
          entry, f'{questions}: question {number}', 'GQA', question=json_files.text,
          answer=json_files.text, imageId=json_files.identity)
      asked.append(_Asked(number, entry['imageId'], entry['question'], entry['answer'], ()))
    super().__init__(asked, images, processor, objective, name, lang, on_bad, max_bad_share)


def _most_frequent(answers: Sequence[str]) -> str:
  """The first of those that occur most often; '' of none."""
  return max(collections.Counter(answers).items(), key=lambda pair: pair[1], default=('', 0))[0]
