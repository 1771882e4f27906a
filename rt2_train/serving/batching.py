"""Continuous batching: what several robots ask at about the same time is answered together.

While a batch is computed requests gather; when it is done the next one begins at once with those
that are there. An idle batcher waits for company, at most `max_wait`. The queue holds one batch, so
a request that is let in waits for the batch in progress, `max_wait` and its own batch, never more.
"""

import asyncio
import collections
from collections.abc import Callable, Sequence
from concurrent import futures
import dataclasses
import time
from typing import Any

from rt2_train.serving import metrics as metrics_lib


class Overloaded(Exception):
  """The queue is full."""


@dataclasses.dataclass(frozen=True)
class Answer:
  """What came back for one request.

  Attributes:
    result: of its own item.
    queue_seconds: from its arrival to the beginning of its batch.
    inference_seconds: of its batch.
  """

  result: Any
  queue_seconds: float
  inference_seconds: float


@dataclasses.dataclass(eq=False)
class _Request:
  item: Any
  arrived: float
  future: asyncio.Future


class Batcher:
  """Collects items of concurrent callers and has them answered in batches, off the event loop."""

  def __init__(
      self,
      answer: Callable[[Sequence[Any]], Sequence[Any]],
      max_batch: int,
      metrics: metrics_lib.Metrics,
      max_wait: float = 0.002,
      queue_size: int | None = None,
      company: Callable[[], int] | None = None,
  ):
    """Takes no request before `run`.

    Args:
      answer: results of up to `max_batch` items, in their order; called in one thread.
      max_batch: most items of a batch.
      metrics: learns sizes and times.
      max_wait: seconds that an idle batcher waits for a fuller batch.
      queue_size: most requests that wait; `max_batch` by default, and then none waits for more
        than one batch before its own.
      company: how many may ask at all; where so many do, nobody else is waited for.
    """
    self._answer, self._max_batch, self._metrics = answer, max_batch, metrics
    self._max_wait, self._queue_size = max_wait, queue_size or max_batch
    self._company = company or (lambda: max_batch)
    self._queue: collections.deque[_Request] = collections.deque()
    self._changed = asyncio.Event()
    self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix='inference')

  @property
  def waiting(self) -> int:
    """Requests in the queue."""
    return len(self._queue)

  async def submit(self, item: Any) -> Answer:
    """The answer to `item`; a caller that is cancelled takes its request with it.

    Raises:
      Overloaded: the queue is full.
    """
    if len(self._queue) >= self._queue_size:
      raise Overloaded(f'{self._queue_size} requests are waiting already')
    request = _Request(item, time.perf_counter(), asyncio.get_running_loop().create_future())
    self._queue.append(request)
    self._changed.set()
    try:
      return await request.future
    finally:
      if request in self._queue:
        self._queue.remove(request)

  async def run(self) -> None:
    """Answers until it is cancelled."""
    while True:
      batch = await self._next_batch()
      began = time.perf_counter()
      try:
        results = await asyncio.get_running_loop().run_in_executor(
            self._thread, self._answer, [request.item for request in batch])
      except Exception as error:  # pylint: disable=broad-except
        # Whatever it is, these callers are told and the next ones are served.
        for request in batch:
          if not request.future.done():
            request.future.set_exception(error)
        continue
      seconds = time.perf_counter() - began
      self._metrics.batch(len(batch), seconds)
      for request, result in zip(batch, results, strict=True):
        waited = began - request.arrived
        self._metrics.queue_seconds.observe(waited)
        if not request.future.done():  # Its caller may have left.
          request.future.set_result(Answer(result, waited, seconds))

  async def _next_batch(self) -> list[_Request]:
    while True:
      self._changed.clear()
      if self._queue:
        left = self._queue[0].arrived + self._max_wait - time.perf_counter()
        if left <= 0 or len(self._queue) >= min(self._max_batch, self._company()):
          return [self._queue.popleft() for _ in range(min(len(self._queue), self._max_batch))]
      else:
        left = None
      try:
        await asyncio.wait_for(self._changed.wait(), left)
      except TimeoutError:
        pass

  def close(self) -> None:
    """Lets the thread go; a batch in progress is finished first."""
    self._thread.shutdown()
