"""Scenes beyond the plain ones: look-alikes, cards, other words."""

import numpy as np
import pytest

from rt2_train.sim import objects
from rt2_train.sim import properties
from rt2_train.sim import tabletop
from rt2_train.sim import things
from rt2_train.sim import wordings


def scenes(seeds=60, **arguments):
  env = tabletop.Tabletop(image_size=16, **arguments)
  for seed in range(seeds):
    yield env.reset(seed=seed)[1]['scene']


def names(scene):
  return [things.THINGS[c].name for c in scene.categories]


@pytest.mark.parametrize('targets, others, least', [('seen', 'seen', 0.5), ('unseen', 'all', 1)])
def test_in_a_hard_scene_every_other_object_has_the_targets_shape_or_its_colour(
    targets, others, least):
  shapes = 0
  for scene in scenes(targets=targets, others=others, difficulty='hard'):
    assert len(scene.categories) == len(set(scene.categories)) == 5
    target = scene.categories[scene.target]
    assert scene.colors[scene.target] == things.THINGS[target].color
    for i, category in enumerate(scene.categories):
      alike = things.same_shape(category, target)
      assert alike or scene.colors[i] == scene.colors[scene.target]
      shapes += alike and i != scene.target
    if others == 'all':
      assert any((c - target) % 2 for c in scene.categories)
  assert shapes / 60 > least  # of eight objects that are seen, some have a shape of their own


def test_easy_scenes_leave_everything_its_own_colour():
  assert all(scene.colors == () for scene in scenes(10))


def test_every_object_has_a_shape_that_others_have():
  for i in range(len(objects.CATEGORIES)):
    assert sum(things.same_shape(i, j) for j in range(len(objects.CATEGORIES))) >= 3
    assert not any(things.same_shape(i, card) for card in things.CARD_INDICES)


def test_things_are_moved_near_cards_and_cards_are_picked():
  for scene in scenes(20, skill='move_near', others='cards'):
    cards = [things.is_card(c) for c in scene.categories]
    assert sum(cards) == 2 and not cards[scene.target] and cards[scene.reference]
    target, reference = names(scene)[scene.target], names(scene)[scene.reference]
    assert scene.instruction == f'move {target} near {reference}'
  for scene in scenes(20, targets='cards', others='cards'):
    assert all(map(things.is_card, scene.categories))


@pytest.mark.parametrize('wording', wordings.WORDINGS)
def test_a_wording_changes_what_is_said_and_nothing_else(wording):
  for plain, worded in zip(scenes(20, skill='place_into'),
                           scenes(20, skill='place_into', wording=wording)):
    assert plain.categories == worded.categories and plain.look == worded.look
    np.testing.assert_array_equal(plain.start_Nx2, worded.start_Nx2)
    assert (plain.instruction == worded.instruction) == (wording == 'name')


def test_a_property_in_an_instruction_is_true_of_one_thing_on_the_table():
  for scene in scenes(80, wording='property', others='all', targets='unseen'):
    described = scene.instruction.removeprefix('pick ')
    fits = [i for i, c in enumerate(scene.categories)
            if described in {fact.phrase for fact in properties.facts(c)}]
    assert fits == [scene.target]


def test_in_a_hard_scene_nothing_is_called_by_a_colour_that_others_have():
  for scene in scenes(40, wording='property', difficulty='hard'):
    color = scene.colors[scene.target]
    assert scene.colors.count(color) == 1 or scene.instruction != f'pick the {color} thing'


@pytest.mark.parametrize('wording, instruction', [
    ('name', 'move cup near 7'),
    ('noun_es', 'move taza near 7'),
    ('de', 'bewege Tasse zu 7'),
    ('fr', 'mets tasse près de 7'),
])
def test_instructions_in_other_languages(wording, instruction):
  cup = [c.name for c in objects.CATEGORIES].index('cup')
  seven = next(i for i in things.CARD_INDICES if things.THINGS[i].name == '7')
  scene = tabletop.Scene(
      'move_near', (cup, seven), 0, 1, np.array([[0.2, 0.2], [0.8, 0.8]]), 'seen', look=0)
  assert wordings.instruct(scene, wording) == instruction


def test_every_place_has_a_name_in_every_language():
  for scene in scenes(40, skill='open_drawer', wording='de'):
    assert scene.instruction == f"öffne {wordings.PLACE_NAMES[scene.place]['de']}"
  assert all(set(called) == set(wordings.FOREIGN) for called in wordings.PLACE_NAMES.values())
