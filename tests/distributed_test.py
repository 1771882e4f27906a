"""Who this process is among several: by flags, by the environment, or not at all."""

import os
import socket
import subprocess
import sys

from absl import flags
from absl.testing import flagsaver
import pytest

from rt2_train import distributed

# Meets the others as main does, and says who is there.
MEET = """
from absl import app
from rt2_train import distributed
def main(argv):
  distributed.initialize(timeout_seconds=20)
  import jax
  from jax.experimental import multihost_utils
  everyone = multihost_utils.process_allgather(jax.numpy.array(jax.process_index()))
  print(jax.process_index(), jax.process_count(), jax.local_device_count(), everyone.tolist())
app.run(main)
"""


@pytest.fixture(autouse=True)
def parsed_flags():
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


@pytest.fixture
def port() -> int:
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return free.getsockname()[1]


def meet(*calls: tuple[list[str], dict[str, str]]) -> list[subprocess.CompletedProcess]:
  """Starts a process per (flags, environment); waits for all."""
  started = [
      subprocess.Popen([sys.executable, '-c', MEET, *flag], env={**os.environ, **environment},
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
      for flag, environment in calls]
  ended = [process.communicate(timeout=60) for process in started]
  return [subprocess.CompletedProcess(process.args, process.returncode, *end)
          for process, end in zip(started, ended)]


def last_line(done: subprocess.CompletedProcess) -> str:
  """What the process said; Gloo has its word before."""
  assert done.returncode == 0, done.stderr
  return done.stdout.splitlines()[-1]


def test_without_flags_a_process_is_alone():
  assert not distributed.is_wanted()
  distributed.initialize()


def test_flags_say_who_is_who(port):
  ended = meet(*[
      ([f'--coordinator_address=localhost:{port}', '--num_processes=2', f'--process_id={i}'], {})
      for i in range(2)])
  assert [last_line(done) for done in ended] == ['0 2 1 [0, 1]', '1 2 1 [0, 1]']


def test_slurm_says_who_is_who(port):
  ended = meet(*[
      (['--distributed=auto'], {
          'SLURM_JOB_ID': '4711', 'SLURM_STEP_NODELIST': 'localhost', 'SLURM_NTASKS': '2',
          'SLURM_PROCID': str(i), 'SLURM_LOCALID': str(i), 'JAX_COORDINATOR_PORT': str(port)})
      for i in range(2)])
  assert [last_line(done) for done in ended] == ['0 2 1 [0, 1]', '1 2 1 [0, 1]']


def test_an_environment_that_says_nothing_is_an_error():
  [done] = meet((['--distributed=auto'], {}))
  assert done.returncode == 1
  assert '--distributed=auto: this is no TPU slice, GKE or Slurm job step' in done.stderr


@pytest.mark.parametrize('given, message', [
    ({'process_id': 1}, 'pass --coordinator_address and --num_processes too'),
    ({'coordinator_address': 'host', 'num_processes': 2, 'process_id': 1},
     '--coordinator_address=host is not HOST:PORT'),
    ({'coordinator_address': 'host:1', 'num_processes': 2, 'process_id': 2},
     '--process_id=2 is not one of --num_processes=2; they count from 0'),
])
def test_flags_that_do_not_fit_are_refused(given, message):
  with flagsaver.flagsaver(**given), pytest.raises(ValueError, match=message):
    distributed.initialize()


def test_a_coordinator_that_is_not_there_is_named(port):
  with flagsaver.flagsaver(
      coordinator_address=f'localhost:{port}', num_processes=2, process_id=1
  ), pytest.raises(OSError, match=f'nobody listens at --coordinator_address=localhost:{port}'):
    distributed.initialize(timeout_seconds=1)


def test_a_port_that_is_taken_is_named():
  with socket.create_server(('::', 0), family=socket.AF_INET6, dualstack_ipv6=True) as taken:
    address = f'localhost:{taken.getsockname()[1]}'
    [done] = meet(([f'--coordinator_address={address}', '--num_processes=2', '--process_id=0'], {}))
  assert done.returncode == 1
  assert f'OSError: the processes did not meet at {address}: ' in done.stderr
