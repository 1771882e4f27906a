"""What does not fit is refused by the command in one clear line, and what is there stays."""

import hashlib
import json
import os
import pathlib
import shutil
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
  done = train(home, "--gin.MODEL_DIR='runs/new'", '--gin.BATCH_SIZE=7',
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


OTHER_MIXTURE = "--gin.MIXTURE_OR_TASK_NAME='cofinetune'"
OTHER_DATA = "--gin.DATA_DIR='runs/exchanged/data'"


@pytest.fixture(scope='module')
def exchanged(home):
  """The same data in runs/exchanged, but that two shards of equal length have changed places."""
  data = home / 'runs/exchanged/data'
  shutil.copytree(home / 'runs/demo/data', data)
  directory = data / 'tabletop/0.1.0'
  splits = json.loads((directory / 'dataset_info.json').read_text())['splits']
  [lengths] = [split['shardLengths'] for split in splits if split['name'] == 'train']
  assert lengths[0] == lengths[1]
  first, second = (
      directory / f'tabletop-train.tfrecord-{i:05}-of-{len(lengths):05}' for i in range(2))
  os.replace(first, directory / 'aside')
  os.replace(second, first)
  os.replace(directory / 'aside', second)
  return home


@pytest.mark.parametrize(
    'binding, parts',
    [
        (OTHER_MIXTURE, ['mixture captions was absent, is ', 'sources captions was absent, is ']),
        pytest.param(OTHER_DATA, ['sources robot was '], marks=pytest.mark.slow),
    ],
    ids=['another mixture', 'another dataset'],
)
def test_a_run_is_not_resumed_on_other_data(exchanged, binding, parts):
  known = exchanged / 'runs/known'
  before = contents(known)
  done = train(exchanged, "--gin.MODEL_DIR='runs/known'", '--gin.TRAIN_STEPS=4', binding)
  assert_refused(
      done, 'the data of this run are not those it was saved with: ', *parts,
      'set ALLOW_DATA_CHANGE = True')
  assert contents(known) == before


def test_a_run_goes_on_with_other_data_when_it_may_and_records_them(exchanged):
  shutil.copytree(exchanged / 'runs/known', exchanged / 'runs/allowed')
  done = train(
      exchanged, "--gin.MODEL_DIR='runs/allowed'", '--gin.TRAIN_STEPS=3', OTHER_MIXTURE, OTHER_DATA,
      '--gin.ALLOW_DATA_CHANGE=True')
  assert done.returncode == 0, done.stderr
  summary = json.loads((exchanged / 'runs/allowed/summary.json').read_text())
  assert summary['finished'] and (summary['start_step'], summary['steps']) == (2, 3)
  [recorded] = commands.lines(exchanged / 'runs/allowed/data_changes.jsonl')
  assert recorded['step'] == 2
  changed = {change.partition(' was ')[0] for change in recorded['changes']}
  assert changed >= {
      'mixture captions', 'mixture vqa', 'sources captions', 'sources vqa', 'sources robot'}
