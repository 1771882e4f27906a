"""Which device holds what: a mesh of devices, and rules from logical axis names to mesh axes.

The mesh has three axes. `data` and `model` are T5X's: examples and fully sharded parameters along
`data`, parts of a matrix along `model`. `replica` counts slices of a pod, which only a data-centre
network connects: each slice holds all parameters, and gradients are summed over it once per step.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import math
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from rt2_train.models import sharding as sharding_lib
from rt2_train.training import optimizers

MESH_AXES = ('replica', 'data', 'model')

MeshAxes = tuple[str, ...]

# Widths that an embedding dimension is kept apart over, and what stands in where it does not
# divide (ViT-G's 1664 over 256 devices).
_WIDTHS = ('embed', 'vit_embed')
_SPARE = ('mlp', 'vocab', 'heads', 'kv', 'patch', 'vit_positions')
_PARTS = ('mlp', 'heads', 'vocab')


@dataclasses.dataclass(frozen=True)
class Rules:
  """How parameters are kept and activations are spread.

  Attributes:
    parameters: (logical name, mesh axes) in order of precedence. A dimension that does not divide
      is passed over, and a later rule may use its mesh axes; an array uses a mesh axis once.
    activations: the same for activations.
    gather: mesh axes over which a weight is brought together before use, a stage each. Gradients
      go back the same way, summed and scattered.
  """

  parameters: tuple[tuple[str, MeshAxes], ...]
  activations: tuple[tuple[str, MeshAxes], ...]
  gather: tuple[MeshAxes, ...] = ()


def _over(mesh_axes: MeshAxes, *names: str) -> tuple[tuple[str, MeshAxes], ...]:
  return tuple((name, mesh_axes) for name in names)


RULES: dict[str, Rules] = {
    # Every device holds all parameters.
    'data_parallel': Rules((), _over(MESH_AXES, 'batch')),
    # Every parameter is cut over all devices of a slice and brought together layer by layer.
    'fsdp': Rules(
        _over(('data', 'model'), *_WIDTHS, *_SPARE), _over(MESH_AXES, 'batch'),
        gather=(('data', 'model'),)),
    # Also cut over all devices, one dimension over each mesh axis, and brought together one mesh
    # axis after the other: each stage runs along its own dimensions of a 3-D torus.
    'fsdp_two_stage': Rules(
        (*_over(('data',), *_WIDTHS), *_over(('model',), *_PARTS), *_over(('data',), *_SPARE)),
        _over(MESH_AXES, 'batch'), gather=(('model',), ('data',))),
    # Cut over `data` only; the devices along `model` hold copies.
    'hsdp': Rules(
        _over(('data',), *_WIDTHS, *_SPARE), _over(MESH_AXES, 'batch'), gather=(('data',),)),
    # Matrices stay cut over `model` while they are used (Megatron, T5X); the rest is as in fsdp.
    'fsdp_tensor': Rules(
        (*_over(('model',), *_PARTS), *_over(('data',), *_WIDTHS, *_SPARE)),
        (*_over(('replica', 'data'), 'batch'), *_over(('model',), *_PARTS)),
        gather=(('data',),)),
}

# Entries per layer below which a parameter is held whole: to gather it would cost more than it
# saves.
_SMALL = 2**16


class DoesNotDivide(ValueError):
  """A parameter cannot be kept as the rules say over this mesh; another mesh may do."""


class Partitioner:
  """A mesh and a set of rules."""

  def __init__(
      self,
      rules: str = 'data_parallel',
      model_parallelism: int = 1,
      slices: int = 1,
      devices: Sequence[jax.Device] | None = None,
      small: int = _SMALL,
  ):
    """Lays the devices out as [replica, data, model].

    Args:
      rules: a name in `RULES`.
      model_parallelism: size of the `model` axis; the rest of each slice is `data`.
      slices: size of the `replica` axis.
      devices: all devices of all processes by default.
      small: entries per layer below which a parameter is held whole.

    Raises:
      ValueError: the rules are unknown, or the devices do not divide.
    """
    if rules not in RULES:
      raise ValueError(f'partitioner: unknown rules {rules!r}; known are {sorted(RULES)}')
    devices = jax.devices() if devices is None else list(devices)
    parts = slices * model_parallelism
    if parts < 1 or len(devices) % parts:
      raise ValueError(
          f'partitioner: {len(devices)} devices do not divide by slices={slices} x '
          f'model_parallelism={model_parallelism}; use divisors'
      )
    shape = (slices, len(devices) // parts, model_parallelism)
    self.mesh = jax.sharding.Mesh(_mesh(shape, devices), MESH_AXES)
    self.rules_name, self.rules = rules, RULES[rules]
    self._small = small

  @contextlib.contextmanager
  def scope(self) -> Iterator[None]:
    """Tracing inside gives activations and weights of models the places that the rules say."""
    with sharding_lib.scope(self):
      yield

  @property
  def replicated(self) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec())

  @property
  def batch_sharding(self) -> NamedSharding:
    """Of every array of a batch: rows over all mesh axes that the rules spread them over."""
    return NamedSharding(self.mesh, PartitionSpec(dict(self.rules.activations)['batch']))

  def sharding(self, name: str, shape: Sequence[int], axes: Sequence[str] | None) -> NamedSharding:
    """Where one parameter, or an array like it, is kept.

    Args:
      name: of the array, for the error.
      shape: of the array.
      axes: a logical name per dimension; None replicates it.

    Raises:
      DoesNotDivide: a large array has names with rules, but none of its dimensions divides.
    """
    if axes is None or self._is_small(shape, axes):
      return self.replicated
    spec = self._resolve(self.rules.parameters, shape, axes)
    ruled = [(axis, over) for axis, over in self.rules.parameters if axis in axes]
    if ruled and not any(spec) and max(self._size(over) for _, over in ruled) > 1:
      sizes = dict(zip(axes, shape))
      wanted = ', '.join(
          f'{sizes[axis]} along {axis!r} over {self._size(over)} of {" x ".join(over)}'
          for axis, over in dict.fromkeys(ruled))
      raise DoesNotDivide(
          f'partitioner: {name} {tuple(shape)} does not divide over the mesh '
          f'{dict(self.mesh.shape)}: {wanted}; change model_parallelism, or use rules that cut it '
          'over fewer devices (hsdp, fsdp_two_stage, fsdp_tensor)'
      )
    return NamedSharding(self.mesh, spec)

  def shardings(self, shapes: Any, axes: Any) -> Any:
    """A tree like `shapes` with shardings; `axes` has logical axes, or None, at its leaves."""
    is_axes = lambda x: x is None or isinstance(x, PartitionSpec)
    return jax.tree_util.tree_map_with_path(
        lambda path, a, s: self.sharding(jax.tree_util.keystr(path), s.shape, a),
        axes, shapes, is_leaf=is_axes,
    )  # pyformat: disable

  def activation(self, x: jax.Array, axes: Sequence[str]) -> jax.Array:
    """See `models.sharding.Placement`; a dimension that does not divide is left whole."""
    spec = self._resolve(self.rules.activations, x.shape, axes)
    return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

  def weight(self, w: jax.Array, axes: Sequence[str]) -> jax.Array:
    """See `models.sharding.Placement`."""
    # What does not divide has been refused by its name, where parameters are planned.
    small = self._is_small(w.shape, axes)
    spec = PartitionSpec() if small else self._resolve(self.rules.parameters, w.shape, axes)
    kept = NamedSharding(self.mesh, spec)
    stages, spec = [kept], mesh_axes(kept, w.ndim)
    for dropped in self.rules.gather:
      spec = [tuple(axis for axis in over if axis not in dropped) for over in spec]
      stage = NamedSharding(self.mesh, PartitionSpec(*spec))
      if not stage.is_equivalent_to(stages[-1], w.ndim):
        stages.append(stage)
    return w if len(stages) == 1 else _gather(tuple(stages), w)

  def is_cut(self, axes: Sequence[str]) -> bool:
    """See `models.sharding.Placement`."""
    return any(
        name in axes and self._size(over) > 1
        for name, over in self.rules.activations if name != 'batch')

  def check_batch(self, batch_size: int, num_microbatches: int = 1) -> None:
    """Raises ValueError unless every device gets the same number of rows of every microbatch."""
    (over,) = mesh_axes(self.batch_sharding, 1)
    count = self._size(over)
    if batch_size % (count * num_microbatches):
      parts = f' x {num_microbatches} microbatches' if num_microbatches > 1 else ''
      raise ValueError(
          f'BATCH_SIZE {batch_size} does not divide over {count} devices of mesh axis '
          f'{" x ".join(axis for axis in over if self._size((axis,)) > 1)}{parts}; use a multiple '
          f'of {count * num_microbatches}'
      )

  def batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """The global batch of which `batch` is this process's rows, in process order."""
    return {
        name: jax.make_array_from_process_local_data(self.batch_sharding, np.asarray(rows))
        for name, rows in batch.items()
    }

  def _is_small(self, shape: Sequence[int], axes: Sequence[str]) -> bool:
    layers = math.prod(size for size, axis in zip(shape, axes) if axis == 'layers')
    return math.prod(shape) // max(layers, 1) < self._small

  def _resolve(self, rules, shape: Sequence[int], axes: Sequence[str]) -> PartitionSpec:
    spec, used = [None] * len(shape), set()
    for name, over in rules:
      over = tuple(axis for axis in over if self.mesh.shape[axis] > 1)
      if name not in axes or not over or used & set(over):
        continue
      at = tuple(axes).index(name)
      if spec[at] is None and shape[at] % self._size(over) == 0:
        spec[at] = over
        used |= set(over)
    return PartitionSpec(*spec)

  def _size(self, mesh_axes: MeshAxes) -> int:
    return math.prod(self.mesh.shape[axis] for axis in mesh_axes)


