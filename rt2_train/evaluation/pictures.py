"""Pictures of a run: what the batches held, how it learnt, and what the arm did.

All are drawn for a README: 1200 pixels wide, one palette, every colour explained where it is used.
"""

from collections.abc import Iterable, Mapping, Sequence
import json
import os
import pathlib
import textwrap
from typing import Any

import matplotlib.backends.backend_agg
import matplotlib.figure
import matplotlib.patheffects
import matplotlib.ticker
import numpy as np

from rt2_train import processor as processor_lib
from rt2_train import run_files
from rt2_train import sequences
from rt2_train.evaluation import episodes as episodes_lib

_WIDTH_INCHES, _DPI = 8.0, 150
_INK, _FAINT, _GRID = '#22313f', '#7b8a97', '#e4e9ed'
# Told apart by the colour-blind too (Okabe and Ito), strongest first.
_PALETTE = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#8c6d31', '#6a4c93')
# What evaluators of a run are called, and how their points are drawn (training: a line).
_TRAIN = 'train'
_HELD_OUT = {
    'training_eval': {'linestyle': '', 'marker': 'o', 'markersize': 4, 'markerfacecolor': 'white'},
    'inference_eval': {'linestyle': '', 'marker': 'D', 'markersize': 4, 'markerfacecolor': 'white'},
}
_OUTCOMES = {'success': '#009e73', 'reached': '#e69f00', 'missed': '#d1495b'}


def curves(path: str, runs: Mapping[str, str]) -> None:
  """Loss and token accuracy of every source over the steps, runs side by side on the same scales.

  Args:
    path: PNG to write.
    runs: heading -> MODEL_DIR of a run, in the order of the columns.

  Raises:
    FileNotFoundError: a run has written no metrics.
    ValueError: a run has no metrics per source.
  """
  series = {run: _read_metrics(model_dir) for run, model_dir in runs.items()}
  for run, model_dir in runs.items():
    if not any(metric == 'loss' for metric, *_ in series[run]):
      raise ValueError(f'{path}: {model_dir} has no loss per source, only totals; nothing to draw')
  colors = _colors({source for run in series.values() for _, source, _ in run})
  figure = _figure(4.8)
  grid = figure.subplots(2, len(runs), sharey='row', sharex='col', squeeze=False)
  figure.subplots_adjust(left=0.08, right=0.982, top=0.825, bottom=0.085, wspace=0.08, hspace=0.12)
  for column, run in enumerate(runs):
    for axes, metric in zip(grid[:, column], ('loss', 'accuracy')):
      for (name, source, evaluator), (steps, values) in sorted(series[run].items()):
        if name == metric:
          style = {'linewidth': 1.6} if evaluator == _TRAIN else _HELD_OUT[evaluator]
          axes.plot(steps, values, color=colors[source], **style)
      _plain(axes)
    grid[0, column].set_title(run, loc='left', fontsize=10, fontweight='bold', color=_INK)
    grid[0, column].set_yscale('log')
    grid[0, column].yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    grid[1, column].set_ylim(0, 1.02)
    grid[1, column].yaxis.set_major_formatter('{x:.0%}')
    grid[1, column].set_xlabel('step', fontsize=8, color=_FAINT, labelpad=1)
    grid[1, column].xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
  grid[0, 0].yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
  grid[0, 0].yaxis.set_major_formatter('{x:g}')
  figure.align_ylabels(grid[:, 0])
  grid[0, 0].set_ylabel('loss per target token', fontsize=8.5, color=_INK)
  grid[1, 0].set_ylabel('accuracy', fontsize=8.5, color=_INK)
  _legend(figure, colors, 'source:')
  note = 'line: training batches'
  drawn = {evaluator for run in series.values() for _, _, evaluator in run}
  notes = {
      'training_eval': '○ held-out data',
      'inference_eval': '◇ held-out questions, answered freely',
  }
  note = '    '.join([note, *(text for name, text in notes.items() if name in drawn)])
  figure.text(0.018, 1 - 0.4 / figure.get_figheight(), note, fontsize=8, color=_FAINT, va='center')
  _save(figure, path)


