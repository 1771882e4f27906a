"""Objectives ask what the papers ask, and the same of an example every time."""

import collections

import numpy as np
import pytest

from rt2_train import prompts
from rt2_train.data import objectives
from rt2_train.data.objectives import Object

NAMES = ('anchor', 'cup', 'fork', 'hat', 'key', 'leaf')
SEEN = {'names': NAMES, 'objects': (
    Object('cup', (0, 0, 0.5, 0.5)), Object('hat', (0.1, 0.2, 0.3, 0.4)),
    Object('cup', (0, 0, 1, 1)))}
QUESTION = {'question': 'what is red?', 'answer': 'the cup'}


def ask(objective, known, lang='EN', example_id='web question 1') -> tuple[str, str]:
  return objectives.resolve(objective)(known, lang, example_id)


def asked(objective, known, lang='EN', count=400) -> collections.Counter:
  return collections.Counter(ask(objective, known, lang, f'web image {i}') for i in range(count))


@pytest.mark.parametrize('objective, known, lang, prompt, answer', [
    ('caption', {'caption': 'a cup'}, 'DE', 'Generate caption in DE', 'a cup'),
    ('ocr', {'ocr': 'NO EXIT'}, 'EN', 'Generate the ocr_text in EN:', 'NO EXIT'),
    ('answer', QUESTION, 'EN', 'Answer in EN: what is red?', 'the cup'),
    ('palm_e_answer', QUESTION, 'EN', 'Q: what is red? A:', 'the cup'),
    ('question', QUESTION, 'FR', 'Generate a question in FR for the cup:', 'what is red?'),
])
def test_what_is_asked_as_it_stands(objective, known, lang, prompt, answer):
  assert ask(objective, known, lang) == (prompt, answer)
  assert set(objectives.resolve(objective).roles) == set(known)


def test_a_caption_is_cut_between_two_words_or_not_at_all():
  whole = 'a red  cup\non a table'
  found = asked('split_caption', {'caption': whole})
  assert set(found) == {
      (prompts.split_caption(whole[:end], end), whole[start:])
      for end, start in [(0, 0), (1, 2), (5, 7), (10, 11), (13, 14), (15, 16)]}
  assert min(found.values()) > 400 / 6 / 2


def test_a_caption_of_one_word_stays_whole():
  assert set(asked('split_caption', {'caption': 'cup'}, count=9)) == {
      ('Generate the alt_text in EN at 0: ', 'cup')}


def test_languages_without_spaces_are_cut_between_any_two_characters():
  found = asked('split_caption', {'caption': '\u7ea2\u676f\u5b50'}, 'ZH')
  assert {answer for _, answer in found} == {'\u7ea2\u676f\u5b50', '\u676f\u5b50', '\u5b50'}


def test_object_aware_asks_its_three_questions_equally_often():
  kinds = collections.Counter()
  for (prompt, answer), count in asked('object_aware', SEEN, count=900).items():
    if prompt == prompts.list_objects():
      kinds['list'] += count
      assert answer == 'cup, hat'
    elif name := next((name for name in NAMES if prompt == prompts.is_present(name)), None):
      kinds[answer] += count
      assert answer == ('yes' if name in ('cup', 'hat') else 'no')
    else:
      kinds['which'] += count
      listed = prompt.removeprefix('Answer in EN: Which of ').removesuffix(' are in the image?')
      listed = listed.split(', ')
      assert 2 <= len(listed) == len(set(listed)) <= 4 and set(listed) <= set(NAMES)
      assert answer.split(', ') == [name for name in listed if name in ('cup', 'hat')] != []
  assert all(220 < count < 380 for count in (kinds['list'], kinds['which']))
  assert all(100 < count < 200 for count in (kinds['yes'], kinds['no']))


def test_where_every_name_is_present_no_absent_one_is_asked_for():
  everything = {'names': ('cup', 'hat'), 'objects': SEEN['objects']}
  assert {answer for _, answer in asked('object_aware', everything)} <= {
      'cup, hat', 'hat, cup', 'yes', 'cup', 'hat'}


def test_detection_asks_for_one_or_several_names_and_answers_all_their_boxes_largest_first():
  cups, hat = '0 0 999 999 cup and 0 0 500 500 cup', '100 200 300 400 hat'
  assert set(asked('detection', SEEN)) == {
      ('detect cup', cups), ('detect hat', hat), ('detect cup and hat', f'{cups} and {hat}'),
      ('detect hat and cup', f'{hat} and {cups}')}
  one = objectives.detection(most_names=1, most_boxes=1)
  assert set(asked(one, SEEN)) == {('detect cup', '0 0 999 999 cup'), ('detect hat', hat)}


def test_nobody_asks_for_the_box_of_what_is_only_known_to_be_there():
  crowd = {'names': NAMES, 'objects': (Object('key'), Object('hat', (0, 0, 1, 1)))}
  assert set(asked('detection', crowd, count=30)) == {('detect hat', '0 0 999 999 hat')}
  assert ('Answer in EN: List the objects present', 'hat, key') in asked('object_aware', crowd)


@pytest.mark.parametrize('objective', ['split_caption', 'object_aware', 'detection'])
def test_an_example_is_the_same_every_time_and_its_id_decides(objective):
  known = {**SEEN, 'caption': 'a red cup on a table'}
  first, second = ([ask(objective, known, example_id=f'web {i}') for i in range(50)]
                   for _ in range(2))
  assert first == second
  assert len(set(first)) > 3


def test_what_is_drawn_does_not_depend_on_numpys_global_state():
  before = ask('detection', SEEN)
  np.random.seed(3)
  assert ask('detection', SEEN) == before


def test_an_unknown_objective_is_refused_with_those_there_are():
  with pytest.raises(ValueError, match="no objective 'captions'; there are caption, split_caption"):
    objectives.resolve('captions')


@pytest.mark.parametrize('make, message', [
    (lambda: objectives.detection(most_names=0),
     'detection: most_names is 0; it must be at least 1'),
    (lambda: objectives.object_aware(most_names=1),
     'object_aware: most_names is 1; it must be at least 2'),
])
def test_options_that_ask_for_nothing_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
