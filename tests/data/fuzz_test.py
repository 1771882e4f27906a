"""Whatever is done to a dataset, it is read correctly, refused by name, or skipped and counted.

Each case runs under a limit of time and of memory, many in a process of their own, so that a hang
or a crash is a failure with a number. To see one again, with its traceback:

  python -m tests.data.fuzz_test 1234
"""

import collections
import contextlib
import functools
import multiprocessing
import pathlib
import re
import resource
import shutil
import sys
import tempfile
import traceback

from google.protobuf import message as protobuf
import numpy as np
import pytest
import tensorflow as tf

from rt2_train import actions
from rt2_train.data import caption_files
from rt2_train.data import image_text_records
from rt2_train.data import object_files
from rt2_train.data import question_files
from rt2_train.data import rlds
from rt2_train.data import tfrecord
from tests.data import fuzz_datasets
from tests.data import fuzzing
from tests.data import rlds_fixture

NUM_CASES, NUM_SLOW_CASES = 330, 10_000
SECONDS, MEMORY = 30, 768 << 20  # Of one case; memory beyond what the process had.
LONGEST_MESSAGE = 2000
_PLACE = re.compile(
    r'(?:.* shard (\d+) (?:episode|record) (\d+) |.* (?=question|annotation|image))(.*)')


def open_dataset(layout: str, directory: pathlib.Path, **policy):
  space = actions.LANGUAGE_TABLE if layout == 'language_table' else actions.RT2
  processor = rlds_fixture.a_processor(space)
  if layout in fuzz_datasets.ROBOT:
    return rlds.RobotExamples(str(directory), 'train', processor, layout, **policy)
  if layout in fuzz_datasets.RECORDS:
    objective = {'caption_records': 'caption', 'vqa_records': 'answer'}[layout]
    return image_text_records.Records(
        str(directory / 'web.tfrecord-*'), processor, objective=objective, **policy)
  images = '{image_id}.jpg'
  reader, *names = {
      'vqa_json': (question_files.Vqa, 'questions.json', 'annotations.json', images),
      'text_vqa_json': (question_files.TextVqa, 'questions.json', images),
      'gqa_json': (question_files.Gqa, 'questions.json', images),
      'coco_json': (caption_files.CocoCaptions, 'captions.json', ''),
      'objects_json': (object_files.CocoObjects, 'instances.json', ''),
  }[layout]
  return reader(*(str(directory / name) for name in names), processor, **policy)


def place(example_id: str) -> tuple[int, int, str]:
  """(shard, record, row) of an example; files have no shard, and a row that says all."""
  shard, record, row = _PLACE.fullmatch(example_id).groups()
  return int(shard or 0), int(record or 0), row


def content(dataset, layout: str, i: int) -> tuple:
  """All that an example says, as what can be compared; raises what reading it raises."""
  example = dataset[i]
  arrays = tuple((key, value.dtype.str, value.shape, value.tobytes())
                 for key, value in sorted(example.items()))
  if hasattr(dataset, 'answers'):
    return arrays, dataset.answers(i)
  if layout not in fuzz_datasets.ROBOT:
    return (arrays,)
  step = dataset.step(i)
  return arrays, step.images, step.instruction, step.action.tobytes(), step.step, step.is_last


@functools.lru_cache(maxsize=None)
def sound_contents(layout: str) -> dict[tuple[int, int, str], tuple]:
  """What every example of the sound dataset says, by its place."""
  with tempfile.TemporaryDirectory() as directory:
    fuzzing.sound(layout).write(pathlib.Path(directory) / 'sound')
    dataset = open_dataset(layout, pathlib.Path(directory) / 'sound')
    return {place(dataset.example_id(i)): content(dataset, layout, i) for i in range(len(dataset))}


def check(number: int, directory: pathlib.Path) -> str:
  """Reads case `number`; returns 'read', 'skipped' or 'refused', or raises what is wrong."""
  case = fuzzing.case(number)
  case.write(directory)
  sound_contents(case.layout)  # Before memory is limited.
  with limited_memory():
    strict = opened_or_refused(case, directory, on_bad='error')
    assert not (strict and case.noticed), f'a fault is not noticed: {strict.report}'
    lenient = opened_or_refused(case, directory, on_bad='skip', max_bad_share=1)
    if not lenient:
      assert not strict, 'what on_bad="error" reads, "skip" refuses'
      return 'refused'
    faults = lenient.report['faults']
    assert bool(strict) == (not faults), f'read without a fault: {bool(strict)}, counted: {faults}'
    check_contents(case, lenient)
    check_counts(case, lenient)
  check_values_are_those_of_protobuf(case, directory)
  return 'read' if strict else 'skipped'


