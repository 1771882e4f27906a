"""Logical names of every parameter and activation axis, and how Adafactor may factor them.

The one list that partitioning rules and optimizers read. Names follow T5X where it has one; the
vision tower adds 'patch', 'vit_positions' and 'vit_embed'.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class LogicalAxis:
  """What one logical axis name means.

  Attributes:
    factor: Adafactor's factor kind of the axis: 'ROW' or 'COLUMN' (second moments are factored
      over one of each), 'BATCH' (every entry is its own parameter), 'NONE' (never factored), or
      None for names that only activations carry.
    meaning: one line for the parameter table and for readers.
  """

  factor: str | None
  meaning: str


LOGICAL_AXES: dict[str, LogicalAxis] = {
    'vocab': LogicalAxis('COLUMN', 'token ids of the embedding and the output layer'),
    'embed': LogicalAxis('ROW', 'width of the language half'),
    'mlp': LogicalAxis('COLUMN', 'hidden width of an MLP, vision tower included'),
    'heads': LogicalAxis('COLUMN', 'attention heads, vision tower included'),
    'kv_heads': LogicalAxis('COLUMN', 'heads of keys and values, where query heads share them'),
    'kv': LogicalAxis('COLUMN', 'width of one attention head'),
    'relpos_buckets': LogicalAxis('NONE', 'buckets of relative positions'),
    'layers': LogicalAxis('BATCH', 'scanned layers'),
    'patch': LogicalAxis('COLUMN', 'pixels x channels of one image patch'),
    'vit_embed': LogicalAxis('ROW', 'width of the vision tower'),
    'vit_positions': LogicalAxis('COLUMN', 'patch positions of one image'),
    'batch': LogicalAxis(None, 'examples, or examples x images inside the vision tower'),
    'length': LogicalAxis(None, 'tokens of a sequence'),
}

FACTOR_RULES: dict[str, str] = {
    name: axis.factor for name, axis in LOGICAL_AXES.items() if axis.factor
}
