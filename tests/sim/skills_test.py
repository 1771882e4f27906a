"""When a skill has succeeded, and what its scenes hold."""

import dataclasses

import numpy as np
import pytest

from rt2_train.sim import placement
from rt2_train.sim import places
from rt2_train.sim import tabletop
from rt2_train.sim import world
from rt2_train.sim.skills import registry


def scene_and_state(skill='pick', gripper=(0.3, 0.3, 0.05), closed=False, held=-1):
  positions_Nx2 = np.array([[0.3, 0.3], [0.7, 0.3], [0.5, 0.8]])
  scene = world.Scene(skill, (0, 2, 4), 0, 1, positions_Nx2, 'seen', look=5)
  return scene, world.State(positions_Nx2, np.zeros(3), np.array(gripper), closed, held)


def staged(skill, seeds=60, **arguments):
  """First scenes and states of a skill."""
  env = tabletop.Tabletop(skill, image_size=24, **arguments)
  for seed in range(seeds):
    env.reset(seed=seed)
    yield env.scene, env.state


def succeeded(scene, state):
  return registry.SKILLS[scene.skill].succeeded(scene, state)


def test_picked_means_held_and_lifted():
  assert not succeeded(*scene_and_state(closed=True, held=0))
  assert succeeded(*scene_and_state(gripper=(0.3, 0.3, 0.3), closed=True, held=0))
  assert not succeeded(*scene_and_state(gripper=(0.7, 0.3, 0.4), closed=True, held=1))


def test_near_means_let_go_beside_a_reference_that_was_not_moved():
  scene, state = scene_and_state('move_near')
  beside = state.positions_Nx2.copy()
  beside[0] = [0.5, 0.3]
  assert not succeeded(scene, state)
  assert succeeded(scene, dataclasses.replace(state, positions_Nx2=beside))
  assert not succeeded(scene, dataclasses.replace(state, positions_Nx2=beside, closed=True, held=0))
  beside[1] += 0.05
  assert not succeeded(scene, dataclasses.replace(state, positions_Nx2=beside))


@pytest.mark.parametrize('skill, before', [('knock_over', False), ('place_upright', True)])
def test_only_the_named_object_falls_or_is_put_on_its_feet(skill, before):
  for scene, state in staged(skill):
    assert state.fallen == scene.fallen and scene.fallen[scene.target] == before
    done = np.array(scene.fallen)
    done[scene.target] = not before
    lying = np.where(done, np.pi / 2, 0.0)
    assert succeeded(scene, dataclasses.replace(state, rolls_N=lying))
    assert not succeeded(scene, dataclasses.replace(state, rolls_N=lying, held=scene.target))
    other = (scene.target + 1) % len(done)
    both = np.where(np.arange(len(done)) == other, np.pi / 2 - lying, lying)
    assert not succeeded(scene, dataclasses.replace(state, rolls_N=both))


def test_what_stands_and_what_lies_cannot_be_told_from_who_is_named():
  others = [lies for scene, _ in staged('knock_over', 80)
            for i, lies in enumerate(scene.fallen) if i != scene.target]
  assert 0.25 < np.mean(others) < 0.55


@pytest.mark.parametrize('skill', ['place_into', 'pick_from'])
def test_things_are_put_into_and_taken_out_of_the_place_that_is_named(skill):
  kinds = set()
  for scene, state in staged(skill, 80):
    kinds.add(scene.place)
    known = places.names(scene, state)
    assert scene.place in known and len(known) >= 2
    inside = [place for place in known
              if places.holds(scene, state, place, state.positions_Nx2[scene.target])]
    assert inside == ([scene.place] if skill == 'pick_from' else [])
    for place in known:
      moved = state.positions_Nx2.copy()
      moved[scene.target] = places.center(scene, state, place)
      put = dataclasses.replace(state, positions_Nx2=moved)
      opened = place not in places.DRAWERS or state.drawers_D[places.DRAWERS.index(place)] > 0
      if skill == 'place_into':
        assert succeeded(scene, put) == (place == scene.place)
        assert not succeeded(scene, dataclasses.replace(put, held=scene.target))
      elif opened:
        assert not succeeded(scene, put)
  assert kinds == {*places.RECEPTACLES, *places.DRAWERS}


