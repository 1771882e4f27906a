"""openpi's protocol, spoken by openpi's own client."""

import dataclasses
import threading
import time

import numpy as np
from openpi_client import action_chunk_broker
from openpi_client import websocket_client_policy
import pytest
from websockets import exceptions
from websockets.sync import client

from rt2_train.serving import arrays
from rt2_train.serving import policy as policy_lib
from rt2_train.serving import server as server_lib
from rt2_train.serving import service as service_lib
from tests.serving import policy_test
from tests.serving import served


@pytest.fixture(scope='module')
def processor(tmp_path_factory):
  return served.processor(tmp_path_factory.mktemp('vocabulary'))


@pytest.fixture(scope='module')
def policy(processor):
  return served.tiny_policy(processor)


@pytest.fixture(scope='module')
def server(policy):
  with served.serving(policy) as running:
    yield running


def openpi_client(server) -> websocket_client_policy.WebsocketClientPolicy:
  return websocket_client_policy.WebsocketClientPolicy(*server.address)


def test_openpis_client_is_told_what_the_robot_must_know(server):
  metadata = openpi_client(server).get_server_metadata()
  assert metadata['action_names'] == ['dx', 'dy', 'dz', 'droll', 'dpitch', 'dyaw', 'gripper']
  assert metadata['action_units'] == ['m', 'm', 'm', 'rad', 'rad', 'rad', '']
  assert metadata['action_bounds'][0] == [-1, 1] and metadata['action_bounds'][6] == [-1, 1]
  assert metadata['gripper'] == 'close_positive' and metadata['act']['gripper'] == 'open_one'
  assert metadata['image_size'] == [served.SIZE, served.SIZE]
  assert (metadata['action_dim'], metadata['action_horizon']) == (7, 1)
  assert (metadata['control_hz'], metadata['plan'], metadata['history']) == (None, False, 1)


def test_openpis_client_gets_the_action_of_the_policy(server, policy):
  robot = openpi_client(server)
  for seed in range(4):
    state = {'observation/state': np.zeros(8), 'step': np.int64(seed)}
    reply = robot.infer(served.message(seed, **state))
    (action,) = policy.infer([policy_test.instruction(seed)])
    assert reply['actions'].dtype == np.float32 and reply['actions'].shape == (1, 7)
    np.testing.assert_array_equal(reply['actions'][0], action.values[1:])
    assert reply['terminate'] is action.terminate
    assert reply['tokens'] == action.tokens.tolist() and reply['text'] == action.text
    assert 0 < reply['policy_timing']['infer_ms'] < reply['server_timing']['infer_ms']
    assert ('prev_total_ms' in reply['server_timing']) == (seed > 0)


def test_openpis_broker_can_slice_the_reply(server, policy):
  broker = action_chunk_broker.ActionChunkBroker(openpi_client(server), action_horizon=1)
  (action,) = policy.infer([policy_test.instruction(3)])
  np.testing.assert_array_equal(broker.infer(served.message(3))['actions'], action.values[1:])


def test_a_question_is_answered_with_text_and_no_action(server, policy):
  (answer,) = policy.infer([policy_test.question(5)])
  with served.connected(server) as robot:
    reply = served.ask(robot, seed=5, prompt=None, question='where is the sun?')
    assert reply['text'] == answer.text and 'actions' not in reply


def test_a_plan_is_told_beside_the_action(processor):
  planner = dataclasses.replace(processor, targets_length=40, plan_length=16)
  policy = served.tiny_policy(planner, seed=1)
  planned = dataclasses.replace(policy_test.instruction(0), plan=True)
  (action,) = policy.infer([planned])
  (without,) = policy.infer([policy_test.instruction(0)])
  assert action.plan
  with served.serving(policy) as server, served.connected(server) as robot:
    assert served.ask(robot)['plan'] == action.plan
    assert served.ask(robot, plan=False)['tokens'] == without.tokens.tolist()


def test_frames_of_several_cameras_and_times_are_laid_in_the_models_order(processor):
  spec = dataclasses.replace(processor.image_spec, num_images=4)
  policy = served.tiny_policy(dataclasses.replace(processor, image_spec=spec, history=2), seed=1)
  old_left, old_right, left, right = (policy_test.frame(seed) for seed in range(4))
  (action,) = policy.infer(
      [policy_lib.Observation([old_left, old_right, left, right], 'pick anchor')])
  options = server_lib.Options(image_keys=('left', 'right'))
  with served.serving(policy, options) as server, served.connected(server) as robot:
    reply = served.ask(robot, left=np.stack([old_left, left]), right=[old_right, right])
    assert reply['tokens'] == action.tokens.tolist()
    said = served.ask(robot, left=np.stack([old_left, left]), right=right)
    assert "400: the cameras left, right have [1, 2] frames" in said


