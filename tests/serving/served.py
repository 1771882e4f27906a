"""What the tests of the server share: a tiny policy, a server in a thread, and a client."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import pathlib
import threading
import time
from typing import Any

import numpy as np
from websockets.sync import client

from rt2_train import processor as processor_lib
from rt2_train.serving import arrays
from rt2_train.serving import policy as policy_lib
from rt2_train.serving import server as server_lib
from tests.serving import policy_test

SIZE = policy_test.SIZE


class Slow:
  """A policy whose batches wait for `gate`, and which remembers how large they were."""

  def __init__(self, policy: policy_lib.Policy):
    self._policy = policy
    self.gate = threading.Event()
    self.gate.set()
    self.sizes: list[int] = []

  def __getattr__(self, name: str):
    return getattr(self._policy, name)

  def answer(self, rows: Sequence[Any]) -> np.ndarray:
    self.sizes.append(len(rows))
    assert self.gate.wait(20)
    return self._policy.answer(rows)

  def compile(self) -> None:
    self._policy.compile()


def tiny_policy(
    processor: processor_lib.Processor, batch_sizes: Sequence[int] = (4,), seed: int = 0
) -> policy_lib.Policy:
  model = policy_test.make_model(processor)
  return policy_lib.Policy(
      model, policy_test.make_params(model, seed), processor, batch_sizes=batch_sizes)


@contextlib.contextmanager
def serving(
    policy: policy_lib.Policy | Slow, options: server_lib.Options = server_lib.Options(), **kwargs
) -> Iterator[server_lib.Server]:
  """A server in a thread, on a free port; it must end well."""
  server = server_lib.Server(policy, options, port=0, **kwargs)
  failed = []

  def run():
    try:
      server.run()
    except BaseException as error:  # pylint: disable=broad-except
      failed.append(error)

  thread = threading.Thread(target=run)
  thread.start()
  try:
    assert server.ready.wait(60), failed
    yield server
  finally:
    server.stop()
    thread.join(30)
    assert not thread.is_alive() and not failed, failed


def uri(server: server_lib.Server) -> str:
  return 'ws://{}:{}'.format(*server.address)


def url(server: server_lib.Server, path: str) -> str:
  return 'http://{}:{}{}'.format(*server.address, path)


@contextlib.contextmanager
def connected(server: server_lib.Server, **headers: str) -> Iterator[client.ClientConnection]:
  """A bare connection that has been told the metadata."""
  with client.connect(uri(server), compression=None, additional_headers=headers) as connection:
    assert arrays.unpack_msgpack(connection.recv(10))['server'] == 'rt2_train'
    yield connection


def message(seed: int = 0, **changes: Any) -> dict[str, Any]:
  return {'observation/image': policy_test.frame(seed), 'prompt': 'pick anchor', **changes}


def ask(connection: client.ClientConnection, **changes: Any) -> dict[str, Any] | str:
  """The reply to `message`; text when it was refused."""
  connection.send(arrays.pack_msgpack(message(**changes)))
  reply = connection.recv(20)
  return reply if isinstance(reply, str) else arrays.unpack_msgpack(reply)


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> None:
  """Waits until `holds`, which must not take long."""
  end = time.monotonic() + seconds
  while not holds():
    assert time.monotonic() < end, 'it did not come true in time'
    time.sleep(0.005)


def processor(directory: pathlib.Path) -> processor_lib.Processor:
  from rt2_train import actions

  return policy_test.make_processor(directory, actions.RT2)
