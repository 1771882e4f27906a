"""Autoregressive decoding: one compiled loop, in which each row follows its own grammar.

Shape suffixes: B batch, T target length, V vocabulary, S grammar states, C token classes.
"""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_PAD = 0

# Bytes up to which the tokens that each state allows are one table. Language-Table's 441 answers,
# or a plan of 64 tokens, have hundreds of states: those are looked up by token class.
_MOST_TABLE = 2**25


class GrammarMask:
  """A grammar as device tables over the `vocab_size` ids that the model scores.

  A model's vocabulary may be padded beyond the tokenizer's; those ids are refused.
  """

  def __init__(self, token_class_V: np.ndarray, next_SxC: np.ndarray, vocab_size: int):
    """Takes the tables of a `grammar.Grammar`.

    Raises:
      ValueError: the grammar knows more token ids than the model scores.
    """
    token_class_V = np.asarray(token_class_V, np.int32)
    next_SxC = np.asarray(next_SxC, np.int32)
    extra = vocab_size - len(token_class_V)
    if extra < 0:
      raise ValueError(
          f'the grammar is over {len(token_class_V)} token ids, the model scores {vocab_size}; '
          "set the model's vocab_size to at least the tokenizer's"
      )
    if extra:
      token_class_V = np.append(token_class_V, np.full(extra, next_SxC.shape[1], np.int32))
      next_SxC = np.pad(next_SxC, ((0, 0), (0, 1)), constant_values=-1)
    self._token_class_V, self._next_SxC = token_class_V, next_SxC
    # Where a grammar has a dozen states, whole rows are looked up, not a token at a time.
    small = len(next_SxC) * vocab_size <= _MOST_TABLE
    self._allowed_SxV = next_SxC[:, token_class_V] >= 0 if small else None

  def apply(self, logits_BxV: jax.Array, state_B: jax.Array) -> jax.Array:
    """Logits with -inf at every token that the row's state refuses."""
    if self._allowed_SxV is not None:
      allowed_BxV = jnp.asarray(self._allowed_SxV)[state_B]
    else:
      allowed_BxC = jnp.asarray(self._next_SxC)[state_B] >= 0
      allowed_BxV = allowed_BxC[:, jnp.asarray(self._token_class_V)]
    return jnp.where(allowed_BxV, logits_BxV, -jnp.inf)

  def next_state(self, state_B: jax.Array, token_B: jax.Array) -> jax.Array:
    """The states after `token_B`, which the states must allow."""
    return jnp.asarray(self._next_SxC)[state_B, jnp.asarray(self._token_class_V)[token_B]]


class Start(NamedTuple):
  """A network that has read its prompts and is about to write.

  Attributes:
    next_logits: maps (token int32 [B], cache) to (logits float32 [B, V] of the next token, cache).
    cache: state of `next_logits` before its first call.
    length: T, the most tokens of an answer, EOS included.
    token_B: what `next_logits` is called with first; or
    logits_BxV: those of the first token, where reading the prompts has given them.
  """

  next_logits: Callable[[jax.Array, Any], tuple[jax.Array, Any]]
  cache: Any
  length: int
  token_B: jax.Array | None = None
  logits_BxV: jax.Array | None = None


def decode(
    start: Start,
    *,
    eos_id: int,
    mask: GrammarMask | None = None,
    start_B: jax.Array | None = None,
    temperature: float = 0.0,
    rng: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Writes tokens until every row has ended or `start.length` is reached.

  Args:
    start: the network, with the prompts read.
    eos_id: id that ends a row.
    mask: what the rows may say; anything when None.
    start_B: int32 [B], the grammar state of each row before its first token.
    temperature: 0 takes the best token, above 0 samples from logits / temperature.
    rng: key for sampling.

  Returns:
    Tokens int32 [B, T], padding after EOS; and per row the sum of the tokens' log-probabilities
    under the model restricted to the allowed tokens (at temperature 1), float32 [B].

  Raises:
    ValueError: sampling without rng, or a mask without start states.
  """
  if temperature < 0 or (temperature > 0 and rng is None):
    raise ValueError(f'temperature {temperature} needs to be 0, or above 0 with an rng key')
  if mask is not None and start_B is None:
    raise ValueError('a grammar mask needs the start state of every row')
  first = start.token_B if start.logits_BxV is None else start.logits_BxV
  batch_size, length = first.shape[0], start.length
  if start_B is None:
    start_B = jnp.zeros(batch_size, jnp.int32)

  def unfinished(carry):
    position, *_, done_B, _ = carry
    return (position < length) & ~jnp.all(done_B)

  def write(logits_BxV, carry):
    position, tokens_BxT, _, score_B, state_B, done_B, cache = carry
    if mask is not None:
      logits_BxV = mask.apply(logits_BxV, state_B)
    if temperature:
      key = jax.random.fold_in(rng, position)
      token_B = jax.random.categorical(key, logits_BxV / temperature)
    else:
      token_B = jnp.argmax(logits_BxV, axis=-1)
    chosen_B = jnp.take_along_axis(logits_BxV, token_B[:, None], axis=-1)[:, 0]
    score_B += jnp.where(done_B, 0.0, chosen_B - jax.nn.logsumexp(logits_BxV, axis=-1))
    token_B = jnp.where(done_B, _PAD, token_B).astype(jnp.int32)
    if mask is not None:
      # A finished row keeps its state: it has one that allows some token, so nothing is NaN.
      state_B = jnp.where(done_B, state_B, mask.next_state(state_B, token_B))
    tokens_BxT = jax.lax.dynamic_update_slice_in_dim(tokens_BxT, token_B[:, None], position, 1)
    return (
        position + 1, tokens_BxT, token_B, score_B, state_B, done_B | (token_B == eos_id), cache
    )

  def step(carry):
    *others, cache = carry
    logits_BxV, cache = start.next_logits(carry[2], cache)
    return write(logits_BxV, (*others, cache))

  token_B = jnp.full(batch_size, _PAD, jnp.int32) if start.token_B is None else start.token_B
  carry = (
      jnp.int32(0), jnp.full((batch_size, length), _PAD, jnp.int32), token_B,
      jnp.zeros(batch_size, jnp.float32), start_B.astype(jnp.int32),
      jnp.zeros(batch_size, bool), start.cache,
  )
  if start.logits_BxV is not None:
    carry = write(start.logits_BxV, carry)
  _, tokens_BxT, _, score_B, *_ = jax.lax.while_loop(unfinished, step, carry)
  return tokens_BxT, score_B
