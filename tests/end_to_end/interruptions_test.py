"""Runs that are told to stop, or killed, save and go on; processes that train together end together."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.end_to_end import commands
from tests.end_to_end import small_run

KEEP_RUNNING = ['bash', str(commands.ROOT / 'launch/keep_running.sh'), '--max_restarts=3', '--']


@pytest.fixture(scope='module')
def small(home) -> pathlib.Path:
  (home / 'small.gin').write_text(small_run.GIN)
  return home


def training(directory: str, steps: int) -> list[str]:
  return commands.main(
      'train', '--gin_file=small.gin', f"--gin.MODEL_DIR='{directory}'",
      f"--gin.RECORDED='{directory}/recorded'", f'--gin.train.train_steps={steps}',
      '--gin.train.checkpoint_period=10',
  )  # pyformat: disable


def wait_for_step(run_dir: pathlib.Path, step: int) -> None:
  lines, deadline = run_dir / 'train-metrics.jsonl', time.time() + 200
  while not (lines.exists() and lines.read_text().count('\n') >= step):
    assert time.time() < deadline, f'{run_dir} does not come to step {step}'
    time.sleep(0.05)


def test_a_run_that_is_told_to_stop_saves_exits_with_75_and_goes_on(small):
  run_dir = small / 'runs/alone'
  process = commands.Process(small, *training('runs/alone', 100_000))
  wait_for_step(run_dir, 3)
  process.terminate()
  assert process.finish(timeout=60).returncode == 75
  saved = json.loads((run_dir / 'summary.json').read_text())
  assert not saved['finished'] and (run_dir / f'checkpoint_{saved["steps"]}').is_dir()
  done = commands.run(small, *training('runs/alone', saved['steps'] + 2))
  assert done.returncode == 0 and f'at step {saved["steps"]}' in done.stderr, done.stderr


def test_all_processes_save_the_same_step_when_one_is_told_to_stop(small):
  run_dir = small / 'runs/told'
  started = [
      commands.Process(small, *training('runs/told', 100_000), *flag)
      for flag in commands.together(2)]
  wait_for_step(run_dir, 3)
  started[1].terminate()
  ended = [process.finish(timeout=120) for process in started]
  assert [done.returncode for done in ended] == [75, 75], ended[0].stderr[-3000:]
  saved = json.loads((run_dir / 'summary.json').read_text())
  assert not saved['finished']
  assert (run_dir / f'checkpoint_{saved["steps"]}').is_dir()


@pytest.mark.slow  # What is told while data are opened is in tests/training.
@pytest.mark.parametrize('line', ['starting from random parameters', 'compiling the training step'])
def test_a_run_that_is_told_to_stop_before_its_first_step_ends_with_75(small, line, tmp_path):
  said, deadline = tmp_path / 'stderr', time.time() + 200
  with open(said, 'w') as file:
    process = subprocess.Popen(
        [sys.executable, '-m', *training('runs/early', 10)], cwd=small,
        env=commands.environment(), stderr=file, stdout=subprocess.DEVNULL)
  while line not in said.read_text():
    assert process.poll() is None and time.time() < deadline, said.read_text()
    time.sleep(0.01)
  process.terminate()
  assert process.wait(timeout=100) == 75, said.read_text()
  assert 'told to stop before the first step' in said.read_text()
  assert 'Traceback' not in said.read_text()
  assert not list((small / 'runs/early').glob('checkpoint_*'))


@pytest.mark.slow
def test_several_processes_of_which_one_is_told_while_it_compiles_save_a_step(
    small, tmp_path):
  said, deadline = tmp_path / 'stderr', time.time() + 200
  first, second = commands.together(2)
  with open(said, 'w') as file:
    process = subprocess.Popen(
        [sys.executable, '-m', *training('runs/early_2', 100_000), *first], cwd=small,
        env=commands.environment(), stderr=file, stdout=subprocess.DEVNULL)
  other = commands.Process(small, *training('runs/early_2', 100_000), *second)
  while 'compiling the training step' not in said.read_text():
    assert process.poll() is None and time.time() < deadline, said.read_text()
    time.sleep(0.01)
  process.terminate()
  assert other.finish(timeout=120).returncode == 75
  assert process.wait(timeout=60) == 75, said.read_text()
  saved = json.loads((small / 'runs/early_2/summary.json').read_text())
  assert not saved['finished']
  assert (small / f'runs/early_2/checkpoint_{saved["steps"]}').is_dir()


@pytest.mark.parametrize('count', [2, pytest.param(4, marks=pytest.mark.slow)])
def test_others_notice_a_killed_process_and_all_are_started_again(small, count, tmp_path):
  name = f'runs/killed_{count}'
  said = [open(tmp_path / f'stderr_{i}', 'w+') for i in range(count)]
  started = [
      subprocess.Popen(
          [*KEEP_RUNNING, sys.executable, '-m', *training(name, 60), *flag], cwd=small,
          env=commands.environment(), stderr=said[i], stdout=subprocess.DEVNULL)
      for i, flag in enumerate(commands.together(count))]  # pyformat: disable
  wait_for_step(small / name, 12)
  while not (small / name / 'checkpoint_10').exists():  # Written while training goes on.
    time.sleep(0.05)
  [victim] = psutil.Process(started[-1].pid).children()
  victim.send_signal(signal.SIGKILL)
  killed = time.time()
  while not all('starting again' in (tmp_path / f'stderr_{i}').read_text() for i in range(count)):
    assert time.time() - killed < 60, 'a process hangs'
    time.sleep(0.1)
  for i in range(count - 1):
    # JAX, told by the coordinator, is faster where the lost process was no neighbour.
    noticed = (tmp_path / f'stderr_{i}').read_text()
    assert 'another process has ended' in noticed or 'another task died' in noticed, noticed
  assert [process.wait(timeout=240) for process in started] == [0] * count
  for file in said:
    file.close()
  summary = json.loads((small / name / 'summary.json').read_text())
  assert summary['finished'] and summary['start_step'] >= 10
  assert summary['goodput']['attempts'] == 2
  lines = commands.lines(small / name / 'train-metrics.jsonl')
  assert [line['step'] for line in lines] == list(range(1, 61))
