"""TPU slices by name: what their chips can do, and their devices for a mesh without any TPU.

The TPU compiler (libtpu) knows every slice that exists and compiles for it on any machine.

Sources. Peak FLOP/s, HBM bandwidth and torus: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}. The
clock follows from the peak, at the FLOPs per cycle that the compiler counts with: 2^18 in v4 and
v5p, 2^17 in v5e, 2^19 in v6e. ICI and DCN bandwidth: "How to Scale Your Model"
(jax-ml.github.io/scaling-book, part 2), what a link sustains rather than its data sheet. Usable
HBM: what the compiler calls the capacity when a program exceeds it.
"""

from collections.abc import Sequence
import dataclasses
import importlib.util
import math

import jax
from jax.experimental import topologies as jax_topologies

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


@dataclasses.dataclass(frozen=True)
class Topology:
  """One or several equal slices.

  Attributes:
    chip: what it is made of.
    shape: chips along each axis of the torus of one slice.
    slices: how many slices, joined by the data-center network.
  """

  chip: Chip
  shape: tuple[int, ...]
  slices: int = 1

  @property
  def name(self) -> str:
    """Such as 'v5p:4x4x4', without the number of slices."""
    return f'{self.chip.name}:{"x".join(map(str, self.shape))}'

  @property
  def chips(self) -> int:
    """Chips of all slices together."""
    return math.prod(self.shape) * self.slices

  @property
  def wraps(self) -> tuple[bool, ...]:
    """Which torus axes close to a ring: all of whole cubes, in flat tori the sides of a pod."""
    if self.chip.torus_rank == 3:
      return (all(length % 4 == 0 for length in self.shape),) * 3
    return tuple(length == 16 for length in self.shape)

  def environment(self) -> dict[str, str]:
    """What libtpu must find in the environment of a process, before it loads, to compile for this.

    Without these it looks for the TPU of this machine and for its neighbours in the network.
    """
    prefix, count = self.chip.accelerator
    return {
        'JAX_PLATFORMS': 'cpu',
        'TPU_SKIP_MDS_QUERY': '1',
        'TPU_ACCELERATOR_TYPE': f'{prefix}-{count * math.prod(self.shape)}',
        'TPU_WORKER_HOSTNAMES': 'localhost',
        # Several compilers may run at once: none of them touches a TPU.
        'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
        'TPU_STDERR_LOG_LEVEL': '3',
        'TPU_MIN_LOG_LEVEL': '3',
    }

  def devices(self) -> Sequence[jax.Device]:
    """One device per chip, to lower and compile for; needs libtpu and `environment()`.

    Raises:
      ValueError: libtpu is not installed or does not know the slice.
    """
    check_libtpu()
    # libtpu knows no rings unless it is told.
    options = {'wrap': (*self.wraps, False)[:3]}
    if self.chip.name == 'v4':
      options['chip_config_name'] = 'megacore'  # Else every core is a device of its own.
    if math.prod(self.shape) == 1 and self.chip.torus_rank == 3:
      options['chips_per_host_bounds'] = (1, 1, 1)  # Hosts have four chips unless told.
    if self.slices > 1:
      options['num_slices'] = self.slices
    try:
      devices = jax_topologies.get_topology_desc(self.name, 'tpu', **options).devices
    except jax.errors.JaxRuntimeError as error:
      raise ValueError(f'topology {self.name}: libtpu refuses it: {error}') from error
    if len(devices) != self.chips:
      raise ValueError(
          f'topology {self.name} with {self.slices} slices: libtpu made {len(devices)} devices of '
          f'{self.chips} chips; use the libtpu of constraints.txt'
      )
    return devices


def parse(name: str, slices: int = 1) -> Topology:
  """The topology called `name`, such as 'v5p:4x4x4'.

  Raises:
    ValueError: no such chip or slice.
  """
  if slices < 1:
    raise ValueError(f'SLICES is {slices}; use 1 or more')
  kind, _, shape = name.partition(':')
  if kind not in CHIPS:
    raise ValueError(
        f'topology {name!r}: unknown chip {kind!r}; known are {", ".join(CHIPS)}, written like '
        "'v5p:4x4x4'"
    )
  chip = CHIPS[kind]
  if shape not in chip.shapes:
    raise ValueError(
        f'topology {name!r}: {kind} has no slice {shape!r}; it has {", ".join(chip.shapes)}'
    )
  return Topology(chip, tuple(map(int, shape.split('x'))), slices)


def larger(topology: Topology) -> Sequence[Topology]:
  """The slices of the same chip with more chips, smallest first."""
  chip, slices = topology.chip, topology.slices
  known = [parse(f'{chip.name}:{shape}', slices) for shape in chip.shapes]
  return sorted((t for t in known if t.chips > topology.chips), key=lambda t: t.chips)


def check_libtpu() -> None:
  """Raises ValueError if the TPU compiler is not installed."""
  if importlib.util.find_spec('libtpu') is None:
    raise ValueError(
        'libtpu, the TPU compiler, is not installed; install it with '
        "`pip install -e '.[tpu]' -c constraints.txt`"
    )
