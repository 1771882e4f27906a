"""Stacks of equal layers, scanned or one by one, rematerialised under a policy by name."""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
from flax.linen import partitioning
import jax
import jax.numpy as jnp
import numpy as np

# 'qkv' and 'attn' are the names that Attention gives to its projections and its result, 'mlp' that
# of what the activation of an ungated MLP reads: one product saves another there, in a gated MLP it
# takes twice the memory.
_POLICIES = {
    'full': jax.checkpoint_policies.nothing_saveable,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'names_mlp': jax.checkpoint_policies.save_only_these_names('qkv', 'attn', 'mlp'),
    'names': jax.checkpoint_policies.save_only_these_names('qkv', 'attn'),
}
REMAT_POLICIES = ('none', *_POLICIES)


def stack(
    parent: nn.Module,
    layer: type[nn.Module],
    fields: dict[str, Any],
    x: jax.Array,
    *constants: jax.Array | None,
    per_layer: Sequence[np.ndarray] = (),
    count: int,
    name: str,
    scan: bool,
    remat_policy: str,
) -> jax.Array:
  """Runs `x` through `count` layers inside a compact method of `parent`.

  Args:
    parent: the module whose submodules the layers become.
    layer: class of a layer, which maps (x, *constants, *own) to (x, None).
    fields: attributes of every layer.
    x: what each layer changes.
    *constants: what every layer reads.
    per_layer: what only one layer reads each, as arrays [count, ...] whose rows are its `own`.
    count: number of layers.
    name: name of the scanned stack, whose parameters have the layer axis at position 1 (T5X's
      layout) and whose compile time does not grow with depth; unscanned layers are `layers_0`...
    scan: scanned or one by one.
    remat_policy: what the backward pass finds saved: 'none' keeps everything, 'full' recomputes
      each layer, 'dots' saves matrix products, 'names' saves the attention projections,
      'names_mlp' also what the activation of an ungated MLP reads.
  """
  if remat_policy != 'none':
    # Inside a scan XLA cannot merge the recomputation with the original, so the barrier
    # against it would only cost.
    layer = partitioning.remat(layer, prevent_cse=not scan, policy=_POLICIES[remat_policy])
  if not scan:
    for i in range(count):
      x, _ = layer(**fields, name=f'layers_{i}')(x, *constants, *(own[i] for own in per_layer))
    return x
  # Outside init the parameters may only be read, so they are no output of the scan.
  params_axis = 1 if parent.is_mutable_collection('params') else partitioning.ScanIn(1)
  scanned = partitioning.scan_with_axes(
      layer,
      variable_axes={'params': params_axis, 'cache': 0, 'cross': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(nn.broadcast,) * len(constants) + (0,) * len(per_layer),
      length=count,
      # One or two layers cost less unrolled than the loop around them.
      unroll=count if count <= 2 else 1,
      axis_name='layers',
  )
  x, _ = scanned(**fields, name=name)(x, *constants, *map(jnp.asarray, per_layer))
  return x


def check_remat_policy(name: str) -> None:
  """Raises ValueError when `name` is no remat policy."""
  if name not in REMAT_POLICIES:
    raise ValueError(f'remat_policy is {name!r}; choose one of {", ".join(REMAT_POLICIES)}')
