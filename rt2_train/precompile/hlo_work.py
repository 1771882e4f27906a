"""What a scheduled program does: trips of its loops, FLOPs of matrix products, bytes of memory."""

from collections.abc import Mapping, Sequence
import functools
import math
import re

import numpy as np

from rt2_train.precompile import hlo

# Instructions that read or write nothing themselves.
_FREE = frozenset({
    'parameter', 'constant', 'get-tuple-element', 'tuple', 'bitcast', 'while', 'call',
    'conditional', 'after-all', 'partition-id', 'replica-id', 'iota', 'opt-barrier',
})  # pyformat: disable
_SLICES = ('dynamic-slice', 'slice', 'gather')
# What a fusion hands on, or to the wires, costs it nothing.
_HANDED_ON = ('tuple', 'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'custom-call')

_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def trips(module: hlo.Module, computation: str, loop: hlo.Instruction) -> int:
  """How often the body of a while loop runs: at most, where the data may end it early.

  Raises:
    ValueError: it is neither written down nor the count of a variable up to a constant.
  """
  if match := _KNOWN.search(loop.attributes):
    return int(match[1])
  condition, body = loop.called['condition'][0], loop.called['body'][0]
  for compare in module.computations[condition]:
    if compare.opcode == 'compare' and compare.attribute('direction') == 'LT':
      variable, limit = module.operands(condition, compare)
      limit, index = _constant(module, condition, limit), variable.attribute('index')
      if limit is not None and index is not None:
        (start,) = module.operands(computation, loop)
        first = _constant(module, computation, _element(module, computation, start, index))
        return -(-(limit - (first or 0)) // _step(module, body, index))
  raise ValueError(f'hlo: the trips of loop {loop.name} in {computation} cannot be read')


def _step(module: hlo.Module, body: str, index: str) -> int:
  """What the body of a loop adds to an element of its state."""
  result = _element(module, body, module.root(body), index)
  if result.opcode == 'add':
    for operand in module.operands(body, result):
      constant = _constant(module, body, operand)
      if constant is not None:
        return constant
  raise ValueError(f'hlo: {body} does not count its trips by adding a constant')


def _element(
    module: hlo.Module, computation: str, result: hlo.Instruction, index: str
) -> hlo.Instruction:
  if result.opcode != 'tuple':
    raise ValueError(f'hlo: {result.name} of {computation} is a {result.opcode}, not a tuple')
  return _source(module, computation, module.operands(computation, result)[int(index)])


def _constant(module: hlo.Module, computation: str, instruction: hlo.Instruction) -> int | None:
  instruction = _source(module, computation, instruction)
  return int(instruction.arguments) if instruction.opcode == 'constant' else None


def _source(
    module: hlo.Module, computation: str, instruction: hlo.Instruction
) -> hlo.Instruction:
  """What an instruction copies."""
  while instruction.opcode in ('copy', 'bitcast', 'convert'):
    (instruction,) = module.operands(computation, instruction)
  return instruction


def flops(module: hlo.Module) -> Mapping[str, Mapping[str, float]]:
  """FLOPs of every instruction by computation and name, with what it calls; loops count once."""
  done: dict[str, dict[str, float]] = {}
  # What is called is printed before its callers.
  for computation, instructions in module.computations.items():
    done[computation] = {
        instruction.name: _flops(instruction, module.operands(computation, instruction))
        + sum(sum(done[called].values()) for called in instruction.called.get('calls', ()))
        for instruction in instructions
    }
  return done


def _flops(instruction: hlo.Instruction, operands: Sequence[hlo.Instruction]) -> float:
  """Two per multiplication that is not with padding."""
  if instruction.opcode == 'dot':
    left = operands[0].arrays[0].dims
    contracted = re.search(r'lhs_contracting_dims=\{([0-9,]*)\}', instruction.attributes)[1]
    depth = math.prod(left[int(i)] for i in contracted.split(',') if i)
    return 2.0 * instruction.arrays[0].elements * depth
  if instruction.opcode != 'convolution':
    return 0.0
  # The TPU compiler writes every matrix product as a convolution; the dimensions of a batch of
  # products become spatial ones, of which all but one entry meets padding.
  labels = re.fullmatch(r'(\w+)_(\w+)->(\w+)', instruction.attribute('dim_labels')).groups()
  arrays = (operands[0].arrays[0], operands[1].arrays[0], instruction.arrays[0])
  left, kernel, result = (dict(zip(label, array.dims)) for label, array in zip(labels, arrays))
  total = 2.0 * result['b'] * result['f'] * kernel['i']
  total /= int(instruction.attribute('batch_group_count') or 1)
  window = re.search(r'window=\{([^}]*)\}', instruction.attributes)
  fields = dict(field.split('=') for field in window[1].split()) if window else {}
  for i, axis in enumerate(sorted(set(left) - {'b', 'f'})):
    field = lambda key, default: fields[key].split('x')[i] if key in fields else default
    total *= _products(
        left[axis], kernel[axis], result[axis], int(field('stride', 1)),
        int(field('pad', '0_0').split('_')[0]), int(field('lhs_dilate', 1)),
        int(field('rhs_dilate', 1)),
    )
  return total


@functools.lru_cache(maxsize=None)
def _products(
    size: int, kernel: int, result: int, stride: int, low: int, dilate: int, kernel_dilate: int
) -> int:
  """Pairs of output and kernel positions along one axis that meet an element, not padding."""
  position = np.arange(result)[:, None] * stride + np.arange(kernel) * kernel_dilate - low
  inside = (position >= 0) & (position < (size - 1) * dilate + 1) & (position % dilate == 0)
  return int(inside.sum())


def hbm_bytes(module: hlo.Module) -> Mapping[str, Mapping[str, int]]:
  """Bytes between HBM and the core that every instruction needs at least, by computation and name.

  Of a stack of layers a fusion reads the slice that it takes, and writes the slice that it changes.
  What the compiler keeps on the chip costs when it is brought there, once.
  """
  return {
      computation: {
          instruction.name: _read(module, computation, instruction)
          + _written(module, computation, instruction)
          for instruction in instructions
      }
      for computation, instructions in module.computations.items()
  }


def _read(module: hlo.Module, computation: str, instruction: hlo.Instruction) -> int:
  if instruction.opcode in _FREE or instruction.opcode.endswith(('-done', '-update')):
    return 0
  operands = module.operands(computation, instruction)
  if instruction.opcode in _SLICES:
    return _in_hbm(operands[0]) and min(instruction.bytes, operands[0].bytes)
  if instruction.opcode == 'dynamic-update-slice':
    return _in_hbm(operands[1])
  called = instruction.called.get('calls', ())
  if not called:
    return sum(map(_in_hbm, operands))
  return sum(
      min(_in_hbm(operand), _used(module, called[0], i)) for i, operand in enumerate(operands)
  )


def _used(module: hlo.Module, computation: str, number: int) -> int:
  """Bytes that a fused computation takes of its parameter."""
  body = module.computations[computation]
  names, total = set(), 0
  for instruction in body:
    at = [i for i, name in enumerate(instruction.operands) if name in names]
    if instruction.opcode == 'parameter' and instruction.arguments == str(number):
      names.add(instruction.name)
      whole = instruction.bytes
    elif at and instruction.opcode == 'bitcast':
      names.add(instruction.name)
    elif at and instruction.opcode == 'fusion':
      total += sum(_used(module, instruction.called['calls'][0], i) for i in at)
    elif at == [0] and instruction.opcode in _SLICES:
      total += instruction.bytes
    elif at == [0] and instruction.opcode == 'dynamic-update-slice':
      continue
    elif at and instruction.opcode not in _HANDED_ON:
      return whole
  return min(total, whole)


def _written(module: hlo.Module, computation: str, instruction: hlo.Instruction) -> int:
  if instruction.opcode in _FREE or instruction.opcode.endswith(('-done', '-update')):
    return 0
  if instruction.opcode == 'copy-start':
    return sum(array.bytes for array in instruction.arrays[:1] if array.memory_space == 0)
  if instruction.opcode == 'dynamic-update-slice':
    return _in_hbm(module.operands(computation, instruction)[1])
  if 'calls' not in instruction.called:
    return _in_hbm(instruction)
  called = instruction.called['calls'][0]
  root = module.root(called)
  results = module.operands(called, root) if root.opcode == 'tuple' else [root]
  # What is started shows its operands beside its results.
  arrays = root.arrays if instruction.opcode == 'async-start' else instruction.arrays
  total = 0
  for array, result in zip(arrays, results):
    result = _source(module, called, result)
    if array.memory_space != 0 or result.opcode in ('parameter', *_HANDED_ON):
      continue
    changed = result.opcode == 'dynamic-update-slice' and module.operands(called, result)[1]
    total += (changed or array).bytes
  return total


def _in_hbm(instruction: hlo.Instruction) -> int:
  return sum(array.bytes for array in instruction.arrays if array.memory_space == 0)
