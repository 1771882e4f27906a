"""Reads the tensors of foreign checkpoints by name, one at a time and in parts.

Files are read, not mapped: pages of a mapped file count as memory of the process, and a conversion
promises how much of that it takes.
"""

import abc
from collections.abc import Mapping
import json
import math
import os
import pathlib
import struct
from typing import Any
import zipfile

from flax import serialization
from flax import traverse_util
import ml_dtypes
import numpy as np
import tensorstore as ts

# What is read of a tensor: indices and slices of its first axes.
Index = tuple[int | slice, ...]

_SAFETENSORS_DTYPES = {
    'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16,
    'F8_E4M3': ml_dtypes.float8_e4m3fn, 'F8_E5M2': ml_dtypes.float8_e5m2, 'I64': np.int64,
    'I32': np.int32, 'I16': np.int16, 'I8': np.int8, 'U8': np.uint8, 'BOOL': np.bool_,
}
# A header beyond this is no header: the file is another one, or damaged.
_LONGEST_HEADER = 100 * 2**20


class Source(abc.ABC):
  """The tensors of one checkpoint.

  Attributes:
    format: 'hf', 't5x' or 'big_vision'.
    path: where it lies.
    config: what it says of its architecture; empty where the format says nothing.
  """

  format: str

  def __init__(self, path: str | os.PathLike[str], config: Mapping[str, Any] | None = None):
    self.path = pathlib.Path(path)
    self.config = dict(config or {})

  @abc.abstractmethod
  def names(self) -> list[str]:
    """Names of all tensors, in the order of the files."""

  @abc.abstractmethod
  def shape(self, name: str) -> tuple[int, ...]:
    """Shape of a tensor."""

  @abc.abstractmethod
  def dtype(self, name: str) -> np.dtype:
    """Type of a tensor as it is stored."""

  @abc.abstractmethod
  def read(self, name: str, index: Index = ()) -> np.ndarray:
    """A tensor, or the part of it that `index` says, as it is stored."""

  def __contains__(self, name: str) -> bool:
    return name in self._known

  @property
  def _known(self) -> set[str]:
    known = self.__dict__.get('_names')
    if known is None:
      known = self.__dict__['_names'] = set(self.names())
    return known


class _Stored(Source):
  """Tensors that lie uncompressed in files: {name: (file, offset, dtype, shape)}."""

  _tensors: dict[str, tuple[pathlib.Path, int, np.dtype, tuple[int, ...]]]

  def names(self):
    return list(self._tensors)

  def shape(self, name):
    return self._tensors[name][3]

  def dtype(self, name):
    return self._tensors[name][2]

  def read(self, name, index=()):
    path, offset, dtype, shape = self._tensors[name]
    # Rows follow each other in the file; what is cut from the other axes is cut in memory.
    first, *others = (*index, *[slice(None)] * (len(shape) - len(index))) if shape else ((),)
    rows = None
    if shape:
      rows = range(shape[0])[first if isinstance(first, slice) else slice(first, first + 1)]
      if rows.step != 1:
        raise IndexError(f'{name}: rows are read without gaps, got {index}')
      offset += rows.start * math.prod(shape[1:]) * dtype.itemsize
      shape = (len(rows), *shape[1:])
    flat = np.fromfile(path, dtype, math.prod(shape), offset=offset)
    if flat.size != math.prod(shape):
      raise ValueError(f'{path} is cut short inside {name}; copy it again')
    tensor = flat.reshape(shape)
    if rows is None:
      return tensor
    return tensor[(slice(None) if isinstance(first, slice) else 0, *others)]


class HuggingFace(_Stored):
  """A directory with `model.safetensors`, or its shards and their index, and `config.json`."""

  format = 'hf'

  def __init__(self, path):
    path = pathlib.Path(path)
    super().__init__(path, _json(path / 'config.json'))
    index = path / 'model.safetensors.index.json'
    if index.exists():
      files = list(dict.fromkeys(_json(index)['weight_map'].values()))
      wrong = next((name for name in files if os.path.basename(name) != name), None)
      if wrong:
        raise ValueError(f'{index} names {wrong!r}, which is no file beside it; copy it again')
    else:
      files = ['model.safetensors']
    self._tensors = {}
    for name in files:
      if not (path / name).exists():
        raise FileNotFoundError(
            f'{path / name} is not there; name a directory with the safetensors of a model '
            '(pytorch_model.bin is not read: it may run code)')
      self._tensors |= _safetensors(path / name)


