"""What one process of a job knows of the others: whose rows, whose turn, and who is slow.

A process holds the devices of one host, or one GPU of it. One that trains alone holds them all.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import socket
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np
from orbax.checkpoint import multihost

from rt2_train.training import differences
from rt2_train.training import partitioning

# A dataset may take hours to index, a process that dies is noticed without this.
_PATIENCE_MS = 24 * 3600 * 1000

# A process is told of when it waits for data so large a share of its time, and so many times as
# long as most.
_SLOW_SHARE, _SLOW_RATIO = 0.1, 3.0


def is_main() -> bool:
  """Whether this process writes what is written once: tables, metrics, the summary."""
  return jax.process_index() == 0


def rows(partitioner: partitioning.Partitioner, batch_size: int) -> np.ndarray:
  """The rows of a global batch that the devices of this process hold, ascending: int [n].

  Processes that share a replica of the model hold the same rows. Where the mesh follows a TPU's
  wiring, they need not be neighbours.
  """
  held = partitioner.batch_sharding.addressable_devices_indices_map((batch_size,)).values()
  return np.unique(np.concatenate([np.arange(batch_size)[index] for index in held]))


@contextlib.contextmanager
def main_first(what: str) -> Iterator[None]:
  """Lets process 0 do something before the others, such as write an index that they then find.

  Args:
    what: names the turn; each name is used once.
  """
  turn = lambda: multihost.get_barrier_sync_fn()(key=what, timeout_ms=_PATIENCE_MS)
  if not is_main():
    turn()
  try:
    yield
  finally:
    # Also after an error, so that the others run into it too instead of waiting.
    if is_main():
      turn()


def name() -> str:
  """This process as log lines call it."""
  return f'process {jax.process_index()} on {socket.gethostname()}'


def gather_texts(text: str) -> list[str]:
  """The texts of all processes, in their order; every process must call this."""
  if jax.process_count() == 1:
    return [text]
  data = np.frombuffer(text.encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(len(data))).reshape(-1)
  padded = np.zeros(sizes.max(), np.uint8)
  padded[: len(data)] = data
  rows = multihost_utils.process_allgather(padded)
  return [row[:size].tobytes().decode() for row, size in zip(rows, sizes)]


def check_same_data(names: Sequence[str], state: Mapping[str, Any]) -> None:
  """Raises ValueError, on all processes, if one of them reads other data than the first.

  Args:
    names: `name()` of all processes.
    state: of this process's loader.
  """
  states = [json.loads(text) for text in gather_texts(json.dumps(dict(state)))]
  for host, other in zip(names, states):
    difference = differences.first(states[0], other, f'the data of {names[0]}', 'its own')
    if difference:
      raise ValueError(
          f'{host} reads other data than {names[0]}: {difference}; give all the same files')


def tell_stragglers(names: list[str], data_wait_share: float) -> None:
  """Warns of a process whose data all others wait for; every process must call this.

  Args:
    names: `name()` of all processes.
    data_wait_share: of this process's time.
  """
  if jax.process_count() == 1:
    return
  shares = multihost_utils.process_allgather(np.float32(data_wait_share)).reshape(-1)
  slowest = int(shares.argmax())
  usual = float(np.median(np.delete(shares, slowest)))
  if is_main() and shares[slowest] > max(_SLOW_SHARE, _SLOW_RATIO * usual):
    logging.warning(
        '%s waits for its data %.0f %% of the time, most others %.0f %%: all wait for it',
        names[slowest], 100 * shares[slowest], 100 * usual)
