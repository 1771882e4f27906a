"""The README's commands, small: make data, train, resume, evaluate, infer, act; and wrong input."""

import functools
import json
import pathlib
import subprocess

import pytest

from tests.end_to_end import commands

SMALL = [
    '--gin.BATCH_SIZE=8', '--gin.CHECKPOINT_PERIOD=4', '--gin.EVAL_PERIOD=4',
    '--gin.EVAL_EXAMPLES=16', '--gin.EVAL_STEPS=1', '--gin.train.log_period=2',
]  # pyformat: disable


def main(home: pathlib.Path, mode: str, *arguments: str) -> subprocess.CompletedProcess:
  return commands.run(home, *commands.main(mode, *arguments))


def train(home: pathlib.Path, experiment: str, *arguments: str) -> subprocess.CompletedProcess:
  return main(home, 'train', f'--gin_file=gin/experiments/{experiment}.gin', *SMALL, *arguments)


def evaluation(mode: str, output: str) -> list[str]:
  return [
      mode, '--gin_file=gin/data/demo.gin', f'--gin_file=gin/runs/{mode}.gin',
      "--gin.CHECKPOINT_PATH='runs/demo/cofinetune'", "--gin.MIXTURE_OR_TASK_NAME='cofinetune'",
      f"--gin.OUTPUT_PATH='{output}'", '--gin.BATCH_SIZE=16',
  ]  # pyformat: disable


def test_the_recipe_from_data_to_a_robot_that_moves(home):
  done = train(home, 'demo_pretrain', '--gin.TRAIN_STEPS=4')
  assert done.returncode == 0, done.stderr
  done = train(home, 'demo_cofinetune', '--gin.TRAIN_STEPS=4')
  assert done.returncode == 0, done.stderr
  # The same command with more steps goes on where it stopped.
  done = train(home, 'demo_cofinetune', '--gin.TRAIN_STEPS=6')
  assert done.returncode == 0 and 'resuming' in done.stderr, done.stderr
  assert 'trained: runs/demo/cofinetune is at step 6' in done.stderr
  run_dir = home / 'runs/demo/cofinetune'
  lines = commands.lines(run_dir / 'train-metrics.jsonl')
  assert [line['step'] for line in lines] == [2, 4, 6]
  assert {'loss/robot', 'loss/vqa', 'loss/captions'} <= set(lines[-1])
  summary = json.loads((run_dir / 'summary.json').read_text())
  assert summary['steps'] == 6 and summary['start_step'] == 4 and summary['finished']
  for name in ('config.gin', 'model-info.txt', 'mixtures.txt', 'checkpoint_6/assets/model.json',
               'checkpoint_6/assets/action_space.json', 'checkpoint_6/assets/config.gin'):
    assert (run_dir / name).exists(), name

  commands.succeed(
      home, 'tools.curves', 'runs/demo/pretrain', 'runs/demo/cofinetune', '--output=out/curves.png')
  assert (home / 'out/curves.png').stat().st_size > 10_000

  done = main(home, *evaluation('eval', 'out/offline.json'))
  assert done.returncode == 0, done.stderr
  offline = json.loads((home / 'out/offline.json').read_text())
  # However little it has learnt, an action prompt is only ever answered with an action.
  assert offline['robot']['valid'] == 1.0
  assert 0 <= offline['vqa']['accuracy'] <= 1 and 'terminate/f1' in offline['robot']

  # The data file last would read the checkpoint's data with another processor.
  done = main(
      home, 'eval', '--gin_file=gin/runs/eval.gin', '--gin_file=gin/data/demo.gin',
      "--gin.CHECKPOINT_PATH='runs/demo/cofinetune'", "--gin.MIXTURE_OR_TASK_NAME='cofinetune'",
      "--gin.OUTPUT_PATH='out/wrong.json'", '--gin.actions.rt2.position=0.3',
  )  # pyformat: disable
  assert done.returncode == 1 and 'is not the one these data are read with' in done.stderr
  assert not (home / 'out/wrong.json').exists()

  done = main(home, *evaluation('infer', 'out/answers.jsonl'), '--gin.EVAL_EXAMPLES=4')
  assert done.returncode == 0, done.stderr
  answers = commands.lines(home / 'out/answers.jsonl')
  assert {answer['source'] for answer in answers} == {'robot', 'vqa', 'captions'}
  robot = next(answer for answer in answers if answer['source'] == 'robot')
  assert len(robot['action']) == 8 and len(robot['prediction'].split()) == 8

  assert 'seen' in commands.succeed(
      home, 'tools.closed_loop', '--checkpoint=runs/demo/cofinetune', '--output_dir=out/played',
      '--num_episodes=3', '--suites=seen,unseen',
  )  # pyformat: disable
  assert len((home / 'out/played/episodes.jsonl').read_text().splitlines()) == 6


def test_a_mixture_is_shown_as_a_table_and_a_picture(home):
  shown = commands.succeed(
      home, 'tools.inspect_mixture', f'--gin_search_paths={commands.ROOT}',
      '--gin_file=gin/experiments/demo_cofinetune.gin', '--output=out/mixture.png', '--batches=3',
  )  # pyformat: disable
  assert 'robot' in shown and '0.5000' in shown
  assert (home / 'out/mixture.png').stat().st_size > 10_000


slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--gin.BATCH_SZIE=8'], 'did you mean BATCH_SIZE?'),
        (["--gin.MIXTURE_OR_TASK_NAME='cofinetun'"], "did you mean 'cofinetune'?"),
        slow(["--gin.mixtures.robot.source.data_dir='nowhere'"], 'nowhere'),
        slow(["--gin.INITIAL_CHECKPOINT_PATH='nowhere'"], 'nowhere'),
        slow(['--gin_file=nowhere.gin'], 'nowhere.gin'),
    ],
)
def test_wrong_input_ends_in_one_clear_line_and_nothing_half_written(home, arguments, message):
  done = train(home, 'demo_cofinetune', "--gin.MODEL_DIR='runs/wrong'", '--gin.TRAIN_STEPS=2',
               "--gin.INITIAL_CHECKPOINT_PATH=None", *arguments)
  assert done.returncode != 0
  last = done.stderr.strip().splitlines()[-1]
  assert last.startswith('rt2_train train: ') and message in last, done.stderr
  assert not list((home / 'runs').glob('wrong/checkpoint_*'))
