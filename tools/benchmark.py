"""Measures loader, training and decoding: python -m tools.benchmark [MEASUREMENT ...]

  loader  CPU time per 256x320 JPEG to 224x224 with the full RT-2 formatting, beside decoding and
          resizing alone, and beside plain TFDS + tf.data; goal: at most 1.2 x the former
  train   the demo's co-fine-tuning from random parameters: share of time spent waiting for data
          (goal: below 2 %), steps per second, time to the first step (goal: below 30 s)
  decode  what the grammar adds to decoding an action; goal: below 5 %
  serve   a checkpoint behind its server, with 1, 4 and 16 robots: latency, batches, actions per
          second; goals: below 3 ms outside the model, 16 robots at 1.3 x the rate of one at a time

Meant for a GPU, and on a CPU tried with miniatures; these need no TensorFlow:

  train_mfu    the training step of a model of gin/models on random data, against the card's own
               rate of matrix products; goal: at least 55 %
  decode_rate  actions per second of the paper's models with random bfloat16 parameters, against
               what the card's memory and matrix products allow; goal: at least 60 %
  pytorch      both of models of `transformers` with the same dimensions

What loader, decode and serve compare is measured in turns, so that a busy computer slows all alike.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app
from absl import flags
import numpy as np
import psutil

# Each measurement imports what it needs itself: the time to the first step counts imports.

_ROUNDS = flags.DEFINE_integer('rounds', 9, 'Rounds of loader, decode and serve.', lower_bound=1)
_EXAMPLES = flags.DEFINE_integer(
    'examples', 512, 'JPEGs per round of loader, in batches of 64.', lower_bound=1)
_DATA_DIR = flags.DEFINE_string('data_dir', 'runs/demo/data', 'Demo data for train.')
_STEPS = flags.DEFINE_integer('steps', 300, 'Steps of train.', lower_bound=10)
_MODELS = flags.DEFINE_list(
    'models', [], 'Files of gin/models, without .gin, for train_mfu, decode_rate and pytorch; by '
    'default pali_3b_original for the first, the sizes of the paper for the second.')
_BATCH_SIZE = flags.DEFINE_integer(
    'batch_size', None, 'Rows of a step of train_mfu and pytorch; 64, or 8 on a CPU.',
    lower_bound=1)
_INPUTS_LENGTH = flags.DEFINE_integer(
    'inputs_length', 64, 'Text tokens of a prompt of train_mfu and pytorch.', lower_bound=1)
_TARGETS_LENGTH = flags.DEFINE_integer(
    'targets_length', 64, 'Target tokens of train_mfu and pytorch.', lower_bound=1)
_REMAT = flags.DEFINE_enum(
    'remat', None, ['none', 'full', 'dots', 'names', 'names_mlp'],
    "Remat policy of train_mfu; 'dots', or 'none' on a CPU. Any but 'none' is full for pytorch.")
_CHECKPOINT = flags.DEFINE_string(
    'served_checkpoint', 'runs/demo/cofinetune',
    'What serve serves: a run, or one of its checkpoints.')
_REQUESTS = flags.DEFINE_integer(
    'requests', 20, 'Of each robot in a round of serve.', lower_bound=1)
_FLAGS = (
    _ROUNDS, _EXAMPLES, _DATA_DIR, _STEPS, _MODELS, _BATCH_SIZE, _INPUTS_LENGTH, _TARGETS_LENGTH,
    _REMAT, _CHECKPOINT, _REQUESTS)

_ROOT = pathlib.Path(__file__).absolute().parent.parent
_SAVES = 3
_DECODE_BATCH = 32
# Tokens of a prompt, and of an action with its EOS.
_INPUTS, _ACTION = 16, 9
_VOCAB_SIZES = {"the demo's model": 1408, "the demo's model with PaLI-X's vocabulary": 250_112}


def loader() -> None:
  """Prints CPU time per example of our loader, of what it cannot do without, and of TFDS."""
  from tools import benchmark_loader

  kilobytes, times = benchmark_loader.measure(_EXAMPLES.value, _ROUNDS.value)
  limit, ours, theirs = times
  print(f'loader: 256x320 JPEGs of {kilobytes:.0f} kB (4:4:4) to 224x224; CPU time of all threads '
        f'per example, median (range) of {_ROUNDS.value} rounds')
  for name, values in times.items():
    print(f'  {name:34} {_spread(values)} ms')
  for other in (limit, theirs):
    print(f'  {ours + " / " + other:34} {_ratio(times[ours], times[other])}')


def train() -> None:
  """Prints what a run of the demo's co-fine-tuning waits for."""
  data_dir = os.path.abspath(_DATA_DIR.value)
  if not os.path.exists(os.path.join(data_dir, 'vocabulary.model')):
    raise FileNotFoundError(
        f'{_DATA_DIR.value} holds no demo data; run bash launch/local.sh, or '
        f'python -m tools.make_demo_data --output_dir={_DATA_DIR.value}')
  import gin
  import jax
  from rt2_train import gin_files
  from rt2_train.data import loader as loader_lib
  from rt2_train.training import train as train_lib

  # The demo's gin files name runs/demo/data, wherever they are run.
  with tempfile.TemporaryDirectory() as home, contextlib.chdir(home):
    os.makedirs('runs/demo/cofinetune')
    os.symlink(data_dir, 'runs/demo/data')
    gin_files.parse(
        ['gin/experiments/demo_cofinetune.gin'],
        [f'TRAIN_STEPS={_STEPS.value}', 'INITIAL_CHECKPOINT_PATH=None', 'EVAL_PERIOD=0',
         f'CHECKPOINT_PERIOD={-(-_STEPS.value // _SAVES)}'],
        [str(_ROOT)])
    with gin.config_scope('train'):
      data = _TimedLoader(gin.get_configurable(loader_lib.Loader)())
    summary = gin.get_configurable(train_lib.train)(train_data=lambda: data, progress=False)
    data.close()
  # Batches are asked for to learn shapes, and for steps 1, 2 and 3; the third is not begun before
  # the metrics of the first are there.
  first_step = data.asked[3] - psutil.Process().create_time()
  devices = f'{jax.device_count()} x {jax.devices()[0].device_kind}'
  rate = summary['examples_per_second']
  saving = summary['goodput']['seconds']['checkpoint'] / _SAVES
  print(f'train: {summary["parameters"]:,} parameters, batch {summary["batch_size"]}, '
        f'{summary["steps"]} steps on {devices}')
  print(f'  waiting for data    {summary["data_wait_share"]:.2%} of the time')
  print(f'  steps per second    {rate / summary["batch_size"]:.2f} ({rate:.0f} examples)')
  print(f'  saving              {1000 * saving:.0f} ms of the loop per checkpoint, '
        f'{saving * rate / summary["batch_size"] / 1000:.2%} of the time with one every 1000 steps')
  print(f'  time to first step  {first_step:.1f} s from the start of the process, of which '
        f'{summary["compile_seconds"]:.1f} s compiling the step')


