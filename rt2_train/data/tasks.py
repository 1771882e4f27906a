"""SeqIO Tasks over random-access datasets.

A Task here is SeqIO's in full: whoever calls `seqio.get_dataset` or `seqio.Evaluator` gets
tf.data. Its source also hands out the dataset itself, which is what our loader and evaluator
read; both ways call the same `__getitem__`, so they yield the same bits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import contextvars
import difflib
import functools
import zlib

import numpy as np
import seqio
import tensorflow as tf

# TensorFlow reads data on the host; it must not take the accelerator's memory from JAX.
tf.config.set_visible_devices([], 'GPU')

# Inputs, targets and predictions are ids from end to end: overwritten action tokens do not
# survive a round trip through text. The size is "any int32 id", so that every task of every
# tokenizer has an equal vocabulary, which SeqIO and T5X ask of a mixture and its model.
VOCABULARY = seqio.PassThroughVocabulary(size=2**31 - 1, eos_id=1)
_PIXELS = seqio.PassThroughVocabulary(size=256)

OUTPUT_FEATURES = {
    'inputs': seqio.Feature(VOCABULARY, add_eos=False, dtype=tf.int32),
    'targets': seqio.Feature(VOCABULARY, add_eos=False, dtype=tf.int32),
    'images': seqio.Feature(_PIXELS, add_eos=False, dtype=tf.uint8, rank=4),
    'image_mask': seqio.Feature(_PIXELS, add_eos=False, dtype=tf.int32),
    'source': seqio.Feature(VOCABULARY, add_eos=False, dtype=tf.int32),
}

# tf.data shuffles ids, not pixels: 8 bytes each.
_SHUFFLED_IDS = 1_000_000

Splits = Mapping[str, Callable[[], object]]


# Which split the rates of a mixture are asked for: SeqIO's know none.
_SPLIT: contextvars.ContextVar[str | None] = contextvars.ContextVar('split', default=None)


def add_task(
    name: str,
    open_split: Splits | Callable[[], Splits],
    metric_fns: Sequence[Callable[..., Mapping[str, float]]] = (),
    remedy: str = '',
    postprocess_fn: Callable[..., object] | None = None,
) -> seqio.Task:
  """Registers a Task over random-access datasets; nothing is opened until it is read.

  Args:
    name: of the task; batches carry its hash, see `source_id`.
    open_split: split name -> function that opens a dataset with `fingerprint`, `__len__`,
      `__getitem__` (images, image_mask, inputs, targets), `example_id`, `note` (what the data go
      without, in words, or ''), and `answered_with` where answers are no free text. Or a function
      that returns this mapping, for splits that are known only after gin was parsed; an empty
      mapping says that the task is not configured.
    metric_fns: SeqIO metric functions, called with ids up to and including EOS.
    remedy: what to do when a split is missing, such as the gin line to add.
    postprocess_fn: SeqIO's, called as (ids, example=, is_target=) before metrics see ids. Our
      evaluator's examples hold `answers` where the dataset has `answers(i)`.
  """
  source = RandomAccessSource(name, open_split, remedy)
  return seqio.TaskRegistry.add(
      name,
      source=source,
      output_features=OUTPUT_FEATURES,
      preprocessors=[functools.partial(_refuse_long, task=name)],
      metric_fns=list(metric_fns),
      postprocess_fn=postprocess_fn,
      # The source shuffles ids; SeqIO's own buffer would hold decoded images.
      shuffle_buffer_size=None,
      task_cls=_Task,
  )


def vocabulary() -> seqio.Vocabulary:
  """VOCABULARY, for gin: what T5X compares a model's vocabulary with."""
  return VOCABULARY


def source_id(name: str) -> int:
  """The number by which batches name their task: crc32(name) in 31 bits."""
  return zlib.crc32(name.encode()) & 0x7FFFFFFF


def get(mixture_or_task_name: str) -> seqio.Task | seqio.Mixture:
  """The registered mixture or task.

  Raises:
    ValueError: there is none of this name; names the nearest.
  """
  for registry in (seqio.MixtureRegistry, seqio.TaskRegistry):
    if mixture_or_task_name in registry.names():
      return registry.get(mixture_or_task_name)
  names = sorted({*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()})
  near = difflib.get_close_matches(mixture_or_task_name, names, n=1)
  hint = f'did you mean {near[0]!r}?' if near else f'registered are {names}'
  raise ValueError(
      f'no mixture or task is called {mixture_or_task_name!r}; {hint} '
      '(mixtures register when the gin file imports their module)')


def source_of(task: seqio.Task) -> 'RandomAccessSource':
  """The random-access source of `task`; ValueError when it is another kind of SeqIO source."""
  if not isinstance(task.source, RandomAccessSource):
    raise ValueError(
        f'task {task.name} reads from {type(task.source).__name__}, which has no random access; '
        'register it with rt2_train.data.tasks.add_task')
  return task.source


