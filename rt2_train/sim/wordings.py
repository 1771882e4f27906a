"""How an instruction is worded: with names, with what is known of things, in other languages.

Robot episodes are told in names, in English. The other wordings are for evaluation: what a policy
makes of them, it has from the web side.
"""

from collections.abc import Mapping

import numpy as np

from rt2_train.sim import objects
from rt2_train.sim import properties
from rt2_train.sim import things
from rt2_train.sim import world
from rt2_train.sim.skills import registry

FOREIGN = tuple(language for language in objects.LANGUAGES if language != 'en')
# 'name': pick scissors; 'property': pick the thing that can cut paper; 'noun_de': pick Schere;
# 'de': nimm Schere.
WORDINGS = ('name', 'property', *(f'noun_{language}' for language in FOREIGN), *FOREIGN)

# What places.names are called elsewhere.
PLACE_NAMES: Mapping[str, Mapping[str, str]] = {
    'bowl': {'de': 'Schale', 'es': 'cuenco', 'fr': 'bol'},
    'basket': {'de': 'Korb', 'es': 'cesta', 'fr': 'panier'},
    'top drawer': {'de': 'obere Schublade', 'es': 'cajón de arriba', 'fr': 'tiroir du haut'},
    'middle drawer': {
        'de': 'mittlere Schublade', 'es': 'cajón del medio', 'fr': 'tiroir du milieu'},
    'bottom drawer': {'de': 'untere Schublade', 'es': 'cajón de abajo', 'fr': 'tiroir du bas'},
}


def plain(scene: world.Scene, template: str) -> str:
  """A template in English, with everything by its name."""
  return template.format(**_names(scene), place=scene.place)


def instruct(scene: world.Scene, wording: str) -> str:
  """The scene's instruction in one of WORDINGS; the same for the same scene."""
  template = registry.SKILLS[scene.skill].template
  if wording == 'name':
    return plain(scene, template)
  if wording == 'property':
    return template.format(**_descriptions(scene), place=scene.place)
  if wording in FOREIGN:
    place = PLACE_NAMES[scene.place][wording] if scene.place else ''
    return translate(scene.skill, wording, **_names(scene, wording), place=place)
  return template.format(**_names(scene, wording.removeprefix('noun_')), place=scene.place)


def translate(skill: str, language: str, **names: str) -> str:
  """What the robot is told in another language, with names that are in that language already."""
  return registry.SKILLS[skill].translations[language].format(**names)


def _names(scene: world.Scene, language: str = 'en') -> dict[str, str]:
  return {role: things.THINGS[scene.categories[i]].noun(language)
          for role, i in _roles(scene).items()}


def _descriptions(scene: world.Scene) -> dict[str, str]:
  """For each thing something that is true of it alone, of all on the table."""
  # A stream of its own: how a scene is worded changes nothing else about it.
  rng = np.random.default_rng([scene.look, 3])
  described = {}
  for role, i in _roles(scene).items():
    facts = properties.distinctive(scene.categories, i, scene.colors)
    described[role] = facts[rng.integers(len(facts))].phrase
  return described


def _roles(scene: world.Scene) -> dict[str, int]:
  """Who is who among the scene's objects."""
  roles = {'target': scene.target, 'reference': scene.reference}
  return roles | {'second': scene.second} if scene.second >= 0 else roles
