"""Writes a checkpoint of ours out of foreign ones, a tensor at a time.

What is written is what INITIAL_CHECKPOINT_PATH takes: `state/` in T5X's tree, with step 0 and no
optimizer state, and `assets/`. Arrays go through TensorStore in chunks of one layer, so that a
stacked parameter is never held as a whole; larger ones than a chunk go block by block.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import math
import os
import pathlib
import re
import shutil
from typing import Any

from absl import logging
from flax import core
from flax import traverse_util
from flax.linen import partitioning as flax_partitioning
import jax
import jax.extend
from jax.interpreters import partial_eval
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
import tqdm

from rt2_train import run_files
from rt2_train.convert import families
from rt2_train.convert import mapping
from rt2_train.convert import sources as sources_lib
from rt2_train.training import assets as assets_lib
from rt2_train.training import optimizers

_CHUNK_BYTES = 64 * 2**20
_LAYER_AXIS = 1


@dataclasses.dataclass(frozen=True)
class Report:
  """What an import did, kept as assets/import.json.

  Attributes:
    sources: format and path of each source.
    used: target -> the source tensors it is made of.
    unused: tensors of the sources that nothing was made of.
    initialised: targets that no source covers, random as training would make them.
    notes: target -> what was done beside copying: positions resized, vocabularies padded.
  """

  sources: list[dict[str, str]]
  used: dict[str, list[str]]
  unused: list[str]
  initialised: list[str]
  notes: dict[str, str]

  def __str__(self):
    lines = [f'{target} <- {_abridged(names)}' for target, names in self.used.items()]
    lines += [f'{target} <- random' for target in self.initialised]
    lines += [f'{target}: {note}' for target, note in self.notes.items()]
    lines += [f'unused: {name}' for name in self.unused]
    return '\n'.join([
        *lines, f'{len(self.used)} parameters imported, {len(self.initialised)} initialised, '
        f'{len(self.unused)} source tensors unused'])


def import_checkpoint(
    *,
    model: Any,
    sources: Sequence[tuple[str, str | os.PathLike[str]]],
    output: str | os.PathLike[str],
    allow_missing: Sequence[str] = (),
    random_seed: int = 0,
) -> Report:
  """Makes the checkpoint directory `output`, whole or not at all.

  Args:
    model: see rt2_train.models.vlm; its processor, if it has one, goes into the assets.
    sources: format and path of checkpoints that together hold the parameters, such as a vision and
      a language half; see sources.FORMATS.
    output: a new directory.
    allow_missing: patterns of the paths of parameters that no source need cover.
    random_seed: of these parameters; training starts from the same ones under the same seed.

  Raises:
    FileExistsError: `output` is there.
    FileNotFoundError: a source is not.
    ValueError: sources do not fit the model, or leave parameters out; the first are named.
  """
  output = pathlib.Path(os.path.abspath(output))
  if output.exists():
    raise FileExistsError(f'{output} exists; choose another output, or remove it')
  opened = [sources_lib.open_source(format_, path) for format_, path in sources]
  parameters = Parameters(model)
  rules = [(source, rule) for source in opened for rule in families.rules(model.module, source)]
  covered, missing = _covered(parameters, rules, allow_missing)
  for source, rule in rules:
    parameters.check(rule, source)
  report = _report(opened, covered, missing, parameters)
  partial = output.with_name(f'{output.name}.partial')
  shutil.rmtree(partial, ignore_errors=True)
  try:
    with run_files.naming_full_disk(output):
      _write_tree(partial, parameters.shapes)
      size = sum(math.prod(shape.shape) for shape in parameters.shapes.values()) * 4
      with tqdm.tqdm(total=size, unit='B', unit_scale=True, desc='import', disable=None) as bar:
        for target, parts in covered.items():
          array = _create(partial / 'state', target, parameters)
          for source, rule in parts:
            _copy(source, rule, array, parameters, bar)
        for target in missing:
          array = _create(partial / 'state', target, parameters)
          array.write(parameters.initial(target, random_seed)).result()
          bar.update(4 * math.prod(array.shape))
      _write_assets(partial / 'assets', model, report)
      run_files.seal(partial)
      os.replace(partial, output)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise
  return report


class Parameters:
  """What the model wants: shapes and logical axes by path, and initial values."""

  def __init__(self, model: Any):
    batch = model.batch_shapes(batch_size=1, inputs_length=8, targets_length=8)
    axes = None

    def init(key):
      nonlocal axes
      variables = core.unfreeze(model.get_initial_variables(
          key,
          {name: feature.shape for name, feature in batch.items()},
          {name: feature.dtype for name, feature in batch.items()}))
      axes = variables['params_axes']
      return optimizers.flatten(variables['params'])

    self._traced = jax.jit(init).trace(jax.random.key(0))
    self.shapes = self._traced.out_info
    self.axes = optimizers.flatten(flax_partitioning.get_axis_names(axes))

  def is_stacked(self, target: str) -> bool:
    return tuple(self.axes[target])[_LAYER_AXIS:_LAYER_AXIS + 1] == ('layers',)

  def vocabulary_axis(self, target: str) -> int | None:
    """The axis of a table that may have more rows than the source's, for even sharding."""
    axes = tuple(self.axes[target])
    return axes.index('vocab') if 'vocab' in axes else None

  def initial(self, target: str, seed: int) -> np.ndarray:
    """One parameter as `train.train` would draw it; nothing else is computed."""
    key, _ = jax.random.split(jax.random.key(seed))
    whole = self._traced.jaxpr
    wanted = [name == target for name in self.shapes]
    jaxpr, _ = partial_eval.dce_jaxpr(whole.jaxpr, wanted, instantiate=True)
    draw = jax.jit(jax.extend.core.jaxpr_as_fun(jax.extend.core.ClosedJaxpr(jaxpr, whole.consts)))
    return np.asarray(draw(key)[0], np.float32)

  def check(self, rule: mapping.Rule, source: sources_lib.Source) -> None:
    """Raises ValueError if what a rule makes is not of the target's shape; reads nothing large."""
    for name in rule.sources:
      if name not in source:
        raise ValueError(
            f'{source.path} has no tensor {name}, which {rule.target} is made of; use a model file '
            'of that architecture and depth')
    wanted = self.shapes[rule.target].shape
    if rule.layer is not None:
      wanted = wanted[:_LAYER_AXIS] + wanted[_LAYER_AXIS + 1:]
    # An array of one entry, spread over the shape, takes no memory and goes through any view.
    blanks = [
        np.broadcast_to(np.zeros((), source.dtype(name)), source.shape(name))[rule.index]
        for name in rule.sources]
    made = _made_shape(rule, blanks)
    vocabulary = self.vocabulary_axis(rule.target)
    if vocabulary is not None and len(made) == len(wanted) and made != wanted:
      if made[vocabulary] > wanted[vocabulary]:
        raise ValueError(
            f'{source.path} has {made[vocabulary]} token ids, the model {wanted[vocabulary]}; set '
            f'VOCAB_SIZE = {-(-made[vocabulary] // 128) * 128}')
      made = (*made[:vocabulary], wanted[vocabulary], *made[vocabulary + 1:])
    if made != wanted:
      layer = '' if rule.layer is None else f' layer {rule.layer}'
      raise ValueError(
          f'{source.path}: {", ".join(rule.sources)} of shape '
          f'{", ".join(str(source.shape(name)) for name in rule.sources)} gives '
          f'{rule.target}{layer} of {made}, the model has {wanted}; use a model file of that architecture')


