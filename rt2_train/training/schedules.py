"""Learning-rate schedules: functions of the step that the trainer and gin share.

`schedule('constant * linear_warmup * rsqrt_decay', ...)` is T5X's notation, factor by factor.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Schedule = Callable[[jax.Array], jax.Array]

FACTORS = (
    'constant', 'linear_warmup', 'linear_decay', 'rsqrt_decay', 'rsqrt_normalized_decay',
    'decay_every', 'cosine_decay', 'linear_to_zero',
)  # pyformat: disable


def schedule(
    factors: str = 'constant * linear_warmup',
    base_learning_rate: float = 1e-3,
    warmup_steps: int = 1000,
    decay_factor: float = 0.5,
    steps_per_decay: int = 20000,
    steps_per_cycle: int = 100000,
    step_offset: int = 0,
    min_learning_rate: float = 1e-8,
) -> Schedule:
  """The product of `factors` as a function of the step.

  Args:
    factors: names joined by '*': `constant` (the base rate), `linear_warmup` (step / warmup_steps
      up to 1), `linear_decay` (T5X's: base rate, warm-up, then 1 - decay_factor per step),
      `rsqrt_decay` (1 / sqrt(max(step, warmup_steps))), `rsqrt_normalized_decay` (the same, 1 at
      the end of the warm-up), `decay_every` (decay_factor every steps_per_decay), `cosine_decay`
      (1 to 0 within steps_per_cycle after the warm-up, then again), `linear_to_zero` (1 to 0
      within steps_per_cycle after the warm-up; stays 0).
    base_learning_rate: the value of `constant`.
    warmup_steps: see the factors.
    decay_factor: see the factors.
    steps_per_decay: see the factors.
    steps_per_cycle: see the factors.
    step_offset: the step that counts as 0.
    min_learning_rate: smallest value returned.

  Raises:
    ValueError: a factor is unknown.
  """
  names = [name.strip() for name in factors.split('*')]
  for name in names:
    if name not in FACTORS:
      known = ', '.join(FACTORS)
      raise ValueError(f'schedule: unknown factor {name!r} in {factors!r}; known are {known}')
  warmup = max(warmup_steps, 1)

  def factor(name: str, step: jax.Array) -> jax.Array | float:
    match name:
      case 'constant':
        return base_learning_rate
      case 'linear_warmup':
        return jnp.minimum(1.0, step / warmup)
      case 'linear_decay':
        return base_learning_rate * jnp.minimum(step / warmup, 1.0 + decay_factor * (warmup - step))
      case 'rsqrt_decay':
        return jax.lax.rsqrt(jnp.maximum(step, warmup))
      case 'rsqrt_normalized_decay':
        return jax.lax.rsqrt(jnp.maximum(step / warmup, 1.0))
      case 'decay_every':
        return decay_factor ** jnp.floor(step / steps_per_decay)
      case 'cosine_decay':
        cycle = jnp.maximum(0.0, (step - warmup_steps) / steps_per_cycle) % 1.0
        return 0.5 * (1.0 + jnp.cos(jnp.pi * cycle))
      case 'linear_to_zero':
        return 1.0 - jnp.clip((step - warmup_steps) / steps_per_cycle, 0.0, 1.0)
    raise AssertionError(name)

  def learning_rate(step: jax.Array) -> jax.Array:
    step = jnp.maximum(0, jnp.asarray(step) - step_offset).astype(jnp.float32)
    value = jnp.float32(1.0)
    for name in names:
      value = value * factor(name, step)
    return jnp.maximum(value, min_learning_rate)

  return learning_rate
