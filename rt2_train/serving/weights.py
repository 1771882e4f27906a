"""Parameters in safetensors files: written as a stream, in float32, bfloat16 or int8; and read.

int8 is weight-only: every kernel and token table W becomes integers and one float32 scale per
output channel, W = scale * integers, symmetric about 0. The rest stays float32. Whoever computes
calls `dequantized` first, inside the compiled program.

A file is 8 bytes that give the length of a header, the header (JSON: dtype, shape and place of each
tensor) and the numbers; the library that reads it writes only what is in memory as a whole.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import json
import math
import pathlib
from typing import Any

import flax
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors

from rt2_train.serving import tensors as tensors_lib

DTYPES = ('float32', 'bfloat16', 'int8')
_CODES = {'float32': 'F32', 'bfloat16': 'BF16', 'int8': 'I8'}
_SCALE = '_scale'  # Behind the name of a tensor of integers.
_FILE, _INDEX = 'params.safetensors', 'params.safetensors.index.json'


@dataclasses.dataclass(frozen=True)
class Entry:
  """A tensor of a file to be written.

  Attributes:
    name, shape, dtype: as the file's header says.
    pieces: its numbers in order, some at a time.
  """

  name: str
  shape: tuple[int, ...]
  dtype: np.dtype
  pieces: Callable[[], Iterable[np.ndarray]]

  @property
  def size(self) -> int:
    """In bytes."""
    return math.prod(self.shape) * self.dtype.itemsize


def entries(tensors: Mapping[str, tensors_lib.Tensor], dtype: str) -> list[Entry]:
  """What is to be written of a checkpoint's parameters, in `dtype`, one of `DTYPES`."""
  if dtype not in DTYPES:
    raise ValueError(f'export: dtype is {dtype!r}; choose one of {", ".join(DTYPES)}')
  result = []
  for name, tensor in tensors.items():
    if dtype == 'int8' and (summed := _summed_axes(tensor)):
      scale = functools.cache(functools.partial(_scale, tensor, summed))
      shape = tuple(1 if i in summed else size for i, size in enumerate(tensor.shape))
      result += [
          Entry(name, tensor.shape, np.dtype(np.int8), functools.partial(
              _integers, tensor, summed, scale)),
          Entry(name + _SCALE, shape, np.dtype(np.float32), lambda scale=scale: [scale()]),
      ]
    else:
      to = np.dtype(ml_dtypes.bfloat16) if dtype == 'bfloat16' else np.dtype(np.float32)
      result.append(Entry(name, tensor.shape, to, functools.partial(_cast, tensor, to)))
  return result


def write(directory: pathlib.Path, entries_: Sequence[Entry], most_bytes: int) -> list[str]:
  """Writes files of at most `most_bytes` each, or of one tensor; returns their names.

  One file is `params.safetensors`; several have numbers, and an index of which holds what.
  """
  # Large numbers first keep all of them aligned.
  ordered = sorted(entries_, key=lambda entry: (-entry.dtype.itemsize, entry.name))
  files, room = [], 0
  for entry in ordered:
    if not files or entry.size > room:
      files.append([])
      room = most_bytes
    files[-1].append(entry)
    room -= entry.size
  if len(files) == 1:
    _write_file(directory / _FILE, files[0])
    return [_FILE]
  stem, suffix = _FILE.split('.')
  names = [f'{stem}-{i + 1:05d}-of-{len(files):05d}.{suffix}' for i in range(len(files))]
  for name, held in zip(names, files):
    _write_file(directory / name, held)
  index = {
      'metadata': {'total_size': sum(entry.size for entry in ordered)},
      'weight_map': {entry.name: name for name, held in zip(names, files) for entry in held},
  }
  (directory / _INDEX).write_text(json.dumps(index, indent=1) + '\n')
  return names


