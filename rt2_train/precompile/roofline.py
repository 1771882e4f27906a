"""How long a scheduled program must take: its matrix products, and the transfers they do not hide.

Two clocks are laid over one schedule. By the first, matrix products run at the chip's peak and HBM
at its full rate beside them, so that what follows is a bound: no run can be faster. By the second,
every instruction takes the cycles that the compiler estimated while it generated code.

A transfer is exposed where the program waits for it: all of it if it is synchronous (also the
reductions that the compiler fuses with their scattering, and what runs on the SparseCore, whose
progress the schedule does not show); else what of it is left after the work between its start and
its end. Transfers over one torus axis run one after the other.
"""

from collections.abc import Callable, Iterator
import collections
import dataclasses

from rt2_train.precompile import collectives
from rt2_train.precompile import hlo
from rt2_train.precompile import hlo_work
from rt2_train.precompile import replica_groups
from rt2_train.training import chips

_BRANCHES = ('branch_computations', 'true_computation', 'false_computation')
# The compiler spreads some collectives over the fusions that run meanwhile; the first and the last
# piece stand alone, with these marks.
_STARTS = 'custom_call_target="AsyncCollectiveStart"'
_ENDS = 'custom_call_target="AsyncCollectiveDone"'


@dataclasses.dataclass
class Timeline:
  """One chip's step.

  Attributes:
    compute: seconds of work; by the first clock, of matrix products.
    memory: seconds that HBM is busy; by the second clock part of the work.
    exposed: seconds of waiting, by (kind of collective, mesh axes).
    bytes: that the chip sends, by the same.
    busy: seconds of every wire.
  """

  compute: float = 0.0
  memory: float = 0.0
  exposed: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  bytes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  busy: collections.Counter = dataclasses.field(default_factory=collections.Counter)

  @property
  def seconds(self) -> float:
    """As scheduled: work and waiting."""
    return max(self.compute, self.memory) + sum(self.exposed.values())

  @property
  def overlapped_seconds(self) -> float:
    """If nothing but the wires and the work themselves were in the way."""
    return max(self.compute, self.memory, *self.busy.values())

  def add(self, other: 'Timeline', times: int) -> None:
    self.compute += times * other.compute
    self.memory += times * other.memory
    for mine, its in (
        (self.exposed, other.exposed), (self.bytes, other.bytes), (self.busy, other.busy)
    ):
      for key, value in its.items():
        mine[key] += times * value


def bound(module: hlo.Module, wires: collectives.Interconnect, chip: chips.Chip) -> Timeline:
  """The step with matrix products at the chip's peak."""
  flops, moved = hlo_work.flops(module), hlo_work.hbm_bytes(module)
  seconds = lambda computation, name: (
      flops[computation][name] / chip.peak_flops,
      moved[computation][name] / chip.hbm_bytes_per_second,
  )
  return _Reader(module, wires, seconds).read(module.entry)


def estimate(
    module: hlo.Module, wires: collectives.Interconnect, chip: chips.Chip
) -> Timeline:
  """The step by the compiler's cycles, which the text has once code was generated."""
  cycles = {
      computation: {one.name: one.cycles or 0 for one in instructions}
      for computation, instructions in module.computations.items()
  }
  seconds = lambda computation, name: (cycles[computation][name] / chip.clock_hz, 0.0)
  return _Reader(module, wires, seconds).read(module.entry)