def opened_or_refused(case: fuzzing.Case, directory: pathlib.Path, **policy):
  """The dataset, or None where it is refused in the way a refusal must be."""
  try:
    return open_dataset(case.layout, directory, **policy)
  except (ValueError, OSError) as error:
    check_refusal(error, directory)
  return None


def check_refusal(error: Exception, directory: pathlib.Path):
  """One line of bearable length that says which dataset, and where in it."""
  message = str(error)
  assert '\n' not in message and len(message) <= LONGEST_MESSAGE, repr(message[:3000])
  names = (rf'{re.escape(str(directory))}', r'tabletop\S* ', r'web(/| shard )', r'[vg]qa question ',
           r'coco_captions annotation ', r'coco_objects image ',
           r'([vg]qa|coco_captions|coco_objects)(:| has)')
  assert re.search('|'.join(names), message), f'nothing is named: {error!r}'


def check_contents(case: fuzzing.Case, dataset):
  """Untouched records say what they said, in order, and none is missing."""
  sound = sound_contents(case.layout)
  shards = sorted(case.origins)
  places, seen = [], collections.Counter()
  for i in range(len(dataset)):
    at = shard, record, row = place(dataset.example_id(i))
    places.append((shard, record, int(row.split()[-1])) if shards else at)
    said = None
    try:
      said = content(dataset, case.layout, i)
    except ValueError as error:
      message = str(error)
      assert message.startswith(dataset.example_id(i) + ': ') and '\n' not in message, message
    if shards:
      origin = case.origins[shards[shard]][record:record + 1] or [None]
      origin = None if origin[0] is None else (shard, origin[0], row)
    else:
      origin = at if row in case.untouched else None
    if origin is not None:
      assert said == sound[origin], f'{dataset.example_id(i)} says something else'
      seen[origin, record] += 1
  if shards:
    assert places == sorted(set(places)), 'the order of the records has changed'
    certain = [(record, (number, origin)) for number, name in enumerate(shards)
               for record, origin in enumerate(case.origins[name][:case.certain[name]])]
    expected = {(at, record) for record, origin in certain for at in sound if at[:2] == origin}
    assert expected <= set(seen), f'missing: {sorted(expected - set(seen))[:5]}'
  else:
    assert max(seen.values(), default=1) == 1, f'read twice: {seen.most_common(3)}'
    missing = case.untouched - {at[2] for at, _ in seen}
    assert not missing, f'missing: {sorted(missing)[:5]}'


def check_counts(case: fuzzing.Case, dataset):
  """Every row is an example, left out by the layout, or counted as lost."""
  report = dataset.report
  left_out = sum(report['left_out'].values())
  assert len(dataset) == report['examples']
  assert len(dataset) + left_out + report['lost_steps'] == report['steps'], report
  robot = case.layout in fuzz_datasets.ROBOT
  records = report['episodes' if robot else 'records']
  lost = report['lost_episodes' if robot else 'lost_records']
  assert sum(report['faults'].values()) >= (report['lost_steps'] > 0) + (lost > 0), report
  if case.origins:
    read = {place(dataset.example_id(i))[:2] for i in range(len(dataset))}
    emptied = records - lost - len(read)
    assert 0 <= emptied <= left_out + report['lost_steps'], report
  for reason, messages in report['first_faults'].items():
    for message in messages:
      assert '\n' not in message and len(message) <= LONGEST_MESSAGE, (reason, message[:3000])


