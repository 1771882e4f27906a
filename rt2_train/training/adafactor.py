"""Adafactor (Shazeer and Stern 2018) with T5X's semantics, which published T5 and PaLI runs used.

Three things differ from other Adafactors: learning rates are relative to each parameter's own RMS;
which dimensions are factored follows from their logical names; and of parameters that stack the
layers of a tower, every layer keeps its own scale and clipping, as if it stood alone.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from rt2_train.models import logical_axes
from rt2_train.training import optimizers


@dataclasses.dataclass(frozen=True)
class AdafactorHyperParams(optimizers.HyperParams):
  """See `Adafactor`."""

  factored: bool = True
  multiply_by_parameter_scale: bool = True
  beta1: float | None = None
  decay_rate: float = 0.8
  step_offset: int = 0
  clipping_threshold: float | None = 1.0
  weight_decay_rate: float | None = None
  weight_decay_rate_lr_exponent: float | None = None
  min_dim_size_to_factor: int = 128
  epsilon1: float = 1e-30
  epsilon2: float = 1e-3
  global_norm_clip_threshold: float | None = None


@dataclasses.dataclass(frozen=True)
class _Dimensions:
  """How one parameter is treated: dimensions that share a scale, and those that are factored."""

  averaged: tuple[int, ...]
  rows: tuple[int, ...] = ()
  columns: tuple[int, ...] = ()

  @property
  def factored(self) -> bool:
    return bool(self.rows and self.columns)


class Adafactor(optimizers.OptimizerDef):
  """Adafactor; a parameter's state is {'v_row', 'v_col', 'v', 'm'}, unused ones zeros [1].

  Unstacked parameters of rank <= 2 are factored if both dimensions reach
  `min_dim_size_to_factor`; all others follow `logical_factor_rules` at any size.

  Args:
    factored: keep row and column means of the squared gradient instead of all of it.
    multiply_by_parameter_scale: learning rates are relative to max(RMS(parameter), epsilon2).
    beta1: momentum; None keeps none.
    decay_rate: the second moment forgets with 1 - t ** -decay_rate, t counted from 1.
    step_offset: the step at which t starts, for a fine-tuning run that continues a step count.
    clipping_threshold: largest RMS of an update before scaling; None does not clip.
    weight_decay_rate: each step multiplies parameters by 1 - rate.
    weight_decay_rate_lr_exponent: the rate is multiplied by learning_rate ** exponent (PaLM: 2).
    min_dim_size_to_factor: see above.
    epsilon1: added to squared gradients.
    epsilon2: smallest parameter scale.
    global_norm_clip_threshold: largest global gradient norm; None does not clip.
    logical_factor_rules: axis name -> 'row', 'column', 'batch' or 'none'; by default our models'.
  """

  def __init__(
      self, *, logical_factor_rules: Mapping[str, Any] | None = None, **hyper_params: Any
  ):
    self.hyper_params = AdafactorHyperParams(**hyper_params)
    rules = logical_axes.FACTOR_RULES if logical_factor_rules is None else logical_factor_rules
    self._rules = dict(rules)
    self._axes: dict[str, Sequence[str]] = {}

  def set_param_axes(self, param_axes):
    self._axes = {path: tuple(axes) for path, axes in optimizers.flatten(param_axes).items()}

  def init_state(self, params):
    flat = {path: self._init_leaf(path, leaf) for path, leaf in optimizers.flatten(params).items()}
    states = traverse_util.unflatten_dict(flat, sep='/')
    return optimizers.OptimizerState(jnp.zeros((), jnp.int32), optimizers.like(params, states))

  def apply_gradient(self, hyper_params, params, state, grads):
    flat_grads = optimizers.flatten(grads)
    if hyper_params.global_norm_clip_threshold is not None:
      norm = jnp.sqrt(sum(jnp.sum(jnp.square(g.astype(jnp.float32))) for g in flat_grads.values()))
      scale = jnp.minimum(1.0, hyper_params.global_norm_clip_threshold / norm)
      flat_grads = {path: grad * scale for path, grad in flat_grads.items()}
    flat_states = _leaf_states(state.param_states)
    new_params, new_states = {}, {}
    for path, param in optimizers.flatten(params).items():
      new_params[path], new_states[path] = self._update_leaf(
          hyper_params, state.step, path, param, flat_states[path], flat_grads[path]
      )
    new_params = traverse_util.unflatten_dict(new_params, sep='/')
    new_states = traverse_util.unflatten_dict(new_states, sep='/')
    return optimizers.like(params, new_params), optimizers.OptimizerState(
        state.step + 1, optimizers.like(params, new_states)
    )

  def derive_logical_axes(self, optimizer, param_axes):
    # Row and column means are small: replicated, as in T5X. Whole moments go with their parameter.
    states = {}
    for path, axes in optimizers.flatten(param_axes).items():
      factored = self._dimensions(path, optimizers.flatten(optimizer.target)[path].shape).factored
      momentum = self.hyper_params.beta1 is not None
      states[path] = {
          'v_row': None,
          'v_col': None,
          'v': None if factored else axes,
          'm': axes if momentum else None,
      }
    states = traverse_util.unflatten_dict(states, sep='/')
    target = traverse_util.unflatten_dict(optimizers.flatten(param_axes), sep='/')
    return optimizer.replace(target=target, state=optimizers.OptimizerState(None, states))

  def _init_leaf(self, path: str, param: Any) -> dict[str, jax.Array]:
    dims = self._dimensions(path, param.shape)
    unused = jnp.zeros((1,), jnp.float32)
    state = {'v_row': unused, 'v_col': unused, 'v': unused, 'm': unused}
    if dims.factored:
      state['v_row'] = jnp.zeros(np.delete(param.shape, dims.columns), jnp.float32)
      state['v_col'] = jnp.zeros(np.delete(param.shape, dims.rows), jnp.float32)
    else:
      state['v'] = jnp.zeros(param.shape, jnp.float32)
    if self.hyper_params.beta1 is not None:
      state['m'] = jnp.zeros(param.shape, jnp.float32)
    return state

  def _update_leaf(self, hyper, step, path, param, state, grad):
    dims = self._dimensions(path, param.shape)
    state = dict(state)
    grad = grad.astype(jnp.float32)
    t = (step - hyper.step_offset).astype(jnp.float32) + 1.0
    decay = 1.0 - t**-hyper.decay_rate
    squared = grad * grad + hyper.epsilon1
    if dims.factored:
      v_row = decay * state['v_row'] + (1.0 - decay) * jnp.mean(squared, axis=dims.columns)
      v_col = decay * state['v_col'] + (1.0 - decay) * jnp.mean(squared, axis=dims.rows)
      state['v_row'], state['v_col'] = v_row, v_col
      row = jnp.expand_dims(v_row, dims.columns)
      column = jnp.expand_dims(v_col, dims.rows)
      # The rank-one estimate of the second moment is row * column / mean(row).
      update = grad * jax.lax.rsqrt(row / jnp.mean(row, axis=dims.rows, keepdims=True))
      update = update * jax.lax.rsqrt(column)
    else:
      state['v'] = decay * state['v'] + (1.0 - decay) * squared
      update = grad * jax.lax.rsqrt(state['v'])
    if hyper.clipping_threshold is not None:
      update = update / jnp.maximum(1.0, _rms(update, dims.averaged) / hyper.clipping_threshold)
    update = update * hyper.learning_rate
    if hyper.multiply_by_parameter_scale:
      update = update * jnp.maximum(_rms(param.astype(jnp.float32), dims.averaged), hyper.epsilon2)
    if hyper.beta1 is not None:
      update = hyper.beta1 * state['m'] + (1.0 - hyper.beta1) * update
      state['m'] = update
    kept = 1.0 - _decay_rate(hyper)
    return (kept * param - update).astype(param.dtype), state

  def _dimensions(self, path: str, shape: Sequence[int]) -> _Dimensions:
    rank = len(shape)
    everything = tuple(range(rank))
    kinds = self._kinds(path, rank)
    batch = tuple(i for i in everything if kinds and kinds[i] == 'batch')
    averaged = tuple(i for i in everything if i not in batch)
    if not self.hyper_params.factored:
      # Layers keep their own scale here too; T5X forgets them when nothing is factored.
      return _Dimensions(averaged)
    if rank <= 2 and not batch:
      if rank < 2 or min(shape) < self.hyper_params.min_dim_size_to_factor:
        return _Dimensions(everything)
      # T5X's choice, so that states fit: the longer dimension is the column.
      row, column = (int(i) for i in np.argsort(shape))
      return _Dimensions(everything, (row,), (column,))
    if not kinds:
      raise ValueError(
          f'adafactor: {path} has rank {rank} and no logical axes; call set_param_axes, or '
          'give the parameter names with param_with_axes'
      )
    rows = tuple(i for i in everything if kinds[i] == 'row')
    columns = tuple(i for i in everything if kinds[i] == 'column')
    if not rows or not columns:
      return _Dimensions(averaged)
    if 'none' in kinds:
      raise ValueError(
          f'adafactor: axes {self._axes[path]} of {path} mix factored and unfactored dimensions '
          f'({kinds}); give the unfactored one a row or column name'
      )
    return _Dimensions(averaged, rows, columns)

  def _kinds(self, path: str, rank: int) -> tuple[str, ...]:
    """'row', 'column', 'batch' or 'none' for every dimension; () if the parameter has no names."""
    axes = self._axes.get(path)
    if axes is None:
      return ()
    if len(axes) != rank:
      raise ValueError(f'adafactor: {path} has rank {rank} but logical axes {axes}')
    for name in axes:
      if name not in self._rules:
        raise ValueError(
            f'adafactor: logical axis {name!r} of {path} has no factor rule; known are '
            f'{sorted(self._rules)}'
        )
    return tuple(str(self._rules[name]).lower() for name in axes)


def _decay_rate(hyper: AdafactorHyperParams) -> Any:
  if hyper.weight_decay_rate_lr_exponent is None:
    return hyper.weight_decay_rate or 0.0
  rate = 1.0 if hyper.weight_decay_rate is None else hyper.weight_decay_rate
  return rate * hyper.learning_rate**hyper.weight_decay_rate_lr_exponent


def _rms(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  return jnp.sqrt(jnp.mean(jnp.square(x), axis=axes, keepdims=True))


def _leaf_states(param_states: Any) -> dict[str, dict[str, jax.Array]]:
  """{'path/of/parameter': {'v_row', 'v_col', 'v', 'm'}}."""
  states: dict[str, dict[str, jax.Array]] = {}
  for path, leaf in optimizers.flatten(param_states).items():
    parameter, name = path.rsplit('/', 1)
    states.setdefault(parameter, {})[name] = leaf
  return states
