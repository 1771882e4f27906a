"""What one process of a job knows of the others: which rows of a batch are its own, and its turn.

A process holds the devices of one host, or one GPU of it. One that trains alone holds them all.
"""

from collections.abc import Iterator
import contextlib

import jax
import numpy as np
from orbax.checkpoint import multihost

from rt2_train.training import partitioning

# A dataset may take hours to index, a process that dies is noticed without this.
_PATIENCE_MS = 24 * 3600 * 1000


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
