"""All that can lie on the table, in one row: the objects of `objects`, then the cards of `cards`.

A scene's categories are indices into it.
"""

from collections.abc import Mapping

from rt2_train.sim import cards
from rt2_train.sim import objects

THINGS: tuple[objects.Category, ...] = (*objects.CATEGORIES, *cards.CARDS)
CARD_INDICES = range(len(objects.CATEGORIES), len(THINGS))

# Shapes that are easily taken for each other at a few pixels; cards are all of one.
SHAPES: Mapping[str, tuple[str, ...]] = {
    'round': ('sun', 'shamrock', 'gear', 'flower', 'star', 'snowflake'),
    'figure': ('knight', 'snowman', 'skull', 'queen'),
    'broad': ('phone', 'cup', 'cloud', 'envelope'),
    'shaft': ('umbrella', 'anchor', 'heart', 'spade'),
    'curved': ('moon', 'flag', 'note'),
    'slanted': ('airplane', 'scissors', 'lightning'),
}


def indices(group: str, num_categories: int) -> tuple[int, ...]:
  """Objects of a group, see `objects.indices`, or all 'cards'.

  Raises:
    ValueError: another group, or more categories than there are.
  """
  if group == 'cards':
    return tuple(CARD_INDICES)
  return objects.indices(group, num_categories)


def is_card(index: int) -> bool:
  return index in CARD_INDICES


def same_shape(a: int, b: int) -> bool:
  """Whether two things are easily taken for each other."""
  if is_card(a) or is_card(b):
    return is_card(a) and is_card(b)
  names = {THINGS[a].name, THINGS[b].name}
  return any(names <= set(family) for family in SHAPES.values())
