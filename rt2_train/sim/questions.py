"""Questions about what a web picture shows: where things are, how many, in what order.

Places are written 'y x', as PaLI writes boxes, on 17 levels inside 0..255: the same integer tokens
that actions are made of. What a picture does not show is the business of `knowledge`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping

import numpy as np

from rt2_train.sim import drawing
from rt2_train.sim import things
from rt2_train.sim import world

# Every picture has its grid question (a name in each cell of 3x3); these are the shares of its
# other questions. Dense answers and pointing come first: they break the symmetry between objects
# long before yes/no questions do.
QUESTION_SHARES: Mapping[str, float] = {
    'where': 0.40, 'list': 0.26, 'what_at': 0.18, 'relation': 0.06,
    'yes_no': 0.04, 'count': 0.03, 'color': 0.03,
}

LOCATION_LEVELS = 17
_LEVEL_STEP = 15  # integers from one level to the next: 0, 15, ... 240
_CELL_TOLERANCE = 0.02  # how close to a cell's border an object counts for either side
_CLEARLY = 0.08  # difference from which one thing is left of, or above, another
_DISCERNIBLY = 0.04  # difference from which an order can be seen, if not at a glance


@dataclasses.dataclass(frozen=True)
class Question:
  """A question about a picture.

  Attributes:
    kind: 'grid', a key of the shares it was drawn by, or 'detect'.
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
    shares: what is asked about it: kind of question -> share.
  """

  scene: world.Scene
  state: world.State
  num_categories: int
  shares: Mapping[str, float] = dataclasses.field(default_factory=lambda: QUESTION_SHARES)

  @functools.cached_property
  def names(self) -> tuple[str, ...]:
    """English name of each object."""
    return tuple(things.THINGS[c].name for c in self.scene.categories)

  @property
  def absent(self) -> list[int]:
    """What could be in such a picture and is not; cards where there is a card."""
    cards = things.CARD_INDICES if any(map(things.is_card, self.scene.categories)) else ()
    could = itertools.chain(range(self.num_categories), cards)
    return [c for c in could if c not in self.scene.categories]

  def draw(self, size: int) -> np.ndarray:
    """uint8 [size, size, 3]."""
    return drawing.draw(self.scene, self.state, size, gripper=False)


Ask = Callable[[np.random.Generator, Picture], Question | None]


def exact(kind: str, text: str, answer: str) -> Question:
  """A question with one right answer."""
  return Question(kind, text, answer, (answer,))


def location(share: float) -> int:
  """The integer for a place along an axis: 17 levels, 0 to 240."""
  return int(np.clip(round(share * (LOCATION_LEVELS - 1)), 0, LOCATION_LEVELS - 1)) * _LEVEL_STEP


def place(x: float, y: float) -> str:
  """A place as text: 'y x'."""
  return f'{location(y)} {location(x)}'


def grid(picture: Picture) -> Question:
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


def any_object(rng: np.random.Generator, picture: Picture) -> tuple[int, str]:
  """One of the things in the picture, and where it is."""
  i = int(rng.integers(len(picture.names)))
  return i, place(*picture.state.positions_Nx2[i].tolist())


def _where(rng: np.random.Generator, picture: Picture) -> Question:
  i, where = any_object(rng, picture)
  return exact('where', f'where is {picture.names[i]}', where)


def _what_at(rng: np.random.Generator, picture: Picture) -> Question:
  i, where = any_object(rng, picture)
  return exact('what_at', f'what is at {where}', picture.names[i])


def _list(rng: np.random.Generator, picture: Picture) -> Question | None:
  """All objects with their places, from left to right; None where that order is hard to tell."""
  del rng
  x_N = picture.state.positions_Nx2[:, 0]
  order = np.argsort(x_N)
  if np.diff(x_N[order]).min() < _DISCERNIBLY:
    return None
  places = [place(*picture.state.positions_Nx2[i].tolist()) for i in order]
  answer = ' '.join(f'{picture.names[i]} {where}' for i, where in zip(order, places))
  return exact('list', 'List the objects present', answer)


def _relation(rng: np.random.Generator, picture: Picture) -> Question | None:
  a, b = (int(i) for i in rng.choice(len(picture.names), 2, replace=False))
  axis = int(rng.integers(2))
  ahead = picture.state.positions_Nx2[b, axis] - picture.state.positions_Nx2[a, axis]
  if abs(ahead) < _CLEARLY:
    return None
  before, after = (('left', 'right'), ('above', 'below'))[axis]
  of = ' of' if axis == 0 else ''
  text = f'is {picture.names[a]} {before} or {after}{of} {picture.names[b]}'
  return exact('relation', text, before if ahead > 0 else after)


def _yes_no(rng: np.random.Generator, picture: Picture) -> Question:
  absent = picture.absent
  yes = bool(rng.integers(2)) or not absent
  name = things.THINGS[int(rng.choice(picture.scene.categories if yes else absent))].name
  return exact('yes_no', f'Is {name} in the image?', 'yes' if yes else 'no')


def _count(rng: np.random.Generator, picture: Picture) -> Question:
  del rng
  return exact('count', 'how many objects are there', str(len(picture.names)))


def _color(rng: np.random.Generator, picture: Picture) -> Question:
  thing = things.THINGS[int(rng.choice(picture.scene.categories))]
  return exact('color', f'what color is {thing.name}', thing.color)


ASK: Mapping[str, Ask] = {
    'where': _where, 'what_at': _what_at, 'list': _list,
    'relation': _relation, 'yes_no': _yes_no, 'count': _count, 'color': _color,
}