def check_values_are_those_of_protobuf(case: fuzzing.Case, directory: pathlib.Path):
  """Where a changed record is read at all, its values are those that protobuf finds in it."""
  keys = set(fuzz_datasets.read_keys(case.layout)) if case.origins else ()
  for name, origins in case.origins.items():
    with contextlib.suppress(tfrecord.CorruptFileError):
      for origin, record in zip(origins, tfrecord.records(str(directory / name))):
        if origin is not None or not record.intact:
          continue
        try:
          ours = tfrecord.example(record.payload, keys)
          theirs = tf.train.Example.FromString(record.payload).features.feature
        except (ValueError, protobuf.DecodeError):
          continue
        # An entry that holds more than key and value is unknown to protobuf, and empty to us.
        ours = {key: feature for key, feature in ours.items() if feature.kind != 'empty'}
        kinds = {key: theirs[key].WhichOneof('kind') for key in keys & set(theirs)}
        assert set(ours) == {key for key, kind in kinds.items() if kind}, f'{set(ours)} of {name}'
        for key, feature in ours.items():
          values = getattr(theirs[key], kinds[key]).value
          if feature.kind == 'bytes':
            assert [record.payload[a:z] for a, z in feature.spans] == [*values], f'{key} of {name}'
          else:
            theirs_N = np.array(values, feature.values.dtype)
            assert feature.values.tobytes() == theirs_N.tobytes(), f'{key} of {name}'


@contextlib.contextmanager
def limited_memory():
  """Lets the process take `MEMORY` bytes more than it has."""
  with open('/proc/self/statm', encoding='ascii') as file:
    has = int(file.read().split()[0]) * resource.getpagesize()
  before = resource.getrlimit(resource.RLIMIT_AS)
  resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_AS, before)


def _run(numbers, directory: pathlib.Path, results):
  for number in numbers:
    results.send((number, 'started', ''))
    try:
      results.send((number, check(number, directory / str(number)), ''))
    except BaseException:
      results.send((number, 'failed', traceback.format_exc()))
    shutil.rmtree(directory / str(number), ignore_errors=True)


def run(numbers, directory: pathlib.Path) -> tuple[collections.Counter, list[str]]:
  """How many cases were read, skipped and refused, and what went wrong with the others."""
  context = multiprocessing.get_context('fork')
  outcomes, failures, left = collections.Counter(), [], list(numbers)
  while left:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(left, directory, sender))
    process.start()
    sender.close()
    number, outcome = left[0], 'started'
    while left:
      if not receiver.poll(SECONDS):
        process.kill()
        outcome, said = 'failed', f'hangs for {SECONDS} s'
      else:
        try:
          number, outcome, said = receiver.recv()
        except EOFError:
          process.join()
          outcome, said = 'failed', f'the process ended with {process.exitcode}'
      if outcome == 'started':
        continue
      left.remove(number)
      outcomes[outcome] += 1
      if outcome == 'failed':
        failures.append(f'case {number} ({"; ".join(fuzzing.case(number).said)}): {said}')
        if not said.startswith('Traceback'):
          break
    process.join()
  return outcomes, failures


@pytest.mark.filterwarnings('ignore:os.fork')  # JAX may be loaded; what is forked does not use it.
@pytest.mark.parametrize('num_cases', [
    NUM_CASES, pytest.param(NUM_SLOW_CASES, marks=pytest.mark.slow)])
@pytest.mark.parametrize('layout', fuzz_datasets.LAYOUTS)
def test_a_broken_dataset_is_read_refused_by_name_or_skipped_and_counted(
    layout, num_cases, tmp_path):
  sound_contents(layout)  # Before the processes fork, so that they need not make it again.
  numbers = [number for number in range(num_cases) if fuzzing.layout_of(number) == layout]
  outcomes, failures = run(numbers, tmp_path)
  print(f'{layout}: {dict(outcomes)}')
  assert not failures, f'{len(failures)} of {len(numbers)} cases\n' + '\n'.join(failures[:5])
  assert outcomes['read'] and outcomes['skipped'], outcomes


def test_a_case_is_the_same_every_time_it_is_made():
  for number in range(5, 45):
    first, second = fuzzing.case(number), fuzzing.case(number)
    assert (first.said, first.files, first.origins) == (second.said, second.files, second.origins)
    assert first.said


if __name__ == '__main__':
  for argument in sys.argv[1:]:
    print(f'case {argument}: {"; ".join(fuzzing.case(int(argument)).said)}')
    with tempfile.TemporaryDirectory() as parent:
      print(check(int(argument), pathlib.Path(parent) / 'case'))
