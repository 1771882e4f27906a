"""The decoders of messages: what they take is exact, what they do not take is a ValueError."""

import base64
import json
import tracemalloc

import msgpack
import numpy as np
from openpi_client import msgpack_numpy
import pytest

from rt2_train.serving import arrays
from tests.serving import policy_test
from tests.serving import served

ARRAYS = [
    np.arange(24, dtype=np.uint8).reshape(2, 4, 3), np.float32(-0.5), np.array(7, '<i8'),
    np.array([True, False]), np.zeros((0, 3), '>f4'), np.array([1.5, np.nan], np.float16)]


@pytest.mark.parametrize('array', ARRAYS, ids=lambda array: f'{array.dtype.str} {array.shape}')
def test_arrays_come_through_openpis_coding_both_ways(array):
  packed = msgpack_numpy.packb({'array': array, 'text': 'pick'})
  assert arrays.pack_msgpack({'array': array, 'text': 'pick'}) == packed
  read = arrays.unpack_msgpack(packed)
  assert read['text'] == 'pick' and read['array'].dtype == array.dtype
  np.testing.assert_array_equal(read['array'], array)


def test_an_image_is_read_without_a_copy():
  packed = msgpack_numpy.packb({'image': np.zeros((512, 512, 3), np.uint8)})
  tracemalloc.start()
  read = arrays.unpack_msgpack(packed)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert read['image'].nbytes == 3 << 18
  # msgpack cuts the bytes out of the message; the array is a view of those.
  assert peak < 1.1 * read['image'].nbytes and not read['image'].flags.writeable


def coded(**changes) -> bytes:
  whole = {'__ndarray__': True, 'data': b'abcdef', 'dtype': '|u1', 'shape': [2, 3], **changes}
  return msgpack.packb({'image': {key.encode(): value for key, value in whole.items()}})


@pytest.mark.parametrize('packed, said', [
    (coded(dtype='|O'), "dtype '|O'"),
    (coded(dtype='|V6'), "dtype '|V6'"),
    (coded(dtype='<c8'), "dtype '<c8'"),
    (coded(dtype='u1,u1'), "dtype 'u1,u1'"),
    (coded(dtype=['u1']), 'dtype'),
    (coded(dtype='<f1'), "dtype '<f1'"),
    (coded(shape=[2, 4]), 'has 6 bytes where 8 are needed'),
    (coded(shape=[1 << 62, 1 << 62]), 'bytes are needed|are needed'),
    (coded(shape=[-2, -3]), 'has shape'),
    (coded(shape=[True, 6]), 'has shape'),
    (coded(shape=6), 'has shape'),
    (coded(shape=[1] * 9), 'at most 8 lengths'),
    (coded(data='abcdef'), 'are a str'),
    (msgpack.packb([1, 2]), 'must be a map'),
    (msgpack.packb({b'prompt': 'x'}), 'with text keys'),
    (msgpack.packb({1: 'x'}), 'not a msgpack message'),
    (msgpack.packb({'x': msgpack.ExtType(4, b'ab')}), 'extension type 4'),
    (b'\x81\xa1x' + b'\x91' * 2000 + b'\xc0', 'not a msgpack message'),
    (b'', 'not a msgpack message'),
    (msgpack.packb({'a': 1}) + b'\0', 'extra data|not a msgpack message'),
    (msgpack.packb({'x': {b'__npgeneric__': True, b'data': 'a', b'dtype': '<f4'}}), 'is a str'),
])
def test_msgpack_that_is_none_of_this_protocol_is_refused(packed, said):
  with pytest.raises(ValueError) as error:
    arrays.unpack_msgpack(packed)
  assert any(part in str(error.value) for part in said.split('|'))


def test_a_message_of_empty_containers_does_not_fill_the_memory():
  # A megabyte that would become a hundred.
  inner = b'\xdc\x10\x00' + b'\x80' * 4096
  bomb = b'\x81\xa1x\xdc\x01\x00' + inner * 256
  tracemalloc.start()
  with pytest.raises(ValueError, match='more than 8192 values in maps and lists'):
    arrays.unpack_msgpack(bomb)
  with pytest.raises(ValueError, match='values; send arrays as json-numpy'):
    arrays.unpack_json(b'{"x": [' + b'[],' * 300_000 + b'[]]}')
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 4 << 20


