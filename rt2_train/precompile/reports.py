"""What precompile found, as a dictionary for JSON and as a table for a person."""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from rt2_train.precompile import collectives
from rt2_train.precompile import hlo
from rt2_train.precompile import roofline
from rt2_train.precompile import topologies
from rt2_train.precompile import tpu_compile
from rt2_train.training import chips
from rt2_train.training import programs

_LARGEST = 3


@dataclasses.dataclass(frozen=True)
class Setup:
  """What is compiled for what, and how it is spread.

  Attributes:
    program: 'train' or 'decode'.
    topology: what it runs on.
    batch: what a step reads.
    rules, model_parallelism: see partitioning.Partitioner.
    remat_policy: see stacks.stack.
    decode_length: tokens of an answer.
  """

  program: str
  topology: topologies.Topology
  batch: programs.Batch
  rules: str
  model_parallelism: int
  remat_policy: str
  decode_length: int


def values(
    setup: Setup, compiled: tpu_compile.Compiled, full_codegen: bool = False
) -> dict[str, Any]:
  """Everything that is known of a compiled step, ready for JSON.

  HBM is per chip, FLOPs are of a whole step on all chips, collectives' bytes are what each chip
  sends, seconds are of one step, MFU is a share of the peak. `estimated_*` only exist where code
  was generated; other speeds are bounds.
  """
  chip, facts = setup.topology.chip, compiled.facts
  module = hlo.parse(compiled.hlo)
  wires = collectives.Interconnect(setup.topology, facts['mesh'], facts['coordinates'])
  bound = roofline.bound(module, wires, chip)
  peak = setup.topology.chips * chip.peak_flops
  mfu = lambda seconds: facts['model_flops'] / (peak * seconds)
  found = {
      'topology': setup.topology.name,
      'slices': setup.topology.slices,
      'chips': setup.topology.chips,
      'program': setup.program,
      'mesh': facts['mesh'],
      'rules': setup.rules,
      'remat': setup.remat_policy,
      'batch': dataclasses.asdict(setup.batch),
      'parameters': facts['parameters'],
      'hbm_gib_per_chip': compiled.hbm.total / chips.GIB,
      'hbm_arguments_gib': compiled.hbm.arguments / chips.GIB,
      'hbm_temporaries_gib': compiled.hbm.temporaries / chips.GIB,
      'hbm_capacity_gib': chip.hbm_bytes / chips.GIB,
      'model_flops': facts['model_flops'],
      'hardware_flops': facts['hardware_flops'],
      'compiled_flops': round(bound.compute * peak),
      'collective_bytes': _nested(bound.bytes),
      'exposed_collective_seconds': sum(bound.exposed.values()),
      'exposed_collectives': _nested(bound.exposed),
      'matmul_seconds': bound.compute,
      'hbm_seconds': bound.memory,
      'scheduled_seconds': bound.seconds,
      'scheduled_mfu': mfu(bound.seconds),
      'overlapped_seconds': bound.overlapped_seconds,
      'overlapped_mfu': mfu(bound.overlapped_seconds),
      'largest_buffers': _largest(module, compiled),
      'seconds_to_compile': compiled.seconds,
      'compiler_peak_gib': compiled.peak_host_bytes / chips.GIB,
      'versions': tpu_compile.versions(),
      'compiler_flags': os.environ.get('LIBTPU_INIT_ARGS', ''),
  }
  if full_codegen:
    estimate = roofline.estimate(module, wires, chip)
    found |= {
        'estimated_seconds': estimate.seconds,
        'estimated_exposed_seconds': sum(estimate.exposed.values()),
        'estimated_mfu': mfu(estimate.seconds),
    }
  return found


def text(found: Mapping[str, Any]) -> str:
  """The same for a person."""
  mesh = ' x '.join(f'{axis} {size}' for axis, size in found['mesh'].items())
  batch = found['batch']
  slices = f'{found["slices"]} x ' if found['slices'] > 1 else ''
  lines = [
      f'{found["program"]} step on {slices}{found["topology"]} ({found["chips"]} chips)',
      _line('mesh', f'{mesh}, rules {found["rules"]}, remat {found["remat"]}'),
      _line('batch', ', '.join(f'{name} {size}' for name, size in batch.items())),
      _line('parameters', f'{found["parameters"]:,}'),
      _line(
          'HBM per chip',
          f'{found["hbm_gib_per_chip"]:.2f} GiB of {found["hbm_capacity_gib"]:.2f}: arguments '
          f'{found["hbm_arguments_gib"]:.2f}, temporaries {found["hbm_temporaries_gib"]:.2f}'),
      _line(
          'FLOPs per step',
          f'model {found["model_flops"]:.4g}, hardware {found["hardware_flops"]:.4g} '
          f'(x {found["hardware_flops"] / found["model_flops"]:.3f}), compiled '
          f'{found["compiled_flops"]:.4g}'),
      *_collectives(found),
      _line(
          'bound as scheduled',
          f'{found["scheduled_seconds"]:.4g} s, MFU at most {found["scheduled_mfu"]:.1%}: matrix '
          f'products {found["matmul_seconds"]:.4g} s at peak (HBM {found["hbm_seconds"]:.4g} s '
          f'beside them) + exposed {found["exposed_collective_seconds"]:.4g} s'),
      _line(
          'bound if overlapped',
          f'{found["overlapped_seconds"]:.4g} s, MFU at most {found["overlapped_mfu"]:.1%}'),
  ]
  if 'estimated_mfu' in found:
    lines.append(_line(
        'estimate',
        f'{found["estimated_seconds"]:.4g} s by the compiler\'s cycles, of which exposed '
        f'{found["estimated_exposed_seconds"]:.4g} s: MFU {found["estimated_mfu"]:.1%}'))
  for i, buffer in enumerate(found['largest_buffers']):
    lines.append(_line(
        '' if i else 'largest buffers',
        f'{buffer["gib"]:.3f} GiB  {buffer["shape"]}  {buffer["op_name"]}'))
  versions = ', '.join(f'{name} {version}' for name, version in found['versions'].items())
  lines.append(_line(
      'compiled', f'in {found["seconds_to_compile"]:.0f} s and {found["compiler_peak_gib"]:.2f} '
      f'GiB of host memory by {versions} {found["compiler_flags"]}'.rstrip()))
  return '\n'.join(lines)


def _collectives(found: Mapping[str, Any]) -> list[str]:
  lines = []
  for kind, axes in sorted(found['collective_bytes'].items()):
    for axis, count in sorted(axes.items()):
      exposed = found['exposed_collectives'].get(kind, {}).get(axis, 0.0)
      lines.append(_line(
          '' if lines else 'collectives',
          f'{kind:<20} {axis:<18} {count / 1e9:>9.3f} GB sent per chip, {exposed:.4f} s exposed'))
  return lines or [_line('collectives', 'none')]


def _line(name: str, value: str) -> str:
  return f'  {name:<20} {value}'


def _nested(counts: Mapping[tuple[str, str], float]) -> dict[str, dict[str, float]]:
  nested: dict[str, dict[str, float]] = {}
  for (kind, axis), count in counts.items():
    nested.setdefault(kind, {})[axis] = count
  return nested


def _largest(module: hlo.Module, compiled: tpu_compile.Compiled) -> list[dict[str, Any]]:
  op_names = {one.name: one.op_name for body in module.computations.values() for one in body}
  return [
      {
          'gib': buffer.bytes / chips.GIB,
          'shape': buffer.shape,
          'op_name': op_names.get(buffer.instruction) or buffer.instruction,
      }
      for buffer in compiled.hbm.largest[:_LARGEST]
  ]
