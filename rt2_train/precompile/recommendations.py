"""Rules, mesh and remat policy for a model on a topology, where a run names none.

What the TPU compiler favoured for the model of 55 billion parameters: by its cycles where
gin/README.md has an estimate, else by the bound of its schedules. Fully sharded weights cross the
wires once per pass however many rows a chip computes meanwhile; products that are split over chips
send activations instead, the more the more rows there are. Split over few chips they send less of
both, and stay large enough to run near the peak.
"""

from typing import NamedTuple

from rt2_train.precompile import topologies

# Rows per chip from which bringing weights together costs less than splitting each product.
_ENOUGH_ROWS = 8
# From which it is best split over two.
_SOME_ROWS = 4


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
) -> list[Recommended]:
  """The sets for `program` ('train' or 'decode') with `batch_size` rows per step in all.

  The first of them is to be taken over whose mesh the model's dimensions divide.

  Args:
    topology: what it runs on.
    program: see above.
    batch_size: see above.
    rules: what the run names; the mesh goes with them.
  """
  chips = topology.chips // topology.slices
  if program == 'decode':
    # Each token reads all weights: every chip reads its part of them, as far as there are heads.
    parts = [chips >> shift for shift in range(chips.bit_length()) if chips % (1 << shift) == 0]
    return [Recommended(rules or 'fsdp_tensor', count, ('none',)) for count in parts]
  many = batch_size >= _ENOUGH_ROWS * topology.chips
  # ViT-G's 1664 divides by no 256; cut over two mesh axes it does.
  names = [rules] if rules else ['fsdp', 'fsdp_two_stage'] if many else ['fsdp_tensor']
  if batch_size >= _SOME_ROWS * topology.chips:
    split = 2
  else:
    split = 8 if topology.chip.torus_rank == 3 else 4
  parts = {'fsdp': 1, 'data_parallel': 1, 'fsdp_tensor': min(split, chips)}
  return [
      Recommended(name, parts.get(name, min(4, chips)), ('dots', 'names_mlp', 'names', 'full'))
      for name in names]
