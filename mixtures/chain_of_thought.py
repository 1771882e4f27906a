"""Task `chain_of_thought`: a plan, then the action (RT-2, section 4.4).

Episodes say their plans themselves, one per step under a key of theirs, or a file of annotations
says which instructions stand for which plan. RT-2 fine-tunes for a few hundred steps on such data;
`cofinetune_plans` keeps plain robot data and web data beside them.

  import mixtures.chain_of_thought
  mixtures.chain_of_thought.source.data_dir = '/data/two_step/0.1.0'
  mixtures.chain_of_thought.source.plan_key = 'observation/plan'
"""

import gin

from mixtures import robot
from mixtures import sources
from mixtures import web
from rt2_train.data import chain_of_thought
from rt2_train.data import metrics

source = robot.dataset('mixtures.chain_of_thought', 'source', chain_of_thought.PlanExamples)
robot.register('chain_of_thought', source, metrics.plans, '/data/two_step/0.1.0')


@gin.configurable
def shares(robot: float = 0.25, plans: float = 0.25) -> dict[str, float]:
  """Shares of plain robot data and of plans in every batch; the rest is web data."""
  if robot < 0 or plans <= 0 or robot + plans > 1:
    raise ValueError(
        f'mixtures.chain_of_thought.shares: robot is {robot} and plans {plans}; plans must be '
        'above 0, robot 0 or more, and together they are at most 1')
  return {'robot': robot, 'plans': plans, 'web': 1 - robot - plans}


sources.add_mixture(
    'cofinetune_plans',
    (lambda: shares()['plans'], lambda: {'chain_of_thought': 1.0}),
    (lambda: shares()['robot'], robot.rates),
    (lambda: shares()['web'], web.rates))
