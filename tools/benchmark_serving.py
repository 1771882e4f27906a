"""The server's part of tools.benchmark: what 1, 4 and 16 robots get from one checkpoint.

Two servers run, one that batches and one that answers one request at a time; rounds alternate
between them, so that a busy computer slows both alike. Robots ask again as soon as they are
answered; they run in this process, on the same cores as the servers.
"""

import asyncio
from collections.abc import Iterator
import contextlib
import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
import time
from typing import Any
from urllib import request

import numpy as np
from websockets.asyncio import client

from rt2_train import run_files
from rt2_train.models import architectures
from rt2_train.models import vlm
from rt2_train.serving import arrays
from rt2_train.serving import policy as policy_lib

ROBOTS = (1, 4, 16)
ROWS = (1, 16)
_BATCH_SIZES = (1, 4, 16)
_HEIGHT, _WIDTH = 256, 320  # RT-1's camera.
_GOAL_MS, _GOAL_RATIO = 3.0, 1.3


@dataclasses.dataclass(frozen=True)
class Round:
  """What some robots got in one round.

  Attributes:
    latency: milliseconds of every request, as the robot saw them.
    outside: of those, what was neither inference nor waiting for a batch.
    seconds: of the whole round.
    batch: mean number of requests that were answered together.
  """

  latency: list[float]
  outside: list[float]
  seconds: float
  batch: float

  @property
  def rate(self) -> float:
    """Actions per second, of all robots."""
    return len(self.latency) / self.seconds


def print_serving(checkpoint: str, requests: int, rounds: int) -> None:
  """Prints latency, batches and rates of both servers.

  Args:
    checkpoint: what is served.
    requests: of each robot in a round.
    rounds: of each number of robots.
  """
  checkpoint = str(run_files.find_checkpoint(checkpoint))
  sizes = ','.join(map(str, _BATCH_SIZES))
  with (
      _server(checkpoint, f'--batch_sizes={sizes}') as batching,
      _server(checkpoint, '--batch_sizes=1', '--queue_size=64', '--max_wait_ms=0') as single,
  ):
    print(f'serve: {checkpoint}, {_HEIGHT}x{_WIDTH} frames, {requests} requests of each robot in '
          f'each of {rounds} rounds; compiled sizes {sizes}')
    print(f'  {"robots":6} {"p50":>8} {"p95":>8} {"p99":>8}   {"outside the model, p50":22} '
          f'{"batch":>6} {"actions/s":>10} {"Hz each":>8}   beside one at a time')
    for robots in ROBOTS:
      played = {address: [] for address in (batching, single)}
      for number in range(-1, rounds):
        for address in sorted(played, reverse=bool(number % 2)):
          this = asyncio.run(_play(address, robots, requests if number >= 0 else 3))
          if number >= 0:  # The first lets both warm up.
            played[address].append(this)
      _print_row(robots, played[batching], played[single])
  print(f'  goals: below {_GOAL_MS:g} ms outside the model with one robot, '
        f'{_GOAL_RATIO:g} x one at a time with 16')


def load_model(checkpoint: str) -> vlm.VisionLanguageModel:
  """The model of a checkpoint, without its parameters."""
  directory = run_files.find_checkpoint(checkpoint)
  processor = policy_lib.load_processor(str(directory))
  text = (directory / 'assets' / 'model.json').read_text()
  return architectures.from_json(json.loads(text), processor=processor)


def print_beside_transformers(checkpoint: str, rounds: int) -> None:
  """Prints our policy's time beside that of a plain `transformers` model of the same size."""
  import torch
  from tools import benchmark_pytorch

  policy = policy_lib.Policy.from_checkpoint(checkpoint, batch_sizes=ROWS)
  module = load_model(checkpoint).module
  frame = np.zeros((_HEIGHT, _WIDTH, 3), np.uint8)
  row = policy.prepare(policy_lib.Observation([frame], instruction='pick'))
  for rows in ROWS:
    times = {'ours': [], 'transformers': []}
    policy.answer([row] * rows)
    for _ in range(rounds):
      begin = time.perf_counter()
      policy.answer([row] * rows)
      times['ours'].append(1000 * (time.perf_counter() - begin))
      _, [seconds] = benchmark_pytorch.decode_seconds(
          module, 'cpu', 1, rows=rows, dtype=torch.float32)
      times['transformers'].append(1000 * seconds)
    for name, values in times.items():
      print(f'  {rows} actions, {name:12} {_spread(values)} ms')


