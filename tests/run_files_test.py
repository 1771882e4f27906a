"""Files are replaced at once or not at all; checkpoints are found, and half ones passed over."""

import os
import pathlib

import pytest

from rt2_train import run_files


def a_run(directory: pathlib.Path, *steps: int) -> pathlib.Path:
  for step in steps:
    state = directory / f'checkpoint_{step}' / 'state'
    state.mkdir(parents=True)
    (state / '_METADATA').touch()
    (state.parent / '_CHECKPOINT_METADATA').touch()
  return directory


def test_a_file_is_written_with_its_directory_and_leaves_nothing_else(tmp_path):
  path = tmp_path / 'run' / 'summary.json'
  run_files.write(path, 'one')
  run_files.write(path, b'two')
  assert path.read_text() == 'two'
  assert os.listdir(path.parent) == ['summary.json']


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
  path = tmp_path / 'summary.json'
  run_files.write(path, 'old')
  with pytest.raises(KeyError), run_files.replacing(path) as partial:
    pathlib.Path(partial).write_text('half of the n')
    raise KeyError
  assert path.read_text() == 'old'
  assert os.listdir(tmp_path) == ['summary.json']
  (tmp_path / 'summary.json.partial').mkdir()
  with pytest.raises(OSError):
    run_files.write(path, 'new')
  assert path.read_text() == 'old'


def test_the_newest_whole_checkpoint_is_found_unless_another_is_named(tmp_path):
  run = a_run(tmp_path, 90, 100)
  (run / 'checkpoint_110' / 'state').mkdir(parents=True)
  (run / 'checkpoint_best').mkdir()
  assert run_files.checkpoint_steps(run) == [90, 100, 110]
  assert run_files.find_checkpoint(run) == run / 'checkpoint_100'
  assert run_files.find_checkpoint(str(run), 90) == run / 'checkpoint_90'
  assert run_files.find_checkpoint(run / 'checkpoint_90') == run / 'checkpoint_90'


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no checkpoint of step 95; it has \[90, 100\]'):
    run_files.find_checkpoint(a_run(tmp_path / 'run', 90, 100), 95)
  with pytest.raises(FileNotFoundError, match='nowhere holds no whole checkpoint_<step>; name the'):
    run_files.find_checkpoint(tmp_path / 'nowhere')
