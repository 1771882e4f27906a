"""Reads XLA's buffer assignment: what a compiled program keeps in HBM, and its largest buffers."""

from collections.abc import Mapping, Sequence
import dataclasses
import re

_ALLOCATION = re.compile(r'allocation \d+: size (\d+), (?:color (\d+), )?(.*):')
_VALUE = re.compile(r' value: <\d+ ([\w.\-]+)\S* @\d+> \(size=(\d+),offset=(\d+)\): (.*)')


@dataclasses.dataclass(frozen=True)
class Buffer:
  """One value in HBM.

  Attributes:
    bytes: its size, padding of tiles included.
    shape: such as 'bf16[8,128]'.
    instruction: whose result it is, by name.
  """

  bytes: int
  shape: str
  instruction: str


@dataclasses.dataclass(frozen=True)
class Assignment:
  """HBM of one device.

  Attributes:
    arguments: bytes, of which results that take their place need no more.
    temporaries: all other bytes, among them results with a place of their own.
    largest: of arguments and temporaries together, largest first; of those that take turns in
      one place, the first.
  """

  arguments: int
  temporaries: int
  largest: Sequence[Buffer]

  @property
  def total(self) -> int:
    return self.arguments + self.temporaries


def parse(text: str) -> Assignment:
  """The assignment that `text`, XLA's dump, describes."""
  arguments = temporaries = 0
  buffers: Mapping[tuple[int, int], Buffer] = {}
  number, counts = 0, False
  for line in text.splitlines():
    if match := _ALLOCATION.match(line):
      size, color, kind = match.groups()
      # Color 0 is HBM; the others are on the chip.
      number, counts = number + 1, color in (None, '0')
      if counts and 'parameter' in kind:
        arguments += int(size)
      elif counts:
        temporaries += int(size)
    elif counts and (match := _VALUE.match(line)):
      name, size, offset, shape = match.groups()
      buffers.setdefault((number, int(offset)), Buffer(int(size), shape.split('{')[0], name))
  largest = sorted(buffers.values(), key=lambda buffer: -buffer.bytes)
  return Assignment(arguments, temporaries, largest)
