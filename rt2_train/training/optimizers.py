"""Optimizers behind T5X's interface: a definition makes an `Optimizer` of parameters and state.

The genuine T5X drives these definitions too: it asks for `create`, `apply_gradient`, `state_dict`,
`restore_state` and `derive_logical_axes`, and never looks at a class name (t5x.train_state).
The learning rate always comes from the trainer's schedule, whichever rule follows it.
"""

import abc
from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any

from flax import core
from flax import serialization
from flax import struct
from flax import traverse_util
import jax
import jax.numpy as jnp
import optax

Params = Mapping[str, Any]


@struct.dataclass
class OptimizerState:
  """`step` int32 [] counts the updates made; `param_states` is the definition's own tree."""

  step: jax.Array
  param_states: Any


class Optimizer(struct.PyTreeNode):
  """Parameters (`target`) with the state that their update rule needs."""

  optimizer_def: 'OptimizerDef' = struct.field(pytree_node=False)
  state: OptimizerState
  target: Params

  def apply_gradient(self, grads: Params, **hyper_params: Any) -> 'Optimizer':
    """One update; `hyper_params` (such as `learning_rate`) override the definition's own."""
    hyper = dataclasses.replace(self.optimizer_def.hyper_params, **hyper_params)
    target, state = self.optimizer_def.apply_gradient(hyper, self.target, self.state, grads)
    return self.replace(target=target, state=state)

  def state_dict(self) -> dict[str, Any]:
    """The tree a checkpoint holds: {'target', 'state': {'step', 'param_states'}}, plain dicts."""
    return {
        'target': serialization.to_state_dict(self.target),
        'state': serialization.to_state_dict(self.state),
    }

  def restore_state(self, state_dict: Mapping[str, Any]) -> 'Optimizer':
    """The optimizer whose `state_dict()` is `state_dict`."""
    return self.replace(
        target=serialization.from_state_dict(self.target, state_dict['target']),
        state=serialization.from_state_dict(self.state, state_dict['state']),
    )


@dataclasses.dataclass(frozen=True)
class HyperParams:
  """What every definition has: a learning rate, given by the trainer at each step."""

  learning_rate: Any = None


class OptimizerDef(abc.ABC):
  """An update rule. Subclasses say how state starts, changes, and follows the parameters' axes."""

  hyper_params: HyperParams = HyperParams()

  def create(self, target: Params) -> Optimizer:
    return Optimizer(optimizer_def=self, state=self.init_state(target), target=target)

  def stored(self, params: Params) -> Params:
    """Parameters in the types that a run keeps them in."""
    return params

  @abc.abstractmethod
  def init_state(self, params: Params) -> OptimizerState:
    """The state before the first update."""

  @abc.abstractmethod
  def apply_gradient(
      self, hyper_params: Any, params: Params, state: OptimizerState, grads: Params
  ) -> tuple[Params, OptimizerState]:
    """Parameters and state after one update."""

  def set_param_axes(self, param_axes: Params) -> None:
    """Tells the rule the logical axis names of each parameter, before `create`."""

  @abc.abstractmethod
  def derive_logical_axes(self, optimizer: Optimizer, param_axes: Params) -> Optimizer:
    """`optimizer` with logical axes in place of arrays; None stands for a replicated array."""


class Optax(OptimizerDef):
  """Any optax transformation that ends before the learning rate, which the trainer supplies.

  The update is params - learning_rate * transformation(grads).
  """

  def __init__(self, transformation: optax.GradientTransformation):
    self.transformation = transformation

  def init_state(self, params: Params) -> OptimizerState:
    return OptimizerState(jnp.zeros((), jnp.int32), self.transformation.init(core.unfreeze(params)))

  def apply_gradient(self, hyper_params, params, state, grads):
    updates, param_states = self.transformation.update(
        core.unfreeze(grads), state.param_states, core.unfreeze(params)
    )
    move = lambda param, update: (param - hyper_params.learning_rate * update).astype(param.dtype)
    updated = jax.tree.map(move, core.unfreeze(params), updates)
    return like(params, updated), OptimizerState(state.step + 1, param_states)

  def derive_logical_axes(self, optimizer, param_axes):
    # Arrays of the state that are shaped like a parameter (moments) are sharded like it.
    axes = core.unfreeze(param_axes)
    param_states = optax.tree.map_params(
        self.transformation,
        lambda _, axes_of_param: axes_of_param,
        optimizer.state.param_states,
        axes,
        transform_non_params=lambda _: None,
    )
    return optimizer.replace(target=axes, state=OptimizerState(None, param_states))


