"""open and close drawers: scenes with a cabinet at the table's right edge."""

from collections.abc import Mapping
import dataclasses

import numpy as np

from rt2_train.sim import placement
from rt2_train.sim import places
from rt2_train.sim import world
from rt2_train.sim.skills import arm
from rt2_train.sim.skills import skill

_LEAST_OPEN = 0.8  # of its travel, for a drawer that is open at the start
_END = 0.01  # how near to the end of its travel a drawer is pulled or pushed, metres


def _drawer(template: str, translations: Mapping[str, str], opening: bool) -> skill.Skill:
  """The skill of opening, or of closing, the drawer that the instruction names."""
  wanted = places.TRAVEL if opening else 0.0

  def stage(
      rng: np.random.Generator, scene: world.Scene, state: world.State,
  ) -> tuple[world.Scene, world.State]:
    named = int(rng.integers(len(places.DRAWERS)))
    open_D = rng.integers(2, size=len(places.DRAWERS)).astype(bool)
    open_D[named] = not opening
    out_D = rng.uniform(_LEAST_OPEN, 1, len(places.DRAWERS)) * places.TRAVEL
    positions_Nx2 = placement.scatter(
        rng, [world.SPACING / 2] * len(scene.categories), right=places.COUNTER)
    return (
        dataclasses.replace(scene, start_Nx2=positions_Nx2, place=places.DRAWERS[named]),
        dataclasses.replace(
            state, positions_Nx2=positions_Nx2, drawers_D=np.where(open_D, out_D, 0.0)))

  def succeeded(scene: world.Scene, state: world.State) -> bool:
    out = state.drawers_D[places.DRAWERS.index(scene.place)]
    return bool(
        state.pulled < 0 and (out > places.OPENED if opening else out < places.CLOSED))

  def act(scene: world.Scene, state: world.State) -> np.ndarray:
    named = places.DRAWERS.index(scene.place)
    if succeeded(scene, state):
      return arm.retreat(state, arm.OPEN)
    if state.pulled != named:
      return arm.grasp(state, places.handles(state.drawers_D)[named])
    left = state.drawers_D[named] - wanted
    if abs(left) < _END:
      return arm.move(np.zeros(3), arm.OPEN)
    # A little more than is left, which the end of its travel takes off: the last level is not less.
    return arm.move([left + np.copysign(2 * _END, left), 0, 0], arm.CLOSE)

  def aim(scene: world.Scene, state: world.State) -> tuple[np.ndarray, int]:
    return places.handles(state.drawers_D), places.DRAWERS.index(scene.place)

  return skill.Skill(
      template, translations, succeeded=succeeded, act=act, stage=stage, aim=aim)


OPEN_DRAWER = _drawer(
    'open {place}', {'de': 'öffne {place}', 'es': 'abre {place}', 'fr': 'ouvre {place}'},
    opening=True)
CLOSE_DRAWER = _drawer(
    'close {place}', {'de': 'schließe {place}', 'es': 'cierra {place}', 'fr': 'ferme {place}'},
    opening=False)
