"""The programs of a run on shapes alone: the training step and the decoding of actions, lowered.

No array is made, so that a laptop lowers what a pod runs.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any

import jax
from jax.interpreters import partial_eval
import jax.numpy as jnp
import optax

from rt2_train.training import metrics
from rt2_train.training import optimizers
from rt2_train.training import partitioning
from rt2_train.training import state as state_lib
from rt2_train.training import step as step_lib


@dataclasses.dataclass(frozen=True)
class Batch:
  """What one step reads, see `VisionLanguageModel.batch_shapes`."""

  batch_size: int
  inputs_length: int
  targets_length: int
  num_images: int = 1


@dataclasses.dataclass(frozen=True)
class Training:
  """What else a training step is made of, see train.train."""

  learning_rate: Callable[[jax.Array], jax.Array] | float = 1e-3
  num_microbatches: int = 1
  frozen: Sequence[str] = ()
  frozen_dtype: str | None = None
  ema_decay: float | None = None


@dataclasses.dataclass(frozen=True)
class Program:
  """A program before compilation, and what tracing tells of it.

  Attributes:
    lowered: for the devices of the mesh.
    mesh: sizes of the mesh axes.
    coordinates: of each partition's chip, in partition order: places on the torus, then the slice.
    parameters: number of.
    model_flops: matrix products that the mathematics asks for, all devices.
    hardware_flops: with what remat computes again.
    argument_bytes: per device.
  """

  lowered: jax.stages.Lowered
  mesh: dict[str, int]
  coordinates: list[list[int]]
  parameters: int
  model_flops: float
  hardware_flops: float
  argument_bytes: int


def train_step(
    model: Any,
    batch: Batch,
    partitioner: partitioning.Partitioner,
    training: Training = Training(),
) -> Program:
  """The step that `train.train` runs; its model FLOPs are three forward passes.

  Raises:
    ValueError: the model has no optimizer, or batch or parameters do not divide over the mesh.
  """
  if model.optimizer_def is None:
    raise ValueError('precompile: the model has no optimizer_def to train with; bind OPTIMIZER')
  partitioner.check_batch(batch.batch_size, training.num_microbatches)
  shapes = _placed(model.batch_shapes(**dataclasses.asdict(batch)), partitioner.batch_sharding)
  key = jax.eval_shape(lambda: jax.random.key(0))
  key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=partitioner.replicated)
  frozen, optimizer_def = training.frozen, model.optimizer_def
  if frozen:
    optimizer_def = optimizers.Frozen(optimizer_def, frozen, training.frozen_dtype)
  rate = training.learning_rate
  step = step_lib.make_train_step(
      model, rate if callable(rate) else lambda step: jnp.float32(rate), frozen=frozen,
      num_microbatches=training.num_microbatches, ema_decay=training.ema_decay,
  )  # pyformat: disable
  with partitioner.scope():
    planned, _ = state_lib.plan(
        model, optimizer_def, partitioner, shapes, training.ema_decay is not None)
    optimizers.check_patterns(planned.optimizer.target, frozen)
    forward = lambda params, batch: model.loss_with_rows(params, batch, None)[0]
    params, arguments = planned.optimizer.target, (planned, shapes, key)
    places = (state_lib.placements(planned), partitioner.replicated)
    traced = jax.jit(step, donate_argnums=0, out_shardings=places).trace(*arguments)
    model_flops = metrics.model_flops(forward, params, shapes)
    return _program(traced, params, arguments, partitioner, model_flops, _flops(traced))


def decode_step(
    model: Any, batch: Batch, partitioner: partitioning.Partitioner, decode_length: int
) -> Program:
  """Reads prompts and writes `decode_length` tokens, with parameters in bfloat16 as in serving.

  Rows are spread over the devices where their number allows, and replicated where not.
  """
  # Without targets, what is left of a training batch are the prompts.
  shapes = model.batch_shapes(**dataclasses.asdict(batch) | {'targets_length': 1})
  try:
    partitioner.check_batch(batch.batch_size)
    rows = partitioner.batch_sharding
  except ValueError:
    rows = partitioner.replicated
  shapes = _placed(shapes, rows)

  def predict(params, batch):
    return model.predict_batch_with_aux(params, batch, decode_length=decode_length)

  nothing_to_train = optimizers.Optax(optax.identity())
  with partitioner.scope():
    planned, _ = state_lib.plan(model, nothing_to_train, partitioner, shapes, False)
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=leaf.sharding),
        planned.optimizer.target,
    )
    traced = jax.jit(predict, out_shardings=partitioner.replicated).trace(params, shapes)
    # Nothing is computed twice in decoding.
    flops = _flops(traced, decode_length)
    return _program(traced, params, (params, shapes), partitioner, flops, flops)


def device_bytes(*trees: Any) -> int:
  """Bytes that the fullest device holds of trees of arrays, or of shapes with shardings."""
  return sum(
      math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(trees)
  )


def memory_line(compiled: jax.stages.Compiled, state: Any, batch: Any) -> str:
  """What a compiled step will hold on each device, by the sum that precompile makes too."""
  parts = {
      'state': device_bytes(state),
      'batch': device_bytes(batch),
      'temporaries': compiled.memory_analysis().temp_size_in_bytes,
  }
  said = ', '.join(f'{name} {_readable(count)}' for name, count in parts.items())
  return f'{_readable(sum(parts.values()))} per device: {said}'


def _readable(count: int) -> str:
  return f'{count / 2**30:.3g} GiB' if count >= 2**30 else f'{count / 2**20:.3g} MiB'


def _program(traced, params, arguments, partitioner, model_flops, hardware_flops) -> Program:
  devices = list(partitioner.mesh.devices.flat)
  return Program(
      lowered=traced.lower(),
      mesh=dict(partitioner.mesh.shape),
      coordinates=[[*device.coords, getattr(device, 'slice_index', 0)] for device in devices],
      parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
      model_flops=model_flops,
      hardware_flops=hardware_flops,
      argument_bytes=device_bytes(arguments),
  )


def _flops(traced: jax.stages.Traced, while_trips: int = 1) -> float:
  # What nobody reads is traced, but not compiled.
  jaxpr = traced.jaxpr.jaxpr
  jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return metrics.matmul_flops(jaxpr, while_trips)


def _placed(shapes: Mapping[str, Any], sharding: Any) -> dict[str, jax.ShapeDtypeStruct]:
  return {
      name: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
      for name, shape in shapes.items()
  }
