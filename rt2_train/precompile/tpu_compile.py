"""Runs the TPU compiler on a program for a slice that is not here, to its schedule or to the end.

The schedule, the buffers and the out-of-memory error all come before code generation, which takes
nearly all of the time. The compiler has no switch to stop there and no way to be interrupted, and
where it finds a fault in itself it aborts its process. So it runs in a process of its own, told to
write what it has to a directory, and is killed once that is there. libtpu then also never loads
beside the jax of the process that asks. The compiler's own flags are read from LIBTPU_INIT_ARGS, as
in a run on the TPU.
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import glob
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from absl import logging
import cloudpickle
import jax
import psutil

from rt2_train.precompile import buffers
from rt2_train.precompile import topologies
from rt2_train.training import partitioning
from rt2_train.training import programs

_PROGRAM, _FACTS, _ERROR, _LOG, _DUMP = 'program', 'facts.json', 'error.json', 'log.txt', 'dump'
_SCHEDULED, _GENERATED = 'after_optimizations_after_buffer_assignment', 'after_codegen'
_ASSIGNMENT = 'after_optimizations-buffer-assignment'
_NEWS_SECONDS = 30
_LAST_LINES = 30
# The one is said before buffers are assigned, the other after.
_OUT_OF_MEMORY = (
    re.compile(r'\(([0-9.]+)([KMGT]?)\) exceeds available HBM \(([0-9.]+)([KMGT]?)\)'),
    re.compile(r'Used ([0-9.]+)([KMGT]?) of ([0-9.]+)([KMGT]?) hbm'),
)
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler made.

  Attributes:
    facts: what tracing told: the fields of `programs.Program` without `lowered`.
    hlo: the scheduled program as text; with the compiler's cycles if code was generated.
    hbm: what it keeps in HBM.
    seconds: of tracing and compilation.
    peak_host_bytes: largest memory of the compiler's process.
  """

  facts: dict[str, Any]
  hlo: str
  hbm: buffers.Assignment
  seconds: float
  peak_host_bytes: int


class OutOfMemory(Exception):
  """A program needs `used` of the `capacity` bytes of HBM that a chip has.

  Attributes:
    used, capacity: bytes per chip.
    facts: see `Compiled`.
    seconds: after which the compiler gave up.
  """

  def __init__(self, used: float, capacity: float, facts: dict[str, Any], seconds: float):
    super().__init__(f'{used / 2**30:.1f} GiB of {capacity / 2**30:.1f} GiB HBM per chip')
    self.used, self.capacity, self.facts, self.seconds = used, capacity, facts, seconds


def compile_program(
    build: Callable[[Sequence[jax.Device]], programs.Program],
    topology: topologies.Topology,
    *,
    full_codegen: bool = False,
) -> Compiled:
  """Compiles `build(devices of the topology)` in another process.

  Args:
    build: makes the program; it travels to the other process with all that it refers to.
    topology: what to compile for.
    full_codegen: also generates code, which takes minutes and not seconds; then nothing is left
      that could be refused, and the text has the compiler's cycles.

  Raises:
    ValueError: of `build`; or libtpu is not installed.
    OutOfMemory: the program does not fit.
    RuntimeError: the compiler failed in another way.
  """
  topologies.check_libtpu()
  started = time.perf_counter()
  with tempfile.TemporaryDirectory(prefix='rt2_train_') as folder:
    with open(os.path.join(folder, _PROGRAM), 'wb') as file:
      cloudpickle.dump((build, topology), file)
    environment = os.environ | topology.environment()
    # Flags for the devices of this machine, and a cache out of which nothing would be dumped.
    environment.pop('XLA_FLAGS', None)
    environment['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
    with open(os.path.join(folder, _LOG), 'wb') as log:
      # Nothing is sent through the pipe: its end tells the child that its parent has ended.
      child = subprocess.Popen(
          [sys.executable, '-m', 'rt2_train.precompile.tpu_compile', folder],
          env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log,
      )  # pyformat: disable
    try:
      peak = _wait(child, folder, full_codegen, topology.name)
    finally:
      child.kill()
      child.stdin.close()
      child.wait()
    seconds = time.perf_counter() - started
    _raise_errors(folder, seconds)
    hlo = _dumped(folder, _GENERATED if full_codegen else _SCHEDULED)
    if not hlo:
      raise RuntimeError(f'the TPU compiler ended without a result:\n{_last_lines(folder)}')
    return Compiled(
        facts=_json(folder, _FACTS),
        hlo=hlo,
        hbm=buffers.parse(_dumped(folder, _ASSIGNMENT)),
        seconds=seconds,
        peak_host_bytes=peak,
    )


def versions() -> dict[str, str]:
  """Of what decides the result."""
  return {name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'libtpu')}


