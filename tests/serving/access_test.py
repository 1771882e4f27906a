"""Who may ask a server."""

import pytest
import requests
from openpi_client import websocket_client_policy
from websockets import exceptions
from websockets.sync import client

from rt2_train.serving import access
from rt2_train.serving import server as server_lib
from tests.serving import served

KEY = 'correct horse battery staple'


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  policy = served.tiny_policy(served.processor(tmp_path_factory.mktemp('vocabulary')))
  with served.serving(policy, server_lib.Options(api_key=KEY)) as running:
    yield running


@pytest.mark.parametrize('authorization', [
    None, '', 'Api-Key', 'Api-Key ', f'Api-Key {KEY}x', f'Api-Key {KEY[:-1]}', f'Basic {KEY}', KEY])
def test_without_the_key_nobody_is_served(server, authorization):
  headers = {} if authorization is None else {'Authorization': authorization}
  for method, path in (('POST', '/act'), ('GET', '/metrics'), ('GET', '/elsewhere')):
    reply = requests.request(method, served.url(server, path), headers=headers, timeout=20)
    assert reply.status_code == 401 and 'Api-Key' in reply.json()['error']
  for path in ('', 'healthz'):
    with pytest.raises(exceptions.InvalidStatus) as refused:
      client.connect(f'{served.uri(server)}/{path}', additional_headers=headers)
    assert refused.value.response.status_code == 401


def test_with_the_key_openpis_client_is_served(server):
  robot = websocket_client_policy.WebsocketClientPolicy(*server.address, api_key=KEY)
  assert robot.infer(served.message())['actions'].shape == (1, 7)
  headers = {'Authorization': f'Bearer {KEY}'}
  assert requests.get(served.url(server, '/metrics'), headers=headers, timeout=20).ok


def test_health_needs_no_key(server):
  assert requests.get(served.url(server, '/healthz'), timeout=20).text == 'OK\n'


def test_a_web_page_moves_no_robot_even_with_the_key(server):
  headers = {'Authorization': f'Api-Key {KEY}', 'Origin': 'http://localhost:8000'}
  assert requests.post(
      served.url(server, '/act'), json={}, headers=headers, timeout=20).status_code == 403
  for path in ('', 'healthz'):
    with pytest.raises(exceptions.InvalidStatus) as refused:
      client.connect(f'{served.uri(server)}/{path}', additional_headers=headers)
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize('host', ['0.0.0.0', '::', '10.0.0.1', 'robot.example', ''])
def test_no_server_is_open_to_strangers_without_a_key(host):
  with pytest.raises(ValueError, match='can be reached from other computers; give an API key'):
    access.check_host(host, None)
  access.check_host(host, KEY)


@pytest.mark.parametrize('host', ['127.0.0.1', '::1', 'localhost', '127.8.8.8'])
def test_a_server_for_this_computer_needs_no_key(host):
  access.check_host(host, None)


def test_a_key_that_can_be_guessed_is_refused():
  with pytest.raises(ValueError, match='the API key has 4 characters; take at least 16'):
    access.check_host('0.0.0.0', 'open')