@contextlib.contextmanager
def _server(checkpoint: str, *arguments: str) -> Iterator[str]:
  """A server in a process of its own; yields its address."""
  command = [sys.executable, '-m', 'tools.serve', f'--checkpoint={checkpoint}', '--port=0',
             '--deadline_ms=60000', *arguments]
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
  with subprocess.Popen(
      command, stderr=subprocess.PIPE, text=True, env=environment) as process:
    try:
      said = []
      for line in process.stderr:
        said.append(line)
        if found := re.search(r'serving at (\S+)$', line):
          break
      else:
        raise OSError(f'the server did not start: {"".join(said[-3:]).strip()}')
      yield found[1]
    finally:
      process.terminate()


async def _play(address: str, robots: int, requests: int) -> Round:
  before = _batches(address)
  start = asyncio.Barrier(robots)
  begun = []

  async def robot(seed: int) -> list[tuple[float, float]]:
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (_HEIGHT, _WIDTH, 3), np.uint8)
    message = arrays.pack_msgpack({'observation/image': frame, 'prompt': 'pick'})
    async with client.connect(f'ws://{address}', compression=None, max_size=None) as connection:
      await connection.recv()
      await start.wait()
      begun.append(time.perf_counter())
      return [await _ask(connection, message) for _ in range(requests)]

  asked = [each for one in await asyncio.gather(*map(robot, range(robots))) for each in one]
  seconds = time.perf_counter() - min(begun)
  after = _batches(address)
  return Round([latency for latency, _ in asked], [outside for _, outside in asked], seconds,
               (after[0] - before[0]) / (after[1] - before[1]))


async def _ask(connection: client.ClientConnection, message: bytes) -> tuple[float, float]:
  """Milliseconds of one request, and those outside of queue and model."""
  begin = time.perf_counter()
  await connection.send(message)
  reply = await connection.recv()
  latency = 1000 * (time.perf_counter() - begin)
  if isinstance(reply, str):
    raise ValueError(f'the server refuses: {reply}')
  answer = arrays.unpack_msgpack(reply)
  inside = answer['policy_timing']['infer_ms'] + answer['server_timing']['queue_ms']
  return latency, latency - inside


def _batches(address: str) -> tuple[float, float]:
  """Requests that were answered in batches, and batches, so far."""
  with request.urlopen(f'http://{address}/metrics', timeout=60) as response:
    text = response.read().decode()
  values = dict(line.rsplit(' ', 1) for line in text.splitlines() if line[:1] != '#')
  return float(values['rt2_batch_size_sum']), float(values['rt2_batch_size_count'])


def _print_row(robots: int, batched: list[Round], single: list[Round]) -> None:
  latency = sum((each.latency for each in batched), [])
  outside = statistics.median(sum((each.outside for each in batched), []))
  p50, p95, p99 = np.percentile(latency, [50, 95, 99])
  rate = statistics.median(each.rate for each in batched)
  said = f'{outside:.2f} ms ({outside / p50:.0%})'
  ratios = [ours.rate / other.rate for ours, other in zip(batched, single, strict=True)]
  print(f'  {robots:6} {p50:8.2f} {p95:8.2f} {p99:8.2f}   {said:22} '
        f'{statistics.mean(each.batch for each in batched):6.1f} {rate:10.1f} {rate / robots:8.1f}'
        f'   {_spread(ratios)}')


def _spread(values: list[Any]) -> str:
  return f'{statistics.median(values):6.2f} ({min(values):.2f} to {max(values):.2f})'
