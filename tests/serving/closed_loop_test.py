"""Four robots on a server do, action for action, what the policy does in its own process."""

import numpy as np
import pytest

from rt2_train import actions
from rt2_train import images
from rt2_train import processor as processor_lib
from rt2_train import prompts
from rt2_train import vocabulary
from rt2_train.evaluation import closed_loop
from rt2_train.evaluation import suites
from rt2_train.serving import client
from rt2_train.serving import server as server_lib
from rt2_train.sim import tabletop
from tests.serving import policy_test
from tests.serving import served

ROBOTS = 4


class Written:
  """A policy whose actions are written down, in the order of what they answer."""

  def __init__(self, policy):
    self._policy = policy
    self.actions = {}

  def infer(self, observations):
    answers = self._policy.infer(observations)
    for observation, action in zip(observations, answers, strict=True):
      seen = (observation.instruction, observation.images[0].tobytes())
      self.actions.setdefault(seen, []).append((action.values.tobytes(), action.text))
    return answers


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
  (suite,) = suites.demo(ROBOTS, names=('seen',))
  model_file = str(tmp_path_factory.mktemp('vocabulary') / 'vocabulary.model')
  env = tabletop.Tabletop(**suite.env)
  told = {env.reset(seed=seed)[0]['instruction'] for seed in suite.seeds}
  vocabulary.train(
      [prompts.robot(each) for each in told], model_file, vocab_size=1200, num_integers=1000)
  spec = images.ImageSpec(policy_test.SIZE, policy_test.SIZE)
  return served.tiny_policy(processor_lib.Processor(
      vocabulary.Vocabulary(model_file), actions.rt2(position=0.15, scheme='center'), spec, 64, 12))


def test_a_closed_loop_through_the_server_is_that_of_the_policy_itself(policy):
  (suite,) = suites.demo(6, names=('seen',), max_steps=8)
  here = Written(policy)
  expected = closed_loop.play(here, suite, tabletop.Tabletop, num_envs=ROBOTS)
  slow = served.Slow(policy)
  # Robots that ask at the same moment are sure to be answered together.
  with served.serving(slow, server_lib.Options(max_wait=0.2)) as server:
    remote = client.RemotePolicy(served.uri(server))
    there = Written(remote)
    played = closed_loop.play(there, suite, tabletop.Tabletop, num_envs=ROBOTS)
    remote.close()
  assert there.actions == here.actions and len(here.actions) > 12
  for one, other in zip(expected, played, strict=True):
    assert (one.seed, one.steps, one.stopped_by) == (other.seed, other.steps, other.stopped_by)
    np.testing.assert_array_equal(one.path_Px2, other.path_Px2)
  assert max(slow.sizes) == ROBOTS


def test_a_server_that_refuses_ends_the_evaluation_with_its_reason(policy):
  (suite,) = suites.demo(1, names=('seen',), max_steps=2)
  with served.serving(policy) as server:
    remote = client.RemotePolicy(served.uri(server))
    with pytest.raises(ValueError, match='refuses: 400: .*writes no plans'):
      closed_loop.play(remote, suite, tabletop.Tabletop, plan=True)
    remote.close()


def test_a_server_with_the_gripper_turned_around_is_not_evaluated(policy):
  with served.serving(policy, server_lib.Options(gripper='open_one')) as server:
    with pytest.raises(ValueError, match='start the server with --gripper=close_positive'):
      client.RemotePolicy(served.uri(server))
