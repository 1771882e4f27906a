"""What the TPU compiler is told about matrix products."""

from flax import core
import jax
import jax.numpy as jnp
import pytest

from rt2_train.models import layers


@pytest.mark.parametrize('platform, barriers', [('tpu', 2), ('cpu', 0), ('cuda', 0)])
def test_gradients_around_a_product_are_finished_apart_on_tpus_only(platform, barriers):
  dense = layers.Dense((4,), ('embed', 'mlp'))
  x = jax.ShapeDtypeStruct((2, 3), jnp.float32)
  params = core.unfreeze(jax.eval_shape(dense.init, jax.random.key(0), x))['params']
  loss = lambda params, x: jnp.sum(dense.apply({'params': params}, x))
  traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(params, x)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  assert text.count('optimization_barrier') == barriers
