"""RLDS datasets on disk -> steps, in physical units, by random access.

`RobotSteps` opens any TFDS directory by its layout (see `layouts`); any step costs one `pread` per
camera.

Shape suffixes: N steps, R rows of the index, D action dimensions.
"""

from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import re

import numpy as np

from rt2_train import actions
from rt2_train.data import episodes
from rt2_train.data import faults
from rt2_train.data import index
from rt2_train.data import layouts
from rt2_train.data import tfds_directory

_CHUNK = 1 << 16  # Steps whose actions are binned at a time.
_SPLIT = re.compile(r'([^\[\]]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?')
_SAME_GRIPPER = 0.01  # On its scale of -1 to 1.


@dataclasses.dataclass(frozen=True)
class Step:
  """One step of an episode, as every layout gives it.

  Attributes:
    images: encoded bytes per camera.
    instruction: never empty.
    action: float32 [D], physical units, in the order of the layout's action space; terminate 0
      stops and 1 goes on, gripper +1 closes and -1 opens.
    episode: 'split/shard/number in the shard', unique in the dataset.
    step: position in the episode.
    dataset: name of the dataset.
    is_last: whether the episode ends here.
  """

  images: tuple[bytes, ...]
  instruction: str
  action: np.ndarray
  episode: str
  step: int
  dataset: str
  is_last: bool


