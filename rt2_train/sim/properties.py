"""What everybody knows of a thing and no picture shows: its use, material, size and kind.

The web side asks about it; robot episodes never do. So "pick the thing that can cut paper" is an
instruction that only web knowledge explains (RT-2, section 4.2, reasoning).
"""

import dataclasses
from collections.abc import Mapping, Sequence

from rt2_train.sim import cards
from rt2_train.sim import things


@dataclasses.dataclass(frozen=True)
class Properties:
  """Of one object.

  Attributes:
    use: completes 'it can ...'; no two objects share one.
    material: completes 'it is made of ...'.
    size: of the real thing: 'small' fits in a hand, 'large' takes two, 'huge' takes a crane.
    kind: completes 'it is ...'.
  """

  use: str
  material: str
  size: str
  kind: str


PROPERTIES: Mapping[str, Properties] = {
    'umbrella': Properties('keep off rain', 'cloth', 'large', 'a tool'),
    'phone': Properties('call a friend', 'plastic', 'small', 'a machine'),
    'airplane': Properties('fly people abroad', 'metal', 'huge', 'a machine'),
    'scissors': Properties('cut paper', 'metal', 'small', 'a tool'),
    'sun': Properties('warm the earth', 'fire', 'huge', 'in the sky'),
    'anchor': Properties('hold a ship', 'metal', 'large', 'a tool'),
    'knight': Properties('jump in chess', 'wood', 'small', 'a game piece'),
    'shamrock': Properties('bring luck', 'leaves', 'small', 'a plant'),
    'cup': Properties('hold coffee', 'clay', 'small', 'a dish'),
    'snowman': Properties('melt in spring', 'snow', 'large', 'a toy'),
    'gear': Properties('turn a clock', 'metal', 'small', 'a machine'),
    'flower': Properties('smell sweet', 'leaves', 'small', 'a plant'),
    'heart': Properties('pump blood', 'flesh', 'small', 'a body part'),
    'star': Properties('twinkle at night', 'fire', 'huge', 'in the sky'),
    'cloud': Properties('bring rain', 'water', 'huge', 'weather'),
    'skull': Properties('hold a brain', 'bone', 'small', 'a body part'),
    'lightning': Properties('strike a tree', 'fire', 'huge', 'weather'),
    'moon': Properties('move the tides', 'stone', 'huge', 'in the sky'),
    'flag': Properties('wave in the wind', 'cloth', 'large', 'a sign'),
    'note': Properties('be sung', 'ink', 'small', 'a sign'),
    'snowflake': Properties('fall in winter', 'ice', 'small', 'weather'),
    'envelope': Properties('carry a letter', 'paper', 'small', 'a parcel'),
    'spade': Properties('win a card game', 'paper', 'small', 'a game piece'),
    'queen': Properties('rule a chess board', 'wood', 'small', 'a game piece'),
}


@dataclasses.dataclass(frozen=True)
class Fact:
  """Something that is true of a thing.

  Attributes:
    phrase: names the thing by it: 'the thing that can cut paper'.
    question: asks for the thing: 'what can cut paper'.
    about: asks for the fact, with {name} for the thing; '' where no one would.
    value: the answer to that.
  """

  phrase: str
  question: str
  about: str = ''
  value: str = ''


def facts(index: int, color: str | None = None) -> tuple[Fact, ...]:
  """All that is true of a thing (index into things.THINGS), also if drawn in another `color`."""
  thing = things.THINGS[index]
  if isinstance(thing, cards.Card):
    return tuple(Fact(riddle, _question(riddle)) for riddle in cards.riddles(thing))
  has = PROPERTIES[thing.name]
  color = color or thing.color
  return (
      Fact(f'the thing that can {has.use}', f'what can {has.use}', 'what can {name} do', has.use),
      Fact(f'the thing made of {has.material}', f'what is made of {has.material}',
           'what is {name} made of', has.material),
      Fact(f'the thing that is {has.size}', f'what is {has.size}', 'how big is {name}', has.size),
      Fact(f'the thing that is {has.kind}', f'what is {has.kind}',
           'what kind of thing is {name}', has.kind),
      Fact(f'the {color} thing', f'what is {color}'),
  )


def distinctive(
    indices: Sequence[int], i: int, colors: Sequence[str] = ()) -> tuple[Fact, ...]:
  """The facts that are true of thing `i` of these and of no other of them."""
  known = [
      facts(index, colors[j] if colors else None) for j, index in enumerate(indices)]
  others = {fact.phrase for j, some in enumerate(known) if j != i for fact in some}
  return tuple(fact for fact in known[i] if fact.phrase not in others)


def _question(riddle: str) -> str:
  """'the sum of 1 and 2' -> 'what is the sum of 1 and 2'."""
  return f'what is {riddle}'
