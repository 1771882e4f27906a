"""openpi's WebSocket protocol: metadata on connect, then a msgpack map for a msgpack map.

Any path serves. A refused request is answered as openpi's server does, with a text frame, which
its client raises, and the end of the connection.
"""

import asyncio
from collections.abc import Callable
import time
from typing import Any

import numpy as np
from starlette import responses
from starlette import websockets

from rt2_train.serving import arrays
from rt2_train.serving import batching
from rt2_train.serving import messages
from rt2_train.serving import policy as policy_lib
from rt2_train.serving import service as service_lib

# RFC 6455's registry: an error, the end of the server, an overload.
_ERROR, _RESTART, _LATER = 1011, 1012, 1013


class Robots:
  """Serves one connection after the other of a robot, and many of them at a time."""

  def __init__(
      self, service: service_lib.Service, interface: messages.Interface,
      metadata: Callable[[], dict[str, Any]]):
    """`metadata` is what the server says of itself to whoever connects."""
    self._service, self._interface = service, interface
    self._metadata = lambda: arrays.pack_msgpack({**interface.metadata(), **metadata()})

  async def serve(self, websocket: websockets.WebSocket) -> None:
    """Talks to one robot until it leaves, sends what cannot be answered, or the server ends."""
    try:
      with self._service.connection():
        await websocket.accept()
        await self._talk(websocket)
    except service_lib.Refused as refused:
      await websocket.send_denial_response(
          responses.JSONResponse({'error': str(refused)}, refused.status))
    except (websockets.WebSocketDisconnect, TimeoutError):
      pass  # It has left, or takes nothing any more.

  async def _talk(self, websocket: websockets.WebSocket) -> None:
    inbox = asyncio.Queue(1)
    reading = asyncio.ensure_future(_read(websocket, inbox))
    draining = asyncio.ensure_future(self._service.draining.wait())
    ended = asyncio.ensure_future(
        asyncio.wait({reading, draining}, return_when=asyncio.FIRST_COMPLETED))
    timing = {}
    try:
      await self._send(websocket.send_bytes(self._metadata()))
      while (message := await service_lib.unless_gone(inbox.get(), ended)) is not None:
        began = time.perf_counter()
        try:
          reply = await service_lib.unless_gone(self._answer(message, timing, began), reading)
        except service_lib.Refused as refused:
          await self._send(websocket.send_text(f'{refused.status}: {refused}'))
          code = _LATER if refused.status == 503 else _ERROR
          await self._send(websocket.close(code, _STATUS.get(refused.status, 'refused')))
          return
        if reply is None:
          return
        await self._send(websocket.send_bytes(reply))
        timing = {'prev_total_ms': 1000 * (time.perf_counter() - began)}
      if draining.done() and not reading.done():
        await self._send(websocket.close(_RESTART, 'the server is shutting down'))
    finally:
      for task in (ended, draining, reading):
        task.cancel()

  async def _answer(
      self, message: dict[str, Any], timing: dict[str, float], began: float) -> bytes:
    def read():
      if message.get('bytes') is None:
        raise ValueError('a text frame; send msgpack in a binary one')
      return arrays.unpack_msgpack(message['bytes'])

    action, answer = await self._service.answer('openpi', read, self._interface)
    return arrays.pack_msgpack(self._reply(action, answer, timing, began))

  def _reply(
      self, action: policy_lib.Action, answer: batching.Answer, timing: dict[str, float],
      began: float) -> dict[str, Any]:
    reply = {
        'terminate': action.terminate,
        'tokens': action.tokens.tolist(),
        'text': action.text,
        'plan': action.plan,
        'policy_timing': {'infer_ms': 1000 * answer.inference_seconds},
        'server_timing': {
            'infer_ms': 1000 * (time.perf_counter() - began),
            'queue_ms': 1000 * answer.queue_seconds, **timing},
    }
    if action.values is not None:
      # The only array: openpi's ActionChunkBroker slices every one along its first axis.
      reply['actions'] = self._interface.motion(action.values)[np.newaxis]
    return reply

  async def _send(self, sending) -> None:
    # A client that takes nothing holds up this connection alone, and not for ever.
    async with asyncio.timeout(self._service.limits.patience_seconds):
      await sending


_STATUS = {400: 'bad request', 503: 'overloaded', 504: 'deadline exceeded', 500: 'internal error'}


async def _read(websocket: websockets.WebSocket, inbox: asyncio.Queue) -> None:
  """Puts what comes into `inbox`; returns when the client has left."""
  while (message := await websocket.receive())['type'] != 'websocket.disconnect':
    await inbox.put(message)
