"""The experts: what they reach, what their actions look like, and what they say they do."""

import dataclasses

import numpy as np
import pytest

from rt2_train import actions
from rt2_train.sim import expert
from rt2_train.sim import tabletop
from rt2_train.sim import world
from rt2_train.sim.skills import arm

SPACES = [actions.rt2(position=0.15), actions.rt2(position=0.15, scheme='center')]


class Blind(tabletop.Tabletop):
  """Without pictures, which take most of the time of a step and which experts do not look at."""

  def render(self):
    return np.zeros((48, 48, 3), np.uint8)


def roll_out(env, seed, space=actions.RT2, noise=0.0):
  """Actions that the expert gave, its plans, the reward and whether it stopped by itself."""
  rng = np.random.default_rng(seed)
  env.reset(seed=seed)
  given, plans = [], []
  while True:
    action = expert.act(env.scene, env.state)
    given.append(action)
    plans.append(expert.plan(env.scene, env.state))
    action = space.decode(space.encode(action))
    if rng.random() < noise:
      action[1:4] += rng.uniform(-0.6, 0.6, 3) * tabletop.MOTION_LIMITS
    _, reward, terminated, truncated, _ = env.step(action)
    if terminated or truncated:
      return np.stack(given), plans, reward, terminated


def success(env, seeds, space=actions.RT2, noise=0.0):
  """Share of the seeds at which the expert succeeds and then stops."""
  return np.mean([np.prod(roll_out(env, seed, space, noise)[2:]) for seed in seeds])


@pytest.mark.parametrize('skill', tabletop.SKILLS)
def test_it_succeeds_through_256_bins_and_then_stops(skill):
  env = Blind(skill, targets='all', others='all')
  assert success(env, tabletop.DEV_SEEDS[:200]) >= 0.98


@pytest.mark.parametrize('skill', tabletop.SKILLS)
@pytest.mark.parametrize('space', SPACES, ids=['narrow', 'center'])
def test_it_succeeds_through_finer_bins(skill, space):
  assert success(Blind(skill), tabletop.DEV_SEEDS[200:240], space) == 1


@pytest.mark.slow
@pytest.mark.parametrize('skill', tabletop.SKILLS)
@pytest.mark.parametrize('difficulty', ['easy', 'hard'])
def test_it_hardly_ever_fails(skill, difficulty):
  env = Blind(skill, targets='all', others='all', difficulty=difficulty)
  assert success(env, tabletop.DEV_SEEDS[300:900]) >= 0.995


@pytest.mark.parametrize('skill', tabletop.SKILLS)
def test_it_recovers_from_pushes(skill):
  env = Blind(skill, max_steps=2 * tabletop.SKILLS[skill].max_steps)
  assert success(env, tabletop.DEV_SEEDS[:60], noise=0.3) >= 0.95


@pytest.mark.parametrize('skill', tabletop.SKILLS)
def test_its_motion_has_nine_levels_per_axis(skill):
  env = Blind(skill)
  given_TxD = np.concatenate([roll_out(env, seed)[0] for seed in tabletop.DEV_SEEDS[:20]])
  quarters = given_TxD[:, 1:5] / [*tabletop.MOTION_LIMITS, world.ROTATION_LIMIT] * 4
  np.testing.assert_allclose(quarters, np.round(quarters), atol=1e-5)
  assert np.abs(quarters).max() <= 4 + 1e-5
  # Only what is knocked over is never held.
  assert set(given_TxD[:, 7]) == ({1} if skill == 'knock_over' else {-1, 1})
  assert given_TxD[:, 4].any() == (skill == 'place_upright')
  assert not given_TxD[:, 5:7].any()


@pytest.mark.parametrize('skill, gripper', [('pick', 1), ('move_near', -1), ('open_drawer', -1)])
def test_it_ends_in_a_stop_without_motion(skill, gripper):
  given_TxD = roll_out(Blind(skill), 1)[0]
  np.testing.assert_array_equal(given_TxD[-1], [0, 0, 0, 0, 0, 0, 0, gripper])
  assert (given_TxD[:-1, 0] == actions.TERMINATE_CONTINUE).all()


def test_it_lets_go_of_another_object():
  env = Blind()
  env.reset(seed=0)
  other = (env.scene.target + 1) % 3
  state = world.State(
      env.state.positions_Nx2, env.state.angles_N, np.array([0.5, 0.5, 0.3]), True, other)
  assert expert.act(env.scene, state)[7] == arm.OPEN


def test_it_lets_go_of_another_drawer():
  env = Blind('open_drawer')
  env.reset(seed=0)
  named = tabletop.SKILLS['open_drawer'].aim(env.scene, env.state)[1]
  state = dataclasses.replace(env.state, closed=True, pulled=(named + 1) % 3)
  assert expert.act(env.scene, state)[7] == arm.OPEN


@pytest.mark.parametrize('skill', [name for name, s in tabletop.SKILLS.items() if not s.step])
def test_the_plan_of_one_step_is_the_instruction(skill):
  env = Blind(skill)
  for seed in range(5):
    _, plans, _, _ = roll_out(env, seed)
    assert set(plans) == {env.scene.instruction}


def test_the_plan_of_two_steps_goes_on_to_the_second_once_and_never_back():
  env = Blind('move_then_pick')
  for seed in range(20):
    _, plans, reward, _ = roll_out(env, seed)
    first, second = env.scene.instruction.split(' then ')
    assert list(dict.fromkeys(plans)) == [first, second] and reward
    assert plans == sorted(plans, key=[first, second].index)


def test_the_plan_calls_things_by_their_names_whatever_the_instruction_does():
  plain, described = Blind(), Blind(wording='property')
  for seed in range(20):
    plain.reset(seed=seed)
    described.reset(seed=seed)
    assert described.scene.instruction.startswith('pick the ')
    assert expert.plan(described.scene, described.state) == plain.scene.instruction
