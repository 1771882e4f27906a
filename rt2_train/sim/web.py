"""The web side of the tabletop: pictures without a gripper, and texts about them.

The ground truth comes from the state, so it is free. Places are written 'y x', as PaLI writes
boxes, on 17 levels inside 0..255: the same integer tokens that actions are made of. Questions and
answers are in English, captions in four languages.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping

import numpy as np

from rt2_train import prompts
from rt2_train.sim import drawing
from rt2_train.sim import objects
from rt2_train.sim import tabletop

# Every picture has its grid question (a name in each cell of 3x3); these are the shares of its
# other questions. Dense answers and pointing come first: they break the symmetry between objects
# long before yes/no questions do.
QUESTION_SHARES: Mapping[str, float] = {
    'where': 0.40, 'list': 0.26, 'what_at': 0.18, 'relation': 0.06,
    'yes_no': 0.04, 'count': 0.03, 'color': 0.03,
}
CAPTION_SHARES: Mapping[str, float] = {'en': 0.4, 'de': 0.2, 'es': 0.2, 'fr': 0.2}
# Number of objects in a picture and its share; mostly as many as the robot has before it.
NUM_OBJECTS_SHARES: Mapping[int, float] = {2: 0.25, 3: 0.75}

LOCATION_LEVELS = 17
_LEVEL_STEP = 15  # integers from one level to the next: 0, 15, ... 240
_CELL_TOLERANCE = 0.02  # how close to a cell's border an object counts for either side
_CLEARLY = 0.08  # difference from which one thing is left of, or above, another
_DISCERNIBLY = 0.04  # difference from which an order can be seen, if not at a glance

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


@dataclasses.dataclass(frozen=True)
class Question:
  """A question about a picture.

  Attributes:
    kind: 'grid', a key of QUESTION_SHARES, or 'detect'.
    text: the question, without the prompt around it.
    answer: what to learn.
    accepted: every answer that is right, `answer` first: an object on the border of two cells is
      in either. (How far off a place may point is the metric's business.)
  """

  kind: str
  text: str
  answer: str
  accepted: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Picture:
  """A scene without a gripper, seen by nobody's robot.

  Attributes:
    scene: its skill, target and reference mean nothing here.
    state: where things are.
    num_categories: how many categories there could be; questions about absent ones ask for these.
  """

  scene: tabletop.Scene
  state: tabletop.State
  num_categories: int

  @functools.cached_property
  def names(self) -> tuple[str, ...]:
    """English name of each object."""
    return tuple(objects.CATEGORIES[c].name for c in self.scene.categories)

  def draw(self, size: int) -> np.ndarray:
    """uint8 [size, size, 3]."""
    return drawing.draw(self.scene, self.state, size, gripper=False)


def sample_picture(
    rng: np.random.Generator, num_categories: int, background: str = 'seen') -> Picture:
  """A picture with objects of all categories below `num_categories`, no category twice."""
  numbers, shares = list(NUM_OBJECTS_SHARES), list(NUM_OBJECTS_SHARES.values())
  count = min(int(rng.choice(numbers, p=shares)), num_categories)
  pool = objects.indices('all', num_categories)
  categories = tuple(rng.choice(pool, count, replace=False).tolist())
  positions_Nx2 = tabletop.sample_positions(rng, count)
  look = int(rng.integers(2**31))
  scene = tabletop.Scene('pick', categories, 0, 1, positions_Nx2, background, look)
  # The gripper is somewhere, but no one draws it.
  state = tabletop.State(positions_Nx2, tabletop.sample_angles(rng, count), np.zeros(3))
  return Picture(scene, state, num_categories)


def location(share: float) -> int:
  """The integer for a place along an axis: 17 levels, 0 to 240."""
  return int(np.clip(round(share * (LOCATION_LEVELS - 1)), 0, LOCATION_LEVELS - 1)) * _LEVEL_STEP


def place(x: float, y: float) -> str:
  """A place as text: 'y x'."""
  return f'{location(y)} {location(x)}'


def sample_questions(rng: np.random.Generator, picture: Picture, count: int) -> list[Question]:
  """`count` different questions: the grid, then others with kinds drawn by QUESTION_SHARES."""
  kinds, shares = list(QUESTION_SHARES), list(QUESTION_SHARES.values())
  found = {'grid': _grid(picture)}
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
  return _exact('detect', prompts.detect([name]), prompts.detection_target([(name, box)]))


def sample_caption(rng: np.random.Generator, picture: Picture) -> tuple[str, str]:
  """A language and a caption in it, such as ('en', 'a red phone left of a blue anchor')."""
  language = str(rng.choice(list(CAPTION_SHARES), p=list(CAPTION_SHARES.values())))
  a, b = (int(i) for i in rng.choice(len(picture.names), 2, replace=False))
  dx, dy = picture.state.positions_Nx2[b] - picture.state.positions_Nx2[a]
  left, right, above, below = _RELATIONS[language]
  template = (left if dx > 0 else right) if abs(dx) > abs(dy) else (above if dy > 0 else below)
  phrases = [objects.CATEGORIES[picture.scene.categories[i]].phrase(language) for i in (a, b)]
  return language, template.format(a=phrases[0], b=phrases[1])


def phrases() -> list[str]:
  """What captions call every category, in every language."""
  return [category.phrase(lang) for category in objects.CATEGORIES for lang in objects.LANGUAGES]


def _exact(kind: str, text: str, answer: str) -> Question:
  return Question(kind, text, answer, (answer,))


def _any_object(rng: np.random.Generator, picture: Picture) -> tuple[str, float, float]:
  i = int(rng.integers(len(picture.names)))
  x, y = picture.state.positions_Nx2[i].tolist()
  return picture.names[i], x, y


def _where(rng: np.random.Generator, picture: Picture) -> Question:
  name, x, y = _any_object(rng, picture)
  return _exact('where', f'where is {name}', place(x, y))


def _what_at(rng: np.random.Generator, picture: Picture) -> Question:
  name, x, y = _any_object(rng, picture)
  return _exact('what_at', f'what is at {place(x, y)}', name)


def _grid(picture: Picture) -> Question:
  """One word per cell of a 3x3 grid, row by row: the object nearest to its middle, or 'no'."""

  def cell(x: float, y: float) -> int:
    return min(2, int(y * 3)) * 3 + min(2, int(x * 3))

  def off_center(i: int) -> float:
    return float(np.abs(picture.state.positions_Nx2[i] * 3 % 1 - 0.5).max())

  def write(cells: tuple[int, ...], order: tuple[int, ...]) -> str:
    words = ['no'] * 9
    for i in order:
      words[cells[i]] = picture.names[i]
    return ' '.join(words)

  places = picture.state.positions_Nx2.tolist()
  numbers = range(len(places))
  # The last one written stays, so the nearest to the middle comes last.
  order = tuple(sorted(numbers, key=off_center, reverse=True))
  answer = write(tuple(cell(x, y) for x, y in places), order)
  offsets = (-_CELL_TOLERANCE, _CELL_TOLERANCE)
  choices = [sorted({cell(x + u, y + v) for u in offsets for v in offsets}) for x, y in places]
  accepted = [answer]
  for cells in itertools.product(*choices):
    # Where two share a cell, either may be named.
    orders = itertools.permutations(numbers) if len(set(cells)) < len(cells) else [order]
    accepted += [write(cells, some) for some in orders]
  return Question('grid', 'grid', answer, tuple(dict.fromkeys(accepted)))


def _list(rng: np.random.Generator, picture: Picture) -> Question | None:
  """All objects with their places, from left to right; None where that order is hard to tell."""
  del rng
  x_N = picture.state.positions_Nx2[:, 0]
  order = np.argsort(x_N)
  if np.diff(x_N[order]).min() < _DISCERNIBLY:
    return None
  places = [place(*picture.state.positions_Nx2[i].tolist()) for i in order]
  answer = ' '.join(f'{picture.names[i]} {where}' for i, where in zip(order, places))
  return _exact('list', 'List the objects present', answer)


def _relation(rng: np.random.Generator, picture: Picture) -> Question | None:
  a, b = (int(i) for i in rng.choice(len(picture.names), 2, replace=False))
  axis = int(rng.integers(2))
  ahead = picture.state.positions_Nx2[b, axis] - picture.state.positions_Nx2[a, axis]
  if abs(ahead) < _CLEARLY:
    return None
  before, after = (('left', 'right'), ('above', 'below'))[axis]
  of = ' of' if axis == 0 else ''
  text = f'is {picture.names[a]} {before} or {after}{of} {picture.names[b]}'
  return _exact('relation', text, before if ahead > 0 else after)


def _yes_no(rng: np.random.Generator, picture: Picture) -> Question:
  absent = [c for c in range(picture.num_categories) if c not in picture.scene.categories]
  yes = bool(rng.integers(2)) or not absent
  name = objects.CATEGORIES[int(rng.choice(picture.scene.categories if yes else absent))].name
  return _exact('yes_no', f'Is {name} in the image?', 'yes' if yes else 'no')


def _count(rng: np.random.Generator, picture: Picture) -> Question:
  del rng
  return _exact('count', 'how many objects are there', str(len(picture.names)))


def _color(rng: np.random.Generator, picture: Picture) -> Question:
  category = objects.CATEGORIES[int(rng.choice(picture.scene.categories))]
  return _exact('color', f'what color is {category.name}', category.color)


_ASK: Mapping[str, Callable[[np.random.Generator, Picture], Question | None]] = {
    'where': _where, 'what_at': _what_at, 'list': _list,
    'relation': _relation, 'yes_no': _yes_no, 'count': _count, 'color': _color,
}