def test_of_the_drawers_that_things_are_put_into_two_are_open():
  for scene, state in staged('place_into'):
    if state.drawers_D.size:
      assert sorted(state.drawers_D) == [0, places.TRAVEL, places.TRAVEL]
      assert state.drawers_D[places.DRAWERS.index(scene.place)] == places.TRAVEL


@pytest.mark.parametrize('skill, out', [('open_drawer', 0.25), ('close_drawer', 0.0)])
def test_a_drawer_is_open_or_closed_once_it_is_let_go(skill, out):
  others = []
  for scene, state in staged(skill):
    named = places.DRAWERS.index(scene.place)
    others += [o > 0 for i, o in enumerate(state.drawers_D) if i != named]
    drawers_D = state.drawers_D.copy()
    drawers_D[named] = out
    done = dataclasses.replace(state, drawers_D=drawers_D)
    assert succeeded(scene, done)
    assert not succeeded(scene, dataclasses.replace(done, closed=True, pulled=named))
  assert 0.35 < np.mean(others) < 0.65


def test_no_object_is_where_a_drawer_will_be():
  for skill in ('open_drawer', 'close_drawer'):
    for _, state in staged(skill, num_objects=5):
      assert state.positions_Nx2[:, 0].max() < places.COUNTER - 0.1


def test_of_two_steps_both_must_be_done_and_the_first_must_last():
  scene, state = scene_and_state('move_then_pick', gripper=(0.5, 0.8, 0.3), closed=True, held=2)
  scene = dataclasses.replace(scene, second=2)
  beside = state.positions_Nx2.copy()
  beside[0] = [0.5, 0.3]
  assert not succeeded(scene, state)
  assert succeeded(scene, dataclasses.replace(state, positions_Nx2=beside))
  assert not succeeded(scene, dataclasses.replace(state, positions_Nx2=beside, held=-1))
  for scene, _ in staged('move_then_pick', 20):
    assert len({scene.target, scene.reference, scene.second}) == 3


def test_plain_scenes_have_neither_feet_nor_drawers_nor_receptacles():
  for skill in ('pick', 'move_near', 'move_then_pick'):
    for scene, state in staged(skill, 5):
      assert not scene.receptacles and not scene.fallen and not scene.place
      assert not state.rolls_N.size and not state.drawers_D.size


def test_scattered_things_do_not_overlap_and_a_full_table_is_said_to_be_full():
  radii = [0.16, 0.16, 0.12, 0.12, 0.12]
  for seed in range(20):
    positions = placement.scatter(np.random.default_rng(seed), radii)
    for i, a in enumerate(positions):
      assert ((radii[i] < a) & (a < 1 - radii[i])).all()
      for j in range(i):
        assert np.linalg.norm(a - positions[j]) >= radii[i] + radii[j]
  with pytest.raises(ValueError, match='9 things do not fit on the table left of 0.58'):
    placement.scatter(np.random.default_rng(0), [0.12] * 9, right=0.58)


def test_an_unknown_skill_is_refused_with_the_names_of_all():
  with pytest.raises(ValueError, match="skill 'fly' is unknown; use one of pick, move_near, knock"):
    registry.lookup('fly')


def test_every_skill_can_be_told_in_every_language():
  for skill in registry.SKILLS.values():
    fields = {part for part in ('target', 'reference', 'second', 'place')
              if f'{{{part}}}' in skill.template}
    assert skill.translations.keys() == {'de', 'es', 'fr'}
    for text in skill.translations.values():
      assert {p for p in ('target', 'reference', 'second', 'place') if f'{{{p}}}' in text} == fields
