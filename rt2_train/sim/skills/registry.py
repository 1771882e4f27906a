"""Every skill by name: RT-1's eight, and two of them in a row."""

from collections.abc import Mapping

from rt2_train.sim.skills import containers
from rt2_train.sim.skills import drawers
from rt2_train.sim.skills import plain
from rt2_train.sim.skills import skill
from rt2_train.sim.skills import standing

SKILLS: Mapping[str, skill.Skill] = {
    'pick': plain.PICK,
    'move_near': plain.MOVE_NEAR,
    'knock_over': standing.KNOCK_OVER,
    'place_upright': standing.PLACE_UPRIGHT,
    'place_into': containers.PLACE_INTO,
    'pick_from': containers.PICK_FROM,
    'open_drawer': drawers.OPEN_DRAWER,
    'close_drawer': drawers.CLOSE_DRAWER,
    'move_then_pick': plain.MOVE_THEN_PICK,
}


def lookup(name: str) -> skill.Skill:
  """The skill called `name`.

  Raises:
    ValueError: there is none.
  """
  if name not in SKILLS:
    raise ValueError(f"skill {name!r} is unknown; use one of {', '.join(SKILLS)}")
  return SKILLS[name]
