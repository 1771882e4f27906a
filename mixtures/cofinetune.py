"""Mixture `cofinetune`: robot and web data in every batch (RT-2, section 3.2).

  import mixtures.cofinetune
  mixtures.cofinetune.rates.robot = 0.5

The web sources share the rest by `mixtures.web.rates`; see mixtures/robot.py and mixtures/web.py
for how data are named.
"""

import gin
import seqio

from mixtures import robot  # Registers task `robot`.  pylint: disable=unused-import
from mixtures import web


@gin.configurable
def rates(robot: float = 0.5) -> float:
  """Share of robot examples; RT-2 used about 50 % (PaLI-X) and 66 % (PaLM-E)."""
  if not 0 < robot <= 1:
    raise ValueError(
        f'mixtures.cofinetune.rates.robot is {robot}; it must be above 0 and at most 1')
  return robot


def _web(task: seqio.Task) -> float:
  if rates() < 1 and not any(source.configured().splits for source in web.SOURCES.values()):
    raise ValueError(
        'mixture cofinetune: no web source is configured; name files in one of '
        f'{", ".join("mixtures.web." + name for name in web.SOURCES)}, or use task robot')
  return (1 - rates()) * web.share(task)


seqio.MixtureRegistry.add(
    'cofinetune', [('robot', lambda _: rates()), *((name, _web) for name in web.SOURCES)])
