"""Makes this process one of several that train together, each with devices of its own.

  --distributed=auto      on a TPU slice, GKE or Slurm, whose environment says who is who
  --coordinator_address=HOST:PORT --num_processes=4 --process_id=0      anywhere else

Every process runs the same command with the same gin files; without these flags it trains alone.
JAX must know of the others before it looks for devices, so this comes before all else in a run.
"""

import faulthandler
import os
import socket
import sys
import time
import traceback
from typing import NoReturn

from absl import flags
from absl import logging
import jax

_DISTRIBUTED = flags.DEFINE_enum(
    'distributed', 'none', ['none', 'auto'],
    'auto: the environment (TPU slice, GKE, Slurm) says which of several processes this is.',
)  # pyformat: disable
_COORDINATOR_ADDRESS = flags.DEFINE_string(
    'coordinator_address', None, 'HOST:PORT where process 0 listens for the others.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes', None, 'How many processes train together.', lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
    'process_id', None, 'Which of them this is, from 0.', lower_bound=0
)
# Silence after which a process counts as lost, and JAX ends all others.
_HEARTBEAT_SECONDS = 40
_PLACE = (_COORDINATOR_ADDRESS, _NUM_PROCESSES, _PROCESS_ID)


def is_wanted() -> bool:
  """Whether the flags say that there are other processes."""
  return _DISTRIBUTED.value == 'auto' or any(flag.value is not None for flag in _PLACE)


def initialize(timeout_seconds: int = 300) -> None:
  """Meets the other processes; does nothing unless `is_wanted`.

  Args:
    timeout_seconds: how long to wait for them.

  Raises:
    ValueError: neither flags nor environment say who this process is.
    OSError: nobody listens at the coordinator's address, or its port is taken.
  """
  if not is_wanted():
    return
  auto = _DISTRIBUTED.value == 'auto'
  missing = [f'--{flag.name}' for flag in _PLACE if flag.value is None]
  if missing and not auto:
    raise ValueError(
        f'to train as one of several processes, pass {" and ".join(missing)} too; on a TPU slice, '
        'GKE or Slurm --distributed=auto is enough'
    )
  _check_place()
  address, count, number = (flag.value for flag in _PLACE)
  if number and address:
    _wait_for(address, timeout_seconds)
  elif address:
    _check_free(address)
  # JAX ends a process whose others do not come without saying whom it waited for.
  logging.info(
      'waiting up to %d s for all %s processes%s', timeout_seconds, count or '',
      f' at {address}' if address else '',
  )  # pyformat: disable
  try:
    # CPUs speak to each other through gloo, which is JAX's default.
    jax.distributed.initialize(
        address, count, number,
        # Slurm would assign one GPU although the flags have said who is who.
        cluster_detection_method=None if auto else 'deactivate',
        initialization_timeout=timeout_seconds,
        heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
    )  # pyformat: disable
  except ValueError as error:
    raise ValueError(
        '--distributed=auto: this is no TPU slice, GKE or Slurm job step that JAX knows '
        f'({error}); pass --coordinator_address, --num_processes and --process_id'
    ) from error
  except RuntimeError as error:
    raise OSError(
        f'the processes did not meet at {address or "their coordinator"}: {error}; is its port '
        'free?'
    ) from error
  # From now on JAX listens to SIGTERM: it takes note, and the loop asks (training.preemption). And it
  # ends this process when another is lost, with a line that no stack of threads should bury.
  faulthandler.disable()
  logging.info(
      'process %d of %d, devices %s', jax.process_index(), jax.process_count(), jax.local_devices()
  )
  if jax.process_index() != 0:
    logging.set_verbosity(logging.WARNING)  # What all do, one reports.


def is_initialized() -> bool:
  """Whether this process has met others."""
  return jax.distributed.is_initialized()


def leave(error: Exception, said: str | None) -> NoReturn:
  """Ends this process at once because of an error.

  An ordinary end would wait minutes for the others to end too, who wait for this one.

  Args:
    error: why.
    said: a line that tells all, for bad input: status 1. Otherwise a lost process is told in a line
      (status 76), and anything else with its traceback (status 70).
  """
  if said is not None:
    status = 1
  elif isinstance(error, jax.errors.JaxRuntimeError) and not _is_out_of_memory(error):
    status = 76
    said = (
        f'rt2_train: another process has ended or cannot be reached ({str(error).splitlines()[0]}); '
        'start all of them again, the run goes on from its newest checkpoint')
  else:
    status, said = 70, ''.join(traceback.format_exception(error))
  print(said, file=sys.stderr, flush=True)
  if jax.process_index() == 0:
    time.sleep(2)  # It coordinates: the others lose their last words when it is gone.
  os._exit(status)


def _is_out_of_memory(error: Exception) -> bool:
  """Whether a device of this process is to blame, and not another process."""
  return str(error).startswith('RESOURCE_EXHAUSTED')


def _wait_for(address: str, seconds: int) -> None:
  """Returns as soon as the coordinator listens at `address`."""
  host, _, port = address.rpartition(':')
  deadline = time.monotonic() + seconds
  while True:
    try:
      socket.create_connection((host.strip('[]'), int(port)), timeout=5).close()
      return
    except OSError as error:
      if time.monotonic() > deadline:
        raise OSError(
            f'nobody listens at --coordinator_address={address} for {seconds} s ({error}); it is '
            'where process 0 runs, which must be started too'
        ) from error
      time.sleep(0.2)


def _check_free(address: str) -> None:
  """Raises OSError if something listens where process 0 is to: JAX may then end without a word."""
  port = int(address.rpartition(':')[2])
  try:
    socket.create_server(
        ('::' if socket.has_dualstack_ipv6() else '', port),
        family=socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET,
        dualstack_ipv6=socket.has_dualstack_ipv6(),
    ).close()
  except OSError as error:
    raise OSError(
        f'the processes did not meet at {address}: {error}; is its port free?') from error


def _check_place() -> None:
  """Raises ValueError unless the flags that are given make sense."""
  address, count, number = (flag.value for flag in _PLACE)
  if address is not None and not address.rpartition(':')[2].isdigit():
    raise ValueError(f'--coordinator_address={address} is not HOST:PORT, such as 10.0.0.2:8476')
  if None not in (count, number) and number >= count:
    raise ValueError(
        f'--process_id={number} is not one of --num_processes={count}; they count from 0'
    )
