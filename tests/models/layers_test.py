"""What the TPU compiler is told about matrix products."""

from flax import core
import jax
import jax.numpy as jnp
import pytest

from rt2_train.models import layers
from rt2_train.models import sharding


@pytest.mark.parametrize('platform, barriers', [('tpu', 2), ('cpu', 0), ('cuda', 0)])
def test_gradients_around_a_product_are_finished_apart_on_tpus_only(platform, barriers):
  assert _lowered_gradient(platform).count('optimization_barrier') == barriers


def test_gradients_of_what_is_shared_are_added_up_before_they_are_sent():
  class Shared:
    weight = activation = staticmethod(lambda x, axes: x)
    is_cut = staticmethod(lambda axes: 'mlp' in axes)

  with sharding.scope(Shared()):
    assert _lowered_gradient('tpu').count('optimization_barrier') == 1


def _lowered_gradient(platform: str) -> str:
  dense = layers.Dense((4,), ('embed', 'mlp'))
  x = jax.ShapeDtypeStruct((2, 3), jnp.float32)
  params = core.unfreeze(jax.eval_shape(dense.init, jax.random.key(0), x))['params']
  loss = lambda params, x: jnp.sum(dense.apply({'params': params}, x))
  traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(params, x)
  return traced.lower(lowering_platforms=(platform,)).as_text()
