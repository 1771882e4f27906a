"""Text and action integers <-> token ids, over a SentencePiece model.

RT-2 says actions with tokens that the language model already has: PaLI-X with the tokens of the
integers themselves, PaLM-E with its 256 least frequent ones, whose meaning is overwritten
(RT-2, section 3.2). Overwritten tokens do not survive a trip through text, so action integers
go to ids and back by table. Gemma's models have pieces to spare, which are told by their names.
"""

from collections.abc import Iterable, Sequence
import collections
import functools
import hashlib
import io
import logging
import os
import re
import string

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from rt2_train import prompts
from rt2_train import run_files
from rt2_train import sequences

NUM_ACTION_TOKENS = 256
_SPACE = '\u2581'
# The pieces that stand for spans of text left out (T5), as umT5 and as mT5 hold them.
_SENTINELS = ('<extra_id_{}>', f'{_SPACE}<extra_id_{{}}>')
# SentencePiece's own limits for a piece and for the pieces that training starts from.
_LONGEST_PIECE, _MOST_SEEDS = 16, 1_000_000
_TRAIN_REMEDY = (
    "make one with python -m tools.train_vocabulary, or use action_tokens='least_frequent'")


class Vocabulary:
  """A SentencePiece model, and which of its ids are the action integers 0..255.

  Attributes:
    model_file: where the model was read from.
    action_tokens: 'integers', 'least_frequent', or the form of the pieces' names.
    vocab_size: number of ids.
    pad_id, eos_id: 0 and 1, as T5 has them.
    unk_id: what text becomes that the model cannot write.
    bos_id: what texts begin with that a model of this vocabulary reads; None if it has no such.
    action_ids_256: int32 [256]; integer -> token id.
    fingerprint: sha256 over the model, the scheme and the action ids.
  """

  pad_id = 0
  eos_id = 1

  def __init__(
      self,
      model_file: str,
      action_tokens: str = 'integers',
      action_ids: Sequence[int] | None = None,
  ):
    """Reads and checks a model.

    Args:
      model_file: a SentencePiece model with pad 0 and eos 1.
      action_tokens: 'integers' (PaLI-X), 'least_frequent' (PaLM-E), or a form with a field for the
        integer, such as '<loc{:04d}>' (PaliGemma) or '<unused{}>' (Gemma 3).
      action_ids: the 256 ids of 'least_frequent', when they were chosen before: by
        `least_frequent` from counts, or by the run that a checkpoint comes from.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no model, its pad or eos differ, or it cannot do `action_tokens`; then
        the message names the first integer that fails, and the remedy.
    """
    self.model_file = str(model_file)
    self.action_tokens = action_tokens
    self.model_bytes = _read(self.model_file)
    self._model = _load(self.model_bytes, self.model_file)
    self.vocab_size = self._model.get_piece_size()
    self.unk_id = self._model.unk_id()
    self.bos_id = self._model.bos_id() if self._model.bos_id() >= 0 else None
    if (self._model.pad_id(), self._model.eos_id()) != (self.pad_id, self.eos_id):
      raise ValueError(
          f'vocabulary {self.model_file}: pad is {self._model.pad_id()} and eos '
          f'{self._model.eos_id()}; they must be 0 and 1: train the model with pad_id=0, eos_id=1')
    if action_ids is not None and action_tokens != 'least_frequent':
      raise ValueError("action_ids go with action_tokens='least_frequent' only")
    if action_tokens == 'integers':
      self.action_ids_256 = self._integer_ids()
    elif action_tokens == 'least_frequent':
      if action_ids is None:
        action_ids = least_frequent(self.model_file)
      self.action_ids_256 = np.asarray(action_ids, np.int32)
      self._check_overwritten()
    elif '{' in action_tokens:
      self.action_ids_256 = self._named_ids(action_tokens)
      self._check_overwritten()
    else:
      raise ValueError(
          f"action_tokens is {action_tokens!r}; it must be 'integers', 'least_frequent' or a form "
          "such as '<loc{:04d}>'")
    self.action_ids_256.setflags(write=False)
    self._integer_of = {int(id_): i for i, id_ in enumerate(self.action_ids_256)}
    self.fingerprint = hashlib.sha256(
        self.model_bytes + action_tokens.encode() + self.action_ids_256.tobytes()).hexdigest()

  @functools.cached_property
  def sentinel_ids(self) -> tuple[int, ...]:
    """Ids of <extra_id_0>, <extra_id_1>, ...: what stands for a span of text that is left out (T5).

    Raises:
      ValueError: the model has none.
    """
    for form in _SENTINELS:
      ids = []
      while (id_ := self._model.piece_to_id(form.format(len(ids)))) != self.unk_id:
        ids.append(id_)
      if ids:
        return tuple(ids)
    raise ValueError(
        f'vocabulary {self.model_file} has no piece <extra_id_0>, but span corruption marks with '
        'such pieces what it leaves out; use a model that holds them (mT5, umT5), or train one '
        'with vocabulary.train(..., num_sentinels=100)')

  def __eq__(self, other) -> bool:
    return isinstance(other, Vocabulary) and self.fingerprint == other.fingerprint

  def __hash__(self) -> int:
    return hash(self.fingerprint)

  def encode(self, text: str) -> list[int]:
    """Ids of `text`, without EOS."""
    return self._model.encode(text)

  def decode(self, ids: Sequence[int]) -> str:
    """Text of `ids` up to EOS, without padding and images.

    Overwritten tokens read as their integers. Ids beyond the vocabulary (a model's table may be
    rounded up) read as the unknown sign.
    """
    ids = [id_ for id_ in ids if id_ != sequences.IMAGE_TOKEN_ID]
    ids = [id_ if id_ < self.vocab_size else self.unk_id for id_ in self._answer(ids)]
    if self.action_tokens == 'integers':
      return self._model.decode(ids)
    parts = []
    for integer, run in self._runs(ids):
      parts.append(str(integer) if integer is not None else self._model.decode(run))
    return ' '.join(part for part in parts if part)

  def encode_integers(self, integers: Sequence[int]) -> list[int]:
    """Ids of action integers: 0..255 by the table, all others as the model writes their text.

    Raises:
      ValueError: the model has no way to write an integer.
    """
    ids = []
    for integer in map(int, integers):
      if 0 <= integer < NUM_ACTION_TOKENS:
        ids.append(int(self.action_ids_256[integer]))
        continue
      # The space keeps two integers apart in models that add none of their own.
      written = self.encode(f' {integer}')
      if self.unk_id in written:
        raise ValueError(
            f'vocabulary {self.model_file} cannot write {integer}: it lacks a character of it; '
            f'train it with digits and the minus sign, or choose action integers within 0..255')
      ids.extend(written)
    return ids

  def decode_integers(self, ids: Sequence[int]) -> list[int]:
    """Inverse of `encode_integers`, up to EOS and without padding.

    Raises:
      ValueError: `ids` say something else than integers.
    """
    ids = self._answer(ids)
    integers = [self._integer_of.get(id_) for id_ in ids]
    if None not in integers and self.action_tokens != 'integers':
      return integers
    # Under 'integers' an action token may also begin a longer number (1234 is '123' + '4').
    words = self.decode(ids).split()
    for word in words:
      if not re.fullmatch('-?[0-9]+', word):
        raise ValueError(f'tokens {ids[:16]} read {" ".join(words)!r}: {word!r} is no integer')
    return [int(word) for word in words]

  def _answer(self, ids: Sequence[int]) -> list[int]:
    ids = [int(id_) for id_ in ids]
    if self.eos_id in ids:
      ids = ids[:ids.index(self.eos_id)]
    return [id_ for id_ in ids if id_ != self.pad_id]

  def _runs(self, ids: Sequence[int]):
    """Splits `ids` into action integers, (integer, []), and text between, (None, ids)."""
    run = []
    for id_ in ids:
      if id_ not in self._integer_of:
        run.append(id_)
        continue
      yield None, run
      yield self._integer_of[id_], []
      run = []
    yield None, run

  def _integer_ids(self) -> np.ndarray:
    ids = []
    for integer in range(NUM_ACTION_TOKENS):
      pieces = self._model.encode(str(integer), out_type=str)
      id_ = self._model.piece_to_id(pieces[0])
      if len(pieces) > 1 or id_ == self.unk_id or id_ in ids:
        problem = 'unknown' if id_ == self.unk_id else f'{len(pieces)} pieces {pieces}'
        raise ValueError(
            f"vocabulary {self.model_file}: integer {integer} is {problem}, but "
            f"action_tokens='integers' needs one piece of its own for each of 0..255; "
            f'{_TRAIN_REMEDY}')
      ids.append(id_)
    # A tokenizer may treat the first word of a text and the others differently, and a piece may
    # run over the border of two integers: one text that holds every pair of neighbours.
    text = []
    for a in range(NUM_ACTION_TOKENS):
      text += [a, *(each for b in range(a + 1, NUM_ACTION_TOKENS) for each in (a, b))]
    expected = [ids[integer] for integer in text]
    joined = self.encode(' '.join(map(str, text)))
    if joined != expected:
      at = next((k for k, pair in enumerate(zip(joined, expected)) if pair[0] != pair[1]), 0)
      raise ValueError(
          f'vocabulary {self.model_file}: integer {text[at]} is one piece alone but not inside '
          f"{' '.join(map(str, text[max(at - 2, 0):at + 3]))!r}, which action_tokens='integers' "
          f'needs; {_TRAIN_REMEDY}')
    split = [i for i in range(NUM_ACTION_TOKENS, 1000) if len(self.encode(str(i))) != 1]
    if split:
      logging.warning(
          'vocabulary %s: %d of the integers 256..999 are not one piece (first: %d); actions do '
          'not need them, detection answers will be longer', self.model_file, len(split), split[0])
    return np.array(ids, np.int32)

  def _named_ids(self, form: str) -> np.ndarray:
    ids = []
    for integer in range(NUM_ACTION_TOKENS):
      name = form.format(integer)
      ids.append(self._model.piece_to_id(name))
      if ids[-1] == self.unk_id:
        raise ValueError(
            f'vocabulary {self.model_file} has no piece {name}, which action_tokens={form!r} '
            "needs; use a model that has them, or action_tokens='least_frequent'")
    return np.array(ids, np.int32)

  def _check_overwritten(self):
    ids = self.action_ids_256
    if ids.shape != (NUM_ACTION_TOKENS,) or len(set(ids.tolist())) != NUM_ACTION_TOKENS:
      raise ValueError(
          f'action_ids must be {NUM_ACTION_TOKENS} distinct ids, got shape {list(ids.shape)} with '
          f'{len(set(ids.ravel().tolist()))} distinct')
    special = {self.pad_id, self.eos_id, self.unk_id}
    for integer, id_ in enumerate(ids.tolist()):
      if id_ in special or not 0 <= id_ < self.vocab_size:
        raise ValueError(
            f'action id of integer {integer} is {id_}; it must be an ordinary piece below '
            f'{self.vocab_size} of {self.model_file}')


