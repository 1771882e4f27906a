"""What an action space keeps: every integer comes back, every value within one bin."""

import json

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from rt2_train import actions

RANGES = [1.0, 2.0, 1.75, 0.05, np.pi / 2, np.pi]
ASYMMETRIC = [(0.0, 1.0), (-0.2245, 0.1782), (0.15, 0.6), (-3.0, 100.0), (1e-4, 2e-4)]
SCHEMES = ['rt1', 'center']

bounds = st.one_of(
    st.sampled_from([(-bound, bound) for bound in RANGES] + ASYMMETRIC),
    st.tuples(st.floats(-10, 10), st.floats(0.1, 100)).map(lambda x: (x[0], x[0] + x[1])),
)


def one(low, high, scheme, **integers) -> actions.ActionSpace:
  return actions.ActionSpace('one', (actions.Dimension('x', 'm', low, high, **integers),), scheme)


@pytest.mark.parametrize('scheme', SCHEMES)
@pytest.mark.parametrize('bound', RANGES)
def test_every_integer_comes_back_and_none_counts_as_clipped(scheme, bound):
  space = actions.rt2(position=bound, rotation=bound, gripper=bound, scheme=scheme)
  bins = np.tile(np.arange(256)[:, None], (1, space.size))
  bins[:, 0] %= 2
  decoded = space.decode(bins)
  assert decoded.dtype == np.float32
  encoded, clipped = space.encode_and_count(decoded)
  assert np.array_equal(encoded, bins)
  assert encoded.dtype == np.int32
  assert not clipped.any()


@hypothesis.given(bounds, st.sampled_from(SCHEMES), st.integers(-300, 300), st.integers(1, 1000))
def test_every_integer_comes_back_from_any_bounds(low_high, scheme, first, count):
  space = one(*low_high, scheme, first=first, last=first + count)
  bins = np.arange(first, first + count + 1)[:, None]
  assert np.array_equal(space.encode(space.decode(bins)), bins)


@hypothesis.given(bounds, st.sampled_from(SCHEMES), st.floats(0, 1))
def test_every_value_comes_back_within_one_bin(low_high, scheme, share):
  low, high = low_high
  space = one(low, high, scheme)
  value = low + share * (high - low)
  error = abs(space.decode(space.encode([value]))[0] - value)
  bin_width = (high - low) / (255 if scheme == 'rt1' else 256)
  limit = bin_width if scheme == 'rt1' else bin_width / 2
  assert error <= limit + 2 * space.dimensions[0].resolution


@hypothesis.given(st.lists(st.floats(-3, 3), min_size=8, max_size=8), st.sampled_from(SCHEMES))
def test_values_beyond_the_bounds_are_clipped_and_counted(values, scheme):
  values[0] = 1.0
  space = actions.rt2(scheme=scheme)
  bins, clipped = space.encode_and_count(values)
  bound = np.array([1, 1, 1, 1, np.pi / 2, np.pi / 2, np.pi / 2, 1])
  slack = 1e-6  # a value that float32 cannot tell from the bound is not beyond it
  assert clipped[np.abs(values) > bound + slack].all()
  assert not clipped[np.abs(values) <= bound].any()
  assert np.array_equal(bins, space.encode(np.clip(values, -bound, bound)))


def test_rt1_truncates_as_the_paper_base_does():
  space = actions.RT2
  assert space.encode([1, 0, 0, 0, 0, 0, 0, 1]).tolist() == [1, *[127] * 6, 255]
  # The string of RT-2, section 3.2.
  values = space.decode([1, 128, 91, 241, 5, 101, 127, 217])
  np.testing.assert_allclose(
      values, [1, 0.004, -0.286, 0.890, -1.509, -0.326, -0.006, 0.702], atol=1e-3)


def test_center_has_no_bias():
  values = np.linspace(-1, 1, 100_001)[:, None]
  errors = {}
  for scheme in SCHEMES:
    space = one(-1, 1, scheme)
    errors[scheme] = float((space.decode(space.encode(values)) - values).mean())
  assert abs(errors['center']) < 1e-5
  assert errors['rt1'] == pytest.approx(-1 / 255, abs=1e-4)


def test_language_table_counts_whole_units():
  space = actions.LANGUAGE_TABLE
  assert space.encode([[0.003, -0.03], [0.0044, -0.0046]]).tolist() == [[1, -10], [1, -2]]
  np.testing.assert_allclose(space.decode([-10, 7]), [-0.03, 0.021], atol=1e-8)
  assert actions.language_table(0.01).encode([0.1, -0.05]).tolist() == [10, -5]


