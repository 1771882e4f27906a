"""How prompts and answers are laid out for a model: T5X's feature names, filled by NumPy.

The data loader, the policy and exported programs share these functions, so that a robot's prompt is
laid out as its training was. Arrays are NumPy's or JAX's.

Shape suffixes: B rows, L inputs, T targets, S = L + T.
"""

import numpy as np

_PAD = 0

# One token of an image inside a text. No row of the token table belongs to it (the image's own
# vector takes its place), so it lies beyond every vocabulary.
IMAGE_TOKEN_ID = 2**30


def encoder_decoder(inputs_BxL: np.ndarray, targets_BxT: np.ndarray) -> dict[str, np.ndarray]:
  """The encoder reads the inputs, the decoder its targets shifted right (T5).

  Args:
    inputs_BxL: int32, padded with 0.
    targets_BxT: int32, padded with 0; all padding where the answer is yet to be written.
  """
  return {
      'encoder_input_tokens': inputs_BxL,
      'decoder_input_tokens': _shift_right(targets_BxT),
      'decoder_target_tokens': targets_BxT,
      'decoder_loss_weights': (targets_BxT != _PAD).astype(np.int32),
  }


def decoder_only(inputs_BxL: np.ndarray, targets_BxT: np.ndarray) -> dict[str, np.ndarray]:
  """One decoder reads inputs and then targets, without padding between; the loss is on targets.

  As `seqio.PrefixLMFeatureConverter`: `decoder_causal_attention` is 1 on the prefix, which
  includes the position that reads the last input and predicts the first target. Arguments as
  `encoder_decoder`.
  """
  xp = inputs_BxL.__array_namespace__()
  targets_length = targets_BxT.shape[1]
  prefix_Bx1 = xp.count_nonzero(inputs_BxL, axis=1)[:, None]
  position_S = xp.arange(inputs_BxL.shape[1] + targets_length)
  # Which target stands at each position; before the first and behind the last is input or padding.
  target_BxS = position_S - prefix_Bx1
  targets_BxS = xp.where(
      (target_BxS >= 0) & (target_BxS < targets_length),
      xp.take_along_axis(targets_BxT, xp.clip(target_BxS, 0, targets_length - 1), axis=1),
      xp.pad(inputs_BxL, ((0, 0), (0, targets_length))))
  return {
      'decoder_input_tokens': _shift_right(targets_BxS),
      'decoder_target_tokens': targets_BxS,
      'decoder_loss_weights': ((position_S >= prefix_Bx1) & (targets_BxS != _PAD)).astype(np.int32),
      'decoder_causal_attention': (position_S <= prefix_Bx1).astype(np.int32),
  }


LAYOUTS = {'encoder_decoder': encoder_decoder, 'decoder_only': decoder_only}


def inputs_of(features: dict[str, np.ndarray]) -> np.ndarray:
  """The inputs int32 [B, L or more], padded with 0, of features in either layout."""
  if 'encoder_input_tokens' in features:
    return features['encoder_input_tokens']
  prefix_BxS = features['decoder_input_tokens'] * features['decoder_causal_attention']
  return prefix_BxS[:, 1:]


def _shift_right(tokens_BxT: np.ndarray) -> np.ndarray:
  return tokens_BxT.__array_namespace__().pad(tokens_BxT[:, :-1], ((0, 0), (1, 0)))
