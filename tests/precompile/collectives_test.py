"""What collectives move and how long it takes, against numbers worked out by hand."""

import itertools

import pytest

from rt2_train.precompile import collectives
from rt2_train.precompile import topologies

GB = 1e9


def wires(name: str, mesh: dict[str, int], slices: int = 1) -> collectives.Interconnect:
  """Partitions along the torus in order, the last axis first, then slices."""
  topology = topologies.parse(name, slices)
  shape = (*topology.shape, 1)[:3]
  places = itertools.product(range(slices), *map(range, shape))
  return collectives.Interconnect(topology, mesh, [[*place, part] for part, *place in places])


def test_a_gather_sends_the_part_to_all_others():
  moved = wires('v5e:2x2', {'data': 4}).transfer('all-gather', 1000, [[0, 1, 2, 3]])
  assert (moved.kind, moved.axis, moved.bytes) == ('all-gather', 'data', 3000)
  # Two torus axes of two chips, no rings: one link each way.
  assert moved.seconds == pytest.approx(3000 / (2 * 45 * GB))
  assert moved.wires == {0, 1}


def test_a_reduction_sends_twice_what_its_scattering_sends():
  both = wires('v5e:2x2', {'data': 4})
  reduce = both.transfer('all-reduce', 1000, [[0, 1, 2, 3]])
  scatter = both.transfer('reduce-scatter', 1000, [[0, 1, 2, 3]])
  assert (reduce.bytes, scatter.bytes) == (1500, 750)
  assert reduce.seconds == 2 * scatter.seconds


def test_a_ring_uses_both_directions():
  mesh = {'data': 16, 'model': 16}
  ring = wires('v5e:16x16', mesh).transfer('all-gather', 1, [list(range(16))])
  line = wires('v5e:8x16', {'data': 16, 'model': 8}).transfer(
      'all-gather', 1, [list(range(0, 128, 16))])
  assert ring.axis == 'model' and ring.seconds == pytest.approx(15 / (90 * GB))
  assert line.axis == 'data' and line.seconds == pytest.approx(7 / (45 * GB))


def test_an_axis_of_the_mesh_that_spans_two_of_the_torus_is_faster_and_counts_once():
  mesh = {'data': 16, 'model': 4}
  moved = wires('v5p:4x4x4', mesh).transfer('all-gather', 1, [list(range(0, 64, 4))])
  assert (moved.axis, moved.bytes, moved.wires) == ('data', 15, {0, 1})
  assert moved.seconds == pytest.approx(15 / (2 * 180 * GB))


def test_a_group_over_two_mesh_axes_names_both():
  moved = wires('v5p:4x4x4', {'data': 16, 'model': 4}).transfer(
      'all-reduce', 64, [list(range(64))])
  assert (moved.axis, moved.bytes, moved.wires) == ('data+model', 126, {0, 1, 2})


def test_a_permutation_costs_its_longest_way():
  torus = wires('v5p:4x4x4', {'data': 64})
  step = torus.transfer('collective-permute', 90 * GB, [(0, 16), (48, 0)])  # Around the ring.
  far = torus.transfer('collective-permute', 90 * GB, [(0, 16), (0, 42)])  # Two, two and two on.
  assert (step.bytes, step.seconds, step.wires) == (90 * GB, 1.0, {0})
  assert (far.seconds, far.wires) == (6.0, {0, 1, 2})
  assert torus.transfer('collective-permute', 1000, [(3, 3)]).seconds == 0


def test_an_exchange_of_all_with_all_goes_a_quarter_around_each_ring():
  moved = wires('v5e:16x16', {'data': 16, 'model': 16}).transfer(
      'all-to-all', 1600, [list(range(16))])
  assert moved.bytes == 1500
  assert moved.seconds == pytest.approx(1500 * 4 / (90 * GB))


def test_slices_exchange_what_their_chips_have_summed():
  pods = wires('v5e:2x2', {'replica': 2, 'data': 4}, slices=2)
  moved = pods.transfer('all-reduce', 1000, [list(range(8))])
  assert moved.axis == 'replica+data'
  assert moved.bytes == 1500 + 250  # Within the slice; a quarter, to and fro, between the slices.
  assert moved.wires == {0, 1, collectives.DCN}
  assert moved.seconds == pytest.approx(1500 / (90 * GB) + 250 / 3.125e9)
  alone = pods.transfer('all-reduce', 1000, [[0, 4]])
  assert (alone.axis, alone.bytes, alone.wires) == ('replica', 1000, {collectives.DCN})


def test_a_group_of_one_moves_nothing():
  moved = wires('v5e:2x2', {'data': 4}).transfer('all-reduce', 1000, [[0], [1], [2], [3]])
  assert (moved.bytes, moved.seconds, moved.axis) == (0, 0, '')