class BigVision(_Stored):
  """A big_vision `.npz`, or a directory with one of them."""

  format = 'big_vision'

  def __init__(self, path):
    path = pathlib.Path(path)
    if path.is_dir():
      files = sorted(path.glob('*.npz'))
      if len(files) != 1:
        raise ValueError(f'{path} holds {len(files)} .npz files; name one of them')
      path = files[0]
    super().__init__(path)
    self._tensors = _npz(path)


class T5X(Source):
  """The parameters of a T5X checkpoint, legacy (msgpack and zarr) or Orbax; without `target/`."""

  format = 't5x'

  def __init__(self, path):
    """Takes a checkpoint directory, or one with a single checkpoint.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: the format is older than any that T5X published models in.
    """
    path = pathlib.Path(path)
    inside = sorted(path.glob('checkpoint_*'))
    if not (path / 'checkpoint').exists() and not (path / 'state').exists() and len(inside) == 1:
      path = inside[0]
    super().__init__(path)
    self._arrays, self._opened = {}, {}
    self._bits16 = False
    if (path / 'state/_METADATA').exists():
      tree = _json(path / 'state/_METADATA')
      leaves = [
          '/'.join(str(part['key']) for part in leaf['key_metadata'])
          for leaf in tree['tree_metadata'].values()]
      kind = 'ocdbt' if (path / 'state/manifest.ocdbt').exists() else 'file'
      self._stores = {name: (path / 'state', kind) for name in leaves}
    elif (path / 'checkpoint').exists() or (path / 'state/checkpoint').exists():
      folder = path if (path / 'checkpoint').exists() else path / 'state'
      self._stores = self._read_legacy(folder)
    else:
      raise FileNotFoundError(
          f'{path} holds no T5X checkpoint; name a checkpoint_<step> directory with the file '
          '`checkpoint`, or with `state/_METADATA`')
    self._leaves = [
        name.removeprefix('target/') for name in [*self._stores, *self._arrays]
        if name.startswith('target/')]

  def _read_legacy(self, folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, str]]:
    tree = serialization.msgpack_restore((folder / 'checkpoint').read_bytes())
    version = int(tree.get('version', 0))
    if 'optimizer' in tree and version < 2:
      raise ValueError(f'{folder} has format version {version}; 2 and 3 are read')
    # Version 2 kept bfloat16 as the bits of uint16.
    self._bits16 = version == 2
    is_leaf = lambda _, node: isinstance(node, dict) and {'driver', 'metadata'} <= node.keys()
    leaves = traverse_util.flatten_dict(tree.get('optimizer', tree), is_leaf=is_leaf, sep='/')
    self._arrays = {
        name: leaf for name, leaf in leaves.items()
        if isinstance(leaf, np.ndarray) and name.startswith('target/')}
    # Where a store lies is told by the parameter's name; what is written in it is of its makers.
    return {name: (folder, 'file') for name, leaf in leaves.items() if isinstance(leaf, dict)}

  def names(self):
    return list(self._leaves)

  def shape(self, name):
    return tuple(self._open(name).shape)

  def dtype(self, name):
    array = self._open(name)
    stored = array.dtype if isinstance(array, np.ndarray) else array.dtype.numpy_dtype
    return np.dtype(ml_dtypes.bfloat16) if self._bits16 and stored == np.uint16 else stored

  def read(self, name, index=()):
    array = self._open(name)[index]
    if not isinstance(array, np.ndarray):
      array = array.read().result()
    return array.view(ml_dtypes.bfloat16) if self._bits16 and array.dtype == np.uint16 else array

  def _open(self, name):
    name = f'target/{name}'
    if name in self._arrays:
      return self._arrays[name]
    if name not in self._opened:
      folder, kind = self._stores[name]
      leaf = name.replace('/', '.')
      store = {'driver': 'file', 'path': f'{folder / leaf}/'}
      if kind == 'ocdbt':
        store = {'driver': 'ocdbt', 'base': f'file://{folder.absolute()}/', 'path': f'{leaf}/'}
      try:
        self._opened[name] = ts.open(
            {'driver': 'zarr', 'kvstore': store}, open=True, read=True).result()
      except ValueError as error:
        raise ValueError(
            f'{self.path} names {name} and does not hold it: {str(error).splitlines()[0]}; copy '
            'the checkpoint again') from error
    return self._opened[name]


