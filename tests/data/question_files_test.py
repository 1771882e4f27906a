"""Questions in VQAv2's, OK-VQA's, TextVQA's and GQA's JSON, beside image files."""

import json

import cv2
import numpy as np
import pytest

from rt2_train.data import question_files
from tests.data import rlds_fixture
from tests.data.web_fixture import asked
from tests.data.web_fixture import check
from tests.data.web_fixture import EMPTY_REMEDY
from tests.data.web_fixture import processor
from tests.data.web_fixture import REMEDY
from tests.data.web_fixture import SKIP_EMPTY
from tests.data.web_fixture import write_images
from tests.data.web_fixture import write_json

IMAGE = 'COCO_val2014_{:012d}.jpg'


def write_vqa(directory, questions, answers, image_ids=(7, 8)) -> dict:
  """VQAv2's two files and images named as COCO names them."""
  for image_id in image_ids:
    (directory / IMAGE.format(image_id)).write_bytes(rlds_fixture.jpeg(image_id))
  return dict(
      questions=write_json(directory / 'questions.json', {
          'data_subtype': 'val2014', 'questions': [
              {'question_id': number, 'image_id': image_id, 'question': question}
              for number, image_id, question in questions]}),
      annotations=write_json(directory / 'annotations.json', {'annotations': [
          {'question_id': number, 'multiple_choice_answer': answer,
           'answers': [{'answer': answer, 'answer_id': 1}]} for number, answer in answers]}),
      images=str(directory / 'COCO_val2014_{image_id:012d}.jpg'))


def open_vqa(files: dict, **options) -> question_files.Vqa:
  return question_files.Vqa(**files, processor=processor(), **options)


def error_of(reader, *paths, **options) -> str:
  with pytest.raises((ValueError, OSError)) as error:
    reader(*map(str, paths), processor(), **options)
  assert '\n' not in str(error.value)
  return str(error.value)


QUESTIONS = [(70, 7, 'What is red?'), (71, 7, 'Is it open?'), (80, 8, 'Where is the cup?')]
ANSWERS = [(80, 'on the sponge'), (70, 'the apple'), (71, 'yes')]


# VQAv2.


def test_vqa_joins_questions_and_answers_by_question_id(tmp_path):
  examples = open_vqa(write_vqa(tmp_path, QUESTIONS, ANSWERS), name='vqav2')
  assert len(examples) == 3
  check(examples[1], rlds_fixture.jpeg(7), 'Answer in EN: Is it open?', 'yes')
  check(examples[2], rlds_fixture.jpeg(8), 'Answer in EN: Where is the cup?', 'on the sponge')
  assert examples.example_id(2) == 'vqav2 question 80'
  with pytest.raises(IndexError, match='vqav2 has examples 0 to 2, not 3'):
    examples[3]


def test_the_same_files_train_to_ask(tmp_path):
  files = write_vqa(tmp_path, QUESTIONS, ANSWERS)
  examples = open_vqa(files, objective='question', lang='DE')
  assert asked(examples, 0) == ('Generate a question in DE for the apple:', 'What is red?')
  # What people answered is then no answer.
  assert examples.answers(0) == ('What is red?',)
  assert open_vqa(files).answers(0) == ('the apple',)


def test_empty_questions_and_answers_are_named_or_skipped_and_counted(tmp_path):
  files = write_vqa(
      tmp_path, [*QUESTIONS, (81, 8, ' ')], [*ANSWERS[:2], (71, ''), (81, 'no')])
  assert error_of(question_files.Vqa, *files.values()) == (
      'vqa question 71: the answer is empty (and 1 more; empty text: 2)' + EMPTY_REMEDY)
  examples = open_vqa(files, on_bad=SKIP_EMPTY)
  assert len(examples) == 2
  assert examples.note == 'skipped: empty text 2'
  assert 'vqa question 81: the question is empty' in examples.report['first_faults']['empty text']


@pytest.mark.parametrize('image, message', [
    (None, '{path} is missing'),
    (rlds_fixture.jpeg(8)[:300], '{path}: JPEG truncated (300 bytes, no end marker)'),
    (b'', '{path}: image is empty (0 bytes)'),
])
def test_a_broken_image_file_is_named_when_the_dataset_is_opened(tmp_path, image, message):
  files = write_vqa(tmp_path, QUESTIONS, ANSWERS)
  path = tmp_path / IMAGE.format(8)
  path.unlink()
  if image is not None:
    path.write_bytes(image)
  assert error_of(question_files.Vqa, *files.values(), name='vqav2') == (
      'vqav2 question 80: ' + message.format(path=path) + REMEDY)
  assert 'vqav2: 1 of 3 steps are broken' in error_of(
      question_files.Vqa, *files.values(), name='vqav2', on_bad='skip')
  assert len(open_vqa(files, on_bad='skip', max_bad_share=0.5)) == 2


