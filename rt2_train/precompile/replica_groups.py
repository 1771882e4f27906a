"""Reads which partitions a collective joins, in each of the notations that XLA prints."""

from collections.abc import Sequence
import math
import re

import numpy as np

Groups = tuple[tuple[int, ...], ...]

_LISTS = re.compile(r'(?:replica_groups|source_target_pairs)=\{(\{[0-9,{}]*\})\}')
_IOTA = r'\[([0-9,]+)\](?:T\(([0-9,]+)\))?'
_CUT_IOTA = re.compile(r'replica_groups=\[([0-9,]+)\]<=' + _IOTA)
_MESH = re.compile(
    r'replica_groups=(?:@\w+)?mesh\[([^\]]*)\]'
    r'(?:, *device_ids=\((.*?)\)(?= *[{,]|$))?(?: *\{([^}]*)\})?'
)
_AXIS = re.compile(r"'([^']+)'=(\d+)")
_GROUPED = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


def parse(attributes: str, partitions: int) -> Groups:
  """The groups in the attributes of an instruction; one of all partitions if none are named.

  The notations are
    {{0,1},{2,3}}            lists, also of the pairs of a collective-permute;
    [2,2]<=[2,2]T(1,0)       an iota, reshaped, transposed and cut into rows;
    mesh['a'=2,'b'=2] {'b'}  groups along axes of a mesh; 'b':(2)4 is the part of axis b that
                             follows 2 and has 4 entries; device_ids=(...) orders the mesh.
  """
  if match := _LISTS.search(attributes):
    lists = re.findall(r'\{([0-9,]+)\}', match[1])
    return tuple(tuple(_integers(one)) for one in lists)
  if match := _CUT_IOTA.search(attributes):
    return _rows(_iota(match[2], match[3]).reshape(_integers(match[1])))
  if match := _MESH.search(attributes):
    return _along_axes(*match.groups())
  return (tuple(range(partitions)),)


def _along_axes(axes: str, device_ids: str | None, grouped: str | None) -> Groups:
  sizes = {name: int(size) for name, size in _AXIS.findall(axes)}
  ids = np.arange(math.prod(sizes.values()))
  if device_ids:
    iota = re.fullmatch(_IOTA, device_ids)
    ids = _iota(*iota.groups()) if iota else np.array(_integers(device_ids))
  if grouped is None:
    return _rows(ids.reshape(1, -1))
  parts = {name: (before, size) for name, before, size in _GROUPED.findall(grouped)}
  # Each axis is cut into what is before the part that is grouped, the part, and what is after.
  dims, inside = [], []
  for name, size in sizes.items():
    before, part = parts.get(name, (size, 1))
    before, part = int(before or 1), int(part or size)
    inside.append(len(dims) + 1)
    dims += [before, part, size // (before * part)]
  outside = [i for i in range(len(dims)) if i not in inside]
  together = math.prod(dims[i] for i in inside)
  return _rows(ids.reshape(dims).transpose(outside + inside).reshape(-1, together))


def _iota(dims: str, order: str | None) -> np.ndarray:
  ids = np.arange(math.prod(_integers(dims))).reshape(_integers(dims))
  return ids.transpose(_integers(order)) if order else ids


def _integers(text: str) -> Sequence[int]:
  return [int(i) for i in text.split(',')]


def _rows(ids: np.ndarray) -> Groups:
  return tuple(tuple(map(int, row)) for row in ids.reshape(-1, ids.shape[-1]))
