"""What both protocols ask: a message -> an action, or the reason why not and its HTTP status."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent import futures
import contextlib
import dataclasses
import time
from typing import Any

from absl import logging
import numpy as np

from rt2_train.serving import batching
from rt2_train.serving import messages
from rt2_train.serving import metrics as metrics_lib
from rt2_train.serving import policy as policy_lib


class Refused(Exception):
  """A request that is not answered; `status` is HTTP's, the text is for the client."""

  def __init__(self, status: int, reason: str):
    super().__init__(reason)
    self.status = status


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a client may ask for.

  Attributes:
    message_bytes: of one message, before anything in it is decoded.
    pixels: of one image, before it is decoded.
    deadline_seconds: from the whole request to its answer; a message may ask for less with
      `deadline_ms`.
    patience_seconds: for the rest of a request that has begun, and for a client to take its answer.
    connections: robots, and requests of OpenVLA's protocol, at a time.
  """

  message_bytes: int = 16 << 20
  pixels: int = 1 << 22
  deadline_seconds: float = 2.0
  patience_seconds: float = 10.0
  connections: int = 64


class Service:
  """A policy behind a batcher, for any number of clients."""

  def __init__(
      self, policy: policy_lib.Policy, limits: Limits, metrics: metrics_lib.Metrics,
      max_wait: float = 0.002, queue_size: int | None = None):
    """See `batching.Batcher` for max_wait and queue_size."""
    self.policy, self.limits, self.metrics = policy, limits, metrics
    self.batcher = batching.Batcher(
        policy.answer, policy.batch_sizes[-1], metrics, max_wait, queue_size,
        company=lambda: self._connections)
    # Decoding pictures and reading prompts would hold up every other connection's messages.
    self._readers = futures.ThreadPoolExecutor(2, thread_name_prefix='reader')
    self._connections = self._asked = 0
    self.draining = asyncio.Event()
    self._idle = asyncio.Event()
    self._idle.set()

  @contextlib.contextmanager
  def connection(self):
    """Within, a client counts as connected; raises Refused where it is one too many."""
    if self.draining.is_set():
      raise Refused(503, 'the server is shutting down')
    if self._connections >= self.limits.connections:
      raise Refused(503, f'{self._connections} clients are connected already; try again later')
    self._connections += 1
    self.metrics.connections.set(self._connections)
    try:
      yield
    finally:
      self._connections -= 1
      self.metrics.connections.set(self._connections)

  async def answer(
      self, protocol: str, read: Callable[[], Mapping[str, Any]], interface: messages.Interface,
  ) -> tuple[policy_lib.Action, batching.Answer]:
    """Reads, prepares, queues and answers one message.

    Args:
      protocol: what metrics call it.
      read: decodes the message; called in a thread.
      interface: the keys it uses.

    Raises:
      Refused: with the reason.
    """
    if self.draining.is_set():
      raise Refused(503, 'the server is shutting down')
    began = time.perf_counter()
    self._asked += 1
    self._idle.clear()
    status = 'gone'
    try:
      action, answer = await self._answer(read, interface)
      status = '200'
      return action, answer
    except Refused as refused:
      status = str(refused.status)
      raise
    finally:
      self._asked -= 1
      if not self._asked:
        self._idle.set()
      self.metrics.requests.labels(protocol, status).inc()
      if status == '200':
        self.metrics.request_seconds.labels(protocol).observe(time.perf_counter() - began)

  async def drain(self, seconds: float) -> None:
    """Takes no more requests, and returns when those that are there have been answered.

    Args:
      seconds: after which it returns anyway.
    """
    self.draining.set()
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(seconds):
        await self._idle.wait()

  def close(self) -> None:
    """Lets the threads go."""
    self._readers.shutdown()
    self.batcher.close()

  async def _answer(self, read, interface) -> tuple[policy_lib.Action, batching.Answer]:
    loop = asyncio.get_running_loop()
    began, most = loop.time(), self.limits.deadline_seconds

    def prepare():
      try:
        message = read()
        seconds = _deadline(message, most)
        observation = interface.observation(message)
        return seconds, observation, self.policy.prepare(observation)
      except ValueError as error:
        raise Refused(400, str(error)) from error

    seconds = most
    try:
      async with asyncio.timeout_at(began + most) as limit:
        seconds, observation, row = await loop.run_in_executor(self._readers, prepare)
        limit.reschedule(began + seconds)
        answer = await self.batcher.submit(row)
      return self.policy.read(observation, answer.result), answer
    except Refused:
      raise
    except batching.Overloaded as error:
      raise Refused(503, f'overloaded: {error}; try again later') from error
    except TimeoutError as error:
      raise Refused(504, f'no answer within the deadline of {1000 * seconds:.0f} ms') from error
    except Exception as error:
      # The client learns that it was not its fault, and nothing about the inside.
      logging.exception('a request failed')
      raise Refused(500, 'internal error; the server has logged it') from error


async def unless_gone(work: Coroutine, gone: asyncio.Future) -> Any:
  """The result of `work`, which is cancelled when `gone` is done first; then None."""
  working = asyncio.ensure_future(work)
  try:
    await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
    return await working if working.done() else None
  finally:
    working.cancel()


def _deadline(message: Mapping[str, Any], most: float) -> float:
  """Seconds that the client gives, at most those of the server."""
  asked = message.get('deadline_ms')
  if asked is None:
    return most
  number = isinstance(asked, (int, float, np.number)) and not isinstance(asked, bool)
  if not number or not asked > 0:
    raise ValueError(f'"deadline_ms" is {str(asked)[:40]}; it must be a number above 0')
  return min(float(asked) / 1000, most)
