"""What the tabletop's environment promises: seeds, rewards, groups of objects, what it refuses."""

import dataclasses

from gymnasium.utils import env_checker
import numpy as np
import pytest

from rt2_train.sim import objects
from rt2_train.sim import places
from rt2_train.sim import tabletop
from rt2_train.sim import world

KEEP = [1, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize('skill', tabletop.SKILLS)
def test_the_environment_keeps_gymnasiums_contract(skill, recwarn):
  env_checker.check_env(tabletop.Tabletop(skill), skip_render_check=True)
  # Physical units are the point of the action space, so its one recommendation is not for us.
  warnings = [str(w.message) for w in recwarn]
  assert all('recommend using a symmetric and normalized space' in w for w in warnings), warnings


def test_the_seed_determines_the_whole_episode():
  def episode(seed):
    env = tabletop.Tabletop(max_steps=5)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=seed)
    frames, done = [observation['image']], False
    while not done:
      observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
      frames.append(observation['image'])
      done = terminated or truncated
    return observation['instruction'], np.stack(frames)

  instruction, frames = episode(7)
  again, same = episode(7)
  assert instruction == again
  np.testing.assert_array_equal(frames, same)
  assert not np.array_equal(frames[0], episode(8)[1][0])


def test_nothing_starts_as_success():
  for skill in tabletop.SKILLS:
    env = tabletop.Tabletop(skill)
    assert not any(env.reset(seed=seed)[1]['success'] for seed in range(100))


def test_stopping_ends_an_episode_and_only_success_is_rewarded():
  env = tabletop.Tabletop(max_steps=2)
  env.reset(seed=0)
  _, reward, terminated, truncated, _ = env.step(np.array([0, *KEEP[1:]], float))
  assert (reward, terminated, truncated) == (0.0, True, False)
  env.reset(seed=0)
  env.state = dataclasses.replace(
      env.state, held=env.scene.target, closed=True, gripper_3=np.array([0.5, 0.5, 0.4]))
  _, reward, terminated, truncated, info = env.step(np.array(KEEP, float))
  assert (reward, terminated, truncated) == (0.0, False, False) and info['success']
  _, reward, terminated, truncated, _ = env.step(np.array(KEEP, float))
  assert (reward, terminated, truncated) == (1.0, False, True)


def test_info_says_how_close_the_arm_is_to_the_named_object():
  env = tabletop.Tabletop()
  env.reset(seed=3)
  target = env.state.positions_Nx2[env.scene.target]
  env.state = dataclasses.replace(env.state, gripper_3=np.array([*(target + [0.06, 0]), 0.05]))
  info = env.step(np.array([1, 0, 0, 0, 0, 0, 0, 1.0]))[-1]
  name = objects.CATEGORIES[env.scene.categories[env.scene.target]].name
  assert info['reach'] and info['nearest_is_target'] and info['held'] == name
  env.state = dataclasses.replace(env.state, gripper_3=np.array([0, 0, 0.4]), held=-1)
  info = env.step(np.array(KEEP, float))[-1]
  assert not info['reach'] and info['distance'] > 0.1


def test_info_says_how_close_the_arm_is_to_what_the_skill_is_about():
  env = tabletop.Tabletop('open_drawer')
  env.reset(seed=3)
  handle = places.handles(env.state.drawers_D)[places.DRAWERS.index(env.scene.place)]
  env.state = dataclasses.replace(env.state, gripper_3=np.array([*(handle - [0.05, 0]), 0.2]))
  info = env.step(np.array(KEEP, float))[-1]
  assert info['reach'] and info['nearest_is_target']
  assert info['distance'] == pytest.approx(0.05)
  env = tabletop.Tabletop('move_then_pick')
  env.reset(seed=3)
  for named in (env.scene.target, env.scene.second):
    at = np.array([*env.state.positions_Nx2[named], 0.3])
    env.state = dataclasses.replace(env.state, gripper_3=at)
    assert env.step(np.array(KEEP, float))[-1]['nearest_is_target']
    # Beside the reference, the first is done, and the arm is wanted at the other.
    positions_Nx2 = env.state.positions_Nx2.copy()
    positions_Nx2[env.scene.target] = positions_Nx2[env.scene.reference] + [0.1, 0]
    env.state = dataclasses.replace(env.state, positions_Nx2=positions_Nx2)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_number_that_is_none_is_refused_by_name(bad):
  env = tabletop.Tabletop()
  env.reset(seed=0)
  action = np.array(KEEP, float)
  action[3] = bad
  with pytest.raises(ValueError, match='step 0: action dz is (nan|inf)'):
    env.step(action)


def test_an_action_of_another_shape_is_refused():
  env = tabletop.Tabletop()
  env.reset(seed=0)
  with pytest.raises(ValueError, match=r'shape \(7,\)'):
    env.step(np.zeros(7))


def test_scenes_hold_the_groups_that_were_asked_for():
  def parities(**groups):
    env = tabletop.Tabletop(num_categories=8, **groups)
    for seed in range(60):
      env.reset(seed=seed)
      categories = env.scene.categories
      assert len(set(categories)) == 3 and max(categories) < 8
      yield categories[env.scene.target] % 2, [c % 2 for c in categories]

  assert all(sum(p) == 0 for _, p in parities())
  assert all(sum(p) == 3 for _, p in parities(targets='unseen', others='unseen'))
  assert all(t == 1 and sum(p) < 3 for t, p in parities(targets='unseen', others='all'))
  assert {sum(p) for _, p in parities(targets='unseen', others='all')} == {1, 2}


def test_objects_start_apart_and_on_the_table():
  env = tabletop.Tabletop(num_objects=4)
  for seed in range(50):
    env.reset(seed=seed)
    positions_Nx2 = env.state.positions_Nx2
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(positions_Nx2) for b in positions_Nx2[:i]]
    assert min(gaps) >= world.SPACING
    assert 0.13 <= positions_Nx2.min() and positions_Nx2.max() <= 0.87


@pytest.mark.parametrize('arguments, message', [
    ({'skill': 'fly'}, "skill 'fly' is unknown; use one of pick, move_near"),
    ({'targets': 'some'}, "object group 'some' is unknown"),
    ({'backgrounds': 'plaid'}, "backgrounds 'plaid' is unknown; use one of seen, unseen"),
    ({'num_objects': 1}, 'num_objects is 1; it must be between 2'),
    ({'num_objects': 5, 'num_categories': 8}, 'num_objects is 5; it must be between 2 and 4'),
    ({'num_categories': 99}, 'num_categories is 99; it must be between 2 and 24'),
    ({'environment': 'office'}, "environment 'office' is unknown; use one of seen, unseen, desk"),
    ({'difficulty': 'medium'}, "difficulty 'medium' is unknown; use one of easy, hard"),
    ({'wording': 'it'}, "wording 'it' is unknown; use one of name, property, noun_de"),
    ({'difficulty': 'hard', 'num_objects': 4}, 'num_objects is 4; it must be between 5 and 8'),
    ({'skill': 'move_then_pick', 'num_objects': 2}, 'num_objects is 2; it must be between 3'),
])
def test_scenes_that_cannot_be_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    tabletop.Tabletop(**arguments)


def test_the_seed_ranges_are_disjoint():
  ranges = (tabletop.TRAIN_SEEDS, tabletop.DEV_SEEDS, tabletop.TEST_SEEDS)
  edges = sorted((r.start, r.stop) for r in ranges)
  assert all(a[1] <= b[0] for a, b in zip(edges, edges[1:]))
