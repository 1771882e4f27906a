"""Reads a SeqIO task or mixture in an order fixed beforehand, with Grain's threads reading ahead.

The order is `order.Order`: exact quotas per global batch, of which each process of a job reads the
rows that it is told to, and the whole state is a step number. What else is saved are fingerprints,
so that a run cannot be resumed on other data without saying so.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import time

from absl import logging
import grain
import numpy as np
import seqio

from rt2_train import images
from rt2_train.data import converters
from rt2_train.data import order
from rt2_train.data import quotas
from rt2_train.data import tasks
from rt2_train.processor import Processor

# Grain's datasets end; training does not.
_LAST_STEP = 10**15


@dataclasses.dataclass(frozen=True)
class _Source:
  """One task of the mixture, opened."""

  name: str
  dataset: object
  share: int


class Loader(Iterator[dict[str, np.ndarray]]):
  """An endless iterator of training batches: NumPy, all rows, or those that `select` named.

  Attributes:
    step: number of the batch that comes next.
    batch_size: rows of the global batch.
    sources: hash in batch['source'] -> task name.
    order: which example stands in which row of which global batch.
    wait_seconds: time that callers of `next` have waited for data.
  """

  def __init__(
      self,
      mixture_or_task_name: str,
      batch_size: int,
      processor: Processor,
      *,
      seed: int = 0,
      split: str = 'train',
      num_threads: int = 2,
      prefetch: int = 3,
      augmentation: images.Augmentation | None = None,
  ):
    """Opens all sources of the mixture.

    Args:
      mixture_or_task_name: registered with SeqIO.
      batch_size: rows of the global batch, over all processes.
      processor: what the tasks' examples were made with.
      seed: of order and augmentation.
      split: of every task.
      num_threads: each works on a batch of its own.
      prefetch: batches read ahead; also bounds how many threads have work.
      augmentation: changes the images of real frames, keyed by (seed, step, global row).

    Raises:
      ValueError: the name is unknown, or a source is empty or not configured.
    """
    if batch_size < 1:
      raise ValueError(f'batch_size is {batch_size}; it must be at least 1')
    if num_threads < 1 or prefetch < 1:
      raise ValueError(
          f'num_threads is {num_threads} and prefetch {prefetch}; both must be at least 1')
    self._sources, self._left_out = _open(mixture_or_task_name, split)
    self.order = order.Order(
        names=tuple(source.name for source in self._sources),
        sizes=tuple(len(source.dataset) for source in self._sources),
        shares=tuple(source.share for source in self._sources),
        batch_size=batch_size,
        seed=seed,
    )
    self.sources = {tasks.source_id(name): name for name in self.order.names}
    if len(self.sources) != len(self.order.names):
      raise ValueError(f'two of the tasks {self.order.names} have the same hash; rename one')
    self.step = 0
    self.batch_size = batch_size
    self._rows = range(batch_size)
    self.wait_seconds = 0.0
    self._split = split
    self.processor = processor
    self._augmentation = augmentation
    self._read_options = grain.ReadOptions(
        num_threads=min(num_threads, prefetch), prefetch_buffer_size=prefetch)
    self._batches: grain.DatasetIterator | None = None

  def __next__(self) -> dict[str, np.ndarray]:
    """The next batch.

    Raises:
      ValueError: an example cannot be read; names task and example. The loader stays at this
        step: data are never substituted or dropped.
    """
    if self._batches is None:
      # An element is a whole batch: per example, Grain would cost more than a small JPEG does.
      steps = grain.MapDataset.range(self.step, _LAST_STEP).map(self._read)
      self._batches = iter(steps.to_iter_dataset(self._read_options))
    begin = time.perf_counter()
    try:
      batch = next(self._batches)
    except Exception:
      self.close()  # Grain would go on with the batch after.
      raise
    finally:
      self.wait_seconds += time.perf_counter() - begin
    self.step += 1
    return batch

  def select(self, rows: Sequence[int]) -> None:
    """Reads only these rows of every global batch, in this order, from the next batch on.

    Raises:
      ValueError: there is no such row.
    """
    if outside := [row for row in rows if not 0 <= row < self.batch_size]:
      raise ValueError(f'row {outside[0]} is not one of a batch of {self.batch_size}')
    self.close()
    self._rows = tuple(int(row) for row in rows)

  def seek(self, step: int) -> None:
    """Makes `step` the next one."""
    if not 0 <= step < _LAST_STEP:
      raise ValueError(f'a loader cannot go to step {step}; steps count from 0')
    self.close()
    self.step = step

  def close(self) -> None:
    """Ends the threads and forgets what was read ahead; `next` starts them again."""
    if self._batches is not None:
      self._batches.close()
      self._batches = None

  def state(self) -> dict[str, object]:
    """What `restore` needs, as JSON: the step, and fingerprints of all that decides the order."""
    return {
        'step': self.step,
        'seed': self.order.seed,
        'batch_size': self.order.batch_size,
        'split': self._split,
        'mixture': dict(zip(self.order.names, self.order.shares)),
        'sources': {source.name: source.dataset.fingerprint for source in self._sources},
        'processor': self.processor.fingerprint,
        'augmentation': repr(self._augmentation),
    }

  def restore(self, state: Mapping[str, object], allow_change: bool = False) -> list[str]:
    """Continues where `state` was taken, bit for bit, with any number of processes and threads.

    Args:
      state: from `state()`.
      allow_change: go on with this loader's data, mixture, processor and seed, whatever they were.

    Returns:
      What differs, in words.

    Raises:
      ValueError: any of them differs and `allow_change` is False; names each.
    """
    changes = _changes(state, self.state())
    if changes and not allow_change:
      raise ValueError(
          f'the data of this run are not those it was saved with: {"; ".join(changes)}. Go back to '
          'them, or set ALLOW_DATA_CHANGE = True to go on with the new ones')
    self.seek(int(state['step']))
    return changes

  def examples(self, step: int) -> list[tuple[str, str]]:
    """(task name, example id) of every row of the global batch `step`."""
    rows = zip(*self.order.rows(step))
    sources = [(self._sources[source], int(example)) for source, example in rows]
    return [(source.name, source.dataset.example_id(example)) for source, example in sources]

  def table(self, steps: int | None = None) -> list[dict[str, object]]:
    """What batches hold, one row per source: the mixture report.

    Args:
      steps: length of the run to report on; default: the steps so far.

    Returns:
      Rows with source, weight (share of the mixture), examples (in the dataset), seen (over the
      steps), epochs, share (realised), and note (what the source goes without, or why it is left
      out itself; '' when nothing).
    """
    steps = self.step if steps is None else steps
    whole = sum(self.order.shares)
    rows = []
    for source, size, seen in zip(self._sources, self.order.sizes, self.order.seen(steps)):
      rows.append({
          'source': source.name,
          'weight': source.share / whole,
          'examples': size,
          'seen': int(seen),
          'epochs': int(seen) / size,
          'share': int(seen) / (steps * self.order.batch_size) if steps else 0.0,
          'note': source.dataset.note,
      })
    for name, note in self._left_out.items():
      rows.append({
          'source': name, 'weight': 0.0, 'examples': 0, 'seen': 0, 'epochs': 0.0, 'share': 0.0,
          'note': note})
    return rows

  def _read(self, step: int) -> dict[str, np.ndarray]:
    source_B, example_B = self.order.rows(step)
    batch = converters.Batch(len(self._rows), self.processor)
    hashes = list(self.sources)
    for place, row in enumerate(self._rows):
      source = self._sources[source_B[row]]
      i = int(example_B[row])
      example = tasks.read_example(source.dataset, i, source.name)
      try:
        if self._augmentation:
          example = self._augment(example, step, row)
        batch.put(place, example, hashes[source_B[row]])
      except ValueError as error:
        raise ValueError(
            tasks.failure(source.name, source.dataset.example_id(i), error)) from error
    return batch.features()

  def _augment(self, example: Mapping[str, np.ndarray], step: int, row: int):
    real_n = example['image_mask'] == 1
    if not real_n.any():
      return example
    images_nxHxWx3 = example['images'].copy()
    images_nxHxWx3[real_n] = self._augmentation(
        images_nxHxWx3[real_n], self.order.augmentation_rng(step, row))
    return {**example, 'images': images_nxHxWx3}


def _open(name: str, split: str) -> tuple[list[_Source], dict[str, str]]:
  """Opens all tasks that take part, and says of the others why they do not."""
  provider = tasks.get(name)
  if isinstance(provider, seqio.Task):
    weights = {provider: 1.0}
  else:
    with tasks.rates_of(split):
      weights = {task: provider.get_rate(task) for task in provider.tasks}
  left_out = {}
  for task, weight in list(weights.items()):
    source = tasks.source_of(task)
    if split in source.splits and weight > 0:
      continue
    if isinstance(provider, seqio.Task):
      source.open(split)  # Raises: there is nothing to do without it.
    if split in source.splits:
      left_out[task.name] = 'weight 0'
    else:
      left_out[task.name] = f'no split {split!r}: {source.missing}'
    del weights[task]
  if left_out and weights:
    logging.info(
        'mixture %s, split %s: goes without %s, whose weight the others share (mixtures.txt says '
        'why)', name, split, ', '.join(left_out))
  if not weights:
    reasons = '; '.join(f'{task}: {reason}' for task, reason in left_out.items())
    raise ValueError(f'mixture {name} has no source left. {reasons}')
  shares = quotas.parts(list(weights.values()))
  return [_Source(task.name, tasks.source_of(task).open(split), share)
          for task, share in zip(weights, shares)], left_out


def _changes(saved: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
  """What differs between two states, in words."""
  changes = []
  for key in now:
    before, after = saved.get(key), now[key]
    if key == 'step' or before == after:
      continue
    if isinstance(after, Mapping) and isinstance(before, Mapping):
      for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
          changes.append(
              f'{key} {name} was {_short(before.get(name))}, is {_short(after.get(name))}')
    else:
      changes.append(f'{key} was {_short(before)}, is {_short(after)}')
  return changes


def _short(value: object) -> str:
  """Fingerprints are told apart by their beginning."""
  text = 'absent' if value is None else str(value)
  return text if len(text) <= 40 else text[:12] + '...'
