"""One training step and one evaluation step, as pure functions of (state, batch, key).

A microbatch's loss counts by its share of the whole batch's normaliser, so that a step does not
depend on how the batch is cut: T5X sums microbatch gradients, which multiplies token-normalised
ones by their number.

Shape suffixes: B rows of a batch, M microbatches, S sources.
"""

from collections.abc import Callable, Mapping, Sequence
import types
from typing import Any

from clu import metrics as clu_metrics
import jax
import jax.numpy as jnp

from rt2_train.training import optimizers
from rt2_train.training import state as state_lib

Metrics = dict[str, clu_metrics.Metric]
Batch = Mapping[str, jax.Array]

# Metrics of loss_with_rows that are averages over steps; all others merge over tokens.
_PER_STEP = ('loss', 'cross_ent_loss', 'z_loss')
_NO_SOURCES: Mapping[int, str] = types.MappingProxyType({})


def make_train_step(
    model: Any,
    learning_rate: Callable[[jax.Array], jax.Array],
    *,
    sources: Mapping[int, str] = _NO_SOURCES,
    num_microbatches: int = 1,
    frozen: Sequence[str] = (),
    ema_decay: float | None = None,
) -> Callable[[state_lib.TrainState, Batch, jax.Array], tuple[state_lib.TrainState, Metrics]]:
  """Returns train_step(state, batch, rng) -> (new state, metrics).

  A step whose loss or gradient is not finite counts, but changes nothing else.

  Args:
    model: has `loss_with_rows(params, batch, rng)`, which gives (loss, (metrics, rows)) where rows
      have loss_B, weight_B and correct_B, and `loss_normalizer(batch)`.
    learning_rate: of the step, counted from 0.
    sources: hash in batch['source'] -> name; each gets its own loss, accuracy and token count.
    num_microbatches: parts in which the batch is computed, one after the other.
    frozen: patterns of parameter paths that get no gradient.
    ema_decay: share of the old average kept at each step; None keeps no average.
  """

  def train_step(state, batch, rng):
    step = state.step
    # A function of seed and step alone, so that a resumed run drops the same units.
    rng = jax.random.fold_in(rng, step)
    trained, constant = optimizers.split(state.optimizer.target, frozen)
    normalizer = model.loss_normalizer(batch)

    def weighted_loss(trained, part, rng):
      params = optimizers.merge(trained, constant)
      loss, (metrics, rows) = model.loss_with_rows(params, part, rng)
      if num_microbatches > 1:
        share = model.loss_normalizer(part) / jnp.maximum(normalizer, 1e-6)
        loss = loss * share
        for name in _PER_STEP:
          # Averages over M microbatches, so each is scaled to M times its share.
          total = metrics[name].total * share * num_microbatches
          metrics[name] = metrics[name].replace(total=total)
      return loss, (metrics, rows)

    gradient = jax.grad(weighted_loss, has_aux=True)
    if num_microbatches == 1:
      grads, (metrics, rows) = gradient(trained, batch, rng)
    else:
      grads, metrics, rows = _accumulate(gradient, trained, batch, rng, num_microbatches)
    rate = learning_rate(step)
    optimizer = state.optimizer.apply_gradient(grads, learning_rate=rate)
    ema = state.ema
    if ema_decay is not None:
      ema = jax.tree.map(lambda e, p: ema_decay * e + (1.0 - ema_decay) * p, ema, optimizer.target)
    norm = _norm(grads)
    finite = jnp.isfinite(norm) & jnp.isfinite(metrics['loss'].total)
    new_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        state_lib.TrainState(optimizer=optimizer, ema=ema), state)
    metrics = metrics | _source_metrics(rows, batch, sources)
    metrics['learning_rate'] = _average(rate, 1.0)
    metrics['gradient_norm'] = _average(norm, 1.0)
    # Batches and dropout follow the count.
    return new_state.at_step(step + 1), metrics

  return train_step


def make_eval_step(
    model: Any, *, sources: Mapping[int, str] = _NO_SOURCES
) -> Callable[[Any, Batch], Metrics]:
  """Returns eval_step(params, batch) -> metrics, without dropout."""

  def eval_step(params, batch):
    _, (metrics, rows) = model.loss_with_rows(params, batch, None)
    return metrics | _source_metrics(rows, batch, sources)

  return eval_step


def _accumulate(gradient, params, batch, rng, num_microbatches):
  """Sums gradients over microbatches; returns them, merged metrics, and rows in batch order."""

  # Row i goes to microbatch i % M: every device keeps its own rows, nothing is sent.
  def cut(x_B):
    return jnp.swapaxes(x_B.reshape(-1, num_microbatches, *x_B.shape[1:]), 0, 1)

  def add(total, part):
    index, microbatch = part
    grads, aux = gradient(params, microbatch, jax.random.fold_in(rng, index))
    return jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, grads), aux

  # Sums are kept in float32 whatever the parameters are.
  zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
  grads, (metrics, rows) = jax.lax.scan(
      add, zeros, (jnp.arange(num_microbatches), jax.tree.map(cut, dict(batch)))
  )
  metrics = {name: metric.reduce() for name, metric in metrics.items()}
  return grads, metrics, jax.tree.map(lambda x_MxB: jnp.swapaxes(x_MxB, 0, 1).reshape(-1), rows)


def _source_metrics(rows: Any, batch: Batch, sources: Mapping[int, str]) -> Metrics:
  """Loss and accuracy per target token, and target tokens per step, of each source."""
  if not sources:
    return {}
  known_S = jnp.array(sorted(sources), batch['source'].dtype)
  is_source_BxS = batch['source'].reshape(-1, 1) == known_S
  # A NaN shows in its own source only; and a matrix product would round on a TPU.
  loss_S, correct_S, weight_S = (
      jnp.sum(jnp.where(is_source_BxS, x_B[:, None], 0.0), axis=0)
      for x_B in (rows.loss_B, rows.correct_B, rows.weight_B)
  )
  metrics = {}
  for i, source in enumerate(sorted(sources)):
    name = sources[source]
    metrics[f'loss/{name}'] = _average(loss_S[i], weight_S[i])
    metrics[f'accuracy/{name}'] = _average(correct_S[i], weight_S[i])
    metrics[f'tokens/{name}'] = _average(weight_S[i], 1.0)
  return metrics


def _average(total: jax.Array, count: jax.Array | float) -> clu_metrics.Average:
  return clu_metrics.Average(total=jnp.float32(total), count=jnp.float32(count))


def _norm(grads: Any) -> jax.Array:
  return jnp.sqrt(sum(jnp.sum(jnp.square(g.astype(jnp.float32))) for g in jax.tree.leaves(grads)))
