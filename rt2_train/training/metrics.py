"""From metrics on devices to numbers a person reads: averages, rates, FLOP/s, memory."""

from collections.abc import Callable, Mapping
import math
import resource
import time
from typing import Any

import jax
from jax.extend import core
import numpy as np
import psutil

from rt2_train.training import chips


# Dense bfloat16 FLOP/s per jax device, from the vendors' data sheets, by `device_kind`.
PEAK_FLOPS = {
    **{kind: chip.peak_flops for chip in chips.CHIPS.values() for kind in chip.device_kinds},
    'NVIDIA A100-SXM4-40GB': 312e12,
    'NVIDIA A100-SXM4-80GB': 312e12,
    'NVIDIA H100 80GB HBM3': 989e12,
    'NVIDIA H200': 989e12,
}


class Window:
  """Merges the metrics of the steps between two log lines."""

  def __init__(self):
    self._merged: dict[str, Any] = {}
    self.steps = 0

  def add(self, metrics: Mapping[str, Any]) -> None:
    """Adds the metrics of one step, fetched from the devices."""
    for name, metric in metrics.items():
      self._merged[name] = self._merged[name].merge(metric) if self.steps else metric
    self.steps += 1

  def take(self) -> dict[str, float]:
    """The averages since the last call; a source without examples in that time is left out."""
    values = {}
    for name, metric in sorted(self._merged.items()):
      if np.all(metric.count):
        values[name] = float(metric.compute())
    self._merged, self.steps = {}, 0
    return values


class Speed:
  """Rates over the steps between two log lines, without pauses for evaluation and checkpoints."""

  def __init__(
      self, *, batch_size: int, length: int, flops: float, peak_flops: float | None, devices: int,
      waited: float,
  ):
    """Starts the clock.

    Args:
      batch_size: global.
      length: input and target tokens of one row, padding included.
      flops: of one step, see `model_flops`.
      peak_flops: of one device; None where it is not known, which leaves out MFU.
      devices: number of devices.
      waited: seconds for which the loader has made anyone wait so far.
    """
    self._batch_size, self._length, self._devices = batch_size, length, devices
    self._flops, self._peak_flops = flops, peak_flops
    self._since, self._paused, self._steps = time.perf_counter(), 0.0, 0
    self._waited_at_start = self._waited = waited
    self._trained = 0.0

  def pause(self, seconds: float) -> None:
    """Takes `seconds` out of the time spent on steps."""
    self._paused += seconds

  def take(self, steps: int, waited: float) -> dict[str, float]:
    """Rates since the last call, under T5X's names where it has one; `steps`, `waited` so far."""
    now = time.perf_counter()
    seconds = max(now - self._since - self._paused, 1e-9)
    rate = (steps - self._steps) / seconds
    values = {
        'timing/seconds': seconds,
        'timing/steps_per_second': rate,
        'timing/seqs_per_second': rate * self._batch_size,
        'timing/seqs_per_second_per_core': rate * self._batch_size / self._devices,
        'timing/tokens_per_second': rate * self._batch_size * self._length,
        'timing/data_wait_share': (waited - self._waited) / seconds,
        'timing/teraflops_per_second': rate * self._flops / 1e12,
    }
    if self._peak_flops:
      values['timing/mfu'] = rate * self._flops / (self._peak_flops * self._devices)
    self._trained += seconds
    self._since, self._paused, self._steps, self._waited = now, 0.0, steps, waited
    return values

  def total(self, waited: float) -> dict[str, float]:
    """Examples per second and share of time waited for data, over all laps."""
    return {
        'examples_per_second': self._steps * self._batch_size / self._trained,
        'data_wait_share': (waited - self._waited_at_start) / self._trained,
    }


def peak_flops(device: jax.Device) -> float | None:
  """Dense bfloat16 FLOP/s of `device`, None where we do not know it."""
  return PEAK_FLOPS.get(device.device_kind)


def memory() -> dict[str, float]:
  """Memory [GiB] and open files of this process; of the fullest local device where it says."""
  process = psutil.Process()
  values = {
      'memory/host_gib': process.memory_info().rss / 2**30,
      'memory/open_files': process.num_fds(),
  }
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  for key, name in (('bytes_in_use', 'device_gib'), ('peak_bytes_in_use', 'device_peak_gib')):
    if all(key in s for s in stats):
      values[f'memory/{name}'] = max(s[key] for s in stats) / 2**30
  return values


def peak_rss_gib() -> float:
  """Largest resident memory of this process so far (Linux counts it in KiB)."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def model_flops(forward: Callable[..., Any], *args: Any) -> float:
  """FLOPs of one training step: three times the matrix products of the forward pass.

  That is the count by which MFU is defined (PaLM, appendix B): backward costs two forwards, and
  recomputation under remat is not credited. Read from the traced program, because XLA's own
  cost analysis counts the body of a scan once, however many layers it runs.

  Args:
    forward: traced, never run.
    *args: arrays or their shapes.
  """
  return 3.0 * matmul_flops(jax.make_jaxpr(forward)(*args).jaxpr)


def matmul_flops(jaxpr: Any, while_trips: int = 1) -> float:
  """FLOPs of the matrix products of a traced program, recomputation under remat included.

  Args:
    jaxpr: the program.
    while_trips: how often the body of a while loop counts; scans know their length.
  """
  flops = 0.0
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    if name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      left = equation.invars[0].aval.shape
      outputs = math.prod(equation.outvars[0].aval.shape)
      flops += 2.0 * outputs * math.prod(left[i] for i in contracted)
    elif name == 'conv_general_dilated':
      numbers = equation.params['dimension_numbers']
      kernel = equation.invars[1].aval.shape
      per_output = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
      flops += 2.0 * math.prod(equation.outvars[0].aval.shape) * per_output
    times = {'scan': equation.params.get('length'), 'while': while_trips}.get(name, 1)
    inner = [matmul_flops(sub, while_trips) for sub in core.jaxprs_in_params(equation.params)]
    # Of a cond's branches one runs: the longest is counted.
    flops += times * (max(inner, default=0.0) if name == 'cond' else sum(inner))
  return flops
