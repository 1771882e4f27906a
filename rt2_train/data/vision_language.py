"""Web data on disk -> (image, prompt, answer) -> the examples a model trains on.

VQAv2 and COCO-caption JSON beside image files, and TFRecords of tf.train.Example with captions
or questions (WebLI's form), all as random-access datasets with the same members as
`rlds.RobotExamples`. An empty question, answer or caption is a fault like a broken image.
"""

from collections.abc import Callable, Mapping, Sequence
import abc
import collections
import functools
import glob
import hashlib
import json
import os
import re

import numpy as np
import tqdm

from rt2_train import prompts
from rt2_train.data import coco_json
from rt2_train.data import faults
from rt2_train.data import index
from rt2_train.data import tfrecord
from rt2_train.processor import Processor

Prompt = Callable[[str, str], str]  # (question, language) -> the text a model reads.
_OF = re.compile(r'-(\d{5})-of-(\d{5})')


class _TextExamples(abc.ABC):
  """Random access to images with a prompt and an answer in words."""

  fingerprint: str
  report: dict
  note: str

  def __init__(self, processor: Processor):
    self._processor = processor

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
        'targets': self._processor.text_targets(answer)}


class _FileExamples(_TextExamples):
  """Examples whose images are files; each file is looked at once when the dataset is opened."""

  def __init__(self, name: str, rows, processor: Processor, on_bad, max_bad_share: float):
    """Takes rows of (id, image path, prompt, answer) or Fault, in order."""
    super().__init__(processor)
    self._rows = []
    messages = collections.defaultdict(list)
    digest = hashlib.sha256()
    checked = functools.lru_cache(maxsize=None)(faults.check_file)
    for example_id, path, prompt, answer in tqdm.tqdm(rows, unit='ex', desc=f'open {name}'):
      found = checked(path)
      try:
        for what, text in (('question', prompt), ('text to learn', answer)):
          encoded = text.encode(errors='surrogatepass')
          if not faults.text(encoded, 0, len(encoded), f'the {what}'):
            raise faults.Fault('empty text', f'the {what} is empty')
      except faults.Fault as fault:
        found = fault
      if isinstance(found, faults.Fault):
        messages[found.reason].append(f'{name} {example_id}: {found}')
        continue
      digest.update(repr((example_id, os.path.basename(path), found, prompt, answer)).encode())
      self._rows.append((f'{name} {example_id}', path, prompt, answer))
    broken = sum(map(len, messages.values()))
    self.report = {
        'name': name, 'examples': len(self._rows), 'steps': len(rows), 'lost_steps': broken,
        'records': len(rows), 'lost_records': 0, 'left_out': {},
        'faults': {reason: len(found) for reason, found in messages.items()},
        'first_faults': {reason: found[:20] for reason, found in messages.items()}}
    faults.enforce(self.report, on_bad, max_bad_share)
    self.note = faults.note(self.report)
    if not self._rows:
      raise ValueError(f'{name} has no usable example among {len(rows)} ({self.note})')
    self.fingerprint = digest.hexdigest()

  def __len__(self) -> int:
    return len(self._rows)

  def example_id(self, i: int) -> str:
    return self._rows[i][0]

  def _read(self, i: int) -> tuple[bytes, str, str]:
    _, path, prompt, answer = self._rows[i]
    with open(path, 'rb') as file:
      return file.read(), prompt, answer


class VqaExamples(_FileExamples):
  """Visual question answering from VQAv2's two JSON files and a directory of images."""

  def __init__(
      self,
      questions: str,
      annotations: str,
      images: str,
      processor: Processor,
      *,
      name: str = 'vqa',
      lang: str = 'EN',
      prompt: Prompt = prompts.vqa,
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
  ):
    """Opens the dataset; the answer to learn is `multiple_choice_answer`.

    Args:
      questions: JSON with `questions`: `question_id`, `image_id`, `question`.
      annotations: JSON with `annotations`: `question_id`, `multiple_choice_answer`, and `answers`
        if there are more.
      images: path of an image, with its id as a format field:
        '/coco/val2014/COCO_val2014_{image_id:012d}.jpg'.
      processor: of the model.
      name: what errors call it.
      lang: language of questions and answers.
      prompt: makes the model's prompt of question and language.
      on_bad, max_bad_share: what broken images and empty texts may do, see `faults.enforce`.

    Raises:
      FileNotFoundError: a JSON file is missing.
      ValueError: one has another schema; images or texts are broken beyond the policy.
    """
    identity, text = coco_json.identity, coco_json.text
    asked = coco_json.entries(
        questions, 'questions', question_id=identity, image_id=identity, question=text)
    answered = coco_json.entries(
        annotations, 'annotations', question_id=identity, multiple_choice_answer=text)
    answers = {entry['question_id']: entry['multiple_choice_answer'] for entry in answered}
    self._answers = {}
    for entry in answered:
      where = f'{annotations}: answers of question {entry["question_id"]}'
      listed = coco_json.checked(where, entry.get('answers', []), answer=text)
      everyone = tuple(each['answer'] for each in listed)
      self._answers[f'{name} question {entry["question_id"]}'] = (
          everyone or (entry['multiple_choice_answer'],))
    rows = []
    for entry in asked:
      number, question = entry['question_id'], entry['question'].strip()
      if number not in answers:
        raise ValueError(f'{annotations} has no annotation for question {number} of {questions}; '
                         'take both files from the same split')
      try:
        path = images.format(image_id=entry['image_id'])
      except (KeyError, IndexError, ValueError) as e:
        raise ValueError(f'images is {images!r}, which takes no image_id ({e}); write it as '
                         "'/coco/COCO_val2014_{image_id:012d}.jpg'") from e
      rows.append((f'question {number}', path, question and prompt(question, lang),
                   answers[number].strip()))
    super().__init__(name, rows, processor, on_bad, max_bad_share)

  def answers(self, i: int) -> tuple[str, ...]:
    """What people answered to the i-th question (VQAv2: ten of them); metrics judge by it."""
    return self._answers[self.example_id(i)]