def _read_metrics(model_dir: str) -> dict[tuple[str, str, str], tuple[list[int], list[float]]]:
  """(metric, source, evaluator) -> steps and values, out of the JSON lines of a run."""
  train = os.path.join(model_dir, 'train-metrics.jsonl')
  if not os.path.exists(train):
    raise FileNotFoundError(f'{train} is missing: no run has trained in {model_dir}')
  series = {}
  for line in _json_lines(train):
    for name, value in line.items():
      metric, _, source = name.partition('/')
      if source and metric in ('loss', 'accuracy'):
        _append(series, (metric, source, _TRAIN), line['step'], value)
  for evaluator in _HELD_OUT:
    for file in sorted(pathlib.Path(model_dir, evaluator).glob('*-metrics.jsonl')):
      source = file.name.removesuffix('-metrics.jsonl')
      # The mean over all sources says nothing about any of them.
      for line in _json_lines(file) if source != 'all' else ():
        for metric in {'loss', 'accuracy'} & set(line):
          _append(series, (metric, source, evaluator), line['step'], line[metric])
  return series


def _json_lines(path: str | pathlib.Path) -> list[dict[str, Any]]:
  with open(path, encoding='utf-8') as file:
    return [json.loads(line) for line in file]


def _append(series: dict, key: tuple[str, str, str], step: int, value: float) -> None:
  steps, values = series.setdefault(key, ([], []))
  steps.append(step)
  values.append(value)


def rollouts(
    path: str,
    episodes: Sequence[episodes_lib.Episode],
    *,
    suites: Sequence[str] = ('seen', 'unseen'),
    per_suite: int = 3,
    frames: int = 7,
) -> None:
  """Film strips of the first episodes of each suite; the first, so that nothing is hand-picked.

  A strip runs from the first frame to the last; over the last one lies the gripper's path, framed
  in the colour of the outcome.

  Raises:
    ValueError: a suite has no filmed episode.
  """
  played = episodes_lib.by_suite(episodes)
  strips = {
      suite: [e for e in played.get(suite, []) if e.film_PxHxWx3 is not None][:per_suite]
      for suite in suites
  }
  for suite, filmed in strips.items():
    if not filmed:
      raise ValueError(f'{path}: no episode of suite {suite!r} was filmed; set num_films >= 1')
  frame_inches = (_WIDTH_INCHES - 0.3) / frames
  heights = [h for filmed in strips.values() for h in (0.36, *[frame_inches + 0.2] * len(filmed))]
  figure = _figure(0.36 + sum(heights) + 0.1)
  grid = figure.add_gridspec(
      len(heights), frames, height_ratios=heights, left=0.018, right=0.982, wspace=0.04, hspace=0,
      top=1 - 0.36 / figure.get_figheight(), bottom=0.1 / figure.get_figheight(),
  )
  _legend(figure, _OUTCOMES, 'the path of the arm, and how the episode ended:')
  row = 0
  for suite, filmed in strips.items():
    _heading(figure, grid[row, :], f'{suite} objects', _rates(played[suite]))
    for i, episode in enumerate(filmed, 1):
      _strip(figure, [grid[row + i, k] for k in range(frames)], episode)
    row += 1 + len(filmed)
  _save(figure, path)


def _rates(episodes: Sequence[episodes_lib.Episode]) -> str:
  summary = episodes_lib.summarize(episodes)
  return (
      f'{summary["n"]} episodes: success {summary["success"]:.0%}, reached {summary["reach"]:.0%}, '
      f'nearest is the named object {summary["nearest_is_target"]:.0%}'
  )


def _strip(
    figure: matplotlib.figure.Figure, cells: Sequence[Any], episode: episodes_lib.Episode
) -> None:
  outcome = 'success' if episode.success else 'reached' if episode.reach else 'missed'
  color = _OUTCOMES[outcome]
  bold = {'fontweight': 'bold', 'pad': 3}
  film = episode.film_PxHxWx3
  shown = np.unique(np.linspace(0, len(film) - 1, len(cells)).round().astype(int))
  for k, index in enumerate(shown):
    last = k == len(shown) - 1
    axes = figure.add_subplot(cells[k])
    _picture(axes, film[index], color if last else None)
    if k == 0:
      axes.set_title(episode.instruction, loc='left', fontsize=9, color=_INK, **bold)
    else:
      axes.set_title(f'step {index}', loc='right', fontsize=6.5, color=_FAINT, pad=3)
    if last:
      axes.set_title(outcome, loc='right', fontsize=8, color=color, **bold)
      height, width = film.shape[1:3]
      x, y = episode.path_Px2.T * [[width], [height]] - 0.5
      halo = [matplotlib.patheffects.withStroke(linewidth=3.2, foreground='white')]
      axes.plot(x, y, color=color, linewidth=1.6, path_effects=halo, solid_capstyle='round')
      axes.plot(x[0], y[0], 'o', markersize=4, color='white', markeredgecolor=color)
      axes.plot(x[-1], y[-1], 'o', markersize=4.5, color=color, markeredgecolor='white')


