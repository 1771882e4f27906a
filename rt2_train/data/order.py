"""Which example stands in which row of which batch: a pure function of (seed, step, mixture).

Nothing is shuffled through a buffer and nothing is remembered between steps, so a run resumes at
any step, under any number of processes, from the step number alone.

Shape suffixes: B rows of the global batch.
"""

import dataclasses
import functools
import zlib

import numpy as np

from rt2_train.data import quotas

# What a stream of random numbers is for: streams of different purpose never overlap.
_EPOCH, _ROWS, _AUGMENTATION = range(3)


@dataclasses.dataclass(frozen=True)
class Order:
  """The global order of examples.

  Every source is read in epochs: a new permutation of all its examples each time, so that none is
  repeated before all have been seen. A batch takes each source's quota, and permutes the rows.

  Attributes:
    names: of the sources.
    sizes: examples in each.
    shares: whole parts of the mixture for each, see `quotas.parts`.
    batch_size: rows of the global batch.
    seed: of permutations and augmentation, 0..2**32 - 1.
  """

  names: tuple[str, ...]
  sizes: tuple[int, ...]
  shares: tuple[int, ...]
  batch_size: int
  seed: int

  def __post_init__(self):
    if not 0 <= self.seed < 2**32:
      raise ValueError(f'seed is {self.seed}; it must be within 0 and 2**32 - 1')
    # Kept for each source: the epoch that ends and the one that begins.
    epochs = [functools.lru_cache(maxsize=2)(functools.partial(self._epoch, source))
              for source in range(len(self.names))]
    object.__setattr__(self, '_epochs', epochs)

  def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
    """(source, example) of every row of batch `step`: positions in `names`, and in that source."""
    begin = quotas.used(step, self.batch_size, self.shares)
    end = quotas.used(step + 1, self.batch_size, self.shares)
    source_B = np.repeat(np.arange(len(self.names)), end - begin)
    example_B = np.concatenate([
        self._examples(source, begin[source], end[source]) for source in range(len(self.names))
    ])
    shuffled_B = _generator(_ROWS, self.seed, step).permutation(self.batch_size)
    return source_B[shuffled_B], example_B[shuffled_B]

  def augmentation_rng(self, step: int, row: int) -> np.random.Generator:
    """The random numbers that augment global row `row` of batch `step`."""
    return _generator(_AUGMENTATION, self.seed, step, row)

  def seen(self, step: int) -> np.ndarray:
    """Examples of each source in all batches before `step`: int64 [number of sources]."""
    return quotas.used(step, self.batch_size, self.shares)

  def _examples(self, source: int, begin: int, end: int) -> np.ndarray:
    """Examples number `begin` to `end` of the endless stream of `source`."""
    size = self.sizes[source]
    pieces = [np.zeros(0, np.int64)]
    # A source smaller than its quota goes through several epochs within one batch.
    while begin < end:
      epoch, first = divmod(int(begin), size)
      last = min(first + int(end - begin), size)
      pieces.append(self._epochs[source](epoch)[first:last])
      begin += last - first
    return np.concatenate(pieces)

  def _epoch(self, source: int, epoch: int) -> np.ndarray:
    name = zlib.crc32(self.names[source].encode())
    return _generator(_EPOCH, self.seed, epoch, name).permutation(self.sizes[source])


def _generator(purpose: int, seed: int, number: int, part: int = 0) -> np.random.Generator:
  # The counter's low words run on as numbers are drawn; its highest word keeps purposes apart.
  return np.random.Generator(
      np.random.Philox(key=[seed << 32 | part, number], counter=[0, 0, 0, purpose]))
