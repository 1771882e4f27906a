"""Python in processes of its own, which find this folder's conftest as `c`."""

from collections.abc import Sequence
import os
import pathlib
import shlex
import socket
import subprocess
import sys

import pytest

_HERE = pathlib.Path(__file__).parent
_PATHS = [str(_HERE), str(_HERE.parent.parent)]
# A test of `on_a_disk_of`.
needs_a_disk = pytest.mark.skipif(
    os.system('unshare -rm true 2> /dev/null') != 0,
    reason='this system lets nobody mount a disk of its own')
_PRELUDE = f'import sys; sys.path[:0] = {_PATHS!r}; import conftest as c\n'


def python(code: str, devices: int = 1) -> subprocess.CompletedProcess:
  """Runs `code` on simulated devices."""
  process = start(code, devices)
  out, err = process.communicate(timeout=120)
  return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def on_a_disk_of(
    size: int, directory: pathlib.Path, code: str
) -> subprocess.CompletedProcess:
  """Runs `code`, for which `directory` is a disk of so many bytes; nobody else sees that."""
  mount = f'mount -t tmpfs -o size={size} tmpfs {shlex.quote(str(directory))} && exec "$0" "$@"'
  process = start(code, before=['unshare', '-rm', 'sh', '-c', mount])
  out, err = process.communicate(timeout=120)
  return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def together(code: str, processes: int, devices: int = 1) -> list[str]:
  """Runs `code` in processes that have met, each with so many devices; returns last lines."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  meet = 'import jax; jax.distributed.initialize({!r}, {}, {})\n'
  started = [
      start(meet.format(address, processes, i) + code, devices) for i in range(processes)]
  said = []
  for process in started:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    # Gloo, too, has something to say, but only at the beginning.
    said.append(out.splitlines()[-1])
  return said


def start(code: str, devices: int = 1, before: Sequence[str] = ()) -> subprocess.Popen:
  """Starts `code` on simulated devices, by the command `before` if there is one."""
  flags = f'--xla_force_host_platform_device_count={devices}'
  environment = {'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {flags}'}
  if devices > 1:
    # XLA's threads: devices that wait for each other's sums must not use up all of them.
    environment['NPROC'] = str(4 * devices)
  return subprocess.Popen(
      [*before, sys.executable, '-c', _PRELUDE + code], env=os.environ | environment, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  )  # pyformat: disable