FORMATS: dict[str, type[Source]] = {
    kind.format: kind for kind in (HuggingFace, T5X, BigVision)
}


def open_source(format_: str, path: str | os.PathLike[str]) -> Source:
  """The checkpoint at `path`.

  Raises:
    FileNotFoundError, ValueError: it is not there, or of another format.
  """
  if format_ not in FORMATS:
    raise ValueError(f'format is {format_!r}; choose one of {sorted(FORMATS)}')
  if not os.path.exists(path):
    raise FileNotFoundError(f'{path} does not exist; name the checkpoint to import')
  return FORMATS[format_](path)


def _safetensors(path: pathlib.Path) -> dict[str, Any]:
  """The format: 8 bytes with the header's length, a JSON header, tensors in C order."""
  with open(path, 'rb') as file:
    start = file.read(8)
    length = struct.unpack('<Q', start)[0] if len(start) == 8 else _LONGEST_HEADER + 1
    header = file.read(length) if length <= _LONGEST_HEADER else b''
  try:
    tensors = json.loads(header)
  except ValueError as error:
    raise ValueError(f'{path} is no safetensors file, or cut short; copy it again') from error
  found = {}
  for name, tensor in tensors.items():
    if name == '__metadata__':
      continue
    if tensor['dtype'] not in _SAFETENSORS_DTYPES:
      raise ValueError(
          f'{path}: {name} has type {tensor["dtype"]}; known are {sorted(_SAFETENSORS_DTYPES)}')
    dtype, shape = np.dtype(_SAFETENSORS_DTYPES[tensor['dtype']]), tuple(tensor['shape'])
    found[name] = path, 8 + length + tensor['data_offsets'][0], dtype, shape
  return found


def _npz(path: pathlib.Path) -> dict[str, Any]:
  """Where the arrays of a .npz lie; a zip of .npy files that is not compressed."""
  found = {}
  try:
    with zipfile.ZipFile(path) as archive, open(path, 'rb') as file:
      for member in archive.infolist():
        name = member.filename.removesuffix('.npy')
        if member.compress_type != zipfile.ZIP_STORED:
          raise ValueError(
              f'{path}: {name} is compressed; write the file again with numpy.savez')
        # Of the local header only the lengths are read that the directory may say otherwise.
        file.seek(member.header_offset + 26)
        file.seek(sum(struct.unpack('<HH', file.read(4))), os.SEEK_CUR)
        version = np.lib.format.read_magic(file)
        reader = (np.lib.format.read_array_header_1_0 if version == (1, 0)
                  else np.lib.format.read_array_header_2_0)
        shape, by_columns, dtype = reader(file)
        if dtype.hasobject or (by_columns and len(shape) > 1):
          raise ValueError(
              f'{path}: {name} is no plain array in C order; write it again with numpy.savez')
        if dtype == np.dtype('V2'):  # numpy's name for what it does not know.
          dtype = np.dtype(ml_dtypes.bfloat16)
        found[name] = path, file.tell(), dtype, shape
  except zipfile.BadZipFile as error:
    raise ValueError(f'{path} is no .npz file, or cut short; copy it again') from error
  return found


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    with open(path, encoding='utf-8') as file:
      return json.load(file)
  except FileNotFoundError as error:
    raise FileNotFoundError(f'{path} is not there; copy the whole model directory') from error
  except ValueError as error:
    raise ValueError(f'{path} is no JSON: {error}; copy it again') from error
