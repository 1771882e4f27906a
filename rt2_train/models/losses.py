"""Next-token cross-entropy with z-loss and label smoothing, per target token, and its normalisers.

Shape suffixes: B batch, T target length, V vocabulary.
"""

import math
from typing import NamedTuple

from clu import metrics as clu_metrics
import jax
import jax.numpy as jnp

_FACTORS = ('NUM_REAL_TARGET_TOKENS', 'NUM_TOTAL_TARGET_TOKENS', 'AVERAGE_PER_SEQUENCE')

Metrics = dict[str, clu_metrics.Metric]


class TokenLosses(NamedTuple):
  """Per target token, not weighted: float32 [B, T] each."""

  cross_entropy_BxT: jax.Array
  z_loss_BxT: jax.Array
  correct_BxT: jax.Array


class RowLosses(NamedTuple):
  """Per row, weighted by the loss weights and summed: float32 [B] each.

  Attributes:
    loss_B: cross-entropy + z-loss.
    weight_B: sum of the loss weights.
    correct_B: weight of the targets that were predicted.
    z_loss_B: the z-loss alone.
  """

  loss_B: jax.Array
  weight_B: jax.Array
  correct_B: jax.Array
  z_loss_B: jax.Array


def token_losses(
    logits_BxTxV: jax.Array, targets_BxT: jax.Array, *, z_loss: float, label_smoothing: float
) -> TokenLosses:
  """Cross-entropy in nats, z_loss * log(Z)^2, and whether the best token is the target.

  The entropy of the smoothed target is subtracted, so that a perfect answer costs 0 (T5X).
  """
  # Sum over a comparison instead of a gather: no collective when the vocabulary is sharded.
  vocab = logits_BxTxV.shape[-1]
  is_target_BxTxV = jnp.arange(vocab, dtype=targets_BxT.dtype) == targets_BxT[..., None]
  log_z_BxT = jax.nn.logsumexp(logits_BxTxV, axis=-1)
  score_BxT = jnp.sum(jnp.where(is_target_BxTxV, logits_BxTxV, 0.0), axis=-1)
  if label_smoothing:
    low = label_smoothing / (vocab - 1)
    high = 1.0 - label_smoothing
    entropy = -(high * math.log(high) + (vocab - 1) * low * math.log(low))
    mean_BxT = (high - low) * score_BxT + low * jnp.sum(logits_BxTxV, axis=-1)
    cross_entropy_BxT = log_z_BxT - mean_BxT - entropy
  else:
    cross_entropy_BxT = log_z_BxT - score_BxT
  best_BxT = jnp.argmax(jax.lax.stop_gradient(logits_BxTxV), axis=-1)
  return TokenLosses(
      cross_entropy_BxT,
      z_loss * jnp.square(log_z_BxT),
      (best_BxT == targets_BxT).astype(jnp.float32),
  )


def row_sums(losses: TokenLosses, weights_BxT: jax.Array) -> RowLosses:
  """Sums the token losses of each row under the loss weights (0 or 1, or fractions)."""
  weights_BxT = weights_BxT.astype(jnp.float32)
  total = lambda x_BxT: jnp.sum(x_BxT * weights_BxT, axis=-1)
  z_loss_B = total(losses.z_loss_BxT)
  return RowLosses(
      loss_B=total(losses.cross_entropy_BxT) + z_loss_B,
      weight_B=jnp.sum(weights_BxT, axis=-1),
      correct_B=total(losses.correct_BxT),
      z_loss_B=z_loss_B,
  )


def normalizer(weights_BxT: jax.Array, factor: str | float | None) -> jax.Array:
  """What the loss of a batch is divided by; additive over microbatches for the named factors.

  `factor` is T5X's LOSS_NORMALIZING_FACTOR: None (1), a number, 'NUM_REAL_TARGET_TOKENS' (sum of
  the weights), 'NUM_TOTAL_TARGET_TOKENS' (B x T) or 'AVERAGE_PER_SEQUENCE' (rows with a target).
  """
  weights_BxT = weights_BxT.astype(jnp.float32)
  if factor == 'NUM_REAL_TARGET_TOKENS':
    return jnp.sum(weights_BxT)
  if factor == 'NUM_TOTAL_TARGET_TOKENS':
    return jnp.float32(weights_BxT.size)
  if factor == 'AVERAGE_PER_SEQUENCE':
    return jnp.sum(jnp.sum(weights_BxT, axis=-1) > 0).astype(jnp.float32)
  return jnp.float32(1.0 if factor is None else factor)


def normalized_sum(
    value_B: jax.Array, weight_B: jax.Array, normalizer: jax.Array, factor: str | float | None
) -> jax.Array:
  """The sum of `value_B` over the batch, divided by `normalizer`; 0 for a batch without targets."""
  if factor == 'AVERAGE_PER_SEQUENCE':
    value_B = value_B / jnp.where(weight_B > 0, weight_B, 1.0)
  return jnp.sum(value_B) / jnp.where(normalizer > 0, normalizer, 1.0)


def loss_and_metrics(
    rows: RowLosses, normalizer: jax.Array, factor: str | float | None, *, tokens: int
) -> tuple[jax.Array, Metrics]:
  """The loss of a batch, and its metrics under T5X's names.

  `loss`, `cross_ent_loss` and `z_loss` are averages over steps, all others over tokens; `tokens`
  is B x T, padding included.
  """
  total = lambda value_B: normalized_sum(value_B, rows.weight_B, normalizer, factor)
  loss, z_loss = total(rows.loss_B), total(rows.z_loss_B)
  weight = jnp.sum(rows.weight_B)
  per_step = lambda value: clu_metrics.Average(value, jnp.float32(1.0))
  per_token = lambda value_B, count: clu_metrics.Average(jnp.sum(value_B), jnp.float32(count))
  return loss, {
      'loss': per_step(loss),
      'cross_ent_loss': per_step(loss - z_loss),
      'z_loss': per_step(z_loss),
      'accuracy': per_token(rows.correct_B, weight),
      'loss_per_nonpadding_target_token': per_token(rows.loss_B, weight),
      'loss_per_all_target_tokens': per_token(rows.loss_B, tokens),
      'cross_ent_loss_per_all_target_tokens': per_token(rows.loss_B - rows.z_loss_B, tokens),
      'z_loss_per_all_target_tokens': per_token(rows.z_loss_B, tokens),
      'non_padding_fraction/loss_weights': per_token(rows.weight_B, tokens),
  }


def check_factor(factor: str | float | None) -> None:
  """Raises ValueError when `factor` is an unknown name or not positive."""
  if isinstance(factor, str):
    if factor not in _FACTORS:
      raise ValueError(
          f'loss_normalizing_factor is {factor!r}; choose a number, None or one of '
          f'{", ".join(_FACTORS)}'
      )
  elif factor is not None and factor <= 0:
    raise ValueError(f'loss_normalizing_factor is {factor}; it divides the loss, give > 0')
