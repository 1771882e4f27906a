"""Records of closed-loop episodes: what each one came to, on disk and as rates.

Shape suffixes: P points of a path, H and W the frame's height and width.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import io
import json
import os
from typing import Any

import numpy as np

from rt2_train import run_files
from rt2_train.evaluation import statistics

MEASURES = ('success', 'reach', 'nearest_is_target')
_EPISODES = 'episodes.jsonl'
_FILMS = 'films.npz'


@dataclasses.dataclass(frozen=True)
class Episode:
  """What one episode came to.

  Attributes:
    suite: name of the suite it belongs to; with the seed it says which scene it was.
    seed: seed of the environment.
    instruction: what the policy was told.
    success: the task was done when the episode ended.
    reach: the arm ended at the named object.
    nearest_is_target: of all objects, the named one was nearest to the arm at the end.
    distance: from the arm to the named object at the end, in table widths.
    steps: actions taken.
    stopped_by: 'policy' (it said terminate), 'limit' (out of steps) or 'environment'.
    path_Px2: float32; where the gripper was before, between and after the steps, in shares of the
      frame's width and height.
    film_PxHxWx3: uint8; the frame at each point of the path, or None when it was not filmed.
    plans: what the policy said it would do, in order, each once for as long as it stayed.
    plan_due: share of steps at which it said what was to be done next; None when it was not asked.
  """

  suite: str
  seed: int
  instruction: str
  success: bool
  reach: bool
  nearest_is_target: bool
  distance: float
  steps: int
  stopped_by: str
  path_Px2: np.ndarray
  film_PxHxWx3: np.ndarray | None = None
  plans: tuple[str, ...] = ()
  plan_due: float | None = None


def summarize(episodes: Sequence[Episode]) -> dict[str, Any]:
  """The rates of one suite, each with its Wilson 95 % interval, and their number `n`.

  Raises:
    ValueError: there is no episode.
  """
  if not episodes:
    raise ValueError('summary: a suite without episodes; give it at least one seed')
  summary = {'n': len(episodes)}
  for measure in MEASURES:
    count = sum(getattr(episode, measure) for episode in episodes)
    summary[measure] = count / len(episodes)
    summary[f'{measure}_interval'] = list(statistics.wilson(count, len(episodes)))
  summary['stopped_itself'] = float(np.mean([e.stopped_by == 'policy' for e in episodes]))
  summary['median_distance'] = float(np.median([e.distance for e in episodes]))
  summary['mean_steps'] = float(np.mean([e.steps for e in episodes]))
  if planned := [episode.plan_due for episode in episodes if episode.plan_due is not None]:
    summary['plan_due'] = float(np.mean(planned))
  return summary


def save(directory: str, episodes: Iterable[Episode]) -> None:
  """Writes episodes.jsonl, a line per episode, and films.npz with the frames of the filmed ones."""
  lines, films = [], {}
  for episode in episodes:
    fields = {f.name: getattr(episode, f.name) for f in dataclasses.fields(episode)}
    film = fields.pop('film_PxHxWx3')
    if film is not None:
      films[_film_name(fields)] = film
    lines.append(json.dumps({**fields, 'path_Px2': episode.path_Px2.tolist()}))
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **films)
  # Episodes come last: whoever finds them finds their films.
  run_files.write(os.path.join(directory, _FILMS), buffer.getvalue())
  run_files.write(os.path.join(directory, _EPISODES), ''.join(f'{line}\n' for line in lines))


def load(directory: str) -> list[Episode]:
  """The episodes that `save` wrote, films included.

  Raises:
    FileNotFoundError: nothing was evaluated there.
  """
  path = os.path.join(directory, _EPISODES)
  if not os.path.exists(path):
    raise FileNotFoundError(f'{path} is missing: no closed-loop evaluation has finished there')
  episodes = []
  with open(path) as f, np.load(os.path.join(directory, _FILMS), allow_pickle=False) as films:
    for line in f:
      fields = json.loads(line)
      fields['path_Px2'] = np.array(fields['path_Px2'], np.float32)
      fields['plans'] = tuple(fields['plans'])
      name = _film_name(fields)
      episodes.append(Episode(**fields, film_PxHxWx3=films[name] if name in films else None))
  return episodes


def by_suite(episodes: Iterable[Episode]) -> dict[str, list[Episode]]:
  """The episodes of each suite, suites in the order of their first episode."""
  suites = {}
  for episode in episodes:
    suites.setdefault(episode.suite, []).append(episode)
  return suites


def _film_name(fields: dict[str, Any]) -> str:
  return f'{fields["suite"]}_{fields["seed"]}'
