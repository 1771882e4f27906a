"""TPU slices by name, and their devices for a mesh without any TPU.

The TPU compiler (libtpu) knows every slice that exists and compiles for it on any machine.
"""

from collections.abc import Sequence
import dataclasses
import importlib.util
import math

import jax
from jax.experimental import topologies as jax_topologies

from rt2_train.training import chips

@dataclasses.dataclass(frozen=True)
class Topology:
  """One or several equal slices.

  Attributes:
    chip: what it is made of.
    shape: chips along each axis of the torus of one slice.
    slices: how many slices, joined by the data-center network.
  """

  chip: chips.Chip
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
  if kind not in chips.CHIPS:
    raise ValueError(
        f'topology {name!r}: unknown chip {kind!r}; known are {", ".join(chips.CHIPS)}, written like '
        "'v5p:4x4x4'"
    )
  chip = chips.CHIPS[kind]
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
