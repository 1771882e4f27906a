"""Which tokens say an action, checked on models that can and models that cannot."""

import logging
import random

import numpy as np
import pytest
import sentencepiece

from rt2_train import prompts
from rt2_train import vocabulary as vocabulary_lib


def corpus(num_words=900, num_texts=4000) -> list[str]:
  """Sentences of made-up words, few of them frequent, between the prompts of the house."""
  rng = random.Random(0)
  syllables = [c + v for c in 'bdfgklmnprstvz' for v in 'aeiou']
  words = [''.join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(num_words)]
  weights = [1 / (rank + 1) for rank in range(num_words)]
  texts = [prompts.robot(' '.join(rng.choices(words, weights, k=4))) for _ in range(num_texts)]
  return texts + [prompts.vqa(text) for text in texts[:200]]


def trained(directory, name, **options) -> str:
  """A model as others train them, without our integer pieces."""
  file = directory / f'{name}.model'
  settings = dict(
      vocab_size=1500, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False,
      minloglevel=2)
  with open(file, 'wb') as out:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=out, **{**settings, **options})
  return str(file)


@pytest.fixture(scope='module')
def model_file(tmp_path_factory) -> str:
  file = tmp_path_factory.mktemp('vocabulary') / 'ours.model'
  vocabulary_lib.train(corpus(), str(file), vocab_size=2500)
  return str(file)


@pytest.fixture(scope='module')
def ours(model_file) -> vocabulary_lib.Vocabulary:
  return vocabulary_lib.Vocabulary(model_file)


@pytest.fixture(scope='module')
def plain_file(tmp_path_factory) -> str:
  return trained(tmp_path_factory.mktemp('plain'), 'unigram')


@pytest.fixture(scope='module')
def bpe_file(tmp_path_factory) -> str:
  return trained(tmp_path_factory.mktemp('bpe'), 'bpe', model_type='bpe')


def test_the_papers_action_is_eight_tokens(ours):
  action = '1 128 91 241 5 101 127 217'
  ids = ours.encode(action)
  assert ids == ours.encode_integers(map(int, action.split()))
  assert len(ids) == 8
  assert ours.decode(ids) == action


def test_every_integer_below_a_thousand_is_one_token_alone_and_in_a_text(ours):
  assert all(len(ours.encode(str(i))) == 1 for i in range(1000))
  assert ours.encode('999 0 555 17') == [ours.encode(i)[0] for i in ('999', '0', '555', '17')]
  assert len(set(ours.action_ids_256.tolist())) == 256


def test_special_ids_are_those_of_t5(ours):
  assert (ours.pad_id, ours.eos_id, ours.unk_id) == (0, 1, 2)


@pytest.mark.parametrize('integers', [
    [-10, 3], [10, -10], [-1, -1], [0, 255], [256, 999], [1000, 1234, 5], [], [7]])
def test_integers_come_back_from_their_tokens(ours, integers):
  ids = ours.encode_integers(integers)
  assert ours.decode_integers([*ids, ours.eos_id, 0, 0]) == integers
  # The same tokens as the text of them, which is what a text target would hold.
  assert ids == ours.encode(' '.join(map(str, integers)))


@pytest.mark.parametrize('text', ['pick apple', '3 apples', '1.5', '1_000', '--3', '+4'])
def test_tokens_that_are_no_integers_are_refused(ours, text):
  with pytest.raises(ValueError, match='is no integer'):
    ours.decode_integers(ours.encode(text))


def test_text_comes_back_up_to_eos_without_padding(ours):
  text = prompts.robot("pick the can, it's near A-7!")
  ids = ours.encode(text)
  assert ours.unk_id not in ids
  assert ours.decode([*ids, ours.eos_id, *ids]) == text
  assert ours.decode([*ids, 0, 0]) == text
  assert ours.decode(np.array(ids, np.int32)) == text


def test_ids_beyond_the_vocabulary_read_as_unknown(ours):
  assert ours.decode([ours.vocab_size + 5]) == ours.decode([ours.unk_id])


def test_all_of_ascii_can_be_written_whatever_the_corpus_held(ours):
  text = ''.join(map(chr, range(33, 127)))
  assert ours.unk_id not in ours.encode(text)