def test_terminate_is_stop_or_continue():
  terminate = actions.RT2.dimensions[0]
  assert (terminate.kind, terminate.first, terminate.last) == ('discrete', 0, 1)
  assert (actions.TERMINATE_STOP, actions.TERMINATE_CONTINUE) == (0, 1)
  assert actions.RT2.names == (
      'terminate', 'dx', 'dy', 'dz', 'droll', 'dpitch', 'dyaw', 'gripper')


@pytest.mark.parametrize('wrong', [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_by_dimension_and_position(wrong):
  values = np.zeros((2, 8))
  values[1, 3] = wrong
  with pytest.raises(ValueError, match=r'rt2: dz at position \(1, 3\) is -?(nan|inf)'):
    actions.RT2.encode(values)


def test_half_a_terminate_is_refused():
  with pytest.raises(ValueError, match=r'terminate at position \(0,\) is 0.5, which is not an int'):
    actions.RT2.encode([0.5, 0, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize('bins', [[2] + [0] * 7, [1] + [256] * 7, [-1] + [0] * 7])
def test_an_integer_outside_its_dimension_is_refused(bins):
  with pytest.raises(ValueError, match='outside its integers'):
    actions.RT2.decode(bins)


def test_decoding_floats_is_refused():
  with pytest.raises(ValueError, match='decodes integers, got float64'):
    actions.RT2.decode([1.0] * 8)


@pytest.mark.parametrize('values', [[0.0] * 7, 0.0, np.zeros((8, 7))])
def test_another_number_of_dimensions_is_refused(values):
  with pytest.raises(ValueError, match='rt2 has 8 dimensions'):
    actions.RT2.encode(values)


@hypothesis.given(bounds, st.sampled_from(SCHEMES), st.integers(-1000, 1000), st.integers(1, 999))
def test_a_space_comes_back_from_json(low_high, scheme, first, count):
  space = one(*low_high, scheme, first=first, last=first + count)
  assert actions.ActionSpace.from_json(space.to_json()) == space


@pytest.mark.parametrize('space', [actions.RT2, actions.LANGUAGE_TABLE])
def test_the_papers_spaces_come_back_from_json_and_are_hashable(space):
  assert actions.ActionSpace.from_json(space.to_json()) == space
  assert hash(actions.ActionSpace.from_json(space.to_json())) == hash(space)


def test_the_rate_travels_and_a_space_without_one_is_written_as_before_there_was_one():
  fast = actions.rt2(control_hz=3)
  assert actions.ActionSpace.from_json(fast.to_json()).control_hz == 3
  assert actions.RT2.control_hz is None and fast != actions.RT2
  assert sorted(json.loads(actions.RT2.to_json())) == ['dimensions', 'name', 'scheme']
  old = {**json.loads(fast.to_json())}
  del old['control_hz']
  assert actions.ActionSpace.from_json(json.dumps(old)) == actions.RT2


def test_language_table_states_its_rate():
  assert actions.LANGUAGE_TABLE.control_hz == 10
  assert actions.language_table(control_hz=5) != actions.LANGUAGE_TABLE
  assert actions.language_table(control_hz=None).control_hz is None


@pytest.mark.parametrize('rate', [0, -1, np.nan, np.inf])
def test_a_rate_that_cannot_be_is_refused(rate):
  with pytest.raises(ValueError, match=f'^action space rt2: control_hz is {rate}; it is actions '
                     'per second, above 0, or None$'):
    actions.rt2(control_hz=rate)


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"dimensions": [{"name": "x"}]}', '3'])
def test_json_that_is_no_space_is_refused(text):
  with pytest.raises(ValueError, match='not an action space'):
    actions.ActionSpace.from_json(text)


@pytest.mark.parametrize('fields, message', [
    (dict(low=1.0, high=1.0), 'finite and rising'),
    (dict(low=0.0, high=np.inf), 'finite and rising'),
    (dict(low=0.0, high=1.0, first=3, last=3), 'at least two'),
    (dict(low=0.0, high=1.0, kind='integer'), "'continuous' or 'discrete'"),
    (dict(low=0.0, high=2.0, first=0, last=1, kind='discrete'), 'its bounds'),
    (dict(low=1000.0, high=1000.001), 'finer than float32'),
])
def test_a_dimension_that_cannot_work_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    actions.Dimension('x', 'm', **fields)


def test_a_space_that_cannot_work_is_refused():
  x = actions.Dimension('x', 'm', -1, 1)
  with pytest.raises(ValueError, match='two dimensions named x'):
    actions.ActionSpace('twice', (x, x))
  with pytest.raises(ValueError, match='no dimensions'):
    actions.ActionSpace('none', ())
  with pytest.raises(ValueError, match="'rt1' or 'center'"):
    actions.ActionSpace('odd', (x,), 'round')
