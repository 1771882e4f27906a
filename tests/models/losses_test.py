"""Losses against Optax and against their definition."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rt2_train.models import losses

RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(4, 5, 11)).astype(np.float32)
TARGETS = RNG.integers(0, 11, (4, 5)).astype(np.int32)
WEIGHTS = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])


def token_losses(z_loss=0.0, label_smoothing=0.0):
  return losses.token_losses(LOGITS, TARGETS, z_loss=z_loss, label_smoothing=label_smoothing)


def loss(factor):
  rows = losses.row_sums(token_losses(), jnp.asarray(WEIGHTS))
  normalizer = losses.normalizer(jnp.asarray(WEIGHTS), factor)
  return float(losses.normalized_sum(rows.loss_B, rows.weight_B, normalizer, factor))


def test_cross_entropy_z_loss_and_accuracy_are_those_of_optax():
  result = token_losses(z_loss=1e-2)
  expected = optax.softmax_cross_entropy_with_integer_labels(LOGITS, TARGETS)
  np.testing.assert_allclose(result.cross_entropy_BxT, expected, rtol=1e-5)
  log_z = np.log(np.exp(LOGITS.astype(np.float64)).sum(-1))
  np.testing.assert_allclose(result.z_loss_BxT, 1e-2 * log_z ** 2, rtol=1e-5)
  np.testing.assert_array_equal(result.correct_BxT, LOGITS.argmax(-1) == TARGETS)


def test_label_smoothing_costs_the_divergence_from_the_smoothed_target():
  smooth = np.full((4, 5, 11), 0.1 / 10)
  np.put_along_axis(smooth, TARGETS[..., None], 0.9, -1)
  log_p = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
  np.testing.assert_allclose(
      token_losses(label_smoothing=0.1).cross_entropy_BxT,
      (smooth * (np.log(smooth) - log_p)).sum(-1), rtol=1e-4)


def test_each_factor_divides_the_sum_by_what_it_says():
  per_token = np.asarray(token_losses().cross_entropy_BxT) * WEIGHTS
  assert loss(None) == pytest.approx(per_token.sum(), rel=1e-5)
  assert loss(50) == pytest.approx(per_token.sum() / 50, rel=1e-5)
  assert loss('NUM_REAL_TARGET_TOKENS') == pytest.approx(per_token.sum() / 8, rel=1e-5)
  assert loss('NUM_TOTAL_TARGET_TOKENS') == pytest.approx(per_token.sum() / 20, rel=1e-5)
  means = per_token[:3].sum(1) / [5, 2, 1]
  assert loss('AVERAGE_PER_SEQUENCE') == pytest.approx(means.mean(), rel=1e-5)


@pytest.mark.parametrize('factor', ['NUM_REAL_TARGET_TOKENS', 'AVERAGE_PER_SEQUENCE'])
def test_a_batch_without_targets_costs_nothing(factor):
  nothing = jnp.zeros((4, 5))
  rows = losses.row_sums(token_losses(), nothing)
  normalizer = losses.normalizer(nothing, factor)
  assert losses.normalized_sum(rows.loss_B, rows.weight_B, normalizer, factor) == 0


@pytest.mark.parametrize('factor', ['NUM_TOKENS', 0, -2.0])
def test_an_unknown_factor_is_refused(factor):
  with pytest.raises(ValueError, match='loss_normalizing_factor is'):
    losses.check_factor(factor)
