"""The web side says what is true of its pictures."""

import numpy as np
import pytest

from rt2_train import prompts
from rt2_train.sim import objects
from rt2_train.sim import questions
from rt2_train.sim import web
from rt2_train.sim import world


def picture(positions=((0.20, 0.20), (0.80, 0.24), (0.50, 0.75)), categories=(0, 1, 2)):
  positions_Nx2 = np.array(positions)
  scene = world.Scene('pick', categories, 0, 1, positions_Nx2, 'seen', look=1)
  return web.Picture(
      scene, world.State(positions_Nx2, np.zeros(len(positions)), np.zeros(3)), 8)


def ask(kind, seed=0, **arguments):
  return questions.ASK[kind](np.random.default_rng(seed), picture(**arguments))


def by_text(kind, **arguments):
  """All that is asked of one kind about one picture: text -> question."""
  asked = [ask(kind, seed, **arguments) for seed in range(80)]
  return {question.text: question for question in asked if question}


def test_places_are_seventeen_levels_written_y_x():
  assert {questions.location(v) for v in np.linspace(0, 1, 500)} == set(range(0, 241, 15))
  assert questions.place(x=0.0, y=1.0) == '240 0'


def test_where_is_answered_with_the_place():
  question = by_text('where')['where is phone']
  assert question.answer == '60 195' and question.accepted == (question.answer,)


def test_what_is_at_names_the_object_at_that_place():
  assert by_text('what_at')['what is at 180 120'].answer == 'airplane'


def test_the_grid_has_one_word_per_cell():
  question = questions.grid(picture())
  assert question.answer == 'umbrella no phone no no no no airplane no'
  assert question.accepted == (question.answer,)


def test_an_object_on_a_border_counts_for_either_cell():
  question = questions.grid(picture(positions=((0.34, 0.2), (0.8, 0.5), (0.5, 0.8))))
  assert question.answer == 'no umbrella no no no phone no airplane no'
  assert 'umbrella no no no no phone no airplane no' in question.accepted


def test_of_two_in_a_cell_the_grid_names_the_one_nearer_to_its_middle():
  question = questions.grid(picture(positions=((0.36, 0.5), (0.62, 0.5), (0.15, 0.15))))
  assert question.answer == 'airplane no no no phone no no no no'
  assert 'airplane no no no umbrella no no no no' in question.accepted


def test_lists_go_from_left_to_right_unless_that_is_hard_to_see():
  assert ask('list').answer == 'umbrella 45 45 airplane 180 120 phone 60 195'
  assert ask('list', positions=((0.5, 0.2), (0.51, 0.8), (0.2, 0.5))) is None


def test_relations_are_only_asked_where_they_are_clear():
  asked = by_text('relation')
  assert asked['is umbrella left or right of phone'].answer == 'left'
  assert asked['is airplane above or below phone'].answer == 'below'
  assert 'is umbrella above or below phone' not in asked


def test_absent_objects_are_asked_about_as_often_as_present_ones():
  rng = np.random.default_rng(0)
  answers = []
  for _ in range(400):
    question = questions.ASK['yes_no'](rng, picture())
    present = question.text.split()[1] in ('umbrella', 'phone', 'airplane')
    assert question.answer == ('yes' if present else 'no')
    answers.append(present)
  assert 0.4 < np.mean(answers) < 0.6


def test_counts_and_colours():
  assert ask('count').answer == '3'
  assert by_text('color')['what color is phone'].answer == 'red'


def test_questions_are_pali_prompts_where_pali_has_them():
  assert prompts.vqa(ask('list').text) == prompts.list_objects()
  assert prompts.is_present('phone') in {prompts.vqa(text) for text in by_text('yes_no')}


def test_detection_writes_integers_on_a_grid_of_a_thousand():
  question = web.sample_detection(np.random.default_rng(0), picture(), 48)
  *box, name = question.answer.split()
  y0, x0, y1, x1 = map(int, box)
  at = dict(zip(('umbrella', 'phone', 'airplane'), picture().state.positions_Nx2))[name]
  assert question.text == f'detect {name}'
  assert 0 <= y0 < y1 <= 999 and 0 <= x0 < x1 <= 999
  np.testing.assert_allclose([(x0 + x1) / 2000, (y0 + y1) / 2000], at, atol=0.03)


def test_every_picture_has_its_grid_question_and_no_question_twice():
  rng = np.random.default_rng(0)
  kinds = []
  for _ in range(400):
    questions = web.sample_questions(rng, web.sample_picture(rng, 8), 3)
    assert questions[0].kind == 'grid' and len({q.text for q in questions}) == 3
    kinds += [q.kind for q in questions[1:]]
  for kind, share in web.QUESTION_SHARES.items():
    found = kinds.count(kind) / len(kinds)
    # Lists and relations are not asked where the answer is hard to see.
    low = share / 3 if kind in ('list', 'relation') else share - 0.06
    assert low < found < share + 0.12, kind


@pytest.mark.parametrize(
    'shares', [web.QUESTION_SHARES, web.RICH_QUESTION_SHARES, web.CAPTION_SHARES,
               web.NUM_OBJECTS_SHARES])
def test_shares_add_up(shares):
  assert sum(shares.values()) == pytest.approx(1)


def test_captions_come_in_all_languages_and_say_where_things_are():
  left, right = (0.2, 0.5), (0.8, 0.5)
  found = {}
  for seed in range(100):
    rng = np.random.default_rng(seed)
    language, caption = web.sample_caption(rng, picture((left, right), (5, 1)))
    found.setdefault(language, set()).add(caption)
  assert found == {
      'en': {'a blue anchor left of a red phone', 'a red phone right of a blue anchor'},
      'de': {'links ein blauer Anker, rechts ein rotes Telefon',
             'rechts ein rotes Telefon, links ein blauer Anker'},
      'es': {'un ancla azul a la izquierda de un teléfono rojo',
             'un teléfono rojo a la derecha de un ancla azul'},
      'fr': {"une ancre bleue à gauche d'un téléphone rouge",
             "un téléphone rouge à droite d'une ancre bleue"},
  }


def test_pictures_hold_seen_and_unseen_objects_and_are_reproducible():
  drawn = [web.sample_picture(np.random.default_rng(seed), 8) for seed in range(80)]
  assert {c for p in drawn for c in p.scene.categories} == set(range(8))
  assert {len(p.names) for p in drawn} == set(web.NUM_OBJECTS_SHARES)
  again = web.sample_picture(np.random.default_rng(5), 8)
  np.testing.assert_array_equal(again.draw(48), drawn[5].draw(48))


def test_phrases_cover_every_language():
  assert len(web.phrases()) == len(objects.CATEGORIES) * len(objects.LANGUAGES)
