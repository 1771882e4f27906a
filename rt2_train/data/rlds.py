"""RLDS datasets on disk -> steps -> the examples a model trains on.

`RobotSteps` opens any TFDS directory by its layout (see `layouts`) and hands out `Step`s in
physical units; `RobotExamples` turns them into model inputs through a `Processor`. Both are
random access: any step costs one `pread` per camera.

Shape suffixes: N examples, D action dimensions.
"""

from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import re

from absl import logging
import numpy as np

from rt2_train import actions
from rt2_train.data import episodes
from rt2_train.data import faults
from rt2_train.data import index
from rt2_train.data import layouts
from rt2_train.data import tfds_directory
from rt2_train.data.layouts import LAYOUTS, Layout
from rt2_train.processor import Processor

__all__ = ['LAYOUTS', 'Layout', 'RobotExamples', 'RobotSteps', 'Step']

_CHUNK = 1 << 16  # Steps whose actions are binned at a time.
_MANY_CLIPPED = 0.01  # Share of a dimension's values above which the log warns.
_SPLIT = re.compile(r'([^\[\]]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?')


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
    episode_N: int64; the number of each step's episode, counted over the whole split.
    note: what the whole split goes without, by reason; '' when nothing.
    fingerprint: changes when any row of the data changes; not with the place it lies in.
  """

  def __init__(
      self,
      data_dir: str,
      split: str = 'train',
      layout: str | Layout = 'fractal',
      index_dir: str | None = None,
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
  ):
    """Opens the split, indexing it first if need be.

    Args:
      data_dir: directory with features.json, dataset_info.json and TFRecord shards.
      split: 'train', or a part of it by episodes: 'train[:95%]', 'train[95%:]', 'train[:10]'.
      layout: a name in LAYOUTS, or a Layout.
      index_dir: where the index goes; `.rt2_index` in `data_dir` when None.
      on_bad, max_bad_share: what broken data may do, see `faults.enforce`.

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
          f'{self.layout.name!r} reads; choose another of {", ".join(LAYOUTS)}, or declare yours')
    shards = [index.Shard(path, records) for path, records in directory.shards(whole)]
    stem = f'{directory.name}-{directory.version}.{whole}.{self.layout.name}'
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
    episode_N = first[columns['file']] + columns['record']
    self._rows_N = self._part(episode_N, int(first[-1]), start, stop)
    self.episode_N = episode_N[self._rows_N]
    self.action_NxD = columns['action'][self._rows_N]
    used, numbers = np.unique(columns['instruction'][self._rows_N], return_inverse=True)
    self.instruction_N = numbers.astype(np.int32)
    self.instructions = [self._index.texts['instruction'][int(i)] for i in used]
    self.fingerprint = hashlib.sha256(
        f'{self._index.fingerprint} {start}:{stop}'.encode()).hexdigest()

  def __len__(self) -> int:
    return len(self._rows_N)

  def step(self, i: int) -> Step:
    """The i-th step."""
    row = self._row(i)
    columns = self._index.columns
    file, record = int(columns['file'][row]), int(columns['record'][row])
    return Step(
        images=self.images(i),
        instruction=self.instructions[self.instruction_N[i]],
        action=self.action_NxD[i],
        episode=f'{self._split}/{file:05d}/{record}',
        step=int(columns['step'][row]),
        dataset=self._directory.name,
        is_last=bool(columns['is_last'][row]))

  def images(self, i: int) -> tuple[bytes, ...]:
    """The encoded images of the i-th step alone."""
    row = self._row(i)
    return tuple(self._index.image(row, camera) for camera in range(len(self.layout.images)))

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
        'left_out': header['left_out'], 'faults': header['faults'],
        'first_faults': header['first_faults'], 'instructions': len(self.instructions)}

  def clipped(self, space: actions.ActionSpace) -> dict[str, float]:
    """Share of the values of each dimension that lie beyond the bounds of `space`."""
    clipped_D = np.zeros(space.size, np.int64)
    for start in range(0, len(self), _CHUNK):
      clipped_D += space.encode_and_count(self.action_NxD[start:start + _CHUNK])[1].sum(0)
    return dict(zip(space.names, (clipped_D / len(self)).tolist()))

  def _row(self, i: int) -> int:
    if not 0 <= i < len(self._rows_N):
      raise IndexError(f'{self.name} has examples 0 to {len(self) - 1}, not {i}')
    return int(self._rows_N[i])

  def _part(
      self, episode_N: np.ndarray, total: int, start: str | None, stop: str | None) -> np.ndarray:
    """Rows of the episodes in [start:stop), counted over the whole split as TFDS does."""

    def bound(text: str | None, default: int) -> int:
      if text is None:
        return default
      number = round(int(text[:-1]) * total / 100) if text.endswith('%') else int(text)
      return min(max(number + total if number < 0 else number, 0), total)

    low, high = bound(start, 0), bound(stop, total)
    rows = np.flatnonzero((episode_N >= low) & (episode_N < high))
    if not len(rows):
      raise ValueError(f'{self.name} is empty: episodes {low} to {high} of {total} hold no usable '
                       'step; take a larger part of the split')
    return rows.astype(np.int32)


