"""What trainers rely on: masks, weights, metrics, names of axes, sizes, grammars per row."""

import json
import zlib

import flax
from flax.linen import partitioning
import jax
import numpy as np
import pytest

from rt2_train import grammar
from rt2_train.models import architectures
from rt2_train.models import logical_axes


@pytest.fixture(scope='module')
def run(model, params):
  """loss, metrics and rows of a batch, compiled once."""
  compiled = jax.jit(model.loss_with_rows)

  def losses(batch, rng=None):
    loss, (metrics, rows) = compiled(params, batch, rng)
    return float(loss), {k: float(v.compute()) for k, v in metrics.items()}, rows

  return losses


def test_pixels_of_a_padding_frame_change_nothing(batch, run):
  other = {**batch, 'images': batch['images'].copy()}
  other['images'][1, 1] = 255 - other['images'][1, 1]
  np.testing.assert_array_equal(run(other)[2].loss_B, run(batch)[2].loss_B)
  other['images'][1, 0] = 255 - other['images'][1, 0]
  changed_B = np.asarray(run(other)[2].loss_B) != np.asarray(run(batch)[2].loss_B)
  assert changed_B.tolist() == [False, True, False]


def test_images_of_text_only_rows_change_nothing(batch, run):
  text_only = {**batch, 'image_mask': np.zeros_like(batch['image_mask'])}
  other = {**text_only, 'images': 255 - batch['images']}
  assert run(other)[0] == run(text_only)[0]
  assert np.isfinite(run(text_only)[0])


def test_targets_of_weight_zero_do_not_count(batch, run):
  other = {**batch, 'decoder_target_tokens': batch['decoder_target_tokens'].copy()}
  other['decoder_target_tokens'][batch['decoder_loss_weights'] == 0] = 9
  assert run(other)[0] == run(batch)[0]
  other['decoder_target_tokens'][0, 0] = 9
  assert run(other)[0] != run(batch)[0]


def test_the_loss_is_the_mean_over_real_targets_and_the_rows_add_up_to_it(batch, run):
  loss, metrics, rows = run(batch)
  weight = batch['decoder_loss_weights'].sum()
  assert loss == pytest.approx(float(rows.loss_B.sum()) / weight, rel=1e-5)
  assert metrics['loss'] == pytest.approx(loss)
  assert metrics['loss'] == pytest.approx(metrics['cross_ent_loss'] + metrics['z_loss'])
  assert metrics['loss_per_nonpadding_target_token'] == pytest.approx(loss, rel=1e-5)
  assert metrics['loss_per_all_target_tokens'] == pytest.approx(loss * weight / 18, rel=1e-5)
  assert metrics['non_padding_fraction/loss_weights'] == pytest.approx(weight / 18)
  assert metrics['accuracy'] == pytest.approx(float(rows.correct_B.sum()) / weight)
  np.testing.assert_array_equal(rows.weight_B, batch['decoder_loss_weights'].sum(1))


def test_microbatches_weighted_by_their_normalizer_make_up_the_batch(model, batch, run):
  weights = batch['decoder_loss_weights']
  parts = [{**batch, 'decoder_loss_weights': weights * np.eye(3, dtype=np.int32)[row][:, None]}
           for row in range(3)]
  normalizer = lambda part: float(model.loss_normalizer(part))
  total = sum(run(part)[0] * normalizer(part) for part in parts) / normalizer(batch)
  assert total == pytest.approx(run(batch)[0], rel=1e-5)


def test_eval_and_row_losses_are_those_of_training_without_dropout(model, params, batch, run):
  (loss, metrics), sums = jax.jit(
      lambda p: (model.eval_fn(p, batch), model.row_losses(p, batch)))(params)
  assert float(loss) == pytest.approx(run(batch)[0], rel=1e-6)
  assert set(metrics) == set(run(batch)[1])
  for value_B, expected_B in zip(sums, run(batch)[2][:3], strict=True):
    np.testing.assert_allclose(value_B, expected_B, rtol=1e-6)


def test_dropout_is_on_only_when_a_key_is_given(tiny, params, batch, run):
  rate = {'dropout_rate': 0.3}
  model = tiny.make_model(vit=rate, text=rate)
  loss = jax.jit(lambda b, rng: model.loss_fn(params, b, rng)[0])
  one, same, other = (float(loss(batch, jax.random.key(seed))) for seed in (0, 0, 1))
  assert one == same != other
  assert len({one, other, run(batch)[0]}) == 3
  assert float(loss(batch, None)) == pytest.approx(run(batch)[0], rel=1e-6)


def test_the_score_of_a_row_is_the_log_probability_of_its_targets(model, params, batch):
  scores = jax.jit(model.score_batch)(params, batch)
  logits = jax.jit(lambda p: model.module.apply(
      {'params': p}, batch['encoder_input_tokens'], batch['decoder_input_tokens'],
      batch['images'], batch['image_mask']))(params)
  log_p = np.take_along_axis(
      np.asarray(jax.nn.log_softmax(logits)), batch['decoder_target_tokens'][..., None], -1)[..., 0]
  np.testing.assert_allclose(scores, (log_p * batch['decoder_loss_weights']).sum(1), rtol=1e-4)


