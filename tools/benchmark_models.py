"""The models' part of tools.benchmark: MFU of a training step, and the rate of decoded actions.

Parameters are random, and made on the device in the dtype that they are needed in, so that one
card holds 55B in bfloat16. Nothing here needs TensorFlow, SeqIO, data or a checkpoint.

Shape suffixes: B rows, L inputs, T targets.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
import pathlib
import statistics
import sys
import time
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
import psutil

from rt2_train import gin_files
from rt2_train import grammar as grammar_lib
from rt2_train import sequences
from rt2_train.models import decoding
from rt2_train.models import vlm
from rt2_train.training import adafactor
from rt2_train.training import metrics
from rt2_train.training import optimizers
from rt2_train.training import partitioning
from rt2_train.training import state as state_lib
from rt2_train.training import step as step_lib
from tools import benchmark_rates

# What is measured unless flags say otherwise: on an accelerator, and (index True) on a CPU.
TRAINED = (('pali_3b_original',), ('tiny',))
DECODED = (('pali_x_5b', 'palm_e_12b', 'pali_x_55b'), ('tiny', 'tiny_palm_e'))
BATCH_SIZES, REMATS = (64, 8), ('dots', 'none')
LAYERS = ('stacked', 'apart')
PROMPT, ACTION = 64, 8  # tokens

_ROOT = pathlib.Path(__file__).absolute().parent.parent
# What model files leave to others; those that say it themselves are read later.
_OPEN = """
PROCESSOR = None
OPTIMIZER = None
IMAGE_SIZE = 24
VOCAB_SIZE = 1408
"""
_EOS, _FIRST_BIN = 1, 3
# Odd, so that no two rows of a matrix are alike.
_NUMBERS = 2**20 - 1
_TENSORFLOW = ('tensorflow', 'seqio')


@gin.configurable('network', module='benchmark')
def _network(model: vlm.VisionLanguageModel) -> vlm.VisionLanguageModel:
  return model


def build(name: str, layers: str = 'stacked', remat: str | None = None) -> vlm.VisionLanguageModel:
  """The model of gin/models/<name>.gin, without processor.

  Args:
    name: of the file.
    layers: 'stacked' in one array per kind, as checkpoints have them, or each 'apart'.
    remat: name of a remat policy; None leaves the file's.

  Raises:
    ValueError: there is no such file.
  """
  gin.clear_config()
  gin.parse_config(_OPEN)
  gin_files.parse(
      [str(_ROOT / f'gin/models/{name}.gin')], ['benchmark.network.model = %MODEL'], [str(_ROOT)])
  model = gin.get_configurable('benchmark.network')()
  changed = {'scan_layers': layers == 'stacked'} | ({'remat_policy': remat} if remat else {})
  module = model.module
  model.module = module.clone(
      vit_config=dataclasses.replace(module.vit_config, **changed),
      config=dataclasses.replace(module.config, **changed))
  return model


def random_batch(
    model: vlm.VisionLanguageModel, rows: int, inputs_length: int, targets_length: int
) -> dict[str, np.ndarray]:
  """Noise to look at, to read and to say, without padding; one image per row."""
  rng = np.random.default_rng(0)
  config, vocab_size = model.module.vit_config, model.module.config.vocab_size
  inputs_BxL = rng.integers(
      _FIRST_BIN, vocab_size, (rows, model.image_tokens + inputs_length), np.int32)
  inputs_BxL[:, :model.image_tokens] = sequences.IMAGE_TOKEN_ID
  targets_BxT = rng.integers(_FIRST_BIN, vocab_size, (rows, targets_length), np.int32)
  image = (config.image_height, config.image_width, 3)
  return sequences.LAYOUTS[model.layout](inputs_BxL, targets_BxT) | {
      'images': rng.integers(0, 256, (rows, 1, *image), np.uint8),
      'image_mask': np.ones((rows, 1), np.int32),
      'source': np.zeros((rows, 1), np.int32),
  }


def random_params(shapes: Any) -> Any:
  """Normal numbers of deviation 0.02, and ones for scales, of the dtypes and places of `shapes`.

  Each parameter is written once, by copies of a megabyte: a generator of random numbers would need
  several times the memory of what it makes.
  """
  numbers = 0.02 * jax.random.normal(jax.random.key(0), (_NUMBERS,))
  params = {}
  for path, leaf in optimizers.flatten(shapes).items():
    source = jnp.ones(1) if path.endswith('scale') else numbers
    params[path] = jax.device_put(_repeated(source, leaf.shape, leaf.dtype), leaf.sharding)
  return optimizers.merge(params, {})


@functools.partial(jax.jit, static_argnums=(1, 2))
def _repeated(source: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
  size = math.prod(shape)
  times = -(-size // source.size)
  flat = jnp.broadcast_to(source.astype(dtype), (times, source.size)).reshape(-1)
  return jax.lax.slice(flat, (0,), (size,)).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Training:
  """Training steps of one model on one device.

  Attributes:
    parameters: number of.
    flops: model FLOPs of a step.
    seconds: of a step, one per round.
    compile_seconds: once.
  """

  parameters: int
  flops: float
  seconds: list[float]
  compile_seconds: float


def train_steps(
    model: vlm.VisionLanguageModel, *, batch_size: int, inputs_length: int, targets_length: int,
    rounds: int,
) -> Training:
  """Times the trainer's step, Adafactor and float32 parameters as in a run, on random data.

  Raises:
    ValueError: it does not fit the device, or the loss is not finite.
  """
  partitioner = partitioning.Partitioner(devices=jax.devices()[:1])
  batch = partitioner.batch(random_batch(model, batch_size, inputs_length, targets_length))
  optimizer_def, key = adafactor.Adafactor(), jax.random.key(0)
  with partitioner.scope():
    planned, _ = state_lib.plan(model, optimizer_def, partitioner, batch, False)
    forward = lambda params, batch: model.loss_with_rows(params, batch, None)[0]
    flops = metrics.model_flops(forward, planned.optimizer.target, batch)
    step = jax.jit(
        step_lib.make_train_step(model, lambda _: jnp.float32(1e-3)), donate_argnums=0,
        out_shardings=(state_lib.placements(planned), partitioner.replicated))
    begin = time.perf_counter()
    step = step.lower(planned, batch, key).compile()
    compile_seconds = time.perf_counter() - begin
  check_fits(step, 'use a smaller --batch_size, or --remat=full')
  params = random_params(planned.optimizer.target)
  state, loss = state_lib.new_state(optimizer_def, params, planned), None
  del params  # The step gives their memory back.

  def run() -> Any:
    nonlocal state, loss
    state, values = step(state, batch, key)
    loss = values['loss'].total
    return loss

  seconds = benchmark_rates.seconds_per_call(run, jax.block_until_ready, rounds)
  if not np.isfinite(loss):
    raise ValueError(f'the loss is {loss} after some steps; the figures would be worthless')
  parameters = sum(leaf.size for leaf in jax.tree.leaves(planned.optimizer.target))
  return Training(parameters, flops, seconds, compile_seconds)


def decode_actions(model: vlm.VisionLanguageModel, rounds: int) -> tuple[list[float], np.ndarray]:
  """Times how one robot's action is decoded, each call waited for, with bfloat16 parameters.

  Returns:
    Seconds of a call, one per round; and the action's tokens [8].

  Raises:
    ValueError: it does not fit the device.
  """
  vocab_size = model.module.config.vocab_size
  bins = range(_FIRST_BIN, _FIRST_BIN + benchmark_rates.BINS)
  action = grammar_lib.slots([bins[:2], *[bins] * (ACTION - 1)], vocab_size, eos=_EOS, pad=0)
  mask = decoding.GrammarMask(action.token_class_V, action.next_SxC, vocab_size)

  @jax.jit
  def answer(params, batch):
    start = model.start_decoding(params, batch, ACTION)
    start_B = jnp.full(1, action.start, jnp.int32)
    return decoding.decode(start, eos_id=_EOS, mask=mask, start_B=start_B)[0]

  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shapes = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=device),
      benchmark_rates.parameter_shapes(model))
  batch = jax.device_put(random_batch(model, 1, PROMPT, 1), device)
  answer = answer.lower(shapes, batch).compile()
  check_fits(answer, 'take it out of --models')
  params = random_params(shapes)
  tokens = answer(params, batch)
  # A robot waits for its action before it asks for the next.
  run = lambda: jax.block_until_ready(answer(params, batch))
  return benchmark_rates.seconds_per_call(run, lambda _: None, rounds), np.asarray(tokens[0])


def check_fits(program: jax.stages.Compiled, remedy: str) -> None:
  """Raises ValueError if the device lacks the memory to run `program`."""
  used = program.memory_analysis()
  results = used.output_size_in_bytes - used.alias_size_in_bytes
  needed = used.argument_size_in_bytes + used.temp_size_in_bytes + results
  stats = jax.devices()[0].memory_stats() or {}
  there = stats.get('bytes_limit') or psutil.virtual_memory().available
  if needed > there:
    raise ValueError(
        f'needs {needed / 2**30:.1f} GiB, {used.temp_size_in_bytes / 2**30:.1f} of them '
        f'temporaries; the device has {there / 2**30:.1f}: {remedy}')


def print_training(
    names: Sequence[str], remat: str | None, rounds: int, **settings: int | None
) -> None:
  """Prints the training steps of each model beside the rate of matrix products."""
  device = jax.devices()[0]
  on_cpu = device.platform == 'cpu'
  settings['batch_size'] = settings['batch_size'] or BATCH_SIZES[on_cpu]
  remat = remat or REMATS[on_cpu]
  for name in names or TRAINED[on_cpu]:
    model = build(name, remat=remat)
    dtype = model.module.config.dtype
    # First, while the device is empty.
    flops = benchmark_rates.measure(dtype, rounds).flops
    try:
      measured = train_steps(model, rounds=rounds, **settings)
    except ValueError as error:
      print(f'train_mfu: {name} {error}')
      continue
    print(
        f'train_mfu: {name}, {measured.parameters:,} parameters, {dtype}, batch '
        f'{settings["batch_size"]}, {model.module.vit_config.num_tokens} image + '
        f'{settings["inputs_length"]} text + {settings["targets_length"]} target tokens, '
        f'remat {remat}, on {device.device_kind}; median (range) of {rounds} rounds')
    row, limit = benchmark_rates.row, statistics.median(flops)
    speed = [measured.flops / seconds for seconds in measured.seconds]
    print(row('matrix products', [rate / 1e12 for rate in flops], 'TFLOP/s'))
    print(row('step', [1e3 * seconds for seconds in measured.seconds], 'ms',
              f'compiled in {measured.compile_seconds:.0f} s'))
    print(row('examples', [settings['batch_size'] / s for s in measured.seconds], 'per second'))
    print(row('model', [rate / 1e12 for rate in speed], 'TFLOP/s'))
    print(row('MFU of matrix products', [100 * rate / limit for rate in speed], '%',
              'goal: at least 55 %'))
    if peak := metrics.peak_flops(device):
      print(row('MFU of the data sheet', [100 * rate / peak for rate in speed], '%',
                f'{peak / 1e12:.0f} TFLOP/s'))
  close(on_cpu)


def print_decoding(names: Sequence[str], rounds: int) -> None:
  """Prints how often per second each model decodes an action, beside its roofline."""
  device = jax.devices()[0]
  on_cpu = device.platform == 'cpu'
  row = benchmark_rates.row
  print(f'decode_rate: 1 image, {PROMPT} text tokens, {ACTION} action tokens at batch 1, bfloat16 '
        f'parameters, on {device.device_kind}; median (range) of {rounds} rounds')
  for name in names or DECODED[on_cpu]:
    model = build(name)
    parameters = sum(benchmark_rates.parameter_sizes(model).values())
    rates = benchmark_rates.measure(model.module.config.dtype, rounds)
    limits = [statistics.median(values) for values in (rates.flops, rates.bytes)]
    vocab_size = model.module.config.vocab_size
    floor, whole = (
        benchmark_rates.action_work(
            model, text_tokens=PROMPT, action_tokens=ACTION, scored_ids=ids).floor(*limits)
        for ids in (benchmark_rates.BINS, vocab_size))
    print(f'  {name}, {parameters:,} parameters, {2 * parameters / 2**30:.3g} GiB; roofline '
          f'{1 / floor:.4g} Hz, {1 / whole:.4g} Hz where all {vocab_size:,} ids are scored')
    print(row('  matrix products', [rate / 1e12 for rate in rates.flops], 'TFLOP/s'))
    print(row('  copy', [rate / 1e12 for rate in rates.bytes], 'TB/s'))
    for layers in LAYERS:
      try:
        seconds, _ = decode_actions(build(name, layers), rounds)
      except ValueError as error:
        print(f'    layers {layers}: {error}')
        continue
      reached = 100 * floor / statistics.median(seconds)
      print(row(f'  layers {layers}', [1 / s for s in seconds], 'Hz',
                f'{reached:.3g} % of the roofline, goal: at least 60 %'))
  close(on_cpu)


def close(on_cpu: bool) -> None:
  """What is to be said at the end of the figures."""
  if loaded := [name for name in _TENSORFLOW if sys.modules.get(name)]:
    raise ValueError(f'{", ".join(loaded)} got loaded, which the models must not need')
  if on_cpu:
    print('  These are figures of a CPU; they say nothing of a GPU, which this is meant for.')
