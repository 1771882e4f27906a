"""AdamW behind T5X's interface, freezing, and states that survive a round trip."""

from flax import core
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rt2_train.training import adafactor
from rt2_train.training import optimizers

P = jax.sharding.PartitionSpec
PARAMS = {
    'vit': {'kernel': jnp.full((4, 3), 0.5)},
    'head': {'kernel': jnp.ones((3, 2)), 'bias': jnp.ones(2)},
}
GRADS = jax.tree.map(lambda p: 0.1 + jnp.arange(p.size, dtype=jnp.float32).reshape(p.shape), PARAMS)
AXES = {
    'vit': {'kernel': P('patch', 'vit_embed')},
    'head': {'kernel': P('vit_embed', 'embed'), 'bias': P('embed')},
}


def rules() -> list[optimizers.OptimizerDef]:
  return [adafactor.Adafactor(beta1=0.9), optimizers.adamw(weight_decay=0.1)]


def test_adamw_is_optax_adamw_with_the_trainers_learning_rate():
  rule = optimizers.adamw(b1=0.9, b2=0.99, weight_decay=0.1, global_norm_clip_threshold=None)
  ours = rule.create(PARAMS)
  mask = {'vit': {'kernel': True}, 'head': {'kernel': True, 'bias': False}}
  theirs, params = optax.adamw(0.01, b1=0.9, b2=0.99, weight_decay=0.1, mask=mask), PARAMS
  state = theirs.init(params)
  for _ in range(3):
    ours = ours.apply_gradient(GRADS, learning_rate=0.01)
    updates, state = theirs.update(GRADS, state, params)
    params = optax.apply_updates(params, updates)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours.target, params)


@pytest.mark.parametrize('rule', rules())
def test_frozen_parameters_do_not_move_and_have_no_state(rule):
  optimizer = optimizers.Frozen(rule, ['^vit/']).create(PARAMS)
  for _ in range(2):
    optimizer = optimizer.apply_gradient(GRADS, learning_rate=0.1)
  np.testing.assert_array_equal(optimizer.target['vit']['kernel'], PARAMS['vit']['kernel'])
  assert np.all(optimizer.target['head']['kernel'] != PARAMS['head']['kernel'])
  paths = optimizers.flatten(optimizer.state_dict()['state'])
  assert not any('vit' in path for path in paths) and any('head' in path for path in paths)
  assert all(leaf is not None for leaf in paths.values())


@pytest.mark.parametrize('rule', rules())
def test_trained_parameters_move_alike_beside_frozen_ones(rule):
  alone = rule.create({'head': PARAMS['head']})
  alone = alone.apply_gradient({'head': GRADS['head']}, learning_rate=0.1)
  beside = optimizers.Frozen(rule, ['vit']).create(PARAMS)
  beside = beside.apply_gradient(GRADS, learning_rate=0.1)
  jax.tree.map(np.testing.assert_array_equal, alone.target['head'], beside.target['head'])


def test_frozen_parameters_may_be_kept_in_bfloat16_and_others_are_not():
  stored = optimizers.Frozen(optimizers.adamw(), ['^vit/'], 'bfloat16').stored(PARAMS)
  types = {path: leaf.dtype for path, leaf in optimizers.flatten(stored).items()}
  assert types == {
      path: 'bfloat16' if path.startswith('vit/') else leaf.dtype
      for path, leaf in optimizers.flatten(PARAMS).items()}


@pytest.mark.parametrize('rule', [*rules(), optimizers.Frozen(optimizers.adamw(), ['vit'])])
def test_a_state_dict_restores_the_optimizer(rule):
  moved = rule.create(PARAMS).apply_gradient(GRADS, learning_rate=0.1)
  saved = moved.state_dict()
  assert set(saved) == {'target', 'state'} and set(saved['state']) == {'step', 'param_states'}
  restored = rule.create(PARAMS).restore_state(saved)
  jax.tree.map(np.testing.assert_array_equal, restored, moved)
  assert int(restored.state.step) == 1


@pytest.mark.parametrize('rule', [*rules(), optimizers.Frozen(optimizers.adamw(), ['vit'])])
def test_every_array_gets_axes_that_fit_it(rule):
  rule.set_param_axes(AXES)
  optimizer = rule.create(PARAMS)
  derived = rule.derive_logical_axes(optimizer, AXES)
  is_axes = lambda x: x is None or isinstance(x, P)
  fits = lambda axes, leaf: axes is None or len(axes) == leaf.ndim
  ranks = jax.tree.map(fits, derived, optimizer, is_leaf=is_axes)
  assert all(jax.tree.leaves(ranks))
  sharded = [a for a in jax.tree.leaves(derived.state, is_leaf=is_axes) if a is not None]
  assert P('vit_embed', 'embed') in sharded


def test_frozen_dicts_come_back_frozen_as_t5x_expects():
  for rule in [*rules(), optimizers.Frozen(optimizers.adamw(), ['vit'])]:
    moved = rule.create(core.freeze(PARAMS)).apply_gradient(core.freeze(GRADS), learning_rate=0.1)
    assert isinstance(moved.target, core.FrozenDict)


def test_a_pattern_that_freezes_nothing_is_named():
  with pytest.raises(ValueError, match="'vitt' matches no parameter"):
    optimizers.check_patterns(PARAMS, ['vitt'])


def test_patterns_that_freeze_everything_are_refused():
  with pytest.raises(ValueError, match='leave no parameter to train'):
    optimizers.check_patterns(PARAMS, ['kernel', 'bias'])
