"""A policy as one StableHLO program per batch size: pixels and prompt ids in, actions out.

All that stands between a camera and an arm is inside: resizing, the network, decoding under the
grammar of actions, bins to physical values. Only text becomes ids outside, by SentencePiece.

Shape suffixes: B rows, n images, h and w as the camera has it, L prompt, T answer, D dimensions of
the action, I integers of a dimension, N answers.
"""

from collections.abc import Callable, Mapping, Sequence
import itertools
import math
from typing import Any

import jax
from jax import export
import jax.numpy as jnp
import numpy as np

from rt2_train import actions
from rt2_train import images
from rt2_train import processor as processor_lib
from rt2_train import prompts
from rt2_train import sequences
from rt2_train.models import vlm
from rt2_train.serving import weights

PLATFORMS = ('cpu', 'cuda', 'tpu')
_PAD = 0
_MOST_ANSWERS = 2**20


def policy_function(
    model: vlm.VisionLanguageModel, processor: processor_lib.Processor
) -> Callable[..., dict[str, jax.Array]]:
  """The function that a program computes.

  It maps (parameters by name; images uint8 [B, n, h, w, 3]; prompt ids int32 [B, L], padded with 0;
  image_mask int32 [B, n]) to `tokens` int32 [B, T], `actions` float32 [B, D] in physical units and
  `terminate` bool [B].
  """
  start = processor.grammar()[1]['action']
  actions_of_tokens = actions_of(processor)
  space = processor.action_space
  ends = 'terminate' in space.names

  def act(params, images_Bxnxhxwx3, prompt_ids_BxL, image_mask_Bxn):
    rows = images_Bxnxhxwx3.shape[0]
    batch = processor.features(prompt_ids_BxL) | {
        'images': images.resize_definition(images_Bxnxhxwx3, processor.image_spec),
        'image_mask': image_mask_Bxn,
        'grammar_state': jnp.full(rows, start, jnp.int32),
    }
    tokens_BxT = model.predict_batch(weights.dequantized(weights.nested(params)), batch)
    actions_BxD = actions_of_tokens(tokens_BxT)
    terminate_B = jnp.zeros(rows, bool)
    if ends:
      terminate_B = actions_BxD[:, space.names.index('terminate')] == actions.TERMINATE_STOP
    return {'tokens': tokens_BxT, 'actions': actions_BxD, 'terminate': terminate_B}

  return act


def serialized(
    act: Callable[..., Any], params: Mapping[str, jax.ShapeDtypeStruct],
    processor: processor_lib.Processor, batch_size: int, height: int, width: int,
) -> bytes:
  """`act`, as `jax.export` writes it, for `batch_size` rows of pictures of a camera's size."""
  n = processor.image_spec.num_images
  arguments = (
      jax.ShapeDtypeStruct((batch_size, n, height, width, 3), jnp.uint8),
      jax.ShapeDtypeStruct((batch_size, processor.prompt_length), jnp.int32),
      jax.ShapeDtypeStruct((batch_size, n), jnp.int32),
  )
  exported = export.export(jax.jit(act), platforms=PLATFORMS)(dict(params), *arguments)
  return bytes(exported.serialize())


