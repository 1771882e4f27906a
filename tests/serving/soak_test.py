"""Half an hour with robots, and with clients that stall, send garbage and vanish.

Shorter by hand: RT2_SOAK_SECONDS=60 bash launch/test.sh --slow tests/serving/soak_test.py
"""

import os
import pathlib
import random
import socket
import statistics
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
import requests
from websockets import exceptions
from websockets.sync import client

from rt2_train.serving import arrays
from rt2_train.serving import policy as policy_lib
from tests.serving import arrays_test
from tests.serving import policy_test
from tests.serving import served

ROOT = pathlib.Path(__file__).parent.parent.parent
SECONDS = float(os.environ.get('RT2_SOAK_SECONDS', 1800))
ROBOTS, FRAMES, MIB = 4, 16, 1 << 20
# What ends a connection that was meant to end.
ENDED = (OSError, exceptions.WebSocketException)


@pytest.mark.slow
def test_memory_is_flat_and_no_answer_wrong_whatever_clients_do(tmp_path):
  processor = served.processor(tmp_path)
  model = policy_test.make_model(processor)
  policy_test.write_checkpoint(
      tmp_path / 'run', 10, model, policy_test.make_params(model, 1), processor)
  policy = policy_lib.Policy.from_checkpoint(tmp_path / 'run', batch_sizes=[4])
  expected = [
      action.tokens.tolist()
      for action in policy.infer([policy_test.instruction(seed) for seed in range(FRAMES)])]
  command = [sys.executable, '-m', 'tools.serve', f'--checkpoint={tmp_path / "run"}', '--port=0',
             '--batch_sizes=4', '--queue_size=32', '--deadline_ms=20000', '--reload_seconds=0']
  with subprocess.Popen(
      command, cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)}, stderr=subprocess.PIPE,
      text=True) as process:
    try:
      line = next(line for line in process.stderr if 'serving at' in line)
      # Whatever else it logs must not fill the pipe.
      logged = threading.Thread(target=process.stderr.read)
      logged.start()
      clients = _Clients(line.split()[-1], expected)
      memory = _watch(psutil.Process(process.pid), clients)
      process.terminate()
      assert process.wait(30) == 0
      logged.join()
    finally:
      process.kill()
  assert not clients.wrong
  assert clients.answered > SECONDS and clients.strangers > SECONDS / 10
  fifth = len(memory) // 5
  early, late = (statistics.median(part) for part in (memory[fifth:2 * fifth], memory[-fifth:]))
  assert late - early < 4 * MIB + 0.01 * early, [value // MIB for value in memory]


def _watch(process: psutil.Process, clients: '_Clients') -> list[int]:
  """Resident bytes of the server, a hundred times while the clients are at it."""
  with clients:
    values = []
    for _ in range(100):
      time.sleep(SECONDS / 100)
      values.append(process.memory_info().rss)
  return values


class _Clients:
  """Threads of robots, whose answers are checked, and of strangers."""

  def __init__(self, address: str, expected: list[list[int]]):
    self._address, self._expected = address, expected
    self._ended = threading.Event()
    self.answered = self.strangers = 0
    self.wrong: list[object] = []
    strangers = (self._garble, self._vanish, self._stall)
    self._threads = [
        *(threading.Thread(target=self._run, args=(self._ask, seed)) for seed in range(ROBOTS)),
        *(threading.Thread(target=self._run, args=(one, seed))
          for seed, one in enumerate(strangers))]

  def __enter__(self) -> '_Clients':
    for thread in self._threads:
      thread.start()
    return self

  def __exit__(self, *_) -> None:
    self._ended.set()
    for thread in self._threads:
      thread.join(60)

  def _run(self, what, seed: int) -> None:
    rng = random.Random(seed)
    try:
      while not self._ended.is_set():
        what(rng)
    except Exception as error:  # pylint: disable=broad-except
      self.wrong.append(repr(error))

  def _connect(self) -> client.connect:
    return client.connect(f'ws://{self._address}', compression=None)

  def _ask(self, rng: random.Random) -> None:
    with self._connect() as connection:
      connection.recv(20)
      for _ in range(rng.randrange(1, 50)):
        seed = rng.randrange(FRAMES)
        reply = served.ask(connection, seed=seed)
        if isinstance(reply, str) or reply['tokens'] != self._expected[seed]:
          self.wrong.append(reply)
        self.answered += 1
        if self._ended.is_set():
          return
        time.sleep(0.02)

  def _garble(self, rng: random.Random) -> None:
    random_bytes = np.random.default_rng(rng.randrange(1 << 30))
    message = arrays.pack_msgpack(served.message(1))
    try:
      with self._connect() as connection:
        connection.recv(20)
        connection.send(arrays_test.mutated(message, random_bytes))
        connection.recv(20)
    except ENDED:
      pass
    body = arrays_test.mutated(arrays_test.json_body(), random_bytes)
    reply = requests.post(f'http://{self._address}/act', data=body, timeout=20)
    if reply.status_code not in (200, 400):
      self.wrong.append(reply.text)
    self.strangers += 1

  def _vanish(self, rng: random.Random) -> None:
    try:
      with self._connect() as connection:
        connection.recv(20)
        connection.send(arrays.pack_msgpack(served.message()))
        connection.socket.shutdown(rng.choice([socket.SHUT_RD, socket.SHUT_RDWR]))
    except ENDED:
      pass
    self.strangers += 1

  def _stall(self, rng: random.Random) -> None:
    host, port = self._address.split(':')
    begun = [b'', b'POST /act HTTP/1.1\r\n', b'POST /act HTTP/1.1\r\nContent-Length: 99\r\n\r\n{',
             b'GET / HTTP/1.1\r\nUpgrade: websocket\r\n']
    with socket.create_connection((host, int(port)), timeout=20) as connection:
      connection.sendall(rng.choice(begun))
      self._ended.wait(rng.random() * 3)
    self.strangers += 1
