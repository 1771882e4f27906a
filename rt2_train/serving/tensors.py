"""The parameters of a checkpoint on disk, read a few rows of one tensor at a time.

Restoring a tree takes as much memory as the tree. What is exported may be larger than the host's
memory, so that each tensor is opened where Orbax wrote it, and read in pieces.
"""

from collections.abc import Iterator
import dataclasses
import json
import math
import pathlib

import flax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

# Bytes that are read, or converted, at once; more where a row or a stored chunk is larger.
_PIECE = 2**26


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One parameter of a checkpoint.

  Attributes:
    name: such as 'encoder/encoder_norm/scale'.
    store: where its numbers are.
  """

  name: str
  store: tensorstore.TensorStore

  @property
  def shape(self) -> tuple[int, ...]:
    return tuple(self.store.shape)

  def pieces(self) -> Iterator[np.ndarray]:
    """Its numbers in the order of its first axis, some rows at a time; a scalar as it is.

    Raises:
      ValueError: a number is not finite.
    """
    if not self.shape:
      yield self._checked(self.store.read().result())
      return
    rows = self.shape[0]
    few = max(1, _PIECE // (self.store.dtype.numpy_dtype.itemsize * math.prod(self.shape[1:])))
    # A chunk is read whole, however little is asked of it: whole rows of chunks are read once.
    chunk = self.store.chunk_layout.read_chunk.shape[0]
    many = max(chunk, few // chunk * chunk)
    for first in range(0, rows, many):
      read = self.store[first:min(first + many, rows)].read().result()
      for start in range(0, len(read), few):
        yield self._checked(read[start:start + few])
      del read  # Before the next rows are read.

  def _checked(self, piece: np.ndarray) -> np.ndarray:
    if not np.isfinite(piece).all():
      raise ValueError(f'parameter {self.name} is not finite; export a checkpoint from before')
    return piece


def of_checkpoint(checkpoint: pathlib.Path, *, ema: bool = False) -> dict[str, Tensor]:
  """Opens the parameters of one checkpoint, by name; their numbers are not read yet.

  One tensor per parameter of the model: what a run keeps beside them that changes them, such as
  low-rank updates, is to be merged here.

  Args:
    checkpoint: a `checkpoint_<step>` directory.
    ema: the averaged parameters (item `ema/`) instead of the last ones.

  Raises:
    FileNotFoundError: the checkpoint has no averaged parameters although they were asked for.
    ValueError: the checkpoint holds no parameters under `target`.
  """
  item = checkpoint / ('ema' if ema else 'state')
  if not item.is_dir():
    raise FileNotFoundError(f'{item} is missing: the run did not write it')
  saved = ocp.PyTreeCheckpointHandler().metadata(item)
  if not ema and 'target' not in saved.tree:
    raise ValueError(f'{item} holds {sorted(saved.tree)} but no "target": these are no parameters')
  tree = saved.tree if ema else saved.tree['target']
  flat = flax.traverse_util.flatten_dict(tree, sep='/')
  return {
      name: Tensor(name, _open(item, leaf.name, saved.use_zarr3)) for name, leaf in flat.items()}


def _open(item: pathlib.Path, name: str, zarr3: bool) -> tensorstore.TensorStore:
  files = {'driver': 'file', 'path': f'{item}/'}
  one_store = json.loads((item / '_METADATA').read_text())['use_ocdbt']
  return tensorstore.open({
      'driver': 'zarr3' if zarr3 else 'zarr',
      'kvstore': {'driver': 'ocdbt', 'base': files, 'path': f'{name}/'} if one_store else {
          **files, 'path': f'{item}/{name}/'},
  }, open=True, read=True).result()