def least_frequent(
    model_file: str,
    counts: Sequence[int] | None = None,
    reserved: Iterable[str] | None = None,
) -> np.ndarray:
  """The ids of the 256 rarest pieces, rarest first, for actions to overwrite: int32 [256].

  Only ordinary pieces are taken, none of a single character, with a digit, or used by
  `reserved`. Ties go to the smaller id, so the choice depends on its arguments alone.

  Args:
    model_file: a SentencePiece model.
    counts: how often each id occurs in a corpus, [vocab_size]; None takes the model's scores,
      which are log-probabilities in a unigram model.
    reserved: texts whose pieces stay as they are; None takes the prompt templates.

  Raises:
    ValueError: the scores say nothing about frequency (BPE: they are merge ranks) and no counts
      are given, or fewer than 256 pieces qualify.
  """
  proto = sentencepiece_model_pb2.ModelProto()
  model_bytes = _read(model_file)
  model = _load(model_bytes, model_file)
  proto.ParseFromString(model_bytes)
  if counts is None:
    if proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM:
      raise ValueError(
          f'vocabulary {model_file} is no unigram model, so its scores are not frequencies; count '
          f'its pieces on a corpus, choose with vocabulary.least_frequent(model_file, counts) and '
          f'pass the result as action_ids, or use a unigram model')
    rarity = [piece.score for piece in proto.pieces]
  else:
    rarity = list(counts)
    if len(rarity) != len(proto.pieces):
      raise ValueError(
          f'counts are for {len(rarity)} ids, vocabulary {model_file} has {len(proto.pieces)}')
  if reserved is None:
    # Whatever fills a field, it is the words around it that every prompt uses.
    anything = collections.defaultdict(lambda: 'x')
    reserved = [template.format_map(anything) for template in prompts.TEMPLATES.values()]
  kept = {id_ for text in reserved for id_ in model.encode(text)}
  candidates = []
  for id_, piece in enumerate(proto.pieces):
    text = piece.piece.replace(_SPACE, '')
    if (piece.type == piece.NORMAL and id_ not in kept and len(text) > 1
        and not any(character.isdigit() for character in text)):
      candidates.append(id_)
  if len(candidates) < NUM_ACTION_TOKENS:
    raise ValueError(
        f'vocabulary {model_file} has {len(candidates)} pieces that actions may overwrite, '
        f'{NUM_ACTION_TOKENS} are needed; use a larger vocabulary')
  candidates.sort(key=lambda id_: (rarity[id_], id_))
  return np.array(candidates[:NUM_ACTION_TOKENS], np.int32)