def mixture(
    path: str,
    batches: Sequence[Mapping[str, np.ndarray]],
    *,
    sources: Mapping[int, str],
    shares: Mapping[str, float],
    processor: processor_lib.Processor,
    per_source: int = 3,
) -> None:
  """What the batches held: each source's share of every batch, and examples as the model got them.

  Args:
    path: PNG to write.
    batches: training batches, as the loader gives them.
    sources: the number in a row's `source` -> name of the source.
    shares: name of the source -> the share the mixture asks for.
    processor: reads the tokens back.
    per_source: examples drawn per source.

  Raises:
    ValueError: a row comes from a source that `sources` or `shares` does not name.
  """
  rows = [np.ravel(batch['source']) for batch in batches]
  strange = set(np.concatenate(rows).tolist()) - set(sources)
  if strange or set(sources.values()) != set(shares):
    raise ValueError(
        f'{path}: batches hold sources {sorted(strange) or sorted(sources.values())}, the mixture '
        f'names {sorted(shares)}; give the sources and shares of the same mixture'
    )
  colors = _colors(shares)
  hashes = {name: number for number, name in sources.items()}
  held = {name: np.array([np.mean(row == hashes[name]) for row in rows]) for name in colors}
  bars_inches, head_inches, example_inches = 1.7, 0.36, 0.86
  figure = _figure(0.4 + bars_inches + 0.5 + len(colors) * (head_inches + example_inches) + 0.1)
  tall = figure.get_figheight()
  bars = figure.add_axes((0.06, 1 - (0.4 + bars_inches) / tall, 0.922, bars_inches / tall))
  _bars(bars, held, shares, colors)
  grid = figure.add_gridspec(
      2 * len(colors), 1, height_ratios=[head_inches, example_inches] * len(colors), hspace=0,
      left=0.018, right=0.982, top=1 - (0.4 + bars_inches + 0.5) / tall, bottom=0.1 / tall,
  )
  for i, (name, color) in enumerate(colors.items()):
    realised = held[name].mean()
    note = f'asked {shares[name]:.1%}, held {realised:.1%}'
    _heading(figure, grid[2 * i], name, note, color)
    examples = _examples(batches, hashes[name], per_source)
    cells = grid[2 * i + 1].subgridspec(1, per_source, wspace=0.04)
    for k, (image, inputs, targets) in enumerate(examples):
      _example(figure, cells[k], image, inputs, targets, processor, color)
  _save(figure, path)


def _bars(
    axes: Any,
    held: Mapping[str, np.ndarray],
    shares: Mapping[str, float],
    colors: Mapping[str, str],
) -> None:
  number = np.arange(len(next(iter(held.values()))))
  bottom, asked = np.zeros(len(number)), 0.0
  for name, color in colors.items():
    axes.bar(number, held[name], bottom=bottom, color=color, width=0.86, linewidth=0)
    bottom, asked = bottom + held[name], asked + shares[name]
    if asked < 1 - 1e-9:
      axes.axhline(asked, color=_INK, linewidth=1.1, linestyle=(0, (5, 2)))
  axes.set(xlim=(-0.6, len(number) - 0.4), ylim=(0, 1), yticks=[0, 0.25, 0.5, 0.75, 1])
  axes.yaxis.set_major_formatter('{x:.0%}')
  axes.set_xlabel('batch', fontsize=8, color=_FAINT, labelpad=1)
  axes.set_title(
      'share of each source in every batch; dashed: what the mixture asks for',
      loc='left', fontsize=9.5, fontweight='bold', color=_INK,
  )
  _plain(axes)


