"""What the web side knows beyond its pictures: cards, properties, languages."""

import collections

import numpy as np
import pytest

from rt2_train.sim import cards
from rt2_train.sim import knowledge
from rt2_train.sim import objects
from rt2_train.sim import properties
from rt2_train.sim import questions
from rt2_train.sim import things
from rt2_train.sim import web
from rt2_train.sim import world

INDEX = {thing.name: i for i, thing in enumerate(things.THINGS)}


def picture(*names):
  positions_Nx2 = np.array([[0.20, 0.20], [0.80, 0.24], [0.50, 0.75]])[:len(names)]
  categories = tuple(INDEX[name] for name in names)
  scene = world.Scene('pick', categories, 0, 1, positions_Nx2, 'seen', look=1)
  state = world.State(positions_Nx2, np.zeros(len(names)), np.zeros(3))
  return questions.Picture(scene, state, 24, web.RICH_QUESTION_SHARES)


def by_text(kind, *names):
  asked = [knowledge.ASK[kind](np.random.default_rng(seed), picture(*names))
           for seed in range(300)]
  return {question.text: question.answer for question in asked if question}


def test_every_object_has_properties_and_a_use_of_its_own():
  assert properties.PROPERTIES.keys() == {c.name for c in objects.CATEGORIES}
  uses = [known.use for known in properties.PROPERTIES.values()]
  assert len(set(uses)) == len(uses)
  for field in ('material', 'kind', 'size'):
    values = collections.Counter(getattr(p, field) for p in properties.PROPERTIES.values())
    assert len(values) >= 3 and max(values.values()) >= 2


def test_symbols_are_no_objects_and_all_different():
  names = [thing.name for thing in things.THINGS]
  assert len(set(names)) == len(names)
  glyphs = [card.glyph for card in cards.CARDS]
  assert len(set(glyphs)) == len(glyphs)
  assert not set(glyphs) & {category.glyph for category in objects.CATEGORIES}
  assert all(len(name.split()) == 1 for name in names)  # the grid has one word per cell


@pytest.mark.parametrize('name, riddles', [
    ('3', {'the sum of 1 and 2', 'the sum of 2 and 1'}),
    ('0', {'the number before 1'}),
    ('1', {'the number before 2'}),
    ('A', {'the first letter'}),
    ('D', {'the letter after C'}),
    ('smiley', {'the card that means joy'}),
])
def test_riddles_have_the_card_as_their_answer(name, riddles):
  assert set(cards.riddles(things.THINGS[INDEX[name]])) == riddles


def test_no_two_cards_answer_one_riddle():
  asked = [riddle for card in cards.CARDS for riddle in cards.riddles(card)]
  assert len(set(asked)) == len(asked)


def test_cards_have_phrases_in_every_language():
  assert [things.THINGS[INDEX['euro']].phrase(language) for language in objects.LANGUAGES] == [
      'a card with euro', 'eine Karte mit Euro', 'una carta con euro', 'une carte avec euro']


def test_what_can_cut_paper_is_answered_with_the_thing_that_can():
  asked = by_text('which', 'scissors', 'anchor', 'flower')
  assert asked['what can cut paper'] == 'scissors'
  assert asked['what is a plant'] == 'flower'
  assert asked['what is blue'] == 'anchor'
  # Scissors and anchor both are of metal, and both tools: no one asks.
  assert 'what is made of metal' not in asked and 'what is a tool' not in asked


def test_what_is_described_is_where_the_thing_is():
  asked = by_text('where_which', 'scissors', '3')
  assert asked['where is the thing that can cut paper'] == '45 45'
  assert asked['where is the sum of 1 and 2'] == '60 195'


def test_facts_are_asked_of_objects_and_not_of_cards():
  asked = by_text('fact', 'sun', '3')
  assert asked == {
      'what can sun do': 'warm the earth', 'what is sun made of': 'fire',
      'how big is sun': 'huge', 'what kind of thing is sun': 'in the sky'}


def test_nouns_are_translated_both_ways():
  asked = by_text('translate', 'anchor', '7')
  assert asked['what is Anker in English'] == 'anchor'
  assert asked['what is anchor in Spanish'] == 'ancla'
  assert asked['what is 7 in French'] == '7'


def test_places_are_asked_for_in_other_languages():
  asked = by_text('where_foreign', 'anchor', 'cup')
  assert asked == {
      'wo ist Anker': '45 45', 'dónde está ancla': '45 45', 'où est ancre': '45 45',
      'wo ist Tasse': '60 195', 'dónde está taza': '60 195', 'où est tasse': '60 195'}


def test_instructions_are_translated():
  asked = by_text('sentence', 'anchor')
  assert asked['what is nimm Anker in English'] == 'pick anchor'
  assert asked['what is ouvre tiroir du haut in English'] == 'open top drawer'


def test_rich_pictures_have_cards_and_every_kind_of_question():
  rng = np.random.default_rng(0)
  kinds, with_cards = collections.Counter(), 0
  for _ in range(400):
    one = web.sample_picture(
        rng, 16, shares=web.RICH_QUESTION_SHARES, card_share=web.CARD_SHARE)
    with_cards += any(map(things.is_card, one.scene.categories))
    asked = web.sample_questions(rng, one, 4)
    assert asked[0].kind == 'grid' and len({q.text for q in asked}) == 4
    kinds.update(q.kind for q in asked[1:])
  assert 0.3 < with_cards / 400 < 0.5
  assert kinds.keys() == web.RICH_QUESTION_SHARES.keys()
  for kind, share in web.RICH_QUESTION_SHARES.items():
    assert share / 3 < kinds[kind] / kinds.total() < share + 0.08, kind


def test_absent_cards_are_asked_about_where_there_are_cards():
  rng = np.random.default_rng(0)
  asked = {questions.ASK['yes_no'](rng, picture('3', 'cup')) for _ in range(200)}
  absent = {question.text.split()[1] for question in asked if question.answer == 'no'}
  assert absent & {'4', 'A', 'smiley'} and absent & {'sun', 'anchor'}
  asked = {questions.ASK['yes_no'](rng, picture('sun', 'cup')).text for _ in range(200)}
  assert not asked & {f'Is {card.name} in the image?' for card in cards.CARDS}


def test_a_kind_of_question_that_there_is_not_is_refused():
  with pytest.raises(ValueError, match="question kind 'why' is unknown; use any of where, what_at"):
    web.sample_picture(np.random.default_rng(0), 8, shares={'why': 1.0})


def test_a_vocabulary_can_hold_every_word_of_it():
  words = ' '.join(web.phrases(rich=True)).split()
  for word in ('paper', 'Anker', 'nimm', 'tiroir', 'cajón', 'sum', 'means', 'Euro'):
    assert word in words
  assert set(web.phrases()) < set(web.phrases(rich=True))
