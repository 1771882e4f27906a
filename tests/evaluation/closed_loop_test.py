"""Playing episodes: a policy that knows the way arrives, one that does not is left to chance."""

from collections.abc import Sequence
import dataclasses

import numpy as np
import pytest

from rt2_train import actions
from rt2_train.evaluation import closed_loop
from rt2_train.evaluation import episodes
from rt2_train.evaluation import suites
from rt2_train.serving import policy as policy_lib
from rt2_train.sim import expert
from rt2_train.sim import tabletop


class Notebook:
  """Makes environments, and remembers which scene and state each picture shows."""

  def __init__(self):
    self.scenes = {}
    self.made = 0

  def make_env(self, **kwargs) -> tabletop.Tabletop:
    notebook = self
    self.made += 1

    class Watched(tabletop.Tabletop):

      def _observation(self):
        observation = super()._observation()
        notebook.scenes[observation['image'].tobytes()] = (self.scene, self.state)
        return observation

    return Watched(**kwargs)


def action(values: np.ndarray) -> policy_lib.Action:
  return policy_lib.Action(values, bool(values[0] < 0.5), np.zeros(9, np.int32), '')


class Expert:
  """The simulator's expert behind the interface of a policy: it knows the scene by its picture."""

  def __init__(self, notebook: Notebook):
    self._notebook = notebook
    self.batches = []

  def infer(self, observations: Sequence[policy_lib.Observation]) -> list[policy_lib.Action]:
    self.batches.append(len(observations))
    return [self._answer(o) for o in observations]

  def _answer(self, observation: policy_lib.Observation) -> policy_lib.Action:
    known = self._notebook.scenes[observation.images[0].tobytes()]
    plan = expert.plan(*known) if observation.plan else ''
    return dataclasses.replace(action(expert.act(*known)), plan=plan)


class Random:
  """Any valid action, through RT-2's bins."""

  def __init__(self, seed: int = 0):
    self._rng = np.random.default_rng(seed)

  def infer(self, observations: Sequence[policy_lib.Observation]) -> list[policy_lib.Action]:
    bins = self._rng.integers(0, 256, (len(observations), 8))
    bins[:, 0] = self._rng.random(len(observations)) < 0.9
    return [action(actions.RT2.decode(row)) for row in bins]


def play(suite: suites.Suite, **kwargs) -> list[episodes.Episode]:
  notebook = Notebook()
  return closed_loop.play(Expert(notebook), suite, notebook.make_env, **kwargs)


@pytest.mark.parametrize('name', suites.DEMO)
def test_the_expert_succeeds(name):
  (suite,) = suites.demo(40, names=(name,))
  played = play(suite)
  summary = episodes.summarize(played)
  assert summary['success'] >= 0.95
  assert summary['nearest_is_target'] >= 0.95
  assert summary['stopped_itself'] >= 0.95
  assert all(e.distance < tabletop.REACH for e in played if e.reach)


def test_a_random_policy_fails_and_ends_by_the_named_object_no_more_than_by_chance():
  (suite,) = suites.demo(150, names=('seen',))
  summary = episodes.summarize(closed_loop.play(Random(), suite, tabletop.Tabletop))
  assert summary['success'] <= 0.05
  low, high = summary['nearest_is_target_interval']
  assert low < 1 / 3 < high


def test_how_many_run_side_by_side_changes_no_episode():
  (suite,) = suites.demo(12, names=('unseen',))
  for one, many in zip(play(suite, num_envs=1), play(suite, num_envs=5), strict=True):
    assert (one.seed, one.instruction, one.steps, one.success) == (
        many.seed, many.instruction, many.steps, many.success)
    np.testing.assert_array_equal(one.path_Px2, many.path_Px2)


def test_environments_are_reused_and_kept_busy_to_the_last_seed():
  (suite,) = suites.demo(20, names=('seen',))
  notebook = Notebook()
  policy = Expert(notebook)
  played = closed_loop.play(policy, suite, notebook.make_env, num_envs=4)
  assert notebook.made == 4
  assert [episode.seed for episode in played] == list(suite.seeds)
  assert sum(policy.batches) == sum(episode.steps for episode in played)
  assert policy.batches[0] == 4 and policy.batches.count(4) > len(policy.batches) / 2


def test_the_path_and_the_film_have_a_point_before_and_after_every_step():
  (suite,) = suites.demo(3, names=('seen',), image_size=32)
  first, second, third = play(suite, num_films=2)
  for episode in (first, second):
    assert episode.film_PxHxWx3.shape == (episode.steps + 1, 32, 32, 3)
    assert episode.path_Px2.shape == (episode.steps + 1, 2)
    # An expert that stops does so without moving.
    np.testing.assert_array_equal(episode.path_Px2[-1], episode.path_Px2[-2])
  assert third.film_PxHxWx3 is None


def test_a_policy_that_never_stops_is_stopped_by_the_limit():
  class Still:

    def infer(self, observations):
      return [action(np.array([1, 0, 0, 0, 0, 0, 0, -1.0])) for _ in observations]

  (suite,) = suites.demo(2, names=('seen',), max_steps=7)
  for episode in closed_loop.play(Still(), suite, tabletop.Tabletop):
    assert (episode.steps, episode.stopped_by, episode.success) == (7, 'limit', False)


def test_a_policy_with_a_history_sees_the_frames_before():
  (suite,) = suites.demo(2, names=('seen',))
  asked = []

  class Remembering(Expert):

    def _answer(self, observation):
      asked.append([frame.tobytes() for frame in observation.images])
      last = dataclasses.replace(observation, images=observation.images[-1:])
      return super()._answer(last)

  notebook = Notebook()
  played = closed_loop.play(
      Remembering(notebook), suite, notebook.make_env, num_envs=1, history=3)
  first = asked[:played[0].steps]
  assert first[0] == [first[0][2]] * 3 and first[1] == [first[0][2]] * 2 + [first[1][2]]
  assert [frames[1] for frames in first[1:]] == [frames[2] for frames in first[:-1]]
  second = asked[played[0].steps]
  assert second == [second[2]] * 3


def test_a_plan_is_kept_and_compared_with_what_was_due():
  (suite,) = suites.demo(5, names=('seen',), skill='move_then_pick')
  for episode in play(suite, plan=True):
    assert episode.plan_due == 1 and len(episode.plans) == 2
    first, second = episode.plans
    assert episode.instruction == f'{first} then {second}'
  assert episodes.summarize(play(suite, plan=True))['plan_due'] == 1
  assert 'plan_due' not in episodes.summarize(play(suite))
