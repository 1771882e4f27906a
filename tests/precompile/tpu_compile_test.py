"""The real TPU compiler on small programs, for slices that are not here."""

import os
import platform
import subprocess
import sys
import tempfile
import time

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import jax.numpy as jnp
import numpy as np
import psutil
import pytest

from rt2_train.precompile import topologies
from rt2_train.precompile import tpu_compile
from rt2_train.training import programs

pytestmark = pytest.mark.skipif(
    sys.platform != 'linux' or platform.machine() != 'x86_64',
    reason='libtpu is made for Linux on x86-64 only',
)

SIDE = 1024


def product(devices, rows: int = 128) -> programs.Program:
  """x @ w summed up, with w cut over the devices."""
  mesh = jax.sharding.Mesh(np.array(devices), ('data',))
  shape = lambda *dims: jax.ShapeDtypeStruct(
      dims, jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec('data')))
  arguments = (shape(SIDE, SIDE), shape(rows * len(devices), SIDE))
  lowered = jax.jit(lambda w, x: jnp.sum(x @ w)).lower(*arguments)
  return programs.Program(
      lowered=lowered, mesh={'data': len(devices)}, coordinates=[[0, 0, 0, 0]] * len(devices),
      parameters=SIDE * SIDE, model_flops=1.0, hardware_flops=1.0,
      argument_bytes=programs.device_bytes(arguments),
  )


def everything_twice(devices) -> programs.Program:
  """Needs 128 GiB on one chip, whatever the compiler does."""
  mesh = jax.sharding.Mesh(np.array(devices), ('data',))
  everywhere = NamedSharding(mesh, PartitionSpec())
  x = jax.ShapeDtypeStruct((2**24, 1024), jnp.float32, sharding=everywhere)
  lowered = jax.jit(lambda x: x[::-1] + 1).lower(x)
  return programs.Program(lowered, {'data': 1}, [[0, 0, 0, 0]], 0, 1.0, 1.0, 2**36)


def refused(devices):
  raise ValueError(f'nothing for {len(devices)} devices')


def broken(devices):
  raise KeyError('a fault of ours')


def test_a_compilation_stops_before_code_generation_and_leaves_nothing_behind(
    tmp_path, monkeypatch
):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  compiled = tpu_compile.compile_program(product, topologies.parse('v5e:2x2'))
  assert compiled.facts['mesh'] == {'data': 4} and compiled.facts['parameters'] == SIDE * SIDE
  assert 'is_scheduled=true' in compiled.hlo and compiled.hlo.rstrip().endswith('}')
  assert 'convolution_algorithm_config' not in compiled.hlo
  # A quarter of the weights, and the rows of one chip.
  assert compiled.hbm.arguments == SIDE * SIDE * 2 // 4 + 128 * SIDE * 2
  assert compiled.facts['argument_bytes'] == compiled.hbm.arguments
  assert 0.1 < compiled.peak_host_bytes / 2**30 < 3
  assert not psutil.Process().children()
  assert not os.listdir(tmp_path)


def test_full_code_generation_adds_the_compilers_cycles():
  compiled = tpu_compile.compile_program(product, topologies.parse('v5e:1x1'), full_codegen=True)
  assert '"estimated_cycles":"' in compiled.hlo


@pytest.mark.parametrize('name', ['v4:2x2x1', 'v5e:1x1', 'v5p:1x1x1', 'v6e:1x1'])
def test_a_program_that_does_not_fit_says_how_much_of_what_it_needs(name):
  topology = topologies.parse(name)
  with pytest.raises(tpu_compile.OutOfMemory) as caught:
    tpu_compile.compile_program(everything_twice, topology)
  assert caught.value.used >= 2**37
  assert caught.value.facts['argument_bytes'] == 2**36
  # What our table says is usable is what the compiler says.
  assert caught.value.capacity == topology.chip.hbm_bytes


def test_bad_input_arrives_as_it_was_raised():
  with pytest.raises(ValueError, match='^nothing for 8 devices$'):
    tpu_compile.compile_program(refused, topologies.parse('v5e:2x4'))


def test_another_fault_shows_the_compilers_last_words():
  with pytest.raises(RuntimeError, match="ended without a result:\n(.*\n)*KeyError: 'a fault of ours'"):
    tpu_compile.compile_program(broken, topologies.parse('v5e:1x1'))


def test_the_compiler_ends_with_the_process_that_asked(tmp_path):
  code = (
      'from rt2_train.precompile import topologies, tpu_compile\n'
      'from tests.precompile import tpu_compile_test\n'
      'tpu_compile.compile_program(\n'
      "    tpu_compile_test.product, topologies.parse('v5p:8x8x8'), full_codegen=True)\n"
  )
  parent = subprocess.Popen(
      [sys.executable, '-c', code], env=os.environ | {'TMPDIR': str(tmp_path)})
  watched = psutil.Process(parent.pid)
  while not watched.children():
    assert parent.poll() is None
    time.sleep(0.05)
  (compiler,) = watched.children()
  parent.kill()
  parent.wait()
  psutil.wait_procs([compiler], timeout=10)
  assert not compiler.is_running()
