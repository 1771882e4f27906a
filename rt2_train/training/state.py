"""The training state before the first step: its shapes and places, and how a new one is made."""

from collections.abc import Mapping
from typing import Any

from flax import core
from flax import struct
from flax.linen import partitioning as flax_partitioning
import jax
import jax.numpy as jnp

from rt2_train.training import optimizers
from rt2_train.training import partitioning


class TrainState(struct.PyTreeNode):
  """Parameters with their optimizer's state, and their moving average if the run keeps one."""

  optimizer: optimizers.Optimizer
  ema: Any = None

  @property
  def step(self) -> jax.Array:
    return self.optimizer.state.step

  def at_step(self, step: jax.Array) -> 'TrainState':
    """This state with another count of steps."""
    counted = self.optimizer.state.replace(step=step)
    return self.replace(optimizer=self.optimizer.replace(state=counted))

  @property
  def evaluated_params(self) -> Any:
    """What is evaluated: the moving average where there is one."""
    return self.optimizer.target if self.ema is None else self.ema


def plan(
    model: Any,
    optimizer_def: optimizers.OptimizerDef,
    partitioner: partitioning.Partitioner,
    batch: Mapping[str, jax.Array],
    keep_ema: bool,
) -> tuple[TrainState, Any]:
  """Shapes and shardings of the state, and the logical axes of the parameters, computing nothing.

  Raises:
    ValueError: a parameter does not divide over the mesh, or the optimizer has no rule for it.
  """
  variables = core.unfreeze(
      jax.eval_shape(lambda key: _initial_variables(model, key, batch), jax.random.key(0))
  )
  axes = core.unfreeze(flax_partitioning.get_axis_names(variables['params_axes']))
  optimizer_def.set_param_axes(axes)
  params = jax.eval_shape(optimizer_def.stored, variables['params'])
  optimizer = jax.eval_shape(optimizer_def.create, params)
  shardings = partitioner.shardings(optimizer, optimizer_def.derive_logical_axes(optimizer, axes))
  optimizer = jax.tree.map(
      lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
      optimizer, shardings,
  )  # pyformat: disable
  return TrainState(optimizer, optimizer.target if keep_ema else None), axes


def random_params(
    model: Any, key: jax.Array, batch: Mapping[str, jax.Array], planned: TrainState
) -> Any:
  """Initial parameters, each made where it will live."""
  target = planned.optimizer.target

  def init(key):
    params = core.unfreeze(_initial_variables(model, key, batch)['params'])
    return jax.tree.map(lambda param, kept: param.astype(kept.dtype), params, target)

  return jax.jit(init, out_shardings=placements(target))(key)


def new_state(
    optimizer_def: optimizers.OptimizerDef, params: Any, planned: TrainState
) -> TrainState:
  """The state of step 0 around `params`."""
  init = jax.jit(optimizer_def.init_state, out_shardings=placements(planned.optimizer.state))
  # A copy: the step gives its buffers back, and must not be handed one twice.
  ema = None if planned.ema is None else jax.tree.map(jnp.copy, params)
  return TrainState(optimizers.Optimizer(optimizer_def, state=init(params), target=params), ema)


def placements(planned: Any) -> Any:
  """The shardings of a tree of shapes."""
  return jax.tree.map(lambda leaf: leaf.sharding, planned)


def _initial_variables(model, key, batch):
  return model.get_initial_variables(
      key,
      {name: rows.shape for name, rows in batch.items()},
      {name: rows.dtype for name, rows in batch.items()},
  )
