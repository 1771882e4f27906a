"""Which device holds what: a mesh of devices, and rules from logical axis names to mesh axes.

The mesh has the axes `data` (examples) and `model` (parts of a matrix), as in T5X.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
from typing import Any

from flax import linen as nn
import jax
from jax.experimental import mesh_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from rt2_train.training import optimizers

# In order of precedence; an array uses a mesh axis once, and names without a rule are replicated.
RULES: dict[str, tuple[tuple[str, str], ...]] = {
    # Every device holds all parameters.
    'data_parallel': (('batch', 'data'),),
    # Wide dimensions over `model`, the embedding dimension over `data` (fully sharded parameters).
    'fsdp': (
        ('batch', 'data'),
        ('vocab', 'model'),
        ('mlp', 'model'),
        ('heads', 'model'),
        ('embed', 'data'),
        ('vit_embed', 'data'),
    ),
}


class Partitioner:
  """A mesh and a set of rules."""

  def __init__(
      self,
      rules: str = 'data_parallel',
      model_parallelism: int = 1,
      devices: Sequence[jax.Device] | None = None,
  ):
    """Lays the devices out as [data, model].

    Args:
      rules: a name in `RULES`.
      model_parallelism: size of the `model` axis; the rest of the devices is `data`.
      devices: all devices of all processes by default.

    Raises:
      ValueError: the rules are unknown, or the devices do not divide by `model_parallelism`.
    """
    if rules not in RULES:
      raise ValueError(f'partitioner: unknown rules {rules!r}; known are {sorted(RULES)}')
    devices = jax.devices() if devices is None else list(devices)
    if model_parallelism < 1 or len(devices) % model_parallelism:
      raise ValueError(
          f'partitioner: {len(devices)} devices do not divide by model_parallelism='
          f'{model_parallelism}; use a divisor'
      )
    shape = (len(devices) // model_parallelism, model_parallelism)
    self.mesh = jax.sharding.Mesh(mesh_utils.create_device_mesh(shape, devices), ('data', 'model'))
    self.rules = RULES[rules]

  @contextlib.contextmanager
  def scope(self) -> Iterator[None]:
    """Tracing inside gives the activations the model names their shardings."""
    with jax.set_mesh(self.mesh), nn.logical_axis_rules(self.rules):
      yield

  @property
  def replicated(self) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec())

  def sharding(self, name: str, shape: Sequence[int], axes: Sequence[str] | None) -> NamedSharding:
    """Where one array lives.

    Args:
      name: of the array, for the error.
      shape: of the array.
      axes: a logical name per dimension; None replicates it.

    Raises:
      ValueError: a sharded dimension does not divide by the size of its mesh axis.
    """
    if axes is None:
      return self.replicated
    spec = nn.logical_to_mesh_axes(tuple(axes), self.rules)
    for size, logical, mesh_axis in zip(shape, axes, spec):
      if mesh_axis is not None and size % self.mesh.shape[mesh_axis]:
        raise ValueError(
            f'partitioner: {name} has {size} entries along {logical!r}, which do not divide over '
            f'{self.mesh.shape[mesh_axis]} devices of mesh axis {mesh_axis!r}; change the mesh '
            "or use rules='data_parallel'"
        )
    return NamedSharding(self.mesh, spec)

  def shardings(self, shapes: Any, axes: Any) -> Any:
    """A tree like `shapes` with shardings; `axes` has logical axes, or None, at its leaves."""
    is_axes = lambda x: x is None or isinstance(x, PartitionSpec)
    return jax.tree_util.tree_map_with_path(
        lambda path, a, s: self.sharding(jax.tree_util.keystr(path), s.shape, a),
        axes, shapes, is_leaf=is_axes,
    )  # pyformat: disable

  def check_batch(self, batch_size: int, num_microbatches: int = 1) -> None:
    """Raises ValueError unless every device gets the same number of rows of every microbatch."""
    data = self.mesh.shape['data']
    if batch_size % (data * num_microbatches):
      parts = f' x {num_microbatches} microbatches' if num_microbatches > 1 else ''
      raise ValueError(
          f'BATCH_SIZE {batch_size} does not divide over {data} devices of mesh axis data{parts}; '
          f'use a multiple of {data * num_microbatches}'
      )

  def batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """The global batch of which `batch` is this process's rows, in process order."""
    sharding = NamedSharding(self.mesh, PartitionSpec('data'))
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(rows))
        for name, rows in batch.items()
    }


def parameter_table(params: Any, axes: Any, shardings: Any) -> str:
  """One line per parameter: name, shape, logical axes, sharding, bytes per device; and the sums."""
  flat_axes, flat_shardings = optimizers.flatten(axes), optimizers.flatten(shardings)
  rows = [('parameter', 'shape', 'logical axes', 'sharding', 'bytes per device')]
  count = total = 0
  for name, leaf in optimizers.flatten(params).items():
    sharding = flat_shardings[name]
    held = int(np.prod(sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
    count, total = count + leaf.size, total + held
    spec = '(' + ', '.join(str(axis) for axis in sharding.spec) + ')'
    names = ', '.join(map(str, flat_axes[name]))
    rows.append((name, str(tuple(leaf.shape)), names, spec, f'{held:,}'))
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  pad = lambda row: '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
  lines = [pad(row) for row in rows]
  return '\n'.join([*lines, '', f'parameters: {count:,}', f'bytes per device: {total:,}', ''])
