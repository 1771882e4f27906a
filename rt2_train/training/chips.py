"""What TPU chips can do, by kind.

Sources. Peak FLOP/s, HBM bandwidth and torus: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}. The
clock follows from the peak, at the FLOPs per cycle that the compiler counts with: 2^18 in v4 and
v5p, 2^17 in v5e, 2^19 in v6e. ICI and DCN bandwidth: "How to Scale Your Model"
(jax-ml.github.io/scaling-book, part 2), what a link sustains rather than its data sheet. Usable
HBM: what the compiler calls the capacity when a program exceeds it.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind of TPU chip.

  Attributes:
    name: as in topology names.
    device_kinds: what jax calls it.
    peak_flops: dense bfloat16 FLOP/s.
    hbm_bytes: what a program may use.
    hbm_bytes_per_second: between HBM and the core.
    clock_hz: in which the compiler counts cycles.
    link_bytes_per_second: of one ICI link, one way.
    dcn_bytes_per_second: to other slices, per chip, one way.
    torus_rank: dimensions of the torus.
    accelerator: prefix of libtpu's accelerator type, and how many it counts per chip.
    shapes: slices that exist.
  """

  name: str
  device_kinds: tuple[str, ...]
  peak_flops: float
  hbm_bytes: float
  hbm_bytes_per_second: float
  clock_hz: float
  link_bytes_per_second: float
  dcn_bytes_per_second: float
  torus_rank: int
  accelerator: tuple[str, int]
  shapes: tuple[str, ...]


_FLAT_SHAPES = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')

CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip(
            'v4', ('TPU v4',), 275e12, 30.75 * GIB, 1228e9, 1.05e9, 45e9, 6.25e9, 3, ('v4', 2),
            ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8', '8x8x16'),
        ),
        Chip(
            'v5e', ('TPU v5 lite', 'TPU v5e'), 197e12, 15.75 * GIB, 819e9, 1.5e9, 45e9, 3.125e9,
            2, ('v5litepod', 1), _FLAT_SHAPES,
        ),
        Chip(
            'v5p', ('TPU v5', 'TPU v5p'), 459e12, 95.73 * GIB, 2765e9, 1.75e9, 90e9, 6.25e9,
            3, ('v5p', 2),
            ('1x1x1', '2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8',
             '8x8x16', '8x16x16', '16x16x16', '16x16x24'),
        ),
        Chip(
            'v6e', ('TPU v6 lite', 'TPU v6e'), 918e12, 31.24 * GIB, 1638e9, 1.75e9, 90e9, 12.5e9,
            2, ('v6e', 1), _FLAT_SHAPES,
        ),
    )
}  # pyformat: disable
