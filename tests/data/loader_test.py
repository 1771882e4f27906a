"""The loader: exact mixtures, slices, resume, augmentation, and what it says when data fail."""

import collections
from collections.abc import Sequence
import contextlib
import functools
import itertools
import json
import time
import tracemalloc

import numpy as np
import pytest
import seqio

from rt2_train import images
from rt2_train.data import loader
from rt2_train.data import quotas
from rt2_train.data import tasks
from tests.data import memory_fixture

PROCESSOR = memory_fixture.processor()
# Names are part of the order, so they are the same in every run.
_NUMBERS = itertools.count()
ROBOT = memory_fixture.robot(37, PROCESSOR)
WEB = memory_fixture.web(11, PROCESSOR)


def register(dataset) -> str:
  name = f'loader_test_{next(_NUMBERS)}'
  tasks.add_task(name, {'train': lambda: dataset})
  return name


def mix(*parts) -> str:
  name = f'loader_test_{next(_NUMBERS)}'
  seqio.MixtureRegistry.add(name, list(parts))
  return name


NAMES = register(ROBOT), register(WEB)
MIXTURE = mix((NAMES[0], 0.5), (NAMES[1], 0.5))

make = functools.partial(loader.Loader, MIXTURE, 8, PROCESSOR, seed=5)


def take(one: loader.Loader, count: int) -> list[dict[str, np.ndarray]]:
  return [next(one) for _ in range(count)]


def assert_equal(left, right):
  assert len(left) == len(right)
  for one, other in zip(left, right):
    assert one.keys() == other.keys()
    for key in one:
      np.testing.assert_array_equal(one[key], other[key], key)


def test_a_batch_has_t5x_names_shapes_and_types():
  batch = next(make())
  assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
      'encoder_input_tokens': ('int32', (8, 64)),
      'decoder_input_tokens': ('int32', (8, 12)),
      'decoder_target_tokens': ('int32', (8, 12)),
      'decoder_loss_weights': ('int32', (8, 12)),
      'images': ('uint8', (8, 1, 16, 16, 3)),
      'image_mask': ('int32', (8, 1)),
      'source': ('int32', (8, 1)),
  }


def test_every_batch_holds_the_exact_mixture():
  one = make()
  for batch in take(one, 12):
    counts = collections.Counter(one.sources[int(row)] for row in batch['source'][:, 0])
    assert counts == {NAMES[0]: 4, NAMES[1]: 4}


def test_rates_of_nested_mixtures_and_functions_are_seqios():
  web = mix((NAMES[1], lambda task: 2.0), (register(WEB), 1.0))
  name = mix((NAMES[0], 0.7), (web, 0.3))
  one = loader.Loader(name, 10, PROCESSOR)
  weights = {row['source']: row['weight'] for row in one.table()}
  mixture = seqio.get_mixture_or_task(name)
  assert weights == pytest.approx({task.name: mixture.get_rate(task) for task in mixture.tasks})
  assert one.order.shares == quotas.parts([weights[name] for name in one.order.names])


def selected(rows: Sequence[int], **arguments) -> loader.Loader:
  one = make(**arguments)
  one.select(rows)
  return one


@pytest.mark.parametrize('processes', [1, 2, 4, 8])
def test_any_number_of_processes_reads_the_same_global_batches(processes):
  augmentation = images.Augmentation()
  whole = take(make(augmentation=augmentation), 3)
  slices = [take(selected(rows, augmentation=augmentation), 3)
            for rows in np.split(np.arange(8), processes)]
  joined = [{key: np.concatenate([one[step][key] for one in slices]) for key in whole[step]}
            for step in range(3)]
  assert_equal(joined, whole)


def test_rows_are_selected_wherever_they_stand_and_at_any_time():
  one = make()
  whole = take(make(), 3)
  assert_equal([next(one)], whole[:1])
  one.select([6, 1])
  assert_equal([next(one)], [{key: value[[6, 1]] for key, value in whole[1].items()}])
  one.select(range(8))
  assert_equal([next(one)], whole[2:])
  with pytest.raises(ValueError, match='row 8 is not one of a batch of 8'):
    one.select([7, 8])


