"""Decoding grammars: which token may come next, as a finite automaton over token ids.

A robot prompt may only be answered with a valid action, a question with anything, a
chain-of-thought prompt with a plan and then a valid action (RT-2, sections 3.2 and 4.4). All of
them are automata over one vocabulary, so one batch holds them all: every row carries its own
state through the decoding loop, and two lookups, `next_SxC[state][token_class_V]`, mask its
logits and move it on. Most of 250k tokens never differ from each other, hence the classes.

Shape suffixes: S states, C token classes, V vocabulary, G grammars.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import math

import numpy as np

from rt2_train import actions
from rt2_train import vocabulary as vocabulary_lib

_REFUSED = -1
# A trie lists whole answers; beyond this an action space wants one token per integer.
_MOST_ANSWERS = 100_000


@dataclasses.dataclass(frozen=True, eq=False)
class Grammar:
  """An automaton that accepts the answers a prompt may get.

  Attributes:
    token_class_V: int32 [V]; tokens of one class are treated alike in every state.
    next_SxC: int32 [S, C]; the state that follows, -1 where the class is refused. No state is a
      dead end: after its EOS an answer goes on with padding.
    start: the state before the first token.
    longest: tokens of the longest answer, EOS included; None when there is no such limit.
  """

  token_class_V: np.ndarray
  next_SxC: np.ndarray
  start: int
  longest: int | None

  def __post_init__(self):
    for array in (self.token_class_V, self.next_SxC):
      array.setflags(write=False)
    dead = np.flatnonzero((self.next_SxC == _REFUSED).all(1))
    if dead.size:
      raise ValueError(f'grammar: state {dead[0]} refuses every token, so a row could not go on')

  @property
  def vocab_size(self) -> int:
    return len(self.token_class_V)

  def allowed(self, state: int) -> np.ndarray:
    """bool [V]; which tokens may come next."""
    return self.next_SxC[state][self.token_class_V] != _REFUSED

  def step(self, state: int, token: int) -> int:
    """The state after `token`, -1 when it is refused or outside the vocabulary."""
    if not 0 <= token < self.vocab_size:
      return _REFUSED
    return int(self.next_SxC[state, self.token_class_V[token]])

  def accepts(self, tokens: Sequence[int]) -> bool:
    """Whether `tokens` (ids) are a whole answer: with its EOS, padded or not."""
    state = self.start
    for token in tokens:
      state = self.step(state, token)
      if state == _REFUSED:
        return False
    return self._has_ended(state)

  def _has_ended(self, state: int) -> bool:
    """Only the state behind an EOS has nowhere to go but itself."""
    return bool(np.isin(self.next_SxC[state], [_REFUSED, state]).all())


def anything(vocab_size: int, *, eos: int, pad: int) -> Grammar:
  """Any text up to EOS, then padding: the grammar of a question."""
  return _from_edges(
      [{eos: 1, pad: _REFUSED}, {pad: 1}], [0, _REFUSED], vocab_size, longest=None)


def slots(choices: Sequence[Sequence[int]], vocab_size: int, *, eos: int, pad: int) -> Grammar:
  """One token out of each slot, in order, then EOS: the grammar of an action.

  Args:
    choices: token ids allowed at each position; RT-2's action has 8 slots, the first holding
      the two terminate tokens and the others the 256 bin tokens.
    vocab_size: number of ids the model can emit.
    eos: id that ends an answer.
    pad: id that fills a row after its EOS.

  Raises:
    ValueError: a slot is empty, or holds eos, pad or an id outside the vocabulary.
  """
  edges = []
  for slot, ids in enumerate(choices):
    _check_ids(ids, vocab_size, {eos, pad}, f'slot {slot}')
    edges.append({int(id_): slot + 1 for id_ in ids})
  end = len(edges) + 1
  edges += [{eos: end}, {pad: end}]
  return _from_edges(edges, [_REFUSED] * len(edges), vocab_size, longest=end)


def trie(answers: Sequence[Sequence[int]], vocab_size: int, *, eos: int, pad: int) -> Grammar:
  """One of a list of answers: where one value takes several tokens (Language-Table's 'X Y').

  Args:
    answers: token ids of each, without EOS.
    vocab_size, eos, pad: see `slots`.

  Raises:
    ValueError: there is no answer, or one is empty, or holds eos, pad or an id outside the
      vocabulary.
  """
  if not len(answers):
    raise ValueError('a trie needs at least one answer')
  root, end = 0, 1
  edges = [{}, {pad: end}]
  for number, answer in enumerate(answers):
    _check_ids(answer, vocab_size, {eos, pad}, f'answer {number}')
    state = root
    for token in map(int, answer):
      if token not in edges[state]:
        edges[state][token] = len(edges)
        edges.append({})
      state = edges[state][token]
    edges[state][eos] = end
  longest = max(len(answer) for answer in answers) + 1
  return _from_edges(edges, [_REFUSED] * len(edges), vocab_size, longest)


def after(marker: Sequence[int], then: Grammar, limit: int, *, eos: int, pad: int) -> Grammar:
  """Free text until `marker` has been written, then `then`: plan first, action second.

  After `limit` free tokens the marker is forced, and EOS is refused before it, so a plan always
  ends in an action. A state is (free tokens so far, tokens of the marker just written), the
  Knuth-Morris-Pratt automaton of the marker with a budget: it also finds a marker that starts
  inside a failed match, and what a failed match had held back counts as free.

  Raises:
    ValueError: the marker is empty or holds eos, pad or an id outside the vocabulary, or
      `limit` is negative.
  """
  marker = [int(id_) for id_ in marker]
  vocab_size = then.vocab_size
  _check_ids(marker, vocab_size, {eos, pad}, 'the marker between plan and action')
  if limit < 0:
    raise ValueError(f'limit of free tokens before the marker is {limit}; it must be 0 or more')
  length = len(marker)
  behind = (limit + 1) * length  # the states of `then` are laid behind those of the plan
  edges, others = [], []
  for free, written in itertools.product(range(limit + 1), range(length)):
    targets = {eos: _REFUSED, pad: _REFUSED}
    for token in set(marker):
      found = _longest_prefix_that_ends(marker, [*marker[:written], token])
      freed = free + written + 1 - found
      if found == length:
        targets[token] = behind + then.start
      else:
        targets[token] = freed * length + found if freed <= limit else _REFUSED
    edges.append(targets)
    freed = free + written + 1
    others.append(freed * length if freed <= limit else _REFUSED)
  # The plan's own table points behind itself; it becomes a grammar only together with `then`.
  classes_V, table = _classes(edges, others, vocab_size)
  token_class_V, (plan_SxC, then_SxC) = _common_classes(
      [classes_V, then.token_class_V], [table, then.next_SxC])
  then_SxC = np.where(then_SxC == _REFUSED, _REFUSED, then_SxC + behind)
  return Grammar(
      token_class_V,
      np.concatenate([plan_SxC, then_SxC]).astype(np.int32),
      start=0,
      longest=None if then.longest is None else limit + length + then.longest,
  )


def union(grammars: Mapping[str, Grammar]) -> tuple[Grammar, dict[str, int]]:
  """All `grammars` side by side, for a batch that mixes prompts; and each one's start state.

  The whole starts where the first of them does, and is as long as the longest.

  Raises:
    ValueError: there are none, or their vocabularies differ in size.
  """
  sizes = {name: grammar.vocab_size for name, grammar in grammars.items()}
  if len(set(sizes.values())) != 1:
    raise ValueError(f'a union needs grammars over one vocabulary, got sizes {sizes}')
  token_class_V, tables = _common_classes(
      [grammar.token_class_V for grammar in grammars.values()],
      [grammar.next_SxC for grammar in grammars.values()])
  starts, moved, offset = {}, [], 0
  for (name, grammar), table in zip(grammars.items(), tables):
    starts[name] = grammar.start + offset
    moved.append(np.where(table == _REFUSED, _REFUSED, table + offset))
    offset += len(table)
  longest = [grammar.longest for grammar in grammars.values()]
  whole = Grammar(
      token_class_V,
      np.concatenate(moved).astype(np.int32),
      start=next(iter(starts.values())),
      longest=None if None in longest else max(longest),
  )
  return whole, starts


def for_actions(
    space: actions.ActionSpace, vocabulary: vocabulary_lib.Vocabulary) -> Grammar:
  """Exactly the actions of `space`: slots where each integer is one token, otherwise a trie.

  Raises:
    ValueError: the vocabulary cannot write an integer of the space, or the space has too many
      actions to list.
  """
  values = [range(dimension.first, dimension.last + 1) for dimension in space.dimensions]
  ends = {'eos': vocabulary.eos_id, 'pad': vocabulary.pad_id}
  size = vocabulary.vocab_size
  table = vocabulary.action_ids_256
  if all(0 <= each[0] and each[-1] < len(table) for each in values):
    return slots([table[each[0]:each[-1] + 1] for each in values], size, **ends)
  count = math.prod(map(len, values))
  if count > _MOST_ANSWERS:
    raise ValueError(
        f'action space {space.name} has {count} actions and integers that take several tokens; at '
        f'most {_MOST_ANSWERS} can be listed: use integers within 0..{len(table) - 1}')
  answers = []
  for action in itertools.product(*values):
    answer = vocabulary.encode_integers(action)
    if vocabulary.decode_integers(answer) != list(action):
      raise ValueError(
          f'vocabulary {vocabulary.model_file}: action {action} does not come back from its '
          f'tokens {answer}; use integers within 0..{len(table) - 1}')
    answers.append(answer)
  return trie(answers, size, **ends)


def check_fits(grammar: Grammar, decode_length: int) -> None:
  """Refuses a grammar whose longest answer, with EOS, is longer than what is decoded.

  A grammar without a longest answer passes: free text may be cut. Check the parts of a union one
  by one, for a part without a limit takes the limit off the whole.

  Raises:
    ValueError: an answer could not be finished.
  """
  if grammar.longest is not None and grammar.longest > decode_length:
    raise ValueError(
        f'answers take up to {grammar.longest} tokens with EOS, but only {decode_length} are '
        f'decoded; raise the targets length to {grammar.longest}')


def _from_edges(
    edges: Sequence[Mapping[int, int]],
    others: Sequence[int],
    vocab_size: int,
    longest: int | None,
) -> Grammar:
  token_class_V, next_SxC = _classes(edges, others, vocab_size)
  return Grammar(token_class_V, next_SxC, start=0, longest=longest)


def _classes(
    edges: Sequence[Mapping[int, int]], others: Sequence[int], vocab_size: int,
) -> tuple[np.ndarray, np.ndarray]:
  """(token_class_V, next_SxC) of states given as {token: next state} and one for all others."""
  named = sorted(set().union(*edges))
  if named[0] < 0 or named[-1] >= vocab_size:
    wrong = named[0] if named[0] < 0 else named[-1]
    raise ValueError(f'token {wrong} is outside the vocabulary, ids 0..{vocab_size - 1}')
  column_of = {token: column for column, token in enumerate(named, 1)}
  # Column 0 is for all tokens that no state names.
  next_SxC = np.repeat(np.array(others, np.int32)[:, None], 1 + len(named), axis=1)
  for state, targets in enumerate(edges):
    for token, target in targets.items():
      next_SxC[state, column_of[token]] = target
  next_SxC, class_of_column = np.unique(next_SxC, axis=1, return_inverse=True)
  token_class_V = np.full(vocab_size, class_of_column[0], np.int32)
  token_class_V[named] = class_of_column[1:]
  return token_class_V, next_SxC


def _common_classes(
    classes_GxV: Sequence[np.ndarray], tables: Sequence[np.ndarray],
) -> tuple[np.ndarray, list[np.ndarray]]:
  """One set of classes for several tables: tokens stay together where all of them agree."""
  joint_V = np.zeros(len(classes_GxV[0]), np.int64)
  for token_class_V, table in zip(classes_GxV, tables):
    joint_V = joint_V * table.shape[1] + token_class_V
  _, first, token_class_V = np.unique(joint_V, return_index=True, return_inverse=True)
  widened = [table[:, classes_V[first]] for classes_V, table in zip(classes_GxV, tables)]
  return token_class_V.astype(np.int32), widened


def _longest_prefix_that_ends(marker: Sequence[int], written: Sequence[int]) -> int:
  """Length of the longest prefix of `marker` that is a suffix of `written`."""
  for length in range(min(len(marker), len(written)), 0, -1):
    if list(written[-length:]) == list(marker[:length]):
      return length
  return 0


def _check_ids(ids: Sequence[int], vocab_size: int, ends: set[int], what: str):
  wrong = [int(id_) for id_ in ids if not 0 <= id_ < vocab_size or id_ in ends]
  if wrong or not len(ids):
    raise ValueError(
        f'{what} needs ids in [0, {vocab_size}) other than eos and pad {sorted(ends)}, got '
        f'{wrong[:8] if wrong else "none"}')