def description(
    params: Mapping[str, jax.ShapeDtypeStruct], processor: processor_lib.Processor,
    batch_sizes: Sequence[int], height: int, width: int,
) -> dict[str, Any]:
  """What somebody who has the programs alone must know to call them, ready for JSON."""
  if processor.prompt_format != 'palm_e':
    raise ValueError(
        f'export: prompts in the form of {processor.prompt_format!r} are not described for programs '
        'yet; export with --format=params')
  space, spec = processor.action_space, processor.image_spec
  n, length = spec.num_images, processor.prompt_length
  template = prompts.TEMPLATES['robot']
  if processor.image_tokens:
    template = prompts.given_images(template, n)
  array = lambda name, shape, dtype: {'name': name, 'shape': shape, 'dtype': dtype}
  return {
      'programs': [{'batch_size': b, 'file': file_name(b)} for b in batch_sizes],
      'platforms': list(PLATFORMS),
      'arguments': [
          # One array each, in this order, which is that of a dict sorted by name.
          {'name': 'parameters', 'order': [
              array(name, list(params[name].shape), params[name].dtype.name)
              for name in sorted(params)]},
          array('images', ['B', n, height, width, 3], 'uint8'),
          array('prompt_ids', ['B', length], 'int32'),
          array('image_mask', ['B', n], 'int32'),
      ],
      'results': [
          array('actions', ['B', space.size], 'float32'),
          array('terminate', ['B'], 'bool'),
          array('tokens', ['B', processor.targets_length], 'int32'),
      ],
      'images': {
          'cameras_height': height, 'cameras_width': width, 'count': n,
          'history': processor.history, 'order': 'oldest first, all cameras of a time together',
          'colours': 'RGB', 'mask': '1 for a picture, 0 for one that is missing (any pixels)',
      },
      'prompt': {
          'sentencepiece': 'assets/vocabulary.model', 'template': template,
          # The template is split at the mark, each part is encoded, and ids of images go between.
          'image_mark': prompts.IMAGE, 'image_token_id': sequences.IMAGE_TOKEN_ID,
          'image_tokens': processor.image_tokens, 'length': length, 'pad_id': _PAD,
          'eos': False, 'most_text_tokens': processor.inputs_length,
      },
      'action': {
          'names': list(space.names),
          'units': [dimension.unit for dimension in space.dimensions],
          'low': [dimension.low for dimension in space.dimensions],
          'high': [dimension.high for dimension in space.dimensions],
          'control_hz': space.control_hz,
          'terminate': f'{actions.TERMINATE_STOP} stops, {actions.TERMINATE_CONTINUE} continues',
      },
  }


def file_name(batch_size: int) -> str:
  return f'program_b{batch_size}.stablehlo'


def actions_of(processor: processor_lib.Processor) -> Callable[[jax.Array], jax.Array]:
  """The function that maps valid answers int32 [B, T] to actions float32 [B, D].

  By tables of what `ActionSpace.decode` says: no bit depends on an accelerator's arithmetic.
  """
  space, vocabulary = processor.action_space, processor.vocabulary
  ranges = [range(dimension.first, dimension.last + 1) for dimension in space.dimensions]
  if not processor.every_integer_is_one_token:
    if (count := math.prod(map(len, ranges))) > _MOST_ANSWERS:
      raise ValueError(
          f'export: the action space has {count} actions, and some of its integers take several '
          f'tokens; programs tell at most {_MOST_ANSWERS} apart: use a vocabulary with a token for '
          'each integer')
    integers_NxD = np.array(list(itertools.product(*ranges)))
    answers_NxT = np.zeros((len(integers_NxD), processor.targets_length), np.int32)
    for answer_T, integers in zip(answers_NxT, integers_NxD):
      ids = [*vocabulary.encode_integers(integers), vocabulary.eos_id]
      answer_T[:len(ids)] = ids
    values_NxD = space.decode(integers_NxD)

    def by_answer(tokens_BxT):
      same_BxN = jnp.all(tokens_BxT[:, None] == answers_NxT, axis=-1)
      return jnp.asarray(values_NxD)[jnp.argmax(same_BxN, axis=-1)]

    return by_answer

  integer_V = np.zeros(vocabulary.vocab_size, np.int32)
  integer_V[vocabulary.action_ids_256] = np.arange(len(vocabulary.action_ids_256))
  values_DxI = np.zeros((space.size, len(vocabulary.action_ids_256)), np.float32)
  for i in range(values_DxI.shape[1]):
    within_D = [min(max(i, integers[0]), integers[-1]) for integers in ranges]
    values_DxI[:, i] = space.decode(np.array(within_D))

  def by_dimension(tokens_BxT):
    integers_BxD = jnp.asarray(integer_V)[tokens_BxT[:, :space.size]]
    return jnp.asarray(values_DxI)[jnp.arange(space.size), integers_BxD]

  return by_dimension