def read(directory: pathlib.Path) -> dict[str, jax.Array]:
  """The parameters that `write` wrote, by name, on the default device, one tensor at a time.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is damaged.
  """
  files, expected = [_FILE], None
  if (directory / _INDEX).exists():
    expected = json.loads((directory / _INDEX).read_text())['weight_map']
    files = sorted(set(expected.values()))
  params = {}
  for name in files:
    try:
      with safetensors.safe_open(directory / name, framework='np') as file:
        for key in file.keys():
          # A copy: the CPU's array would otherwise be the file's own memory.
          params[key] = jnp.array(file.get_tensor(key))
    except FileNotFoundError:
      raise FileNotFoundError(f'{directory / name} is missing; copy the whole export') from None
    except safetensors.SafetensorError as error:
      raise ValueError(f'{directory / name} is damaged: {error}; export again') from error
  if expected is not None and expected.keys() != params.keys():
    wrong = sorted(expected.keys() ^ params.keys())
    raise ValueError(f'{directory / _INDEX} and its files disagree about {wrong[0]}; export again')
  return params


def flat(params: Any) -> dict[str, Any]:
  """The leaves of a tree by names 'a/b/c'."""
  return flax.traverse_util.flatten_dict(flax.core.unfreeze(params), sep='/')


def nested(params: Mapping[str, Any]) -> dict[str, Any]:
  """The tree of flat names 'a/b/c'."""
  return flax.traverse_util.unflatten_dict(params, sep='/')


def dequantized(params: Any) -> Any:
  """The tree `params` with its integers as the float32 numbers they stand for.

  A tree without scales comes back as it is.
  """
  by_name = flat(params)
  result = {}
  for name, value in by_name.items():
    if name.endswith(_SCALE) and name.removesuffix(_SCALE) in by_name:
      continue
    scale = by_name.get(name + _SCALE)
    result[name] = value if scale is None else value.astype(jnp.float32) * scale
  return nested(result)


def _summed_axes(tensor: tensors_lib.Tensor) -> tuple[int, ...]:
  """The axes of a kernel or token table that are inputs; none where there is nothing to quantize.

  A stack of layers has its layer axis at position 1, which is no input (`models.stacks`).
  """
  name, dims = tensor.name, len(tensor.shape)
  if name.endswith('/embedding'):
    return (1,)  # A token's row is an output, where its vector is looked up or scored.
  if not name.endswith('/kernel'):
    return ()
  # What leaves attention sums over heads and their width; every other projection over one axis.
  return (0, dims - 2) if name.endswith('/out/kernel') else (0,)


def _scale(tensor: tensors_lib.Tensor, summed: Sequence[int]) -> np.ndarray:
  """What one integer stands for, per output channel: the largest number becomes 127."""
  largest = [np.abs(piece).max(axis=summed, keepdims=True) for piece in tensor.pieces()]
  largest = functools.reduce(np.maximum, largest) if 0 in summed else np.concatenate(largest)
  return np.where(largest > 0, largest / np.float32(127), 1).astype(np.float32)


def _integers(
    tensor: tensors_lib.Tensor, summed: Sequence[int], scale: Callable[[], np.ndarray],
) -> Iterator[np.ndarray]:
  row = 0
  for piece in tensor.pieces():
    scales = scale() if 0 in summed else scale()[row:row + len(piece)]
    row += len(piece)
    yield np.rint(piece / scales).astype(np.int8)


def _cast(tensor: tensors_lib.Tensor, dtype: np.dtype) -> Iterator[np.ndarray]:
  return (piece.astype(dtype, copy=False) for piece in tensor.pieces())


def _write_file(path: pathlib.Path, held: Sequence[Entry]) -> None:
  header, end = {}, 0
  for entry in held:
    header[entry.name] = {
        'dtype': _CODES[entry.dtype.name],
        'shape': list(entry.shape),
        'data_offsets': [end, end + entry.size],
    }
    end += entry.size
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)
  with open(path, 'wb') as file:
    file.write(len(text).to_bytes(8, 'little') + text)
    for entry in held:
      for piece in entry.pieces():
        # A view of bytes: the buffer protocol has no bfloat16.
        file.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8))