class _TimedLoader:
  """A loader that notes when it is asked for a batch."""

  def __init__(self, timed: Iterator):
    self._timed = timed
    self.asked: list[float] = []

  def __getattr__(self, name: str):
    return getattr(self._timed, name)

  def __next__(self) -> dict[str, np.ndarray]:
    self.asked.append(time.time())
    return next(self._timed)


def decode() -> None:
  """Prints the time to decode actions with and without the grammar, at two vocabulary sizes."""
  import jax
  from tools import benchmark_models

  print(f'decode: {_DECODE_BATCH} actions of {_ACTION} tokens on {jax.devices()[0].device_kind}; '
        f'median (range) of {_ROUNDS.value} rounds')
  for name, vocab_size in _VOCAB_SIZES.items():
    model = benchmark_models.build('tiny')
    config = dataclasses.replace(model.module.config, vocab_size=vocab_size)
    model.module = model.module.clone(config=config)
    print(f'  {name}, {vocab_size:,} ids')
    _print_decoding(model, _DECODE_BATCH)


def serve() -> None:
  """Prints what robots get from a server, and what its parts cost."""
  from tools import benchmark_serving

  benchmark_serving.print_serving(_CHECKPOINT.value, _REQUESTS.value, _ROUNDS.value)
  model = benchmark_serving.load_model(_CHECKPOINT.value)
  for rows in benchmark_serving.ROWS:
    print(f'  {rows} actions of {_ACTION} tokens with the grammar and without')
    _print_decoding(model, rows)
  packages = ('torch', 'transformers')
  if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
    print(f'  beside a plain transformers model: not measured for want of {" and ".join(missing)}')
    return
  benchmark_serving.print_beside_transformers(_CHECKPOINT.value, _ROUNDS.value)


def _print_decoding(model, rows: int) -> None:
  """Prints the times to decode `rows` actions with and without the grammar, taken in turns."""
  programs = _decode_programs(model, rows)
  calls = _calls(programs['free'])
  times = {kind: [] for kind in programs}
  for number in range(_ROUNDS.value):
    # Neither is always the one that finds the caches warm.
    for kind in sorted(programs, reverse=bool(number % 2)):
      begin = time.perf_counter()
      for _ in range(calls):
        programs[kind]()
      times[kind].append(1000 * (time.perf_counter() - begin) / calls)
  for kind, values in times.items():
    print(f'    {kind:18} {_spread(values)} ms')
  print(f'    constrained / free {_ratio(times["constrained"], times["free"])}')


