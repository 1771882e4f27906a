"""A few examples in every format that a mixture can read, as they lie on a user's disk.

`write` makes them in one folder; FILES says what gin would name of them for each task.
"""

import functools
import io
import json
import os
import pathlib
import tarfile
import tempfile

import gin

from mixtures import sources
from rt2_train import actions
from rt2_train import images
from rt2_train import processor as processor_lib
from rt2_train import prompts
from rt2_train import vocabulary
from tests.data import rlds_fixture

IMAGES = 6
NAMES = ('cup', 'apple', 'sponge')

_QUESTIONS = {'questions': 'questions.json', 'annotations': 'annotations.json',
              'images': '{image_id}.jpg'}
_RECORDS = {'pattern': 'asked.tfrecord-*'}
_CAPTIONS = {'pattern': 'captions.tfrecord-*'}
_OBJECTS = {'annotations': 'instances.json', 'image_dir': '.'}
_COCO = {'annotations': 'coco.json', 'image_dir': '.'}
_TEXT = {'pattern': 'text.*.json'}

# Web tasks and the files that their sources are bound to.
WEB = {
    'captions': _CAPTIONS,
    'coco_captions': _COCO,
    'xm3600': {'captions': 'xm3600.jsonl', 'images': '{image_id}.jpg'},
    'vqa_records': _RECORDS,
    'vqa': _QUESTIONS,
    'ok_vqa': {**_QUESTIONS, 'annotations': 'ok_vqa.json'},
    'text_vqa': {'questions': 'text_vqa.json', 'images': '{image_id}.jpg'},
    'gqa': {'questions': 'gqa.json', 'images': '{image_id}.jpg'},
    'xgqa': {'questions': 'gqa_de.json', 'images': '{image_id}.jpg'},
    'detection': _OBJECTS,
    'object_aware': _OBJECTS,
}
PALI = {
    'pali_split_caption': {'pattern': 'cc3m-*.tar'},
    'pali_span_corruption': _TEXT,
    'pali_ocr': {'pattern': 'ocr.tfrecord-*'},
    'pali_cc3m_35l': {'pattern': 'cc3m-*.tar'},
    'pali_vq2a': _RECORDS,
    'pali_vqg': _RECORDS,
    'pali_object_aware': _OBJECTS,
    'pali_detection': _OBJECTS,
}
PALM_E = {
    'palm_e_webli': _CAPTIONS,
    'palm_e_vq2a': _RECORDS,
    'palm_e_vqg': _RECORDS,
    'palm_e_cc3m': {'pattern': 'cc3m-*.tar'},
    'palm_e_object_aware': _OBJECTS,
    'palm_e_ok_vqa': {**_QUESTIONS, 'annotations': 'ok_vqa.json'},
    'palm_e_vqa_v2': _QUESTIONS,
    'palm_e_coco': _COCO,
    'palm_e_wikipedia': _TEXT,
    'palm_e_mobile_manipulator': _RECORDS,
    'palm_e_language_table': _RECORDS,
    'palm_e_tamp': _RECORDS,
}
TABLE = tuple(f'language_table_{task}' for task in (
    'action', 'instruction', 'arm', 'steps', 'success'))
# Robot tasks, and what gin binds beside the directory.
ROBOT = {
    'robot': ('fractal', {}),
    'fractal20220817_data': ('fractal', {}),
    'bridge': ('bridge_oxe', {}),
    'bridge_dataset': ('bridge', {}),
    'chain_of_thought': ('fractal', {'annotation_file': 'plans.json'}),
    **{task: ('language_table', {}) for task in TABLE},
}
FILES = WEB | PALI | PALM_E


@functools.cache
def processor(task: str, **layout) -> processor_lib.Processor:
  """What the examples of `task` are made with."""
  table = task.startswith('language_table')
  return processor_lib.Processor(
      _vocabulary(), actions.LANGUAGE_TABLE if table else actions.RT2,
      images.ImageSpec(32, 40, num_images=2 if table else 1), inputs_length=48, targets_length=48,
      plan_length=24, history=2 if table else 1, **layout)


@functools.cache
def _vocabulary() -> vocabulary.Vocabulary:
  """One with sentinels, which span corruption needs."""
  with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, 'vocabulary.model')
    texts = [prompts.robot(text) for text in rlds_fixture.INSTRUCTIONS] * 20
    vocabulary.train(texts, path, vocab_size=1300, num_sentinels=32)
    return vocabulary.Vocabulary(path)


def bind(name: str, **options) -> None:
  """Binds the source of task `name` to its files; `mixtures.sources.files` says where they are."""
  source = sources.NAMES[name]
  if name in FILES:
    values = {key: {'train': path} for key, path in FILES[name].items()}
  else:
    layout, values = ROBOT.get(name, (name, {}))
    values = {'data_dir': layout, **values}
  for key, value in {**values, **options}.items():
    gin.bind_parameter(f'{source}.{key}', value)


