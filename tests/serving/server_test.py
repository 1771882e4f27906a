"""A server as a whole: strangers' messages, its end, newer checkpoints, the same bits."""

import contextlib
import dataclasses
from http import client as http_client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import psutil
import pytest
import requests
from websockets import exceptions
from websockets.sync import client

from rt2_train.serving import arrays
from rt2_train.serving import policy as policy_lib
from rt2_train.serving import server as server_lib
from rt2_train.serving import service as service_lib
from tests.serving import arrays_test
from tests.serving import policy_test
from tests.serving import served

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope='module')
def processor(tmp_path_factory):
  return served.processor(tmp_path_factory.mktemp('vocabulary'))


@pytest.fixture(scope='module')
def policy(processor):
  return served.tiny_policy(processor)


@pytest.mark.parametrize('number', [25, pytest.param(2500, marks=pytest.mark.slow)])
def test_after_every_mutated_message_the_next_client_is_served(policy, number):
  rng = np.random.default_rng(number)
  message, body = arrays.pack_msgpack(served.message(1)), arrays_test.json_body()
  (action,) = policy.infer([policy_test.instruction(1)])
  process = psutil.Process()
  with served.serving(policy) as server, served.connected(server) as robot:
    answered, threads, files = 0, process.num_threads(), process.num_fds()
    for turn in range(number):
      with served.connected(server) as stranger:
        stranger.send(arrays_test.mutated(message, rng))
        reply = stranger.recv(10)
        answered += isinstance(reply, bytes)
        assert isinstance(reply, bytes) or reply.startswith('400: ')
      # Not requests, which keeps a connection after its session has ended.
      with contextlib.closing(http_client.HTTPConnection(*server.address, timeout=10)) as http:
        http.request('POST', '/act', arrays_test.mutated(body, rng))
        reply = http.getresponse()
        assert reply.status in (200, 400) and json.loads(reply.read())
      if turn % 10 == 0:
        assert served.ask(robot, seed=1)['tokens'] == action.tokens.tolist()
    served.eventually(lambda: process.num_fds() <= files)
    assert 0 < answered < number and process.num_threads() <= threads + 3


def test_garbage_in_place_of_http_and_frames_ends_that_connection_alone(policy):
  with served.serving(policy) as server, served.connected(server) as robot:
    for garbage in (b'\0' * 100, b'GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n', b'A' * 100_000):
      with socket.create_connection(server.address, timeout=20) as stranger:
        stranger.sendall(garbage)
        stranger.recv(100)
    with served.connected(server) as stranger:
      stranger.socket.sendall(b'\xff' * 50)
      with pytest.raises(exceptions.ConnectionClosed):
        stranger.recv(10)
    assert served.ask(robot)['text']


def test_a_robot_that_vanishes_while_it_waits_leaves_the_queue(policy):
  slow = served.Slow(policy)
  with served.serving(slow) as server, served.connected(server) as robot:
    slow.gate.clear()
    robot.send(arrays.pack_msgpack(served.message()))
    served.eventually(lambda: slow.sizes[-1:] == [1])
    waiting = lambda: metric(server, 'rt2_requests_total{protocol="openpi",status="gone"}')
    with served.connected(server) as dead:
      dead.send(arrays.pack_msgpack(served.message()))
      time.sleep(0.1)
      dead.socket.close()
    served.eventually(lambda: waiting() == 1)
    slow.gate.set()
    assert isinstance(robot.recv(10), bytes)
    assert served.ask(robot)['text']
  assert slow.sizes[-2:] == [1, 1]


def metric(server, name: str) -> float:
  text = requests.get(served.url(server, '/metrics'), timeout=10).text
  return float(dict(line.rsplit(' ', 1) for line in text.splitlines()).get(name, 0))


def test_a_robot_that_does_not_read_its_answers_delays_nobody(policy):
  limits = service_lib.Limits(patience_seconds=1.0)
  with served.serving(policy, server_lib.Options(limits=limits)) as server:
    with served.connected(server) as deaf, served.connected(server) as robot:
      deaf.socket.setblocking(False)
      for _ in range(200):
        try:
          deaf.socket.send(b'\x82\x85\0\0\0\0\x81\xa1x\x90\xc0'[:-1])
        except (BlockingIOError, OSError):
          break
      began = time.monotonic()
      for seed in range(5):
        assert isinstance(served.ask(robot, seed=seed), dict)
      assert time.monotonic() - began < 5


