"""A lab's own episodes: copies of two gin files, changed in their marked lines, and no Python."""

import json
import pathlib
import re

import pytest
import tensorflow_datasets as tfds

from tests.data import rlds_fixture
from tests.end_to_end import commands

TASKS = (
    'put the small yellow spatula to the left of the silver pot',
    'move the blue towel from the drawer to the sink',
)
# What the layout at the end of gin/data/my_robot.gin calls the keys of the fixture's episodes.
RENAMED = {
    'steps/observation/image_0': 'steps/observation/front_camera',
    'steps/language_instruction': 'steps/task',
    'steps/action': 'steps/action',
    'steps/is_first': 'steps/is_first',
    'steps/is_last': 'steps/is_last',
}


def copy(
    home: pathlib.Path, template: str, name: str, lines: dict[str, str], own_layout: bool = False,
) -> None:
  """Copies a gin file; `lines` says what stands behind a name, or in an include."""
  text = (commands.ROOT / template).read_text()
  for key, value in lines.items():
    old = f"(include) '{key}'" if key.endswith('.gin') else rf'(?m)^( *{key} =) .*'
    new = f"'{value}'" if key.endswith('.gin') else value
    text, times = re.subn(old, lambda match: f'{match[1]} {new}', text)
    assert times == 1, f'{template} has {times} lines for {key}'
  if own_layout:
    above, block = text.split('\n# mixtures.robot.source.layout')
    text = above + re.sub('(?m)^# ', '', '\n# mixtures.robot.source.layout' + block)
  (home / name).write_text(text)


def assert_it_trains(home: pathlib.Path) -> None:
  commands.succeed(home, *commands.main(
      'train', '--gin_file=my_robot.gin', '--gin.TRAIN_STEPS=2', '--gin.BATCH_SIZE=8',
      '--gin.EVAL_PERIOD=2', '--gin.EVAL_STEPS=1'))
  summary = json.loads((home / 'run/summary.json').read_text())
  assert summary['steps'] == 2 and summary['finished']


def test_another_rlds_directory_is_trained_on_and_evaluated_without_python(tmp_path):
  data = tmp_path / 'lab' / '1.0.0'
  episodes = [
      rlds_fixture.episode('bridge', seed=i, instruction=TASKS[i % 2]) for i in range(24)
  ]
  rlds_fixture.write(data, 'bridge', [episodes[:12], episodes[12:]])
  before = sorted(path.name for path in data.iterdir())

  out = commands.succeed(
      tmp_path, 'tools.train_vocabulary', str(data), '--output=vocabulary.model',
      '--index_dir=index')
  printed = dict(line.split(' = ') for line in out.split('For the gin file:\n')[1].splitlines())
  assert set(printed) == {'VOCABULARY_FILE', 'VOCAB_SIZE', 'INPUTS_LENGTH'}
  copy(tmp_path, 'gin/data/my_robot.gin', 'my_data.gin', printed | {
      'data_dir': f"'{data}'", 'layout': "'bridge'", 'index_dir': "'index'"})
  copy(tmp_path, 'gin/experiments/my_robot.gin', 'my_robot.gin', {
      'gin/data/my_robot.gin': 'my_data.gin', 'MODEL_DIR': "'run'"})

  assert_it_trains(tmp_path)

  commands.succeed(tmp_path, *commands.main(
      'eval', '--gin_file=my_data.gin', '--gin_file=gin/runs/eval.gin',
      "--gin.CHECKPOINT_PATH='run'", "--gin.MIXTURE_OR_TASK_NAME='robot'",
      "--gin.OUTPUT_PATH='eval.json'", '--gin.BATCH_SIZE=8'))
  assert json.loads((tmp_path / 'eval.json').read_text())['robot']['valid'] == 1.0
  # Data on a read-only disk stays as it is.
  assert sorted(path.name for path in data.iterdir()) == before


@pytest.mark.slow  # What the tools make of the gin file is in tests/tools.
def test_episodes_of_another_schema_are_read_by_the_layout_that_the_gin_file_declares(
    tmp_path, monkeypatch):
  features = rlds_fixture.FEATURES['bridge']['steps'].feature
  monkeypatch.setitem(rlds_fixture.FEATURES, 'lab', {'steps': tfds.features.Dataset({
      'observation': {'front_camera': features['observation']['image_0']},
      'task': features['language_instruction'],
      **{key: features[key] for key in ('action', 'is_first', 'is_last')},
  })})
  data = tmp_path / 'lab' / '1.0.0'
  rlds_fixture.write(data, 'lab', [[
      {new: values[old] for old, new in RENAMED.items()}
      for values in (rlds_fixture.episode('bridge', seed=i, instruction=TASKS[i % 2])
                     for i in range(24))]])
  lines = {'data_dir': f"'{data}'", 'index_dir': "'index'"}
  copy(tmp_path, 'gin/data/my_robot.gin', 'my_data.gin', lines, own_layout=True)
  ours = '--gin_file=my_data.gin', f'--gin_search_paths={commands.ROOT}'

  # Its vocabulary is not there yet.
  out = commands.succeed(tmp_path, 'tools.inspect_dataset', *ours)
  assert 'tabletop/train[:95%]: 115 examples from 120 steps of 24 episodes' in out
  assert 'gripper (absolute): open 40.0%' in out
  out = commands.succeed(
      tmp_path, 'tools.train_vocabulary', *ours, '--output=vocabulary.model')
  assert 'tabletop/train[95%:]: 1 prompts' in out
  printed = dict(line.split(' = ') for line in out.split('For the gin file:\n')[1].splitlines())
  copy(tmp_path, 'gin/data/my_robot.gin', 'my_data.gin', printed | lines, own_layout=True)
  copy(tmp_path, 'gin/experiments/my_robot.gin', 'my_robot.gin', {
      'gin/data/my_robot.gin': 'my_data.gin', 'MODEL_DIR': "'run'"})

  assert_it_trains(tmp_path)
