"""The two commands a lab runs on its data first, run as a lab runs them."""

import os
import subprocess
import sys

from absl import flags
from absl.testing import flagsaver
import gin
import numpy as np
import PIL.Image
import pytest

from rt2_train import actions
from rt2_train import main as main_lib
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
  source = index_dataset.open_source(str(tmp_path), splits=[split] if split else [])
  assert index_dataset.index(source, on_bad) == status


def test_a_directory_without_metadata_is_one_line_and_a_status(tmp_path):
  result = run('index_dataset', tmp_path)
  assert result.returncode == 1
  assert result.stderr == (
      f'error: {tmp_path}/features.json is missing; a TFDS directory holds features.json, '
      'dataset_info.json and its shards\n')


# The vocabulary is yet to be trained: whoever builds the processor fails.
GIN = """
from __gin__ import dynamic_registration

import mixtures.robot
import mixtures.sources
from rt2_train import vocabulary
from rt2_train.data import layouts

mixtures.robot.source:
  data_dir = {data_dir!r}
  layout = @layouts.Layout()
  splits = {{'train': 'train[:3]', 'validation': 'train[3:]'}}
  index_dir = {index_dir!r}
mixtures.sources.model.processor = @vocabulary.Vocabulary()
vocabulary.Vocabulary.model_file = 'no/such/file.model'

layouts.Layout:
  name = 'second_camera'
  images = ['observation/image_1']
  instruction = 'language_instruction'
  motion_keys = 'action'
  motion = @layouts.flat_open_motion
  gripper = 'absolute'
"""


def named(*arguments: str) -> list[index_dataset.Source]:
  """What a tool reads when it is given these arguments."""
  try:
    with flagsaver.flagsaver():
      directories = flags.FLAGS(main_lib.gin_flags(['tool', *map(str, arguments)]))[1:]
      return index_dataset.named_sources(directories)
  finally:
    gin.clear_config()


@pytest.fixture
def lab(tmp_path):
  """Two datasets, a and b, and a gin file that names the first."""
  for name in 'ab':
    rlds_fixture.write(tmp_path / name, 'bridge', [rlds_fixture.episodes('bridge', 4)])
  rlds_fixture.write(tmp_path / 'b', 'bridge', [rlds_fixture.episodes('bridge', 1)], split='val')
  (tmp_path / 'lab.gin').write_text(
      GIN.format(data_dir=str(tmp_path / 'a'), index_dir=str(tmp_path / 'index')))
  return tmp_path


def test_a_gin_file_names_directory_layout_splits_and_index(lab, capsys):
  (source,) = named(f'--gin_file={lab}/lab.gin')
  assert source.directory.path == str(lab / 'a')
  assert source.layout.name == 'second_camera' and source.layout.motion_keys == ('action',)
  assert source.splits == ('train[:3]', 'train[3:]') and source.index_dir == str(lab / 'index')
  assert [len(source.steps(split)) for split in source.splits] == [15, 5]
  assert source.steps('train[3:]').images(1) == (rlds_fixture.jpeg(303),)
  # The index is of the whole split, and so is what is said of it.
  assert index_dataset.index(source) == 0
  assert capsys.readouterr().out.startswith('tabletop/train: 20 examples from 20 steps of 4 ')
  assert os.listdir(lab / 'index') == ['tabletop-0.1.0.train.second_camera.npz']


def test_gin_lines_and_flags_stand_in_place_of_what_the_file_says(lab):
  (source,) = named(
      f'--gin_file={lab}/lab.gin', f"--gin.mixtures.robot.source.data_dir='{lab}/b'",
      '--layout=bridge', '--split=val', f'--index_dir={lab}/other')
  assert source.directory.path == str(lab / 'b') and source.layout.name == 'bridge'
  assert source.splits == ('val',) and source.index_dir == str(lab / 'other')


def test_a_directory_stands_in_place_of_the_gin_files_with_all_its_splits(lab):
  (source,) = named(f'--gin_file={lab}/lab.gin', lab / 'b')
  assert source.directory.path == str(lab / 'b') and source.splits == ('train', 'val')
  assert source.layout.name == 'second_camera' and source.index_dir == str(lab / 'index')


def test_no_directory_anywhere_is_one_line_and_a_status(lab):
  said = ('no directory is named; give DIR, or with --gin_file a file that sets '
          'mixtures.robot.source.data_dir')
  result = run('inspect_dataset')
  assert (result.returncode, result.stderr) == (1, f'error: {said}\n')
  with pytest.raises(ValueError, match=said):
    named(f'--gin_file={lab}/lab.gin', '--gin.mixtures.robot.source.data_dir=None')


def test_a_layout_that_cannot_be_is_told_without_gins_call_stack(lab):
  result = run('index_dataset', f'--gin_file={lab}/lab.gin', "--gin.layouts.Layout.text='ascii'")
  assert result.returncode == 1
  assert result.stderr.splitlines()[-1] == (
      "error: layout 'second_camera': text is 'ascii', it takes one of utf8, code_points")


def test_a_layout_without_a_field_is_told_which(lab):
  text = (lab / 'lab.gin').read_text().replace("  instruction = 'language_instruction'\n", '')
  (lab / 'lab.gin').write_text(text)
  with pytest.raises(ValueError, match="gin: .*missing .* argument: 'instruction'"):
    named(f'--gin_file={lab}/lab.gin')


def test_help_names_the_directory_and_the_flags():
  result = run('inspect_dataset', '--help')
  assert 'python -m tools.inspect_dataset DIR' in result.stdout
  for flag in (
      '--layout: One of fractal, bridge_oxe', '--gin_file', '--action_space', '--output_dir'):
    assert flag in result.stdout
