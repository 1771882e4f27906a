"""Mixture `cofinetune`: robot and web data in every batch (RT-2, section 3.2).

  import mixtures.cofinetune
  mixtures.cofinetune.share.robot = 0.5

The web sources share the rest by `mixtures.web.rates`; see mixtures/robot.py and mixtures/web.py
for how data are named.
"""

import gin

from mixtures import robot
from mixtures import sources
from mixtures import web


@gin.configurable
def share(robot: float = 0.5) -> float:  # pylint: disable=redefined-outer-name
  """Share of robot examples; RT-2 used about 50 % (PaLI-X) and 66 % (PaLM-E)."""
  if not 0 < robot <= 1:
    raise ValueError(
        f'mixtures.cofinetune.share.robot is {robot}; it must be above 0 and at most 1')
  return robot


sources.add_mixture(
    'cofinetune', (share, robot.rates), (lambda: 1 - share(), web.rates))