def _examples(batches: Sequence[Mapping[str, np.ndarray]], source: int, count: int) -> list[tuple]:
  """The first `count` examples (image or None, input ids, target ids) of one source."""
  found = []
  for batch in batches:
    inputs_BxL = sequences.inputs_of(batch)
    answers_BxT = batch['decoder_target_tokens'] * batch['decoder_loss_weights']
    for row in np.flatnonzero(np.ravel(batch['source']) == source):
      image = batch['images'][row][0] if batch['image_mask'][row][0] else None
      found.append((image, inputs_BxL[row], answers_BxT[row]))
      if len(found) == count:
        return found
  return found


def _example(
    figure: matplotlib.figure.Figure, cell: Any, image: np.ndarray | None, inputs: np.ndarray,
    targets: np.ndarray, processor: processor_lib.Processor, color: str,
) -> None:
  left, right = cell.subgridspec(1, 2, width_ratios=[1, 1.95], wspace=0.04)
  if image is not None:
    _picture(figure.add_subplot(left), image, None)
  axes = figure.add_subplot(right)
  axes.axis('off')
  decode = processor.vocabulary.decode
  prompt, answer = (
      textwrap.fill(decode(ids.tolist()), width, max_lines=3, placeholder=' …')
      for ids, width in ((inputs, 32), (targets, 23))
  )
  style = {'va': 'top', 'linespacing': 1.25, 'transform': axes.transAxes}
  axes.text(0.01, 1, prompt, fontsize=7, color=_INK, **style)
  # Six lines of text fill the height; the answer follows its prompt.
  below = 1 - 0.165 * (prompt.count('\n') + 1) - 0.04
  axes.text(0.01, below, answer, fontsize=7.5, color=color, fontweight='bold', **style)


def _figure(height_inches: float) -> matplotlib.figure.Figure:
  size = (_WIDTH_INCHES, height_inches)
  figure = matplotlib.figure.Figure(figsize=size, dpi=_DPI, facecolor='white')
  # The Agg canvas needs no display, and no global state as pyplot does.
  matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
  return figure


def _colors(names: Iterable[str]) -> dict[str, str]:
  """A colour per source, the same in every picture of one recipe: by order of name."""
  return {name: _PALETTE[i % len(_PALETTE)] for i, name in enumerate(sorted(names))}


def _legend(figure: matplotlib.figure.Figure, colors: Mapping[str, str], title: str) -> None:
  """One line at the top left: a title, then each name in its colour."""
  inches = figure.get_figheight()
  y = 1 - 0.2 / inches
  text = figure.text(0.018, y, title, fontsize=8.5, color=_FAINT, va='center')
  for name, color in colors.items():
    x = _right_of(text, figure.transFigure) + 0.014
    style = {'fontsize': 8.5, 'fontweight': 'bold', 'color': color, 'va': 'center'}
    text = figure.text(x, y, f'● {name}', **style)


def _heading(
    figure: matplotlib.figure.Figure, cell: Any, title: str, note: str, color: str = _INK
) -> None:
  axes = figure.add_subplot(cell)
  axes.axis('off')
  place = {'va': 'center', 'transform': axes.transAxes}
  text = axes.text(0, 0.35, title, fontsize=10, fontweight='bold', color=color, **place)
  x = _right_of(text, axes.transAxes) + 0.015
  axes.text(x, 0.35, note, fontsize=8, color=_FAINT, **place)


def _right_of(text: Any, transform: Any) -> float:
  """Where a text ends, in the coordinates of `transform`."""
  extent = text.get_window_extent(text.get_figure().canvas.get_renderer())
  return extent.transformed(transform.inverted()).x1


def _picture(axes: Any, image: np.ndarray, frame_color: str | None) -> None:
  # Small frames are shown as the pixels they are.
  axes.imshow(image, interpolation='nearest')
  height, width = image.shape[:2]
  # A path may leave the frame; the picture must not grow with it.
  axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
  axes.set_anchor('SW')
  for spine in axes.spines.values():
    spine.set(visible=frame_color is not None, color=frame_color, linewidth=2.5)


def _plain(axes: Any) -> None:
  axes.spines[['top', 'right']].set_visible(False)
  axes.spines[['left', 'bottom']].set_color(_GRID)
  axes.tick_params(which='both', labelsize=8, colors=_FAINT, length=0)
  axes.minorticks_off()
  axes.grid(axis='y', color=_GRID, linewidth=0.8)
  axes.set_axisbelow(True)


def _save(figure: matplotlib.figure.Figure, path: str) -> None:
  with run_files.replacing(path) as partial:
    figure.savefig(partial, format='png', dpi=_DPI)