def test_a_deadline_that_passes_in_the_queue_is_told_and_the_request_not_computed(policy):
  slow = served.Slow(policy)
  limits = service_lib.Limits(deadline_seconds=10)
  with served.serving(slow, server_lib.Options(limits=limits)) as server:
    with served.connected(server) as first, served.connected(server) as hurried:
      slow.gate.clear()
      first.send(arrays.pack_msgpack(served.message()))
      served.eventually(lambda: slow.sizes[-1:] == [1])
      said = served.ask(hurried, deadline_ms=50)
      assert said == '504: no answer within the deadline of 50 ms'
      slow.gate.set()
      assert isinstance(first.recv(10), bytes)
      sizes = list(slow.sizes)
      time.sleep(0.05)
      assert slow.sizes == sizes


def test_a_full_queue_is_a_clear_503(policy):
  slow = served.Slow(policy)
  with served.serving(slow, server_lib.Options(queue_size=1)) as server:
    with served.connected(server) as first, served.connected(server) as second, \
        served.connected(server) as third:
      slow.gate.clear()
      first.send(arrays.pack_msgpack(served.message()))
      served.eventually(lambda: slow.sizes[-1:] == [1])
      second.send(arrays.pack_msgpack(served.message()))
      time.sleep(0.2)
      assert served.ask(third) == '503: overloaded: 1 requests are waiting already; try again later'
      with pytest.raises(exceptions.ConnectionClosedError, match='1013'):
        third.recv(10)
      reply = requests.post(
          served.url(server, '/act'), data=arrays_test.json_body(), timeout=10)
      assert reply.status_code == 503 and reply.headers['Retry-After'] == '1'
      slow.gate.set()
      assert isinstance(first.recv(10), bytes) and isinstance(second.recv(10), bytes)


def test_a_server_that_ends_answers_what_it_has_and_takes_nothing_new(policy):
  slow = served.Slow(policy)
  with served.serving(slow) as server:
    with served.connected(server) as asking, served.connected(server) as idle:
      slow.gate.clear()
      asking.send(arrays.pack_msgpack(served.message(2)))
      served.eventually(lambda: slow.sizes[-1:] == [1])
      server.stop()
      with pytest.raises(exceptions.ConnectionClosedError, match='1012'):
        idle.recv(10)
      served.eventually(lambda: refuses(server))
      slow.gate.set()
      reply = arrays.unpack_msgpack(asking.recv(10))
      (action,) = policy.infer([policy_test.instruction(2)])
      assert reply['tokens'] == action.tokens.tolist()
      with pytest.raises(exceptions.ConnectionClosed, match='1012'):
        asking.recv(10)


def refuses(server) -> bool:
  try:
    with client.connect(served.uri(server), open_timeout=1):
      return False
  except (OSError, exceptions.WebSocketException):
    return True


def test_a_server_whose_answers_do_not_come_ends_all_the_same(policy):
  slow = served.Slow(policy)
  with served.serving(slow, drain_seconds=0.2) as server:
    with served.connected(server) as asking:
      slow.gate.clear()
      asking.send(arrays.pack_msgpack(served.message()))
      served.eventually(lambda: slow.sizes[-1:] == [1])
      server.stop()
      with pytest.raises(exceptions.ConnectionClosed):
        asking.recv(10)
      slow.gate.set()


def test_a_newer_checkpoint_answers_on_connections_that_stay(tmp_path, processor, policy):
  model = policy_test.make_model(processor)
  params = policy_test.make_params(model, seed=0)  # Those of `policy`.
  policy_test.write_checkpoint(
      tmp_path, 10, model, policy_test.make_params(model, seed=1), processor)
  loaded = policy_lib.Policy.from_checkpoint(tmp_path, batch_sizes=(4,))
  options = server_lib.Options(reload_from=str(tmp_path), reload_seconds=0.05)
  old, new = (
      each.infer([policy_test.instruction(0)])[0].tokens.tolist() for each in (loaded, policy))
  assert old != new
  with served.serving(loaded, options) as server, served.connected(server) as robot:
    assert served.ask(robot)['tokens'] == old
    assert metric(server, 'rt2_checkpoint_step') == 10
    policy_test.write_checkpoint(tmp_path, 20, model, params, processor)
    served.eventually(lambda: metric(server, 'rt2_checkpoint_step') == 20)
    assert served.ask(robot)['tokens'] == new
    with client.connect(served.uri(server)) as late:
      assert arrays.unpack_msgpack(late.recv())['checkpoint'] == 'checkpoint_20'
    # One that this server cannot answer with changes nothing, and is tried once.
    longer = dataclasses.replace(processor, targets_length=16)
    policy_test.write_checkpoint(tmp_path, 30, model, params, longer)
    served.eventually(lambda: metric(server, 'rt2_reload_errors_total') == 1)
    time.sleep(0.3)
    assert metric(server, 'rt2_reload_errors_total') == 1
    assert metric(server, 'rt2_checkpoint_step') == 20
    assert served.ask(robot)['tokens'] == new


