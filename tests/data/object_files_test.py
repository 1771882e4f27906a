"""Objects in COCO's instances JSON, beside image files."""

import math

import pytest

from rt2_train.data import object_files
from rt2_train.data import objectives
from tests.data import rlds_fixture
from tests.data.web_fixture import asked
from tests.data.web_fixture import check
from tests.data.web_fixture import processor
from tests.data.web_fixture import REMEDY
from tests.data.web_fixture import write_images
from tests.data.web_fixture import write_json

SCHEMA = '; this reader takes the schema of COCO instances'
CUP = {'id': 10, 'image_id': 1, 'category_id': 3, 'bbox': [16, 0, 32, 24], 'iscrowd': 0}
HAT = {'id': 11, 'image_id': 2, 'category_id': 5, 'bbox': [0.5, 47.4, 63.9, 0.9]}
NAMES = [{'id': 3, 'name': 'cup', 'supercategory': 'kitchen'}, {'id': 5, 'name': 'hat'},
         {'id': 9, 'name': 'key'}]


def write(directory, *annotations, image_ids=(1, 2), **changes) -> str:
  write_images(directory, *image_ids)
  whole = {
      'images': [{'id': n, 'file_name': f'{n}.jpg', 'width': 64, 'height': 48} for n in image_ids],
      'annotations': list(annotations), 'categories': NAMES}
  return write_json(directory / 'instances.json', {**whole, **changes})


def open_objects(directory, path, **options) -> object_files.CocoObjects:
  return object_files.CocoObjects(path, str(directory), processor(), **options)


def error_of(directory, path, **options) -> str:
  with pytest.raises((ValueError, OSError)) as error:
    open_objects(directory, path, **options)
  assert '\n' not in str(error.value)
  return str(error.value)


def test_boxes_become_palis_integers(tmp_path):
  examples = open_objects(tmp_path, write(tmp_path, CUP, HAT))
  assert len(examples) == 2
  check(examples[0], rlds_fixture.jpeg(1), 'detect cup', '0 250 500 750 cup')
  # Rounded numbers that leave the picture by less than a pixel are cut off at its border.
  assert asked(examples, 1) == ('detect hat', '987 7 999 999 hat')
  assert examples.example_id(1) == 'coco_objects image 2'


def test_object_aware_questions_ask_for_names_of_the_whole_dataset(tmp_path):
  numbers = range(1, 61)
  path = write(tmp_path, *({**CUP, 'id': n, 'image_id': n} for n in numbers), image_ids=numbers)
  examples = open_objects(tmp_path, path, objective='object_aware', name='open_images')
  said = {asked(examples, i) for i in range(60)}
  assert {('Answer in EN: List the objects present', 'cup'),
          ('Answer in EN: Is cup in the image?', 'yes'),
          ('Answer in EN: Is hat in the image?', 'no'),
          ('Answer in EN: Is key in the image?', 'no')} <= said
  assert {answer for prompt, answer in said if 'Which of' in prompt} == {'cup'}


def test_an_image_without_objects_is_left_out_and_counted(tmp_path):
  examples = open_objects(tmp_path, write(tmp_path, HAT))
  assert len(examples) == 1
  assert examples.note == 'left out: no object 1'
  assert examples.report['left_out'] == {'no object': 1} and examples.report['steps'] == 2


def test_a_crowd_is_there_but_has_no_box(tmp_path):
  path = write(tmp_path, {**CUP, 'iscrowd': 1, 'bbox': [0, 0, 999, 999]}, {**HAT, 'image_id': 1},
               image_ids=(1,))
  one = open_objects(tmp_path, path)
  assert asked(one, 0)[0] == 'detect hat'
  listed = objectives.Objective(
      'listed', ('objects', 'names'),
      lambda known, lang, rng: ('list', ' '.join(sorted(each.name for each in known['objects']))))
  assert asked(open_objects(tmp_path, path, objective=listed), 0)[1] == 'cup hat'
  crowd = write(tmp_path, {**CUP, 'iscrowd': 1}, image_ids=(1,))
  assert error_of(tmp_path, crowd) == (
      'coco_objects has no usable example among 1 (left out: no object 1)')


def test_options_of_an_objective_come_with_it(tmp_path):
  path = write(tmp_path, *({**CUP, 'id': n, 'category_id': c} for n, c in enumerate((3, 5, 9, 3))))
  prompts = set()
  for name in map(str, range(30)):
    prompts.add(asked(open_objects(
        tmp_path, path, name=name, objective=objectives.detection(most_names=1, most_boxes=1)), 0))
  assert prompts == {(f'detect {name}', f'0 250 500 750 {name}') for name in ('cup', 'hat', 'key')}


@pytest.mark.parametrize('bbox', [
    [0, 0, 66, 10], [0, 0, 10, 50], [-2, 0, 10, 10], [10, 10, -1, 5], [0, math.nan, 1, 1],
    [0, 0, math.inf, 1]])
def test_a_box_that_is_no_part_of_its_image_is_named_or_skipped(tmp_path, bbox):
  path = write(tmp_path, CUP, HAT, {**HAT, 'id': 12, 'bbox': bbox})
  assert error_of(tmp_path, path) == (
      f'coco_objects image 2: annotation 12: bbox {bbox} of hat is no part of an image of 64x48'
      + REMEDY)
  examples = open_objects(tmp_path, path, on_bad={'bad box': 'skip'})
  assert (len(examples), examples.note) == (1, 'skipped: bad box 1')


@pytest.mark.parametrize('changes, message', [
    ({'image_id': 7},
     'annotation 10 is about image 7, which its images do not list; copy it again'),
    ({'category_id': 7},
     'annotation 10 is about category 7, which its categories do not list; copy it again'),
    ({'bbox': [1, 2, 3]}, 'annotations[0] has bbox [1, 2, 3]' + SCHEMA),
    ({'bbox': [1, 2, 3, True]}, 'annotations[0] has bbox [1, 2, 3, True]' + SCHEMA),
    ({'bbox': [10**400, 2, 3, 4]}, 'annotations[0] has bbox '),
    ({'iscrowd': 'no'}, "annotation 10 has iscrowd 'no'; it is 0 or 1"),
])
def test_an_annotation_of_another_form_is_named(tmp_path, changes, message):
  path = write(tmp_path, {**CUP, **changes})
  assert error_of(tmp_path, path).startswith(f'{path}: {message}')


@pytest.mark.parametrize('changes, message', [
    ({'categories': None}, " has no list 'categories'" + SCHEMA),
    ({'categories': [{'id': 3, 'name': ' '}]}, ': categories[0] has an empty name; write it'),
    ({'categories': [{'id': 3, 'name': '<img>'}]},
     ": categories[0]: the name holds '<img>', which marks the place of an image in a prompt; "
     'write it again'),
    ({'images': [{'id': 1, 'file_name': '1.jpg', 'width': 0, 'height': 48}]},
     ': images[0] has width 0' + SCHEMA),
])
def test_a_file_of_another_form_is_named(tmp_path, changes, message):
  path = write(tmp_path, CUP, **changes)
  assert error_of(tmp_path, path) == path + message


def test_an_image_that_is_listed_but_not_there_is_named(tmp_path):
  path = write(tmp_path, CUP)
  (tmp_path / '1.jpg').unlink()
  assert error_of(tmp_path, path) == f'coco_objects image 1: {tmp_path}/1.jpg is missing' + REMEDY
