"""The table of objects."""

import pytest

from rt2_train.sim import objects


def test_there_are_enough_objects_and_half_are_unseen():
  assert len(objects.CATEGORIES) >= 16
  assert objects.indices('seen', 16) == tuple(range(0, 16, 2))
  assert objects.indices('unseen', 16) == tuple(range(1, 16, 2))
  assert objects.indices('all', 5) == (0, 1, 2, 3, 4)


@pytest.mark.parametrize('language', objects.LANGUAGES)
def test_names_and_phrases_are_unique_in_every_language(language):
  nouns = [category.noun(language) for category in objects.CATEGORIES]
  phrases = [category.phrase(language) for category in objects.CATEGORIES]
  assert len(set(nouns)) == len(set(phrases)) == len(nouns)
  assert all(noun in phrase for noun, phrase in zip(nouns, phrases))


def test_the_first_twelve_have_a_colour_of_their_own():
  assert len({category.color for category in objects.CATEGORIES[:12]}) == 12


def test_no_two_objects_look_alike():
  looks = [(category.glyph, category.color) for category in objects.CATEGORIES]
  assert len({glyph for glyph, _ in looks}) == len(looks)


@pytest.mark.parametrize('index, phrases', [
    (5, ('a blue anchor', 'ein blauer Anker', 'un ancla azul', 'une ancre bleue')),
    (1, ('a red phone', 'ein rotes Telefon', 'un teléfono rojo', 'un téléphone rouge')),
    (3, ('orange scissors', 'eine orange Schere', 'unas tijeras naranja',
         'une paire de ciseaux orange')),
    (16, ('an orange lightning', 'ein oranger Blitz', 'un rayo naranja', 'un éclair orange')),
])
def test_adjectives_agree_with_their_nouns(index, phrases):
  category = objects.CATEGORIES[index]
  assert tuple(category.phrase(language) for language in objects.LANGUAGES) == phrases


def test_an_unknown_group_is_refused():
  with pytest.raises(ValueError, match="object group 'new' is unknown; use one of seen, unseen"):
    objects.indices('new', 8)