def train(
    texts: Iterable[str],
    model_file: str,
    vocab_size: int,
    num_integers: int = 1000,
    num_sentinels: int = 0,
) -> None:
  """Trains a unigram model in which each of 0..num_integers-1 is one piece; writes it whole.

  Ids are pad 0, eos 1, unk 2 and no bos. All printable ASCII can be written, whatever the texts
  hold. A small corpus may end in fewer than `vocab_size` pieces. The same texts give the same
  bytes.

  Args:
    texts: one sentence, prompt or answer each.
    model_file: where to write; the old file stays until the new one is complete.
    vocab_size: largest number of pieces.
    num_integers: how many integers get their own piece; detection uses 1000.
    num_sentinels: how many `sentinel_ids` it has, in mT5's form; span corruption needs some.

  Raises:
    ValueError: there is no text, or `vocab_size` is too small for the integers, sentinels and
      characters.
  """
  characters = set(string.printable) - set(string.whitespace)
  needed = 3 + num_integers + num_sentinels + len(characters)
  if vocab_size <= needed:
    sentinels = f', {num_sentinels} sentinels' if num_sentinels else ''
    raise ValueError(
        f'vocab_size is {vocab_size}; it must be above {needed}: 3 special pieces, {num_integers} '
        f'integers{sentinels} and {len(characters)} characters come before the first word')
  sentences = [text for text in (' '.join(text.split()) for text in texts) if text]
  if not sentences:
    raise ValueError(f'no text to train {model_file} on')
  os.makedirs(os.path.dirname(os.path.abspath(model_file)), exist_ok=True)
  model = io.BytesIO()
  seeds_file = f'{model_file}.seeds'
  with open(seeds_file, 'w', encoding='utf-8') as file:
    file.writelines(f'{piece}\t{count}\n' for piece, count in _seeds(sentences))
  try:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type='unigram',
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        seed_sentencepieces_file=seeds_file,
        # '\u2581' makes the piece a whole word: a bare '12' would need a space piece before it.
        user_defined_symbols=[
            *(f'{_SPACE}{i}' for i in range(num_integers)),
            *(_SENTINELS[-1].format(i) for i in range(num_sentinels))],
        required_chars=''.join(sorted(characters)),
        character_coverage=1.0,
        byte_fallback=False,
        # Longer sentences would be left out without a word.
        max_sentence_length=max(len(text.encode()) for text in sentences) + 1,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
  except (RuntimeError, OSError) as error:
    raise ValueError(f'SentencePiece cannot train {model_file}: {error}') from error
  finally:
    os.remove(seeds_file)
  proto = sentencepiece_model_pb2.ModelProto()
  proto.ParseFromString(model.getvalue())
  # The model records where its seeds were; the same texts must give the same bytes anywhere.
  proto.trainer_spec.ClearField('seed_sentencepieces_file')
  run_files.write(model_file, proto.SerializeToString(deterministic=True))