def test_an_answer_has_the_same_bits_whoever_is_beside_it_in_a_compiled_size(processor, policy):
  model = policy_test.make_model(processor)
  params = policy_test.make_params(model, 0)
  predict = jax.jit(lambda batch: model.predict_batch_with_aux(params, batch, jax.random.key(0)))
  rows = [policy.prepare(policy_test.instruction(seed)) for seed in range(8)]
  rows += [policy.prepare(policy_test.question(seed)) for seed in range(4)]

  def answers(chosen):
    batch = {name: np.stack([rows[i][name] for i in chosen]) for name in rows[0]}
    tokens, aux = predict(batch | processor.features(batch.pop('inputs')))
    return zip(chosen, np.asarray(tokens), np.asarray(aux['scores']), strict=True)

  rng = np.random.default_rng(0)
  seen = [set() for _ in rows]
  for _ in range(6):
    for chosen in rng.permutation(len(rows)).reshape(-1, 4):
      for i, tokens, score in answers(chosen):
        seen[i].add((tokens.tobytes(), score.tobytes()))
  assert all(len(different) == 1 for different in seen)
  # In another size the sums may be taken in another order.
  for i, tokens, score in answers(range(len(rows))):
    [(_, in_four)] = seen[i]
    np.testing.assert_allclose(score, np.frombuffer(in_four, np.float32)[0], atol=1e-4)
    assert (tokens.tobytes(), score.dtype) == (next(iter(seen[i]))[0], np.float32)


def test_the_command_serves_a_checkpoint_and_ends_well_on_sigterm(tmp_path, processor):
  model = policy_test.make_model(processor)
  policy_test.write_checkpoint(
      tmp_path, 10, model, policy_test.make_params(model, 1), processor)
  command = [sys.executable, '-m', 'tools.serve', f'--checkpoint={tmp_path}', '--port=0',
             '--batch_sizes=2']
  with subprocess.Popen(
      command, cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)}, stderr=subprocess.PIPE,
      text=True) as process:
    try:
      line = next(line for line in process.stderr if 'serving at' in line)
      address = line.split()[-1]
      with client.connect(f'ws://{address}') as robot:
        assert arrays.unpack_msgpack(robot.recv(10))['checkpoint'] == 'checkpoint_10'
        assert served.ask(robot)['actions'].shape == (1, 7)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(exceptions.ConnectionClosed, match='1012'):
          robot.recv(10)
      assert process.wait(20) == 0
    finally:
      process.kill()


@pytest.mark.parametrize('arguments, said', [
    (['--host=0.0.0.0'], 'host 0.0.0.0 can be reached from other computers'),
    (['--batch_sizes=0'], 'batch_sizes (0,) must be one or more'),
    (['--image_keys=a,b'], 'image_keys are 2 (a, b), the model takes 1 images'),
    (['--plan'], 'plan is on, but this model writes no plans'),
])
@pytest.mark.slow
def test_wrong_options_end_in_one_line(tmp_path, processor, arguments, said):
  model = policy_test.make_model(processor)
  policy_test.write_checkpoint(
      tmp_path, 10, model, policy_test.make_params(model, 1), processor)
  done = subprocess.run(
      [sys.executable, '-m', 'tools.serve', f'--checkpoint={tmp_path}', *arguments], cwd=ROOT,
      env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True, check=False,
      timeout=120)
  assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith('serve: ')
  assert said in done.stderr


def test_a_port_that_is_taken_is_told_before_anything_is_compiled(policy):
  with served.serving(policy) as server:
    host, port = server.address
    with pytest.raises(OSError, match=f'{host}:{port} cannot be served at'):
      server_lib.Server(policy, server_lib.Options(), host, port)


def test_requests_are_answered_while_a_large_picture_is_read(policy):
  with served.serving(policy) as server:
    with served.connected(server) as large, served.connected(server) as robot:
      done = threading.Event()

      def ask_large():
        picture = np.zeros((2000, 2000, 3), np.uint8)
        assert served.ask(large, **{'observation/image': picture})['text']
        done.set()

      thread = threading.Thread(target=ask_large)
      thread.start()
      while not done.is_set():
        assert served.ask(robot)['text']
      thread.join()
