"""What a collective moves: bytes per chip, over which mesh axes and wires, in how many seconds.

Every collective is taken to run as rings along the torus axes that its group spans, in both
directions at once where an axis closes to a ring; the data-center network joins slices. These are
the costs of "How to Scale Your Model" (jax-ml.github.io/scaling-book, part 3): an upper bound on
speed, which no measurement here has confirmed.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from rt2_train.precompile import topologies

KINDS = (
    'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'ragged-all-to-all',
    'collective-permute', 'collective-broadcast',
)  # pyformat: disable
DCN = 'dcn'


@dataclasses.dataclass(frozen=True)
class Transfer:
  """One collective, once.

  Attributes:
    kind: one of `KINDS`.
    axis: the mesh axes it joins, such as 'data' or 'data+model'.
    bytes: that each chip sends.
    seconds: on wires that nothing else uses.
    wires: torus axes it occupies, and `DCN`.
  """

  kind: str
  axis: str
  bytes: float
  seconds: float
  wires: frozenset[int | str]


class Interconnect:
  """The wires of a topology, and which chip each partition of a program is."""

  def __init__(
      self,
      topology: topologies.Topology,
      mesh: Mapping[str, int],
      coordinates: Sequence[Sequence[int]],
  ):
    """Takes the sizes of the mesh axes and the chips of its devices, in the mesh's order.

    Args:
      topology: the chips.
      mesh: sizes by axis, in order.
      coordinates: per partition the place on the torus, then the slice.
    """
    self._topology, self._mesh = topology, mesh
    self._places = np.asarray(coordinates)
    self.partitions = len(self._places)

  @property
  def counterparts(self) -> list[int]:
    """The partitions that are in the place of the first, one of each slice."""
    same = np.all(self._places[:, :-1] == self._places[0, :-1], axis=1)
    return np.flatnonzero(same).tolist()

  def transfer(self, kind: str, size: int, groups: Sequence[Sequence[int]]) -> Transfer:
    """What `kind` costs.

    Args:
      kind: one of `KINDS`.
      size: bytes of the operand on one partition.
      groups: of partitions, all of one shape; for a collective-permute (source, target) pairs.
    """
    group = np.asarray(groups[0])
    if kind == 'collective-permute':
      return self._permute(size, np.asarray(groups))
    places = self._places[group]
    slices = len(np.unique(places[:, -1]))
    chips = len(group) // slices
    within, across = _SENT[kind](size, chips, slices)
    wires, bandwidth, hops = self._torus(places[places[:, -1] == places[0, -1]])
    seconds = within * (hops if 'all-to-all' in kind else 1) / bandwidth if within else 0.0
    if across:
      wires |= {DCN}
      seconds += across / self._topology.chip.dcn_bytes_per_second
    return Transfer(kind, self._axis(group), within + across, seconds, frozenset(wires))

  def _permute(self, size: int, pairs: np.ndarray) -> Transfer:
    """The longest way counts: all pairs send at once."""
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    if not pairs.size:
      return Transfer('collective-permute', '', 0.0, 0.0, frozenset())
    chip = self._topology.chip
    here, there = self._places[pairs[:, 0]], self._places[pairs[:, 1]]
    axis = self._axis(pairs[0])
    if np.any(here[:, -1] != there[:, -1]):
      return Transfer(
          'collective-permute', axis, size, size / chip.dcn_bytes_per_second, frozenset({DCN}))
    steps = np.abs(here - there)[:, :len(self._topology.shape)]
    for i, (length, wraps) in enumerate(zip(self._topology.shape, self._topology.wraps)):
      if wraps:
        steps[:, i] = np.minimum(steps[:, i], length - steps[:, i])
    hops = max(int(steps.sum(axis=1).max()), 1)
    wires = frozenset(int(i) for i in np.flatnonzero(steps.any(axis=0)))
    return Transfer(
        'collective-permute', axis, size, size * hops / chip.link_bytes_per_second, wires)

  def _torus(self, places: np.ndarray) -> tuple[set[int | str], float, float]:
    """The torus axes that chips of one slice span, bytes/s into each chip, and the mean way."""
    topology, wires, bandwidth, hops = self._topology, set(), 0.0, 0.0
    for axis, length in enumerate(topology.shape):
      spanned = len(np.unique(places[:, axis]))
      if spanned > 1:
        ring = topology.wraps[axis] and spanned == length
        wires.add(axis)
        bandwidth += topology.chip.link_bytes_per_second * (2 if ring else 1)
        hops += spanned / 4 if ring else spanned / 3
    return wires, bandwidth, hops

  def _axis(self, group: np.ndarray) -> str:
    """The mesh axes along which the partitions of a group differ."""
    indices = np.unravel_index(group, tuple(self._mesh.values()))
    return '+'.join(
        name for name, index in zip(self._mesh, indices) if len(np.unique(index)) > 1)


# Kind -> bytes that a chip sends within its slice and to other slices, of an operand of `size`
# bytes in a group of `slices` x `chips`. Slices exchange what their chips have first summed up.
_SENT = {
    'all-gather': lambda size, chips, slices: (
        size * slices * (chips - 1), size * (slices - 1)),
    'all-reduce': lambda size, chips, slices: (
        2 * size * (chips - 1) / chips, 2 * size / chips * (slices - 1) / slices),
    'reduce-scatter': lambda size, chips, slices: (
        size * (chips - 1) / chips, size / chips * (slices - 1) / slices),
    'all-to-all': lambda size, chips, slices: (
        size / slices * (chips - 1) / chips, size * (slices - 1) / slices),
    'collective-broadcast': lambda size, chips, slices: (
        size * (chips > 1), size * (slices > 1)),
}  # pyformat: disable
_SENT['ragged-all-to-all'] = _SENT['all-to-all']
