"""What does not fit is refused by the command in one clear line, and what is there stays."""

import hashlib
import pathlib
import subprocess

import pytest
import sentencepiece

from tests.end_to_end import commands


@pytest.fixture(scope='module')
def home(home):
  """A directory with data and a run of two steps in runs/known."""
  done = train(home, "--gin.MODEL_DIR='runs/known'")
  assert done.returncode == 0, done.stderr
  return home


def train(home: pathlib.Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
  command = commands.main(
      'train', '--gin_file=gin/experiments/demo_from_scratch.gin', '--gin.TRAIN_STEPS=2',
      '--gin.BATCH_SIZE=8', '--gin.EVAL_PERIOD=0', *arguments,
  )  # pyformat: disable
  return commands.run(home, *command, **environment)


def contents(directory: pathlib.Path) -> dict[str, str]:
  return {
      str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
      for path in directory.rglob('*') if path.is_file()
  }


def assert_refused(done: subprocess.CompletedProcess, *parts: str) -> None:
  assert done.returncode not in (0, 75), done.stderr
  last = done.stderr.strip().splitlines()[-1]
  assert last.startswith('rt2_train train: '), done.stderr
  for part in parts:
    assert part in last


def test_a_tokenizer_without_integer_pieces(home):
  text = [f'pick the object number {i} of {i * 7 % 300} and {i * 11 % 999}' for i in range(900)]
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(text), model_prefix=str(home / 'plain'), vocab_size=60,
      hard_vocab_limit=False, split_digits=True, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
      minloglevel=2)
  done = train(home, "--gin.MODEL_DIR='runs/new'", "--gin.VOCABULARY_FILE='plain.model'")
  assert_refused(done, 'plain.model', 'integer 0', "action_tokens='integers' needs one piece",
                 'least_frequent')
  assert not (home / 'runs/new').exists()


def test_a_batch_that_does_not_divide_over_the_devices(home):
  done = train(home, "--gin.MODEL_DIR='runs/new'", '--gin.BATCH_SIZE=7', JAX_PLATFORMS='cpu',
               XLA_FLAGS='--xla_force_host_platform_device_count=2')
  assert_refused(done, 'BATCH_SIZE 7', '2 devices', 'use a multiple of 2')
  assert not (home / 'runs/new').exists()


@pytest.mark.parametrize(
    'binding, parts',
    [
        ('encoder_decoder.EncoderDecoderConfig.width=192',
         ['model.json', 'width is 96 in the checkpoint and 192 in this run']),
        ('actions.rt2.position=0.3', ['action_space.json', '0.15 in the checkpoint and', '0.3 in this run']),
    ],
    ids=['another model', 'another action space'],
)
def test_a_run_of_something_else_is_not_resumed(home, binding, parts):
  known = home / 'runs/known'
  before = contents(known)
  done = train(home, "--gin.MODEL_DIR='runs/known'", '--gin.TRAIN_STEPS=4', f'--gin.{binding}')
  assert_refused(done, 'runs/known/checkpoint_2', *parts, 'another MODEL_DIR')
  assert contents(known) == before
