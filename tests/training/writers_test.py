"""JSON lines and TensorBoard files, also after a crash."""

import glob
import json
import struct

from tensorboardX.proto import event_pb2

from rt2_train.training import writers
from tests.training import subprocesses


def records_of(path):
  """The records of a TFRecord file: length, its checksum, bytes, theirs."""
  with open(path, 'rb') as file:
    while header := file.read(12):
      yield file.read(struct.unpack('Q', header[:8])[0])
      file.read(4)


def test_metrics_go_where_t5x_users_look(tmp_path):
  out = writers.MetricWriters(str(tmp_path), resume_step=0)
  out.write('train', 10, {'loss': 1.5})
  out.write('training_eval/robot', 10, {'loss': 2.0})
  out.close()
  assert (tmp_path / 'train-metrics.jsonl').read_text() == '{"step": 10, "loss": 1.5}\n'
  assert json.loads((tmp_path / 'training_eval' / 'robot-metrics.jsonl').read_text())['loss'] == 2.0
  [events] = glob.glob(str(tmp_path / 'train' / 'events.out.tfevents.*'))
  points = [
      (event.step, value.tag, value.simple_value)
      for event in map(event_pb2.Event.FromString, records_of(events))
      for value in event.summary.value
  ]
  assert points == [(10, 'loss', 1.5)]
  assert glob.glob(str(tmp_path / 'training_eval' / 'robot' / 'events.out.tfevents.*'))


def test_a_resumed_run_appends_and_never_repeats_a_step(tmp_path):
  first = writers.MetricWriters(str(tmp_path), resume_step=0)
  for step in (10, 20, 30):
    first.write('train', step, {'loss': float(step)})
  first.close()
  # The crash came while a line was being written, after the checkpoint of step 20.
  with open(tmp_path / 'train-metrics.jsonl', 'a', encoding='utf-8') as file:
    file.write('{"step": 4')
  second = writers.MetricWriters(str(tmp_path), resume_step=20)
  second.write('train', 30, {'loss': 3.0})
  second.close()
  read = [json.loads(line) for line in (tmp_path / 'train-metrics.jsonl').read_text().splitlines()]
  assert read == [{'step': 10, 'loss': 10.0}, {'step': 20, 'loss': 20.0}, {'step': 30, 'loss': 3.0}]


def test_only_the_first_process_writes(tmp_path):
  out = writers.MetricWriters(str(tmp_path), resume_step=0, active=False)
  out.write('train', 1, {'loss': 1.0})
  out.close()
  assert not list(tmp_path.iterdir())


@subprocesses.needs_a_disk
def test_a_full_disk_ends_in_an_error_that_names_the_file(tmp_path):
  process = subprocesses.on_a_disk_of(200_000, tmp_path, f"""
from rt2_train.training import writers
out = writers.MetricWriters({str(tmp_path)!r}, resume_step=0)
try:
  for step in range(1, 10_000):
    out.write('train', step, {{f'loss/source_{{i}}': 1.0 for i in range(20)}})
except OSError as error:
  print(error)
try:
  out.close()
except OSError as error:
  print(error)
""")
  # What was not written is tried again when files are closed.
  said = process.stdout.splitlines()
  assert len(said) == 2 and not process.stderr, (said, process.stderr)
  for line in said:
    assert line.startswith(f'[Errno 28] No space left on device: {tmp_path}/train'), line
    assert line.endswith(' cannot be written; make room there and start again'), line
