"""What an action does to the world."""

import numpy as np
import pytest

from rt2_train.sim import physics
from rt2_train.sim import places
from rt2_train.sim import world

POSITIONS_Nx2 = np.array([[0.3, 0.3], [0.7, 0.3], [0.5, 0.8]])


def make_state(gripper=(0.3, 0.3, 0.05), closed=False, held=-1, **more):
  return world.State(POSITIONS_Nx2, np.zeros(3), np.array(gripper), closed, held, **more)


def standing(gripper, **more):
  return make_state(gripper, rolls_N=np.zeros(3), **more)


def with_drawers(gripper, out=(0.0, 0.2, 0.0), **more):
  return make_state(gripper, drawers_D=np.array(out), **more)


def move(state, *, motion=(0, 0, 0), roll=0, yaw=0, gripper=0, terminate=1):
  return physics.step_state(state, np.array([terminate, *motion, roll, 0, yaw, gripper], float))


def test_a_step_moves_no_further_than_its_limits():
  state = make_state(gripper=(0.5, 0.5, 0.3))
  after = move(state, motion=(0.5, -0.5, 9.0))
  np.testing.assert_allclose(after.gripper_3, [0.62, 0.38, 0.45])
  np.testing.assert_array_equal(state.gripper_3, [0.5, 0.5, 0.3])


@pytest.mark.parametrize('gripper', [(0.3, 0.3, 0.2), (0.38, 0.3, 0.05)])
def test_closing_too_high_or_beside_an_object_holds_nothing(gripper):
  state = make_state(gripper)
  assert move(state, gripper=1).held == -1


def test_closing_low_over_an_object_holds_it():
  state = move(make_state((0.33, 0.28, 0.05)), gripper=1)
  assert state.closed and state.held == 0
  np.testing.assert_allclose(state.positions_Nx2[0], [0.33, 0.28])


def test_a_gripper_that_is_closed_already_takes_nothing():
  state = make_state(gripper=(0.4, 0.3, 0.05), closed=True)
  assert move(state, motion=(-0.1, 0, 0), gripper=1).held == -1


def test_what_is_held_moves_and_turns_with_the_gripper_and_stays_where_it_is_dropped():
  state = make_state(closed=True, held=0)
  state = move(state, motion=(0.1, 0.05, 0.1), yaw=0.5, gripper=0)
  np.testing.assert_allclose(state.positions_Nx2[0], [0.4, 0.35])
  assert state.angles_N[0] == 0.5
  state = move(move(state, gripper=-1), motion=(0.1, 0, 0))
  assert state.held == -1
  np.testing.assert_allclose(state.positions_Nx2[0], [0.4, 0.35])


def test_stop_moves_nothing():
  state = make_state()
  assert move(state, motion=(0.1, 0.1, 0.1), gripper=1, terminate=0) is state


def test_closed_fingers_that_sweep_low_knock_over_what_stands_in_their_way():
  state = move(standing((0.2, 0.3, 0.06), closed=True), motion=(0.12, 0, 0), gripper=1)
  assert state.fallen == (True, False, False)
  assert state.rolls_N[0] == -np.pi / 2  # to the right, as it was pushed
  state = move(standing((0.4, 0.3, 0.06), closed=True), motion=(-0.12, 0, 0), gripper=1)
  assert state.rolls_N[0] == np.pi / 2
  assert state.held == -1


@pytest.mark.parametrize('start, motion, closed', [
    ((0.2, 0.3, 0.2), (0.12, 0, 0), True),  # above it
    ((0.2, 0.4, 0.06), (0.12, 0, 0), True),  # past it
    ((0.2, 0.3, 0.06), (0.12, 0, 0), False),  # with open fingers
    ((0.3, 0.3, 0.1), (0, 0, -0.05), True),  # straight down
])
def test_nothing_else_knocks_anything_over(start, motion, closed):
  state = move(standing(start, closed=closed), motion=motion)
  assert state.fallen == (False, False, False)


def test_a_flat_object_has_no_feet_to_be_knocked_off():
  state = move(make_state((0.2, 0.3, 0.06), closed=True), motion=(0.12, 0, 0), roll=1.0, gripper=1)
  assert state.rolls_N.size == 0 and state.fallen == ()


@pytest.mark.parametrize('roll, fallen', [(np.pi / 2, False), (0.4, True), (-np.pi / 2, True)])
def test_what_is_let_go_stands_on_its_feet_or_lies_on_a_side_whichever_is_nearer(roll, fallen):
  rolls_N = np.array([-np.pi / 2, 0, 0])
  state = make_state(closed=True, held=0, rolls_N=rolls_N)
  state = move(state, roll=roll, gripper=1)
  assert state.rolls_N[0] == pytest.approx(-np.pi / 2 + roll) or abs(roll) == np.pi / 2
  state = move(state, gripper=-1)
  assert state.fallen[0] == fallen
  assert state.rolls_N[0] % (np.pi / 2) == 0
  np.testing.assert_array_equal(rolls_N, [-np.pi / 2, 0, 0])


def test_a_handle_between_the_fingers_moves_along_its_rails_only_and_no_further_than_they_go():
  handle = places.handles(np.array([0.0, 0.2, 0.0]))[1]
  state = move(with_drawers((*(handle + [0.03, -0.02]), 0.06)), gripper=1)
  assert (state.pulled, state.held) == (1, -1)
  np.testing.assert_allclose(state.gripper_3[:2], handle)
  state = move(state, motion=(-0.05, 0.1, 0.15))
  assert state.drawers_D[1] == pytest.approx(0.25)
  np.testing.assert_allclose(state.gripper_3, [handle[0] - 0.05, handle[1], 0.06])
  state = move(state, motion=(-0.12, 0, 0))
  assert state.drawers_D[1] == places.TRAVEL
  for _ in range(3):
    state = move(state, motion=(0.12, 0, 0))
  assert state.drawers_D.tolist() == [0, 0, 0]
  np.testing.assert_allclose(state.gripper_3[0], places.FRONT - places.HANDLE)
  assert move(state, gripper=-1).pulled == -1


def test_a_drawer_takes_along_what_lies_in_it():
  inside = np.array([[0.76, 0.5], [0.76, 0.2], [0.5, 0.8]])
  state = with_drawers((0.6, 0.5, 0.05), out=(0, 0.25, 0), closed=True, pulled=1)
  state = world.State(inside, *(getattr(state, name) for name in (
      'angles_N', 'gripper_3', 'closed', 'held', 'rolls_N', 'drawers_D', 'pulled')))
  after = move(state, motion=(0.1, 0, 0))
  np.testing.assert_allclose(after.positions_Nx2 - inside, [[0.1, 0], [0, 0], [0, 0]], atol=1e-12)
  # Once it is inside the cabinet, fingers above it take nothing.
  for _ in range(2):
    after = move(after, motion=(0.1, 0, 0))
  hidden = after.positions_Nx2[0]
  above = world.State(
      after.positions_Nx2, after.angles_N, np.array([*hidden, 0.05]), drawers_D=after.drawers_D)
  assert hidden[0] > places.FRONT and move(above, gripper=1).held == -1


def test_what_is_dropped_on_the_cabinet_slides_off_its_front():
  state = with_drawers((0.95, 0.8, 0.2), closed=True, held=2)
  assert move(state, gripper=-1).positions_Nx2[2, 0] < places.FRONT
