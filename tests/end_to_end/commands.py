"""Starts the project's commands as a user does, in a directory of their own.

Gin files are found through the search path; data and runs lie below the directory.
"""

import functools
import json
import multiprocessing
from multiprocessing import forkserver
import os
import pathlib
import runpy
import socket
import subprocess
import sys
import tempfile
from unittest import mock

ROOT = pathlib.Path(__file__).parent.parent.parent

# Half of what a short command costs are these imports; none of them starts a thread.
_IMPORTED = [
    'mixtures.cofinetune', 'rt2_train.distributed', 'rt2_train.evaluation.offline',
    'rt2_train.models.pali_x', 'rt2_train.training.train',
]  # pyformat: disable


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
  """`python -m command...`, to be told something, killed, or started beside others.

  It writes into files, so that it never waits for a reader.
  """

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


@functools.cache
def _imported() -> multiprocessing.context.ForkServerContext:
  """What starts processes as copies of one that has imported the libraries, and done no more."""
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(_IMPORTED)
  with mock.patch.dict(os.environ, environment()):  # JAX reads it when it is imported.
    forkserver.ensure_running()
  return context


def _become(command: tuple[str, ...], home: pathlib.Path, changes: dict[str, str], said: str):
  """Turns this process into `python -m command...`."""
  os.chdir(home)
  os.environ.update(changes)
  for descriptor in (1, 2):
    os.dup2(os.open(f'{said}/{descriptor}', os.O_WRONLY | os.O_CREAT), descriptor)
  sys.argv = list(command)
  runpy.run_module(command[0], run_name='__main__', alter_sys=True)


def run(home: pathlib.Path, *command: str, **changes: str) -> subprocess.CompletedProcess:
  """Runs `python -m command...` to its end, whatever that is."""
  assert not any(name.startswith('JAX_') for name in changes), 'JAX is imported already'
  with tempfile.TemporaryDirectory() as said:
    process = _imported().Process(target=_become, args=(command, home, changes, said))
    process.start()
    process.join(timeout=300)
    process.kill()  # Does nothing if it has ended.
    process.join()
    written = [pathlib.Path(said, str(descriptor)).read_text() for descriptor in (1, 2)]
  return subprocess.CompletedProcess(command, process.exitcode, *written)


def succeed(home: pathlib.Path, *command: str, **changes: str) -> str:
  """Runs `python -m command...`, which must end well; returns what it printed."""
  done = run(home, *command, **changes)
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
