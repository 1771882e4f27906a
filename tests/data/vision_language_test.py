"""Questions and captions from JSON beside images, and from TFRecords."""

import json
import os
import re

import cv2
import numpy as np
import pytest

from rt2_train import images
from rt2_train import prompts
from rt2_train.data import vision_language
from tests.data import rlds_fixture

PROCESSOR = rlds_fixture.a_processor


def write_json(path, value) -> str:
  path.write_text(json.dumps(value))
  return str(path)


def write_vqa(directory, questions, answers, image_ids=(7, 8)) -> dict:
  """VQAv2's two files and images named as COCO names them."""
  for image_id in image_ids:
    (directory / f'COCO_val2014_{image_id:012d}.jpg').write_bytes(rlds_fixture.jpeg(image_id))
  return dict(
      questions=write_json(directory / 'questions.json', {
          'data_subtype': 'val2014', 'questions': [
              {'question_id': number, 'image_id': image_id, 'question': question}
              for number, image_id, question in questions]}),
      annotations=write_json(directory / 'annotations.json', {'annotations': [
          {'question_id': number, 'multiple_choice_answer': answer,
           'answers': [{'answer': answer, 'answer_id': 1}]} for number, answer in answers]}),
      images=str(directory / 'COCO_val2014_{image_id:012d}.jpg'))


QUESTIONS = [(70, 7, 'What is red?'), (71, 7, 'Is it open?'), (80, 8, 'Where is the cup?')]
ANSWERS = [(80, 'on the sponge'), (70, 'the apple'), (71, 'yes')]


def check(example, encoded: bytes, prompt: str, answer: str):
  processor = PROCESSOR()
  expected = images.resize(images.decode(encoded), processor.image_spec)
  np.testing.assert_array_equal(example['images'], [expected])
  assert example['image_mask'].tolist() == [1]
  np.testing.assert_array_equal(example['inputs'], processor.text_inputs(prompt))
  np.testing.assert_array_equal(example['targets'], processor.text_targets(answer))


def test_vqa_joins_questions_and_answers_by_question_id(tmp_path):
  examples = vision_language.VqaExamples(
      **write_vqa(tmp_path, QUESTIONS, ANSWERS), processor=PROCESSOR(), name='vqav2')
  assert len(examples) == 3
  check(examples[1], rlds_fixture.jpeg(7), 'Answer in EN: Is it open?', 'yes')
  check(examples[2], rlds_fixture.jpeg(8), 'Answer in EN: Where is the cup?', 'on the sponge')
  assert examples.example_id(2) == 'vqav2 question 80'
  with pytest.raises(IndexError, match='vqav2 has examples 0 to 2, not 3'):
    examples[3]


def test_the_prompt_of_a_question_may_be_another(tmp_path):
  examples = vision_language.VqaExamples(
      **write_vqa(tmp_path, QUESTIONS, ANSWERS), processor=PROCESSOR(),
      prompt=lambda question, lang: f'{lang}> {question}', lang='DE')
  check(examples[0], rlds_fixture.jpeg(7), 'DE> What is red?', 'the apple')


SKIP_EMPTY = {'empty text': 'skip'}
EMPTY_REMEDY = "; write it, or leave such examples out with on_bad={'empty text': 'skip'}"


def test_empty_questions_and_answers_are_named_or_skipped_and_counted(tmp_path):
  files = write_vqa(
      tmp_path, [*QUESTIONS, (81, 8, ' ')], [*ANSWERS[:2], (71, ''), (81, 'no')])
  with pytest.raises(ValueError) as error:
    vision_language.VqaExamples(**files, processor=PROCESSOR())
  assert str(error.value) == (
      'vqa question 71: the text to learn is empty (and 1 more; empty text: 2)' + EMPTY_REMEDY)
  examples = vision_language.VqaExamples(**files, processor=PROCESSOR(), on_bad=SKIP_EMPTY)
  assert len(examples) == 2
  assert examples.note == 'skipped: empty text 2'
  assert "vqa question 81: the question is empty" in examples.report['first_faults']['empty text']