def test_the_same_texts_train_the_same_bytes(tmp_path, model_file):
  vocabulary_lib.train(corpus(), str(tmp_path / 'again.model'), vocab_size=2500)
  with open(model_file, 'rb') as file:
    assert (tmp_path / 'again.model').read_bytes() == file.read()
  assert [path.name for path in tmp_path.iterdir()] == ['again.model']


def test_a_small_corpus_is_enough(tmp_path):
  file = str(tmp_path / 'small.model')
  vocabulary_lib.train(['pick the red can', 'what is on the table?'], file, vocab_size=4000)
  assert vocabulary_lib.Vocabulary(file).vocab_size < 4000


def test_words_that_every_text_has_are_one_token_though_no_other_word_resembles_them(tmp_path):
  file = str(tmp_path / 'words.model')
  vocabulary_lib.train(
      [prompts.robot(f'pick {name}') for name in ('can', 'cup', 'box')] * 20, file, 2000)
  assert len(vocabulary_lib.Vocabulary(file).encode(prompts.robot('pick can'))) <= 14


def test_long_texts_are_learnt_too(tmp_path):
  file = str(tmp_path / 'long.model')
  vocabulary_lib.train(['pick can'] * 10 + ['\u00e9t\u00e9 ' * 5000], file, vocab_size=1200)
  vocabulary = vocabulary_lib.Vocabulary(file)
  assert vocabulary.unk_id not in vocabulary.encode('\u00e9t\u00e9')


def test_training_that_cannot_work_leaves_nothing_behind(tmp_path):
  with pytest.raises(ValueError, match='no text to train'):
    vocabulary_lib.train(['', '  '], str(tmp_path / 'x.model'), vocab_size=2000)
  with pytest.raises(ValueError, match='vocab_size is 900; it must be above 1097'):
    vocabulary_lib.train(['pick'], str(tmp_path / 'x.model'), vocab_size=900)
  assert not list(tmp_path.iterdir())


def test_a_model_without_integer_pieces_is_refused_with_the_first_and_the_remedy(plain_file):
  with pytest.raises(ValueError, match='integer 0 is .*train_vocabulary.*least_frequent'):
    vocabulary_lib.Vocabulary(plain_file, 'integers')


def test_bare_digits_as_pieces_are_not_enough(tmp_path):
  # The common mistake: '128' becomes a space piece and '128'.
  symbols = [str(i) for i in range(256)]
  file = trained(tmp_path, 'bare', user_defined_symbols=symbols)
  with pytest.raises(ValueError, match='integer 0 is 2 pieces'):
    vocabulary_lib.Vocabulary(file)


def test_integers_that_merge_with_their_neighbours_are_refused(tmp_path):
  symbols = [f'\u2581{i}' for i in range(256)] + ['\u25811\u2581128']
  file = trained(tmp_path, 'merged', user_defined_symbols=symbols)
  with pytest.raises(ValueError, match='integer 1 is one piece alone but not inside .*1 128'):
    vocabulary_lib.Vocabulary(file)


def test_pieces_missing_between_256_and_999_are_a_warning(tmp_path, caplog):
  file = str(tmp_path / 'short.model')
  vocabulary_lib.train(corpus(50, 200), file, vocab_size=900, num_integers=300)
  with caplog.at_level(logging.WARNING):
    vocabulary_lib.Vocabulary(file)
  assert '700 of the integers 256..999 are not one piece (first: 300)' in caplog.text


def test_least_frequent_takes_rare_whole_words_only(plain_file):
  vocabulary = vocabulary_lib.Vocabulary(plain_file, 'least_frequent')
  model = sentencepiece.SentencePieceProcessor(model_file=plain_file)
  ids = vocabulary.action_ids_256.tolist()
  assert len(set(ids)) == 256
  scores = [model.get_score(id_) for id_ in ids]
  assert scores == sorted(scores)
  for id_ in ids:
    piece = model.id_to_piece(id_).replace('\u2581', '')
    assert len(piece) > 1 and not any(map(str.isdigit, piece))
    assert not (model.is_control(id_) or model.is_unknown(id_) or model.is_byte(id_))
  used = set(model.encode(prompts.robot('x'))) | set(model.encode(prompts.vqa('x')))
  assert not used & set(ids)


