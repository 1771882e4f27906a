"""Every model by the name that checkpoints know it by."""

from collections.abc import Mapping
from typing import Any

from rt2_train.models import decoder_only
from rt2_train.models import encoder_decoder
from rt2_train.models import gemma
from rt2_train.models import pali_x
from rt2_train.models import paligemma
from rt2_train.models import palm_e
from rt2_train.models import t5gemma
from rt2_train.models import vit
from rt2_train.models import vlm

_MODELS = {
    'PaLIX': (pali_x.PaLIX, pali_x.Network, encoder_decoder.EncoderDecoderConfig),
    'PaLME': (palm_e.PaLME, palm_e.Network, decoder_only.DecoderOnlyConfig),
    'PaliGemma': (paligemma.PaliGemma, paligemma.Network, gemma.GemmaConfig),
    'T5Gemma': (t5gemma.T5Gemma, t5gemma.Network, t5gemma.T5GemmaConfig),
}


def from_json(
    architecture: Mapping[str, Any],
    processor: Any = None,
    optimizer_def: Any = None,
    feature_converter_cls: Any = None,
    vocabulary: Any = None,
) -> vlm.VisionLanguageModel:
  """The model that `VisionLanguageModel.architecture` described.

  Raises:
    ValueError: another model, or fields that this version does not know.
  """
  fields = dict(architecture)
  name = fields.pop('model', None)
  if name not in _MODELS:
    raise ValueError(f'architecture names the model {name!r}; known here are {sorted(_MODELS)}')
  model, network, config = _MODELS[name]
  try:
    module = network(
        vit.ViTConfig(**fields.pop('vit')),
        config(**fields.pop('language')),
        projection_bias=fields.pop('projection_bias'),
    )
    return model(module, optimizer_def, processor, feature_converter_cls, vocabulary, **fields)
  except (KeyError, TypeError) as error:
    raise ValueError(
        f'architecture does not fit this version of {name}: {error}; '
        'use the version that wrote the checkpoint'
    ) from error
