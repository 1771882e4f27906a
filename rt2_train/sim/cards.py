"""Paper cards with symbols: digits, letters and icons of DejaVu Sans.

The web side reads them and knows what they mean; no robot episode holds one. So a policy that
moves something near the 3 understands a symbol that it has only seen in pictures (RT-2, 4.2).
"""

import dataclasses
from collections.abc import Mapping

from rt2_train.sim import objects


@dataclasses.dataclass(frozen=True)
class Card(objects.Category):
  """A card; its name and nouns are those of the symbol.

  Attributes:
    bold: whether the symbol is drawn in bold.
    meaning: of an icon, as in 'what means joy'; '' for digits and letters.
  """

  bold: bool = False
  meaning: str = ''

  def phrase(self, language: str) -> str:
    """Such as 'a card with euro' or 'eine Karte mit Euro'."""
    return f'{_CARD_WITH[language]} {self.noun(language)}'


_CARD_WITH: Mapping[str, str] = {
    'en': 'a card with', 'de': 'eine Karte mit', 'es': 'una carta con', 'fr': 'une carte avec'}

_DIGITS, _LETTERS = '0123456789', 'ABCDEFGH'


def _written(character: str, color: str) -> Card:
  nouns = {language: ('', character, '') for language in objects.LANGUAGES[1:]}
  return Card(character, character, color, nouns, bold=True)


def _icon(name: str, glyph: str, meaning: str, de: str, es: str, fr: str) -> Card:
  nouns = {language: ('', noun, '') for language, noun in zip(objects.LANGUAGES[1:], (de, es, fr))}
  return Card(name, glyph, 'red', nouns, meaning=meaning)


CARDS: tuple[Card, ...] = (
    *(_written(digit, 'black') for digit in _DIGITS),
    *(_written(letter, 'blue') for letter in _LETTERS),
    _icon('smiley', '☺', 'joy', 'Smiley', 'carita', 'sourire'),
    _icon('frown', '☹', 'sadness', 'Traurigkeit', 'tristeza', 'grimace'),
    _icon('peace', '☮', 'no war', 'Frieden', 'paz', 'paix'),
    _icon('yinyang', '☯', 'balance', 'Gleichgewicht', 'equilibrio', 'équilibre'),
    _icon('radiation', '☢', 'dangerous rays', 'Strahlung', 'radiación', 'radiation'),
    _icon('biohazard', '☣', 'dangerous germs', 'Seuche', 'contagio', 'contagion'),
    _icon('recycling', '♻', 'use it again', 'Kreislauf', 'reciclaje', 'recyclage'),
    _icon('atom', '⚛', 'nuclear physics', 'Atom', 'átomo', 'atome'),
    _icon('check', '✔', 'correct', 'Haken', 'visto', 'coche'),
    _icon('cross', '✘', 'wrong', 'Kreuz', 'cruz', 'croix'),
    _icon('infinity', '∞', 'without end', 'Unendlichkeit', 'infinito', 'infini'),
    _icon('euro', '€', 'money in Europe', 'Euro', 'euro', 'euro'),
    _icon('dollar', '$', 'money in America', 'Dollar', 'dólar', 'dollar'),
    _icon('warning', '⚠', 'take care', 'Warnung', 'peligro', 'attention'),
)


def riddles(card: Card) -> tuple[str, ...]:
  """What is this symbol, in other words: 'the sum of 1 and 2', 'the letter after C'."""
  if card.meaning:
    return (f'the card that means {card.meaning}',)
  if card.name in _DIGITS:
    total = int(card.name)
    return tuple(f'the sum of {a} and {total - a}' for a in range(1, total)) or (
        (f'the number before {total + 1}',))
  before = _LETTERS.index(card.name) - 1
  if before < 0:
    return ('the first letter',)
  return (f'the letter after {_LETTERS[before]}',)
