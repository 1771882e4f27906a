"""What a prompt may be answered with, stated as sentences that are and are not accepted."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from rt2_train import actions
from rt2_train import grammar
from rt2_train import vocabulary as vocabulary_lib

PAD, EOS, VOCAB = 0, 1, 40
ENDS = {'eos': EOS, 'pad': PAD}
WORDS = st.integers(2, VOCAB - 1)

choices = st.lists(st.sets(WORDS, min_size=1, max_size=6), min_size=1, max_size=8)
answers = st.lists(st.lists(WORDS, min_size=1, max_size=4), min_size=1, max_size=12)
# Few different tokens make markers that overlap with themselves.
markers = st.lists(st.integers(2, 4), min_size=1, max_size=5)


def walk(g: grammar.Grammar, draw: st.DataObject, most=60) -> list[int]:
  """Tokens that `g` allows, drawn one by one, until EOS or `most` of them."""
  state, tokens = g.start, []
  while len(tokens) < most and EOS not in tokens:
    allowed = np.flatnonzero(g.allowed(state))
    # Half of the draws favour tokens that marker tests care about.
    near = [int(token) for token in allowed if token < 6]
    pool = st.sampled_from(allowed.tolist())
    tokens.append(draw.draw(st.sampled_from(near) | pool if near else pool))
    state = g.step(state, tokens[-1])
  return tokens


def ends_in(tokens, marker, action, limit) -> bool:
  """The meaning of `after`, said without an automaton: the first marker, then the action."""
  for end in range(len(marker), len(tokens) + 1):
    if list(tokens[end - len(marker):end]) == list(marker):
      free = list(tokens[:end - len(marker)])
      return len(free) <= limit and not {EOS, PAD} & set(free) and action(tokens[end:])
  return False


@hypothesis.given(choices, st.data())
def test_every_walk_through_slots_is_an_action_and_ends(slots, draw):
  g = grammar.slots([sorted(ids) for ids in slots], VOCAB, **ENDS)
  tokens = walk(g, draw)
  assert len(tokens) == g.longest == len(slots) + 1 and tokens[-1] == EOS
  assert all(token in ids for token, ids in zip(tokens, slots))
  assert g.accepts(tokens) and g.accepts([*tokens, PAD, PAD])


@hypothesis.given(choices, st.lists(st.integers(0, VOCAB - 1), max_size=10))
def test_slots_accept_nothing_else(slots, tokens):
  g = grammar.slots([sorted(ids) for ids in slots], VOCAB, **ENDS)
  body = tokens[:len(slots)]
  valid = (
      len(tokens) > len(slots)
      and all(token in ids for token, ids in zip(body, slots))
      and tokens[len(slots)] == EOS
      and not any(tokens[len(slots) + 1:]))
  assert g.accepts(tokens) == valid
  action = [min(ids) for ids in slots]
  assert not g.accepts(action)
  assert not g.accepts([*action[:-1], EOS])
  assert not g.accepts([*action, EOS, action[0]])


@hypothesis.given(answers, st.data())
def test_every_walk_through_a_trie_is_one_of_its_answers(lines, draw):
  g = grammar.trie(lines, VOCAB, **ENDS)
  tokens = walk(g, draw)
  assert tokens[:-1] in lines and tokens[-1] == EOS
  assert g.accepts(tokens)
  assert g.longest == max(map(len, lines)) + 1


@hypothesis.given(answers, st.lists(WORDS, max_size=5))
def test_a_trie_accepts_its_answers_and_nothing_else(lines, other):
  g = grammar.trie(lines, VOCAB, **ENDS)
  assert all(g.accepts([*line, EOS]) for line in lines)
  assert g.accepts([*other, EOS]) == (other in lines)
  assert not g.accepts(lines[0])


@hypothesis.given(markers, choices, st.integers(0, 6), st.data())
def test_every_walk_after_a_marker_is_a_plan_and_an_action(marker, slots, limit, draw):
  action = grammar.slots([sorted(ids) for ids in slots], VOCAB, **ENDS)
  g = grammar.after(marker, action, limit, **ENDS)
  tokens = walk(g, draw)
  assert tokens[-1] == EOS and len(tokens) <= g.longest
  assert g.longest == limit + len(marker) + action.longest
  assert ends_in(tokens, marker, action.accepts, limit)
  assert g.accepts(tokens)


@hypothesis.given(
    markers, st.integers(0, 5), st.lists(st.integers(0, 5), max_size=12), st.booleans())
def test_a_plan_means_what_its_words_say(marker, limit, tokens, finish):
  action = grammar.slots([[2, 3], [3, 4]], VOCAB, **ENDS)
  if finish:
    tokens = [*tokens, *marker, 2, 3, EOS]
  g = grammar.after(marker, action, limit, **ENDS)
  assert g.accepts(tokens) == ends_in(tokens, marker, action.accepts, limit)


def test_a_marker_that_restarts_inside_a_failed_match_is_found():
  action = grammar.slots([[20]], VOCAB, **ENDS)
  g = grammar.after([5, 5, 6], action, limit=3, **ENDS)
  assert g.accepts([5, 5, 5, 6, 20, EOS])
  assert not g.accepts([5, 5, 5, 6, 5, EOS])


def test_the_marker_is_forced_when_the_free_tokens_are_spent():
  action = grammar.slots([[20]], VOCAB, **ENDS)
  g = grammar.after([5, 6], action, limit=2, **ENDS)
  state = g.start
  for token in (30, 31):
    state = g.step(state, token)
  assert np.flatnonzero(g.allowed(state)).tolist() == [5]
  assert np.flatnonzero(g.allowed(g.step(state, 5))).tolist() == [6]
  assert g.accepts([30, 31, 5, 6, 20, EOS])
  assert not g.accepts([EOS]) and not g.accepts([30, EOS])


@hypothesis.given(st.lists(st.integers(1, VOCAB - 1), max_size=10))
def test_a_question_takes_any_text_up_to_eos(tokens):
  g = grammar.anything(VOCAB, **ENDS)
  first_end = tokens.index(EOS) if EOS in tokens else None
  assert g.accepts(tokens) == (first_end is not None and first_end == len(tokens) - 1)
  if first_end is None:
    assert g.accepts([*tokens, EOS, PAD])
    assert not g.accepts([*tokens, PAD])
  assert g.longest is None


@hypothesis.given(choices, answers, markers, st.integers(0, 4), st.data())
def test_in_a_union_every_row_follows_its_own_grammar(slots, lines, marker, limit, draw):
  action = grammar.slots([sorted(ids) for ids in slots], VOCAB, **ENDS)
  parts = {
      'question': grammar.anything(VOCAB, **ENDS),
      'action': action,
      'table': grammar.trie(lines, VOCAB, **ENDS),
      'plan': grammar.after(marker, action, limit, **ENDS),
  }
  whole, starts = grammar.union(parts)
  assert list(starts) == list(parts) and whole.start == starts['question']
  name = draw.draw(st.sampled_from(sorted(parts)))
  alone, row = parts[name].start, starts[name]
  for token in walk(parts[name], draw, most=20):
    assert np.array_equal(whole.allowed(row), parts[name].allowed(alone))
    row, alone = whole.step(row, token), parts[name].step(alone, token)


def test_no_state_is_a_dead_end_and_the_tables_are_small():
  vocab_size = 250_112
  action = grammar.slots([[10, 11]] + [range(10, 266)] * 7, vocab_size, **ENDS)
  whole, _ = grammar.union({
      'question': grammar.anything(vocab_size, **ENDS),
      'action': action,
      'plan': grammar.after([290, 291], action, 32, **ENDS),
  })
  assert (whole.next_SxC >= 0).any(1).all()
  assert whole.next_SxC.shape[1] < 10
  assert whole.token_class_V.shape == (vocab_size,)
  assert whole.next_SxC.dtype == whole.token_class_V.dtype == np.int32


def test_a_state_that_refuses_everything_is_refused():
  with pytest.raises(ValueError, match='state 1 refuses every token'):
    grammar.Grammar(np.zeros(3, np.int32), np.array([[1], [-1]], np.int32), 0, None)


@pytest.mark.parametrize('build', [
    lambda ids: grammar.slots([[5], ids], VOCAB, **ENDS),
    lambda ids: grammar.trie([[5], ids], VOCAB, **ENDS),
    lambda ids: grammar.after(ids, grammar.slots([[5]], VOCAB, **ENDS), 3, **ENDS),
])
@pytest.mark.parametrize('ids', [[], [VOCAB], [-1], [EOS], [5, PAD]])
def test_ids_that_cannot_stand_in_an_answer_are_refused(build, ids):
  with pytest.raises(ValueError, match=r'(slot 1|answer 1|marker).* needs ids in \[0, 40\)'):
    build(ids)


def test_an_empty_trie_and_a_negative_limit_are_refused():
  with pytest.raises(ValueError, match='at least one answer'):
    grammar.trie([], VOCAB, **ENDS)
  with pytest.raises(ValueError, match='limit .* is -1'):
    grammar.after([5], grammar.anything(VOCAB, **ENDS), -1, **ENDS)


def test_grammars_of_two_vocabularies_are_not_joined():
  with pytest.raises(ValueError, match="got sizes {'a': 40, 'b': 41}"):
    grammar.union({'a': grammar.anything(40, **ENDS), 'b': grammar.anything(41, **ENDS)})
  with pytest.raises(ValueError, match='got sizes {}'):
    grammar.union({})


def test_eos_outside_the_vocabulary_is_refused():
  with pytest.raises(ValueError, match='token 99 is outside the vocabulary'):
    grammar.anything(VOCAB, eos=99, pad=PAD)


def test_an_answer_that_cannot_be_finished_is_refused_at_the_start():
  action = grammar.slots([[5]] * 8, VOCAB, **ENDS)
  grammar.check_fits(action, 9)
  with pytest.raises(ValueError, match='up to 9 tokens with EOS, but only 8'):
    grammar.check_fits(action, 8)
  with pytest.raises(ValueError, match='up to 14 tokens'):
    grammar.check_fits(grammar.after([5], action, 4, **ENDS), 13)
  grammar.check_fits(grammar.anything(VOCAB, **ENDS), 1)


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory) -> vocabulary_lib.Vocabulary:
  file = str(tmp_path_factory.mktemp('grammar') / 'text.model')
  vocabulary_lib.train(['pick the red can', 'what is on the table?'], file, vocab_size=1500)
  return vocabulary_lib.Vocabulary(file)


def test_rt2_actions_are_eight_slots(vocabulary):
  g = grammar.for_actions(actions.RT2, vocabulary)
  assert g.longest == 9
  ids = vocabulary.encode('1 128 91 241 5 101 127 217')
  assert g.accepts([*ids, EOS, PAD])
  assert not g.accepts([*ids[:7], EOS])
  assert not g.accepts([*vocabulary.encode('2 128 91 241 5 101 127 217'), EOS])
  assert not g.accepts([*vocabulary.encode('1 128 91 241 5 101 127 256'), EOS])
  assert set(np.flatnonzero(g.allowed(g.start))) == set(vocabulary.action_ids_256[:2].tolist())


def test_language_table_actions_are_441_answers(vocabulary):
  g = grammar.for_actions(actions.LANGUAGE_TABLE, vocabulary)
  accepted = [
      (x, y) for x in range(-12, 13) for y in range(-12, 13)
      if g.accepts([*vocabulary.encode(f'{x} {y}'), EOS])]
  assert accepted == [(x, y) for x in range(-10, 11) for y in range(-10, 11)]


def test_a_space_with_too_many_long_answers_is_refused(vocabulary):
  wide = actions.ActionSpace('wide', tuple(
      actions.Dimension(f'x{i}', '', -1, 1, first=-100, last=100) for i in range(3)))
  with pytest.raises(ValueError, match='wide has 8120601 actions'):
    grammar.for_actions(wide, vocabulary)