def write(folder: pathlib.Path) -> None:
  """Writes everything that FILES and ROBOT name into `folder`."""
  for i in range(IMAGES):
    (folder / f'{i}.jpg').write_bytes(rlds_fixture.jpeg(50 + i))
  _write_questions(folder)
  _write_captions(folder)
  _write_records(folder)
  _json(folder / 'instances.json', {
      'images': [{'id': i, 'file_name': f'{i}.jpg', 'width': rlds_fixture.WIDTH,
                  'height': rlds_fixture.HEIGHT} for i in range(IMAGES)],
      'categories': [{'id': i, 'name': name} for i, name in enumerate(NAMES)],
      'annotations': [
          {'id': 10 * i + k, 'image_id': i, 'category_id': (i + k) % len(NAMES),
           'bbox': [4 * k, 2 * i, 20, 10]} for i in range(IMAGES) for k in range(2)]})
  for part in range(2):
    lines = [json.dumps({'text': f'the {NAMES[i % 3]} number {i} is red and the sponge is not'})
             for i in range(part * 3, part * 3 + 3)]
    (folder / f'text.{part}.json').write_text('\n'.join(lines) + '\n')
  for layout in {layout for layout, _ in ROBOT.values()}:
    for split, first in (('train', 0), ('val', 2)):
      rlds_fixture.write(folder / layout, layout, [
          rlds_fixture.episodes(layout, 1, 9, first), rlds_fixture.episodes(layout, 1, 9, first + 1)
      ], split)
  _json(folder / 'plans.json', [
      {'instruction': 'I am hungry', 'plan': rlds_fixture.INSTRUCTIONS[0]},
      {'instruction': 'get me something to put things into', 'plan': rlds_fixture.INSTRUCTIONS[2]},
      {'instruction': 'clean up', 'plan': rlds_fixture.INSTRUCTIONS[1]}])


def _write_questions(folder: pathlib.Path) -> None:
  asked = [{'question_id': i, 'image_id': i, 'question': f'which of the {i} things is it?'}
           for i in range(IMAGES)]
  answers = [{'answer': 'a cup'}, {'answer': 'cup'}, {'answer': 'a cup'}]
  _json(folder / 'questions.json', {'questions': asked})
  _json(folder / 'annotations.json', {'annotations': [
      {'question_id': i, 'multiple_choice_answer': 'a cup'} for i in range(IMAGES)]})
  _json(folder / 'ok_vqa.json', {'annotations': [
      {'question_id': i, 'image_id': i, 'answers': answers} for i in range(IMAGES)]})
  _json(folder / 'text_vqa.json', {'data': [
      {**each, 'image_id': str(each['image_id']), 'answers': ['red'] * 5}
      for each in asked]})
  for language, question in (('', 'is the cup red?'), ('_de', 'ist die Tasse rot?')):
    _json(folder / f'gqa{language}.json', {
        f'0{i}': {'question': question, 'answer': 'yes', 'imageId': str(i)}
        for i in range(IMAGES)})


def _write_captions(folder: pathlib.Path) -> None:
  _json(folder / 'coco.json', {
      'images': [{'id': i, 'file_name': f'{i}.jpg'} for i in range(IMAGES)],
      'annotations': [{'id': 9 - i, 'image_id': i, 'caption': f'cup {i}'} for i in range(IMAGES)]})
  (folder / 'xm3600.jsonl').write_text(''.join(
      json.dumps({
          'image/key': str(i), 'image/locale': 'en', 'en': {'caption': [f'cup {i}', 'a cup']},
          'de': {'caption': [f'Tasse {i}']}}) + '\n'
      for i in range(IMAGES)))
  with tarfile.open(folder / 'cc3m-00000.tar', 'w') as tar:
    for i in range(IMAGES):
      caption = f'a photo of the {NAMES[i % 3]} number {i} on the table'
      _add(tar, f'{i:09d}.jpg', rlds_fixture.jpeg(i))
      _add(tar, f'{i:09d}.txt', caption.encode())
      _add(tar, f'{i:09d}.json', json.dumps({'caption': caption, 'key': f'{i:09d}'}).encode())


def _write_records(folder: pathlib.Path) -> None:
  def records(name: str, values):
    rlds_fixture.write_records(
        os.fspath(folder / f'{name}.tfrecord-00000-of-00001'), [
            rlds_fixture.serialize({'image': [rlds_fixture.jpeg(i)], **values(i)})
            for i in range(IMAGES)])

  records('captions', lambda i: {'caption': [f'the cup number {i}'.encode()]})
  records('asked', lambda i: {
      'question': [b'what is it?', b'is it red?'], 'answer': [f'cup {i}'.encode(), b'yes']})
  records('ocr', lambda i: {'ocr': [b'open', f'{i} h'.encode()]})


def _json(path: pathlib.Path, content: object) -> None:
  path.write_text(json.dumps(content))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
  member = tarfile.TarInfo(name)
  member.size = len(data)
  tar.addfile(member, io.BytesIO(data))