def test_resume_continues_bit_for_bit_with_another_number_of_threads():
  augmentation = images.Augmentation()
  whole = take(make(augmentation=augmentation, num_threads=1, prefetch=1), 14)
  first = make(augmentation=augmentation, num_threads=2)
  take(first, 6)
  state = json.loads(json.dumps(first.state()))
  second = make(augmentation=augmentation, num_threads=4, prefetch=5)
  take(second, 2)
  second.restore(state)
  assert second.step == 6
  assert_equal(take(second, 8), whole[6:])
  # Processes may be another number too.
  third = selected(range(4, 8), augmentation=augmentation)
  third.restore(state)
  assert_equal(take(third, 1), [{key: value[4:] for key, value in whole[6].items()}])


def test_seek_goes_anywhere():
  one = make()
  whole = take(one, 5)
  one.seek(3)
  assert_equal(take(one, 2), whole[3:])
  one.seek(10**9)
  next(one)
  assert one.step == 10**9 + 1
  with pytest.raises(ValueError, match='step -1'):
    one.seek(-1)


@pytest.mark.parametrize('change, message', [
    (dict(seed=6), 'seed was 5, is 6'),
    (dict(batch_size=16), 'batch_size was 8, is 16'),
    (dict(augmentation=images.Augmentation()), 'augmentation was None, is'),
    (dict(processor=memory_fixture.processor(targets_length=13)), 'processor was [0-9a-f]{12}'),
    (dict(mixture_or_task_name=mix((NAMES[0], 0.75), (NAMES[1], 0.25))),
     f'mixture {NAMES[0]} was 1, is 3'),
])
def test_a_changed_run_is_refused_by_name(change, message):
  arguments = {
      'mixture_or_task_name': MIXTURE, 'batch_size': 8, 'processor': PROCESSOR, 'seed': 5}
  state = make().state()
  changed = loader.Loader(**{**arguments, **change})
  with pytest.raises(ValueError, match=message):
    changed.restore(state)
  changed.restore({**state, 'step': 4}, allow_change=True)
  assert changed.step == 4


def test_changed_data_are_refused_by_the_name_of_their_source():
  datasets = [ROBOT]
  name = f'loader_test_{next(_NUMBERS)}'
  tasks.add_task(name, {'train': lambda: datasets[0]})
  state = loader.Loader(name, 4, PROCESSOR).state()
  datasets[0] = memory_fixture.robot(38, PROCESSOR)
  with pytest.raises(ValueError, match=f'sources {name} was {ROBOT.fingerprint[:12]}'):
    loader.Loader(name, 4, PROCESSOR).restore(state)


def test_the_state_is_a_few_bytes():
  one = make()
  take(one, 3)
  assert len(json.dumps(one.state())) < 700


def test_the_table_counts_what_batches_held():
  one = make()
  seen = collections.Counter(
      one.sources[int(row)] for batch in take(one, 5) for row in batch['source'][:, 0])
  for row in one.table():
    assert row['seen'] == seen[row['source']] == 20
    assert row['share'] == row['weight'] == 0.5
    assert row['epochs'] == 20 / row['examples']
  ahead = {row['source']: row for row in one.table(steps=1000)}
  assert ahead[NAMES[1]]['epochs'] == pytest.approx(4000 / 11)
  json.dumps(one.table())


def test_a_source_without_data_is_listed_and_its_weight_shared_out():
  absent = f'loader_test_{next(_NUMBERS)}'
  tasks.add_task(absent, lambda: {}, remedy='bind web.captions.pattern')
  one = loader.Loader(
      mix((NAMES[0], 0.5), (NAMES[1], 0.25), (absent, 0.25)), 9, PROCESSOR)
  weights = {row['source']: row['weight'] for row in one.table()}
  assert weights == {NAMES[0]: pytest.approx(2 / 3), NAMES[1]: pytest.approx(1 / 3), absent: 0.0}
  assert 'bind web.captions.pattern' in one.table()[-1]['note']
  with pytest.raises(ValueError, match='it is not configured; bind web.captions.pattern'):
    loader.Loader(absent, 9, PROCESSOR)


