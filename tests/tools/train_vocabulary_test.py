"""The command that makes a vocabulary for one's own instructions."""

import os
import subprocess
import sys

import pytest

from rt2_train import prompts
from rt2_train import vocabulary
from tests.data import rlds_fixture
from tools import index_dataset
from tools import train_vocabulary

SENTENCE = 'put the small yellow spatula to the left of the silver pot'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  path = tmp_path_factory.mktemp('data') / 'tabletop'
  episodes = rlds_fixture.episodes('bridge', 3)
  episodes.append(rlds_fixture.episode('bridge', seed=3, instruction=SENTENCE))
  rlds_fixture.write(path, 'bridge', [episodes])
  return str(path)


def settings(out: str) -> dict[str, str]:
  lines = out.split('For the gin file:\n')[1].splitlines()
  return dict(line.split(' = ') for line in lines)


def test_words_of_the_instructions_and_texts_are_pieces_and_the_gin_lines_fit(
    data, tmp_path, capsys):
  texts = tmp_path / 'web.txt'
  texts.write_text('a photograph of a giraffe\neine Giraffe im Gehölz\n', encoding='utf-8')
  output = str(tmp_path / 'new' / 'vocabulary.model')
  source = index_dataset.open_source(data, index_dir=str(tmp_path / 'index'))
  train_vocabulary.train([source], output, 1400, [str(texts)])
  trained = vocabulary.Vocabulary(output)
  prompt = prompts.robot(SENTENCE)
  # One piece for each word, and some for punctuation.
  assert len(trained.encode(prompt)) <= len(prompt.split()) + 4
  assert len(trained.encode('photograph giraffe')) == 2
  assert trained.unk_id not in trained.encode('Gehölz')
  out = capsys.readouterr().out
  assert 'layout bridge: ' in out and 'tabletop/train: 4 prompts, 4 different ones' in out
  printed = settings(out)
  assert printed['VOCABULARY_FILE'] == repr(output)
  size, length = int(printed['VOCAB_SIZE']), int(printed['INPUTS_LENGTH'])
  assert size % 128 == 0 and 0 <= size - trained.vocab_size < 128
  assert 0 <= length - len(trained.encode(prompt)) < 8


def test_the_same_data_gives_the_same_bytes_wherever_the_file_goes(data, tmp_path):
  files = [tmp_path / name for name in ('a.model', 'b.model')]
  source = index_dataset.open_source(data, index_dir=str(tmp_path / 'index'))
  for file in files:
    train_vocabulary.train([source], str(file), 1400)
  assert files[0].read_bytes() == files[1].read_bytes()


def test_a_vocabulary_that_runs_may_depend_on_stays(data, tmp_path):
  output = tmp_path / 'vocabulary.model'
  output.write_bytes(b'precious')
  with pytest.raises(FileExistsError, match='choose another --output'):
    train_vocabulary.train([index_dataset.open_source(data)], str(output), 1400)
  assert output.read_bytes() == b'precious'


def test_text_that_is_no_text_is_named(data, tmp_path):
  binary = tmp_path / 'web.txt'
  binary.write_bytes(b'\xff\xfe\x00')
  source = index_dataset.open_source(data)
  with pytest.raises(ValueError, match='web.txt is not UTF-8'):
    train_vocabulary.train([source], str(tmp_path / 'v.model'), 1400, [str(binary)])


def test_too_few_pieces_are_one_line_and_a_status(data, tmp_path):
  result = subprocess.run(
      [sys.executable, '-m', 'tools.train_vocabulary', data, f'--output={tmp_path}/v.model',
       '--vocab_size=500', f'--index_dir={tmp_path}/index'],
      capture_output=True, text=True, timeout=120, env={**os.environ, 'PYTHONPATH': os.getcwd()},
      check=False)
  assert result.returncode == 1
  assert result.stderr.splitlines()[-1].startswith('error: vocab_size is 500; it must be above')
  assert not list(tmp_path.glob('v.model*'))
