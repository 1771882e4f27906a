"""Meshes, placements and what does not divide; sharding_test computes under all rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_train.training import partitioning

P = jax.sharding.PartitionSpec


class Devices:
  """A partitioner over a mesh of that many devices, which need not exist to be reasoned about."""

  def __new__(cls, rules, data, model=1, replica=1, small=0):
    partitioner = partitioning.Partitioner(rules, devices=jax.devices()[:1], small=small)
    partitioner.mesh = jax.sharding.AbstractMesh((replica, data, model), partitioning.MESH_AXES)
    return partitioner


def test_all_devices_are_data_by_default():
  mesh = partitioning.Partitioner().mesh
  assert dict(mesh.shape) == {'replica': 1, 'data': jax.device_count(), 'model': 1}


MLP = P('embed', 'layers', 'mlp')


@pytest.mark.parametrize('rules, spec', [
    ('data_parallel', P(None, None, None)),
    ('fsdp', P(('data', 'model'), None, None)),
    ('fsdp_two_stage', P(('data',), None, ('model',))),
    ('hsdp', P(('data',), None, None)),
    ('fsdp_tensor', P(('data',), None, ('model',))),
])
def test_rules_say_which_mesh_axes_a_name_is_cut_over(rules, spec):
  assert Devices(rules, 4, 2).sharding('wi', (16, 2, 24), MLP).spec == spec
  # Slices hold copies.
  assert Devices(rules, 4, 2, replica=2).sharding('wi', (16, 2, 24), MLP).spec == spec


def test_a_mesh_axis_is_used_once_per_array_by_the_rule_that_comes_first():
  fsdp = Devices('fsdp', 8)
  assert fsdp.sharding('projection', (8, 16), P('vit_embed', 'embed')).spec == P(None, ('data',))


def test_a_dimension_that_does_not_divide_leaves_its_mesh_axes_to_another():
  """ViT-G's width of 1664 over 256 devices."""
  fsdp = Devices('fsdp', 256, small=2**16)
  spec = fsdp.sharding('wi', (1664, 48, 8192), P('vit_embed', 'layers', 'mlp')).spec
  assert spec == P(None, None, ('data',))
  assert Devices('fsdp', 128).sharding(
      'wi', (1664, 48, 8192), P('vit_embed', 'layers', 'mlp')).spec == P(('data',), None, None)


def test_a_large_parameter_that_cannot_be_cut_is_refused_with_its_sizes():
  message = (
      r"query \(1664, 48, 16, 104\) does not divide .* 1664 along 'vit_embed' over 256 .* 16 along "
      r"'heads' over 256")
  with pytest.raises(ValueError, match=message):
    Devices('fsdp', 256, small=2**16).sharding(
        'query', (1664, 48, 16, 104), P('vit_embed', 'layers', 'heads', 'kv'))
  # Two mesh axes divide it.
  spec = Devices('fsdp_two_stage', 64, 4).sharding(
      'query', (1664, 48, 16, 104), P('vit_embed', 'layers', 'heads', 'kv')).spec
  assert spec == P(('data',), None, ('model',), None)


def test_small_parameters_are_held_whole_however_many_layers_are_stacked():
  scale = P('embed', 'layers')
  assert Devices('fsdp', 8, small=2**16).sharding('scale', (4096, 48), scale).spec == P()
  assert Devices('fsdp', 8).sharding('scale', (4096, 48), scale).spec == P(('data',), None)


def test_rows_are_spread_over_all_devices_but_those_that_share_a_matrix():
  assert Devices('fsdp', 4, 2).batch_sharding.spec == P(('replica', 'data', 'model'))
  assert Devices('fsdp_tensor', 4, 2).batch_sharding.spec == P(('replica', 'data'))
  with pytest.raises(ValueError, match='BATCH_SIZE 12 does not divide over 8 devices'):
    Devices('fsdp', 4, 2).check_batch(12)
  Devices('fsdp_tensor', 4, 2).check_batch(12)


def test_features_are_cut_where_devices_share_a_matrix():
  assert Devices('fsdp_tensor', 4, 2).is_cut(('heads', 'kv'))
  assert not Devices('fsdp_tensor', 4, 2).is_cut(('embed',))
  assert not Devices('fsdp_tensor', 8, 1).is_cut(('heads', 'kv'))
  assert not Devices('fsdp', 4, 2).is_cut(('heads', 'kv', 'batch'))


def test_unknown_rules_are_named():
  with pytest.raises(ValueError, match="unknown rules 'zero'; known are"):
    partitioning.Partitioner('zero')


def test_devices_must_divide_by_model_parallelism():
  with pytest.raises(ValueError, match='devices do not divide by slices=1 x model_parallelism=7'):
    partitioning.Partitioner(model_parallelism=7)


def test_a_batch_must_divide_by_microbatches():
  message = 'BATCH_SIZE 8 does not divide .* x 3 microbatches; use a multiple of 3'
  with pytest.raises(ValueError, match=message):
    partitioning.Partitioner(devices=jax.devices()[:1]).check_batch(8, 3)


def test_a_batch_is_put_on_the_devices_unchanged():
  rows = np.arange(12).reshape(4, 3)
  placed = partitioning.Partitioner(devices=jax.devices()[:1]).batch({'x': rows})
  assert placed['x'].sharding.spec == P(('replica', 'data', 'model'))
  np.testing.assert_array_equal(placed['x'], rows)


def test_the_parameter_table_adds_up():
  params = {'a': {'kernel': jnp.ones((4, 8))}, 'b': jnp.ones(8)}
  axes = {'a': {'kernel': P('embed', 'mlp')}, 'b': P('mlp')}
  partitioner = partitioning.Partitioner(devices=jax.devices()[:1])
  shardings = partitioner.shardings(params, axes)
  table = partitioning.parameter_table(params, axes, shardings).splitlines()
  assert table[1].split() == ['a/kernel', '(4,', '8)', 'embed,', 'mlp', '(-,', '-)', '128']
  assert table[-2:] == ['parameters: 40', 'bytes per device: 160']
