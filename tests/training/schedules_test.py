"""Schedules at the steps where they turn."""

import jax
import pytest

from rt2_train.training import schedules


def test_fine_tuning_warms_up_to_a_constant():
  rate = schedules.schedule('constant * linear_warmup', base_learning_rate=1e-3, warmup_steps=100)
  assert [float(rate(s)) for s in (50, 100, 9000)] == pytest.approx([5e-4, 1e-3, 1e-3])


def test_rsqrt_decay_is_t5s_pretraining_schedule():
  rate = schedules.schedule('constant * rsqrt_decay', base_learning_rate=1.0, warmup_steps=10000)
  assert [float(rate(s)) for s in (0, 10000, 40000)] == pytest.approx([0.01, 0.01, 0.005])


def test_normalized_rsqrt_keeps_its_peak_at_the_end_of_the_warmup():
  factors = 'constant * linear_warmup * rsqrt_normalized_decay'
  rate = schedules.schedule(factors, base_learning_rate=0.01, warmup_steps=1000)
  assert [float(rate(s)) for s in (500, 1000, 4000)] == pytest.approx([0.005, 0.01, 0.005])


def test_cosine_and_linear_fall_to_the_minimum():
  for fall in ('cosine_decay', 'linear_to_zero'):
    rate = schedules.schedule(
        f'constant * {fall}', base_learning_rate=1.0, warmup_steps=100, steps_per_cycle=1000
    )
    assert float(rate(100)) == pytest.approx(1.0)
    assert float(rate(600)) == pytest.approx(0.5, abs=1e-6)
  assert float(rate(5000)) == pytest.approx(1e-8)


def test_decay_every_halves():
  rate = schedules.schedule(
      'constant * decay_every', base_learning_rate=1.0, decay_factor=0.5, steps_per_decay=10
  )
  assert [float(rate(s)) for s in (9, 10, 25)] == pytest.approx([1.0, 0.5, 0.25])


def test_t5x_linear_decay_has_its_own_warmup():
  rate = schedules.schedule(
      'linear_decay', base_learning_rate=2.0, warmup_steps=10, decay_factor=0.1
  )
  assert [float(rate(s)) for s in (5, 10, 15)] == pytest.approx([1.0, 2.0, 1.0])


def test_a_schedule_can_be_traced():
  rate = schedules.schedule('constant * linear_warmup', base_learning_rate=1.0, warmup_steps=4)
  assert float(jax.jit(rate)(2)) == pytest.approx(0.5)


def test_an_unknown_factor_is_named():
  with pytest.raises(ValueError, match="unknown factor 'warmup'"):
    schedules.schedule('constant * warmup')