def test_an_empty_caption_is_named(tmp_path):
  (tmp_path / '1.jpg').write_bytes(rlds_fixture.jpeg(1))
  captions = write_json(tmp_path / 'captions.json', {
      'images': [{'id': 1, 'file_name': '1.jpg'}],
      'annotations': [{'id': 10, 'image_id': 1, 'caption': ' '}]})
  with pytest.raises(ValueError, match='^coco_captions annotation 10: the text to learn is empty;'):
    vision_language.CocoCaptionExamples(captions, str(tmp_path), PROCESSOR())


@pytest.mark.parametrize('image, message', [
    (None, '{path} is missing'),
    (rlds_fixture.jpeg(8)[:300], '{path}: JPEG truncated (300 bytes, no end marker)'),
    (b'', '{path}: image is empty (0 bytes)'),
])
def test_a_broken_image_file_is_named_when_the_dataset_is_opened(tmp_path, image, message):
  files = write_vqa(tmp_path, QUESTIONS, ANSWERS)
  path = tmp_path / f'COCO_val2014_{8:012d}.jpg'
  path.unlink()
  if image is not None:
    path.write_bytes(image)
  with pytest.raises(ValueError) as error:
    vision_language.VqaExamples(**files, processor=PROCESSOR(), name='vqav2')
  assert str(error.value) == ('vqav2 question 80: ' + message.format(path=path) + '; write the '
                              "data again, or leave what is broken out with on_bad='skip'")
  with pytest.raises(ValueError, match='vqav2: 1 of 3 steps are broken'):
    vision_language.VqaExamples(**files, processor=PROCESSOR(), name='vqav2', on_bad='skip')
  examples = vision_language.VqaExamples(
      **files, processor=PROCESSOR(), on_bad='skip', max_bad_share=0.5)
  assert len(examples) == 2


def test_image_files_are_checked_at_both_ends_whatever_their_length(tmp_path):
  rng = np.random.default_rng(0)
  big = cv2.imencode('.jpg', rng.integers(0, 255, (400, 500, 3), np.uint8))[1].tobytes()
  assert len(big) > 100_000
  files = write_vqa(tmp_path, QUESTIONS[:1], ANSWERS)
  path = tmp_path / f'COCO_val2014_{7:012d}.jpg'
  # Metadata that push the frame header beyond the first bytes that are read.
  padded = big[:2] + (b'\xff\xe2\xff\xff' + b'x' * 65533) * 2 + big[2:]
  for sound in (big, padded):
    path.write_bytes(sound)
    assert len(vision_language.VqaExamples(**files, processor=PROCESSOR())) == 1
    path.write_bytes(sound[:-70])
    with pytest.raises(ValueError, match='JPEG truncated'):
      vision_language.VqaExamples(**files, processor=PROCESSOR())


def test_an_image_broken_after_opening_names_its_example(tmp_path):
  examples = vision_language.VqaExamples(
      **write_vqa(tmp_path, QUESTIONS, ANSWERS), processor=PROCESSOR(), name='vqav2')
  (tmp_path / f'COCO_val2014_{8:012d}.jpg').write_bytes(b'text')
  with pytest.raises(ValueError, match='^vqav2 question 80: not an image.*; replace the image$'):
    examples[2]


def test_the_fingerprint_follows_the_content(tmp_path):
  files = write_vqa(tmp_path, QUESTIONS, ANSWERS)
  first, second = (vision_language.VqaExamples(**files, processor=PROCESSOR()) for _ in range(2))
  other = vision_language.VqaExamples(
      **write_vqa(tmp_path, QUESTIONS, [*ANSWERS[:2], (71, 'no')]), processor=PROCESSOR())
  assert first.fingerprint == second.fingerprint != other.fingerprint


