"""The experts: what they reach, and what their actions look like."""

import numpy as np
import pytest

from rt2_train import actions
from rt2_train.sim import expert
from rt2_train.sim import tabletop

SPACES = [actions.RT2, actions.rt2(position=0.15), actions.rt2(position=0.15, scheme='center')]


def roll_out(env, seed, space, noise=0.0):
  """Actions that the expert gave, the reward and whether it stopped by itself."""
  rng = np.random.default_rng(seed)
  env.reset(seed=seed)
  given = []
  while True:
    action = expert.act(env.scene, env.state)
    given.append(action)
    action = space.decode(space.encode(action))
    if rng.random() < noise:
      action[1:4] += rng.uniform(-0.6, 0.6, 3) * tabletop.MOTION_LIMITS
    _, reward, terminated, truncated, _ = env.step(action)
    if terminated or truncated:
      return np.stack(given), reward, terminated


def test_every_skill_has_an_expert():
  assert expert.EXPERTS.keys() == tabletop.SKILLS.keys()


@pytest.mark.parametrize('skill', tabletop.SKILLS)
@pytest.mark.parametrize('space', SPACES, ids=['rt2', 'narrow', 'center'])
def test_it_succeeds_through_256_bins_and_then_stops(skill, space):
  env = tabletop.Tabletop(skill, targets='all', others='all')
  ends = [roll_out(env, seed, space)[1:] for seed in tabletop.DEV_SEEDS[:200]]
  assert np.mean([reward and stopped for reward, stopped in ends]) >= 0.98


@pytest.mark.slow
@pytest.mark.parametrize('skill', tabletop.SKILLS)
@pytest.mark.parametrize('backgrounds', ['seen', 'unseen'])
def test_it_hardly_ever_fails(skill, backgrounds):
  env = tabletop.Tabletop(skill, targets='all', others='all', backgrounds=backgrounds)
  ends = [roll_out(env, seed, actions.RT2)[1:] for seed in tabletop.DEV_SEEDS[200:3200]]
  assert np.mean([reward and stopped for reward, stopped in ends]) >= 0.995


@pytest.mark.parametrize('skill', tabletop.SKILLS)
def test_it_recovers_from_pushes(skill):
  env = tabletop.Tabletop(skill, max_steps=40)
  rewards = [roll_out(env, seed, actions.RT2, noise=0.3)[1] for seed in tabletop.DEV_SEEDS[:60]]
  assert np.mean(rewards) >= 0.95


def test_its_motion_has_nine_levels_per_axis():
  env = tabletop.Tabletop('move_near')
  actions_TxD = np.concatenate(
      [roll_out(env, seed, actions.RT2)[0] for seed in tabletop.DEV_SEEDS[:30]])
  quarters = actions_TxD[:, 1:4] / tabletop.MOTION_LIMITS * 4
  np.testing.assert_allclose(quarters, np.round(quarters), atol=1e-5)
  assert np.abs(quarters).max() <= 4 + 1e-5
  assert set(actions_TxD[:, 7]) == {-1, 1}
  assert not actions_TxD[:, 4:7].any()


def test_picking_ends_in_a_stop_without_motion_and_a_closed_gripper():
  actions_TxD, _, _ = roll_out(tabletop.Tabletop(), 1, actions.RT2)
  np.testing.assert_array_equal(actions_TxD[-1], [0, 0, 0, 0, 0, 0, 0, 1])
  assert (actions_TxD[:-1, 0] == actions.TERMINATE_CONTINUE).all()


def test_it_lets_go_of_another_object():
  env = tabletop.Tabletop()
  env.reset(seed=0)
  other = (env.scene.target + 1) % 3
  state = tabletop.State(
      env.state.positions_Nx2, env.state.angles_N, np.array([0.5, 0.5, 0.3]), True, other)
  assert expert.act(env.scene, state)[7] == expert.OPEN
