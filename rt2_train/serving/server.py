"""The server: both protocols, health and metrics on one port, from start to drain.

`build` makes the ASGI app of a policy, `Server` serves it until SIGTERM or SIGINT.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
import contextlib
import dataclasses
import re
import signal
import socket
import threading

from absl import logging
from starlette import applications
from starlette import middleware as middleware_lib
from starlette import requests
from starlette import responses
from starlette import routing
import uvicorn
from uvicorn.protocols.http import h11_impl

from rt2_train import run_files
from rt2_train.serving import access
from rt2_train.serving import act
from rt2_train.serving import messages
from rt2_train.serving import metrics as metrics_lib
from rt2_train.serving import openpi
from rt2_train.serving import policy as policy_lib
from rt2_train.serving import service as service_lib


@dataclasses.dataclass(frozen=True)
class Options:
  """How a server is run.

  Attributes:
    gripper: its sense for both protocols; by default openpi's 'close_positive' and OpenVLA's
      'open_one'.
    image_keys: of the cameras for both protocols; by default 'observation/image' and 'image'.
    plan: whether an instruction is answered with a plan first; by default where the model writes
      plans.
    max_wait: seconds that requests wait for company, see `batching`.
    queue_size: most requests that wait; the largest batch size by default.
    api_key: that clients must send; None for none.
    legacy_errors: whether OpenVLA's protocol says "error" and status 200, see `act`.
    reload_from: the run whose newer checkpoints are taken; None for none.
    reload_seconds: how often they are looked for.
    limits: of requests.
  """

  gripper: str | None = None
  image_keys: Sequence[str] = ()
  plan: bool | None = None
  max_wait: float = 0.002
  queue_size: int | None = None
  api_key: str | None = None
  legacy_errors: bool = False
  reload_from: str | None = None
  reload_seconds: float = 30.0
  limits: service_lib.Limits = service_lib.Limits()


def build(policy: policy_lib.Policy, options: Options) -> applications.Starlette:
  """The ASGI app; starting it compiles the policy, `app.state.service` is its Service.

  Raises:
    ValueError: an option does not suit the policy.
  """
  plan = bool(policy.processor.plan_length) if options.plan is None else options.plan
  interface = lambda instruction_key, image_key, gripper: messages.Interface(
      policy.processor, instruction_key, tuple(options.image_keys) or (image_key,),
      options.gripper or gripper, plan, options.limits.pixels)
  for_openpi = interface('prompt', 'observation/image', 'close_positive')
  for_act = interface('instruction', 'image', 'open_one')
  metrics = metrics_lib.Metrics()
  service = service_lib.Service(
      policy, options.limits, metrics, options.max_wait, options.queue_size)
  robots = openpi.Robots(service, for_openpi, lambda: {
      'server': 'rt2_train',
      'checkpoint': policy.checkpoint.name if policy.checkpoint else None,
      'act': for_act.metadata(),
  })

  @contextlib.asynccontextmanager
  async def lifespan(_) -> AsyncIterator[None]:
    _note_checkpoint(policy, metrics)
    await asyncio.to_thread(policy.compile)
    tasks = [asyncio.create_task(service.batcher.run())]
    if options.reload_from is not None:
      tasks.append(asyncio.create_task(_follow(policy, options, metrics)))
    try:
      yield
    finally:
      for task in tasks:
        task.cancel()
      await asyncio.gather(*tasks, return_exceptions=True)
      service.close()

  async def healthz(request: requests.Request) -> responses.Response:
    del request
    if service.draining.is_set():
      return responses.PlainTextResponse('shutting down\n', 503)
    return responses.PlainTextResponse('OK\n')

  async def show_metrics(request: requests.Request) -> responses.Response:
    del request
    return responses.Response(metrics.text(), media_type=metrics.content_type)

  app = applications.Starlette(
      routes=[
          routing.Route('/healthz', healthz),
          routing.Route('/metrics', show_metrics),
          routing.Route(
              '/act', act.Act(service, for_act, options.legacy_errors).serve, methods=['POST']),
          routing.WebSocketRoute('/{path:path}', robots.serve),
      ],
      middleware=[middleware_lib.Middleware(access.Access, api_key=options.api_key)],
      lifespan=lifespan,
  )
  app.state.service = service
  return app


class Server:
  """A server from start to drain; `run` it in the main thread, where it heeds signals.

  Attributes:
    address: host and port, taken from the start.
    ready: set as soon as connections are accepted.
  """

  def __init__(
      self, policy: policy_lib.Policy, options: Options, host: str = '127.0.0.1', port: int = 8000,
      drain_seconds: float = 30.0):
    """Takes the port; nobody is served before `run`.

    Args:
      policy: compiled before the first connection is accepted.
      options: see `Options`.
      host, port: 0 takes any free port.
      drain_seconds: for requests in progress after SIGTERM or SIGINT; a second signal ends them.

    Raises:
      ValueError: an option does not suit the policy, or strangers could ask without a key.
      OSError: the port is taken.
    """
    access.check_host(host, options.api_key)
    app, limits = build(policy, options), options.limits
    config = uvicorn.Config(
        app, http=_Http, ws='websockets-sansio', ws_max_size=limits.message_bytes,
        ws_per_message_deflate=False, timeout_keep_alive=int(limits.patience_seconds),
        lifespan='on', log_config=None, log_level='warning', access_log=False,
        server_header=False)
    self._uvicorn = _Uvicorn(config, app.state.service, drain_seconds)
    # Bound before it compiles, which may take minutes; listened to afterwards.
    self._listener = _bind(host, port, limits.patience_seconds)
    self.address = self._listener.getsockname()[:2]
    self.ready = self._uvicorn.ready

  def run(self) -> None:
    """Serves until SIGTERM, SIGINT or `stop`, then answers what it has taken and ends."""
    with self._listener:
      asyncio.run(self._uvicorn.serve(sockets=[self._listener]))

  def stop(self) -> None:
    """What SIGTERM does, from any thread."""
    self._uvicorn.handle_exit(signal.SIGTERM, None)


class _Uvicorn(uvicorn.Server):
  """uvicorn's server, which lets the app answer what it has before it closes connections."""

  def __init__(
      self, config: uvicorn.Config, service: service_lib.Service, drain_seconds: float):
    super().__init__(config)
    self._service, self._drain_seconds = service, drain_seconds
    self._draining: asyncio.Future | None = None
    self.ready = threading.Event()

  async def startup(self, sockets=None) -> None:
    self._loop = asyncio.get_running_loop()
    await super().startup(sockets)
    self.ready.set()
    logging.info('serving at %s:%d', *sockets[0].getsockname()[:2])

  def handle_exit(self, sig, frame) -> None:
    if self._draining is None and self.started:
      logging.info('%s: answering what is there, then ending', signal.Signals(sig).name)
      self._draining = asyncio.run_coroutine_threadsafe(self._drain(), self._loop)
    else:
      self.should_exit = True

  async def _drain(self) -> None:
    for server in self.servers:
      server.close()
    await self._service.drain(self._drain_seconds)
    self.should_exit = True


