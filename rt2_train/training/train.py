"""The training loop, from nothing, from other weights or from where it stopped, to a summary.

Same configuration, same bits: a run that is killed and started again ends with the parameters it
would have had (on as many devices), because batches and dropout are functions of (seed, step), and
a checkpoint holds everything else.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import functools
import math
import time
import types
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp

from rt2_train import run_files
from rt2_train.training import checkpoints
from rt2_train.training import goodput
from rt2_train.training import guard as guard_lib
from rt2_train.training import hosts
from rt2_train.training import metrics as metrics_lib
from rt2_train.training import optimizers
from rt2_train.training import partitioning
from rt2_train.training import preemption
from rt2_train.training import programs
from rt2_train.training import progress as progress_lib
from rt2_train.training import records
from rt2_train.training import state as state_lib
from rt2_train.training import step as step_lib
from rt2_train.training import watchdog
from rt2_train.training import writers as writers_lib


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
    frozen_dtype: str | None = None,
    ema_decay: float | None = None,
    keep: int | None = None,
    keep_best_metric: str | None = None,
    best_mode: str = 'max',
    assets: Callable[[str, Mapping[int, str]], None] | None = None,
    allow_data_change: bool = False,
    max_not_finite_steps: int | None = 0,
    debug_nans: bool = False,
    stuck_seconds: float = 60.0,
    peak_flops: float | None = None,
    progress: bool = True,
) -> dict[str, Any]:
  """Trains `model` up to step `train_steps` and returns the summary that it writes.

  Periods are multiples of the step counted from 0, wherever the run was resumed; the last step is
  always logged, evaluated and saved. SIGTERM and Ctrl-C save the step in progress and end the run;
  before the first step, where there is none, they raise `preemption.Stopped`.

  Args:
    model: see rt2_train.models.vlm; carries its optimizer_def.
    train_data: opens the loader: an iterator of the rows of each batch that select(rows) named,
      with batch_size, state(), restore(state), seek(step), examples(step), table(), sources
      {hash: name} and wait_seconds.
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
    frozen_dtype: what these are kept in, such as 'bfloat16'; None keeps float32.
    ema_decay: keeps a moving average of the parameters, which evaluators then see.
    keep: number of newest checkpoints that stay; None keeps all.
    keep_best_metric: the checkpoint with the best '<evaluator>/<task>/<metric>' stays as well.
    best_mode: 'max' or 'min' is best.
    assets: assets(directory, sources) writes what a checkpoint needs beside its parameters.
    allow_data_change: resume although data, mixture, processor, action space or vocabulary are not
      what they were; data_changes.jsonl records it.
    max_not_finite_steps: how many steps in a row may have a loss or gradient that is not finite
      before the run ends; None lets any number pass. Such a step is not applied.
    debug_nans: stops at the operation that makes the first NaN; slow.
    stuck_seconds: what takes longer is told in the log, by every process.
    peak_flops: FLOP/s of one device, for MFU on kinds that our table lacks.
    progress: shows a progress bar.

  Raises:
    ValueError: settings do not fit each other, the batch or the checkpoint; or losses are NaN.
    FileNotFoundError: there is no checkpoint to start from.
  """
  started = time.perf_counter()
  _check_steps(train_steps=train_steps, checkpoint_period=checkpoint_period, log_period=log_period)
  _check_evaluation(checkpoint_period, eval_period, evaluators, keep_best_metric)
  if model.optimizer_def is None:
    raise ValueError('train: the model has no optimizer_def; bind one in its gin file')
  with (
      contextlib.closing(watchdog.Watchdog(stuck_seconds)) as dog,
      preemption.listening() as notices,
      contextlib.ExitStack() as opened,
  ):
    account = goodput.Account(model_dir, active=hosts.is_main())
    written = records.Records(model_dir, active=hosts.is_main())
    partitioner = partitioning.Partitioner() if partitioner is None else partitioner
    schedule = learning_rate if callable(learning_rate) else lambda step: jnp.float32(learning_rate)
    optimizer_def = model.optimizer_def
    if frozen:
      optimizer_def = optimizers.Frozen(optimizer_def, frozen, frozen_dtype)
    # Made where they are used: JAX does not send keys to the devices of other processes.
    split = lambda: tuple(jax.random.split(jax.random.key(random_seed)))
    init_key, dropout_key = jax.jit(split, out_shardings=partitioner.replicated)()

    # Data that have no index yet get one now, from one process.
    with dog.watching('the data to be opened'), hosts.main_first('opening data'):
      data = train_data()
      evaluators = {name: make() for name, make in evaluators.items() if eval_period}
    with dog.watching('all processes'):
      names = hosts.gather_texts(hosts.name())
      hosts.check_same_data(names, data.state())
    partitioner.check_batch(data.batch_size, num_microbatches)
    data.select(hosts.rows(partitioner, data.batch_size))
    # A first batch gives all shapes; the loader is put back to its place below.
    with dog.watching('the first batch'):
      first = partitioner.batch(next(data))
    with partitioner.scope():
      planned, axes = state_lib.plan(
          model, optimizer_def, partitioner, first, ema_decay is not None)
    optimizers.check_patterns(planned.optimizer.target, frozen)

    if assets is not None:
      assets = functools.partial(assets, sources=data.sources)
    with dog.watching('the checkpoints to be opened'):
      saved = opened.enter_context(contextlib.closing(checkpoints.Checkpoints(
          model_dir, keep=keep, keep_best_metric=keep_best_metric, best_mode=best_mode,
          assets=assets)))
    # Where a run starts, in this order: at its own newest checkpoint, and all continues; with the
    # parameters of another run, while optimizer, step and data are new; or with random parameters.
    start = saved.latest_step()
    if start is not None:
      logging.info('resuming %s at step %d', model_dir, start)
      with (
          account.spent_on('restore'),
          dog.watching(f'the checkpoint of step {start} to be read'),
      ):
        state, data_state, changes = saved.restore(start, planned, allow_data_change)
      # T5X saves no state that our loader knows, but batches are a function of the step.
      if data_state is None:
        data.seek(start)
      else:
        changes += data.restore(data_state, allow_change=allow_data_change)
      written.add_changes(start, changes)
    else:
      start = 0
      with dog.watching('the first parameters'), partitioner.scope():
        params = _first_params(model, initial_checkpoint_path, init_key, first, planned, assets)
      state = state_lib.new_state(optimizer_def, params, planned)
      data.seek(0)
    account.resume(start)

    if start >= train_steps:
      logging.info(
          '%s is at step %d of %d: nothing is left to train', model_dir, start, train_steps)
      summary = written.read_summary() | {'steps': start, 'finished': True}
      written.write_summary(summary)  # A kill may have come just before.
      return summary

    target = planned.optimizer.target
    written.write_start(
        partitioning.parameter_table(target, axes, state_lib.placements(target)), data.table())

    logging.info('compiling the training step')
    compile_started = time.perf_counter()
    train_step = step_lib.make_train_step(
        model, schedule, sources=data.sources, num_microbatches=num_microbatches, frozen=frozen,
        ema_decay=ema_decay,
    )  # pyformat: disable
    with account.spent_on('compile'), dog.watching('the compiler'), partitioner.scope():
      forward = lambda params, batch: model.loss_with_rows(params, batch, None)[0]
      flops = metrics_lib.model_flops(forward, planned.optimizer.target, first)
      places = (state_lib.placements(planned), partitioner.replicated)
      if debug_nans:
        # JAX runs a step that makes a NaN again, an operation at a time: it must keep what it got.
        jax.config.update('jax_debug_nans', True)
        train_step = partitioner.scope()(jax.jit(train_step, out_shardings=places))
      else:
        # The state's buffers are given to the step, so that only one copy of it is ever held.
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
    guard = guard_lib.Guard(model_dir, data.examples, max_not_finite_steps, hosts.is_main())
    window, pending, last = metrics_lib.Window(), None, {}

    def look(step, metrics):
      with dog.watching(f'step {step} of all devices'):
        # Raises, before anything of this step is saved, if too many are not finite.
        fetched = guard.look(step, metrics)
      if fetched is not None:
        window.add(fetched)

    account.begin('steps')
    notices.wait_for_steps()
    with (
        contextlib.closing(writers),
        progress_lib.bar(start, train_steps, progress and hosts.is_main()) as bar,
    ):
      for step in range(start + 1, train_steps + 1):
        with account.spent_on('data'), dog.watching(f'the batch of step {step}'):
          batch = partitioner.batch(next(data))
        with dog.watching(f'step {step} to be started'):
          state, step_metrics = train_step(state, batch, dropout_key)
        # The device works on this step while the host looks at the one before.
        if pending is not None:
          look(*pending)
        pending = (step, step_metrics)
        bar.update()
        stopped = notices.after(step)
        ends = step == train_steps or stopped
        saves = ends or step % checkpoint_period == 0
        evaluates = bool(eval_period) and (step == train_steps or step % eval_period == 0)
        if saves or evaluates or step % log_period == 0:
          look(*pending)
          pending = None
        if saves or step % log_period == 0:
          rates = speed.take(step - start, data.wait_seconds)
          with dog.watching('all processes'):
            hosts.tell_stragglers(names, rates['timing/data_wait_share'])
          last = window.take() | rates | metrics_lib.memory()
          writers.write('train', step, last)
          bar.set_postfix(loss=f'{last.get("loss", math.nan):.4g}', refresh=False)
          account.write(step)
        paused = time.perf_counter()
        best = {}
        if evaluates:
          with account.spent_on('evaluation'), dog.watching(f'the evaluation of step {step}'):
            best = _evaluate(evaluators, model, state.evaluated_params, partitioner, writers, step)
        if saves:
          if keep_best_metric and not stopped and keep_best_metric not in best:
            raise ValueError(
                f'train: keep_best_metric {keep_best_metric!r} is not measured; choose one of '
                f'{sorted(best)}'
            )
          with (
              account.spent_on('checkpoint'),
              dog.watching(f'the checkpoint of step {step} to be begun'),
          ):
            saved.save(step, state, data.state(), best or None)
        speed.pause(time.perf_counter() - paused)
        if ends:
          break
      account.begin('finish')
      with dog.watching(f'the checkpoint of step {step} to be on disk'):
        saved.wait()

    account.write(step)
    summary = {
        'steps': step,
        'start_step': start,
        'batch_size': data.batch_size,
        'parameters': sum(leaf.size for leaf in jax.tree.leaves(planned.optimizer.target)),
        'wall_seconds': time.perf_counter() - started,
        'compile_seconds': compile_seconds,
        **speed.total(data.wait_seconds),
        'goodput': account.summary(),
        'not_finite_steps': guard.not_finite,
        'peak_rss_gib': metrics_lib.peak_rss_gib(),
        'final': {k: v for k, v in last.items() if k.split('/')[0] in ('loss', 'accuracy')},
        'finished': step == train_steps,
    }
    written.write_summary(summary)
    written.write_mixture(data.table())
    if hosts.is_main():
      logging.info('%s', records.ending(model_dir, summary))
    return summary


def _first_params(model, initial_checkpoint_path, init_key, first, planned, assets) -> Any:
  """Parameters of a new run: those of another one, or random ones."""
  if not initial_checkpoint_path:
    logging.info('starting from random parameters')
    return state_lib.random_params(model, init_key, first, planned)
  source = str(run_files.find_checkpoint(initial_checkpoint_path))
  logging.info('starting from the parameters of %s', source)
  if assets is not None:
    changes = checkpoints.asset_changes(source, assets)
    # Shapes cannot tell that another vocabulary gives every id another meaning.
    if difference := changes.get('vocabulary.model'):
      raise ValueError(
          f'{source} belongs to another run: vocabulary.model: {difference}; use its vocabulary, or '
          'another INITIAL_CHECKPOINT_PATH')
    if difference := changes.get('action_space.json'):
      # As it should be for a VLM, and for another robot; bins that were learnt mean something else.
      logging.warning('the actions of %s are not this run\'s: %s', source, difference)
  return checkpoints.restore_params(source, planned.optimizer.target)


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
