"""Decoding with a cache writes what the whole network would, within each row's grammar."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_train import grammar
from rt2_train.models import decoding

EOS, PAD, VOCAB = 1, 0, 12


def table_model(logits_SxV, rows=1, length=2) -> decoding.Start:
  """A stand-in network: the logits of step i are row i, for every row of the batch."""

  def next_logits(token_B, step):
    logits_V = jax.lax.dynamic_index_in_dim(jnp.asarray(logits_SxV), step, keepdims=False)
    return jnp.broadcast_to(logits_V, (token_B.shape[0], logits_V.shape[0])), step + 1

  return decoding.Start(next_logits, jnp.int32(0), length, token_B=jnp.zeros(rows, jnp.int32))


def sequence(*tokens) -> np.ndarray:
  """Logits whose best token at step i is tokens[i]."""
  return 5 * np.eye(VOCAB, dtype=np.float32)[list(tokens)]


@pytest.mark.parametrize('text', [
    {}, {'relative_positions': 'per_layer', 'tied_embeddings': True, 'scan_layers': False},
])
def test_greedy_answers_and_scores_are_those_of_the_whole_network(tiny, batch, text):
  model = tiny.make_model(text=text)
  params = tiny.model_params(model, batch)
  answers, aux = jax.jit(model.predict_batch_with_aux)(params, batch)
  logits = jax.jit(lambda tokens: model.module.apply(
      {'params': params}, batch['encoder_input_tokens'], tokens, batch['images'],
      batch['image_mask']))(np.pad(answers[:, :-1], ((0, 0), (1, 0))))
  live = np.pad(np.cumsum(answers == EOS, 1)[:, :-1], ((0, 0), (1, 0))) == 0
  np.testing.assert_array_equal(np.where(live, logits.argmax(-1), PAD), answers)
  best = np.asarray(jax.nn.log_softmax(logits)).max(-1)
  np.testing.assert_allclose(aux['scores'], (best * live).sum(1), rtol=1e-4)
  assert len(np.unique(answers)) > 2


def test_the_self_attention_cache_has_the_layout_of_t5x(model, params, batch):
  module = model.module.clone(cache_length=6)

  def caches(params):
    encoded, valid = module.apply(
        {'params': params}, batch['encoder_input_tokens'], batch['images'], batch['image_mask'],
        method='encode')
    return module.apply(
        {'params': params}, jnp.zeros((3, 1), jnp.int32), encoded, valid, method='decode',
        mutable=['cache', 'cross'])[1]

  shapes = jax.tree.map(np.shape, jax.eval_shape(caches, params))
  assert shapes['cache']['decoder']['decoder']['self_attention'] == {
      'cached_key': (3, 3, 2, 6, 6), 'cached_value': (3, 3, 2, 6, 6), 'cache_index': (3,)}
  assert shapes['cross']['decoder']['decoder']['encoder_decoder_attention'] == {
      'cached_key': (3, 3, 2, 6, 17), 'cached_value': (3, 3, 2, 6, 17)}


def test_rows_stay_inside_their_grammar_and_do_not_touch_each_other(tiny, params, batch):
  action = grammar.slots([[3, 4], [5, 6, 7], range(20, 30)], tiny.VOCAB, eos=EOS, pad=PAD)
  grammars = {
      'question': grammar.anything(tiny.VOCAB, eos=EOS, pad=PAD),
      'action': action,
      'plan': grammar.after([8], action, 1, eos=EOS, pad=PAD),
  }
  _, starts = grammar.union(grammars)
  model = tiny.make_model(processor=tiny.make_processor(grammars))
  run = jax.jit(lambda state_B: model.predict_batch_with_aux(
      params, {**batch, 'grammar_state': state_B}))
  answer = lambda *names: run(np.array([starts[name] for name in names], np.int32))
  mixed, aux = answer('action', 'question', 'plan')
  assert grammars['action'].accepts(mixed[0].tolist())
  assert grammars['plan'].accepts(mixed[2].tolist())
  free, free_aux = answer('question', 'question', 'question')
  assert not grammars['action'].accepts(free[0].tolist())
  np.testing.assert_array_equal(mixed[1], free[1])
  np.testing.assert_allclose(aux['scores'][1], free_aux['scores'][1], rtol=1e-6)


def test_a_row_ends_with_eos_and_the_loop_with_the_last_row():
  logits = sequence(4, EOS, 7, 7, 7)
  tokens, scores = decoding.decode(
      table_model(logits, rows=2, length=5), eos_id=EOS)
  assert tokens.tolist() == [[4, EOS, PAD, PAD, PAD]] * 2
  expected = 2 * (5 - np.log(np.exp(5) + VOCAB - 1))
  np.testing.assert_allclose(scores, expected, rtol=1e-5)

  # A loop that went on would read a row of NaN.
  broken = np.concatenate([logits[:2], np.full((3, VOCAB), np.nan, np.float32)])
  _, scores = decoding.decode(
      table_model(broken, rows=2, length=5), eos_id=EOS)
  np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_a_constrained_score_counts_only_the_allowed_tokens():
  g = grammar.slots([[3, 9]], VOCAB, eos=EOS, pad=PAD)
  mask = decoding.GrammarMask(g.token_class_V, g.next_SxC, VOCAB)
  tokens, scores = decoding.decode(
      table_model(sequence(4, 4)), eos_id=EOS, mask=mask, start_B=jnp.array([g.start]))
  assert tokens.tolist() == [[3, EOS]]
  np.testing.assert_allclose(scores, [np.log(0.5)], rtol=1e-5)


def test_ids_beyond_the_tokenizer_are_refused():
  g = grammar.anything(6, eos=EOS, pad=PAD)
  mask = decoding.GrammarMask(g.token_class_V, g.next_SxC, VOCAB)
  logits = np.arange(VOCAB, dtype=np.float32)[None]
  masked = mask.apply(logits, jnp.array([g.start]))
  assert np.flatnonzero(np.isfinite(masked[0])).tolist() == [1, 2, 3, 4, 5]
  with pytest.raises(ValueError, match='the grammar is over 6 token ids, the model scores 5'):
    decoding.GrammarMask(g.token_class_V, g.next_SxC, 5)


def test_many_states_are_masked_as_few_are(monkeypatch):
  g = grammar.trie([[3, 9, 4], [3, 4], [7, 7]], VOCAB - 2, eos=EOS, pad=PAD)
  few = decoding.GrammarMask(g.token_class_V, g.next_SxC, VOCAB)
  monkeypatch.setattr(decoding, '_MOST_TABLE', 1)
  many = decoding.GrammarMask(g.token_class_V, g.next_SxC, VOCAB)
  states = jnp.arange(len(g.next_SxC))
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(len(states), VOCAB)), jnp.float32)
  np.testing.assert_array_equal(many.apply(logits, states), few.apply(logits, states))
  assert not np.isfinite(many.apply(logits, states)[:, -2:]).any()


def test_sampling_follows_the_tempered_distribution_of_the_allowed_tokens():
  g = grammar.slots([[3, 4]], VOCAB, eos=EOS, pad=PAD)
  mask = decoding.GrammarMask(g.token_class_V, g.next_SxC, VOCAB)
  logits = np.zeros((2, VOCAB), np.float32)
  logits[0, 3] = 2 * np.log(3)
  draw = jax.jit(lambda key: decoding.decode(
      table_model(logits, rows=4000), eos_id=EOS, mask=mask,
      start_B=jnp.zeros(4000, jnp.int32), temperature=2.0, rng=key))
  tokens, scores = draw(jax.random.key(0))
  assert set(np.unique(tokens[:, 0])) == {3, 4}
  assert np.mean(tokens[:, 0] == 3) == pytest.approx(0.75, abs=0.03)
  np.testing.assert_allclose(scores, np.log(np.where(tokens[:, 0] == 3, 0.9, 0.1)), rtol=1e-4)
  np.testing.assert_array_equal(draw(jax.random.key(0))[0], tokens)
  assert not np.array_equal(draw(jax.random.key(1))[0], tokens)


def test_sampling_without_a_key_is_refused():
  with pytest.raises(ValueError, match='temperature 0.5 needs'):
    decoding.decode(table_model(sequence(4)), eos_id=EOS, temperature=0.5)
