"""A step does not depend on how its batch is cut, and says what every source contributed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_train.training import optimizers
from rt2_train.training import state as state_lib
from rt2_train.training import step as step_lib


def parameters(model, batch):
  """The same initial parameters for every test."""
  shapes = {name: rows.shape for name, rows in batch.items()}
  types = {name: rows.dtype for name, rows in batch.items()}
  init = lambda key: dict(model.get_initial_variables(key, shapes, types)['params'])
  return jax.jit(init)(jax.random.key(0))


def one_step(
    tiny, factor='NUM_REAL_TARGET_TOKENS', dropout_rate=0.0, seed=0, step=0, batch=None, **settings
):
  """(state, {metric: value}) after one update from the same parameters."""
  rule = optimizers.adamw(global_norm_clip_threshold=None)
  model = tiny.Model(rule, factor, dropout_rate=dropout_rate)
  batch = tiny.batch_of(0) if batch is None else batch
  params = parameters(model, batch)
  optimizer = model.optimizer_def.create(params)
  optimizer = optimizer.replace(state=optimizer.state.replace(step=jnp.int32(step)))
  ema = params if settings.get('ema_decay') else None
  run = jax.jit(step_lib.make_train_step(model, lambda _: 0.01, sources=tiny.SOURCES, **settings))
  state, metrics = run(state_lib.TrainState(optimizer, ema), batch, jax.random.key(seed))
  return state, {name: float(metric.compute()) for name, metric in metrics.items()}


@pytest.mark.parametrize('factor', ['NUM_REAL_TARGET_TOKENS', 'AVERAGE_PER_SEQUENCE', None])
def test_microbatches_change_nothing(tiny, factor):
  # Adam's first update is the gradient's sign, so its moments are what is compared.
  whole, metrics = one_step(tiny, factor)
  parts, metrics_of_parts = one_step(tiny, factor, num_microbatches=4)
  moments = lambda state: state.optimizer.state_dict()['state']['param_states']
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8)
  jax.tree.map(close, moments(whole), moments(parts))
  assert metrics_of_parts == pytest.approx(metrics, rel=1e-5)


def test_losses_per_source_are_those_of_the_sources_alone(tiny):
  batch = tiny.batch_of(0)
  _, together = one_step(tiny, batch=batch)
  for source, name in tiny.SOURCES.items():
    weights = batch['decoder_loss_weights'] * (batch['source'] == source)
    only = batch | {'decoder_loss_weights': weights}
    _, alone = one_step(tiny, batch=only)
    assert together[f'loss/{name}'] == pytest.approx(alone['loss'], rel=1e-5)
    assert together[f'accuracy/{name}'] == pytest.approx(alone['accuracy'], rel=1e-5)
    assert together[f'tokens/{name}'] == only['decoder_loss_weights'].sum()


def test_dropout_follows_from_seed_and_step(tiny):
  losses = [
      one_step(tiny, dropout_rate=0.5, seed=seed, step=step)[1]['loss']
      for seed, step in ((1, 3), (1, 3), (1, 4), (2, 3))
  ]
  assert losses[0] == losses[1]
  assert len(set(losses)) == 3


def test_frozen_parameters_get_no_gradient(tiny):
  _, metrics = one_step(tiny)
  frozen = ['embedding', 'patch']
  model = tiny.Model(optimizers.Frozen(optimizers.adamw(), frozen))
  params = parameters(model, tiny.batch_of(0))
  state = state_lib.TrainState(model.optimizer_def.create(params))
  train_step = jax.jit(step_lib.make_train_step(model, lambda _: 0.01, frozen=frozen))
  state, frozen_metrics = train_step(state, tiny.batch_of(0), jax.random.key(0))
  for name in ('embedding', 'patch_kernel'):
    np.testing.assert_array_equal(state.optimizer.target[name], params[name])
  assert np.any(state.optimizer.target['wi'] != params['wi'])
  assert float(frozen_metrics['gradient_norm'].compute()) < metrics['gradient_norm']


def test_the_moving_average_follows_the_parameters(tiny):
  state, _ = one_step(tiny, ema_decay=0.75)
  start, now = parameters(tiny.Model(), tiny.batch_of(0)), state.optimizer.target
  for name in start:
    np.testing.assert_allclose(state.ema[name], 0.75 * start[name] + 0.25 * now[name], rtol=1e-6)


def test_evaluation_uses_no_dropout(tiny):
  model, batch = tiny.Model(dropout_rate=0.5), tiny.batch_of(0)
  params = parameters(model, batch)
  metrics = jax.jit(step_lib.make_eval_step(model, sources=tiny.SOURCES))(params, batch)
  expected, _ = model.loss_with_rows(params, batch, None)
  assert float(metrics['loss'].compute()) == pytest.approx(float(expected), rel=1e-6)
  assert {'accuracy', 'z_loss', 'loss/robot', 'accuracy/web'} <= set(metrics)
