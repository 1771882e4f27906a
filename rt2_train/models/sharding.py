"""Where arrays live while a model computes, as the trainer's rules say; models only name axes.

A trainer opens `scope` around tracing. Without one, activations follow Flax's logical axis rules,
which is how the genuine T5X places them, and weights are left to the compiler.
"""

from collections.abc import Iterator, Sequence
import contextlib
import contextvars
from typing import Protocol

from flax.linen import partitioning
import jax


class Placement(Protocol):
  """What rules say of arrays by their logical axes."""

  def activation(self, x: jax.Array, axes: Sequence[str]) -> jax.Array:
    """`x` where activations of these axes live."""

  def weight(self, w: jax.Array, axes: Sequence[str]) -> jax.Array:
    """A parameter as a layer multiplies by it: brought together from where it is kept."""

  def is_cut(self, axes: Sequence[str]) -> bool:
    """Whether several devices share one example's activations with one of these axes."""


_PLACEMENT: contextvars.ContextVar[Placement | None] = contextvars.ContextVar(
    'placement', default=None)


@contextlib.contextmanager
def scope(placement: Placement) -> Iterator[None]:
  """Models traced inside follow `placement`."""
  token = _PLACEMENT.set(placement)
  try:
    yield
  finally:
    _PLACEMENT.reset(token)


def constrain(x: jax.Array, axes: Sequence[str]) -> jax.Array:
  """An activation with the logical names of its axes."""
  placement = _PLACEMENT.get()
  if placement is None:
    return partitioning.with_sharding_constraint(x, tuple(axes))
  return placement.activation(x, axes)


def gather(w: jax.Array, axes: Sequence[str]) -> jax.Array:
  """A parameter, already in the dtype it is used in, with the logical names of its axes."""
  placement = _PLACEMENT.get()
  return w if placement is None else placement.weight(w, axes)


def is_cut(axes: Sequence[str]) -> bool:
  """Whether several devices share one example's activations with one of these axes."""
  placement = _PLACEMENT.get()
  return placement is not None and placement.is_cut(axes)
