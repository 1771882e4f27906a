"""What a run came to: summary.json for programs, a table for people, and runs beside each other.

Rates are 0..1, intervals are Wilson's at 95 %. A file is whole or absent.
"""

from collections.abc import Mapping, Sequence
import itertools
import json
import os
from typing import Any

from rt2_train import run_files
from rt2_train.evaluation import episodes as episodes_lib
from rt2_train.evaluation import statistics

SUMMARY = 'summary.json'
ABLATION = 'ablation.json'
_LABELS = {'success': 'success', 'reach': 'reach', 'nearest_is_target': 'nearest is target'}
# Which sentence the three ablations of RT-2 (section 4.3) have to prove, and where it is read off.
_HEADLINES = (('unseen', 'nearest_is_target'), ('seen', 'success'))


def write_summary(
    run_dir: str,
    *,
    episodes: Sequence[episodes_lib.Episode],
    web: Mapping[str, float | None],
    offline: Mapping[str, Any],
    wall_seconds: float,
    peak_rss_gib: float,
) -> dict[str, Any]:
  """Writes summary.json into `run_dir` and returns it.

  Args:
    run_dir: directory of the run; made when missing.
    episodes: the episodes of all suites; 'seen', 'unseen' and 'unseen_only' in the demo.
    web: 'accuracy_before' and 'accuracy_after' robot training; None where there was no before.
    offline: measurements against held-out data, as the evaluator gave them.
    wall_seconds: time of the whole run.
    peak_rss_gib: largest resident memory of the run.

  Raises:
    ValueError: a share is outside 0..1 or a number is not finite; nothing is written then.
  """
  suites = episodes_lib.by_suite(episodes)
  summary = {suite: episodes_lib.summarize(played) for suite, played in suites.items()}
  if set(web) != {'accuracy_before', 'accuracy_after'}:
    raise ValueError(f'summary: web needs accuracy_before and accuracy_after, got {sorted(web)}')
  for name, value in web.items():
    if value is not None and not 0 <= value <= 1:
      raise ValueError(f'summary: web {name} is {value}; rates are shares, 0..1')
  summary['web'] = dict(web)
  summary['offline'] = dict(offline)
  summary['wall_seconds'] = float(wall_seconds)
  summary['peak_rss_gib'] = float(peak_rss_gib)
  os.makedirs(run_dir, exist_ok=True)
  write_json(os.path.join(run_dir, SUMMARY), summary)
  return summary


def write_ablation(path: str, summaries: Mapping[str, Mapping[str, Any]]) -> None:
  """Writes the summaries of several runs, by name, into one file."""
  write_json(path, summaries)


def read_summary(run_dir: str) -> dict[str, Any]:
  """The summary a run has written.

  Raises:
    FileNotFoundError: the run has not come to its end.
  """
  path = os.path.join(run_dir, SUMMARY)
  if not os.path.exists(path):
    raise FileNotFoundError(f'{path} is missing: the run has not been evaluated to its end')
  with open(path) as f:
    return json.load(f)


def table(title: str, summary: Mapping[str, Any]) -> str:
  """One run as text: a row per suite, then the web questions, then the offline measurements."""
  suites = {name: entry for name, entry in summary.items() if _is_suite(entry)}
  rows = [['', 'episodes', *(_LABELS[m] for m in episodes_lib.MEASURES), 'stopped itself']]
  for name, suite in suites.items():
    rows.append([
        _words(name), str(suite['n']), *(_rate(suite, m) for m in episodes_lib.MEASURES),
        f'{suite["stopped_itself"]:.2f}',
    ])
  lines = [title, '', *_align(rows), '']
  web = summary['web']
  lines.append(
      f'web questions answered: {_share(web["accuracy_before"])} before robot training, '
      f'{_share(web["accuracy_after"])} after'
  )
  offline = [[name, f'{value:.4g}'] for name, value in _flat(summary['offline'])]
  if offline:
    lines += ['', 'held-out data', *('  ' + line for line in _align(offline))]
  minutes, seconds = divmod(round(summary['wall_seconds']), 60)
  peak = summary['peak_rss_gib']
  lines += ['', f'took {minutes} min {seconds:02d} s, peak memory {peak:.1f} GiB']
  lines.append('rates with 95 % Wilson intervals')
  return '\n'.join(lines)