class RobotExamples:
  """Robot steps as examples of a model: `images`, `image_mask`, `inputs`, `targets`.

  Attributes:
    note: RobotSteps' note, and the share of values clipped to the action space, per dimension.
  """

  def __init__(
      self,
      data_dir: str,
      split: str,
      processor: Processor,
      layout: str | Layout = 'fractal',
      index_dir: str | None = None,
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
  ):
    """Opens the split; the arguments are RobotSteps', and the model's `processor`.

    Raises:
      ValueError: as RobotSteps; and where the layout does not fit the processor, or an
        instruction is longer than the model takes.
    """
    self._steps = steps = RobotSteps(data_dir, split, layout, index_dir, on_bad, max_bad_share)
    self._processor = processor
    ours, theirs = steps.layout.action_space.names, processor.action_space.names
    if ours != theirs:
      raise ValueError(
          f'{steps.name}: layout {steps.layout.name!r} yields ({", ".join(ours)}), action space '
          f'{processor.action_space.name!r} is ({", ".join(theirs)}); choose another of either')
    cameras, num_images = len(steps.layout.images), processor.image_spec.num_images
    if cameras > num_images:
      raise ValueError(f'{steps.name}: layout {steps.layout.name!r} has {cameras} cameras, the '
                       f'model takes {num_images} images; name fewer in Layout.images')
    self._inputs = []
    for number, instruction in enumerate(steps.instructions):
      try:
        self._inputs.append(processor.robot_inputs(instruction))
      except ValueError as e:
        i = int(np.argmax(steps.instruction_N == number))
        raise ValueError(f'{steps.example_id(i)}: {e}') from e
    self.fingerprint = steps.fingerprint
    self._clipped = steps.clipped(processor.action_space)
    listed = ', '.join(
        f'{name} {100 * share:.3g} %' for name, share in self._clipped.items() if share)
    self.note = '; '.join(filter(None, (steps.note, listed and f'clipped: {listed}')))
    if max(self._clipped.values()) > _MANY_CLIPPED:
      logging.warning(
          '%s: values beyond the bounds of action space %s are clipped to them: %s; widen the '
          'bounds if these motions matter', steps.name, processor.action_space.name, listed)

  def __len__(self) -> int:
    return len(self._steps)

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    """The i-th example; ValueError names it when its image does not decode."""
    encoded = self._steps.images(i)
    try:
      images, image_mask = self._processor.images(encoded)
    except ValueError as e:
      raise ValueError(f'{self.example_id(i)}: {e}; the shard changed after indexing, or was '
                       'broken when written: write it again') from e
    return {
        'images': images,
        'image_mask': image_mask,
        'inputs': self._inputs[self._steps.instruction_N[i]],
        'targets': self._processor.action_targets(self._steps.action_NxD[i])}

  def example_id(self, i: int) -> str:
    """Such as 'tabletop/train shard 00003 episode 17 step 3'."""
    return self._steps.example_id(i)

  def step(self, i: int) -> Step:
    """The i-th step, before the processor."""
    return self._steps.step(i)

  @functools.cached_property
  def report(self) -> dict:
    """RobotSteps' report, and `clipped`: the share beyond the bounds, per dimension."""
    return {**self._steps.report, 'clipped': self._clipped}