class _Http(h11_impl.H11Protocol):
  """uvicorn's, which gives up on who connects and never sends a whole request head."""

  def connection_made(self, transport) -> None:
    super().connection_made(transport)
    self.loop.call_later(self.timeout_keep_alive, self._end_if_silent)

  def _end_if_silent(self) -> None:
    # A WebSocket has taken the transport over and looks after itself.
    if self.scope is None and self.transport.get_protocol() is self:
      self.transport.abort()


def _bind(host: str, port: int, patience_seconds: float) -> socket.socket:
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  listener = socket.socket(family)
  listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
  if hasattr(socket, 'TCP_USER_TIMEOUT'):
    # Connections inherit it: a peer that takes no byte for so long is gone, whatever is buffered.
    listener.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(3000 * patience_seconds))
  try:
    listener.bind((host, port))
  except OSError as error:
    listener.close()
    raise OSError(error.errno, f'{host}:{port} cannot be served at: {error.strerror}') from error
  return listener


async def _follow(
    policy: policy_lib.Policy, options: Options, metrics: metrics_lib.Metrics) -> None:
  """Takes each newer checkpoint of the run; one that cannot be taken is told once and left."""
  refused = None
  while True:
    await asyncio.sleep(options.reload_seconds)
    try:
      newest = await asyncio.to_thread(run_files.find_checkpoint, options.reload_from)
      if newest in (policy.checkpoint, refused) or _step(newest) < _step(policy.checkpoint):
        continue
      refused = newest
      await asyncio.to_thread(policy.reload, newest)
      _note_checkpoint(policy, metrics)
      logging.info('now serving %s', newest)
    except Exception as error:  # pylint: disable=broad-except
      # Whatever is wrong with it, the parameters that are there go on answering.
      metrics.reload_errors.inc()
      logging.error('still serving %s: %s', policy.checkpoint, error)


def _note_checkpoint(policy: policy_lib.Policy, metrics: metrics_lib.Metrics) -> None:
  if policy.checkpoint is not None:
    metrics.checkpoint_step.set(_step(policy.checkpoint))


def _step(checkpoint) -> int:
  found = re.fullmatch(r'checkpoint_(\d+)', checkpoint.name)
  return int(found[1]) if found else -1