class CocoCaptionExamples(_FileExamples):
  """Captions from COCO's JSON and a directory of images."""

  def __init__(
      self,
      captions: str,
      image_dir: str,
      processor: Processor,
      *,
      name: str = 'coco_captions',
      lang: str = 'EN',
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
  ):
    """Opens the dataset; one example per caption.

    Args:
      captions: JSON with `images` (`id`, `file_name`) and `annotations` (`id`, `image_id`,
        `caption`).
      image_dir: where the `file_name`s lie.
      processor, name, lang, on_bad, max_bad_share: as in VqaExamples.

    Raises:
      FileNotFoundError: the JSON file is missing.
      ValueError: it has another schema; images or texts are broken beyond the policy.
    """
    identity = coco_json.identity
    listed = coco_json.entries(captions, 'images', id=identity, file_name=coco_json.file_name)
    files = {entry['id']: entry['file_name'] for entry in listed}
    annotations = coco_json.entries(
        captions, 'annotations', id=identity, image_id=identity, caption=coco_json.text)
    rows = []
    for entry in annotations:
      if entry['image_id'] not in files:
        raise ValueError(f'{captions}: annotation {entry["id"]} is about image '
                         f'{entry["image_id"]}, which its images do not list; copy it again')
      rows.append((f'annotation {entry["id"]}', os.path.join(image_dir, files[entry['image_id']]),
                   prompts.caption(lang), entry['caption'].strip()))
    super().__init__(name, rows, processor, on_bad, max_bad_share)


class _RecordExamples(_TextExamples):
  """Examples from TFRecords of tf.train.Example: one image and one or more texts about it."""

  def __init__(
      self, pattern: str, processor: Processor, image_key: str, text_keys: Sequence[str],
      lang_key: str, lang: str, name: str | None, index_dir: str | None, on_bad,
      max_bad_share: float):
    super().__init__(processor)
    paths = _paths(pattern)
    stem = re.sub(r'[^\w.-]+', '_', os.path.basename(pattern))
    self._lang, self._roles = lang, [f'text{n}' for n in range(len(text_keys))]
    name = name or re.split(r'\.tfrecord|[*?\[]', os.path.basename(pattern))[0].strip('-_.')
    self._index = index.open_index(
        name or stem, [index.Shard(path) for path in paths],
        functools.partial(_read_record, image_key=image_key, text_keys=text_keys,
                          lang_key=lang_key),
        spec=json.dumps([image_key, *text_keys, lang_key]), unit='record',
        path=index.index_path(os.path.dirname(pattern) or '.', index_dir,
                              f'{stem}.{"-".join(text_keys)}'.replace('/', '_')))
    header = self._index.header
    faults.enforce(header, on_bad, max_bad_share)
    self.note = faults.note(header)
    if not len(self._index):
      raise ValueError(
          f'{pattern} has no usable example in {header["records"]} records ({self.note})')
    self.report = {'examples': len(self._index), 'index': self._index.path, **{
        key: value for key, value in header.items() if key not in ('source', 'texts', 'unit')}}
    self.fingerprint = self._index.fingerprint

  def __len__(self) -> int:
    return len(self._index)

  def example_id(self, i: int) -> str:
    return self._index.example_id(i)

  def _texts(self, i: int) -> list[str]:
    """The texts of the i-th example, then its language."""
    columns, texts = self._index.columns, self._index.texts
    *values, lang = [texts[key][int(columns[key][i])] for key in (*self._roles, 'lang')]
    return [*values, (lang or self._lang).upper()]