def test_ties_go_to_the_smaller_id(plain_file):
  model = sentencepiece.SentencePieceProcessor(model_file=plain_file)
  ids = vocabulary_lib.least_frequent(plain_file, counts=[5] * model.get_piece_size())
  assert ids.tolist() == sorted(ids.tolist())


def test_pieces_of_reserved_texts_are_kept(plain_file):
  model = sentencepiece.SentencePieceProcessor(model_file=plain_file)
  before = vocabulary_lib.least_frequent(plain_file)
  word = model.decode([int(before[0])])
  after = vocabulary_lib.least_frequent(plain_file, reserved=[word])
  assert not set(model.encode(word)) & set(after.tolist())


def test_overwritten_tokens_come_back_by_table_and_read_as_integers(plain_file):
  vocabulary = vocabulary_lib.Vocabulary(plain_file, 'least_frequent')
  action = [1, 128, 91, 241, 5, 101, 127, 217]
  ids = vocabulary.encode_integers(action)
  assert ids == vocabulary.action_ids_256[action].tolist()
  assert vocabulary.decode_integers([*ids, vocabulary.eos_id]) == action
  text = [*vocabulary.encode('action:'), *ids]
  assert vocabulary.decode(text) == 'action: 1 128 91 241 5 101 127 217'


def test_least_frequent_writes_negative_integers_as_text(tmp_path, model_file):
  vocabulary = vocabulary_lib.Vocabulary(model_file, 'least_frequent')
  for integers in ([-10, 3], [10, -10], [-1, -1], [300, 301]):
    assert vocabulary.decode_integers(vocabulary.encode_integers(integers)) == integers


def test_merge_ranks_are_not_taken_for_frequencies(bpe_file):
  with pytest.raises(ValueError, match='not frequencies; count .* or use a unigram model'):
    vocabulary_lib.Vocabulary(bpe_file, 'least_frequent')


def test_counts_choose_for_a_model_whose_scores_do_not(bpe_file):
  model = sentencepiece.SentencePieceProcessor(model_file=bpe_file)
  counts = np.bincount(
      [id_ for ids in model.encode(corpus()) for id_ in ids], minlength=model.get_piece_size())
  ids = vocabulary_lib.least_frequent(bpe_file, counts)
  vocabulary = vocabulary_lib.Vocabulary(bpe_file, 'least_frequent', ids)
  assert np.array_equal(vocabulary.action_ids_256, ids)
  assert counts[ids].max() <= np.median(counts)
  with pytest.raises(ValueError, match='counts are for 3 ids'):
    vocabulary_lib.least_frequent(bpe_file, [1, 2, 3])


def test_too_small_a_vocabulary_has_nothing_to_overwrite(tmp_path):
  file = trained(tmp_path, 'tiny', vocab_size=150)
  with pytest.raises(ValueError, match='256 are needed; use a larger vocabulary'):
    vocabulary_lib.Vocabulary(file, 'least_frequent')


@pytest.mark.parametrize('ids, message', [
    ([5] * 256, '256 distinct'), (range(3, 10), '256 distinct'), (range(256), 'integer 0 is 0'),
    (range(9000, 9256), 'ordinary piece below')])
def test_action_ids_that_cannot_be_are_refused(plain_file, ids, message):
  with pytest.raises(ValueError, match=message):
    vocabulary_lib.Vocabulary(plain_file, 'least_frequent', ids)


def test_an_integer_the_model_cannot_write_is_refused(plain_file):
  vocabulary = vocabulary_lib.Vocabulary(plain_file, 'least_frequent')
  with pytest.raises(ValueError, match='cannot write -7'):
    vocabulary.encode_integers([-7])


def test_what_is_no_model_is_refused_by_name(tmp_path):
  with pytest.raises(FileNotFoundError, match='nothing.model does not exist'):
    vocabulary_lib.Vocabulary(str(tmp_path / 'nothing.model'))
  (tmp_path / 'junk.model').write_bytes(b'this is no model')
  with pytest.raises(ValueError, match='junk.model is not a SentencePiece model'):
    vocabulary_lib.Vocabulary(str(tmp_path / 'junk.model'))


