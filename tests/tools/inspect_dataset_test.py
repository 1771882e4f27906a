"""The two commands a lab runs on its data first, run as a lab runs them."""

import os
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from rt2_train import actions
from tests.data import rlds_fixture
from tools import index_dataset


def run(tool: str, *arguments: str, cwd=None) -> subprocess.CompletedProcess:
  environment = {**os.environ, 'PYTHONPATH': os.getcwd()}
  return subprocess.run(
      [sys.executable, '-m', f'tools.{tool}', *map(str, arguments)],
      capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


def write_with_faults(directory):
  episodes = rlds_fixture.episodes('fractal', 5, 8)
  episodes[1]['steps/action/world_vector'][2:4, 1] = 3.0
  episodes[3]['steps/action/terminate_episode'][:2] = [0, 0, 1]
  episodes[4]['steps/observation/image'][2] = b'\xff\xd8\xff'
  rlds_fixture.write(directory, 'fractal', [episodes])
  rlds_fixture.write(directory, 'fractal', [rlds_fixture.episodes('fractal', 2)], split='test')


def test_inspect_reports_counts_actions_and_faults_and_draws_pictures(tmp_path):
  data = tmp_path / 'tabletop' / '0.1.0'
  write_with_faults(data)
  result = run('inspect_dataset', data, cwd=tmp_path)
  assert result.returncode == 0, result.stderr
  out = result.stdout
  assert 'layout fractal: features.json has steps/observation/image' in out
  assert 'tabletop/train: 37 examples from 40 steps of 5 episodes, 3 instructions' in out
  assert 'tabletop/test: 10 examples from 10 steps of 2 episodes, 2 instructions' in out
  assert 'left out, base moves: 2' in out
  assert ('BROKEN, truncated image: 1\n    tabletop/train shard 00000 episode 4 step 2: '
          'observation/image: JPEG truncated (3 bytes, no end marker)') in out
  assert '3 distinct; most episodes:' in out
  assert '2  pick the red apple' in out
  (dy,) = [line.split() for line in out.splitlines() if line.split()[:1] == ['dy']][:1]
  assert dy[5] == '3.0000' and dy[8] == f'{2 / 37:.3%}'
  assert f'terminate: {5 / 37:.3%} of the steps; 100.0% of the episodes stop' in out
  assert 'gripper (relative): open ' in out
  for name in ('train_frames', 'train_actions', 'test_frames', 'test_actions'):
    path = tmp_path / 'runs' / 'inspect' / 'tabletop' / f'{name}.png'
    assert f'{name}.png' in out
    with PIL.Image.open(path) as picture:
      assert np.asarray(picture.convert('L')).std() > 10


def test_inspect_compares_with_the_bounds_it_is_given(tmp_path):
  rlds_fixture.write(tmp_path / 'data', 'bridge', [rlds_fixture.episodes('bridge', 2)])
  space = tmp_path / 'action_space.json'
  space.write_text(actions.rt2(position=0.02).to_json())
  result = run('inspect_dataset', tmp_path / 'data', f'--output_dir={tmp_path}/out',
               f'--action_space={space}')
  assert result.returncode == 0, result.stderr
  (dx,) = [line.split() for line in result.stdout.splitlines() if line.split()[:1] == ['dx']]
  assert dx[6:8] == ['-0.0200', '0.0200'] and float(dx[8].rstrip('%')) > 20


def test_index_exits_with_an_error_when_records_are_broken_and_names_them(tmp_path):
  write_with_faults(tmp_path / 'data')
  result = run('index_dataset', tmp_path / 'data', f'--index_dir={tmp_path}/index')
  assert result.returncode == 1
  assert 'episode 4 step 2: observation/image: JPEG truncated' in result.stdout
  assert sorted(os.listdir(tmp_path / 'index')) == [
      'tabletop-0.1.0.test.fractal.npz', 'tabletop-0.1.0.train.fractal.npz']


@pytest.mark.parametrize('split, on_bad, status', [
    (None, 'error', 1), (None, 'skip', 0), ('test', 'error', 0), ('train', 'error', 1)])
def test_the_status_is_about_the_splits_that_were_asked_for(tmp_path, split, on_bad, status):
  write_with_faults(tmp_path)
  assert index_dataset.index(str(tmp_path), None, split, None, on_bad) == status


def test_a_directory_without_metadata_is_one_line_and_a_status(tmp_path):
  result = run('index_dataset', tmp_path)
  assert result.returncode == 1
  assert result.stderr == (
      f'error: {tmp_path}/features.json is missing; a TFDS directory holds features.json, '
      'dataset_info.json and its shards\n')


def test_help_names_the_directory_and_the_flags():
  result = run('inspect_dataset', '--help')
  assert 'python -m tools.inspect_dataset DIR' in result.stdout
  for flag in ('--layout: One of fractal, bridge_oxe', '--action_space', '--output_dir'):
    assert flag in result.stdout
