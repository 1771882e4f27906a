"""Questions that a picture alone does not answer: what things are for, and what others call them.

This is the web side's knowledge that a robot's evaluation draws on: properties and symbols, and
the names of things in four languages. No robot episode has a word of it.
"""

from collections.abc import Mapping

import numpy as np

from rt2_train.sim import objects
from rt2_train.sim import properties
from rt2_train.sim import questions
from rt2_train.sim import things
from rt2_train.sim import wordings
from rt2_train.sim.skills import registry

# Shares of a picture's questions beside its grid, where the web side is to know more than what
# pictures show.
RICH_QUESTION_SHARES: Mapping[str, float] = {
    'where': 0.23, 'list': 0.12, 'what_at': 0.11, 'relation': 0.03,
    'yes_no': 0.03, 'count': 0.02, 'color': 0.02,
    'which': 0.09, 'where_which': 0.09, 'fact': 0.06,
    'translate': 0.08, 'where_foreign': 0.08, 'sentence': 0.04,
}

_LANGUAGE_NAMES = {'de': 'German', 'es': 'Spanish', 'fr': 'French'}
_WHERE_IS = {'de': 'wo ist', 'es': 'dónde está', 'fr': 'où est'}


def _which(rng: np.random.Generator, picture: questions.Picture) -> questions.Question:
  """'what can cut paper': the thing here of which that is true."""
  i, _, fact = _any_fact(rng, picture)
  return questions.exact('which', fact.question, picture.names[i])


def _where_which(rng: np.random.Generator, picture: questions.Picture) -> questions.Question:
  """'where is the thing that can cut paper'."""
  _, where, fact = _any_fact(rng, picture)
  return questions.exact('where_which', f'where is {fact.phrase}', where)


def _fact(rng: np.random.Generator, picture: questions.Picture) -> questions.Question | None:
  """'what is scissors made of'; nobody asks this of a card."""
  i = int(rng.integers(len(picture.names)))
  known = [fact for fact in properties.facts(picture.scene.categories[i]) if fact.about]
  if not known:
    return None
  fact = known[rng.integers(len(known))]
  return questions.exact('fact', fact.about.format(name=picture.names[i]), fact.value)


def _translate(rng: np.random.Generator, picture: questions.Picture) -> questions.Question:
  """'what is Schere in English', or the other way round."""
  thing = _any_thing(rng, picture)
  language = str(rng.choice(wordings.FOREIGN))
  if rng.integers(2):
    text = f'what is {thing.noun(language)} in English'
    return questions.exact('translate', text, thing.name)
  text = f'what is {thing.name} in {_LANGUAGE_NAMES[language]}'
  return questions.exact('translate', text, thing.noun(language))


def _where_foreign(rng: np.random.Generator, picture: questions.Picture) -> questions.Question:
  """'wo ist Schere'."""
  i, where = questions.any_object(rng, picture)
  language = str(rng.choice(wordings.FOREIGN))
  noun = things.THINGS[picture.scene.categories[i]].noun(language)
  return questions.exact('where_foreign', f'{_WHERE_IS[language]} {noun}', where)


def _sentence(rng: np.random.Generator, picture: questions.Picture) -> questions.Question:
  """'what is nimm Schere in English': words for what is done, which no picture shows."""
  name = str(rng.choice(list(registry.SKILLS)))
  language = str(rng.choice(wordings.FOREIGN))
  named = [_any_thing(rng, picture) for _ in range(3)]
  place = str(rng.choice(list(wordings.PLACE_NAMES)))
  foreign, english = (
      dict(zip(('target', 'reference', 'second'), (thing.noun(spoken) for thing in named)))
      for spoken in (language, 'en'))
  text = wordings.translate(name, language, **foreign, place=wordings.PLACE_NAMES[place][language])
  answer = registry.SKILLS[name].template.format(**english, place=place)
  return questions.exact('sentence', f'what is {text} in English', answer)


ASK: Mapping[str, questions.Ask] = {
    'which': _which, 'where_which': _where_which, 'fact': _fact,
    'translate': _translate, 'where_foreign': _where_foreign, 'sentence': _sentence,
}


def phrases() -> list[str]:
  """Every word of it, for a vocabulary: facts, and sentences in all languages."""
  found = []
  for index, thing in enumerate(things.THINGS):
    found += [text for fact in properties.facts(index)
              for text in (fact.phrase, fact.question, fact.about.format(name=thing.name),
                           fact.value) if text]
    found += [f'{_WHERE_IS[language]} {thing.noun(language)}' for language in wordings.FOREIGN]
  names = dict.fromkeys(('target', 'reference', 'second'), objects.CATEGORIES[0].name)
  for skill in registry.SKILLS:
    found += [wordings.translate(skill, language, **names, place=places[language])
              for language in wordings.FOREIGN for places in wordings.PLACE_NAMES.values()]
  return list(dict.fromkeys(found))


def _any_fact(
    rng: np.random.Generator, picture: questions.Picture,
) -> tuple[int, str, properties.Fact]:
  """A thing, its place, and something that is true of it alone in this picture."""
  i, where = questions.any_object(rng, picture)
  facts = properties.distinctive(picture.scene.categories, i)
  return i, where, facts[rng.integers(len(facts))]


def _any_thing(rng: np.random.Generator, picture: questions.Picture) -> objects.Category:
  return things.THINGS[picture.scene.categories[rng.integers(len(picture.names))]]
