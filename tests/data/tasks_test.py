"""Tasks are SeqIO's in full, and yield through SeqIO what the loader yields."""

import collections
import hashlib
import uuid

import numpy as np
import pytest
import seqio
import tensorflow as tf

from rt2_train.data import converters
from rt2_train.data import loader
from rt2_train.data import tasks
from tests.data import memory_fixture

PROCESSOR = memory_fixture.processor()


def register(dataset, **kwargs) -> str:
  name = f'test_{uuid.uuid4().hex}'
  tasks.add_task(name, {'train': lambda: dataset, 'validation': lambda: dataset}, **kwargs)
  return name


def digest(features) -> str:
  """A hash of every feature of one row."""
  whole = hashlib.sha256()
  for key in sorted(features):
    whole.update(f'{key} {features[key].dtype} {features[key].shape}'.encode())
    whole.update(np.ascontiguousarray(features[key]).tobytes())
  return whole.hexdigest()


def through_seqio(name, **kwargs):
  return seqio.get_dataset(
      name, converters.task_feature_lengths(PROCESSOR), converters.EncoderDecoderConverter(),
      verbose=False, **kwargs)


@pytest.mark.parametrize('make', [memory_fixture.robot, memory_fixture.web])
def test_one_epoch_is_the_same_through_seqio_and_through_the_loader(make):
  dataset = make(24, PROCESSOR)
  name = register(dataset)
  by_seqio = collections.Counter(
      (dataset.example_id(i), digest(row))
      for i, row in enumerate(through_seqio(name).as_numpy_iterator()))
  one = loader.Loader(name, 8, PROCESSOR)
  by_loader = collections.Counter()
  for step in range(3):
    batch = next(one)
    for row, i in enumerate(one.order.rows(step)[1]):
      by_loader[dataset.example_id(int(i)), digest({k: v[row] for k, v in batch.items()})] += 1
  assert by_seqio == by_loader
  assert len(by_seqio) == 24


def example_ids(task, **kwargs) -> list[str]:
  return [row['example_id'].decode() for row in task.get_dataset(**kwargs).as_numpy_iterator()]


def test_shuffling_and_shards_lose_nothing():
  dataset = memory_fixture.web(9, PROCESSOR)
  task = tasks.get(register(dataset))
  in_order = [dataset.example_id(i) for i in range(9)]
  shuffled = example_ids(task, shuffle=True, seed=1)
  assert shuffled == example_ids(task, shuffle=True, seed=1) != in_order
  assert sorted(shuffled) == sorted(in_order)
  shards = [example_ids(task, shuffle=False, shard_info=seqio.ShardInfo(i, 2)) for i in range(2)]
  assert sorted(sum(shards, [])) == sorted(in_order)


def test_there_may_be_more_hosts_than_examples():
  task = tasks.get(register(memory_fixture.web(1, PROCESSOR)))
  assert example_ids(task, shuffle=False, shard_info=seqio.ShardInfo(11, 16)) == []


def test_a_task_tells_its_examples_by_name():
  task = tasks.get(register(memory_fixture.robot(3, PROCESSOR)))
  assert example_ids(task, shuffle=False) == [
      'demo/train episode 0 step 0', 'demo/train episode 0 step 1', 'demo/train episode 0 step 2']


def test_every_row_carries_the_hash_of_its_task():
  name = register(memory_fixture.robot(2, PROCESSOR))
  row = next(through_seqio(name).as_numpy_iterator())
  assert row['source'].tolist() == [tasks.source_id(name)]
  # Checkpoints name sources by this number.
  assert tasks.source_id('robot') == 1479245540


def test_seqio_does_not_keep_a_small_task_in_memory():
  reads = collections.Counter()

  class Counted(memory_fixture.InMemory):

    def __getitem__(self, i):
      reads[i] += 1
      return super().__getitem__(i)

  dataset = memory_fixture.robot(4, PROCESSOR)
  name = register(Counted(dataset._rows, PROCESSOR))
  ds = through_seqio(name)
  reads.clear()
  for _ in range(2):
    list(ds.as_numpy_iterator())
  assert set(reads.values()) == {2}


def test_nothing_is_opened_until_it_is_read():
  opened = []

  def open_split():
    opened.append(1)
    return memory_fixture.robot(2, PROCESSOR)

  name = f'test_{uuid.uuid4().hex}'
  tasks.add_task(name, lambda: {'train': open_split})
  task = tasks.get(name)
  assert task.splits == ('train',) and not opened
  next(task.get_dataset().as_numpy_iterator())
  assert opened == [1]


def test_a_long_feature_fails_where_seqio_would_trim_it():
  name = register(memory_fixture.robot(2, PROCESSOR))
  lengths = {**converters.task_feature_lengths(PROCESSOR), 'targets': 5}
  ds = seqio.get_dataset(name, lengths, converters.EncoderDecoderConverter(), verbose=False)
  with pytest.raises(tf.errors.InvalidArgumentError) as error:
    list(ds)
  for part in (name, 'episode 0 step 0', 'targets is too long', '[9] [5]'):
    assert part in str(error.value)


def test_a_broken_picture_is_named_in_tf_data_too():
  rows = [('episode 3 step 4', [b'\xff\xd8 no picture'], np.array([5]), np.array([1]))]
  good = memory_fixture.robot(1, PROCESSOR)
  name = register(memory_fixture.InMemory(good._rows + rows, PROCESSOR))
  with pytest.raises(tf.errors.OpError, match=f'task {name}, example episode 3 step 4: JPEG'):
    list(through_seqio(name))


def test_an_unknown_name_brings_the_nearest():
  name = register(memory_fixture.robot(1, PROCESSOR))
  with pytest.raises(ValueError, match=f"did you mean '{name}'"):
    tasks.get(name + 'x')


def test_a_missing_split_says_what_there_is_and_what_to_do():
  name = register(memory_fixture.robot(1, PROCESSOR), remedy='name it in gin')
  source = tasks.source_of(tasks.get(name))
  with pytest.raises(ValueError, match=r"no split 'test': it has \['train', 'validation'\]; na"):
    source.open('test')


def test_an_empty_split_is_refused():
  name = register(memory_fixture.InMemory([], PROCESSOR))
  with pytest.raises(ValueError, match='there is no example in it'):
    tasks.source_of(tasks.get(name)).open('train')


def test_a_mixture_goes_without_a_task_that_is_not_configured():
  name = register(memory_fixture.robot(4, PROCESSOR))
  absent = f'test_{uuid.uuid4().hex}'
  tasks.add_task(absent, lambda: {})
  mixture = f'test_{uuid.uuid4().hex}'
  seqio.MixtureRegistry.add(mixture, [(name, 1.0), (absent, 1.0)])
  assert len(list(through_seqio(mixture))) == 4


def test_the_seqio_evaluator_hands_ids_to_the_metrics():
  dataset = memory_fixture.robot(5, PROCESSOR)
  seen = {}

  def exact(targets, predictions):
    seen.update(targets=targets, predictions=predictions)
    return {'exact': float(np.mean([t == p for t, p in zip(targets, predictions)]))}

  name = register(dataset, metric_fns=[exact])
  evaluator = seqio.Evaluator(name, converters.EncoderDecoderConverter())

  def predict(ds):
    return [(int(i), row['decoder_target_tokens'].tolist()) for i, row in ds.as_numpy_iterator()]

  metrics, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict)
  assert metrics.result()[name] == {'exact': 1.0}
  assert [list(target) for target in seen['targets']] == [
      dataset[i]['targets'].tolist() for i in range(5)]
  evaluator.close()