def _made_shape(rule: mapping.Rule, blanks: Sequence[np.ndarray]) -> tuple[int, ...]:
  if rule.rows is None:
    return tuple(rule.make(*blanks).shape)
  made = list(rule.make(*(blank[:1] for blank in blanks)).shape)
  made[rule.rows] *= blanks[0].shape[0]
  return tuple(made)


def _covered(parameters, rules, allow_missing):
  """{target: [(source, rule)]} in the order of the rules, and the targets without any."""
  covered: dict[str, list[Any]] = {}
  for source, rule in rules:
    if rule.target not in parameters.shapes:
      raise ValueError(
          f'{source.path} holds {_abridged(rule.sources)}, for which the model has no place '
          f'({rule.target}); use a model file of that architecture')
    covered.setdefault(rule.target, []).append((source, rule))
  for target, parts in covered.items():
    layers = [rule.layer for _, rule in parts]
    if layers == [None]:
      continue
    depth = parameters.shapes[target].shape[_LAYER_AXIS] if parameters.is_stacked(target) else 1
    if layers != list(range(depth)):
      paths = ' and '.join(dict.fromkeys(str(source.path) for source, _ in parts))
      raise ValueError(f'{target} has {depth} layers; {paths} give it {layers}')
  missing = [target for target in parameters.shapes if target not in covered]
  refused = [
      target for target in missing
      if not any(re.search(pattern, target) for pattern in allow_missing)]
  if refused:
    raise ValueError(
        f'no source covers {", ".join(refused[:3])}'
        + (f' (and {len(refused) - 3} more)' if len(refused) > 3 else '')
        + '; name a source that does, or let them start anew with ALLOW_MISSING, a list of '
        'patterns')
  return covered, missing


def _report(sources, covered, missing, parameters) -> Report:
  used, notes, read = {}, {}, {id(source): set() for source in sources}
  for target, parts in covered.items():
    used[target] = [name for _, rule in parts for name in rule.sources]
    for source, rule in parts:
      read[id(source)].update(rule.sources)
    said = [rule.note for _, rule in parts if rule.note]
    axis = parameters.vocabulary_axis(target)
    if axis is not None:
      source, rule = parts[0]
      there = _made_shape(rule, [
          np.broadcast_to(np.zeros(()), source.shape(name)) for name in rule.sources])[axis]
      if extra := parameters.shapes[target].shape[axis] - there:
        said.append(f'{extra} ids beyond the {there} of the source get the mean of all rows')
    if said:
      notes[target] = '; '.join(dict.fromkeys(said))
  return Report(
      sources=[{'format': source.format, 'path': str(source.path)} for source in sources],
      used=used,
      unused=[name for source in sources for name in source.names()
              if name not in read[id(source)]],
      initialised=list(missing),
      notes=notes)


