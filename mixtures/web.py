"""Mixture `web`: image-text data as the tasks of `SOURCES`, captions, questions and detection.

Each is used when gin names its files, per split; those without files leave their weight to the
others. What broken files and empty texts may do is `on_bad` and `max_bad_share` of each, see
`faults.enforce`.

  import mixtures.web
  mixtures.web.vqa.questions = {'train': '/vqa/train_q.json', 'validation': '/vqa/val_q.json'}
  mixtures.web.vqa.annotations = {'train': '/vqa/train_a.json', 'validation': '/vqa/val_a.json'}
  mixtures.web.vqa.images = {'train': '/coco/train/{image_id:012d}.jpg', 'validation': ...}
  mixtures.web.vqa.processor = %PROCESSOR
  mixtures.web.rates.vqa = 2.0
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import NamedTuple

import gin
import seqio

from rt2_train.data import metrics
from rt2_train.data import tasks
from rt2_train.data import vision_language
from rt2_train.processor import Processor

PerSplit = Mapping[str, str]


@gin.configurable
def captions(
    pattern: PerSplit | None = None,
    processor: Processor | None = None,
    image_key: str = 'image',
    caption_key: str = 'caption',
    lang_key: str = 'lang',
    lang: str = 'EN',
    index_dir: str | None = None,
    on_bad: str | Mapping[str, str] = 'error',
    max_bad_share: float = 0.001,
) -> tasks.Configured:
  """Captions in TFRecords: split -> glob pattern. See `vision_language.CaptionRecords`."""
  return _configured(
      'captions', {'pattern': pattern}, processor, vision_language.CaptionRecords,
      image_key=image_key, caption_key=caption_key, lang_key=lang_key, lang=lang,
      index_dir=index_dir, on_bad=on_bad, max_bad_share=max_bad_share)


@gin.configurable
def coco_captions(
    annotations: PerSplit | None = None,
    image_dir: PerSplit | None = None,
    processor: Processor | None = None,
    lang: str = 'EN',
    on_bad: str | Mapping[str, str] = 'error',
    max_bad_share: float = 0.001,
) -> tasks.Configured:
  """COCO captions: split -> JSON, split -> directory. See `vision_language.CocoCaptionExamples`."""
  return _configured(
      'coco_captions', {'annotations': annotations, 'image_dir': image_dir}, processor,
      vision_language.CocoCaptionExamples, lang=lang, on_bad=on_bad, max_bad_share=max_bad_share)


@gin.configurable
def vqa(
    questions: PerSplit | None = None,
    annotations: PerSplit | None = None,
    images: PerSplit | None = None,
    processor: Processor | None = None,
    lang: str = 'EN',
    on_bad: str | Mapping[str, str] = 'error',
    max_bad_share: float = 0.001,
) -> tasks.Configured:
  """VQAv2: split -> JSON, JSON and path of an image. See `vision_language.VqaExamples`."""
  return _configured(
      'vqa', {'questions': questions, 'annotations': annotations, 'images': images}, processor,
      vision_language.VqaExamples, lang=lang, on_bad=on_bad, max_bad_share=max_bad_share)


@gin.configurable
def detection(
    questions: PerSplit | None = None,
    annotations: PerSplit | None = None,
    images: PerSplit | None = None,
    processor: Processor | None = None,
    on_bad: str | Mapping[str, str] = 'error',
    max_bad_share: float = 0.001,
) -> tasks.Configured:
  """Boxes as text, in VQAv2's files: split -> JSON, JSON and path of an image.

  The question is the whole prompt ('detect cup', see `prompts.detect`), the answer PaLI's
  'y0 x0 y1 x1 name' (`prompts.detection_target`).
  """
  return _configured(
      'detection', {'questions': questions, 'annotations': annotations, 'images': images},
      processor, vision_language.VqaExamples, name='detection', prompt=_whole_prompt,
      on_bad=on_bad, max_bad_share=max_bad_share)


def _whole_prompt(question: str, lang: str) -> str:
  del lang  # A detection prompt has none.
  return question


@gin.configurable
def vqa_records(
    pattern: PerSplit | None = None,
    processor: Processor | None = None,
    image_key: str = 'image',
    question_key: str = 'question',
    answer_key: str = 'answer',
    lang_key: str = 'lang',
    lang: str = 'EN',
    index_dir: str | None = None,
    on_bad: str | Mapping[str, str] = 'error',
    max_bad_share: float = 0.001,
) -> tasks.Configured:
  """Questions in TFRecords: split -> glob pattern. See `vision_language.VqaRecords`."""
  return _configured(
      'vqa_records', {'pattern': pattern}, processor, vision_language.VqaRecords,
      image_key=image_key, question_key=question_key, answer_key=answer_key, lang_key=lang_key,
      lang=lang, index_dir=index_dir, on_bad=on_bad, max_bad_share=max_bad_share)


@gin.configurable
def rates(
    captions: float = 1.0, coco_captions: float = 1.0, vqa: float = 1.0, vqa_records: float = 1.0,
    detection: float = 1.0,
) -> dict[str, float]:
  """Relative weights of the web sources."""
  return {
      'captions': captions, 'coco_captions': coco_captions, 'vqa': vqa, 'vqa_records': vqa_records,
      'detection': detection}


def share(task: seqio.Task) -> float:
  """Share of `task` in the web sources that are configured; 0 for one that is not."""
  used = {name: rate for name, rate in rates().items() if SOURCES[name].configured().splits}
  if task.name not in used:
    return 0.0
  if not sum(used.values()):
    raise ValueError(f'the rates of all web sources {sorted(used)} are 0; raise mixtures.web.rates')
  return used[task.name] / sum(used.values())


def _configured(
    task: str, paths: Mapping[str, PerSplit | None], processor: Processor | None, dataset: Callable,
    **options) -> tasks.Configured:
  """One dataset per split that all of `paths` name; none at all if nothing is set."""
  if not any(paths.values()):
    return tasks.Configured({}, processor)
  missing = [key for key, value in {**paths, 'processor': processor}.items() if not value]
  if missing:
    raise ValueError(
        f'task {task} is half configured; add to the gin file: mixtures.web.{task}.{missing[0]}')
  splits = sorted(set().union(*paths.values()))
  for key, per_split in paths.items():
    if absent := [split for split in splits if split not in per_split]:
      raise ValueError(
          f'task {task}: split {absent[0]!r} is not in mixtures.web.{task}.{key}, but in another '
          'parameter; name it in all or in none')
  return tasks.Configured(
      splits={
          split: functools.partial(
              dataset, *(per_split[split] for per_split in paths.values()), processor, **options)
          for split in splits
      },
      processor=processor,
  )


@gin.configurable
def accuracy(consensus: bool = True, integer_tolerance: int = 0) -> dict[str, object]:
  """How answers to questions are judged, see `metrics.vqa`; the defaults are VQAv2's rule."""
  return {'consensus': consensus, 'integer_tolerance': integer_tolerance}