def _mesh(shape: tuple[int, int, int], devices: Sequence[jax.Device]) -> np.ndarray:
  slices, *within = shape
  if slices > 1 and hasattr(devices[0], 'slice_index'):
    return mesh_utils.create_hybrid_device_mesh(
        (1, *within), (slices, 1, 1), devices, allow_split_physical_axes=True)
  # Simulated slices are runs of devices.
  return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def mesh_axes(sharding: NamedSharding, rank: int) -> list[MeshAxes]:
  """The mesh axes that each dimension is cut over; a spec may name one, and leave out the last."""
  entries = [*sharding.spec, *[None] * (rank - len(sharding.spec))]
  return [(entry,) if isinstance(entry, str) else tuple(entry or ()) for entry in entries]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(stages: tuple[NamedSharding, ...], w: jax.Array) -> jax.Array:
  """Moves `w` through the shardings of `stages`; its gradient comes back the other way.

  The gradient needs saying: the transpose of a constraint asks for a whole gradient, which turns
  every reduce-scatter into an all-reduce of twice the bytes.
  """
  for i, stage in enumerate(stages):
    w = jax.lax.with_sharding_constraint(w, stage)
    # Else the compiler joins the stages into one.
    w = jax.lax.optimization_barrier(w) if 0 < i < len(stages) - 1 else w
  return w


