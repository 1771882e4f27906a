"""What can lie on the table: categories, their glyphs and colours, their names in four languages.

The robot's episodes hold the even categories only, the web side holds all of them; so an odd one
is an object that the policy knows from pictures and text alone. The first twelve have a colour
of their own.
"""

import dataclasses
from collections.abc import Mapping

LANGUAGES = ('en', 'de', 'es', 'fr')

COLORS_RGB: Mapping[str, tuple[int, int, int]] = {
    'purple': (140, 60, 170), 'red': (210, 40, 40), 'white': (245, 245, 245),
    'orange': (235, 120, 30), 'yellow': (225, 190, 30), 'blue': (50, 80, 210),
    'black': (25, 25, 30), 'green': (40, 150, 60), 'brown': (120, 75, 40),
    'cyan': (30, 170, 180), 'lime': (150, 225, 60), 'pink': (235, 110, 160),
}

# Per language and colour: the adjective for each grammatical gender, or one form for all.
COLOR_WORDS: Mapping[str, Mapping[str, str | Mapping[str, str]]] = {
    'en': {color: color for color in COLORS_RGB},
    'de': {
        'purple': {'m': 'lila', 'f': 'lila', 'n': 'lila'},
        'red': {'m': 'roter', 'f': 'rote', 'n': 'rotes'},
        'white': {'m': 'weißer', 'f': 'weiße', 'n': 'weißes'},
        'orange': {'m': 'oranger', 'f': 'orange', 'n': 'oranges'},
        'yellow': {'m': 'gelber', 'f': 'gelbe', 'n': 'gelbes'},
        'blue': {'m': 'blauer', 'f': 'blaue', 'n': 'blaues'},
        'black': {'m': 'schwarzer', 'f': 'schwarze', 'n': 'schwarzes'},
        'green': {'m': 'grüner', 'f': 'grüne', 'n': 'grünes'},
        'brown': {'m': 'brauner', 'f': 'braune', 'n': 'braunes'},
        'cyan': {'m': 'türkiser', 'f': 'türkise', 'n': 'türkises'},
        'lime': {'m': 'hellgrüner', 'f': 'hellgrüne', 'n': 'hellgrünes'},
        'pink': 'rosa',
    },
    'es': {
        'purple': {'m': 'morado', 'f': 'morada'}, 'red': {'m': 'rojo', 'f': 'roja'},
        'white': {'m': 'blanco', 'f': 'blanca'}, 'orange': 'naranja',
        'yellow': {'m': 'amarillo', 'f': 'amarilla'}, 'blue': 'azul',
        'black': {'m': 'negro', 'f': 'negra'}, 'green': 'verde', 'brown': 'marrón',
        'cyan': 'turquesa', 'lime': 'verde lima', 'pink': 'rosa',
    },
    'fr': {
        'purple': {'m': 'violet', 'f': 'violette'}, 'red': 'rouge',
        'white': {'m': 'blanc', 'f': 'blanche'}, 'orange': 'orange', 'yellow': 'jaune',
        'blue': {'m': 'bleu', 'f': 'bleue'}, 'black': {'m': 'noir', 'f': 'noire'},
        'green': {'m': 'vert', 'f': 'verte'}, 'brown': 'marron', 'cyan': 'turquoise',
        'lime': 'vert clair', 'pink': 'rose',
    },
}


@dataclasses.dataclass(frozen=True)
class Category:
  """One kind of object.

  Attributes:
    name: the English noun, as instructions and answers write it.
    glyph: the character of DejaVu Sans that is drawn.
    color: key of COLORS_RGB.
    nouns: language -> (article, noun, gender), for every language but English.
  """

  name: str
  glyph: str
  color: str
  nouns: Mapping[str, tuple[str, str, str]]

  def noun(self, language: str) -> str:
    """The bare noun in `language`."""
    return self.name if language == 'en' else self.nouns[language][1]

  def phrase(self, language: str) -> str:
    """Article, colour and noun, such as 'a blue anchor' or 'un ancla azul'."""
    if language == 'en':
      # A pair of things takes no article: 'orange scissors'.
      article = '' if self.name.endswith('ors') else 'an ' if self.color[0] in 'aeiou' else 'a '
      return f'{article}{self.color} {self.name}'
    article, noun, gender = self.nouns[language]
    word = COLOR_WORDS[language][self.color]
    color = word if isinstance(word, str) else word[gender]
    return f'{article} {color} {noun}' if language == 'de' else f'{article} {noun} {color}'