def test_vqa_files_that_do_not_fit_each_other_or_the_schema_are_refused(tmp_path):
  files = write_vqa(tmp_path, QUESTIONS, ANSWERS[:2])

  def error(**changes) -> str:
    with pytest.raises((ValueError, OSError)) as raised:
      vision_language.VqaExamples(**{**files, **changes}, processor=PROCESSOR())
    return str(raised.value)

  assert error() == (f'{files["annotations"]} has no annotation for question 71 of '
                     f'{files["questions"]}; take both files from the same split')
  assert error(questions='/none.json') == '/none.json is missing; it should hold questions'
  assert error(questions=files['annotations']).endswith(
      "has no list 'questions'; this reader takes the VQAv2 and COCO schemas")
  odd = write_json(tmp_path / 'odd.json', {'questions': [{'question_id': 1, 'question': '?'}]})
  assert error(questions=odd) == (
      f'{odd}: questions[0] has no image_id; this reader takes the VQAv2 and COCO schemas')
  whole = write_vqa(tmp_path, QUESTIONS, ANSWERS)
  assert 'which takes no image_id' in error(**{**whole, 'images': '/images/{id}.jpg'})


def test_coco_captions_are_one_example_per_caption(tmp_path):
  for number in (1, 2):
    (tmp_path / f'{number}.jpg').write_bytes(rlds_fixture.jpeg(number))
  captions = write_json(tmp_path / 'captions.json', {
      'images': [{'id': 2, 'file_name': '2.jpg'}, {'id': 1, 'file_name': '1.jpg'}],
      'annotations': [
          {'id': 10, 'image_id': 1, 'caption': 'the red apple '},
          {'id': 11, 'image_id': 2, 'caption': 'the cup'},
          {'id': 12, 'image_id': 2, 'caption': 'near the sponge'}]})
  examples = vision_language.CocoCaptionExamples(captions, str(tmp_path), PROCESSOR())
  assert len(examples) == 3
  check(examples[0], rlds_fixture.jpeg(1), 'Generate caption in EN', 'the red apple')
  check(examples[2], rlds_fixture.jpeg(2), 'Generate caption in EN', 'near the sponge')
  assert examples.example_id(2) == 'coco_captions annotation 12'


def test_a_caption_of_an_image_that_is_not_listed_is_refused(tmp_path):
  captions = write_json(tmp_path / 'captions.json', {
      'images': [], 'annotations': [{'id': 10, 'image_id': 1, 'caption': 'the apple'}]})
  with pytest.raises(ValueError, match='annotation 10 is about image 1, which its images do not'):
    vision_language.CocoCaptionExamples(captions, str(tmp_path), PROCESSOR())


def write_records(directory, shards: list[list[dict]], name: str = 'captions-train') -> str:
  for number, records in enumerate(shards):
    rlds_fixture.write_records(
        str(directory / f'{name}.tfrecord-{number:05d}-of-{len(shards):05d}'),
        [rlds_fixture.serialize(record) for record in records])
  return str(directory / f'{name}.tfrecord-*')


def test_caption_records_take_every_caption_in_its_language(tmp_path):
  pattern = write_records(tmp_path, [
      [{'image': [rlds_fixture.jpeg(1)], 'caption': [b'the apple'], 'lang': [b'en']}],
      [{'image': [rlds_fixture.jpeg(2)], 'caption': [b'the cup', 'die Tasse'.encode()],
        'lang': [b'en', b'de']},
       {'image': [rlds_fixture.jpeg(3)], 'caption': [b'open']}]])
  examples = vision_language.CaptionRecords(pattern, PROCESSOR())
  assert len(examples) == 4
  check(examples[0], rlds_fixture.jpeg(1), prompts.caption('EN'), 'the apple')
  check(examples[2], rlds_fixture.jpeg(2), prompts.caption('DE'), 'die Tasse')
  check(examples[3], rlds_fixture.jpeg(3), prompts.caption('EN'), 'open')
  assert examples.example_id(2) == 'captions-train shard 00001 record 0 text 1'
  assert os.listdir(tmp_path / '.rt2_index') == ['captions-train.tfrecord-_.caption.npz']


