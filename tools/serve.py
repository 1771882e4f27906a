"""Serves a checkpoint to robots: openpi's WebSocket protocol and OpenVLA's POST /act on one port.

  python -m tools.serve --checkpoint=runs/demo/cofinetune --port=8000

docs/serving.md has keys, metadata and limits. Ends on SIGTERM when what was asked is answered.
"""

from collections.abc import Sequence
import os
import sys

from absl import app
from absl import flags
from absl import logging

from rt2_train.serving import messages
from rt2_train.serving import policy as policy_lib
from rt2_train.serving import saved
from rt2_train.serving import server
from rt2_train.serving import service

_CHECKPOINT = flags.DEFINE_string(
    'checkpoint', None, 'A run, whose newer checkpoints are then taken as they come, one of its '
    'checkpoints, or what was exported.', required=True)
_HOST = flags.DEFINE_string(
    'host', '127.0.0.1', 'Where to listen; any but loopback needs an API key.')
_PORT = flags.DEFINE_integer('port', 8000, '0 for any free one.', lower_bound=0, upper_bound=65535)
_BATCH_SIZES = flags.DEFINE_list(
    'batch_sizes', ['1', '4', '16'], 'Sizes that are compiled; one alone makes an answer '
    'independent of who else asks, to the last bit.')
_MAX_WAIT_MS = flags.DEFINE_float(
    'max_wait_ms', 2.0, 'How long requests wait for company.', lower_bound=0)
_QUEUE_SIZE = flags.DEFINE_integer(
    'queue_size', None, 'Most requests that wait, before status 503; the largest batch size by '
    'default, so that none waits for more than one batch before its own.', lower_bound=1)
_DEADLINE_MS = flags.DEFINE_float(
    'deadline_ms', 2000.0, 'From request to answer; a message may ask for less.', lower_bound=1)
_GRIPPER = flags.DEFINE_enum(
    'gripper', None, messages.GRIPPERS, 'Its sense for both protocols; by default close_positive '
    "for openpi's and open_one for OpenVLA's.")
_IMAGE_KEYS = flags.DEFINE_list(
    'image_keys', [], "Of the cameras in the model's order; by default observation/image for "
    "openpi's protocol and image for OpenVLA's.")
_PLAN = flags.DEFINE_bool(
    'plan', None, 'Whether a plan is written before each action; by default where the model does.')
_API_KEY_FILE = flags.DEFINE_string(
    'api_key_file', None, 'Holds the key that clients must send. Or set RT2_API_KEY.')
_LEGACY_ERRORS = flags.DEFINE_bool(
    'legacy_errors', False, 'POST /act fails as OpenVLA\'s server does: status 200, "error".')
_RELOAD_SECONDS = flags.DEFINE_float(
    'reload_seconds', 30.0, 'How often newer checkpoints are looked for; 0 for never.',
    lower_bound=0)
_DRAIN_SECONDS = flags.DEFINE_float(
    'drain_seconds', 30.0, 'Most time for requests in progress after SIGTERM.', lower_bound=0)
_MESSAGE_BYTES = flags.DEFINE_integer(
    'message_bytes', service.Limits.message_bytes, 'Of one message.', lower_bound=1024)
_PIXELS = flags.DEFINE_integer('pixels', service.Limits.pixels, 'Of one image.', lower_bound=1)
_CONNECTIONS = flags.DEFINE_integer(
    'connections', service.Limits.connections, 'Clients at a time.', lower_bound=1)


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  try:
    sizes = [int(size) for size in _BATCH_SIZES.value]
    follows = _RELOAD_SECONDS.value and not saved.is_export(_CHECKPOINT.value)
    options = server.Options(
        gripper=_GRIPPER.value, image_keys=_IMAGE_KEYS.value, plan=_PLAN.value,
        max_wait=_MAX_WAIT_MS.value / 1000, queue_size=_QUEUE_SIZE.value, api_key=_api_key(),
        legacy_errors=_LEGACY_ERRORS.value,
        reload_from=_CHECKPOINT.value if follows else None,
        reload_seconds=_RELOAD_SECONDS.value,
        limits=service.Limits(
            message_bytes=_MESSAGE_BYTES.value, pixels=_PIXELS.value,
            deadline_seconds=_DEADLINE_MS.value / 1000, connections=_CONNECTIONS.value))
    policy = policy_lib.Policy.from_checkpoint(_CHECKPOINT.value, batch_sizes=sizes)
    # Only now: how Orbax reads a checkpoint is of no interest here.
    logging.set_verbosity(logging.INFO)
    server.Server(policy, options, _HOST.value, _PORT.value, _DRAIN_SECONDS.value).run()
  except (ValueError, OSError) as error:
    sys.exit(f'serve: {error}')


def _api_key() -> str | None:
  if _API_KEY_FILE.value is None:
    return os.environ.get('RT2_API_KEY')
  with open(_API_KEY_FILE.value, encoding='utf-8') as file:
    return file.read().strip()


if __name__ == '__main__':
  app.run(main)
