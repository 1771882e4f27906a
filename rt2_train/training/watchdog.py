"""Says in the log what a process waits for when it waits long: nobody guesses at a silent job."""

from collections.abc import Iterator
import contextlib
import threading
import time

from absl import logging

from rt2_train.training import hosts


class Watchdog:
  """A thread that looks at what its owner is doing; repeats itself after twice the time."""

  def __init__(self, patience_seconds: float):
    """Starts the thread.

    Args:
      patience_seconds: after which the first line is logged.
    """
    self._patience = patience_seconds
    # (what, since when), innermost last; replaced as a whole, so that no lock is needed.
    self._doing: tuple[tuple[str, float], ...] = ()
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._watch, name='watchdog', daemon=True)
    self._thread.start()

  @contextlib.contextmanager
  def watching(self, what: str) -> Iterator[None]:
    """Within, the owner is waiting for `what`."""
    before = self._doing
    self._doing = (*before, (what, time.monotonic()))
    try:
      yield
    finally:
      self._doing = before

  def close(self) -> None:
    self._ended.set()
    self._thread.join()

  def _watch(self) -> None:
    told, limit = None, self._patience
    while not self._ended.wait(self._patience / 4):
      doing = self._doing[-1] if self._doing else None
      if doing != told:
        told, limit = doing, self._patience
      if doing and time.monotonic() - doing[1] >= limit:
        waited = time.monotonic() - doing[1]
        logging.warning('%s has been waiting %.0f s for %s', hosts.name(), waited, doing[0])
        limit = 2 * waited
