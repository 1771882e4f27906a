"""What a run writes down for people, beside metrics and checkpoints, in MODEL_DIR:

  config.gin          the resolved configuration
  model-info.txt      every parameter: shape, logical axes, sharding, bytes per device
  mixtures.txt        what batches hold, by source
  data_changes.jsonl  what ALLOW_DATA_CHANGE let pass, and when
  summary.json        how the run ended; T5X has no such file
"""

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any

from absl import logging

from rt2_train import gin_files
from rt2_train import run_files

_SUMMARY = 'summary.json'


class Records:
  """The files of one run."""

  def __init__(self, model_dir: str, active: bool = True):
    """`active` says whether this process writes them."""
    self._directory, self._active = model_dir, active

  def write_start(self, parameters: str, mixture: Sequence[Mapping[str, Any]]) -> None:
    """Writes what is known before the first step: a table of parameters, the loader's table."""
    self._write('config.gin', gin_files.resolved())
    self._write('model-info.txt', parameters)
    self.write_mixture(mixture)

  def write_mixture(self, mixture: Sequence[Mapping[str, Any]]) -> None:
    self._write('mixtures.txt', mixture_table(mixture))

  def add_changes(self, step: int, changes: Sequence[str]) -> None:
    """Records that the run went on at `step` although its data changed."""
    if not changes:
      return
    logging.warning(
        'changed since step %d, as ALLOW_DATA_CHANGE says: %s', step, '; '.join(changes))
    if self._active:
      path = os.path.join(self._directory, 'data_changes.jsonl')
      with run_files.naming_full_disk(path), open(path, 'a', encoding='utf-8') as file:
        file.write(json.dumps({'step': step, 'changes': list(changes)}) + '\n')

  def write_summary(self, summary: Mapping[str, Any]) -> None:
    self._write(_SUMMARY, json.dumps(summary, indent=2) + '\n')

  def read_summary(self) -> dict[str, Any]:
    """The summary of a run that has ended; empty if it was killed before it was written."""
    path = os.path.join(self._directory, _SUMMARY)
    if not os.path.exists(path):
      return {}
    with open(path, encoding='utf-8') as file:
      return json.load(file)

  def _write(self, name: str, text: str) -> None:
    if self._active:
      run_files.write(os.path.join(self._directory, name), text)


def ending(model_dir: str, summary: Mapping[str, Any]) -> str:
  """What a person wants to know when a run has ended, in a few lines."""
  goodput = summary['goodput']
  parts = {name: seconds for name, seconds in goodput['seconds'].items() if seconds >= 0.5}
  shares = ', '.join(f'{name} {seconds / goodput["wall_seconds"]:.1%}'
                     for name, seconds in sorted(parts.items(), key=lambda part: -part[1]))
  sources = sorted(name.partition('/')[2] for name in summary['final'] if name.startswith('loss/'))
  learnt = ''.join(
      f'\n  {source:20} loss {summary["final"][f"loss/{source}"]:.4g}, '
      f'token accuracy {summary["final"][f"accuracy/{source}"]:.4g}' for source in sources)
  said = 'trained' if summary['finished'] else 'told to stop; the same command goes on'
  return (
      f'{said}: {model_dir} is at step {summary["steps"]}{learnt}\n'
      f'  {summary["examples_per_second"]:.4g} examples/s, waiting for data '
      f'{summary["data_wait_share"]:.2%} of the time, {summary["peak_rss_gib"]:.1f} GiB\n'
      f'  wall time: {shares}\n'
      f'  python -m tools.curves {model_dir} draws loss and accuracy')


def mixture_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """The loader's table as aligned text, a source per line."""
  columns = list(rows[0])
  cell = lambda value: f'{value:.4f}' if isinstance(value, float) else str(value)
  lines = [columns, *([cell(row[column]) for column in columns] for row in rows)]
  widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
  pad = lambda line: '  '.join(text.ljust(width) for text, width in zip(line, widths)).rstrip()
  return ''.join(pad(line) + '\n' for line in lines)