def test_the_gripper_opens_at_one_where_it_is_asked_to(policy):
  (action,) = policy.infer([policy_test.instruction(0)])
  options = server_lib.Options(gripper='open_one')
  with served.serving(policy, options) as server:
    robot = openpi_client(server)
    assert robot.get_server_metadata()['gripper'] == 'open_one'
    assert robot.get_server_metadata()['action_bounds'][6] == [0, 1]
    [motion] = robot.infer(served.message(0))['actions']
  np.testing.assert_array_equal(motion[:6], action.values[1:7])
  assert motion[6] == pytest.approx((1 - action.values[7]) / 2)


@pytest.mark.parametrize('changes, said', [
    ({'prompt': None}, 'needs \'prompt\' or "question"'),
    ({'question': 'what?'}, 'and not both'),
    ({'prompt': 7}, "'prompt' is a int; it must be text"),
    ({'prompt': ' '}, 'instruction is empty'),
    ({'prompt': 'a' * 5000}, 'has 5000 characters'),
    ({'plan': True}, 'writes no plans'),
    ({'plan': 'yes'}, '"plan" is a str'),
    ({'deadline_ms': -1}, '"deadline_ms" is -1'),
    ({'observation/image': 'sun'}, "'observation/image' is str"),
    ({'observation/image': np.zeros((3, 8, 8), np.uint8)}, 'is uint8 [3, 8, 8]'),
    ({'observation/image': np.zeros((8, 8, 3), np.float32)}, 'is float32 [8, 8, 3]'),
    ({'observation/image': np.zeros((0, 8, 3), np.uint8)}, 'is 0 x 8 pixels'),
    ({'observation/image': [policy_test.frame()] * 2}, 'has 2 frames; the model acts on 1'),
    ({'observation/image': b'\xff\xd8 torn'}, 'is no picture'),
])
def test_what_cannot_be_answered_is_refused_with_the_reason(server, changes, said):
  with served.connected(server) as robot:
    reply = served.ask(robot, **changes)
    assert isinstance(reply, str) and reply.startswith('400: ') and said in reply
    with pytest.raises(exceptions.ConnectionClosedError, match='1011'):
      robot.recv(10)


def test_a_missing_camera_names_the_keys_that_came(server):
  with served.connected(server) as robot:
    robot.send(arrays.pack_msgpack({'prompt': 'pick anchor', 'image': policy_test.frame()}))
    assert "lacks the image 'observation/image'; it has 'prompt', 'image'" in robot.recv(10)


def test_openpis_client_raises_what_is_refused(server):
  with pytest.raises(RuntimeError, match='400: .*instruction is empty'):
    openpi_client(server).infer(served.message(prompt=''))


def test_a_text_frame_is_refused(server):
  with served.connected(server) as robot:
    robot.send('pick anchor')
    assert 'send msgpack in a binary one' in robot.recv(10)


def test_a_message_over_the_limit_is_refused_before_it_is_read(policy):
  limits = service_lib.Limits(message_bytes=4096)
  with served.serving(policy, server_lib.Options(limits=limits)) as server:
    with served.connected(server) as robot:
      assert served.ask(robot)['text']
      robot.send(b'\0' * 4097)
      with pytest.raises(exceptions.ConnectionClosedError, match='1009'):
        robot.recv(10)


def test_a_picture_that_unpacks_to_more_than_the_limit_is_refused_by_its_header(policy):
  import io
  import PIL.Image
  buffer = io.BytesIO()
  PIL.Image.new('RGB', (3000, 3000)).save(buffer, 'PNG')
  assert len(buffer.getvalue()) < 60_000
  with served.serving(policy) as server, served.connected(server) as robot:
    said = served.ask(robot, **{'observation/image': buffer.getvalue()})
    assert 'is 3000 x 3000 pixels; from 1 to 4194304 are taken' in said


def test_one_robot_too_many_is_told_to_come_later(policy):
  options = server_lib.Options(limits=service_lib.Limits(connections=2))
  with served.serving(policy, options) as server:
    with served.connected(server), served.connected(server):
      with pytest.raises(exceptions.InvalidStatus) as refused:
        client.connect(served.uri(server))
      assert refused.value.response.status_code == 503
      assert b'2 clients are connected already' in refused.value.response.body
    served.eventually(lambda: _connects(server))


def _connects(server) -> bool:
  try:
    with served.connected(server):
      return True
  except exceptions.InvalidStatus:
    return False


def test_robots_that_ask_at_once_are_answered_together_and_each_its_own(policy):
  slow = served.Slow(policy)
  with served.serving(slow) as server:
    robots = [openpi_client(server) for _ in range(5)]
    replies = {}

    def ask(seed: int):
      replies[seed] = robots[seed].infer(served.message(seed))

    slow.sizes.clear()
    slow.gate.clear()
    first = threading.Thread(target=ask, args=(0,))
    first.start()
    served.eventually(lambda: slow.sizes == [1])
    others = [threading.Thread(target=ask, args=(seed,)) for seed in range(1, 5)]
    for thread in others:
      thread.start()
    time.sleep(0.1)
    slow.gate.set()
    for thread in (first, *others):
      thread.join(20)
  assert slow.sizes == [1, 4]
  expected = policy.infer([policy_test.instruction(seed) for seed in range(5)])
  for seed, action in enumerate(expected):
    assert replies[seed]['tokens'] == action.tokens.tolist()