def train_mfu() -> None:
  """Prints the model FLOPs utilisation of the training step."""
  _take_the_whole_card()
  from tools import benchmark_models

  benchmark_models.print_training(_MODELS.value, _REMAT.value, _ROUNDS.value, **_settings())


def decode_rate() -> None:
  """Prints how many actions per second are decoded."""
  _take_the_whole_card()
  from tools import benchmark_models

  benchmark_models.print_decoding(_MODELS.value, _ROUNDS.value)


def pytorch() -> None:
  """Prints what PyTorch does with models of the same dimensions."""
  packages = ('torch', 'transformers')
  if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
    print(f'pytorch: not measured for want of {" and ".join(missing)}; install transformers and '
          'PyTorch with CUDA')
    return
  from tools import benchmark_pytorch

  benchmark_pytorch.print_all(_MODELS.value, _REMAT.value, _ROUNDS.value, **_settings())


def _settings() -> dict[str, int | None]:
  return {
      'batch_size': _BATCH_SIZE.value,
      'inputs_length': _INPUTS_LENGTH.value,
      'targets_length': _TARGETS_LENGTH.value,
  }


def _take_the_whole_card() -> None:
  """55B leave little of it; JAX would take three quarters. Holds for what starts JAX later."""
  os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.95')


def _decode_programs(model, rows: int) -> dict[str, Callable[[], None]]:
  """The compiled decode loop without and with a grammar; both write as many tokens."""
  import jax
  from rt2_train import grammar as grammar_lib
  from rt2_train.models import decoding
  from tools import benchmark_models

  vocab_size = model.module.config.vocab_size
  batch = benchmark_models.random_batch(model, rows, _INPUTS, 1)
  # Two tokens say terminate and 256 each of the seven others, beside questions, as in training.
  limits = {'eos': 1, 'pad': 0}
  action = grammar_lib.slots([(3, 4), *[range(3, 259)] * 7], vocab_size, **limits)
  question = grammar_lib.anything(vocab_size, **limits)
  grammar, starts = grammar_lib.union({'question': question, 'action': action})
  mask = decoding.GrammarMask(grammar.token_class_V, grammar.next_SxC, vocab_size)
  start_B = np.full(rows, starts['action'], np.int32)
  # No id is -1: without a grammar an answer would end at a token of its own choice.
  settings = {
      'free': {'eos_id': -1},
      'constrained': {'eos_id': 1, 'mask': mask, 'start_B': start_B},
  }
  init = lambda key: model.module.init(key, *model.network_inputs(batch))['params']
  params = jax.jit(init)(jax.random.key(0))

  def program(options) -> Callable[[], None]:
    @jax.jit
    def answer(params, batch):
      return decoding.decode(model.start_decoding(params, batch, _ACTION), **options)

    compiled = answer.lower(params, batch).compile()
    return lambda: jax.block_until_ready(compiled(params, batch))

  programs = {kind: program(options) for kind, options in settings.items()}
  for run in programs.values():
    run()
  return programs


def _calls(program: Callable[[], None]) -> int:
  """How often to call what is too short to time."""
  begin = time.perf_counter()
  program()
  return max(1, round(0.1 / (time.perf_counter() - begin)))


def _spread(values: Sequence[float]) -> str:
  return f'{statistics.median(values):8.3f} ({min(values):.3f} to {max(values):.3f})'


def _ratio(ours: Sequence[float], others: Sequence[float]) -> str:
  """Of the two times of each round."""
  return _spread([one / other for one, other in zip(ours, others)])


_MEASUREMENTS = {
    function.__name__: function
    for function in (loader, train, decode, serve, train_mfu, decode_rate, pytorch)
}


def main(argv: Sequence[str]) -> None:
  names = list(argv[1:]) or list(_MEASUREMENTS)
  if unknown := set(names) - set(_MEASUREMENTS):
    raise app.UsageError(f'unknown {sorted(unknown)}; there are {", ".join(_MEASUREMENTS)}')
  given = [flags.FLAGS[flag.name].serialize() for flag in _FLAGS if flag.present]
  if len(names) > 1:
    # Each in a process of its own, free of the threads and programs of the one before.
    command = [sys.executable, '-m', 'tools.benchmark']
    failed = [name for name in names if subprocess.call([*command, name, *given])]
    sys.exit(f'benchmark: {", ".join(failed)} failed' if failed else 0)
  (name,) = names
  # What the measurement depends on besides the command.
  settings = [key for key in ('XLA_FLAGS', 'GLIBC_TUNABLES') if key in os.environ]
  environment = [f'{key}={shlex.quote(os.environ[key])}' for key in settings]
  command = shlex.join(['python', '-m', 'tools.benchmark', name, *given])
  print('$', *environment, command, flush=True)
  try:
    _MEASUREMENTS[name]()
  except (ValueError, OSError, ImportError) as error:
    sys.exit(f'benchmark {name}: {error}')


if __name__ == '__main__':
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  app.run(main)
