"""OpenVLA's protocol: POST /act, plain and encoded twice; what is refused, and how."""

import base64
import json
import socket
import time

import numpy as np
import pytest
import requests

from rt2_train.serving import server as server_lib
from rt2_train.serving import service as service_lib
from tests.serving import policy_test
from tests.serving import served


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
  return served.tiny_policy(served.processor(tmp_path_factory.mktemp('vocabulary')))


@pytest.fixture(scope='module')
def server(policy):
  with served.serving(policy) as running:
    yield running


def nd(array: np.ndarray) -> dict:
  """json-numpy's coding, written from its description."""
  return {'__numpy__': base64.b64encode(array.tobytes()).decode(), 'dtype': array.dtype.str,
          'shape': list(array.shape)}


def from_nd(coded: dict) -> np.ndarray:
  data = base64.b64decode(coded['__numpy__'])
  return np.frombuffer(data, coded['dtype']).reshape(coded['shape'])


def body(seed: int = 0, **changes) -> dict:
  return {'image': nd(policy_test.frame(seed)), 'instruction': 'pick anchor', **changes}


def post(server, message, **kwargs) -> requests.Response:
  return requests.post(served.url(server, '/act'), json=message, timeout=20, **kwargs)


def test_act_answers_with_seven_floats_and_whether_to_stop(server, policy):
  for seed in range(3):
    (action,) = policy.infer([policy_test.instruction(seed)])
    reply = post(server, body(seed, unnorm_key='bridge_orig'))
    motion = from_nd(reply.json())
    assert reply.status_code == 200 and motion.dtype == '<f8' and motion.shape == (7,)
    np.testing.assert_array_equal(motion[:6], action.values[1:7])
    assert motion[6] == pytest.approx((1 - action.values[7]) / 2)
    assert reply.headers['X-Terminate'] == ('true' if action.terminate else 'false')


def test_a_body_encoded_twice_is_answered_twice_encoded(server):
  once, twice = post(server, body()), post(server, {'encoded': json.dumps(body())})
  assert isinstance(twice.json(), str)
  assert json.loads(twice.json()) == once.json()


def test_a_question_is_answered_with_text(server, policy):
  (answer,) = policy.infer([policy_test.question(2)])
  asked = {'image': nd(policy_test.frame(2)), 'question': 'where is the sun?'}
  assert post(server, asked).json() == answer.text
  assert json.loads(post(server, {'encoded': json.dumps(asked)}).json()) == answer.text


@pytest.mark.parametrize('changes, said', [
    ({'instruction': ''}, 'instruction is empty'),
    ({'instruction': None}, "needs 'instruction' or \"question\""),
    ({'image': [[1, 2], [3, 4]]}, "'image' has 2 frames"),
    ({'image': {**nd(np.zeros((4, 4, 3), np.uint8)), 'dtype': 'O'}}, "has dtype 'O'"),
    ({'image': {**nd(np.zeros((4, 4, 3), np.uint8)), 'shape': [1 << 30, 1 << 30, 3]}},
     '48 bytes where'),
    ({'image': {'__numpy__': 'no base64!', 'dtype': '|u1', 'shape': [3]}}, 'base64'),
])
def test_what_cannot_be_answered_is_a_400_with_the_reason(server, changes, said):
  reply = post(server, body(**changes))
  assert reply.status_code == 400 and said in reply.json()['error']


def test_legacy_clients_get_the_word_error_where_the_server_is_asked_to(policy):
  with served.serving(policy, server_lib.Options(legacy_errors=True)) as server:
    reply = post(server, body(instruction=''))
    assert (reply.status_code, reply.json()) == (200, 'error')
    assert post(server, body()).json()['dtype'] == '<f8'


def test_bodies_over_the_limit_are_refused_declared_or_not(policy):
  options = server_lib.Options(limits=service_lib.Limits(message_bytes=4096))
  with served.serving(policy, options) as server:
    assert post(server, body()).status_code == 200
    assert post(server, {'image': 'x' * 5000}).status_code == 413
    chunks = iter([b'x' * 3000] * 3)
    undeclared = requests.post(served.url(server, '/act'), data=chunks, timeout=20)
    assert undeclared.status_code == 413 and 'longer than 4096' in undeclared.json()['error']


def test_other_methods_and_paths_are_not_there(server):
  assert requests.get(served.url(server, '/act'), timeout=20).status_code == 405
  assert requests.get(served.url(server, '/elsewhere'), timeout=20).status_code == 404


def test_who_is_silent_in_the_middle_is_given_up_and_holds_up_nobody(policy):
  limits = service_lib.Limits(patience_seconds=1.0)
  with served.serving(policy, server_lib.Options(limits=limits)) as server:
    head = b'POST /act HTTP/1.1\r\nHost: x\r\n'
    silent = [socket.create_connection(server.address, timeout=20) for _ in range(3)]
    silent[1].sendall(head)
    silent[2].sendall(head + b'Content-Length: 100\r\n\r\n{"image"')
    began = time.monotonic()
    assert post(server, body()).status_code == 200
    assert time.monotonic() - began < 1
    assert b' 408 ' in silent[2].recv(1000)
    assert all(map(_is_ended, silent[:2]))
    for connection in silent:
      connection.close()


def _is_ended(connection: socket.socket) -> bool:
  try:
    return connection.recv(1000) == b''
  except ConnectionResetError:
    return True


def test_health_and_metrics_say_what_was_done(policy):
  with served.serving(policy) as server:
    health = requests.get(served.url(server, '/healthz'), timeout=20)
    assert (health.status_code, health.text) == (200, 'OK\n')
    post(server, body())
    post(server, body(instruction=''))
    text = requests.get(served.url(server, '/metrics'), timeout=20).text
  for line in (
      'rt2_requests_total{protocol="act",status="200"} 1.0',
      'rt2_requests_total{protocol="act",status="400"} 1.0',
      'rt2_batch_size_count 1.0', 'rt2_batch_size_sum 1.0', 'rt2_queue_seconds_count 1.0',
      'rt2_inference_seconds_count 1.0', 'rt2_connections 0.0',
      'rt2_request_seconds_count{protocol="act"} 1.0',
  ):
    assert line in text.splitlines(), line
