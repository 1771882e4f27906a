"""Rules, mesh and remat policy for a model on a topology, where a run names none.

What the TPU compiler's schedules favoured for models of 5 to 55 billion parameters; the table in
gin/README.md shows them. Fully sharded weights cross the wires once per pass however many rows a
chip computes meanwhile; products that are split over chips send activations instead, the more the
more rows there are.
"""

from typing import NamedTuple

from rt2_train.precompile import topologies

# Rows per chip from which bringing weights together costs less than splitting each product.
_ENOUGH_ROWS = 8


class Recommended(NamedTuple):
  """See partitioning.Partitioner and stacks.stack.

  Attributes:
    rules: name in partitioning.RULES.
    model_parallelism: size of the mesh axis `model`.
    remat_policies: the first of them that fits.
  """

  rules: str
  model_parallelism: int
  remat_policies: tuple[str, ...]


def recommend(
    topology: topologies.Topology, program: str, batch_size: int, rules: str | None = None
) -> Recommended:
  """The set for `program` ('train' or 'decode') with `batch_size` rows per step in all.

  Args:
    topology: what it runs on.
    program: see above.
    batch_size: see above.
    rules: what the run names; the mesh goes with them.
  """
  chips = topology.chips // topology.slices
  if program == 'decode':
    # Each token reads all weights: every chip reads its part of them.
    return Recommended(rules or 'fsdp_tensor', chips, ('none',))
  if rules is None:
    many = batch_size >= _ENOUGH_ROWS * topology.chips
    rules = 'fsdp' if many else 'fsdp_tensor'
  split = 8 if rules == 'fsdp_tensor' and topology.chip.torus_rank == 3 else 4
  parts = 1 if rules in ('fsdp', 'data_parallel') else min(split, chips)
  return Recommended(rules, parts, ('dots', 'names', 'full'))
