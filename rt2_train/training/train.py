"""The training loop, from nothing, from other weights or from where it stopped, to a summary.

Same configuration, same bits: a run that is killed and started again ends with the parameters it
would have had (on as many devices), because batches and dropout are functions of (seed, step), and
a checkpoint holds everything else.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import functools
import json
import os
import signal
import threading
import time
import types
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import tqdm

from rt2_train import gin_files
from rt2_train import run_files
from rt2_train.training import checkpoints
from rt2_train.training import hosts
from rt2_train.training import metrics as metrics_lib
from rt2_train.training import optimizers
from rt2_train.training import partitioning
from rt2_train.training import programs
from rt2_train.training import state as state_lib
from rt2_train.training import step as step_lib
from rt2_train.training import writers as writers_lib

SUMMARY = 'summary.json'


def train(
    *,
    model: Any,
    train_data: Callable[[], Any],
    model_dir: str,
    train_steps: int,
    learning_rate: Callable[[jax.Array], jax.Array] | float,
    checkpoint_period: int,
    log_period: int = 100,
    eval_period: int = 0,
    evaluators: Mapping[str, Callable[[], Any]] = types.MappingProxyType({}),
    initial_checkpoint_path: str | None = None,
    partitioner: partitioning.Partitioner | None = None,
    random_seed: int = 0,
    num_microbatches: int = 1,
    frozen: Sequence[str] = (),
    ema_decay: float | None = None,
    keep: int | None = None,
    keep_best_metric: str | None = None,
    best_mode: str = 'max',
    assets: Callable[[str, Mapping[int, str]], None] | None = None,
    allow_data_change: bool = False,
    peak_flops: float | None = None,
    progress: bool = True,
) -> dict[str, Any]:
  """Trains `model` up to step `train_steps` and returns the summary that it writes.

  Periods are multiples of the step counted from 0, wherever the run was resumed; the last step is
  always logged, evaluated and saved. SIGTERM and Ctrl-C save the step in progress and end the run.

  Args:
    model: see rt2_train.models.vlm; carries its optimizer_def.
    train_data: opens the loader: an iterator of the rows of each batch that select(rows) named,
      with batch_size, state(), restore(state), seek(step), table(), sources {hash: name} and
      wait_seconds.
    model_dir: directory of the run; the run continues from the checkpoint it holds.
    train_steps: the step at which training ends.
    learning_rate: a function of the step, or a constant.
    checkpoint_period: steps between checkpoints.
    log_period: steps between log lines; checkpoints log too, so that a resumed run averages over
      the same steps.
    eval_period: steps between evaluations; 0 never evaluates.
    evaluators: name -> what makes an evaluator, see rt2_train.training.evaluators; none is made if
      eval_period is 0.
    initial_checkpoint_path: run or checkpoint directory whose parameters a new run starts from.
    partitioner: by default all devices as data parallel.
    random_seed: of initial parameters and dropout.
    num_microbatches: parts in which a batch is computed.
    frozen: patterns of the paths of parameters that stay as they are.
    ema_decay: keeps a moving average of the parameters, which evaluators then see.
    keep: number of newest checkpoints that stay; None keeps all.
    keep_best_metric: the checkpoint with the best '<evaluator>/<task>/<metric>' stays as well.
    best_mode: 'max' or 'min' is best.
    assets: assets(directory, sources) writes what a checkpoint needs beside its parameters.
    allow_data_change: resume although the data, mixture or processor are not what they were.
    peak_flops: FLOP/s of one device, for MFU on kinds that our table lacks.
    progress: shows a progress bar.

  Raises:
    ValueError: settings do not fit each other, the batch or the checkpoint; or a loss is NaN.
    FileNotFoundError: there is no checkpoint to start from.
  """
  started = time.perf_counter()
  _check_steps(train_steps=train_steps, checkpoint_period=checkpoint_period, log_period=log_period)
  _check_evaluation(checkpoint_period, eval_period, evaluators, keep_best_metric)
  if model.optimizer_def is None:
    raise ValueError('train: the model has no optimizer_def; bind one in its gin file')
  partitioner = partitioning.Partitioner() if partitioner is None else partitioner
  schedule = learning_rate if callable(learning_rate) else lambda step: jnp.float32(learning_rate)
  optimizer_def = optimizers.Frozen(model.optimizer_def, frozen) if frozen else model.optimizer_def
  # Made where they are used: JAX does not send keys to the devices of other processes.
  split = lambda: tuple(jax.random.split(jax.random.key(random_seed)))
  init_key, dropout_key = jax.jit(split, out_shardings=partitioner.replicated)()

  # Data that have no index yet get one now, from one process.
  with hosts.main_first('opening data'):
    data = train_data()
    evaluators = {name: make() for name, make in evaluators.items() if eval_period}
  partitioner.check_batch(data.batch_size, num_microbatches)
  data.select(hosts.rows(partitioner, data.batch_size))
  # A first batch gives all shapes; the loader is put back to its place below.
  first = partitioner.batch(next(data))
  with partitioner.scope():
    planned, axes = state_lib.plan(model, optimizer_def, partitioner, first, ema_decay is not None)
  optimizers.check_patterns(planned.optimizer.target, frozen)

  if assets is not None:
    assets = functools.partial(assets, sources=data.sources)
  saved = checkpoints.Checkpoints(
      model_dir, keep=keep, keep_best_metric=keep_best_metric, best_mode=best_mode, assets=assets
  )
  # Where a run starts, in this order: at its own newest checkpoint, and all continues; with the
  # parameters of another run, while optimizer, step and data are new; or with random parameters.
  try:
    start = saved.latest_step()
    if start is not None:
      logging.info('resuming %s at step %d', model_dir, start)
      state, data_state = saved.restore(start, planned)
      # T5X saves no state that our loader knows, but batches are a function of the step.
      if data_state is None:
        data.seek(start)
      else:
        data.restore(data_state, allow_change=allow_data_change)
    else:
      start = 0
      if initial_checkpoint_path:
        source = run_files.find_checkpoint(initial_checkpoint_path)
        logging.info('starting from the parameters of %s', source)
        if assets is not None:
          # Shapes cannot tell that another vocabulary gives every id another meaning.
          checkpoints.check_assets(
              source, assets, ['vocabulary.model'],
              'use its vocabulary, or another INITIAL_CHECKPOINT_PATH')
        params = checkpoints.restore_params(source, planned.optimizer.target)
      else:
        logging.info('starting from random parameters')
        with partitioner.scope():
          params = state_lib.random_params(model, init_key, first, planned)
      state = state_lib.new_state(optimizer_def, params, planned)
      data.seek(0)
  except BaseException:
    saved.close()  # Its threads would go on talking after the error.
    raise

  if start >= train_steps:
    logging.info('%s is at step %d of %d: nothing is left to train', model_dir, start, train_steps)
    saved.close()
    return (_read_summary(model_dir) or {}) | {'steps': start, 'finished': True}

  if hosts.is_main():
    target = planned.optimizer.target
    table = partitioning.parameter_table(target, axes, state_lib.placements(target))
    run_files.write(os.path.join(model_dir, 'config.gin'), gin_files.resolved())
    run_files.write(os.path.join(model_dir, 'model-info.txt'), table)
    run_files.write(os.path.join(model_dir, 'mixtures.txt'), mixture_table(data.table()))

  logging.info('compiling the training step')
  compile_started = time.perf_counter()
  train_step = step_lib.make_train_step(
      model, schedule, sources=data.sources, num_microbatches=num_microbatches, frozen=frozen,
      ema_decay=ema_decay,
  )  # pyformat: disable
  with partitioner.scope():
    forward = lambda params, batch: model.loss_with_rows(params, batch, None)[0]
    flops = metrics_lib.model_flops(forward, planned.optimizer.target, first)
    # The state's buffers are given to the step, so that only one copy of it is ever held.
    places = (state_lib.placements(planned), partitioner.replicated)
    train_step = jax.jit(train_step, donate_argnums=0, out_shardings=places)
    train_step = train_step.lower(state, first, dropout_key).compile()
    logging.info('memory: %s', programs.memory_line(train_step, state, first))
  compile_seconds = time.perf_counter() - compile_started

  speed = metrics_lib.Speed(
      batch_size=data.batch_size,
      length=sum(first[name].shape[1] for name in first if name.endswith('_input_tokens')),
      flops=flops,
      peak_flops=peak_flops or metrics_lib.peak_flops(partitioner.mesh.devices.flat[0]),
      devices=partitioner.mesh.size,
      waited=data.wait_seconds,
  )
  writers = writers_lib.MetricWriters(model_dir, start, active=hosts.is_main())
  window, pending, last = metrics_lib.Window(), None, {}
  with (
      contextlib.closing(saved),
      contextlib.closing(writers),
      _terminated() as stop,
      _progress_bar(start, train_steps, progress and hosts.is_main()) as bar,
  ):
    for step in range(start + 1, train_steps + 1):
      batch = partitioner.batch(next(data))
      state, step_metrics = train_step(state, batch, dropout_key)
      # The device works on this step while the host looks at the one before.
      if pending is not None:
        window.add(*pending)
      pending = (step, step_metrics)
      bar.update()
      ends = step == train_steps or stop.is_set()
      saves = ends or step % checkpoint_period == 0
      evaluates = bool(eval_period) and (step == train_steps or step % eval_period == 0)
      if saves or evaluates or step % log_period == 0:
        # Raises on a loss that is not finite, before anything of this step is saved.
        window.add(*pending)
        pending = None
      if saves or step % log_period == 0:
        last = window.take() | speed.take(step - start, data.wait_seconds) | metrics_lib.memory()
        writers.write('train', step, last)
        bar.set_postfix(loss=f'{last["loss"]:.4g}', refresh=False)
      paused = time.perf_counter()
      best = {}
      if evaluates:
        best = _evaluate(evaluators, model, state.evaluated_params, partitioner, writers, step)
      if saves:
        if keep_best_metric and not stop.is_set() and keep_best_metric not in best:
          raise ValueError(
              f'train: keep_best_metric {keep_best_metric!r} is not measured; choose one of '
              f'{sorted(best)}'
          )
        saved.save(step, state, data.state(), best or None)
      speed.pause(time.perf_counter() - paused)
      if ends:
        break

  summary = {
      'steps': step,
      'start_step': start,
      'batch_size': data.batch_size,
      'parameters': sum(leaf.size for leaf in jax.tree.leaves(planned.optimizer.target)),
      'wall_seconds': time.perf_counter() - started,
      'compile_seconds': compile_seconds,
      **speed.total(data.wait_seconds),
      'peak_rss_gib': metrics_lib.peak_rss_gib(),
      'final': {k: v for k, v in last.items() if k.split('/')[0] in ('loss', 'accuracy')},
      'finished': step == train_steps,
  }
  if hosts.is_main():
    run_files.write(os.path.join(model_dir, SUMMARY), json.dumps(summary, indent=2) + '\n')
    run_files.write(os.path.join(model_dir, 'mixtures.txt'), mixture_table(data.table()))
  return summary


def _check_steps(**counts: int) -> None:
  for name, value in counts.items():
    if value < 1:
      raise ValueError(f'train: {name} is {value}; it counts steps, from 1')


def _check_evaluation(checkpoint_period, eval_period, evaluators, keep_best_metric) -> None:
  if eval_period and not evaluators:
    raise ValueError(f'train: eval_period is {eval_period} without evaluators; bind some or set 0')
  if keep_best_metric and (not eval_period or checkpoint_period % eval_period):
    raise ValueError(
        f'train: keep_best_metric needs an evaluation at each checkpoint, but checkpoint_period '
        f'{checkpoint_period} is no multiple of eval_period {eval_period}'
    )


def _evaluate(evaluators, model, params, partitioner, writers, step) -> dict[str, float]:
  """Runs and writes all evaluators; returns {'<evaluator>/<task>/<metric>': value}."""
  values = {}
  for name, evaluator in evaluators.items():
    for task, metrics in evaluator(model, params, partitioner).items():
      writers.write(f'{name}/{task}', step, metrics)
      values |= {f'{name}/{task}/{metric}': value for metric, value in metrics.items()}
  return values


@contextlib.contextmanager
def _terminated() -> Iterator[threading.Event]:
  """An event that SIGTERM (a preemption notice) and Ctrl-C set; a second Ctrl-C ends at once."""
  event = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield event  # Only the main thread may listen to signals.
    return

  def stop(number: int, frame: Any) -> None:
    if number == signal.SIGINT and event.is_set():
      signal.default_int_handler(number, frame)
    event.set()

  before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield event
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


@contextlib.contextmanager
def _progress_bar(start: int, train_steps: int, shown: bool) -> Iterator[tqdm.tqdm]:
  """A bar below the log lines, not through them."""
  handler = logging.get_absl_handler().python_handler
  before = handler.stream
  with tqdm.tqdm(
      initial=start, total=train_steps, unit='step', desc='train', disable=not shown
  ) as bar:
    handler.stream = _AboveTheBar(before)
    try:
      yield bar
    finally:
      handler.stream = before


class _AboveTheBar:
  """A stream that takes the progress bar away while a line is written."""

  def __init__(self, stream: Any):
    self._stream = stream

  def write(self, text: str) -> None:
    tqdm.tqdm.write(text, file=self._stream, end='')

  def flush(self) -> None:
    self._stream.flush()


def mixture_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """The loader's table as aligned text, a source per line."""
  columns = list(rows[0])
  cell = lambda value: f'{value:.4f}' if isinstance(value, float) else str(value)
  lines = [columns, *([cell(row[column]) for column in columns] for row in rows)]
  widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
  pad = lambda line: '  '.join(text.ljust(width) for text, width in zip(line, widths)).rstrip()
  return ''.join(pad(line) + '\n' for line in lines)


def _read_summary(model_dir: str) -> dict[str, Any] | None:
  """The summary of a run that has ended; None if it was killed while it wrote it."""
  path = os.path.join(model_dir, SUMMARY)
  if not os.path.exists(path):
    return None
  with open(path, encoding='utf-8') as file:
    return json.load(file)
