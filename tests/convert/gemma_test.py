"""PaliGemma 1 and 2 and T5Gemma 2, imported, answer as `transformers` does; others are refused."""

import json
import shutil

import jax
import numpy as np
import pytest

from tests.convert import conftest

NAMES = ('paligemma', 'paligemma2', 't5gemma2')
ANSWERS = ('logits', 'is_real', 'decodes')


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
  """fixture name -> the checkpoint imported from it, and the report; each once."""
  done = {}

  def get(name):
    if name not in done:
      output = tmp_path_factory.mktemp(name) / 'checkpoint'
      there = conftest.FIXTURES / name
      done[name] = output, conftest.run(there / 'model.gin', [('hf', there / 'model')], output)
    return done[name]

  return get


@pytest.mark.parametrize('name', NAMES)
def test_an_imported_gemma_answers_as_its_source(imported, name):
  model, params = conftest.read(imported(name)[0])
  expected = np.load(conftest.FIXTURES / name / 'expected.npz')
  batch = {key: expected[key] for key in expected.files if key not in ANSWERS}

  def answer(params, batch):
    logits = model.module.apply({'params': params}, *model.network_inputs(batch))
    decodes, _ = model.predict_batch_with_aux(
        params, batch, decode_length=expected['decodes'].shape[1])
    return logits, decodes

  logits, decodes = jax.jit(answer)(params, batch)
  real, known = expected['is_real'], expected['logits'].shape[-1]
  difference = np.asarray(logits)[..., :known][real] - expected['logits'][real]
  assert np.abs(difference).max() <= 1e-4
  assert expected['logits'][real].std() > 0.3, 'logits that are all alike would show nothing'
  np.testing.assert_array_equal(decodes, expected['decodes'])
  assert len(np.unique(decodes)) > 4


@pytest.mark.parametrize('name', NAMES)
def test_every_tensor_is_used_and_every_parameter_covered(imported, name):
  _, report = imported(name)
  assert report.unused == [] and report.initialised == []
  (padded,) = report.notes
  assert padded == 'token_embedder/embedding'


def changed(name, directory, change):
  """A copy of a fixture's source whose config.json is changed."""
  shutil.copytree(conftest.FIXTURES / name / 'model', directory)
  config = json.loads((directory / 'config.json').read_text())
  change(config)
  (directory / 'config.json').write_text(json.dumps(config))
  return directory


def _set(*path, value):
  def change(config):
    for key in path[:-1]:
      config = config[key]
    config[path[-1]] = value

  return change


ROPE = 'rope_parameters', 'full_attention'


@pytest.mark.parametrize('name, change, message', [
    ('paligemma2', _set('text_config', 'sliding_window', value=9), 'window 9, the model 7'),
    ('paligemma2', _set('text_config', 'query_pre_attn_scalar', value=16), 'score_scale 0.25'),
    ('paligemma2', _set('text_config', 'final_logit_softcapping', value=None),
     'logits_softcap None, the model 3.0'),
    ('paligemma2', _set('text_config', 'model_type', value='gemma3_text'), "a 'gemma3_text' as"),
    ('paligemma', _set('text_config', 'hidden_activation', value='relu'), "activation 'relu'"),
    ('paligemma', _set('text_config', 'num_hidden_layers', value=2), 'layers 2, the model 3'),
    ('t5gemma2', _set('decoder', *ROPE, 'factor', value=4.0), 'global_position_scale 0.25'),
    ('t5gemma2', _set('encoder', 'text_config', *ROPE, 'rope_type', value='yarn'), "type 'yarn'"),
    ('t5gemma2', _set('decoder', 'layer_types', value=['full_attention'] * 4), 'global_layers'),
    ('t5gemma2', _set('encoder', 'eoi_token_index', value=90), 'end_of_image_id 90'),
    ('t5gemma2', _set('encoder', 'mm_tokens_per_image', value=16), 'image_pool 1, the model 2'),
])
def test_what_shapes_do_not_tell_is_held_against_the_configuration(tmp_path, name, change, message):
  source = changed(name, tmp_path / 'source', change)
  with pytest.raises(ValueError, match=message):
    conftest.run(
        conftest.FIXTURES / name / 'model.gin', [('hf', source)], tmp_path / 'checkpoint')
  assert not (tmp_path / 'checkpoint').exists()


def test_today_and_yesterdays_spelling_of_rotary_positions_are_read(tmp_path):
  def spell(config):
    for text in (config['encoder']['text_config'], config['decoder']):
      del text['rope_parameters']
      text.update(
          rope_theta=1e6, rope_local_base_freq=1e4, rope_scaling={'type': 'linear', 'factor': 8.0})

  source = changed('t5gemma2', tmp_path / 'source', spell)
  report = conftest.run(
      conftest.FIXTURES / 't5gemma2/model.gin', [('hf', source)], tmp_path / 'checkpoint')
  assert report.initialised == []


def test_a_model_of_another_family_is_refused(tmp_path):
  with pytest.raises(ValueError, match='needs a model with a T5GemmaConfig'):
    conftest.run(
        conftest.FIXTURES / 'paligemma/model.gin',
        [('hf', conftest.FIXTURES / 't5gemma2/model')], tmp_path / 'checkpoint')
