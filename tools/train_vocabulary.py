"""Trains a vocabulary on one's own text: python -m tools.train_vocabulary DIR --output=FILE.

The text is the robot prompt of every episode of the TFDS directories DIR, and every line of the
files in --texts (captions, questions and answers of the web data). In place of DIR,
--gin_file=my_data.gin reads what that file names for task `robot`; its VOCABULARY_FILE need not
exist yet. Ends with the lines that belong into the gin file.
"""

from collections.abc import Sequence
import os

from absl import app
from absl import flags
import numpy as np

from rt2_train import prompts
from rt2_train import vocabulary
from tools import index_dataset

for _name in index_dataset.SOURCE_FLAGS:
  flags.declare_key_flag(_name)

_OUTPUT = flags.DEFINE_string('output', None, 'Where the SentencePiece model goes; a new file.')
_VOCAB_SIZE = flags.DEFINE_integer(
    'vocab_size', 8000, 'Most pieces; little text ends in fewer.', lower_bound=1)
_TEXTS = flags.DEFINE_list('texts', [], 'Text files, UTF-8, a sentence per line; commas between.')
_NUM_SENTINELS = flags.DEFINE_integer(
    'num_sentinels', 0, 'Pieces that mark what span corruption leaves out; T5 has 100.',
    lower_bound=0)

# What a vocabulary sees once it spells out.
_REPEATS = 2
# Both sizes are rounded up: chips like a multiple of 128, and instructions grow by a word.
_TABLE_MULTIPLE, _LENGTH_MULTIPLE = 128, 8


def main(argv: list[str]) -> int:
  if not _OUTPUT.value:
    raise app.UsageError('say where the vocabulary goes: python -m tools.train_vocabulary DIR '
                         '--output=FILE')
  train(
      index_dataset.named_sources(argv[1:]), _OUTPUT.value, _VOCAB_SIZE.value, _TEXTS.value,
      _NUM_SENTINELS.value)
  return 0


def train(
    sources: Sequence[index_dataset.Source],
    output: str,
    vocab_size: int,
    text_files: Sequence[str] = (),
    num_sentinels: int = 0,
):
  """Trains the vocabulary, checks it, and prints what to put into the gin file.

  Raises:
    FileExistsError: `output` is there; a run may depend on it.
    ValueError, OSError: a dataset or text file cannot be read, or `vocab_size` is too small.
  """
  if os.path.exists(output):
    raise FileExistsError(f'{output} exists, and runs may depend on it; choose another --output')
  lines = [line for path in text_files for line in _lines(path)]
  instructions = []
  for source in sources:
    for name in source.splits:
      steps = source.steps(name)
      pairs = np.unique(np.stack([steps.episode_N, steps.instruction_N], 1), axis=0)
      instructions += [steps.instructions[number] for number in pairs[:, 1]]
      print(f'{steps.name}: {len(pairs)} prompts, {len(steps.instructions)} different ones')
  texts = [prompts.robot(instruction) for instruction in instructions]
  vocabulary.train((texts + lines) * _REPEATS, output, vocab_size, num_sentinels=num_sentinels)
  trained = vocabulary.Vocabulary(output)
  longest = max(set(texts), key=lambda text: (len(trained.encode(text)), text))
  length = len(trained.encode(longest))
  print(f'{output}: {trained.vocab_size} pieces; the longest prompt takes {length} tokens: '
        f'{longest!r}')
  print('For the gin file:')
  print(f'VOCABULARY_FILE = {output!r}')
  print(f'VOCAB_SIZE = {_round_up(trained.vocab_size, _TABLE_MULTIPLE)}')
  print(f'INPUTS_LENGTH = {_round_up(length, _LENGTH_MULTIPLE)}')


def _lines(path: str) -> list[str]:
  try:
    with open(path, encoding='utf-8') as file:
      return file.readlines()
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is not UTF-8 text ({error}); convert it first') from error


def _round_up(value: int, multiple: int) -> int:
  return -(-value // multiple) * multiple


if __name__ == '__main__':
  index_dataset.run(main)