def test_image_files_are_checked_at_both_ends_whatever_their_length(tmp_path):
  rng = np.random.default_rng(0)
  big = cv2.imencode('.jpg', rng.integers(0, 255, (400, 500, 3), np.uint8))[1].tobytes()
  assert len(big) > 100_000
  files = write_vqa(tmp_path, QUESTIONS[:1], ANSWERS)
  path = tmp_path / IMAGE.format(7)
  # Metadata that push the frame header beyond the first bytes that are read.
  padded = big[:2] + (b'\xff\xe2\xff\xff' + b'x' * 65533) * 2 + big[2:]
  for sound in (big, padded):
    path.write_bytes(sound)
    assert len(open_vqa(files)) == 1
    path.write_bytes(sound[:-70])
    with pytest.raises(ValueError, match='JPEG truncated'):
      open_vqa(files)


def test_an_image_broken_after_opening_names_its_example(tmp_path):
  examples = open_vqa(write_vqa(tmp_path, QUESTIONS, ANSWERS), name='vqav2')
  (tmp_path / IMAGE.format(8)).write_bytes(b'text')
  with pytest.raises(ValueError, match='^vqav2 question 80: not an image.*; replace the image$'):
    examples[2]


def test_the_fingerprint_follows_what_is_asked_and_answered(tmp_path):
  files = write_vqa(tmp_path, QUESTIONS, ANSWERS)
  first, again, as_palm_e = (
      open_vqa(files, objective=name) for name in ('answer', 'answer', 'palm_e_answer'))
  assert first.fingerprint == again.fingerprint != as_palm_e.fingerprint
  changed = open_vqa(write_vqa(tmp_path, QUESTIONS, [*ANSWERS[:2], (71, 'no')]))
  assert changed.fingerprint != first.fingerprint


def test_vqa_files_that_do_not_fit_each_other_or_the_schema_are_refused(tmp_path):
  files = write_vqa(tmp_path, QUESTIONS, ANSWERS[:2])

  def error(**changes) -> str:
    return error_of(question_files.Vqa, *{**files, **changes}.values())

  assert error() == (f'{files["annotations"]} has no annotation for question 71 of '
                     f'{files["questions"]}; take both files from the same split')
  assert error(questions='/none.json') == '/none.json is missing; it should hold questions'
  assert error(questions=files['annotations']).endswith(
      "has no list 'questions'; this reader takes the schema of VQAv2")
  odd = write_json(tmp_path / 'odd.json', {'questions': [{'question_id': 1, 'question': '?'}]})
  assert error(questions=odd) == (
      f'{odd}: questions[0] has no image_id; this reader takes the schema of VQAv2')
  whole = write_vqa(tmp_path, QUESTIONS, ANSWERS)
  assert 'which takes no image_id' in error(**{**whole, 'images': '/images/{id}.jpg'})


def test_an_objective_that_questions_do_not_serve_is_refused(tmp_path):
  files = write_vqa(tmp_path, QUESTIONS, ANSWERS)
  assert error_of(question_files.Vqa, *files.values(), objective='caption') == (
      "vqa: objective 'caption' takes caption, which these data do not say; choose one of answer, "
      'palm_e_answer, question')


# OK-VQA.


def write_ok_vqa(directory, answers) -> list[str]:
  """OK-VQA's files: as VQAv2's, but nothing says which of the answers is to be learnt."""
  files = write_vqa(directory, QUESTIONS[:1], ANSWERS)
  write_json(directory / 'annotations.json', {'annotations': [
      {'question_id': 70, 'image_id': 7, 'answer_type': 'other', 'answers': [
          {'answer_id': n, 'raw_answer': f'{answer}s', 'answer_confidence': 'yes',
           'answer': answer} for n, answer in enumerate(answers)]}]})
  return list(files.values())


@pytest.mark.parametrize('answers, learnt', [
    (['cup', 'mug', 'mug', 'glass'], 'mug'), (['glass', 'mug', 'mug', 'glass', 'cup'], 'glass')])
def test_ok_vqa_learns_the_most_frequent_answer_the_first_of_equals(tmp_path, answers, learnt):
  examples = question_files.Vqa(*write_ok_vqa(tmp_path, answers), processor())
  assert asked(examples, 0) == ('Answer in EN: What is red?', learnt)
  assert examples.answers(0) == tuple(answers)


def test_an_annotation_without_any_answer_is_refused(tmp_path):
  files = write_ok_vqa(tmp_path, [])
  assert error_of(question_files.Vqa, *files) == (
      f'{files[1]}: annotations[0] has no multiple_choice_answer; this reader takes the schema of '
      'VQAv2')


# TextVQA.