def _accuracy(source: Callable[[], tasks.Configured]) -> Callable:
  def vqa_accuracy(targets: Sequence, predictions: Sequence) -> dict[str, float]:
    return metrics.vqa(targets, predictions, source().processor, **accuracy())

  return vqa_accuracy


def _all_answers(ids: Sequence[int], example: Mapping | None = None, is_target: bool = False, **_):
  """Questions are judged against everything people answered, not only what is learnt."""
  return example['answers'] if is_target and example and 'answers' in example else ids


class _Source(NamedTuple):
  """What is registered of a source.

  Attributes:
    configured: what gin says of it.
    switch: the parameter that switches it on.
    judged: whether predictions are marked right or wrong; a caption has many right wordings.
  """

  configured: Callable[[], tasks.Configured]
  switch: str
  judged: bool


SOURCES = {
    'captions': _Source(captions, 'pattern', judged=False),
    'coco_captions': _Source(coco_captions, 'annotations', judged=False),
    'vqa': _Source(vqa, 'questions', judged=True),
    'vqa_records': _Source(vqa_records, 'pattern', judged=True),
    'detection': _Source(detection, 'questions', judged=True),
}

for _name, _source in SOURCES.items():
  tasks.add_task(
      _name,
      lambda source=_source: source.configured().splits,
      [_accuracy(_source.configured)] if _source.judged else [],
      remedy=f'name its files in mixtures.web.{_name}.{_source.switch} and the other parameters',
      postprocess_fn=_all_answers,
  )

seqio.MixtureRegistry.add('web', [(name, share) for name in SOURCES])