def ablation_table(
    summaries: Mapping[str, Mapping[str, Any]],
    episodes: Mapping[str, Sequence[episodes_lib.Episode]],
) -> str:
  """Runs beside each other, in the order given, and whether each step is more than luck.

  Args:
    summaries: name of the run -> its summary.
    episodes: name of the run -> its episodes, for the paired test.
  """
  suites = [k for k, v in next(iter(summaries.values())).items() if _is_suite(v)]
  rows = [['', *map(_words, summaries)]]
  for suite in suites:
    for measure in episodes_lib.MEASURES:
      rates = [_rate(summary[suite], measure) for summary in summaries.values()]
      rows.append([f'{_words(suite)}: {_LABELS[measure]}', *rates])
  after = [_share(summary['web']['accuracy_after']) for summary in summaries.values()]
  rows.append(['web questions after', *after])
  lines = _align(rows)
  for suite, measure in _HEADLINES:
    if suite in suites:
      steps = [
          _step(first, second, summaries, episodes, suite, measure)
          for first, second in itertools.pairwise(summaries)
      ]
      lines += ['', f'{_words(suite)}: {_LABELS[measure]}, step by step']
      lines += ['  ' + line for line in _align(steps)]
  lines += ['', 'rates with 95 % Wilson intervals, differences with 95 % Newcombe intervals,']
  lines += ['p of the exact McNemar test on the same episodes']
  return '\n'.join(lines)


def comparison(
    episodes: Mapping[str, Sequence[episodes_lib.Episode]]) -> dict[str, dict[str, Any]]:
  """Run -> suite -> rates, of runs that were tried in the same suites."""
  return {name: {suite: episodes_lib.summarize(played)
                 for suite, played in episodes_lib.by_suite(each).items()}
          for name, each in episodes.items()}


def comparison_table(
    title: str, episodes: Mapping[str, Sequence[episodes_lib.Episode]]) -> str:
  """Two runs or more beside each other: success in each suite, and how often their plans were due.

  Args:
    title: heads the table.
    episodes: name of the run -> its episodes.
  """
  summaries = comparison(episodes)
  suites = list(next(iter(summaries.values())))
  rows, steps = [['', *map(_words, summaries)]], []
  for suite in suites:
    rows.append([f'{_words(suite)}: success', *(
        _rate(summary[suite], 'success') for summary in summaries.values())])
    rows.append([f'{_words(suite)}: says what is due', *(
        _share(summary[suite].get('plan_due')) for summary in summaries.values())])
    for first, second in itertools.pairwise(summaries):
      step = _step(first, second, summaries, episodes, suite, 'success')
      steps.append([f'{_words(suite)}: {step[0]}', *step[1:]])
  return '\n'.join([title, '', *_align(rows), '', *_align(steps)])


def _step(
    first: str,
    second: str,
    summaries: Mapping[str, Mapping[str, Any]],
    episodes: Mapping[str, Sequence[episodes_lib.Episode]],
    suite: str,
    measure: str,
) -> list[str]:
  a, b = summaries[first][suite], summaries[second][suite]
  delta, (low, high) = statistics.difference(
      round(a[measure] * a['n']), a['n'], round(b[measure] * b['n']), b['n']
  )
  apart = statistics.intervals_apart(a[f'{measure}_interval'], b[f'{measure}_interval'])
  played_a, played_b = (episodes_lib.by_suite(episodes[name])[suite] for name in (first, second))
  if [e.seed for e in played_a] == [e.seed for e in played_b]:
    outcomes = [[getattr(e, measure) for e in played] for played in (played_a, played_b)]
    paired = f'p = {statistics.paired_p_value(*outcomes):.2g}'
  else:
    paired = 'other seeds, not paired'
  return [
      f'{_words(first)} -> {_words(second)}',
      f'{delta:+.2f} [{low:+.2f} {high:+.2f}]',
      'intervals apart' if apart else 'intervals overlap',
      paired,
  ]


def _is_suite(entry: Any) -> bool:
  return isinstance(entry, Mapping) and 'n' in entry


def _words(name: str) -> str:
  return name.replace('_', ' ')


def _rate(suite: Mapping[str, Any], measure: str) -> str:
  low, high = suite[f'{measure}_interval']
  return f'{suite[measure]:.2f} [{low:.2f} {high:.2f}]'


def _share(value: float | None) -> str:
  return 'none' if value is None else f'{value:.3f}'


def _flat(tree: Mapping[str, Any], prefix: str = '') -> list[tuple[str, float]]:
  leaves = []
  for name, value in tree.items():
    if isinstance(value, Mapping):
      leaves += _flat(value, f'{prefix}{name}/')
    elif isinstance(value, (int, float)):
      leaves.append((prefix + name, value))
  return leaves


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return ['   '.join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]


def write_json(path: str, value: Mapping[str, Any]) -> None:
  # NaN is no JSON: it fails here, before a file exists, not in whoever reads the file.
  text = json.dumps(value, indent=2, allow_nan=False) + '\n'
  run_files.write(path, text)