@contextlib.contextmanager
def rates_of(split: str) -> Iterator[None]:
  """Mixtures asked for rates inside share them among the tasks that have `split`."""
  token = _SPLIT.set(split)
  try:
    yield
  finally:
    _SPLIT.reset(token)


def takes_part(task: str) -> bool:
  """Whether a task has the split that rates are asked for; any split where none was said."""
  splits, wanted = source_of(get(task)).splits, _SPLIT.get()
  return bool(splits) if wanted is None else wanted in splits


class RandomAccessSource(seqio.DataSource):
  """A SeqIO source over datasets that are read by position."""

  def __init__(self, name: str, open_split: Splits | Callable[[], Splits], remedy: str = ''):
    # SeqIO caches a task of fewer than 10 000 examples in memory, images and all, unless the
    # number is unknown.
    super().__init__(
        splits=(), num_input_examples=None, caching_permitted=False,
        performs_internal_shuffling=True)
    self._name = name
    self._open_split = open_split
    self._remedy = remedy

  @property
  def splits(self) -> tuple[str, ...]:
    return tuple(self._open_splits())

  @property
  def missing(self) -> str:
    """Why a split may be missing, and what to do about it."""
    splits = self.splits
    has = f'it has {sorted(splits)}' if splits else 'it is not configured'
    return f'{has}; {self._remedy}' if self._remedy else has

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    return [split]

  def open(self, split: str):
    """Opens the dataset of `split`.

    Raises:
      ValueError: there is no such split, or it is empty.
    """
    splits = self._open_splits()
    if split not in splits:
      raise ValueError(f'task {self._name} has no split {split!r}: {self.missing}')
    dataset = splits[split]()
    if not len(dataset):
      raise ValueError(f'task {self._name}, split {split!r}: there is no example in it')
    return dataset

  def get_dataset(
      self,
      split: str = 'train',
      shuffle: bool = True,
      seed: int | None = None,
      shard_info: seqio.ShardInfo | None = None,
      **unused,
  ) -> tf.data.Dataset:
    """All examples of a split once, with `source` and the string `example_id` added."""
    dataset = self.open(split)
    ids = tf.data.Dataset.range(len(dataset))
    if shuffle:
      ids = ids.shuffle(min(len(dataset), _SHUFFLED_IDS), seed=seed)
    if shard_info:
      ids = ids.shard(shard_info.num_shards, shard_info.index)
    source = np.array([source_id(self._name)], np.int32)

    def read(i):
      example = read_example(dataset, int(i), self._name)
      return [
          *(np.asarray(example[key]) for key in _READ), source,
          dataset.example_id(int(i)).encode()]

    # Image sizes are static, since models are built from a dataset's shapes.
    size = dataset[0]['images'].shape[1:]

    def tensors(i):
      values = tf.numpy_function(
          read, [i], [*(OUTPUT_FEATURES[key].dtype for key in _READ), tf.int32, tf.string])
      example = dict(zip((*_READ, 'source', 'example_id'), values))
      for key, feature in OUTPUT_FEATURES.items():
        example[key].set_shape((None, *size) if key == 'images' else [None] * feature.rank)
      example['example_id'].set_shape([])
      return example

    return ids.map(tensors, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

  def _open_splits(self) -> Splits:
    return self._open_split() if callable(self._open_split) else self._open_split


_READ = ('inputs', 'targets', 'images', 'image_mask')


def read_example(dataset, i: int, task: str) -> dict[str, np.ndarray]:
  """Example `i` of `dataset`.

  Raises:
    ValueError: it cannot be read; names the task and the example.
  """
  try:
    return dataset[i]
  except (ValueError, OSError) as error:
    raise ValueError(failure(task, dataset.example_id(i), error)) from error


def answered_with(dataset) -> str:
  """The grammar that answers to `dataset`'s prompts are under: see `Processor.grammar`."""
  return getattr(dataset, 'answered_with', 'question')


def failure(task: str, example_id: str, what: object) -> str:
  """'task robot, example fractal/train shard 00003 episode 17 step 3: JPEG truncated'."""
  return f'task {task}, example {example_id}: {str(what).removeprefix(example_id + ": ")}'


class _Task(seqio.Task):
  """A Task that may have no split: SeqIO then leaves it out of a mixture instead of failing."""

  @property
  def splits(self) -> Sequence[str]:
    return self.source.splits


def _refuse_long(
    dataset: tf.data.Dataset, task: str, sequence_length: Mapping[str, int] | None = None
) -> tf.data.Dataset:
  """Fails where SeqIO would trim in silence."""
  limits = {key: limit for key, limit in (sequence_length or {}).items() if limit is not None}

  def check(example):
    checks = []
    for key, limit in limits.items():
      length = tf.shape(example[key])[0]
      checks.append(tf.debugging.Assert(length <= limit, [
          f'task {task}, example', example['example_id'],
          f': {key} is too long; length and limit of task_feature_lengths:', length, limit]))
    with tf.control_dependencies(checks):
      return {key: tf.identity(value) for key, value in example.items()}

  return dataset.map(check, num_parallel_calls=tf.data.AUTOTUNE)
