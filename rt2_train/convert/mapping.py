"""A mapping is data: for each of our parameters, which source tensors it is made of, and how.

A model family is a function `rules(network, source) -> list[Rule]`, where `network` is the linen
module (its `config` and `vit_config` say what is wanted) and `source` tells names and shapes; which
variant of a family a source is, is told by which names it holds.
"""

from collections.abc import Callable
import dataclasses

import numpy as np

from rt2_train.convert import sources


def same(tensor: np.ndarray) -> np.ndarray:
  """As it is."""
  return tensor


def transposed(tensor: np.ndarray) -> np.ndarray:
  """PyTorch's linear weights [out, in] are our kernels [in, out]."""
  return tensor.T


@dataclasses.dataclass(frozen=True)
class Rule:
  """How one parameter, or one layer of stacked parameters, is made.

  Attributes:
    target: path in our tree, such as 'encoder/encoder/attention/query/kernel'.
    sources: names of the tensors that `make` gets, in its order; none for a constant.
    make: a pure function, best one that copies nothing (transpose, reshape).
    layer: which layer along axis 1 of the target; None makes all of it.
    rows: axis of the target along which axis 0 of the sources runs, if `make` may be called on a
      few rows at a time. Tables of 250k tokens are only ever held in part.
    index: what is read of each source, where not all of it.
    note: what the report should say of it, such as that positions were resized.
  """

  target: str
  sources: tuple[str, ...]
  make: Callable[..., np.ndarray] = same
  layer: int | None = None
  rows: int | None = None
  index: sources.Index = ()
  note: str = ''


def layer_target(path: str, stack: str, name: str, layer: int, scan: bool) -> dict[str, object]:
  """Where a parameter of one layer goes: fields `target` and `layer` of a Rule.

  Args:
    path: of the module around the stack, such as 'decoder'.
    stack: name of the scanned stack, see models.stacks.
    name: path inside the layer, such as 'mlp/wo/kernel'.
    layer: its number.
    scan: whether our layers are stacked.
  """
  if scan:
    return {'target': f'{path}/{stack}/{name}', 'layer': layer}
  return {'target': f'{path}/layers_{layer}/{name}', 'layer': None}


def heads_in(heads: int) -> Callable[[np.ndarray], np.ndarray]:
  """PyTorch's projection [H * D, E] -> our kernel [E, H, D]."""
  return lambda weight: weight.T.reshape(weight.shape[1], heads, -1)


def heads_out(heads: int) -> Callable[[np.ndarray], np.ndarray]:
  """PyTorch's projection [E, H * D] -> our kernel [H, D, E]."""
  return lambda weight: weight.T.reshape(heads, -1, weight.shape[0])


def heads_bias(heads: int) -> Callable[[np.ndarray], np.ndarray]:
  """A bias [H * D] -> [H, D]."""
  return lambda bias: bias.reshape(heads, -1)