def test_another_padding_is_refused(tmp_path):
  file = trained(tmp_path, 'llama', pad_id=-1, unk_id=0, bos_id=1, eos_id=2)
  with pytest.raises(ValueError, match='pad is -1 and eos 2; they must be 0 and 1'):
    vocabulary_lib.Vocabulary(file, 'least_frequent')


def test_sentinels_are_found_in_the_form_in_which_mt5_holds_them(tmp_path):
  file = str(tmp_path / 'sentinels.model')
  vocabulary_lib.train(corpus(50, 200), file, 900, num_integers=256, num_sentinels=7)
  vocabulary = vocabulary_lib.Vocabulary(file)
  assert vocabulary.decode([*vocabulary.encode('a'), vocabulary.sentinel_ids[3]]).split() == [
      'a', '<extra_id_3>']
  assert len(set(vocabulary.sentinel_ids)) == 7
  # They come after the integers and change no other piece before them.
  without = str(tmp_path / 'plain.model')
  vocabulary_lib.train(corpus(50, 200), without, 900, num_integers=256)
  assert vocabulary_lib.Vocabulary(without).encode('7 255') == vocabulary.encode('7 255')


@pytest.mark.parametrize('form', ['<extra_id_{}>', '\u2581<extra_id_{}>'])
def test_sentinels_may_stand_in_any_order(tmp_path, form):
  # mT5 holds them last to first.
  symbols = [form.format(i) for i in reversed(range(5))]
  file = trained(tmp_path, 'other', user_defined_symbols=symbols)
  vocabulary = vocabulary_lib.Vocabulary(file, 'least_frequent')
  model = sentencepiece.SentencePieceProcessor(model_file=file)
  assert [model.id_to_piece(id_) for id_ in vocabulary.sentinel_ids] == symbols[::-1]


def test_a_model_without_sentinels_says_so_when_it_is_asked(ours):
  with pytest.raises(ValueError, match='ours.model has no piece <extra_id_0>, but span corruption'
                     r'.*use a model that holds them \(mT5, umT5\), or train one with '):
    _ = ours.sentinel_ids


def test_a_misspelt_scheme_is_refused(model_file):
  with pytest.raises(ValueError, match="action_tokens is 'integer'"):
    vocabulary_lib.Vocabulary(model_file, 'integer')


def test_the_fingerprint_tells_models_and_schemes_apart(model_file, plain_file):
  prints = {
      vocabulary_lib.Vocabulary(model_file).fingerprint,
      vocabulary_lib.Vocabulary(model_file, 'least_frequent').fingerprint,
      vocabulary_lib.Vocabulary(plain_file, 'least_frequent').fingerprint,
  }
  assert len(prints) == 3
  assert vocabulary_lib.Vocabulary(model_file) == vocabulary_lib.Vocabulary(model_file)


def gemma_like(directory, form: str) -> str:
  """Byte-pair pieces, <bos>, no dummy prefix, and 256 named pieces to spare."""
  return trained(
      directory, 'gemma', model_type='bpe', bos_id=2, unk_id=3, add_dummy_prefix=False,
      normalization_rule_name='identity', remove_extra_whitespaces=False,
      user_defined_symbols=['\n', *(form.format(i) for i in range(256))])


@pytest.mark.parametrize('form', ['<loc{:04d}>', '<unused{}>'])
def test_actions_are_pieces_told_by_the_form_of_their_names(tmp_path, form):
  vocabulary = vocabulary_lib.Vocabulary(gemma_like(tmp_path, form), form)
  ids = vocabulary.encode_integers([0, 7, 255])
  model = sentencepiece.SentencePieceProcessor(vocabulary.model_file)
  assert [model.id_to_piece(id_) for id_ in ids] == [form.format(i) for i in (0, 7, 255)]
  assert vocabulary.decode_integers([*ids, vocabulary.eos_id]) == [0, 7, 255]
  assert vocabulary.decode(ids) == '0 7 255'
  assert vocabulary.encode('dodi') == model.encode('dodi')
  assert vocabulary.bos_id == 2


def test_a_model_without_pieces_of_such_names_is_refused_by_the_first(plain_file):
  with pytest.raises(ValueError, match='no piece <loc0000>'):
    vocabulary_lib.Vocabulary(plain_file, '<loc{:04d}>')


def test_a_model_without_a_start_has_no_bos(ours):
  assert ours.bos_id is None
