"""The SentencePiece files of the imported families serve as vocabularies, and travel in assets."""

import json
import string

import numpy as np
import pytest
import sentencepiece

from rt2_train import vocabulary
from tests.convert import conftest

NAME = 'umt5_siglip'
_GIN = """
from __gin__ import dynamic_registration

from rt2_train import actions
from rt2_train import images
from rt2_train import processor
from rt2_train import vocabulary

include '{model}'

PROCESSOR = @processor.Processor()
processor.Processor:
  vocabulary = @vocabulary.Vocabulary()
  action_space = @actions.rt2()
  image_spec = @images.ImageSpec()
  inputs_length = 64
  targets_length = 16
vocabulary.Vocabulary:
  model_file = '{tokenizer}'
  action_tokens = '{action_tokens}'
images.ImageSpec:
  height = %IMAGE_SIZE
  width = %IMAGE_SIZE
IMAGE_SIZE = 16
VOCAB_SIZE = 1408
"""


def train(file, sentinels=(), **settings):
  """A unigram model as T5's makers trained theirs: pad, eos and unk, and no piece per integer."""
  rng = np.random.default_rng(0)
  words = [''.join(rng.choice(list(string.ascii_lowercase), size=6)) for _ in range(600)]
  sentences = [' '.join([*rng.choice(words, size=9), str(i)]) for i in range(1000)]
  with open(file, 'wb') as out:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=out, model_type='unigram',
        vocab_size=900, hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        user_defined_symbols=list(sentinels), minloglevel=2, **settings)


@pytest.mark.parametrize('family, sentinel', [
    ('t5', None), ('mt5', '\u2581<extra_id_{}>'), ('umt5', '<extra_id_{}>')])
def test_a_familys_tokenizer_is_a_vocabulary(tmp_path, family, sentinel):
  file = tmp_path / f'{family}.model'
  train(file, [sentinel.format(i) for i in range(4)] if sentinel else [],
        byte_fallback=family == 'umt5', split_digits=True)
  with pytest.raises(ValueError, match="one piece of its own for each of 0..255.*least_frequent"):
    vocabulary.Vocabulary(str(file))
  known = vocabulary.Vocabulary(str(file), action_tokens='least_frequent')
  integers = [1, 128, 91, 241, 5, 101, 127, 217]
  assert known.decode_integers(known.encode_integers(integers)) == integers
  if sentinel:
    assert len(known.sentinel_ids) == 4


def test_assets_of_an_import_hold_the_vocabulary_and_which_ids_are_actions(tmp_path):
  tokenizer = tmp_path / 'umt5.model'
  train(tokenizer, split_digits=True)
  gin_file = tmp_path / 'model.gin'
  gin_file.write_text(_GIN.format(
      model=conftest.FIXTURES / NAME / 'model.gin', tokenizer=tokenizer,
      action_tokens='least_frequent'))
  conftest.run(gin_file, conftest.halves(NAME), tmp_path / 'out')
  assets = tmp_path / 'out/assets'
  assert (assets / 'vocabulary.model').read_bytes() == tokenizer.read_bytes()
  settings = json.loads((assets / 'processor.json').read_text())
  assert settings['action_ids'] == vocabulary.least_frequent(str(tokenizer)).tolist()
  assert json.loads((assets / 'model.json').read_text())['language']['vocab_size'] == 1408
