"""Starts the project's commands as a user does, in a directory of their own.

Gin files are found through the search path; data and runs lie below the directory.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent.parent


def environment() -> dict[str, str]:
  """What a process finds the package by, and compiled programs."""
  ours = {
      'PYTHONPATH': str(ROOT),
      # What one test has compiled, no other need compile again, in this run or the next.
      'JAX_COMPILATION_CACHE_DIR': str(ROOT / '.pytest_cache/compiled'),
      'JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  return {**os.environ, **ours}


class Process(subprocess.Popen):
  """`python -m command...`, which writes into files, so that it never waits for a reader."""

  def __init__(self, home: pathlib.Path, *command: str, **changes: str):
    self._files = tempfile.TemporaryFile('w+'), tempfile.TemporaryFile('w+')
    super().__init__(
        [sys.executable, '-m', *command], cwd=home, env={**environment(), **changes},
        stdout=self._files[0], stderr=self._files[1],
    )  # pyformat: disable

  def finish(self, timeout: float = 300) -> subprocess.CompletedProcess:
    """Waits for the end; kills what has not come to it in `timeout` seconds."""
    try:
      self.wait(timeout)
    finally:
      self.kill()
    written = []
    for file in self._files:
      file.seek(0)
      written.append(file.read())
      file.close()
    return subprocess.CompletedProcess(self.args, self.returncode, *written)


def run(home: pathlib.Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
  """Runs `python -m command...` to its end, whatever that is."""
  return Process(home, *command, **environment).finish()


def succeed(home: pathlib.Path, *command: str, **environment: str) -> str:
  """Runs `python -m command...`, which must end well; returns what it printed."""
  done = run(home, *command, **environment)
  assert done.returncode == 0, done.stderr
  return done.stdout


def main(mode: str, *arguments: str) -> list[str]:
  """The command of the entry point."""
  return ['rt2_train.main', f'--run_mode={mode}', f'--gin_search_paths={ROOT}', *arguments]


def together(count: int) -> list[list[str]]:
  """The flags with which each of `count` processes on this machine finds the others."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  return [
      [f'--coordinator_address={address}', f'--num_processes={count}', f'--process_id={i}']
      for i in range(count)
  ]


def lines(path: pathlib.Path) -> list[dict]:
  """The objects of a file of JSON lines."""
  return [json.loads(line) for line in path.read_text().splitlines()]
