"""PaLI-X as the object that trainers drive: losses, metrics, scores and predictions of one network.

Satisfies T5X's model contract by shape, importing neither T5X nor SeqIO: the feature converter and
the vocabulary are handed in.

Shape suffixes: B batch, T target length.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any
import zlib

import flax
import jax
import jax.numpy as jnp

from rt2_train.models import decoding
from rt2_train.models import encoder_decoder
from rt2_train.models import losses
from rt2_train.models import vision_language
from rt2_train.models import vit

Batch = Mapping[str, jax.Array]

_EOS = 1


class PaLIX:
  """PaLI-X (RT-2, section 3.1): a ViT and an encoder-decoder, trained on target text.

  A batch holds `encoder_input_tokens` int32 [B, L], `decoder_input_tokens` and
  `decoder_target_tokens` int32 [B, T], `decoder_loss_weights` [B, T] (targets that are no padding
  when absent), `images` uint8 [B, n, H, W, 3], `image_mask` int32 [B, n] (all real when absent).

  Attributes:
    module: the network.
    optimizer_def: what the trainer makes its optimizer from.
    processor: turns observations into inputs; its grammar constrains answers. Decoding is free
      when None.
    FEATURE_CONVERTER_CLS: makes training batches out of SeqIO examples.
    input_vocabulary, output_vocabulary: as SeqIO tasks have them, or the processor's.
  """

  def __init__(
      self,
      module: vision_language.VisionLanguage,
      optimizer_def: Any = None,
      processor: Any = None,
      feature_converter_cls: Any = None,
      vocabulary: Any = None,
      z_loss: float = 1e-4,
      label_smoothing: float = 0.0,
      loss_normalizing_factor: str | float | None = 'NUM_REAL_TARGET_TOKENS',
      action_sources: Sequence[str] = ('robot',),
  ):
    """Checks that module and processor fit.

    Args:
      module: the network.
      optimizer_def: see the class.
      processor: see the class.
      feature_converter_cls: see the class.
      vocabulary: defaults to the processor's.
      z_loss: factor on log(Z)^2.
      label_smoothing: probability that is spread over the other tokens.
      loss_normalizing_factor: see losses.normalizer.
      action_sources: names of the tasks whose answers are actions.

    Raises:
      ValueError: the processor's tokens or images do not fit the module, or an unknown factor.
    """
    losses.check_factor(loss_normalizing_factor)
    if processor is not None:
      _check_fits(module, processor)
      vocabulary = processor.vocabulary if vocabulary is None else vocabulary
    self.module = module
    self.optimizer_def = optimizer_def
    self.processor = processor
    self.FEATURE_CONVERTER_CLS = feature_converter_cls  # pylint: disable=invalid-name
    self.input_vocabulary = self.output_vocabulary = vocabulary
    self._eos_id = _EOS if vocabulary is None else vocabulary.eos_id
    self._z_loss = z_loss
    self._label_smoothing = label_smoothing
    self._factor = loss_normalizing_factor
    self._action_sources = tuple(action_sources)
    self._mask, self._starts = None, {}
    if processor is not None:
      grammar, self._starts = processor.grammar()
      self._mask = decoding.GrammarMask(
          grammar.token_class_V, grammar.next_SxC, module.config.vocab_size)

  def get_initial_variables(
      self,
      rng: jax.Array,
      input_shapes: Mapping[str, Sequence[int]],
      input_types: Mapping[str, Any] | None = None,
  ) -> flax.core.FrozenDict:
    """Initial 'params' and their logical names 'params_axes', for batches of these shapes.

    Types default to uint8 for images and int32 for everything else.
    """
    types = {'images': jnp.uint8, **(input_types or {})}
    batch = {
        key: jnp.ones(tuple(shape), types.get(key, jnp.int32))
        for key, shape in input_shapes.items()
    }
    return flax.core.freeze(self.module.init(rng, *_network_inputs(batch)))

  def loss_fn(
      self, params: Any, batch: Batch, dropout_rng: jax.Array | None
  ) -> tuple[jax.Array, losses.Metrics]:
    """Loss of a batch and its metrics; dropout is on when a key is given."""
    loss, (metrics, _) = self.loss_with_rows(params, batch, dropout_rng)
    return loss, metrics

  def eval_fn(self, params: Any, batch: Batch) -> tuple[jax.Array, losses.Metrics]:
    """Loss and metrics without dropout."""
    return self.loss_fn(params, batch, None)

  def loss_with_rows(
      self, params: Any, batch: Batch, dropout_rng: jax.Array | None
  ) -> tuple[jax.Array, tuple[losses.Metrics, losses.RowLosses]]:
    """The loss, its metrics, and what each row adds: one forward pass for loss per source."""
    rows = self._row_losses(params, batch, dropout_rng)
    loss, metrics = losses.loss_and_metrics(
        rows, self.loss_normalizer(batch), self._factor,
        tokens=batch['decoder_target_tokens'].size)
    return loss, (metrics, rows)

  def row_losses(
      self, params: Any, batch: Batch, dropout_rng: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Per row: summed loss (z-loss included), sum of the loss weights, targets predicted right."""
    rows = self._row_losses(params, batch, dropout_rng)
    return rows.loss_B, rows.weight_B, rows.correct_B

  def loss_normalizer(self, batch: Batch) -> jax.Array:
    """What the loss of this batch is divided by.

    It needs no forward pass: the gradient of a batch is the sum over its microbatches of
    gradient x normalizer, divided by the normalizer of the whole batch.
    """
    return losses.normalizer(_loss_weights(batch), self._factor)

  def score_batch(self, params: Any, batch: Batch) -> jax.Array:
    """Log-probability of each row's targets, float32 [B]."""
    per_token = losses.token_losses(
        self._logits(params, batch, None), batch['decoder_target_tokens'],
        z_loss=0.0, label_smoothing=0.0)
    return -losses.row_sums(per_token, _loss_weights(batch)).loss_B

  def predict_batch(
      self, params: Any, batch: Batch, rng: jax.Array | None = None
  ) -> jax.Array:
    """Greedy answers, int32 [B, T], padded after EOS."""
    return self.predict_batch_with_aux(params, batch, rng)[0]

  def predict_batch_with_aux(
      self,
      params: Any,
      batch: Batch,
      rng: jax.Array | None = None,
      *,
      temperature: float = 0.0,
      decode_length: int | None = None,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Answers each row under its grammar.

    Rows start in the grammar state `grammar_state` int32 [B] when the batch has it; else rows
    whose `source` is an action task answer with an action and the others with anything.

    Args:
      params: parameters.
      batch: the encoder side of a batch.
      rng: key for sampling.
      temperature: 0 is greedy; a Python number, since it shapes the program.
      decode_length: T; by default that of `decoder_input_tokens`, or the processor's.

    Returns:
      Tokens int32 [B, T], padded after EOS, and {'scores': float32 [B]}: the log-probability of
      each answer among those the grammar allows.
    """
    length = self._decode_length(batch, decode_length)
    tokens, _, images, image_mask = _network_inputs(batch)
    next_logits, cache = decoding.network(
        self.module, params, tokens, images, image_mask, length)
    answers_BxT, score_B = decoding.decode(
        next_logits, cache, batch_size=tokens.shape[0], length=length,
        eos_id=self._eos_id, mask=self._mask,
        start_B=None if self._mask is None else self._grammar_starts(batch),
        temperature=temperature, rng=rng,
    )
    return answers_BxT, {'scores': score_B}

  def architecture(self) -> dict[str, Any]:
    """What `from_architecture` rebuilds this model from, ready for JSON."""
    return {
        'model': 'PaLIX',
        'vit': dataclasses.asdict(self.module.vit_config),
        'encoder_decoder': {
            **dataclasses.asdict(self.module.config),
            'activations': list(self.module.config.activations),
        },
        'projection_bias': self.module.projection_bias,
        'z_loss': self._z_loss,
        'label_smoothing': self._label_smoothing,
        'loss_normalizing_factor': self._factor,
        'action_sources': list(self._action_sources),
    }

  def _logits(self, params, batch, dropout_rng):
    module = self.module.clone(deterministic=dropout_rng is None)
    rngs = None if dropout_rng is None else {'dropout': dropout_rng}
    return module.apply({'params': params}, *_network_inputs(batch), rngs=rngs)

  def _row_losses(self, params, batch, dropout_rng):
    per_token = losses.token_losses(
        self._logits(params, batch, dropout_rng), batch['decoder_target_tokens'],
        z_loss=self._z_loss, label_smoothing=self._label_smoothing)
    return losses.row_sums(per_token, _loss_weights(batch))

  def _decode_length(self, batch, decode_length):
    if decode_length is not None:
      return decode_length
    if 'decoder_input_tokens' in batch:
      return batch['decoder_input_tokens'].shape[1]
    if self.processor is None:
      raise ValueError('decoding needs decode_length, decoder_input_tokens or a processor')
    return self.processor.targets_length

  def _grammar_starts(self, batch):
    if 'grammar_state' in batch:
      return batch['grammar_state']
    rows = batch['encoder_input_tokens'].shape[0]
    if 'source' not in batch:
      return jnp.full(rows, self._starts['question'], jnp.int32)
    sources = [zlib.crc32(name.encode()) & 0x7fffffff for name in self._action_sources]
    is_action_B = jnp.isin(batch['source'].reshape(rows), jnp.asarray(sources, jnp.int32))
    return jnp.where(is_action_B, self._starts['action'], self._starts['question'])


def from_architecture(
    architecture: Mapping[str, Any],
    processor: Any = None,
    optimizer_def: Any = None,
    feature_converter_cls: Any = None,
    vocabulary: Any = None,
) -> PaLIX:
  """The model that `PaLIX.architecture` described.

  Raises:
    ValueError: another model, or fields that this version does not know.
  """
  fields = dict(architecture)
  name = fields.pop('model', None)
  if name != 'PaLIX':
    raise ValueError(f'architecture names the model {name!r}, only PaLIX is known here')
  try:
    module = vision_language.VisionLanguage(
        vit.ViTConfig(**fields.pop('vit')),
        encoder_decoder.EncoderDecoderConfig(**fields.pop('encoder_decoder')),
        projection_bias=fields.pop('projection_bias'),
    )
    return PaLIX(
        module, optimizer_def, processor, feature_converter_cls, vocabulary, **fields)
  except (KeyError, TypeError) as error:
    raise ValueError(
        f'architecture does not fit this version of PaLIX: {error}; '
        'use the version that wrote the checkpoint'
    ) from error


def _network_inputs(batch: Batch) -> tuple[jax.Array, jax.Array | None, jax.Array, jax.Array]:
  images = batch['images']
  image_mask = batch.get('image_mask')
  if image_mask is None:
    image_mask = jnp.ones(images.shape[:2], jnp.int32)
  return batch['encoder_input_tokens'], batch.get('decoder_input_tokens'), images, image_mask


def _loss_weights(batch: Batch) -> jax.Array:
  weights = batch.get('decoder_loss_weights')
  return batch['decoder_target_tokens'] != 0 if weights is None else weights


def _check_fits(module: vision_language.VisionLanguage, processor: Any) -> None:
  vocab_size, known = module.config.vocab_size, processor.vocabulary.vocab_size
  if known > vocab_size:
    raise ValueError(
        f'the tokenizer has {known} ids, the model {vocab_size}; raise vocab_size of '
        'EncoderDecoderConfig'
    )
  spec, config = processor.image_spec, module.vit_config
  if (spec.height, spec.width) != (config.image_height, config.image_width):
    raise ValueError(
        f'the processor makes images of {spec.height}x{spec.width}, the model takes '
        f'{config.image_height}x{config.image_width}; set both alike'
    )
