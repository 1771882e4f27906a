"""Adafactor against optax where both are the same, and against itself, layer by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rt2_train.training import adafactor
from rt2_train.training import optimizers

P = jax.sharding.PartitionSpec
RATE = 0.01


def array(seed: int, *shape: int, scale: float = 1.0) -> jax.Array:
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * scale, jnp.float32)


@jax.jit
def update(optimizer, grads):
  return optimizer.apply_gradient(grads, learning_rate=RATE)


def trained(rule: optimizers.OptimizerDef, params, axes, steps: int = 4):
  """The optimizer after a few updates with gradients that are functions of path and step."""
  rule.set_param_axes(axes)
  optimizer = rule.create(params)
  for step in range(steps):
    grads = {name: array(100 + step, *leaf.shape, scale=3.0) for name, leaf in params.items()}
    optimizer = update(optimizer, grads)
  return optimizer


@pytest.mark.parametrize('shape', [(160, 130), (130, 160), (20, 300), (40,)])
def test_an_unstacked_parameter_moves_as_under_optax(shape):
  params, axes = {'kernel': array(0, *shape)}, {'kernel': P(*['embed', 'mlp'][: len(shape)])}
  ours = trained(adafactor.Adafactor(), params, axes)
  rule = optax.adafactor(RATE)
  state, theirs, step_of = rule.init(params), params, jax.jit(rule.update)
  for step in range(4):
    updates, state = step_of({'kernel': array(100 + step, *shape, scale=3.0)}, state, theirs)
    theirs = optax.apply_updates(theirs, updates)
  np.testing.assert_allclose(ours.target['kernel'], theirs['kernel'], rtol=2e-6, atol=2e-6)


def test_momentum_is_the_running_average_of_updates():
  params, axes = {'kernel': array(0, 6)}, {'kernel': P('mlp')}
  plain = adafactor.Adafactor(multiply_by_parameter_scale=False)
  momentum = adafactor.Adafactor(multiply_by_parameter_scale=False, beta1=0.75)
  first = trained(plain, params, axes, 1).target['kernel'] - params['kernel']
  averaged = trained(momentum, params, axes, 1).target['kernel'] - params['kernel']
  np.testing.assert_allclose(averaged, 0.25 * first, rtol=1e-4)


def test_each_of_the_stacked_layers_moves_as_if_it_stood_alone():
  # Layers of very different size: a scale or a clip over all of them would show.
  layers = [array(i, 140, 150, scale=10.0**-i) for i in range(3)]
  stacked = {'kernel': jnp.stack(layers, axis=1)}
  rule = adafactor.Adafactor()
  rule.set_param_axes({'kernel': P('embed', 'layers', 'mlp')})
  together = rule.create(stacked)
  unstacked = adafactor.Adafactor()
  alone = [unstacked.create({'kernel': layer}) for layer in layers]
  for step in range(3):
    grads = [array(50 + 10 * step + i, 140, 150, scale=5.0**i) for i in range(3)]
    together = update(together, {'kernel': jnp.stack(grads, axis=1)})
    alone = [update(o, {'kernel': g}) for o, g in zip(alone, grads)]
  for i in range(3):
    np.testing.assert_allclose(
        together.target['kernel'][:, i], alone[i].target['kernel'], rtol=1e-5, atol=1e-8
    )


def test_stacked_parameters_are_factored_by_their_names_at_any_size():
  params = {
      'query': array(0, 8, 2, 3, 4),
      'scale': array(1, 8, 2),
      'rel': array(2, 3, 2, 32),
      'small': array(3, 8, 6),
  }
  axes = {
      'query': P('embed', 'layers', 'heads', 'kv'),
      'scale': P('embed', 'layers'),
      'rel': P('heads', 'layers', 'relpos_buckets'),
      'small': P('embed', 'mlp'),
  }
  states = trained(adafactor.Adafactor(), params, axes).state_dict()['state']['param_states']
  shapes = {name: {k: v.shape for k, v in state.items()} for name, state in states.items()}
  none = (1,)
  assert shapes == {
      'query': {'v_row': (8, 2), 'v_col': (2, 3, 4), 'v': none, 'm': none},
      'scale': {'v_row': none, 'v_col': none, 'v': (8, 2), 'm': none},
      'rel': {'v_row': none, 'v_col': none, 'v': (3, 2, 32), 'm': none},
      'small': {'v_row': none, 'v_col': none, 'v': (8, 6), 'm': none},
  }


def test_the_second_moment_forgets_with_one_minus_t_to_the_minus_four_fifths():
  params, axes = {'bias': array(0, 5)}, {'bias': P('mlp')}
  rule = adafactor.Adafactor()
  rule.set_param_axes(axes)
  optimizer, expected = rule.create(params), np.zeros(5)
  for t in range(1, 4):
    grad = array(t, 5)
    optimizer = update(optimizer, {'bias': grad})
    decay = 1 - t**-0.8
    expected = decay * expected + (1 - decay) * np.square(grad)
  np.testing.assert_allclose(optimizer.state.param_states['bias']['v'], expected, rtol=1e-5)


def test_a_step_offset_starts_the_second_moment_anew():
  params, axes = {'bias': array(0, 5)}, {'bias': P('mlp')}
  fresh = trained(adafactor.Adafactor(), params, axes, 1)
  late = adafactor.Adafactor(step_offset=1000).create(params)
  late = late.replace(state=late.state.replace(step=jnp.int32(1000)))
  late = update(late, {'bias': array(100, 5, scale=3.0)})
  np.testing.assert_array_equal(late.target['bias'], fresh.target['bias'])


def test_an_update_is_at_most_the_learning_rate_times_the_parameters_size():
  params, axes = {'kernel': array(0, 30, 20)}, {'kernel': P('embed', 'mlp')}
  moved = trained(adafactor.Adafactor(), params, axes, 1).target['kernel'] - params['kernel']
  rms = lambda x: float(jnp.sqrt(jnp.mean(jnp.square(x))))
  assert rms(moved) == pytest.approx(RATE * rms(params['kernel']), rel=1e-3)


def test_weight_decay_follows_the_square_of_the_learning_rate():
  # PaLM, section 5; a zero gradient leaves only the decay.
  rule = adafactor.Adafactor(weight_decay_rate_lr_exponent=2.0)
  optimizer = rule.create({'bias': jnp.ones(3)})
  moved = optimizer.apply_gradient({'bias': jnp.zeros(3)}, learning_rate=0.1)
  np.testing.assert_allclose(moved.target['bias'], 0.99, rtol=1e-6)


def test_an_axis_without_a_factor_rule_is_named():
  rule = adafactor.Adafactor()
  rule.set_param_axes({'tower': {'kernel': P('embed', 'layers', 'flavour')}})
  with pytest.raises(ValueError, match="'flavour' of tower/kernel has no factor rule"):
    rule.create({'tower': {'kernel': jnp.ones((2, 2, 2))}})


def test_a_parameter_of_rank_three_needs_axes():
  with pytest.raises(ValueError, match='kernel has rank 3 and no logical axes'):
    adafactor.Adafactor().create({'kernel': jnp.ones((2, 2, 2))})


def test_whole_moments_are_sharded_like_their_parameter_and_means_are_replicated():
  params = {'wi': array(0, 8, 2, 6), 'bias': array(1, 6)}
  axes = {'wi': P('embed', 'layers', 'mlp'), 'bias': P('mlp')}
  rule = adafactor.Adafactor(beta1=0.9)
  rule.set_param_axes(axes)
  derived = rule.derive_logical_axes(rule.create(params), axes)
  assert derived.target == axes
  assert derived.state.param_states == {
      'wi': {'v_row': None, 'v_col': None, 'v': None, 'm': axes['wi']},
      'bias': {'v_row': None, 'v_col': None, 'v': axes['bias'], 'm': axes['bias']},
  }
