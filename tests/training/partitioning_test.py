"""Meshes, placements and what does not divide; two devices are simulated in train_test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_train.training import partitioning

P = jax.sharding.PartitionSpec


def test_all_devices_are_data_by_default():
  assert dict(partitioning.Partitioner().mesh.shape) == {'data': jax.device_count(), 'model': 1}


def test_rules_say_which_mesh_axis_a_name_is_split_over():
  fsdp = partitioning.Partitioner('fsdp')
  axes = P('embed', 'layers', 'mlp')
  assert fsdp.sharding('wi', (16, 2, 24), axes).spec == P('data', None, 'model')
  # A mesh axis is used once per array: the rule that comes first gets it.
  assert fsdp.sharding('projection', (8, 16), P('vit_embed', 'embed')).spec == P(None, 'data')
  plain = partitioning.Partitioner('data_parallel')
  assert plain.sharding('wi', (16, 2, 24), axes).spec == P(None, None, None)
  assert plain.sharding('step', (), None).spec == P()


def test_unknown_rules_are_named():
  with pytest.raises(ValueError, match="unknown rules 'zero'; known are"):
    partitioning.Partitioner('zero')


def test_devices_must_divide_by_model_parallelism():
  with pytest.raises(ValueError, match='devices do not divide by model_parallelism=7'):
    partitioning.Partitioner(model_parallelism=7)


def test_a_batch_must_divide_by_microbatches():
  message = 'BATCH_SIZE 8 does not divide .* x 3 microbatches; use a multiple of 3'
  with pytest.raises(ValueError, match=message):
    partitioning.Partitioner(devices=jax.devices()[:1]).check_batch(8, 3)


def test_a_batch_is_put_on_the_devices_unchanged():
  rows = np.arange(12).reshape(4, 3)
  placed = partitioning.Partitioner(devices=jax.devices()[:1]).batch({'x': rows})
  assert placed['x'].sharding.spec == P('data')
  np.testing.assert_array_equal(placed['x'], rows)


def test_the_parameter_table_adds_up():
  params = {'a': {'kernel': jnp.ones((4, 8))}, 'b': jnp.ones(8)}
  axes = {'a': {'kernel': P('embed', 'mlp')}, 'b': P('mlp')}
  partitioner = partitioning.Partitioner(devices=jax.devices()[:1])
  shardings = partitioner.shardings(params, axes)
  table = partitioning.parameter_table(params, axes, shardings).splitlines()
  assert table[1].split() == ['a/kernel', '(4,', '8)', 'embed,', 'mlp', '(None,', 'None)', '128']
  assert table[-2:] == ['parameters: 40', 'bytes per device: 160']
