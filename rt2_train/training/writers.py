"""Where metrics go: console, JSON lines and TensorBoard, laid out as T5X does, without TensorFlow.

  MODEL_DIR/train/                        TensorBoard events
  MODEL_DIR/train-metrics.jsonl           {"step": 100, "loss": ...} per line
  MODEL_DIR/training_eval/<task>/         and <task>-metrics.jsonl beside it; so for every evaluator

A resumed run appends: lines of steps that it will write again are taken out first.
"""

from collections.abc import Mapping
import json
import os
import time
from typing import Any

from absl import logging
from tensorboardX import event_file_writer
from tensorboardX.proto import event_pb2
from tensorboardX.proto import summary_pb2

from rt2_train import run_files

# A line of the console has room for what people watch; the files have everything.
_NOT_ON_CONSOLE = (
    'timing/steps', 'timing/seconds', 'timing/seqs_per_second_per_core', 'timing/tokens', 'tokens/',
    'cross_ent', 'z_loss', 'non_padding', 'loss_per_', 'memory/open_files',
)  # pyformat: disable


class MetricWriter:
  """Writes the metrics of one name, such as 'train' or 'training_eval/robot'."""

  def __init__(self, model_dir: str, name: str, resume_step: int):
    """Opens the files of `name` and drops what was written for steps after `resume_step`."""
    self.path = os.path.join(model_dir, f'{name}-metrics.jsonl')
    self._name, self._folder = name, os.path.join(model_dir, name)
    os.makedirs(self._folder, exist_ok=True)
    _drop_after(self.path, resume_step)
    self._file = open(self.path, 'a', encoding='utf-8')
    # Of tensorboardX's writers the one without a thread, in which a full disk would end unseen and
    # leave the run waiting.
    self._events = event_file_writer.EventsWriter(os.path.join(self._folder, 'events'))
    # TensorBoard hides what other event files hold from this step on.
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add_event(resume_step + 1, session_log=start)

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes one line and one point per metric."""
    line = json.dumps({'step': step, **metrics})
    with run_files.naming_full_disk(self.path):
      self._file.write(line + '\n')
      self._file.flush()
    values = [
        summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()
    ]
    self._add_event(step, summary=summary_pb2.Summary(value=values))
    shown = '  '.join(
        f'{name} {value:.4g}'
        for name, value in metrics.items()
        if not name.startswith(_NOT_ON_CONSOLE)
    )
    logging.info('%s step %d: %s', self._name, step, shown)

  def close(self) -> None:
    with run_files.naming_full_disk(self.path):
      self._file.close()
    with run_files.naming_full_disk(self._folder):
      self._events.close()

  def _add_event(self, step: int, **content: Any) -> None:
    with run_files.naming_full_disk(self._folder):
      self._events.write_event(event_pb2.Event(wall_time=time.time(), step=step, **content))
      self._events.flush()


class MetricWriters:
  """One writer per name, opened when it is first written to; does nothing unless `active`."""

  def __init__(self, model_dir: str, resume_step: int, active: bool = True):
    self._model_dir, self._resume_step, self._active = model_dir, resume_step, active
    self._writers: dict[str, MetricWriter] = {}

  def write(self, name: str, step: int, metrics: Mapping[str, float]) -> None:
    if not self._active:
      return
    if name not in self._writers:
      self._writers[name] = MetricWriter(self._model_dir, name, self._resume_step)
    self._writers[name].write(step, metrics)

  def close(self) -> None:
    for writer in self._writers.values():
      writer.close()


def _drop_after(path: str, step: int) -> None:
  """Keeps the lines of steps up to `step`; a line cut off by a crash is dropped too."""
  if not os.path.exists(path):
    return
  kept = []
  with open(path, encoding='utf-8') as file:
    for line in file:
      if line.endswith('\n') and json.loads(line)['step'] <= step:
        kept.append(line)
  run_files.write(path, ''.join(kept))