def write_text_vqa(directory, **changes) -> tuple[str, str]:
  write_images(directory, 'a1.jpg', 'a2.jpg')
  entry = {'question_id': 34602, 'image_id': 'a2', 'question': 'What does it say?',
           'image_classes': ['Sign'], 'answers': ['stop', 'STOP', 'stop', 'go']}
  path = write_json(directory / 'TextVQA_0.5.1_train.json', {
      'dataset_type': 'train', 'data': [{**entry, **changes},
                                        {**entry, 'question_id': 2, 'image_id': 'a1'}]})
  return path, str(directory / '{image_id}.jpg')


def test_text_vqa_is_read_as_it_is_published(tmp_path):
  examples = question_files.TextVqa(*write_text_vqa(tmp_path), processor())
  check(examples[0], rlds_fixture.jpeg(2), 'Answer in EN: What does it say?', 'stop')
  assert examples.answers(0) == ('stop', 'STOP', 'stop', 'go')
  assert examples.example_id(0) == 'text_vqa question 34602'


@pytest.mark.parametrize('changes, message', [
    ({'answers': 'stop'}, "data[0] has answers 'stop'; this reader takes the schema of TextVQA"),
    ({'image_id': None}, 'data[0] has image_id None; this reader takes the schema of TextVQA'),
    ({'question_id': 2}, 'data[1] has question_id 2, as another before it; leave one of them out'),
])
def test_text_vqa_of_another_form_is_named(tmp_path, changes, message):
  path, images = write_text_vqa(tmp_path, **changes)
  assert error_of(question_files.TextVqa, path, images) == f'{path}: {message}'


def test_a_question_nobody_answered_is_empty(tmp_path):
  assert error_of(question_files.TextVqa, *write_text_vqa(tmp_path, answers=[])) == (
      'text_vqa question 34602: the answer is empty' + EMPTY_REMEDY)


# GQA and xGQA.

GQA = {'question': 'Is the sky dark?', 'answer': 'yes', 'imageId': 'n1', 'isBalanced': True,
       'fullAnswer': 'Yes, the sky is dark.', 'semantic': []}


def write_gqa(directory, **changes) -> tuple[str, str]:
  write_images(directory, 'n1.jpg', 'n2.jpg')
  path = write_json(directory / 'train_balanced_questions.json', {
      '02930152': {**GQA, **changes}, '07333408': {**GQA, 'imageId': 'n2', 'answer': 'no'}})
  return path, str(directory / '{image_id}.jpg')


def test_gqa_is_read_as_it_is_published(tmp_path):
  examples = question_files.Gqa(*write_gqa(tmp_path), processor())
  check(examples[0], rlds_fixture.jpeg(1), 'Answer in EN: Is the sky dark?', 'yes')
  check(examples[1], rlds_fixture.jpeg(2), 'Answer in EN: Is the sky dark?', 'no')
  assert examples.example_id(1) == 'gqa question 07333408'
  assert examples.answers(0) == ('yes',)


def test_xgqa_asks_in_another_language_for_an_english_answer(tmp_path):
  examples = question_files.Gqa(
      *write_gqa(tmp_path, question='Ist der Himmel dunkel?'), processor(), name='xgqa')
  assert asked(examples, 0) == ('Answer in EN: Ist der Himmel dunkel?', 'yes')


@pytest.mark.parametrize('whole, message', [
    ([GQA], ' is no object of questions by id; this reader takes the schema of GQA'),
    ({'1': 'x'}, ": question 1 is 'x', not an object; this reader takes the schema of GQA"),
    ({'a\nb': GQA}, " has the question id 'a\\nb'; this reader takes the schema of GQA"),
    ({'1': {key: GQA[key] for key in ('question', 'imageId')}},
     ': question 1 has no answer; this reader takes the schema of GQA'),
    ({'1': {**GQA, 'imageId': 7.5}},
     ': question 1 has imageId 7.5; this reader takes the schema of GQA'),
])
def test_gqa_of_another_form_is_named(tmp_path, whole, message):
  path, images = write_gqa(tmp_path)
  (tmp_path / 'train_balanced_questions.json').write_text(json.dumps(whole))
  assert error_of(question_files.Gqa, path, images) == path + message


def test_an_image_that_gqa_points_to_but_is_not_there_is_named(tmp_path):
  path, images = write_gqa(tmp_path, imageId='n9')
  assert error_of(question_files.Gqa, path, images) == (
      f'gqa question 02930152: {tmp_path}/n9.jpg is missing' + REMEDY)


def test_files_without_any_question_are_refused(tmp_path):
  path, images = write_gqa(tmp_path)
  (tmp_path / 'train_balanced_questions.json').write_text('{}')
  assert error_of(question_files.Gqa, path, images) == 'gqa has no usable example among 0 ()'