class CaptionRecords(_RecordExamples):
  """Image-text pairs from TFRecords; with several captions in a record, one example each."""

  def __init__(
      self,
      pattern: str,
      processor: Processor,
      *,
      image_key: str = 'image',
      caption_key: str = 'caption',
      lang_key: str = 'lang',
      lang: str = 'EN',
      name: str | None = None,
      index_dir: str | None = None,
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
  ):
    """Opens the files, indexing them first if need be.

    Args:
      pattern: of the files, such as '/data/captions-train.tfrecord-*'.
      processor: of the model.
      image_key, caption_key, lang_key: keys of the Example: one encoded image, captions, and the
        language of each or of all (may be missing).
      lang: language of records that do not say.
      name: what errors call it; the beginning of the file names when None.
      index_dir, on_bad, max_bad_share: as in rlds.RobotSteps.

    Raises:
      FileNotFoundError: no file matches, or one of its '-of-' siblings is missing.
      ValueError: records are broken beyond the policy.
    """
    super().__init__(pattern, processor, image_key, [caption_key], lang_key, lang, name, index_dir,
                     on_bad, max_bad_share)

  def _read(self, i: int) -> tuple[bytes, str, str]:
    caption, lang = self._texts(i)
    return self._index.image(i), prompts.caption(lang), caption


class VqaRecords(_RecordExamples):
  """Questions and answers from TFRecords; with several in a record, one example each."""

  def __init__(
      self,
      pattern: str,
      processor: Processor,
      *,
      image_key: str = 'image',
      question_key: str = 'question',
      answer_key: str = 'answer',
      lang_key: str = 'lang',
      lang: str = 'EN',
      prompt: Prompt = prompts.vqa,
      name: str | None = None,
      index_dir: str | None = None,
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
  ):
    """Opens the files; as CaptionRecords, with `prompt` as in VqaExamples."""
    super().__init__(pattern, processor, image_key, [question_key, answer_key], lang_key, lang,
                     name, index_dir, on_bad, max_bad_share)
    self._prompt = prompt

  def _read(self, i: int) -> tuple[bytes, str, str]:
    question, answer, lang = self._texts(i)
    return self._index.image(i), self._prompt(question, lang), answer


def _paths(pattern: str) -> list[str]:
  paths = sorted(glob.glob(pattern))
  if not paths:
    raise FileNotFoundError(f'no file matches {pattern}; it is a pattern such as '
                            "'/data/captions-train.tfrecord-*'")
  numbered = [match.groups() for match in map(_OF.search, paths) if match]
  there = {int(number) for number, _ in numbered}
  for number in range(int(numbered[0][1]) if numbered else 0):
    if number not in there:
      raise FileNotFoundError(f'{pattern}: shard {number:05d} of {numbered[0][1]} is missing; '
                              'copy the rest')
  return paths


def _read_record(
    record: bytes, image_key: str, text_keys: Sequence[str], lang_key: str) -> index.Rows:
  """The rows of one record: as many as it has texts, all about its one image."""
  try:
    found = tfrecord.example(record, {image_key, lang_key, *text_keys})
  except ValueError as e:
    raise faults.Fault('not an Example', str(e)) from e
  for key in (image_key, *text_keys):
    if key not in found or found[key].kind != 'bytes':
      raise faults.Fault('missing feature', f'has no {key}')
  if len(found[image_key]) != 1:
    raise faults.Fault('unequal lengths', f'{image_key} has {len(found[image_key])} values, not 1')
  ((start, stop),) = found[image_key].spans
  faults.image_size(record, start, stop)
  size = len(found[text_keys[0]])
  if not size:
    raise faults.Fault('unequal lengths', f'{text_keys[0]} has 0 values')
  texts = {f'text{n}': _decoded(record, found, key) for n, key in enumerate(text_keys)}
  langs = _decoded(record, found, lang_key) if lang_key in found else ['']
  texts['lang'] = langs * size if len(langs) == 1 else langs
  for key, values in zip((*text_keys, lang_key), texts.values()):
    if len(values) != size:
      raise faults.Fault(
          'unequal lengths', f'{key} has {len(values)} values, {text_keys[0]} has {size}')
  empty = {i: key for n, key in enumerate(text_keys)
           for i, text in enumerate(texts[f'text{n}']) if not text}
  kept = [i for i in range(size) if i not in empty]
  return index.Rows(
      steps_R=np.array(kept, np.int32),
      images_RxCx2=np.tile(np.array([start, stop], np.int64), (len(kept), 1, 1)),
      columns={},
      texts={key: [values[i] for i in kept] for key, values in texts.items()},
      seen=size,
      broken=[faults.Fault('empty text', f'{key} is empty', i) for i, key in empty.items()],
  )


def _decoded(record: bytes, found: Mapping[str, tfrecord.Feature], key: str) -> list[str]:
  return [faults.text(record, start, stop, key) for start, stop in found[key].spans]
