"""Which mapping a source needs, told by its format and by what its configuration calls it."""

from collections.abc import Callable
from typing import Any

from rt2_train.convert import big_vision
from rt2_train.convert import gemma
from rt2_train.convert import mapping
from rt2_train.convert import siglip
from rt2_train.convert import sources
from rt2_train.convert import t5

Rules = Callable[[Any, sources.Source], list[mapping.Rule]]

# `model_type` of a config.json -> its rules.
HUGGING_FACE: dict[str, Rules] = {
    't5': t5.hugging_face,
    'mt5': t5.hugging_face,
    'umt5': t5.hugging_face,
    'paligemma': gemma.paligemma,
    't5gemma2': gemma.t5gemma2,
    'siglip': siglip.siglip,
    'siglip_vision_model': siglip.siglip,
    'siglip2': siglip.siglip,
    'siglip2_vision_model': siglip.siglip,
    'vit': siglip.vit,
}


def rules(network: Any, source: sources.Source) -> list[mapping.Rule]:
  """The mapping of `source` into the parameters of `network`.

  Raises:
    ValueError: no family is known that `source` belongs to, or it does not fit `network`.
  """
  if source.format == 't5x':
    return t5.t5x(network, source)
  if source.format == 'big_vision':
    return big_vision.rules(network, source)
  model_type = source.config.get('model_type')
  if model_type not in HUGGING_FACE:
    raise ValueError(
        f'{source.path}/config.json has model_type {model_type!r}; imported are '
        f'{", ".join(sorted(HUGGING_FACE))}')
  return HUGGING_FACE[model_type](network, source)