def _seeds(sentences: Sequence[str]) -> list[tuple[str, int]]:
  """The pieces that training starts from, each with its count: all parts of all words.

  SentencePiece's own seeds are the parts that two *different* words share, however often each
  word occurs. In a small corpus of few words most words share nothing, and 'action' would end as
  six letters although every prompt has it.
  """
  normalizer = sentencepiece.SentencePieceNormalizer(rule_name='nmt_nfkc')
  words = collections.Counter(
      _SPACE + word for text in normalizer.normalize(sentences) for word in text.split())
  parts = collections.Counter()
  for word, count in words.items():
    for begin in range(len(word)):
      for end in range(begin + 1, min(len(word), begin + _LONGEST_PIECE) + 1):
        parts[word[begin:end]] += count
  # What occurs once teaches nothing, but every character must be possible.
  seeds = [(part, count) for part, count in parts.items() if count > 1 or len(part) == 1]
  seeds.sort(key=lambda seed: (-seed[1] * len(seed[0]), seed[0]))
  return seeds[:_MOST_SEEDS]


def _read(model_file: str) -> bytes:
  if not os.path.isfile(model_file):
    raise FileNotFoundError(
        f'vocabulary {model_file} does not exist; name a SentencePiece .model file, or make one '
        'with python -m tools.train_vocabulary')
  with open(model_file, 'rb') as file:
    return file.read()


def _load(model_bytes: bytes, model_file: str) -> sentencepiece.SentencePieceProcessor:
  try:
    return sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
  except (RuntimeError, OSError, ValueError) as error:
    raise ValueError(f'vocabulary {model_file} is not a SentencePiece model') from error
