"""Programs on shapes: what tracing tells of them, and what they will hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_train.training import partitioning
from rt2_train.training import programs
from rt2_train.training import state as state_lib
from rt2_train.training import step as step_lib


def test_bytes_of_a_device_follow_the_shardings():
  partitioner = partitioning.Partitioner(devices=jax.devices()[:1])
  shape = lambda *dims, dtype: jax.ShapeDtypeStruct(dims, dtype, sharding=partitioner.replicated)
  tree = {'w': shape(3, 5, dtype=jnp.float32), 'b': [shape(7, dtype=jnp.bfloat16)]}
  assert programs.device_bytes(tree) == 3 * 5 * 4 + 7 * 2
  assert programs.device_bytes(tree, jnp.ones((2, 2), jnp.int32)) == 60 + 14 + 16


def test_the_line_before_the_first_step_sums_up_what_the_compiled_step_holds(tiny):
  partitioner, model = partitioning.Partitioner(), tiny.Model()
  batch = partitioner.batch(tiny.batch_of(0))
  with partitioner.scope():
    planned, _ = state_lib.plan(model, model.optimizer_def, partitioner, batch, False)
    step = step_lib.make_train_step(model, lambda step: jnp.float32(0.1))
    compiled = jax.jit(step, donate_argnums=0).lower(planned, batch, jax.random.key(0)).compile()
  line = programs.memory_line(compiled, planned, batch)
  memory = compiled.memory_analysis()
  state, rows = programs.device_bytes(planned), programs.device_bytes(batch)
  assert rows == sum(np.asarray(x).nbytes for x in batch.values())
  # XLA leaves out what this model does not read, and has the key.
  unread = batch['image_mask'].nbytes + batch['source'].nbytes
  assert state + rows - unread == pytest.approx(memory.argument_size_in_bytes, abs=16)
  total = state + rows + memory.temp_size_in_bytes
  assert line.startswith(f'{total / 2**20:.3g} MiB per device: state {state / 2**20:.3g} MiB')
  assert 'temporaries' in line
