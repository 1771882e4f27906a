"""Continuous batching: who is answered with whom, and how long anybody waits."""

import asyncio
from collections.abc import Callable
import random
import threading
import time

import pytest

from rt2_train.serving import batching
from rt2_train.serving import metrics


class Model:
  """Doubles numbers; notes its batches and can be held up."""

  def __init__(self, seconds: float = 0.0):
    self.seconds, self.batches = seconds, []
    self.gate = threading.Event()
    self.gate.set()

  def __call__(self, items: list[int]) -> list[int]:
    self.batches.append(list(items))
    assert self.gate.wait(10)
    time.sleep(self.seconds)
    if -1 in items:
      raise RuntimeError('a broken batch')
    return [2 * item for item in items]


def run(model: Model, scenario: Callable, **kwargs):
  """Runs `scenario(batcher)` with a batcher of at most 4."""
  async def main():
    batcher = batching.Batcher(model, 4, metrics.Metrics(), **kwargs)
    running = asyncio.create_task(batcher.run())
    try:
      return await scenario(batcher)
    finally:
      model.gate.set()
      running.cancel()
      await asyncio.gather(running, return_exceptions=True)
      batcher.close()

  return asyncio.run(main())


async def ask(batcher: batching.Batcher, item: int) -> int:
  return (await batcher.submit(item)).result


async def until(holds: Callable[[], bool]) -> None:
  async with asyncio.timeout(10):
    while not holds():
      await asyncio.sleep(0.001)


def test_requests_of_the_same_moment_are_one_batch():
  model = Model()
  scenario = lambda batcher: asyncio.gather(*(ask(batcher, i) for i in range(4)))
  assert run(model, scenario, max_wait=5.0) == [0, 2, 4, 6]
  assert model.batches == [[0, 1, 2, 3]]


def test_a_lonely_request_waits_for_max_wait_and_no_longer():
  async def scenario(batcher):
    return await batcher.submit(1)

  answer = run(Model(), scenario, max_wait=0.05)
  assert answer.result == 2
  assert 0.045 < answer.queue_seconds < 1.0


def test_nobody_is_waited_for_when_all_who_could_ask_have_asked():
  async def scenario(batcher):
    return await asyncio.gather(batcher.submit(1), batcher.submit(2))

  began = time.perf_counter()
  answers = run(Model(), scenario, max_wait=20.0, company=lambda: 2)
  assert [answer.result for answer in answers] == [2, 4]
  assert time.perf_counter() - began < 10


def test_what_came_while_a_batch_was_computed_is_the_next_one_at_once():
  model = Model()

  async def scenario(batcher):
    model.gate.clear()
    first = asyncio.create_task(ask(batcher, 0))
    await until(lambda: model.batches == [[0]])
    others = [asyncio.create_task(batcher.submit(i)) for i in (1, 2, 3)]
    await asyncio.sleep(1.05)
    model.gate.set()
    began = time.perf_counter()
    await asyncio.gather(first, *others)
    return time.perf_counter() - began

  # Whoever waited for longer than max_wait while the batch was computed waits for no more.
  assert run(model, scenario, max_wait=1.0) < 0.9
  assert model.batches == [[0], [1, 2, 3]]


def test_one_more_than_the_queue_holds_is_refused_at_once():
  model = Model()

  async def scenario(batcher):
    model.gate.clear()
    asked = [asyncio.create_task(ask(batcher, 0))]
    await until(lambda: model.batches)
    asked += [asyncio.create_task(ask(batcher, i)) for i in range(1, 5)]
    await until(lambda: batcher.waiting == 4)
    with pytest.raises(batching.Overloaded, match='4 requests are waiting already'):
      await batcher.submit(5)
    model.gate.set()
    return await asyncio.gather(*asked)

  assert run(model, scenario) == [0, 2, 4, 6, 8]
  assert model.batches == [[0], [1, 2, 3, 4]]


def test_none_that_is_let_in_waits_longer_than_max_wait_and_two_batches():
  model = Model(seconds=0.002)
  answered, refused = [], []

  async def robot(batcher, seed):
    rng = random.Random(seed)
    for turn in range(20):
      item, begun = 100 * seed + turn, len(model.batches)
      try:
        assert await ask(batcher, item) == 2 * item
        # Of the batches that begin after it has come, its own is the second at the latest.
        assert item in sum(model.batches[begun:begun + 2], [])
        answered.append(item)
      except batching.Overloaded:
        refused.append(item)
      await asyncio.sleep(rng.random() * 0.003)

  async def scenario(batcher):
    await asyncio.gather(*(robot(batcher, seed) for seed in range(12)))

  run(model, scenario, max_wait=0.001)
  assert len(answered) > 50 and refused


def test_a_cancelled_request_leaves_the_queue_and_is_not_computed():
  model = Model()

  async def scenario(batcher):
    model.gate.clear()
    first = asyncio.create_task(ask(batcher, 0))
    await until(lambda: model.batches)
    second, third = (asyncio.create_task(ask(batcher, i)) for i in (1, 2))
    await until(lambda: batcher.waiting == 2)
    second.cancel()
    await until(lambda: batcher.waiting == 1)
    model.gate.set()
    return await asyncio.gather(first, third)

  assert run(model, scenario) == [0, 4]
  assert model.batches == [[0], [2]]


def test_who_leaves_in_the_middle_of_a_batch_takes_nothing_from_the_others():
  model = Model()

  async def scenario(batcher):
    model.gate.clear()
    asked = [asyncio.create_task(ask(batcher, i)) for i in range(4)]
    await until(lambda: model.batches)
    asked[1].cancel()
    await asyncio.sleep(0)
    model.gate.set()
    return await asyncio.gather(*asked, return_exceptions=True)

  first, second, *others = run(model, scenario)
  assert [first, *others] == [0, 4, 6] and isinstance(second, asyncio.CancelledError)


def test_a_batch_that_fails_is_told_to_its_callers_alone():
  async def scenario(batcher):
    broken = await asyncio.gather(ask(batcher, -1), ask(batcher, 1), return_exceptions=True)
    return broken, await ask(batcher, 2)

  broken, after = run(Model(), scenario)
  assert [str(error) for error in broken] == ['a broken batch'] * 2 and after == 4
