"""Slices by name, and what is said of names that do not exist."""

import pytest

from rt2_train.precompile import topologies
from rt2_train.training import chips
from rt2_train.training import metrics


def test_a_name_gives_chips_shape_and_rings():
  pod = topologies.parse('v5p:4x4x8')
  assert (pod.chip.name, pod.shape, pod.chips, pod.name) == ('v5p', (4, 4, 8), 128, 'v5p:4x4x8')
  assert pod.wraps == (True, True, True)
  assert topologies.parse('v5e:8x16', slices=3).chips == 384


def test_rings_close_in_whole_cubes_and_along_the_sides_of_whole_pods():
  wraps = lambda name: topologies.parse(name).wraps
  assert wraps('v4:4x8x8') == (True, True, True)
  assert wraps('v5p:2x4x4') == (False, False, False)
  assert wraps('v5e:8x16') == (False, True)
  assert wraps('v6e:16x16') == (True, True)


@pytest.mark.parametrize(
    'name, message',
    [
        ('v7x:4x4', "unknown chip 'v7x'; known are v4, v5e, v5p, v6e"),
        ('v5p-128', "unknown chip 'v5p-128'"),
        ('v5p:4x4', r"v5p has no slice '4x4'; it has 1x1x1, .*, 4x4x4, 4x4x8"),
        ('v5e:32x16', "v5e has no slice '32x16'"),  # libtpu would take it; nobody sells it.
    ],
)
def test_an_unknown_slice_is_refused_with_those_that_exist(name, message):
  with pytest.raises(ValueError, match=message):
    topologies.parse(name)


def test_slices_are_counted_from_one():
  with pytest.raises(ValueError, match='SLICES is 0'):
    topologies.parse('v5e:2x2', slices=0)


def test_larger_slices_of_the_chip_come_smallest_first():
  larger = topologies.larger(topologies.parse('v5e:4x8', slices=2))
  assert [(t.name, t.chips) for t in larger] == [
      ('v5e:8x8', 128), ('v5e:8x16', 256), ('v5e:16x16', 512)
  ]


def test_the_clock_times_the_work_of_a_cycle_is_the_peak():
  for name, flops in {'v4': 2**18, 'v5p': 2**18, 'v5e': 2**17, 'v6e': 2**19}.items():
    chip = chips.CHIPS[name]
    assert flops * chip.clock_hz == pytest.approx(chip.peak_flops, rel=0.01)


def test_live_devices_and_topologies_share_one_table_of_peaks():
  assert metrics.PEAK_FLOPS['TPU v5 lite'] == chips.CHIPS['v5e'].peak_flops == 197e12
  assert metrics.PEAK_FLOPS['TPU v4'] == 275e12
  assert metrics.PEAK_FLOPS['NVIDIA H200'] == 989e12


def test_a_missing_compiler_is_named_with_how_to_install_it(monkeypatch):
  monkeypatch.setattr(topologies.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r"pip install -e '\.\[tpu\]' -c constraints\.txt"):
    topologies.parse('v5e:1x1').devices()
