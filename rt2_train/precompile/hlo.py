"""Reads the scheduled HLO text that XLA's compilers print: computations, instructions, shapes.

Text becomes dataclasses; nothing here knows of chips or costs. The notation is XLA's, which has no
written grammar: what is read is what the TPU compiler of constraints.txt prints.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
import re

_BITS = {
    'pred': 8, 's2': 2, 'u2': 2, 's4': 4, 'u4': 4, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16,
    's32': 32, 'u32': 32, 's64': 64, 'u64': 64, 'bf16': 16, 'f16': 16, 'f32': 32, 'f64': 64,
    'f8e4m3fn': 8, 'f8e5m2': 8, 'f8e4m3b11fnuz': 8, 'f4e2m1fn': 4, 'c64': 64, 'c128': 128,
}  # pyformat: disable
_ARRAY = re.compile(r'\b([a-z]+[0-9][a-z0-9]*|pred)\[([0-9,]*)\](?:\{([^}]*)\})?')
_HEADER = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{')
_INSTRUCTION = re.compile(r'\s+(ROOT )?%?([\w.\-]+) = (.*)')
_OPCODE = re.compile(r'([\w\-]+)\(')
_NAME = re.compile(r'%([\w.\-]+)')
_CALLED = re.compile(
    r'\b(calls|called_computations|to_apply|body|condition|branch_computations|true_computation|'
    r'false_computation)=(\{[^}]*\}|%[\w.\-]+)'
)
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of a shape.

  Attributes:
    dtype: such as 'bf16'.
    dims: sizes of the dimensions.
    memory_space: 0 is HBM; others are on the chip.
  """

  dtype: str
  dims: tuple[int, ...]
  memory_space: int = 0

  @property
  def elements(self) -> int:
    return math.prod(self.dims)

  @property
  def bytes(self) -> int:
    """Without the padding of tiles."""
    if self.dtype not in _BITS:
      raise ValueError(f'hlo: {self} has an unknown type; give _BITS its size')
    return -(-self.elements * _BITS[self.dtype] // 8)

  def __str__(self):
    return f'{self.dtype}[{",".join(map(str, self.dims))}]'


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: unique in its computation.
    opcode: such as 'fusion' or 'all-gather-start'.
    arrays: of the result, tuples flattened.
    operands: names of the instructions whose results it takes.
    arguments: the text between its parentheses: also literals and parameter numbers.
    attributes: the text after them.
    is_root: whether it is the result of its computation.
  """

  name: str
  opcode: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  arguments: str
  attributes: str
  is_root: bool = False

  @functools.cached_property
  def called(self) -> Mapping[str, tuple[str, ...]]:
    """The computations it refers to, by the attribute that does: 'calls', 'body', ..."""
    return {key: tuple(_NAME.findall(names)) for key, names in _CALLED.findall(self.attributes)}

  @property
  def bytes(self) -> int:
    """Of the result."""
    return sum(array.bytes for array in self.arrays)

  @property
  def cycles(self) -> int | None:
    """The compiler's own estimate, which it makes while it generates code."""
    match = _CYCLES.search(self.attributes)
    return int(match[1]) if match else None

  @property
  def op_name(self) -> str:
    """Where in the traced program it comes from."""
    return (self.attribute('op_name') or '').strip('"').replace("\\'", "'")

  def attribute(self, name: str) -> str | None:
    """The text of one plain attribute."""
    match = re.search(rf'\b{name}=("[^"]*"|[^,}}\s]+)', self.attributes)
    return match[1] if match else None


@dataclasses.dataclass(frozen=True)
class Module:
  """A program: instructions by computation, in the order in which they are scheduled."""

  computations: Mapping[str, Sequence[Instruction]]
  entry: str

  @functools.cached_property
  def _by_name(self) -> Mapping[str, Mapping[str, Instruction]]:
    return {
        name: {instruction.name: instruction for instruction in instructions}
        for name, instructions in self.computations.items()
    }

  def operands(self, computation: str, instruction: Instruction) -> list[Instruction]:
    """The instructions whose results `instruction` takes."""
    known = self._by_name[computation]
    return [known[name] for name in instruction.operands if name in known]

  def root(self, computation: str) -> Instruction:
    """The result of a computation; others may be scheduled behind it."""
    return next(one for one in self.computations[computation] if one.is_root)


def parse(text: str) -> Module:
  """The module that `text` prints.

  Raises:
    ValueError: the text has no entry computation.
  """
  computations: dict[str, list[Instruction]] = {}
  entry, current = None, None
  for line in text.splitlines():
    if line.startswith((' ', '\t')):
      match = _INSTRUCTION.match(line)
      if match and current is not None:
        current.append(_instruction(match[2], match[3], bool(match[1])))
      continue
    match = _HEADER.match(line)
    if match:
      current = computations.setdefault(match[2], [])
      entry = match[2] if match[1] else entry
  if entry is None:
    raise ValueError('hlo: the text has no ENTRY computation; is it an HLO module?')
  return Module(computations, entry)


def _instruction(name: str, text: str, is_root: bool) -> Instruction:
  if text.startswith('('):
    end = _closing(text, 0) + 1
  else:
    end = text.index(' ')
  shape, rest = text[:end], text[end:].lstrip()
  opcode = _OPCODE.match(rest)[1]
  close = _closing(rest, len(opcode))
  arguments = rest[len(opcode) + 1:close]
  return Instruction(
      name, opcode, _arrays(shape), tuple(_NAME.findall(arguments)), arguments, rest[close + 1:],
      is_root,
  )


def _closing(text: str, start: int) -> int:
  """Where the parenthesis at `start` closes."""
  depth = 0
  for match in re.compile('[()]').finditer(text, start):
    depth += 1 if match[0] == '(' else -1
    if not depth:
      return match.start()
  raise ValueError(f'hlo: parentheses do not match in {text[:80]!r}')


def _arrays(text: str) -> tuple[Array, ...]:
  arrays = []
  for dtype, dims, layout in _ARRAY.findall(text):
    space = re.search(r'S\((\d+)\)', layout)
    sizes = tuple(int(size) for size in dims.split(',') if size)
    arrays.append(Array(dtype, sizes, int(space[1]) if space else 0))
  return tuple(arrays)
