"""What is imported computes what `transformers` computes: logits and greedy decodes."""

import json

import jax
import numpy as np
import pytest

from tests.convert import conftest
from tools import make_parity_fixtures

HALVES = ('t5_1_1_siglip', 'ul2_siglip2', 'mt5_vit', 'umt5_siglip')
# What of a batch a network reads; a fixture has it first.
INPUTS = 4
FILES = [path for path in conftest.FIXTURES.rglob('*') if path.is_file()]


@pytest.mark.parametrize('name', HALVES)
def test_an_imported_encoder_decoder_answers_as_its_source(imported, name):
  checkpoint, _ = imported(name)
  expected = np.load(conftest.FIXTURES / name / 'expected.npz')
  fresh = {path: expected[path] for path in expected.files if path.startswith('image_projection')}
  model, params = conftest.read(checkpoint, fresh)
  batch = {key: expected[key] for key in expected.files[:INPUTS]}

  def answer(params, batch):
    logits = model.module.apply({'params': params}, *model.network_inputs(batch))
    decodes, _ = model.predict_batch_with_aux(
        params, batch, decode_length=expected['decodes'].shape[1])
    return logits, decodes

  logits, decodes = jax.jit(answer)(params, batch)
  known = expected['logits'].shape[-1]
  difference = np.abs(logits[..., :known] - expected['logits']).max()
  assert difference <= 1e-4
  assert expected['logits'].std() > 0.2
  np.testing.assert_array_equal(decodes, expected['decodes'])


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(conftest.FIXTURES)))
def test_a_fixture_is_small(path):
  assert path.stat().st_size < 300_000


@pytest.mark.parametrize('name', make_parity_fixtures.CASES)
def test_a_fixture_is_what_transformers_computes_today(tmp_path, name):
  pytest.importorskip('torch')
  pytest.importorskip('transformers')
  safetensors = pytest.importorskip('safetensors.numpy')
  there = conftest.FIXTURES / name
  seed = json.loads((there / 'versions.json').read_text())['seed']
  make_parity_fixtures.make(name, tmp_path / name, seed)
  expected, now = np.load(there / 'expected.npz'), np.load(tmp_path / name / 'expected.npz')
  assert now.files == expected.files
  for key in expected.files:
    np.testing.assert_allclose(now[key], expected[key], atol=1e-5, err_msg=key)
  for source in there.glob('*/model.safetensors'):
    old = safetensors.load_file(source)
    new = safetensors.load_file(tmp_path / name / source.relative_to(there))
    assert old.keys() == new.keys()
    for key in old:
      np.testing.assert_array_equal(new[key], old[key], err_msg=key)