def test_json_arrays_come_back_as_they_were_sent():
  for array in ARRAYS:
    sent = {'image': array, 'instruction': 'pick'}
    once, twice = arrays.unpack_json(arrays.pack_json(sent).encode())
    assert not twice and once['instruction'] == 'pick' and once['image'].dtype == array.dtype
    np.testing.assert_array_equal(once['image'], array)
    again, twice = arrays.unpack_json(json.dumps({'encoded': arrays.pack_json(sent)}).encode())
    assert twice
    np.testing.assert_array_equal(again['image'], array)


@pytest.mark.parametrize('text, said', [
    (b'', 'not a JSON message'),
    (b'[1]', 'must be a map'),
    (b'{"encoded": {}}', 'must be a string'),
    (b'{"encoded": "[]"}', 'must be a map'),
    (b'\xff{}', 'not a JSON message'),
    (b'{"x": ' + b'[' * 3000 + b']' * 3000 + b'}', 'not a JSON message'),
    (b'{"x": {"__numpy__": 1, "dtype": "|u1", "shape": [1]}}', 'is no text'),
    (b'{"x": {"__numpy__": "YQ==", "dtype": "|O", "shape": [1]}}', "dtype '|O'"),
    (b'{"x": {"__numpy__": "YQ==", "shape": [1]}}', 'has dtype'),
    (b'{"x": {"__numpy__": "YQ==", "dtype": "|u1", "shape": [2]}}', 'has 1 bytes where 2'),
    (b'{"x": {"__numpy__": "Y", "dtype": "|u1", "shape": [1]}}', 'not a JSON message'),
])
def test_json_that_is_none_of_this_protocol_is_refused(text, said):
  with pytest.raises(ValueError) as error:
    arrays.unpack_json(text)
  assert said in str(error.value)


def mutated(message: bytes, rng: np.random.Generator) -> bytes:
  """`message` with some bytes changed, cut, doubled or moved."""
  data = bytearray(message)
  for _ in range(rng.integers(1, 4)):
    # Headers and keys are where it hurts; most of a message is pixels.
    at = int(rng.integers(0, len(data))) if rng.random() < 0.5 else int(
        rng.integers(0, min(200, len(data))))
    match rng.integers(0, 5):
      case 0:
        data[at] = rng.integers(0, 256)
      case 1:
        data[at] ^= 1 << rng.integers(0, 8)
      case 2:
        del data[at:at + int(rng.integers(1, 20))]
      case 3:
        data[at:at] = rng.bytes(int(rng.integers(1, 9)))
      case 4:
        data[at:at] = data[at:at + int(rng.integers(1, 60))]
    if not data:
      break
  return bytes(data)


def json_body() -> bytes:
  image = policy_test.frame()
  coded_image = {'__numpy__': base64.b64encode(image.tobytes()).decode(), 'dtype': '|u1',
                 'shape': list(image.shape)}
  return json.dumps({'image': coded_image, 'instruction': 'pick anchor'}).encode()


@pytest.mark.parametrize('number', [150, pytest.param(5000, marks=pytest.mark.slow)])
def test_a_mutated_message_is_read_or_refused(number):
  rng = np.random.default_rng(number)
  valid = {arrays.unpack_msgpack: msgpack_numpy.packb(served.message(seed=1, step=np.int64(3))),
           arrays.unpack_json: json_body()}
  for unpack, message in valid.items():
    outcomes = {'read': 0, 'refused': 0}
    for _ in range(number):
      try:
        unpack(mutated(message, rng))
        outcomes['read'] += 1
      except ValueError as error:
        assert str(error)
        outcomes['refused'] += 1
    assert min(outcomes.values()) > number / 50, (unpack, outcomes)
