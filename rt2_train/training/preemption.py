"""Ends a run at a step that all its processes agree on: a machine is taken away, or Ctrl-C."""

from collections.abc import Callable, Iterator
import contextlib
import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils

# Whether the run is to end after this step; every process asks at every step.
Stop = Callable[[int], bool]


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
  """Within, SIGTERM (a preemption notice) ends the run after a step, which is then saved.

  Among several processes JAX listens: whoever is told tells the others, and all stop after the
  same step. A process that trains alone has nobody to agree with, and there JAX's answer is always
  no: it listens itself, to Ctrl-C too, of which the second ends it at once.
  """
  if jax.process_count() > 1:
    yield multihost_utils.reached_preemption_sync_point
    return
  told = threading.Event()
  stop = lambda step: told.is_set()
  if threading.current_thread() is not threading.main_thread():
    yield stop  # Only the main thread may listen to signals.
    return

  def handle(number: int, frame: Any) -> None:
    if number == signal.SIGINT and told.is_set():
      signal.default_int_handler(number, frame)
    told.set()

  before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield stop
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
