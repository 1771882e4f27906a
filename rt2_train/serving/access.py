"""Who may ask: an API key, and no web page."""

import hmac
import ipaddress

from starlette import requests
from starlette import responses
from starlette import types
from starlette import websockets

# Of HTTP alone: WebSockets serve robots at every path.
_OPEN = '/healthz'


class Access:
  """ASGI middleware that lets a request through or answers 401 or 403."""

  def __init__(self, app: types.ASGIApp, api_key: str | None):
    """Without `api_key` everybody may ask who reaches the port."""
    self._app = app
    self._api_key = api_key.encode() if api_key is not None else None

  async def __call__(
      self, scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
    refusal = None
    is_open = scope['type'] == 'http' and scope['path'] == _OPEN
    if scope['type'] in ('http', 'websocket') and not is_open:
      refusal = self._refusal(requests.HTTPConnection(scope).headers)
    if refusal is None:
      await self._app(scope, receive, send)
    elif scope['type'] == 'websocket':
      await websockets.WebSocket(scope, receive, send).send_denial_response(refusal)
    else:
      await refusal(scope, receive, send)

  def _refusal(self, headers) -> responses.Response | None:
    if 'origin' in headers:
      # Any page in a browser on the robot's network could move it otherwise, key or loopback.
      return responses.JSONResponse({'error': 'requests of web pages are not answered'}, 403)
    if self._api_key is None:
      return None
    scheme, _, key = headers.get('authorization', '').partition(' ')
    if scheme.lower() in ('api-key', 'bearer') and hmac.compare_digest(
        key.strip().encode(), self._api_key):
      return None
    return responses.JSONResponse(
        {'error': 'the header "Authorization: Api-Key KEY" is missing or wrong'}, 401,
        {'WWW-Authenticate': 'Api-Key'})


def check_host(host: str, api_key: str | None) -> None:
  """Raises ValueError where strangers could reach the server and it asks for no key."""
  if api_key is not None and len(api_key) < 16:
    raise ValueError(f'the API key has {len(api_key)} characters; take at least 16, such as those '
                     'of: openssl rand -hex 32')
  try:
    local = ipaddress.ip_address(host).is_loopback
  except ValueError:
    local = host == 'localhost'
  if not local and api_key is None:
    raise ValueError(f'host {host} can be reached from other computers; give an API key '
                     '(--api_key_file), or take 127.0.0.1')
