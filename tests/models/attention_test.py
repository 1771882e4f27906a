"""Relative positions are T5's, and masks, norms and caches do what attention promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_train.models import attention


@pytest.mark.parametrize('distance, bidirectional, expected', [
    (0, True, 0), (-1, True, 1), (1, True, 17), (-7, True, 7), (-8, True, 8), (-200, True, 15),
    (200, True, 31), (-15, False, 15), (-16, False, 16), (-127, False, 31), (-200, False, 31),
    (5, False, 0),
])
def test_buckets_are_exact_when_near_and_logarithmic_when_far(distance, bidirectional, expected):
  assert attention.bucket(np.array([distance]), bidirectional).item() == expected


@pytest.mark.parametrize('bidirectional', [True, False])
@pytest.mark.parametrize('queries, keys', [(7, 7), (3, 40), (40, 3), (1, 1)])
def test_the_bias_of_a_pair_is_the_table_at_the_bucket_of_its_distance(
    queries, keys, bidirectional):
  table_HxR = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
  bias = attention.RelativePositions(2, bidirectional).apply(
      {'params': {'rel_embedding': table_HxR}}, queries, keys)
  distance = np.arange(keys)[None] - np.arange(queries)[:, None]
  np.testing.assert_array_equal(bias[0], table_HxR[:, attention.bucket(distance, bidirectional)])


def test_scores_have_no_scale_of_their_own_and_masked_keys_get_no_weight(tiny):
  rng = np.random.default_rng(1)
  x = rng.normal(size=(2, 5, 8)).astype(np.float32)
  mask = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, 1]], bool)[:, None, None]
  module = attention.Attention(heads=2, head_dim=3)
  params = tiny.make_params(module.init, x, x)
  y = module.apply({'params': params}, x, x, None, mask)

  q, k, v = (np.einsum('ble,ehd->blhd', x, params[n]['kernel']) for n in ('query', 'key', 'value'))
  weights = np.exp(np.einsum('bqhd,bkhd->bhqk', q, k)) * mask
  weights /= weights.sum(-1, keepdims=True)
  expected = np.einsum('bhqk,bkhd,hde->bqe', weights, v, params['out']['kernel'])
  np.testing.assert_allclose(y, expected, atol=1e-5)


def test_a_row_without_any_key_is_finite(tiny):
  x = jnp.ones((1, 2, 4))
  module = attention.Attention(heads=1, head_dim=4)
  params = tiny.make_params(module.init, x, x)
  y = module.apply({'params': params}, x, x, None, jnp.zeros((1, 1, 1, 2), bool))
  assert np.isfinite(y).all()


def test_with_qk_norm_the_size_of_the_query_kernel_does_not_matter(tiny):
  x = np.random.default_rng(2).normal(size=(1, 4, 8)).astype(np.float32)
  module = attention.Attention(heads=2, head_dim=4, qk_norm='rmsnorm')
  params = tiny.make_params(module.init, x, x)
  assert params['query_norm']['scale'].shape == params['key_norm']['scale'].shape == (4,)
  larger = {**params, 'query': {'kernel': params['query']['kernel'] * 50}}
  np.testing.assert_allclose(
      module.apply({'params': larger}, x, x), module.apply({'params': params}, x, x), atol=1e-4)


def test_the_initial_query_kernel_holds_the_scale_that_scores_lack():
  x = jnp.zeros((1, 1, 256))
  shared = jax.nn.initializers.variance_scaling(1 / 64, 'fan_in', 'truncated_normal')
  params = attention.Attention(heads=4, head_dim=64, query_init=shared).init(
      jax.random.key(0), x, x)['params']
  ratio = np.std(params['query']['kernel']) / np.std(params['key']['kernel'])
  assert ratio == pytest.approx(1 / 8, rel=0.02)
