"""The web side of the tabletop: pictures without a gripper, and texts about them.

The ground truth comes from the state, so it is free. Questions and answers are in English (rich
ones ask for other languages, too), captions in four languages.
"""

from collections.abc import Mapping

import numpy as np

from rt2_train import prompts
from rt2_train.sim import drawing
from rt2_train.sim import knowledge
from rt2_train.sim import objects
from rt2_train.sim import placement
from rt2_train.sim import questions
from rt2_train.sim import things
from rt2_train.sim import world

QUESTION_SHARES = questions.QUESTION_SHARES
RICH_QUESTION_SHARES = knowledge.RICH_QUESTION_SHARES
CAPTION_SHARES: Mapping[str, float] = {'en': 0.4, 'de': 0.2, 'es': 0.2, 'fr': 0.2}
# Number of objects in a picture and its share; mostly as many as the robot has before it.
NUM_OBJECTS_SHARES: Mapping[int, float] = {2: 0.25, 3: 0.75}
CARD_SHARE = 0.4  # of pictures, where there are cards at all; any number of their things are some

Question, Picture = questions.Question, questions.Picture

_ASK = {**questions.ASK, **knowledge.ASK}

# Language -> (left of, right of, above, below); {a} and {b} are noun phrases.
_RELATIONS = {
    'en': ('{a} left of {b}', '{a} right of {b}', '{a} above {b}', '{a} below {b}'),
    # German states each side by itself, which leaves both nouns in the nominative.
    'de': ('links {a}, rechts {b}', 'rechts {a}, links {b}',
           'oben {a}, unten {b}', 'unten {a}, oben {b}'),
    'es': ('{a} a la izquierda de {b}', '{a} a la derecha de {b}',
           '{a} por encima de {b}', '{a} por debajo de {b}'),
    'fr': ("{a} à gauche d'{b}", "{a} à droite d'{b}",
           "{a} au-dessus d'{b}", "{a} au-dessous d'{b}"),
}


def sample_picture(
    rng: np.random.Generator,
    num_categories: int,
    background: str = 'seen',
    *,
    shares: Mapping[str, float] = QUESTION_SHARES,
    card_share: float = 0.0,
) -> Picture:
  """A picture with objects of all categories below `num_categories`, no category twice.

  Args:
    rng: random numbers; those of plain pictures come first and are the same whatever is asked.
    num_categories: how many of objects.CATEGORIES are in play.
    background: one of backdrops.BACKGROUNDS.
    shares: what will be asked: QUESTION_SHARES, RICH_QUESTION_SHARES or one's own.
    card_share: of pictures in which cards lie.

  Raises:
    ValueError: `shares` has a kind of question that there is not.
  """
  unknown = [kind for kind in shares if kind not in _ASK]
  if unknown:
    raise ValueError(f"question kind {unknown[0]!r} is unknown; use any of {', '.join(_ASK)}")
  numbers, number_shares = list(NUM_OBJECTS_SHARES), list(NUM_OBJECTS_SHARES.values())
  count = min(int(rng.choice(numbers, p=number_shares)), num_categories)
  pool = objects.indices('all', num_categories)
  categories = tuple(rng.choice(pool, count, replace=False).tolist())
  positions_Nx2 = placement.sample_positions(rng, count)
  look = int(rng.integers(2**31))
  # The gripper is somewhere, but no one draws it.
  state = world.State(positions_Nx2, placement.sample_angles(rng, count), np.zeros(3))
  if card_share and rng.random() < card_share:
    num_cards = int(rng.integers(1, count + 1))
    cards = rng.choice(things.CARD_INDICES, num_cards, replace=False).tolist()
    categories = (*cards, *categories[num_cards:])
  scene = world.Scene('pick', categories, 0, 1, positions_Nx2, background, look)
  return Picture(scene, state, num_categories, shares)


def sample_questions(rng: np.random.Generator, picture: Picture, count: int) -> list[Question]:
  """`count` different questions: the grid, then others with kinds drawn by the picture's shares."""
  kinds, shares = list(picture.shares), list(picture.shares.values())
  found = {'grid': questions.grid(picture)}
  while len(found) < count:
    question = _ASK[kinds[rng.choice(len(kinds), p=shares)]](rng, picture)
    if question is not None:
      found.setdefault(question.text, question)
  return list(found.values())


def sample_detection(rng: np.random.Generator, picture: Picture, size: int) -> Question:
  """Where an object is, in PaLI's form: 'y0 x0 y1 x1 name' on a grid of 1000.

  The text of the question is PaLI's whole prompt, and `size` the size at which it is drawn.
  """
  i = int(rng.integers(len(picture.names)))
  name = picture.names[i]
  box = drawing.object_box(picture.scene, picture.state, i, size)
  return questions.exact('detect', prompts.detect([name]), prompts.detection_target([(name, box)]))


def sample_caption(rng: np.random.Generator, picture: Picture) -> tuple[str, str]:
  """A language and a caption in it, such as ('en', 'a red phone left of a blue anchor')."""
  language = str(rng.choice(list(CAPTION_SHARES), p=list(CAPTION_SHARES.values())))
  a, b = (int(i) for i in rng.choice(len(picture.names), 2, replace=False))
  dx, dy = picture.state.positions_Nx2[b] - picture.state.positions_Nx2[a]
  left, right, above, below = _RELATIONS[language]
  template = (left if dx > 0 else right) if abs(dx) > abs(dy) else (above if dy > 0 else below)
  phrases = [things.THINGS[picture.scene.categories[i]].phrase(language) for i in (a, b)]
  return language, template.format(a=phrases[0], b=phrases[1])


def phrases(rich: bool = False) -> list[str]:
  """What captions call every object, in every language; if rich also cards, and what is known."""
  named = things.THINGS if rich else objects.CATEGORIES
  called = [thing.phrase(language) for thing in named for language in objects.LANGUAGES]
  return called + (knowledge.phrases() if rich else [])