def _category(name: str, glyph: str, color: str, de: str, es: str, fr: str) -> Category:
  """A row of the table; each noun is written 'article noun gender'."""
  def split(text: str) -> tuple[str, str, str]:
    article, rest = text.split(' ', 1)
    noun, gender = rest.rsplit(' ', 1)
    return article, noun, gender
  return Category(name, glyph, color, {'de': split(de), 'es': split(es), 'fr': split(fr)})


CATEGORIES: tuple[Category, ...] = (
    _category('umbrella', '☂', 'purple', 'ein Schirm m', 'un paraguas m', 'un parapluie m'),
    _category('phone', '☎', 'red', 'ein Telefon n', 'un teléfono m', 'un téléphone m'),
    _category('airplane', '✈', 'white', 'ein Flugzeug n', 'un avión m', 'un avion m'),
    _category('scissors', '✂', 'orange', 'eine Schere f', 'unas tijeras f',
              'une paire de ciseaux f'),
    _category('sun', '☀', 'yellow', 'eine Sonne f', 'un sol m', 'un soleil m'),
    _category('anchor', '⚓', 'blue', 'ein Anker m', 'un ancla f', 'une ancre f'),
    _category('knight', '♞', 'black', 'ein Springer m', 'un caballo m', 'un cavalier m'),
    _category('shamrock', '☘', 'green', 'ein Kleeblatt n', 'un trébol m', 'un trèfle m'),
    _category('cup', '☕', 'brown', 'eine Tasse f', 'una taza f', 'une tasse f'),
    _category('snowman', '☃', 'cyan', 'ein Schneemann m', 'un muñeco de nieve m',
              'un bonhomme de neige m'),
    _category('gear', '⚙', 'lime', 'ein Zahnrad n', 'un engranaje m', 'un engrenage m'),
    _category('flower', '✿', 'pink', 'eine Blume f', 'una flor f', 'une fleur f'),
    _category('heart', '♥', 'red', 'ein Herz n', 'un corazón m', 'un cœur m'),
    _category('star', '★', 'yellow', 'ein Stern m', 'una estrella f', 'une étoile f'),
    _category('cloud', '☁', 'blue', 'eine Wolke f', 'una nube f', 'un nuage m'),
    _category('skull', '☠', 'black', 'ein Totenkopf m', 'una calavera f', 'un crâne m'),
    _category('lightning', '⚡', 'orange', 'ein Blitz m', 'un rayo m', 'un éclair m'),
    _category('moon', '☾', 'white', 'ein Mond m', 'una luna f', 'une lune f'),
    _category('flag', '⚑', 'green', 'eine Fahne f', 'una bandera f', 'un drapeau m'),
    _category('note', '♫', 'brown', 'eine Note f', 'una nota f', 'une note f'),
    _category('snowflake', '❄', 'cyan', 'eine Schneeflocke f', 'un copo de nieve m',
              'un flocon m'),
    _category('envelope', '✉', 'pink', 'ein Brief m', 'un sobre m', 'une enveloppe f'),
    _category('spade', '♠', 'purple', 'ein Pik n', 'una pica f', 'un pique m'),
    _category('queen', '♛', 'lime', 'eine Dame f', 'una reina f', 'une reine f'),
)


def indices(group: str, num_categories: int) -> tuple[int, ...]:
  """Categories below `num_categories` that are 'seen' (by the robot: even), 'unseen' or 'all'.

  Raises:
    ValueError: another group, or more categories than there are.
  """
  if not 2 <= num_categories <= len(CATEGORIES):
    raise ValueError(
        f'num_categories is {num_categories}; it must be between 2 and {len(CATEGORIES)}')
  steps = {'seen': range(0, num_categories, 2), 'unseen': range(1, num_categories, 2),
           'all': range(num_categories)}
  if group not in steps:
    raise ValueError(f"object group {group!r} is unknown; use one of {', '.join(steps)}")
  return tuple(steps[group])
