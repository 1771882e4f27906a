"""Captions in COCO's and XM3600's JSON, beside image files."""

import json

import pytest

from rt2_train.data import caption_files
from tests.data import rlds_fixture
from tests.data.web_fixture import asked
from tests.data.web_fixture import check
from tests.data.web_fixture import EMPTY_REMEDY
from tests.data.web_fixture import processor
from tests.data.web_fixture import REMEDY
from tests.data.web_fixture import write_images
from tests.data.web_fixture import write_json


def error_of(reader, *paths, **options) -> str:
  with pytest.raises((ValueError, OSError)) as error:
    reader(*map(str, paths), processor(), **options)
  assert '\n' not in str(error.value)
  return str(error.value)


# COCO.


def write_coco(directory, *annotations, listed=(2, 1)) -> str:
  write_images(directory, 1, 2)
  return write_json(directory / 'captions.json', {
      'images': [{'id': n, 'file_name': f'{n}.jpg'} for n in listed],
      'annotations': [{'id': number, 'image_id': image, 'caption': caption}
                      for number, image, caption in annotations]})


def test_coco_captions_are_one_example_per_caption(tmp_path):
  path = write_coco(
      tmp_path, (10, 1, 'the red apple '), (11, 2, 'the cup'), (12, 2, 'near the sponge'))
  examples = caption_files.CocoCaptions(path, str(tmp_path), processor())
  assert len(examples) == 3
  check(examples[0], rlds_fixture.jpeg(1), 'Generate caption in EN', 'the red apple')
  check(examples[2], rlds_fixture.jpeg(2), 'Generate caption in EN', 'near the sponge')
  assert examples.example_id(2) == 'coco_captions annotation 12'


def test_coco_captions_may_be_split(tmp_path):
  path = write_coco(tmp_path, *((n, 1, 'the red apple') for n in range(20)))
  examples = caption_files.CocoCaptions(
      path, str(tmp_path), processor(), objective='split_caption')
  assert {asked(examples, i) for i in range(20)} == {
      ('Generate the alt_text in EN at 0:', 'the red apple'),
      ('Generate the alt_text in EN at 3: the', 'red apple'),
      ('Generate the alt_text in EN at 7: the red', 'apple')}


@pytest.mark.parametrize('annotation, message', [
    ((10, 1, ' '), 'coco_captions annotation 10: the caption is empty' + EMPTY_REMEDY),
    ((10, 1, 'an <img> tag'), "coco_captions annotation 10: the caption holds '<img>', which marks "
     'the place of an image in a prompt' + REMEDY),
    ((10, 3, 'the cup'), '{path}: annotation 10 is about image 3, which its images do not list; '
                         'copy it again'),
    ((10, 1, None), '{path}: annotations[0] has caption None; this reader takes the schema of COCO '
                    'captions'),
])
def test_a_caption_that_cannot_be_is_named(tmp_path, annotation, message):
  path = write_coco(tmp_path, annotation)
  assert error_of(caption_files.CocoCaptions, path, tmp_path) == message.replace('{path}', path)


# XM3600.

LINES = [
    {'image/key': '00a1', 'image/locale': 'de',
     'de': {'caption': ['die Tasse', 'eine Tasse'], 'caption/tokenized': ['die Tasse'] * 2},
     'en': {'caption': ['the cup']}},
    {'image/key': '00a2', 'image/locale': 'en', 'de': {'caption': ['auf']},
     'en': {'caption': ['open', 'it is open']}},
]


def write_xm3600(directory, lines=LINES) -> tuple[str, str]:
  write_images(directory, '00a1.jpg', '00a2.jpg')
  path = directory / 'captions.jsonl'
  path.write_text('\n'.join(map(json.dumps, lines)) + '\n')
  return str(path), str(directory / '{image_id}.jpg')


def test_xm3600_gives_every_caption_in_its_language(tmp_path):
  examples = caption_files.Xm3600(*write_xm3600(tmp_path), processor())
  assert [(examples.example_id(i), *asked(examples, i)) for i in range(len(examples))] == [
      ('xm3600 image 00a1 de 0', 'Generate caption in DE', 'die Tasse'),
      ('xm3600 image 00a1 de 1', 'Generate caption in DE', 'eine Tasse'),
      ('xm3600 image 00a1 en 0', 'Generate caption in EN', 'the cup'),
      ('xm3600 image 00a2 de 0', 'Generate caption in DE', 'auf'),
      ('xm3600 image 00a2 en 0', 'Generate caption in EN', 'open'),
      ('xm3600 image 00a2 en 1', 'Generate caption in EN', 'it is open')]
  check(examples[4], rlds_fixture.jpeg(2), 'Generate caption in EN', 'open')


def test_xm3600_in_chosen_languages(tmp_path):
  paths = write_xm3600(tmp_path)
  examples = caption_files.Xm3600(*paths, processor(), languages=['en'])
  assert [asked(examples, i)[1] for i in range(len(examples))] == ['the cup', 'open', 'it is open']
  assert error_of(caption_files.Xm3600, *paths, languages=['fr']) == (
      f"{paths[0]} line 1 has no captions in 'fr'; choose languages out of de, en")
  assert error_of(caption_files.Xm3600, *paths, languages='en') == (
      "xm3600: languages is 'en'; it is a list such as ['de', 'fr'], or None for all")


@pytest.mark.parametrize('line, message', [
    ([], ' line 3 is [], not an object; this reader takes the schema of XM3600'),
    ({'de': {}}, ' line 3 has no image/key; this reader takes the schema of XM3600'),
    ({'image/key': '00a1'}, " line 3 has image/key '00a1', as another before it; leave one of them "
                            'out'),
    ({'image/key': '00a3', 'de': {'caption': 'auf'}},
     " line 3: de has caption 'auf'; this reader takes the schema of XM3600"),
])
def test_a_line_of_another_form_is_named(tmp_path, line, message):
  paths = write_xm3600(tmp_path, [*LINES, line])
  assert error_of(caption_files.Xm3600, *paths) == paths[0] + message


def test_a_line_that_is_no_json_is_named(tmp_path):
  path, images = write_xm3600(tmp_path)
  with open(path, 'a', encoding='utf-8') as file:
    file.write('{"image/key": ')
  assert error_of(caption_files.Xm3600, path, images) == (
      f'{path} line 3 is not JSON (Expecting value: line 1 column 15 (char 14)); copy it again')
  assert error_of(caption_files.Xm3600, '/none.jsonl', images) == (
      '/none.jsonl is missing; it should hold captions')
