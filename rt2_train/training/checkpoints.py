"""Checkpoints on disk: Orbax directories `checkpoint_<step>` that are whole or absent.

  state/   {'target', 'state': {'step', 'param_states'}}: T5X's tree and names, float32
  ema/     averaged parameters, if the run keeps them
  data/    the loader's state, JSON
  assets/  what evaluation, export and serving need beside the parameters
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import filecmp
import json
import logging as stdlib_logging
import os
import pathlib
import shutil
import tempfile
import threading
from typing import Any

from absl import logging
from etils import epath
from flax import serialization
from jax.experimental import multihost_utils
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from rt2_train import run_files
from rt2_train.training import differences
from rt2_train.training import host_memory
from rt2_train.training import hosts
from rt2_train.training import optimizers
from rt2_train.training import state as state_lib

# Writes the assets into the directory it is given.
Assets = Callable[[str], None]
# Assets that say what the parameters are, and mean, so that no other run may go on from them.
_ARCHITECTURE = 'model.json'
_MUST_AGREE = (_ARCHITECTURE, 'action_space.json', 'vocabulary.model')


def _for_people(record: stdlib_logging.LogRecord) -> bool:
  """Orbax reports every file it touches, and every error of its threads, which it raises too."""
  # Of a task, whose error asyncio reports again, the message names the file.
  where = record.getMessage() if record.name == 'asyncio' else record.pathname
  from_orbax = f'{os.sep}orbax{os.sep}' in where
  return not from_orbax or (record.levelno >= stdlib_logging.WARNING and not record.exc_info)


for _logger in (logging.get_absl_logger(), stdlib_logging.getLogger('asyncio')):
  _logger.addFilter(_for_people)


class AssetsHandler(ocp.CheckpointHandler):
  """Lets Orbax write the assets inside the directory that it commits as a whole."""

  def save(self, directory: epath.Path, args: 'AssetsSave') -> None:
    if hosts.is_main():
      args.write(os.fspath(directory))

  def restore(self, directory: epath.Path, args: 'AssetsRestore') -> str:
    del args
    return os.fspath(directory)


@ocp.args.register_with_handler(AssetsHandler, for_save=True)
class AssetsSave(ocp.args.CheckpointArgs):
  """Carries the function that writes the assets."""

  def __init__(self, write: Assets):
    self.write = write


@ocp.args.register_with_handler(AssetsHandler, for_restore=True)
class AssetsRestore(ocp.args.CheckpointArgs):
  """Asks for the directory of the assets."""


class Checkpoints:
  """The checkpoints of one run directory."""

  def __init__(
      self,
      model_dir: str,
      *,
      keep: int | None = None,
      keep_best_metric: str | None = None,
      best_mode: str = 'max',
      assets: Assets | None = None,
  ):
    """Opens `model_dir`, and puts aside what a crash or a broken copy left behind.

    Args:
      model_dir: directory of the run.
      keep: how many of the newest checkpoints stay; None keeps all.
      keep_best_metric: metric whose best checkpoint stays as well, such as
        'training_eval/robot/accuracy'.
      best_mode: 'max' or 'min'.
      assets: writes the assets.

    Raises:
      ValueError: `best_mode` is unknown.
    """
    if best_mode not in ('max', 'min'):
      raise ValueError(f"checkpoints: best_mode is {best_mode!r}; choose 'max' or 'min'")
    self._directory = os.path.abspath(model_dir)
    self._assets = assets
    os.makedirs(self._directory, exist_ok=True)
    _put_aside_incomplete(self._directory)
    multihost_utils.sync_global_devices('incomplete checkpoints are put aside')
    policies = [checkpoint_managers.LatestN(keep)]
    best = None
    if keep_best_metric is not None:
      worst = float('-inf' if best_mode == 'max' else 'inf')
      best = lambda metrics: metrics.get(keep_best_metric, worst)
      policies.append(
          checkpoint_managers.BestN(
              get_metric_fn=best, reverse=best_mode == 'min', n=1,
              keep_checkpoints_without_metrics=False,
          )
      )  # pyformat: disable
    self._orbax = ocp.CheckpointManager(
        self._directory,
        options=ocp.CheckpointManagerOptions(
            step_prefix='checkpoint',
            # Writes the metrics down too, so that a resumed run knows which was the best.
            best_fn=best,
            best_mode=best_mode,
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        ),
        item_handlers={
            'state': ocp.StandardCheckpointHandler(),
            'ema': ocp.StandardCheckpointHandler(),
            'data': ocp.JsonCheckpointHandler(),
            'assets': AssetsHandler(),
        },
    )

  def latest_step(self) -> int | None:
    return self._orbax.latest_step()

  def save(
      self,
      step: int,
      state: state_lib.TrainState,
      data: Mapping[str, Any],
      metrics: Mapping[str, float] | None = None,
  ) -> None:
    """Starts to write a checkpoint; training may go on, and change the state, at once."""
    items = {
        'state': ocp.args.StandardSave(state.optimizer.state_dict()),
        'data': ocp.args.JsonSave(dict(data)),
    }
    if state.ema is not None:
      items['ema'] = ocp.args.StandardSave(serialization.to_state_dict(state.ema))
    if self._assets is not None:
      items['assets'] = AssetsSave(self._assets)
    with self._naming_faults():
      # Waits for the checkpoint before this one, and raises what went wrong with it.
      self._orbax.save(step, args=ocp.args.Composite(**items), metrics=metrics, force=True)

  def restore(
      self, step: int, shapes: state_lib.TrainState, allow_data_change: bool = False
  ) -> tuple[state_lib.TrainState, dict[str, Any] | None, list[str]]:
    """The state of `step`, placed as `shapes` says, and the loader's state.

    Args:
      step: of the checkpoint.
      shapes: a state of jax.ShapeDtypeStruct with shardings; the devices may be others than those
        that wrote the checkpoint.
      allow_data_change: take it although its action space or vocabulary is another.

    Returns:
      The state; the loader's state, None in a checkpoint that T5X wrote; the changes allowed.

    Raises:
      ValueError: the checkpoint is of another model, action space, vocabulary or optimizer.
    """
    directory = run_files.checkpoint_path(self._directory, step)
    changes = asset_changes(directory, self._assets) if self._assets is not None else {}
    for name, difference in changes.items():
      if name == _ARCHITECTURE or not allow_data_change:
        remedy = '' if name == _ARCHITECTURE else ', or set ALLOW_DATA_CHANGE = True'
        raise ValueError(
            f'{directory} belongs to another run: {name}: {difference}; use the configuration of '
            f'that run, or another MODEL_DIR{remedy}')
    wanted = shapes.optimizer.state_dict()
    remedy = 'resume with model, optimizer and frozen patterns of that run, or use a new MODEL_DIR'
    _check_tree(directory, 'state', wanted, remedy)
    items = {'state': ocp.args.StandardRestore(wanted)}
    if shapes.ema is not None:
      if not os.path.isdir(os.path.join(directory, 'ema')):
        raise ValueError(f'{directory} keeps no moving average; resume with EMA_DECAY = None')
      items['ema'] = ocp.args.StandardRestore(serialization.to_state_dict(shapes.ema))
    elif os.path.isdir(os.path.join(directory, 'ema')):
      raise ValueError(
          f'{directory} keeps a moving average, which this run would drop; set EMA_DECAY as it was')
    has_data = os.path.isdir(os.path.join(directory, 'data'))
    if has_data:
      items['data'] = ocp.args.JsonRestore()
    restored = self._orbax.restore(step, args=ocp.args.Composite(**items))
    optimizer = shapes.optimizer.restore_state(restored['state'])
    ema = None if shapes.ema is None else restored['ema']
    data = restored['data'] if has_data else None
    allowed = [f'{name}: {difference}' for name, difference in changes.items()]
    return state_lib.TrainState(optimizer=optimizer, ema=ema), data, allowed

  @contextlib.contextmanager
  def _naming_faults(self) -> Iterator[None]:
    """A disk that is full, or may not be written, is an error of one line; nothing is half there."""
    try:
      yield
    except (ValueError, OSError) as error:
      whole = run_files.checkpoint_steps(self._directory)
      rest = f'goes on from checkpoint_{whole[-1]}' if whole else 'begins anew'
      raise OSError(
          f'a checkpoint cannot be written into {self._directory}: {str(error).splitlines()[0]}; '
          f'make room there, or let it be written, and start again: the run {rest}') from error

  def _seal(self) -> None:
    """Called when all files of a checkpoint are there, and before it gets its name."""
    if hosts.is_main():
      for unfinished in pathlib.Path(self._directory).glob('checkpoint_*.orbax-checkpoint-tmp*'):
        run_files.seal(unfinished)
    host_memory.return_what_is_free()

  def wait(self) -> None:
    """Waits until everything that was started is on disk; raises what went wrong."""
    with self._naming_faults():
      self._orbax.wait_until_finished()

  def close(self) -> None:
    """Waits as `wait` does, and ends the threads."""
    try:
      self.wait()
      with self._naming_faults():
        self._orbax.close()
    finally:
      # Orbax tidies up in threads that it does not wait for, which fail aloud at interpreter exit.
      for thread in threading.enumerate():
        if thread.name.endswith('(_target_setting_result)'):
          thread.join()


def restore_params(directory: str, shapes: Any) -> Any:
  """The parameters of one checkpoint and nothing else: a warm start.

  Args:
    directory: a `checkpoint_<step>` directory.
    shapes: the parameters wanted, as jax.ShapeDtypeStruct with shardings.

  Raises:
    ValueError: a parameter is missing, left over, or of another shape.
  """
  wanted = {'target': serialization.to_state_dict(shapes)}
  _check_tree(directory, 'state', wanted, 'start from a checkpoint of the same architecture')
  with ocp.PyTreeCheckpointer() as checkpointer:
    restored = checkpointer.restore(
        epath.Path(directory) / 'state',
        args=ocp.args.PyTreeRestore(
            item=wanted,
            restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=True,
        ),
    )
  return restored['target']


def asset_changes(
    directory: str, assets: Assets, names: Sequence[str] = _MUST_AGREE
) -> dict[str, str]:
  """Which of the assets `names` of a checkpoint are not those of this run: name -> difference."""
  saved = os.path.join(directory, 'assets')
  changes = {}
  with tempfile.TemporaryDirectory() as ours:
    assets(ours)
    for name in names:
      old, new = os.path.join(saved, name), os.path.join(ours, name)
      if not os.path.exists(old) or not os.path.exists(new):
        continue  # A checkpoint of T5X has no assets.
      if name.endswith('.json'):
        with open(old, encoding='utf-8') as a, open(new, encoding='utf-8') as b:
          difference = differences.first(
              json.load(a), json.load(b), 'the checkpoint', 'this run')
      else:
        same = filecmp.cmp(old, new, shallow=False)
        difference = None if same else 'the file there is another one'
      if difference:
        changes[name] = difference
  return changes


def _check_tree(directory: str, item: str, wanted: Any, remedy: str) -> None:
  """Raises ValueError unless the saved item has the leaves and shapes of `wanted`."""
  saved = ocp.PyTreeCheckpointHandler().metadata(epath.Path(directory) / item).tree
  there = optimizers.flatten({part: saved[part] for part in wanted if part in saved})
  here = optimizers.flatten(wanted)
  missing = [name for name in here if name not in there]
  extra = [name for name in there if name not in here]
  shapes = [
      f'{name} is {tuple(there[name].shape)} there and {tuple(leaf.shape)} here'
      for name, leaf in here.items()
      if name in there and tuple(there[name].shape) != tuple(leaf.shape)
  ]
  problems = [f'{name} is not in the checkpoint' for name in missing]
  problems += [f'{name} is only in the checkpoint' for name in extra] + shapes
  if problems:
    more = f' (and {len(problems) - 3} more)' if len(problems) > 3 else ''
    raise ValueError(f'{directory} does not fit: {"; ".join(problems[:3])}{more}; {remedy}')


def _put_aside_incomplete(directory: str) -> None:
  """Renames partial checkpoints, so that neither restoring nor saving trips over them."""
  if not hosts.is_main():
    return
  for step in run_files.checkpoint_steps(directory):
    path = run_files.checkpoint_path(directory, step)
    if damage := run_files.damage(path):
      aside = os.path.join(directory, f'incomplete_checkpoint_{step}')
      logging.warning('%s is not whole (%s): ignored, and kept as %s', path, damage, aside)
      shutil.rmtree(aside, ignore_errors=True)
      os.replace(path, aside)
