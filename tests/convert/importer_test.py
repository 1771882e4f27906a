"""The importer: every layout gives the same parameters, and what does not fit is refused."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_train import run_files
from rt2_train.convert import sources
from rt2_train.serving import policy
from rt2_train.training import checkpoints
from rt2_train.training import optimizers
from tests.convert import conftest
from tests.convert import foreign_files

NAME = 'umt5_siglip'
GIN = conftest.FIXTURES / NAME / 'model.gin'
VISION, LANGUAGE = conftest.halves(NAME)


def language_tensors(name=NAME):
  source = sources.HuggingFace(conftest.FIXTURES / name / 'language')
  return {key: source.read(key) for key in source.names()}, source.config


@pytest.mark.parametrize('name, layout, stacked, ours', [
    ('umt5_siglip', 'legacy', True, True), ('umt5_siglip', 'orbax', True, False),
    ('ul2_siglip2', 'legacy', False, True), ('ul2_siglip2', 'orbax', False, False)])
def test_t5x_checkpoints_scanned_or_not_become_what_transformers_files_become(
    tmp_path, imported, name, layout, stacked, ours):
  checkpoint, _ = imported(name)
  params = policy.read_params(checkpoint)
  flat = {path: np.asarray(leaf) for path, leaf in optimizers.flatten(params).items()}
  if name == 'ul2_siglip2':
    flat['decoder/decoder_norm/scale'] = np.ones(24, np.float32)
    scale = flat.pop('decoder/decoder_norm/scale')
  there = foreign_files.t5x_names(flat, 3, stacked)
  if layout == 'legacy':
    foreign_files.write_legacy(tmp_path / 'checkpoint_7', there)
  else:
    foreign_files.write_orbax(tmp_path / 'run', there)
  path = tmp_path / ('checkpoint_7' if layout == 'legacy' else 'run')
  gin_file = conftest.FIXTURES / name / 'model.gin'
  bindings = () if ours else (
      'rt2_train.models.encoder_decoder.EncoderDecoderConfig.scan_layers = False',)
  report = conftest.run(
      gin_file, [conftest.halves(name)[0], ('t5x', path)], tmp_path / 'out', bindings)
  assert not [name for name in report.unused if not name.startswith('head.')]
  again = optimizers.flatten(policy.read_params(tmp_path / 'out'))
  if name == 'ul2_siglip2':
    # UL2's last norm has no scale, which reads as ones.
    flat['decoder/decoder_norm/scale'] = scale
  for path, leaf in again.items():
    expected = flat.get(path)
    if expected is None:
      tower, layer, *rest = path.split('/')
      expected = flat['/'.join([tower, tower, *rest])][:, int(layer.removeprefix('layers_'))]
    np.testing.assert_array_equal(leaf, expected, err_msg=path)


@pytest.mark.parametrize('stacked', [False, True])
def test_big_vision_files_become_what_transformers_files_become(tmp_path, imported, stacked):
  checkpoint, _ = imported(NAME)
  flat = optimizers.flatten(policy.read_params(checkpoint))
  file = tmp_path / 'siglip.npz'
  foreign_files.write_big_vision(file, {k: np.asarray(v) for k, v in flat.items()}, 4, stacked)
  report = conftest.run(GIN, [('big_vision', file), LANGUAGE], tmp_path / 'out')
  conftest.assert_same_params(tmp_path / 'out', checkpoint)
  assert report.unused == ['params/t', 'params/txt/head/bias']


def test_shards_and_bfloat16_are_read(tmp_path, imported):
  tensors, config = language_tensors()
  half = {name: tensor.astype(jnp.bfloat16) for name, tensor in tensors.items()}
  foreign_files.write_safetensors(tmp_path / 'sharded', half, config, shards=3)
  conftest.run(GIN, [VISION, ('hf', tmp_path / 'sharded')], tmp_path / 'out')
  new = policy.read_params(tmp_path / 'out')['token_embedder']['embedding']
  np.testing.assert_array_equal(new[:96], np.asarray(half['shared.weight'], np.float32))


def test_bits_of_bfloat16_in_old_t5x_checkpoints_are_numbers(tmp_path):
  table = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
  foreign_files.write_legacy(tmp_path / 'old', {'token_embedder/embedding': table}, version=2)
  source = sources.T5X(tmp_path / 'old')
  read = source.read('token_embedder/embedding', (slice(2, 5),))
  assert read.dtype == source.dtype('token_embedder/embedding') == jnp.bfloat16
  np.testing.assert_array_equal(read, table[2:5].astype(jnp.bfloat16))


def test_the_report_names_every_tensor_once(imported):
  checkpoint, report = imported(NAME)
  known = set()
  for format_, path in conftest.halves(NAME):
    known |= set(sources.open_source(format_, path).names())
  used = {name for names in report.used.values() for name in names}
  assert used | set(report.unused) == known and not used & set(report.unused)
  assert all(name.startswith('head.') for name in report.unused)
  assert report.initialised == ['image_projection/bias', 'image_projection/kernel']
  params = optimizers.flatten(policy.read_params(checkpoint))
  assert {*report.used, *report.initialised} == set(params)
  assert json.loads((checkpoint / 'assets/import.json').read_text())['used'] == report.used


def test_ids_beyond_the_source_are_never_the_likeliest(imported):
  checkpoint, report = imported(NAME)
  params = policy.read_params(checkpoint)
  head = np.asarray(params['decoder']['logits_dense']['kernel'])
  np.testing.assert_allclose(
      head[:, 96:], np.repeat(head[:, :96].mean(1, keepdims=True), 32, 1), atol=1e-6)
  states = np.random.default_rng(0).normal(size=(100, 24))
  assert (states @ head).argmax(1).max() < 96
  assert report.notes['decoder/logits_dense/kernel'].startswith('32 ids beyond the 96')


def test_what_no_source_covers_starts_as_training_would_start_it(tmp_path):
  conftest.run(
      GIN, [LANGUAGE], tmp_path / 'out', ["ALLOW_MISSING = ('^image_', '^vit/')", 'RANDOM_SEED = 3'])
  model, params = conftest.read(tmp_path / 'out')
  batch = model.batch_shapes(batch_size=1, inputs_length=8, targets_length=8)
  key = jax.random.split(jax.random.key(3))[0]

  @jax.jit
  def first_params(key):
    variables = model.get_initial_variables(
        key, {k: v.shape for k, v in batch.items()}, {k: v.dtype for k, v in batch.items()})
    flat = optimizers.flatten(variables['params'])
    return {path: flat[path] for path in ('image_projection/kernel', 'vit/vit/mlp/wi/kernel')}

  for path, expected in first_params(key).items():
    np.testing.assert_allclose(optimizers.flatten(params)[path], expected, atol=1e-7)


def test_positions_are_resized_between_the_centres_of_patches(tmp_path, imported):
  report = conftest.run(GIN, [VISION, LANGUAGE], tmp_path / 'out', ['IMAGE_SIZE = 24'])
  assert report.notes['vit/pos_embedding'] == (
      'resized from 4x4 to 6x6 positions, bilinear with antialiasing')
  resized = policy.read_params(tmp_path / 'out')['vit']['pos_embedding']
  table = np.asarray(policy.read_params(imported(NAME)[0])['vit']['pos_embedding'])
  # Centres of the outer patches lie beyond those of the source, whose edge is repeated.
  at = np.clip((np.arange(6) + 0.5) * 4 / 6 - 0.5, 0, 3)
  low, share = np.floor(at).astype(int), at % 1
  weights = np.zeros((6, 4))
  weights[np.arange(6), low] += 1 - share
  weights[np.arange(6), np.minimum(low + 1, 3)] += share
  expected = np.einsum('ai,bj,ije->abe', weights, weights, table.reshape(4, 4, -1))
  np.testing.assert_allclose(resized, expected.reshape(36, -1), atol=1e-5)


def test_a_run_starts_from_an_import(imported):
  checkpoint, _ = imported(NAME)
  assert run_files.find_checkpoint(checkpoint) == checkpoint
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  params = policy.read_params(checkpoint)
  shapes = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=device), params)
  jax.tree.map(np.testing.assert_array_equal,
               checkpoints.restore_params(str(checkpoint), shapes), params)


def test_an_output_layer_that_copies_the_table_is_no_other(tmp_path):
  tensors, config = language_tensors('ul2_siglip2')
  gin_file = conftest.FIXTURES / 'ul2_siglip2/model.gin'
  vision = conftest.halves('ul2_siglip2')[0]
  copy = tensors | {'lm_head.weight': tensors['shared.weight']}
  foreign_files.write_safetensors(tmp_path / 'copy', copy, config)
  conftest.run(gin_file, [vision, ('hf', tmp_path / 'copy')], tmp_path / 'out')
  other = tensors | {'lm_head.weight': tensors['shared.weight'] + 1}
  foreign_files.write_safetensors(tmp_path / 'other', other, config)
  with pytest.raises(ValueError, match='lm_head.weight of its own.*TIED_EMBEDDINGS = False'):
    conftest.run(gin_file, [vision, ('hf', tmp_path / 'other')], tmp_path / 'out2')


@pytest.mark.parametrize('named, bindings, message', [
    ([LANGUAGE], [], r'no source covers vit/.* \(and .* more\).*ALLOW_MISSING'),
    ([VISION, VISION, LANGUAGE], [], r'gives? it \[0, 1, 0, 1\]|\[None, None\]'),
    ([VISION, LANGUAGE], ['VOCAB_SIZE = 64'], '96 token ids, the model 64; set VOCAB_SIZE = 128'),
    ([VISION, LANGUAGE], ['rt2_train.models.encoder_decoder.EncoderDecoderConfig.mlp_dim = 41'],
     r'wi_0.* of shape \(40, 24\) gives .*mlp/wi_0/kernel layer 0 of \(24, 40\).*\(24, 41\)'),
    ([VISION, LANGUAGE],
     ['rt2_train.models.encoder_decoder.EncoderDecoderConfig.decoder_layers = 1'],
     'has 2 decoder layers, the model 1'),
    ([VISION, LANGUAGE], ['rt2_train.models.vit.ViTConfig.class_token = True'],
     'has class_token False, the model True'),
    ([VISION, LANGUAGE],
     ["rt2_train.models.encoder_decoder.EncoderDecoderConfig.relative_positions = 'shared'"],
     "relative positions 'per_layer', the model 'shared'"),
    ([('hf', '/nowhere')], [], '/nowhere does not exist'),
])
def test_what_does_not_fit_is_refused_and_nothing_is_left(tmp_path, named, bindings, message):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    conftest.run(GIN, named, tmp_path / 'out', bindings)
  assert os.listdir(tmp_path) == []


def test_a_checkpoint_that_is_there_is_not_touched(tmp_path):
  (tmp_path / 'out').mkdir()
  with pytest.raises(FileExistsError, match='out exists; choose another'):
    conftest.run(GIN, [VISION, LANGUAGE], tmp_path / 'out')


def test_a_source_that_is_cut_short_leaves_nothing(tmp_path):
  tensors, config = language_tensors()
  foreign_files.write_safetensors(tmp_path / 'cut', tensors, config)
  file = tmp_path / 'cut/model.safetensors'
  os.truncate(file, file.stat().st_size - 100)
  with pytest.raises(ValueError, match='model.safetensors is cut short inside'):
    conftest.run(GIN, [VISION, ('hf', tmp_path / 'cut')], tmp_path / 'out')
  assert os.listdir(tmp_path) == ['cut']