@pytest.mark.parametrize('fields', [
    {}, {'scan_layers': False}, {'relative_positions': 'per_layer', 'tied_embeddings': True},
])
def test_every_parameter_names_its_axes_and_every_name_is_listed(tiny, batch, fields):
  scan = {k: v for k, v in fields.items() if k == 'scan_layers'}
  model = tiny.make_model(
      vit=dict(parallel=True, qk_norm=True, norm='rmsnorm', qkv_bias=False) | scan, text=fields)
  shapes = {key: value.shape for key, value in batch.items()}
  variables = jax.eval_shape(
      lambda key: model.get_initial_variables(key, shapes), jax.random.key(0))
  axes = flax.traverse_util.flatten_dict(
      flax.core.unfreeze(partitioning.get_axis_names(variables['params_axes'])))
  params = flax.traverse_util.flatten_dict(flax.core.unfreeze(variables['params']))
  assert set(axes) == set(params)
  for path, leaf in params.items():
    assert len(axes[path]) == len(leaf.shape), path
    assert len(set(axes[path])) == len(leaf.shape), path
    assert set(axes[path]) <= set(logical_axes.FACTOR_RULES), path


def test_parameters_are_float32_under_the_names_of_t5x(model, batch):
  shapes = {key: value.shape for key, value in batch.items()}
  variables = jax.eval_shape(
      lambda key: model.get_initial_variables(key, shapes), jax.random.key(0))
  assert {x.dtype for x in jax.tree.leaves(variables['params'])} == {np.dtype(np.float32)}
  params = flax.traverse_util.flatten_dict(flax.core.unfreeze(variables['params']), sep='/')
  assert params['token_embedder/embedding'].shape == (40, 16)
  assert params['encoder/encoder/attention/query/kernel'].shape == (16, 2, 2, 6)
  assert params['decoder/decoder/encoder_decoder_attention/out/kernel'].shape == (2, 3, 6, 16)
  assert params['decoder/decoder/mlp/wi_1/kernel'].shape == (16, 3, 24)
  assert params['decoder/decoder/pre_cross_attention_layer_norm/scale'].shape == (16, 3)
  assert params['decoder/logits_dense/kernel'].shape == (16, 40)
  assert params['encoder/encoder_norm/scale'].shape == (16,)


def test_compute_in_bfloat16_keeps_logits_in_float32(tiny, batch):
  low = {'dtype': 'bfloat16'}
  model = tiny.make_model(vit=low, text=low)
  logits = jax.eval_shape(
      lambda p: model.module.apply(
          {'params': p}, batch['encoder_input_tokens'], batch['decoder_input_tokens'],
          batch['images'], batch['image_mask']), tiny.model_params(model, batch))
  assert logits.dtype == np.float32


def test_architecture_survives_json(tiny, batch):
  model = tiny.make_model(
      vit={'pixels': 'centered'}, text={'relative_positions': 'per_layer'}, z_loss=0.5,
      loss_normalizing_factor=None, action_sources=('fractal', 'bridge'))
  text = json.dumps(model.architecture())
  again = architectures.from_json(json.loads(text))
  assert json.dumps(again.architecture()) == text
  assert again.module == model.module
  assert again.module.scan_layers


def test_an_architecture_of_another_model_or_version_is_refused(model):
  with pytest.raises(ValueError, match="names the model 'RT-1'; known here"):
    architectures.from_json(model.architecture() | {'model': 'RT-1'})
  with pytest.raises(ValueError, match='does not fit this version of PaLIX.*mixture_of_experts'):
    architectures.from_json(model.architecture() | {'mixture_of_experts': 4})


GRAMMARS = {
    'question': grammar.anything(40, eos=1, pad=0),
    'action': grammar.slots([[5, 6, 7]], 40, eos=1, pad=0),
}


def test_a_processor_of_another_vocabulary_or_image_size_is_refused(tiny):
  with pytest.raises(ValueError, match='the tokenizer has 41 ids, the model 40'):
    tiny.make_model(processor=tiny.make_processor(GRAMMARS, vocab_size=41))
  with pytest.raises(ValueError, match='makes images of 16x12, the model takes 8x12'):
    tiny.make_model(processor=tiny.make_processor(GRAMMARS, height=16))


def test_rows_of_action_sources_answer_with_actions_and_others_with_anything(
    tiny, params, batch):
  model = tiny.make_model(
      processor=tiny.make_processor(GRAMMARS), action_sources=('pick', 'push'))
  predict = jax.jit(lambda source: model.predict_batch(params, {**batch, 'source': source}))
  hashes = lambda *names: np.array(
      [[zlib.crc32(name.encode()) & 0x7fffffff] for name in names], np.int32)
  mixed = np.asarray(predict(hashes('push', 'vqa', 'pick')))
  questions = np.asarray(predict(hashes('vqa', 'vqa', 'caption')))
  assert set(mixed[[0, 2], 0]) <= {5, 6, 7}
  assert mixed[[0, 2], 1:].tolist() == [[1, 0, 0, 0, 0]] * 2
  np.testing.assert_array_equal(mixed[1], questions[1])
  assert not np.isin(questions[:, 0], [5, 6, 7]).all()


def test_decoding_without_a_length_says_what_to_give(model, params, batch):
  images = {key: batch[key] for key in ('encoder_input_tokens', 'images', 'image_mask')}
  with pytest.raises(ValueError, match='decoding needs decode_length'):
    model.predict_batch(params, images)
  shape = jax.eval_shape(
      lambda p: model.predict_batch_with_aux(p, images, decode_length=4)[0], params).shape
  assert shape == (3, 4)
