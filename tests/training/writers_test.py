"""JSON lines and TensorBoard files, also after a crash."""

import glob
import json

from rt2_train.training import writers


def test_metrics_go_where_t5x_users_look(tmp_path):
  out = writers.MetricWriters(str(tmp_path), resume_step=0)
  out.write('train', 10, {'loss': 1.5})
  out.write('training_eval/robot', 10, {'loss': 2.0})
  out.close()
  assert (tmp_path / 'train-metrics.jsonl').read_text() == '{"step": 10, "loss": 1.5}\n'
  assert json.loads((tmp_path / 'training_eval' / 'robot-metrics.jsonl').read_text())['loss'] == 2.0
  assert glob.glob(str(tmp_path / 'train' / 'events.out.tfevents.*'))
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