def adamw(
    b1: float = 0.9,
    b2: float = 0.95,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    global_norm_clip_threshold: float | None = 1.0,
) -> Optax:
  """AdamW (Loshchilov and Hutter 2019) after clipping by global norm; decays `kernel`s only."""
  def is_kernel(params):
    return traverse_util.path_aware_map(lambda path, _: path[-1] == 'kernel', params)

  clip = global_norm_clip_threshold
  return Optax(
      optax.chain(
          *([optax.clip_by_global_norm(clip)] if clip else []),
          optax.scale_by_adam(b1, b2, epsilon),
          optax.add_decayed_weights(weight_decay, mask=is_kernel),
      )
  )


class Frozen(OptimizerDef):
  """An update rule that leaves some parameters as they are, bit for bit.

  Frozen parameters have no optimizer state at all: neither memory nor leaves that a
  checkpoint could not hold (T5X's MultiOptimizer leaves None there and cannot resume).
  """

  def __init__(self, trained: OptimizerDef, patterns: Sequence[str], dtype: Any = None):
    """`dtype` is what frozen parameters are kept in; None leaves theirs."""
    self.trained, self.patterns, self._dtype = trained, tuple(patterns), dtype

  @property
  def hyper_params(self):
    return self.trained.hyper_params

  def stored(self, params):
    if self._dtype is None:
      return params
    trained, frozen = split(params, self.patterns)
    frozen = jax.tree.map(lambda leaf: leaf.astype(self._dtype), frozen)
    return like(params, merge(trained, frozen))

  def init_state(self, params):
    return self.trained.init_state(split(params, self.patterns)[0])

  def apply_gradient(self, hyper_params, params, state, grads):
    trained, frozen = split(params, self.patterns)
    grads, _ = split(grads, self.patterns)
    trained, state = self.trained.apply_gradient(hyper_params, trained, state, grads)
    return like(params, merge(trained, frozen)), state

  def set_param_axes(self, param_axes):
    self.trained.set_param_axes(split(param_axes, self.patterns)[0])

  def derive_logical_axes(self, optimizer, param_axes):
    trained, _ = split(optimizer.target, self.patterns)
    axes, _ = split(param_axes, self.patterns)
    derived = self.trained.derive_logical_axes(optimizer.replace(target=trained), axes)
    return optimizer.replace(target=core.unfreeze(param_axes), state=derived.state)


def check_patterns(params: Params, patterns: Sequence[str]) -> None:
  """Raises ValueError if a pattern freezes nothing, or together they freeze everything."""
  paths = list(flatten(params))
  for pattern in patterns:
    if not any(re.search(pattern, path) for path in paths):
      raise ValueError(f'frozen pattern {pattern!r} matches no parameter of {paths[:3]}...')
  if patterns and not flatten(split(params, patterns)[0]):
    raise ValueError(f'frozen patterns {list(patterns)} leave no parameter to train; take one out')


def split(params: Params, frozen: Sequence[str]) -> tuple[Params, Params]:
  """(trained, frozen) parts of a tree; a leaf is frozen if any pattern is found in its path."""
  parts = ({}, {})
  for path, leaf in flatten(params).items():
    parts[any(re.search(pattern, path) for pattern in frozen)][path] = leaf
  return tuple(traverse_util.unflatten_dict(part, sep='/') for part in parts)


def merge(trained: Params, frozen: Params) -> Params:
  """The tree that `split` took apart."""
  return traverse_util.unflatten_dict({**flatten(trained), **flatten(frozen)}, sep='/')


def flatten(params: Params) -> dict[str, Any]:
  """{'encoder/layer/kernel': leaf, ...}, in sorted order."""
  return dict(sorted(traverse_util.flatten_dict(core.unfreeze(params), sep='/').items()))


def like(params: Params, tree: dict[str, Any]) -> Params:
  """`tree` in the kind of dict that `params` is: T5X hands in frozen ones and wants them back."""
  return core.freeze(tree) if isinstance(params, core.FrozenDict) else tree