def _gather_forward(stages, w):
  return _gather(stages, w), None


def _gather_backward(stages, _, gradient):
  for i, stage in reversed(list(enumerate(stages[:-1]))):
    gradient = jax.lax.with_sharding_constraint(gradient, stage)
    gradient = jax.lax.optimization_barrier(gradient) if i > 0 else gradient
  return (gradient,)


_gather.defvjp(_gather_forward, _gather_backward)


def parameter_table(params: Any, axes: Any, shardings: Any) -> str:
  """One line per parameter: name, shape, logical axes, sharding, bytes per device; and the sums."""
  flat_axes, flat_shardings = optimizers.flatten(axes), optimizers.flatten(shardings)
  rows = [('parameter', 'shape', 'logical axes', 'sharding', 'bytes per device')]
  count = total = 0
  for name, leaf in optimizers.flatten(params).items():
    sharding = flat_shardings[name]
    held = int(np.prod(sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
    count, total = count + leaf.size, total + held
    cut = mesh_axes(sharding, len(leaf.shape))
    spec = '(' + ', '.join('x'.join(over) or '-' for over in cut) + ')'
    names = ', '.join(map(str, flat_axes[name]))
    rows.append((name, str(tuple(leaf.shape)), names, spec, f'{held:,}'))
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  pad = lambda row: '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
  lines = [pad(row) for row in rows]
  return '\n'.join([*lines, '', f'parameters: {count:,}', f'bytes per device: {total:,}', ''])