class RobotSteps:
  """The usable steps of one split of a TFDS directory, in the order of the shards.

  Attributes:
    layout: the Layout it was read with.
    action_NxD: float32; the actions of all steps.
    instruction_N: int32; ids into `instructions`.
    instructions: the distinct instructions of the split.
    plan_N: int32; ids into `plans`, where the layout names a plan.
    plans: the distinct plans of the split, '' among them where a step has none.
    episode_N: int64; the number of each step's episode, counted over the whole split.
    step_N: int32; the position of each step in its episode.
    note: what the whole split goes without, by reason, and this part of it; '' when nothing.
    fingerprint: changes when any row of the data changes; not with the place it lies in.
  """

  def __init__(
      self,
      data_dir: str,
      split: str = 'train',
      layout: str | layouts.Layout = 'fractal',
      index_dir: str | None = None,
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
      idle: Mapping[str, float] | None = None,
  ):
    """Opens the split, indexing it first if need be.

    Args:
      data_dir: directory with features.json, dataset_info.json and TFRecord shards.
      split: 'train', or a part of it by episodes: 'train[:95%]', 'train[95%:]', 'train[:10]'.
      layout: a name that `layouts.resolve` knows, or a Layout.
      index_dir: where the index goes; `.rt2_index` in `data_dir` when None.
      on_bad, max_bad_share: what broken data may do, see `faults.enforce`.
      idle: leaves out steps at which nothing happens: every motion is smaller than this much, given
        for each unit, such as {'m': 0.001, 'rad': 0.005}, the gripper does not change, and the
        episode does not stop. None keeps them, as the paper does.

    Raises:
      FileNotFoundError: a metadata file or a shard is missing.
      ValueError: the dataset lacks what the layout reads, is broken beyond the policy, or holds no
        usable step.
    """
    self.layout = layouts.resolve(layout)
    self._directory = directory = tfds_directory.open_directory(data_dir)
    match = _SPLIT.fullmatch(split)
    if not match:
      raise ValueError(f"split is {split!r}; it is a name, or a part such as 'train[:95%]'")
    whole, start, stop = match.groups()
    self.name, self._split = f'{directory.name}/{split}', whole
    if missing := self.layout.missing(directory.features):
      raise ValueError(
          f'{data_dir}/features.json has no {", ".join(missing)}, which layout '
          f'{self.layout.name!r} reads; choose another of {", ".join(layouts.LAYOUTS)}, or declare '
          'yours')
    shards = [index.Shard(path, records) for path, records in directory.shards(whole)]
    # A layout with plans keeps its name, and must not take turns with that without in one index.
    stem = f'{directory.name}-{directory.version}.{whole}.{self.layout.name}' + (
        '.plan' if self.layout.plan else '')
    self._index = index.open_index(
        f'{directory.name}/{whole}', shards,
        episodes.EpisodeReader(self.layout, directory.features),
        spec=self.layout.spec(directory.features),
        path=index.index_path(directory.path, index_dir, stem))
    faults.enforce(self._index.header, on_bad, max_bad_share)
    self.note = faults.note(self._index.header)
    if not len(self._index):
      raise ValueError(f'{self.name} has no usable step among {self._index.header["steps"]} '
                       f'({self.note})')
    columns = self._index.columns
    first = np.cumsum([0, *(shard.records for shard in shards)])
    episode_R = first[columns['file']] + columns['record']
    self._rows_N = self._part(episode_R, int(first[-1]), start, stop)
    self._idle_steps = 0
    if idle is not None:
      self._leave_out_idle(idle)
    self.episode_N = episode_R[self._rows_N]
    self.step_N = columns['step'][self._rows_N]
    self.action_NxD = columns['action'][self._rows_N]
    self.instruction_N, self.instructions = self._texts('instruction')
    if self.layout.plan:
      self.plan_N, self.plans = self._texts('plan')
    options = '' if idle is None else f' idle {sorted(idle.items())}'
    self.fingerprint = hashlib.sha256(
        f'{self._index.fingerprint} {start}:{stop}{options}'.encode()).hexdigest()

  def __len__(self) -> int:
    return len(self._rows_N)

  def step(self, i: int) -> Step:
    """The i-th step."""
    row = self._row(i)
    return Step(
        images=self.images(i),
        instruction=self.instructions[self.instruction_N[i]],
        action=self.action_NxD[i],
        episode=self.episode(i),
        step=int(self.step_N[i]),
        dataset=self._directory.name,
        is_last=bool(self._index.columns['is_last'][row]))

  def episode(self, i: int) -> str:
    """The episode of the i-th step: 'split/shard/number in the shard'."""
    row, columns = self._row(i), self._index.columns
    return f'{self._split}/{int(columns["file"][row]):05d}/{int(columns["record"][row])}'

  def images(self, i: int, history: int = 1) -> tuple[bytes, ...]:
    """The encoded images of the i-th step alone, or with those of the usable steps before it.

    Args:
      i: the step.
      history: how many steps; the oldest comes first, all cameras of a step together. Where the
        episode has fewer, its first is repeated. Steps that options left out count.
    """
    row, cameras = self._row(i), range(len(self.layout.images))
    if history == 1:
      return tuple(self._index.image(row, camera) for camera in cameras)
    first = int(self._first_R[row])
    rows = [max(row - back, first) for back in range(history - 1, -1, -1)]
    return tuple(self._index.image(each, camera) for each in rows for camera in cameras)

  def extra(self, key: str) -> np.ndarray:
    """float32 [N, ...]: what each step has under one of the layout's extra_keys."""
    return self._index.columns[episodes.EXTRA + key][self._rows_N]

  @property
  def all_instructions(self) -> index.Texts:
    """The distinct instructions of the whole split that this may be a part of."""
    return self._index.texts['instruction']

  def example_id(self, i: int) -> str:
    """Such as 'tabletop/train shard 00003 episode 17 step 3'."""
    return self._index.example_id(self._row(i))

  @functools.cached_property
  def report(self) -> dict:
    """Counts for people: of the whole split as indexed, and of this part of it."""
    header = self._index.header
    return {
        'name': self.name, 'layout': self.layout.name, 'index': self._index.path,
        'examples': len(self),
        'episodes': header['records'], 'lost_episodes': header['lost_records'],
        'steps': header['steps'], 'lost_steps': header['lost_steps'],
        'left_out': header['left_out'], 'idle_steps': self._idle_steps,
        'faults': header['faults'], 'first_faults': header['first_faults'],
        'instructions': len(self.instructions)}

  def clipped(self, space: actions.ActionSpace) -> dict[str, float]:
    """Share of the values of each dimension that lie beyond the bounds of `space`."""
    return clipped(self.action_NxD, space)

  @functools.cached_property
  def _first_R(self) -> np.ndarray:
    """int32: for each row of the index, the first row of its episode."""
    columns = self._index.columns
    begins_R = np.ones(len(self._index), bool)
    begins_R[1:] = (np.diff(columns['file']) != 0) | (np.diff(columns['record']) != 0)
    return np.maximum.accumulate(np.where(begins_R, np.arange(len(begins_R)), 0)).astype(np.int32)

  def _row(self, i: int) -> int:
    if not 0 <= i < len(self._rows_N):
      raise IndexError(f'{self.name} has examples 0 to {len(self) - 1}, not {i}')
    return int(self._rows_N[i])

  def _texts(self, key: str) -> tuple[np.ndarray, list[str]]:
    """Ids of each step, and the distinct texts that they count."""
    used, numbers_N = np.unique(self._index.columns[key][self._rows_N], return_inverse=True)
    return numbers_N.astype(np.int32), [self._index.texts[key][int(i)] for i in used]

  def _part(
      self, episode_R: np.ndarray, total: int, start: str | None, stop: str | None) -> np.ndarray:
    """Rows of the episodes in [start:stop), counted over the whole split as TFDS does."""

    def bound(text: str | None, default: int) -> int:
      if text is None:
        return default
      number = round(int(text[:-1]) * total / 100) if text.endswith('%') else int(text)
      return min(max(number + total if number < 0 else number, 0), total)

    low, high = bound(start, 0), bound(stop, total)
    rows = np.flatnonzero((episode_R >= low) & (episode_R < high))
    if not len(rows):
      raise ValueError(f'{self.name} is empty: episodes {low} to {high} of {total} hold no usable '
                       'step; take a larger part of the split')
    return rows.astype(np.int32)

  def _leave_out_idle(self, idle: Mapping[str, float]):
    """Takes the rows at which nothing happens out, and says so in the note."""
    space = self.layout.action_space
    moving = [d for d, dimension in enumerate(space.dimensions)
              if dimension.name not in ('terminate', 'gripper')]
    units = list(dict.fromkeys(space.dimensions[d].unit for d in moving))
    if not (isinstance(idle, Mapping) and set(idle) == set(units) and all(
        isinstance(limit, (int, float)) and 0 < limit < np.inf for limit in idle.values())):
      raise ValueError(
          f'idle is {idle}; for layout {self.layout.name!r} it takes the smallest motion that '
          f'counts, above 0, for each unit of {units}')
    action_RxD = self._index.columns['action']
    limit_M = np.array([idle[space.dimensions[d].unit] for d in moving])
    still_R = (np.abs(action_RxD[:, moving]) < limit_M).all(1)
    if 'terminate' in space.names:
      still_R &= action_RxD[:, space.names.index('terminate')] != actions.TERMINATE_STOP
    if 'gripper' in space.names:
      gripper_R = action_RxD[:, space.names.index('gripper')]
      if self.layout.gripper == 'absolute':
        before_R = np.maximum(np.arange(len(gripper_R)) - 1, self._first_R)
        gripper_R = gripper_R - gripper_R[before_R]
      still_R &= np.abs(gripper_R) <= _SAME_GRIPPER
    kept_N = self._rows_N[~still_R[self._rows_N]]
    self._idle_steps = len(self._rows_N) - len(kept_N)
    if not len(kept_N):
      raise ValueError(f'{self.name}: all {self._idle_steps} steps are idle by {dict(idle)}; lower '
                       'these limits')
    if self._idle_steps:
      self.note = '; '.join(filter(None, (self.note, f'idle steps left out: {self._idle_steps}')))
    self._rows_N = kept_N


def clipped(action_NxD: np.ndarray, space: actions.ActionSpace) -> dict[str, float]:
  """Share of the values of each dimension that lie beyond the bounds of `space`."""
  clipped_D = np.zeros(space.size, np.int64)
  for start in range(0, len(action_NxD), _CHUNK):
    clipped_D += space.encode_and_count(action_NxD[start:start + _CHUNK])[1].sum(0)
  return dict(zip(space.names, (clipped_D / len(action_NxD)).tolist()))
