"""The benchmark prints what it says, with the command that makes it; no figure is judged here."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent


def run(*arguments: str, cwd: pathlib.Path) -> subprocess.CompletedProcess:
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
  return subprocess.run(
      [sys.executable, '-m', 'tools.benchmark', *arguments], cwd=cwd, env=environment,
      capture_output=True, text=True, check=False, timeout=120,
  )  # pyformat: disable


@pytest.mark.slow
def test_loader_prints_three_times_and_their_ratios_under_its_command(tmp_path):
  done = run('loader', '--examples=16', '--rounds=1', cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  command, headline, *lines = done.stdout.splitlines()
  assert command.endswith('python -m tools.benchmark loader --rounds=1 --examples=16')
  assert 35 <= int(re.search(r'256x320 JPEGs of (\d+) kB', headline).group(1)) <= 45
  pattern = r'\s+(.+?)\s+([\d.]+) \([\d.]+ to [\d.]+\)'
  found = [re.match(pattern, line).groups() for line in lines]
  values = {name: float(value) for name, value in found}
  limit, ours, theirs, to_limit, to_tfds = values.values()
  assert list(values)[:3] == ['decode + resize alone', 'our loader', 'TFDS + tf.data']
  assert min(limit, ours, theirs) > 0
  # One round: medians are the values themselves.
  assert abs(to_limit - ours / limit) < 0.05 and abs(to_tfds - ours / theirs) < 0.05
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_decode_prints_both_loops_at_both_vocabularies(tmp_path):
  done = run('decode', '--rounds=1', cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert [line.split(', ')[-1] for line in lines if line.endswith(' ids')] == [
      '1,408 ids', '250,112 ids']
  times = re.findall(r'^    (free|constrained) +([\d.]+) \(', done.stdout, re.MULTILINE)
  assert [name for name, _ in times] == ['free', 'constrained'] * 2
  assert min(float(value) for _, value in times) > 0


def test_train_without_demo_data_says_how_to_make_it(tmp_path):
  done = run('train', '--data_dir=nowhere', cwd=tmp_path)
  assert done.returncode == 1
  assert done.stderr.strip() == (
      'benchmark train: nowhere holds no demo data; run bash launch/local.sh, or '
      'python -m tools.make_demo_data --output_dir=nowhere')


def test_serve_without_a_checkpoint_says_so(tmp_path):
  done = run('serve', '--served_checkpoint=nowhere', cwd=tmp_path)
  assert done.returncode == 1
  assert 'nowhere holds no whole checkpoint_<step>' in done.stderr.splitlines()[-1]