class _Reader:
  """Walks the schedule of each computation once; loops multiply."""

  def __init__(
      self,
      module: hlo.Module,
      wires: collectives.Interconnect,
      seconds: Callable[[str, str], tuple[float, float]],
  ):
    self._module, self._wires, self._seconds = module, wires, seconds
    self._done: dict[str, Timeline] = {}

  def read(self, computation: str) -> Timeline:
    if computation not in self._done:
      self._done[computation] = self._walk(computation)
    return self._done[computation]

  def _walk(self, computation: str) -> Timeline:
    line, queue = Timeline(), _Queue()
    for instruction in self._module.computations[computation]:
      inner = self._inner(computation, instruction)
      if inner is not None:
        line.add(*inner)
        queue.run(*inner)
        continue
      started, waited, ended = self._moves(computation, instruction, queue)
      if instruction.opcode not in collectives.KINDS:
        compute, memory = self._seconds(computation, instruction.name)
        line.compute += compute
        line.memory += memory
        queue.now += compute
      for key, transfer in [*started, *((None, transfer) for transfer in waited)]:
        line.bytes[transfer.kind, transfer.axis] += transfer.bytes
        for wire in transfer.wires:
          line.busy[wire] += transfer.seconds
        queue.start(key, transfer)
        if key is None:
          queue.wait(key, line.exposed)
      for key in ended:
        queue.wait(key, line.exposed)
    # What is still under way ends with the computation.
    for key in list(queue.under_way):
      queue.wait(key, line.exposed)
    return line

  def _inner(
      self, computation: str, instruction: hlo.Instruction
  ) -> tuple[Timeline, int] | None:
    """The timeline of a loop's body, a branch or a call, and how often it runs."""
    if instruction.opcode == 'while':
      trips = hlo_work.trips(self._module, computation, instruction)
      return self.read(instruction.called['body'][0]), trips
    if instruction.opcode == 'call':
      return self.read(instruction.called['to_apply'][0]), 1
    if instruction.opcode == 'conditional':
      branches = [name for key in _BRANCHES for name in instruction.called.get(key, ())]
      return max(map(self.read, branches), key=lambda line: line.seconds), 1
    return None

  def _moves(
      self, computation: str, instruction: hlo.Instruction, queue: '_Queue'
  ) -> tuple[list[tuple[str, collectives.Transfer]], list[collectives.Transfer], list[str]]:
    """Transfers that start here by name, those that are waited for here, and names that end."""
    opcode, name = instruction.opcode, instruction.name
    if opcode in collectives.KINDS:
      return [], [self._transfer(computation, instruction)], []
    if opcode.removesuffix('-start') in collectives.KINDS:
      return [(name, self._transfer(computation, instruction))], [], []
    rendezvous = instruction.attribute('_xla_host_transfer_rendezvous')
    if opcode in ('send', 'recv') and rendezvous:
      # Hosts carry it to other slices; each of the two has an end of its own.
      queue.aliases[name] = rendezvous if opcode == 'recv' else name
      transfers = [(rendezvous, self._between_slices(computation, instruction))]
      return transfers if opcode == 'send' else [], [], []
    if opcode in ('async-update', 'get-tuple-element') or opcode.endswith('-done'):
      source = queue.aliases.get(instruction.operands[0], instruction.operands[0])
      if opcode.endswith('-done'):
        return [], [], [key for key in queue.under_way if key.split('/')[0] == source]
      queue.aliases[name] = source
      return [], [], []
    called = instruction.called.get('calls', ())
    inside = dict(move for each in called for move in self._inside(each))
    if not inside:
      return [], [], []
    if any(_marks(self._module, each, _ENDS) for each in called):
      return [], [], list(inside)
    new = {key: transfer for key, transfer in inside.items() if key not in queue.under_way}
    if any(_marks(self._module, each, _STARTS) for each in called):
      return list(new.items()), [], []
    if opcode == 'async-start' and 'sparsecore' not in instruction.attributes:
      return [(f'{name}/{key}', transfer) for key, transfer in inside.items()], [], []
    return [], list(new.values()), []

  def _inside(self, computation: str) -> Iterator[tuple[str, collectives.Transfer]]:
    """Collectives in a computation and in what it calls, by channel."""
    for instruction in self._module.computations[computation]:
      if instruction.opcode.removesuffix('-start') in collectives.KINDS:
        channel = instruction.attribute('channel_id') or instruction.name
        yield f'channel {channel}', self._transfer(computation, instruction)
      for key in ('calls', 'called_computations'):
        for each in instruction.called.get(key, ()):
          yield from self._inside(each)

  def _transfer(self, computation: str, instruction: hlo.Instruction) -> collectives.Transfer:
    kind = instruction.opcode.removesuffix('-start')
    if kind == 'all-reduce' and 'all-reduce-scatter' in computation:
      kind = 'reduce-scatter'
    size = sum(operand.bytes for operand in self._module.operands(computation, instruction))
    groups = replica_groups.parse(instruction.attributes, self._wires.partitions)
    return self._wires.transfer(kind, size, groups)


  def _between_slices(
      self, computation: str, instruction: hlo.Instruction
  ) -> collectives.Transfer:
    kind = instruction.attribute('_xla_megascale_transfer_type').strip('"')
    kind = kind.lower().replace('_', '-').replace('one-to-one', 'collective-permute')
    size = sum(operand.bytes for operand in self._module.operands(computation, instruction))
    return self._wires.transfer(kind, size, [self._wires.counterparts])


class _Queue:
  """The clock of one computation, and what its wires are busy with."""

  def __init__(self):
    self.now = 0.0
    self.under_way: dict[str | None, tuple[float, collectives.Transfer]] = {}
    self.aliases: dict[str, str] = {}
    self._free: dict[int | str, float] = collections.defaultdict(float)

  def run(self, line: Timeline, times: int) -> None:
    """A loop, whose own transfers go before those that are under way on the same wires."""
    for key, (end, transfer) in self.under_way.items():
      if end > self.now:
        later = max((line.busy[wire] for wire in transfer.wires), default=0.0)
        self.under_way[key] = (end + times * later, transfer)
    for wire, seconds in line.busy.items():
      self._free[wire] = max(self._free[wire], self.now) + times * seconds
    self.now += times * (line.compute + sum(line.exposed.values()))

  def start(self, key: str | None, transfer: collectives.Transfer) -> None:
    end = max([self.now, *(self._free[wire] for wire in transfer.wires)]) + transfer.seconds
    self._free.update(dict.fromkeys(transfer.wires, end))
    self.under_way[key] = (end, transfer)

  def wait(self, key: str | None, exposed: collections.Counter) -> None:
    end, transfer = self.under_way.pop(key)
    exposed[transfer.kind, transfer.axis] += max(end - self.now, 0.0)
    self.now = max(end, self.now)


def _marks(module: hlo.Module, computation: str, mark: str) -> bool:
  return any(mark in instruction.attributes for instruction in module.computations[computation])
