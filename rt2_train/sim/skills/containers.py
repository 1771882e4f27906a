"""place into, pick from: scenes with a bowl and a basket, or with a cabinet of drawers."""

import dataclasses

import numpy as np

from rt2_train.sim import placement
from rt2_train.sim import places
from rt2_train.sim import world
from rt2_train.sim.skills import arm
from rt2_train.sim.skills import skill

_JITTER = 0.02  # how far off the middle a thing in a place starts, metres
# Where something may be put down on the table.
_SPOTS_Gx2 = np.stack(np.meshgrid(*[np.linspace(0.15, 0.85, 8)] * 2), -1).reshape(-1, 2)


def _stage_into(
    rng: np.random.Generator, scene: world.Scene, state: world.State,
) -> tuple[world.Scene, world.State]:
  """Half the scenes have bowl and basket, half a cabinet with two of its drawers open."""
  radii_N = [world.SPACING / 2] * len(scene.categories)
  if rng.integers(2):
    kinds = list(places.RECEPTACLES)
    # The larger things find a place first.
    positions = placement.scatter(rng, [places.RECEPTACLE_RADIUS] * len(kinds) + radii_N)
    receptacles = tuple(
        world.Receptacle(kind, *middle.tolist()) for kind, middle in zip(kinds, positions))
    place, drawers_D = str(rng.choice(kinds)), state.drawers_D
    positions_Nx2 = positions[len(kinds):]
  else:
    positions_Nx2 = placement.scatter(rng, radii_N, right=places.COUNTER)
    # Two, so that which one is named matters.
    named, other = (int(i) for i in rng.choice(len(places.DRAWERS), 2, replace=False))
    drawers_D = np.zeros(len(places.DRAWERS))
    drawers_D[[named, other]] = places.TRAVEL
    receptacles, place = (), places.DRAWERS[named]
  return (
      dataclasses.replace(
          scene, start_Nx2=positions_Nx2, receptacles=receptacles, place=place),
      dataclasses.replace(state, positions_Nx2=positions_Nx2, drawers_D=drawers_D))


def _stage_from(
    rng: np.random.Generator, scene: world.Scene, state: world.State,
) -> tuple[world.Scene, world.State]:
  scene, state = _stage_into(rng, scene, state)
  positions_Nx2 = scene.start_Nx2.copy()
  positions_Nx2[scene.target] = (
      places.center(scene, state, scene.place) + rng.uniform(-_JITTER, _JITTER, 2))
  return (dataclasses.replace(scene, start_Nx2=positions_Nx2),
          dataclasses.replace(state, positions_Nx2=positions_Nx2))


def _is_inside(scene: world.Scene, state: world.State) -> bool:
  return state.held < 0 and places.holds(
      scene, state, scene.place, state.positions_Nx2[scene.target])


def _place_into(scene: world.Scene, state: world.State) -> np.ndarray:
  if _is_inside(scene, state):
    return arm.retreat(state, arm.OPEN)
  if state.held != scene.target:
    return arm.grasp(state, state.positions_Nx2[scene.target])
  return arm.put(state, places.center(scene, state, scene.place))


def _is_on_counter(scene: world.Scene, state: world.State) -> bool:
  target_2 = state.positions_Nx2[scene.target]
  return state.held < 0 and not any(
      places.holds(scene, state, place, target_2) for place in places.names(scene, state))


def _pick_from(scene: world.Scene, state: world.State) -> np.ndarray:
  if _is_on_counter(scene, state):
    return arm.retreat(state, arm.OPEN)
  if state.held != scene.target:
    return arm.grasp(state, state.positions_Nx2[scene.target])
  return arm.put(state, _free_spot(scene, state))


def _free_spot(scene: world.Scene, state: world.State) -> np.ndarray:
  """The spot [2] on the table nearest to the named place, of those with room around them."""
  others_Nx2 = np.delete(state.positions_Nx2, scene.target, 0)
  room_G = np.linalg.norm(_SPOTS_Gx2[:, None] - others_Nx2, axis=-1).min(1) - world.SPACING
  for receptacle in scene.receptacles:
    away_G = np.linalg.norm(_SPOTS_Gx2 - [receptacle.x, receptacle.y], axis=-1)
    room_G = np.minimum(room_G, away_G - places.RECEPTACLE_RADIUS - world.SPACING / 2)
  if state.drawers_D.size:
    room_G = np.where(_SPOTS_Gx2[:, 0] < places.COUNTER - world.MARGIN, room_G, -np.inf)
  away_G = np.linalg.norm(_SPOTS_Gx2 - places.center(scene, state, scene.place), axis=-1)
  # On a full table, where there is most room.
  return _SPOTS_Gx2[np.where(room_G >= min(0.0, room_G.max()), away_G, np.inf).argmin()]


PLACE_INTO = skill.Skill(
    'place {target} into {place}',
    {'de': 'lege {target} in {place}', 'es': 'pon {target} en {place}',
     'fr': 'mets {target} dans {place}'},
    succeeded=_is_inside, act=_place_into, stage=_stage_into,
    max_steps=30)

PICK_FROM = skill.Skill(
    'pick {target} from {place} and place on counter',
    {'de': 'nimm {target} aus {place} und lege auf Tisch',
     'es': 'toma {target} de {place} y pon en mesa',
     'fr': 'prends {target} dans {place} et pose sur table'},
    succeeded=_is_on_counter, act=_pick_from, stage=_stage_from,
    max_steps=30)
