"""Where metrics go: console, JSON lines and TensorBoard, laid out as T5X does, without TensorFlow.

  MODEL_DIR/train/                        TensorBoard events
  MODEL_DIR/train-metrics.jsonl           {"step": 100, "loss": ...} per line
  MODEL_DIR/training_eval/<task>/         and <task>-metrics.jsonl beside it; so for every evaluator

A resumed run appends: lines of steps that it will write again are taken out first.
"""

from collections.abc import Mapping
import json
import os

from absl import logging
import tensorboardX

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
    os.makedirs(os.path.dirname(self.path), exist_ok=True)
    self._name = name
    _drop_after(self.path, resume_step)
    self._file = open(self.path, 'a', encoding='utf-8')
    # TensorBoard hides what other event files hold from purge_step on.
    self._events = tensorboardX.SummaryWriter(
        os.path.join(model_dir, name), purge_step=resume_step + 1, flush_secs=10
    )

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes one line and one point per metric."""
    line = json.dumps({'step': step, **metrics})
    self._file.write(line + '\n')
    self._file.flush()
    for name, value in metrics.items():
      self._events.add_scalar(name, value, step)
    shown = '  '.join(
        f'{name} {value:.4g}'
        for name, value in metrics.items()
        if not name.startswith(_NOT_ON_CONSOLE)
    )
    logging.info('%s step %d: %s', self._name, step, shown)

  def close(self) -> None:
    self._file.close()
    self._events.close()


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
