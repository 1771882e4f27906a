"""Averages, rates and FLOPs, against numbers worked out by hand."""

import time

from clu import metrics as clu_metrics
import jax
import jax.numpy as jnp
import pytest

from rt2_train.training import metrics


def average(total: float, count: float) -> clu_metrics.Average:
  return clu_metrics.Average(total=jnp.float32(total), count=jnp.float32(count))


def test_a_window_weighs_steps_by_their_tokens_and_starts_anew():
  window = metrics.Window()
  window.add({'loss/robot': average(10, 2), 'loss/web': average(0, 0)})
  window.add({'loss/robot': average(2, 4), 'loss/web': average(0, 0)})
  assert window.take() == {'loss/robot': 2.0}  # A source without examples is left out.
  window.add({'loss/robot': average(1, 1), 'loss/web': average(4, 2)})
  assert window.take() == {'loss/robot': 1.0, 'loss/web': 2.0}


def test_flops_count_every_layer_of_a_scan_three_times():
  def forward(w, x):
    x, _ = jax.lax.scan(jax.checkpoint(lambda x, w: (x @ w, None)), x, w)
    return jnp.sum(x)

  # Five layers of [4, 8] x [8, 8]; XLA's own analysis would count one.
  flops = metrics.model_flops(forward, jnp.ones((5, 8, 8)), jnp.ones((4, 8)))
  assert flops == 3 * 5 * 2 * 4 * 8 * 8


def test_flops_count_convolutions():
  def forward(kernel, images):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(images, kernel, (4, 4), 'VALID', dimension_numbers=numbers)

  flops = metrics.model_flops(forward, jnp.ones((4, 4, 3, 10)), jnp.ones((2, 8, 8, 3)))
  assert flops == 3 * 2 * (2 * 2 * 2 * 10) * (4 * 4 * 3)


def test_speed_counts_steps_rows_tokens_and_flops():
  speed = metrics.Speed(batch_size=8, length=10, flops=1e12, peak_flops=4e12, devices=2, waited=1.0)
  time.sleep(0.05)
  rates = speed.take(steps=8, waited=1.01)
  seconds = rates.pop('timing/seconds')
  assert 0.05 <= seconds < 1.0
  assert {name: value * seconds for name, value in rates.items()} == pytest.approx({
      'timing/steps_per_second': 8,
      'timing/seqs_per_second': 64,
      'timing/seqs_per_second_per_core': 32,
      'timing/tokens_per_second': 640,
      'timing/data_wait_share': 0.01,
      'timing/teraflops_per_second': 8,
      'timing/mfu': 1,
  })
  assert speed.total(1.01)['examples_per_second'] == pytest.approx(64 / seconds)


def test_pauses_do_not_count():
  speed = metrics.Speed(batch_size=1, length=1, flops=0.0, peak_flops=None, devices=1, waited=0.0)
  started = time.perf_counter()
  time.sleep(0.2)
  speed.pause(time.perf_counter() - started)
  rates = speed.take(steps=1, waited=0.0)
  assert rates['timing/seconds'] < 0.15
  assert 'timing/mfu' not in rates


def test_memory_of_this_process_is_reported():
  assert 0.05 < metrics.memory()['memory/host_gib'] < metrics.peak_rss_gib() + 0.1