def _wait(child: subprocess.Popen, folder: str, full_codegen: bool, name: str) -> int:
  """Until the child has ended or has written what is wanted; returns its largest memory."""
  started = told = time.perf_counter()
  process, peak = psutil.Process(child.pid), 0
  while child.poll() is None:
    # Text ends with the entry computation's brace: a file that is still being written does not.
    if not full_codegen and _dumped(folder, _SCHEDULED).rstrip().endswith('\n}'):
      break
    time.sleep(0.1)
    with contextlib.suppress(psutil.Error):
      peak = max(peak, process.memory_info().rss)
    now = time.perf_counter()
    if now - told > _NEWS_SECONDS:
      told = now
      doing = 'compiling' if os.path.exists(os.path.join(folder, _FACTS)) else 'tracing'
      logging.info('%s for %s: %d s', doing, name, now - started)
  return peak


def _raise_errors(folder: str, seconds: float) -> None:
  error = _json(folder, _ERROR)
  if error and error['kind'] == 'memory':
    raise OutOfMemory(error['used'], error['capacity'], _json(folder, _FACTS), seconds)
  if error and error['kind'] == 'divide':
    raise partitioning.DoesNotDivide(error['message'])
  if error and error['kind'] == 'input':
    raise ValueError(error['message'])
  if error:
    raise RuntimeError(f'the TPU compiler: {error["message"]}')


def _dumped(folder: str, kind: str) -> str:
  """What the compiler wrote of its largest program; '' before it has."""
  files = glob.glob(os.path.join(folder, _DUMP, f'module_*.{kind}.txt'))
  if not files:
    return ''
  with open(max(files, key=os.path.getsize), encoding='utf-8') as file:
    return file.read()


def _json(folder: str, name: str) -> Any:
  path = os.path.join(folder, name)
  if not os.path.exists(path):
    return None
  with open(path, encoding='utf-8') as file:
    return json.load(file)


def _write(folder: str, name: str, value: Any) -> None:
  with open(os.path.join(folder, name), 'w', encoding='utf-8') as file:
    json.dump(value, file)


def _last_lines(folder: str) -> str:
  with open(os.path.join(folder, _LOG), encoding='utf-8', errors='replace') as file:
    return '\n'.join(file.read().splitlines()[-_LAST_LINES:])


def _compile(folder: str) -> None:
  """The child's part."""
  threading.Thread(target=_end_with_parent, daemon=True).start()
  with open(os.path.join(folder, _PROGRAM), 'rb') as file:
    build, topology = cloudpickle.load(file)
  try:
    program = build(topology.devices())
  except ValueError as error:
    kind = 'divide' if isinstance(error, partitioning.DoesNotDivide) else 'input'
    _write(folder, _ERROR, {'kind': kind, 'message': str(error)})
    return
  facts = {
      field.name: getattr(program, field.name)
      for field in dataclasses.fields(program) if field.name != 'lowered'
  }  # pyformat: disable
  _write(folder, _FACTS, facts)
  options = {'xla_dump_to': os.path.join(folder, _DUMP), 'xla_dump_hlo_as_text': True}
  try:
    program.lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as error:
    _write(folder, _ERROR, _error(str(error)))


def _error(message: str) -> dict[str, Any]:
  for pattern in _OUT_OF_MEMORY:
    if match := pattern.search(message):
      used, used_unit, capacity, unit = match.groups()
      return {
          'kind': 'memory',
          'used': float(used) * _UNITS[used_unit],
          'capacity': float(capacity) * _UNITS[unit],
      }
  return {'kind': 'compiler', 'message': ' '.join(message.split())[:1000]}


def _end_with_parent() -> None:
  sys.stdin.read()
  os._exit(1)


if __name__ == '__main__':
  _compile(sys.argv[1])
