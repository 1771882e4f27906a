"""Closed-loop suites: which scenes a policy is tried in, as data.

The demo's suites ask RT-2's questions (sections 4.1 and 4.2) of the embedded tabletop. Seeds are
the same for every policy, so that runs can be compared in pairs, and none that training has seen.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from rt2_train.sim import tabletop

_SEEDS = {'dev': tabletop.DEV_SEEDS, 'test': tabletop.TEST_SEEDS}
# A split has seeds for ten suites and as many again.
_SEEDS_PER_SUITE = 50_000

# What each suite changes about the plain scene: a seen object among seen ones on plain wood.
_DEMO = {
    'seen': {'targets': 'seen', 'others': 'seen'},
    # Mixed scenes are the measure of transfer: a policy that has forgotten its web knowledge drifts
    # to the objects it knows, which only shows where there are some.
    'unseen': {'targets': 'unseen', 'others': 'all'},
    'unseen_only': {'targets': 'unseen', 'others': 'unseen'},
    'backgrounds': {'targets': 'seen', 'others': 'seen', 'backgrounds': 'unseen'},
    # Further ones come last: a suite's place decides its seeds.
    'environments': {'targets': 'seen', 'others': 'seen', 'environment': 'unseen'},
    'hard_objects': {'targets': 'unseen', 'others': 'all', 'difficulty': 'hard'},
    'hard_backgrounds': {'targets': 'seen', 'others': 'seen', 'backgrounds': 'cluttered'},
    'hard_environments': {'targets': 'seen', 'others': 'seen', 'environment': 'desk'},
    'symbols': {'targets': 'seen', 'others': 'cards', 'skill': 'move_near'},
    'reasoning': {'targets': 'all', 'others': 'all', 'wording': 'property'},
    'languages': {'targets': 'all', 'others': 'all', 'wording': 'noun_de'},
}
DEMO = tuple(_DEMO)


@dataclasses.dataclass(frozen=True)
class Suite:
  """One set of episodes.

  Attributes:
    name: heads its row in tables and its entry in summary.json.
    env: keyword arguments of the environment.
    seeds: one per episode.
  """

  name: str
  env: Mapping[str, Any]
  seeds: tuple[int, ...]

  def __post_init__(self):
    if not self.seeds or len(set(self.seeds)) != len(self.seeds):
      raise ValueError(f'suite {self.name}: {len(self.seeds)} seeds; give one or more, none twice')


def demo(
    n: int = 200,
    split: str = 'test',
    names: Sequence[str] = ('seen', 'unseen', 'unseen_only'),
    **env: Any,
) -> list[Suite]:
  """The demo's suites of `n` episodes each.

  Args:
    n: episodes per suite.
    split: 'test' for numbers that are reported, 'dev' for tuning.
    names: which suites, of DEMO.
    **env: arguments of `tabletop.Tabletop` for all of them, such as skill='move_near'.

  Raises:
    ValueError: an unknown suite or split, or more episodes than there are seeds.
  """
  if split not in _SEEDS:
    raise ValueError(f"suites: split {split!r} is unknown; use one of {', '.join(_SEEDS)}")
  unknown = [name for name in names if name not in _DEMO]
  if unknown:
    raise ValueError(f"suites: {unknown[0]!r} is unknown; use one of {', '.join(_DEMO)}")
  if not 1 <= n <= _SEEDS_PER_SUITE:
    raise ValueError(f'suites: n is {n}; a suite has 1 to {_SEEDS_PER_SUITE} episodes')
  suites = []
  for name in names:
    # Every suite its own seeds: no scene is counted in two of them.
    again, place = divmod(list(_DEMO).index(name), 10)
    first = (2 * place + again) * _SEEDS_PER_SUITE
    seeds = tuple(_SEEDS[split][first : first + n])
    suites.append(Suite(name, {**env, **_DEMO[name]}, seeds))
  return suites
