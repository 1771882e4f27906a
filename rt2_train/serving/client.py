"""A policy on a server in the place of one in this process: `RemotePolicy.infer`.

Robots need nothing of this: openpi's own client, or any HTTP client, will do.
"""

from collections.abc import Sequence
import contextlib
from typing import Any

import numpy as np
from websockets import exceptions
from websockets.sync import client

from rt2_train import actions as actions_lib
from rt2_train.serving import arrays
from rt2_train.serving import policy as policy_lib


class RemotePolicy:
  """Asks a server as several robots would, each on a connection of its own."""

  def __init__(self, uri: str, api_key: str | None = None):
    """Connects once.

    Args:
      uri: such as ws://127.0.0.1:8000.
      api_key: of the server, where it asks for one.

    Raises:
      ValueError: `uri` is none of a WebSocket, or the server turns the gripper around.
      OSError: nobody answers there.
    """
    self._uri = uri
    self._headers = {'Authorization': f'Api-Key {api_key}'} if api_key else None
    self._open = contextlib.ExitStack()
    self._connections: list[client.ClientConnection] = []
    self.metadata = self._connect()
    if self.metadata['gripper'] not in ('close_positive', None):
      raise ValueError(f'{uri} answers with gripper {self.metadata["gripper"]}; start the server '
                       'with --gripper=close_positive')

  @property
  def history(self) -> int:
    """Frames of each camera that the policy acts on."""
    return self.metadata['history']

  def infer(self, observations: Sequence[policy_lib.Observation]) -> list[policy_lib.Action]:
    """Answers all observations, each asked on its own connection at the same time.

    Raises:
      ValueError: the server refuses one, with its reason.
      OSError: a connection has ended.
    """
    while len(self._connections) < len(observations):
      self._connect()
    connections = self._connections[:len(observations)]
    try:
      for connection, observation in zip(connections, observations, strict=True):
        connection.send(arrays.pack_msgpack(self._message(observation)))
      replies = [connection.recv() for connection in connections]
    except exceptions.ConnectionClosed as error:
      raise ConnectionError(f'{self._uri} has ended the connection: {error}') from error
    return [self._action(reply) for reply in replies]

  def close(self) -> None:
    """Ends all connections."""
    self._open.close()

  def _connect(self) -> dict[str, Any]:
    try:
      connection = self._open.enter_context(client.connect(
          self._uri, compression=None, max_size=None, additional_headers=self._headers))
    except exceptions.InvalidStatus as error:
      raise ValueError(f'{self._uri} refuses: {error.response.body.decode()[:200]}') from error
    except (exceptions.InvalidURI, exceptions.InvalidHandshake) as error:
      raise ValueError(f'{self._uri} is no server of this kind: {error}') from error
    self._connections.append(connection)
    return arrays.unpack_msgpack(connection.recv())

  def _message(self, observation: policy_lib.Observation) -> dict[str, Any]:
    keys = self.metadata['image_keys']
    message = {
        key: list(observation.images[camera::len(keys)]) for camera, key in enumerate(keys)}
    if observation.question is not None:
      message['question'] = observation.question
    else:
      message[self.metadata['instruction_key']] = observation.instruction
      message['plan'] = observation.plan
    return message

  def _action(self, reply: bytes | str) -> policy_lib.Action:
    if isinstance(reply, str):
      raise ValueError(f'{self._uri} refuses: {reply}')
    answer = arrays.unpack_msgpack(reply)
    values = None
    if 'actions' in answer:
      [values] = answer['actions']
      if (at := self.metadata['terminate_index']) is not None:
        said = (actions_lib.TERMINATE_STOP if answer['terminate']
                else actions_lib.TERMINATE_CONTINUE)
        values = np.insert(values, at, said)
    return policy_lib.Action(
        values, answer['terminate'], np.array(answer['tokens'], np.int32), answer['text'],
        answer['plan'])
