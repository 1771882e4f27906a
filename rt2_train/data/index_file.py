"""The file of an index: an uncompressed npz with a JSON header in it, memory-mapped when read."""

from collections.abc import Mapping
import json
import zipfile

import numpy as np


def write(path: str, header: Mapping, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes an uncompressed npz of `arrays` that also holds `header` as JSON."""
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:
    for key, array in arrays.items():
      with archive.open(f'{key}.npy', 'w', force_zip64=True) as member:
        np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
    # Last, so that a directory that lists it lists all the others.
    archive.writestr('header.json', json.dumps(header, indent=1))


def read(path: str) -> tuple[dict, dict[str, np.ndarray]]:
  """The header, and every array mapped read-only where it lies in the archive."""
  arrays = {}
  with zipfile.ZipFile(path) as archive, open(path, 'rb') as file:
    for member in archive.infolist():
      if not member.filename.endswith('.npy'):
        continue
      # The local header repeats the name and has its own extra field; the data follow.
      file.seek(member.header_offset + 26)
      file.seek(int.from_bytes(file.read(2), 'little') + int.from_bytes(file.read(2), 'little'), 1)
      np.lib.format.read_magic(file)
      shape, _, dtype = np.lib.format.read_array_header_1_0(file)
      if dtype.hasobject:
        raise ValueError(f'{path}: {member.filename} holds Python objects, not numbers')
      mapped = np.memmap(path, dtype, 'r', file.tell(), shape) if np.prod(shape) else None
      # A plain view: np.memmap's own indexing costs microseconds per access.
      view = np.zeros(shape, dtype) if mapped is None else mapped.view(np.ndarray)
      arrays[member.filename.removesuffix('.npy')] = view
    return json.loads(archive.read('header.json')), arrays
