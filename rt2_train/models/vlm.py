"""What trainers drive: losses, metrics, scores and predictions of a vision-language network.

Satisfies T5X's model contract by shape, importing neither T5X nor SeqIO: the feature converter and
the vocabulary are handed in. `pali_x` and `palm_e` say what their networks read and how they
decode.

Shape suffixes: B batch, T target length, V vocabulary.
"""

import abc
from collections.abc import Mapping, Sequence
import copy
import dataclasses
from typing import Any
import zlib

import flax
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rt2_train import sequences
from rt2_train.models import decoding
from rt2_train.models import losses

Batch = Mapping[str, jax.Array]

_EOS = 1


class VisionLanguageModel(abc.ABC):
  """A network that answers text about images with text, trained on the answers.

  A batch holds the token features of its layout (see `rt2_train.sequences`), `images` uint8
  [B, n, H, W, 3], `image_mask` int32 [B, n] (all real when absent), and for losses per task
  `source` int32 [B, 1]. `decoder_loss_weights` may be absent: then all but padding counts.

  Attributes:
    layout: name in `sequences.LAYOUTS`.
    module: the network; has `vit_config`, `config` (of its language half) and `scan_layers`.
    optimizer_def: what the trainer makes its optimizer from.
    processor: turns observations into inputs; its grammar constrains answers. Decoding is free
      when None.
    FEATURE_CONVERTER_CLS: makes training batches out of SeqIO examples.
    input_vocabulary, output_vocabulary: as SeqIO tasks have them, or the processor's.
  """

  layout: str

  def __init__(
      self,
      module: nn.Module,
      optimizer_def: Any = None,
      processor: Any = None,
      feature_converter_cls: Any = None,
      vocabulary: Any = None,
      z_loss: float = 1e-4,
      label_smoothing: float = 0.0,
      loss_normalizing_factor: str | float | None = 'NUM_REAL_TARGET_TOKENS',
      action_sources: Sequence[str] = ('robot',),
      plan_sources: Sequence[str] = ('chain_of_thought',),
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
      action_sources: names of the tasks whose answers are actions; asked by those who decode
        batches without `grammar_state`, as T5X does.
      plan_sources: names of the tasks whose answers are a plan and an action, likewise.

    Raises:
      ValueError: the processor's tokens or images do not fit the module, or an unknown factor.
    """
    losses.check_factor(loss_normalizing_factor)
    self.module = module
    if processor is not None:
      self._check_fits(module, processor)
      vocabulary = processor.vocabulary if vocabulary is None else vocabulary
    self.optimizer_def = optimizer_def
    self.processor = processor
    self.FEATURE_CONVERTER_CLS = feature_converter_cls  # pylint: disable=invalid-name
    self.input_vocabulary = self.output_vocabulary = vocabulary
    self._eos_id = _EOS if vocabulary is None else vocabulary.eos_id
    self._z_loss = z_loss
    self._label_smoothing = label_smoothing
    self._factor = loss_normalizing_factor
    self._action_sources, self._plan_sources = tuple(action_sources), tuple(plan_sources)
    self._mask, self._starts = None, {}
    if processor is not None:
      grammar, self._starts = processor.grammar()
      self._mask = decoding.GrammarMask(
          grammar.token_class_V, grammar.next_SxC, module.config.vocab_size)

  @abc.abstractmethod
  def network_inputs(self, batch: Batch) -> tuple[jax.Array | None, ...]:
    """What `module` is called with; a feature that the batch lacks is None."""

  @abc.abstractmethod
  def targets(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The targets that the network's logits are for, int32 [B, T], and their loss weights."""

  @abc.abstractmethod
  def start_decoding(self, params: Any, batch: Batch, length: int) -> decoding.Start:
    """Reads the prompts once; decoding of up to `length` tokens goes on from there."""

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
    return flax.core.freeze(self.module.init(rng, *self.network_inputs(batch)))

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
    return losses.normalizer(loss_weights(batch), self._factor)

  def score_batch(self, params: Any, batch: Batch) -> jax.Array:
    """Log-probability of each row's targets, float32 [B]."""
    targets_BxT, weights_BxT = self.targets(batch)
    per_token = losses.token_losses(
        self._logits(params, batch, None), targets_BxT, z_loss=0.0, label_smoothing=0.0)
    return -losses.row_sums(per_token, weights_BxT).loss_B

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
    whose `source` is an action task answer with an action, those of a plan task with a plan and
    an action, and the others with anything.

    Args:
      params: parameters.
      batch: one whose targets are not looked at.
      rng: key for sampling.
      temperature: 0 is greedy; a Python number, since it shapes the program.
      decode_length: T; by default the processor's, or else that of the batch's targets.

    Returns:
      Tokens int32 [B, T], padded after EOS, and {'scores': float32 [B]}: the log-probability of
      each answer among those the grammar allows.
    """
    start = self.start_decoding(params, batch, self._decode_length(batch, decode_length))
    answers_BxT, score_B = decoding.decode(
        start, eos_id=self._eos_id, mask=self._mask,
        start_B=None if self._mask is None else self._grammar_starts(batch),
        temperature=temperature, rng=rng,
    )
    return answers_BxT, {'scores': score_B}

  def batch_shapes(
      self, *, batch_size: int, inputs_length: int, targets_length: int, num_images: int = 1
  ) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a training batch; `inputs_length` counts text, image tokens inside it come on top.
    """
    config = self.module.vit_config
    length = inputs_length + num_images * self.image_tokens
    row = sequences.LAYOUTS[self.layout](
        np.zeros((1, length), np.int32), np.zeros((1, targets_length), np.int32))
    row['images'] = np.zeros((1, num_images, config.image_height, config.image_width, 3), np.uint8)
    row['image_mask'] = np.zeros((1, num_images), np.int32)
    row['source'] = np.zeros((1, 1), np.int32)
    return {
        name: jax.ShapeDtypeStruct((batch_size, *feature.shape[1:]), feature.dtype)
        for name, feature in row.items()
    }

  @property
  def image_tokens(self) -> int:
    """Tokens that each image takes inside the text."""
    return 0

  def with_remat_policy(self, name: str) -> 'VisionLanguageModel':
    """The same model, rematerialised by the policy of that name in all its towers."""
    module = self.module
    model = copy.copy(self)
    model.module = module.clone(
        vit_config=dataclasses.replace(module.vit_config, remat_policy=name),
        config=dataclasses.replace(module.config, remat_policy=name),
    )
    return model

  def architecture(self) -> dict[str, Any]:
    """What `architectures.from_json` rebuilds this model from, ready for JSON."""
    language = dataclasses.asdict(self.module.config)
    return {
        'model': type(self).__name__,
        'vit': dataclasses.asdict(self.module.vit_config),
        # JSON has no tuples.
        'language': {k: list(v) if isinstance(v, tuple) else v for k, v in language.items()},
        'projection_bias': self.module.projection_bias,
        'z_loss': self._z_loss,
        'label_smoothing': self._label_smoothing,
        'loss_normalizing_factor': self._factor,
        'action_sources': list(self._action_sources),
        'plan_sources': list(self._plan_sources),
    }

  def _logits(self, params, batch, dropout_rng):
    module = self.module.clone(deterministic=dropout_rng is None)
    rngs = None if dropout_rng is None else {'dropout': dropout_rng}
    return module.apply({'params': params}, *self.network_inputs(batch), rngs=rngs)

  def _row_losses(self, params, batch, dropout_rng):
    targets_BxT, weights_BxT = self.targets(batch)
    per_token = losses.token_losses(
        self._logits(params, batch, dropout_rng), targets_BxT,
        z_loss=self._z_loss, label_smoothing=self._label_smoothing)
    return losses.row_sums(per_token, weights_BxT)

  def _decode_length(self, batch, decode_length):
    if decode_length is not None:
      return decode_length
    if self.processor is not None:
      return self.processor.targets_length
    if 'decoder_target_tokens' in batch:
      return batch['decoder_target_tokens'].shape[1]
    raise ValueError('decoding needs decode_length, decoder_target_tokens or a processor')

  def _grammar_starts(self, batch):
    if 'grammar_state' in batch:
      return batch['grammar_state']
    rows = batch['images'].shape[0]
    if 'source' not in batch:
      return jnp.full(rows, self._starts['question'], jnp.int32)
    start_B = jnp.full(rows, self._starts['question'], jnp.int32)
    for kind, names in (('action', self._action_sources), ('plan', self._plan_sources)):
      if kind in self._starts:
        hashes = [zlib.crc32(name.encode()) & 0x7fffffff for name in names]
        is_kind_B = jnp.isin(batch['source'].reshape(rows), jnp.asarray(hashes, jnp.int32))
        start_B = jnp.where(is_kind_B, self._starts[kind], start_B)
    return start_B

  def _check_fits(self, module: nn.Module, processor: Any) -> None:
    vocab_size, known = module.config.vocab_size, processor.vocabulary.vocab_size
    if known > vocab_size:
      raise ValueError(
          f'the tokenizer has {known} ids, the model {vocab_size}; raise vocab_size of '
          f'{type(module.config).__name__}'
      )
    spec, config = processor.image_spec, module.vit_config
    if (spec.height, spec.width) != (config.image_height, config.image_width):
      raise ValueError(
          f'the processor makes images of {spec.height}x{spec.width}, the model takes '
          f'{config.image_height}x{config.image_width}; set both alike'
      )
    tokens = self.image_tokens
    if (processor.layout, processor.image_tokens) != (self.layout, tokens):
      raise ValueError(
          f'the processor lays examples out as {processor.layout!r} with {processor.image_tokens} '
          f'tokens per image inside the text, {type(self).__name__} reads {self.layout!r} with '
          f'{tokens}; set Processor.layout and Processor.image_tokens so'
      )


def images_of(batch: Batch) -> tuple[jax.Array, jax.Array]:
  """The images of a batch and which of them are real."""
  images, image_mask = batch['images'], batch.get('image_mask')
  if image_mask is None:
    image_mask = jnp.ones(images.shape[:2], jnp.int32)
  return images, image_mask


def loss_weights(batch: Batch) -> jax.Array:
  """The weight of each target token [B, T]; 1 for all but padding when the batch says nothing."""
  weights = batch.get('decoder_loss_weights')
  return batch['decoder_target_tokens'] != 0 if weights is None else weights
