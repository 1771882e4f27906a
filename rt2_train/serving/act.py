"""OpenVLA's REST protocol: POST /act with json-numpy, plain or encoded twice."""

import asyncio
import json
from urllib import parse

import numpy as np
from starlette import requests
from starlette import responses

from rt2_train.serving import arrays
from rt2_train.serving import messages
from rt2_train.serving import service as service_lib


class Act:
  """Answers {"image", "instruction"} with an action float64 [7], {"image", "question"} with text.

  A checkpoint has one action space, so `unnorm_key` is not needed, and not read.
  """

  def __init__(
      self, service: service_lib.Service, interface: messages.Interface,
      legacy_errors: bool = False):
    """With `legacy_errors` every failure is status 200 and "error", as in OpenVLA's server."""
    self._service, self._interface = service, interface
    self._legacy_errors = legacy_errors

  async def serve(self, request: requests.Request) -> responses.Response:
    """One request; statuses 400, 408, 413, 500, 503 and 504 come with the reason."""
    try:
      with self._service.connection():
        return await self._serve(request)
    except service_lib.Refused as refused:
      if self._legacy_errors:
        return responses.JSONResponse('error')
      later = {'Retry-After': '1'} if refused.status == 503 else None
      return responses.JSONResponse({'error': str(refused)}, refused.status, later)

  async def _serve(self, request: requests.Request) -> responses.Response:
    body, twice = await self._body(request), False

    def read():
      nonlocal twice
      message, twice = arrays.unpack_json(body)
      return message

    gone = asyncio.ensure_future(_gone(request))
    try:
      answered = await service_lib.unless_gone(
          self._service.answer('act', read, self._interface), gone)
    finally:
      gone.cancel()
    if answered is None:
      return responses.Response(status_code=499)  # Nobody reads it.
    action, _ = answered
    headers = {'X-Terminate': str(action.terminate).lower()}
    if action.plan:
      headers['X-Plan'] = parse.quote(action.plan)
    if action.values is None:
      text = json.dumps(action.text)
    else:
      text = arrays.pack_json(self._interface.motion(action.values).astype(np.float64))
    if twice:
      text = json.dumps(text)
    return responses.Response(text, media_type='application/json', headers=headers)

  async def _body(self, request: requests.Request) -> bytes:
    most = self._service.limits.message_bytes
    declared = request.headers.get('content-length', '0')
    body = bytearray()
    try:
      if declared.isdigit() and int(declared) > most:
        raise service_lib.Refused(413, f'the body has {declared[:20]} bytes; {most} are taken')
      async with asyncio.timeout(self._service.limits.patience_seconds):
        async for chunk in request.stream():
          body += chunk
          if len(body) > most:
            raise service_lib.Refused(413, f'the body is longer than {most} bytes')
    except TimeoutError as error:
      raise service_lib.Refused(408, 'the body did not arrive in time') from error
    except requests.ClientDisconnect as error:
      raise service_lib.Refused(400, 'the body ended early') from error
    return bytes(body)


async def _gone(request: requests.Request) -> None:
  """Returns when the client has left."""
  while (await request.receive())['type'] != 'http.disconnect':
    pass