def test_augmentation_changes_pixels_of_real_frames_only():
  frames = set()
  pairs = zip(take(make(), 4), take(make(augmentation=images.Augmentation()), 4))
  for plain, augmented in pairs:
    changed = (plain['images'] != augmented['images']).any((1, 2, 3, 4))
    np.testing.assert_array_equal(changed, plain['image_mask'][:, 0] == 1)
    frames.update(changed.tolist())
    for key in plain.keys() - {'images'}:
      np.testing.assert_array_equal(plain[key], augmented[key])
  assert frames == {True, False}


def test_one_example_is_augmented_differently_every_time():
  one = loader.Loader(
      register(memory_fixture.robot(1, PROCESSOR)), 4, PROCESSOR,
      augmentation=images.Augmentation())
  rows = np.concatenate([batch['images'] for batch in take(one, 2)])
  assert len({row.tobytes() for row in rows}) == 8


def test_a_broken_example_is_named_and_never_left_out():
  broken = memory_fixture.InMemory(
      [('demo/train shard 00003 episode 17 step 3', [b'\xff\xd8\xff\xd9'], [5], [1])], PROCESSOR)
  name = register(broken)
  one = loader.Loader(name, 2, PROCESSOR)
  for _ in range(2):
    with pytest.raises(
        ValueError, match=f'task {name}, example demo/train shard 00003 episode 17 step 3: JPEG'):
      next(one)
  assert one.step == 0


def test_an_example_of_another_processor_is_named():
  longer = memory_fixture.robot(1, memory_fixture.processor(size=32))
  with pytest.raises(ValueError, match=r'episode 0 step 0: images are \[1, 32, 32, 3\]'):
    next(loader.Loader(register(longer), 2, PROCESSOR))


def test_a_task_without_random_access_is_refused():
  name = f'loader_test_{next(_NUMBERS)}'
  seqio.TaskRegistry.add(
      name, source=seqio.FunctionDataSource(lambda split, shuffle_files: None, ['train']),
      output_features=tasks.OUTPUT_FEATURES)
  with pytest.raises(ValueError, match='FunctionDataSource, which has no random access'):
    loader.Loader(name, 2, PROCESSOR)


def test_bad_numbers_are_refused():
  with pytest.raises(ValueError, match='batch_size is 0'):
    loader.Loader(MIXTURE, 0, PROCESSOR)
  with pytest.raises(ValueError, match='prefetch 0'):
    make(prefetch=0)


def test_waiting_is_counted_and_reading_ahead_makes_it_vanish():

  class Slow(memory_fixture.InMemory):

    def __getitem__(self, i):
      time.sleep(0.02)
      return super().__getitem__(i)

  one = loader.Loader(register(Slow(ROBOT._rows, PROCESSOR)), 4, PROCESSOR, prefetch=2)
  next(one)
  waited = one.wait_seconds
  assert waited > 0.05
  time.sleep(1.0)  # The caller computes; two batches are read meanwhile.
  take(one, 2)
  assert one.wait_seconds - waited < waited


def test_batches_that_were_read_are_not_kept():
  with contextlib.closing(make(augmentation=images.Augmentation())) as one:
    batch = take(one, 20)[-1]
    size = sum(feature.nbytes for feature in batch.values())
    tracemalloc.start()
    try:
      held = []
      for _ in range(2):
        take(one, 20)
        held.append(tracemalloc.get_traced_memory()[0])
    finally:
      tracemalloc.stop()
  # What is read ahead comes and goes.
  assert abs(held[1] - held[0]) < 10 * size, held


def test_defaults_are_this_process():
  one = loader.Loader(MIXTURE, 8, PROCESSOR)
  assert next(one)['source'].shape == (8, 1)
  one.close()


def test_the_state_names_everything_that_decides_the_order():
  assert set(make().state()) == {
      'step', 'seed', 'batch_size', 'split', 'mixture', 'sources', 'processor', 'augmentation'}