def _write_tree(directory: pathlib.Path, shapes: Mapping[str, Any]) -> None:
  """Has Orbax write all but the contents: its metadata knows the tree, the arrays their shapes."""
  directory.parent.mkdir(parents=True, exist_ok=True)
  stand_ins = {target: np.zeros(1, np.float32) for target in shapes}
  state = {
      'target': traverse_util.unflatten_dict(stand_ins, sep='/'),
      'state': {'step': np.int32(0), 'param_states': {}},
  }
  handler = ocp.CompositeCheckpointHandler(state=ocp.PyTreeCheckpointHandler(use_ocdbt=False))
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)  # Orbax warns that there are no parts to be merged.
  try:
    with ocp.Checkpointer(handler) as checkpointer:
      checkpointer.save(directory, ocp.args.Composite(state=ocp.args.PyTreeSave(state)))
  finally:
    logging.set_verbosity(verbosity)


def _create(state: pathlib.Path, target: str, parameters: Parameters) -> ts.TensorStore:
  """An empty float32 array in place of the stand-in, in the format that Orbax wrote that."""
  shape = parameters.shapes[target].shape
  chunk = list(shape)
  if parameters.is_stacked(target):
    chunk[_LAYER_AXIS] = 1
  # Blocks of rows keep parts of a chunk out of memory; those of a table are read likewise.
  row = 4 * math.prod(chunk[1:])
  chunk[0] = min(shape[0], max(1, _CHUNK_BYTES // row))
  path = state / f'target.{target.replace("/", ".")}'
  metadata = json.loads((path / '.zarray').read_text())
  shutil.rmtree(path)
  return ts.open({
      'driver': 'zarr',
      'kvstore': {'driver': 'file', 'path': f'{path}/'},
      'metadata': {**metadata, 'shape': list(shape), 'chunks': chunk},
  }, create=True).result()


def _copy(source, rule, array, parameters, bar) -> None:
  """Writes what a rule makes; at most its sources, or a block of them, are in memory."""
  axis = parameters.vocabulary_axis(rule.target)
  there, total = 0, None
  for start, made in _made(source, rule):
    at = rule.rows or 0
    place = [slice(None)] * made.ndim
    place[at] = slice(start, start + made.shape[at])
    if axis is not None:
      total = _add(total, made, axis, at)
      there = max(there, place[axis].stop or made.shape[axis])
      if axis != at:
        place[axis] = slice(0, made.shape[axis])
    if rule.layer is not None:
      place.insert(_LAYER_AXIS, rule.layer)
    array[tuple(place)].write(np.ascontiguousarray(made, np.float32)).result()
    bar.update(4 * made.size)
  if axis is not None and there < array.shape[axis]:
    # The mean of all rows is never the likeliest token, where rows of zeros might be.
    mean = (total / there).astype(np.float32)
    place = [slice(None)] * array.ndim
    place[axis] = slice(there, array.shape[axis])
    shape = array[tuple(place)].shape
    array[tuple(place)].write(np.broadcast_to(np.expand_dims(mean, axis), shape)).result()
    bar.update(4 * math.prod(shape))


def _add(total, made, axis, at):
  """Sums over the vocabulary: block by block where it is cut, else put beside each other."""
  part = made.sum(axis=axis, dtype=np.float64)
  if total is None:
    return part
  return total + part if axis == at else np.concatenate([total, part])


def _made(source, rule) -> Iterator[tuple[int, np.ndarray]]:
  """(first row, rows) of what a rule makes, in blocks that are a chunk at most."""
  if rule.rows is None:
    made = rule.make(*(source.read(name, rule.index) for name in rule.sources))
    step = max(1, _CHUNK_BYTES // max(4, 4 * math.prod(made.shape[1:])))
    for start in range(0, made.shape[0], step):
      yield start, made[start:start + step]
    return
  shape = source.shape(rule.sources[0])
  step = max(1, _CHUNK_BYTES // (4 * math.prod(shape[1:])))
  for start in range(0, shape[0], step):
    rows = (slice(start, min(start + step, shape[0])),)
    yield start, rule.make(*(source.read(name, rows) for name in rule.sources))


def _write_assets(directory: pathlib.Path, model: Any, report: Report) -> None:
  directory.mkdir()
  assets_lib.Assets(model)(os.fspath(directory))
  run_files.write(directory / 'import.json', json.dumps(dataclasses.asdict(report), indent=2))
  for line in str(report).splitlines():
    logging.info('%s', line)


def _abridged(names: Sequence[str]) -> str:
  if len(names) <= 2:
    return ', '.join(names) or 'a constant'
  return f'{names[0]} ... {names[-1]} ({len(names)} tensors)'