def test_vqa_records_take_every_question_with_its_answer(tmp_path):
  pattern = write_records(tmp_path, [[
      {'image/encoded': [rlds_fixture.jpeg(1)], 'q': [b'what?', b'is it open?'],
       'a': [b'the drawer', b'yes'], 'lang': [b'en']}]], name='vqa')
  examples = vision_language.VqaRecords(
      pattern, PROCESSOR(), image_key='image/encoded', question_key='q', answer_key='a')
  check(examples[1], rlds_fixture.jpeg(1), 'Answer in EN: is it open?', 'yes')
  again = vision_language.VqaRecords(
      pattern, PROCESSOR(), image_key='image/encoded', question_key='q', answer_key='a',
      index_dir=str(tmp_path / 'elsewhere'))
  assert again.fingerprint == examples.fingerprint


SOUND = {'image': [rlds_fixture.jpeg(1)], 'question': [b'what?'], 'answer': [b'the cup']}


@pytest.mark.parametrize('change, message', [
    ({'image': [rlds_fixture.jpeg(1)[:400]]}, 'JPEG truncated (400 bytes, no end marker)'),
    ({'image': []}, 'image has 0 values, not 1'),
    ({'answer': [b'a', b'b']}, 'answer has 2 values, question has 1'),
    ({'answer': [b'\xff']}, "answer is not UTF-8 ('utf-8' codec can't decode byte 0xff in "
                            'position 0: invalid start byte)'),
    ({'lang': [b'en', b'de']}, 'lang has 2 values, question has 1'),
    ({'answer': np.ones(1, np.float32)}, 'has no answer'),
])
def test_a_broken_record_is_named(tmp_path, change, message):
  pattern = write_records(tmp_path, [[SOUND], [SOUND, SOUND | change]], name='vqa')
  with pytest.raises(ValueError) as error:
    vision_language.VqaRecords(pattern, PROCESSOR())
  assert str(error.value) == (f'vqa shard 00001 record 1: {message}; write the data again, or '
                              "leave what is broken out with on_bad='skip'")
  skipping = vision_language.VqaRecords(pattern, PROCESSOR(), on_bad='skip', max_bad_share=0.5)
  assert len(skipping) == 2
  assert skipping.report['lost_records'] == 1


def test_records_with_empty_answers_are_named_or_skipped_and_counted(tmp_path):
  both = SOUND | {'question': [b'what?', b'where?'], 'answer': [b'the cup', b' ']}
  pattern = write_records(tmp_path, [[SOUND, both]], name='vqa')
  with pytest.raises(ValueError) as error:
    vision_language.VqaRecords(pattern, PROCESSOR())
  assert str(error.value) == 'vqa shard 00000 record 1 text 1: answer is empty' + EMPTY_REMEDY
  examples = vision_language.VqaRecords(pattern, PROCESSOR(), on_bad=SKIP_EMPTY)
  assert len(examples) == 2
  assert examples.note == 'skipped: empty text 1'


def test_a_truncated_file_of_records_is_named(tmp_path):
  pattern = write_records(tmp_path, [[SOUND, SOUND]], name='vqa')
  path = pattern.replace('*', '00000-of-00001')
  os.truncate(path, os.path.getsize(path) - 10)
  with pytest.raises(ValueError, match='^vqa shard 00000: ends inside the record at byte '):
    vision_language.VqaRecords(pattern, PROCESSOR())


def test_files_that_are_not_there_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='no file matches /none-\\*; it is a pattern'):
    vision_language.VqaRecords('/none-*', PROCESSOR())
  pattern = write_records(tmp_path, [[SOUND], [SOUND], [SOUND]], name='vqa')
  os.unlink(pattern.replace('*', '00001-of-00003'))
  with pytest.raises(FileNotFoundError,
                     match=re.escape(f'{pattern}: shard 00001 of 00003 is missing; copy the rest')):
    vision_language.VqaRecords(pattern, PROCESSOR())
