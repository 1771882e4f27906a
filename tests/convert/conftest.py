"""Imports fixtures through the code of the command."""

import json
import pathlib

import gin
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_train import gin_files
from rt2_train.convert import importer
from rt2_train.models import architectures
from rt2_train.serving import policy
from rt2_train.training import optimizers

_TRACED = {}

FIXTURES = pathlib.Path(__file__).parent / 'fixtures'
DEFAULTS = 'gin/runs/import.gin'


def run(gin_file, named, output, bindings=()):
  """What the command does after reading its flags."""
  gin.clear_config()
  gin_files.parse([DEFAULTS, str(gin_file)], bindings)
  try:
    return gin.get_configurable(importer.import_checkpoint)(sources=named, output=output)
  finally:
    gin.clear_config()


def halves(name):
  """The sources of a fixture of two halves."""
  return [('hf', FIXTURES / name / 'vision'), ('hf', FIXTURES / name / 'language')]


def read(checkpoint, new=None):
  """The model that a checkpoint describes, and its parameters; `new` in place of some."""
  model = architectures.from_json(json.loads((checkpoint / 'assets/model.json').read_text()))
  flat = optimizers.flatten(policy.read_params(checkpoint))
  for path, value in (new or {}).items():
    assert flat[path].shape == value.shape
    flat[path] = jnp.asarray(value)
  return model, optimizers.merge(flat, {})


def assert_same_params(one, other):
  one, other = (optimizers.flatten(policy.read_params(path)) for path in (one, other))
  assert list(one) == list(other)
  for path in one:
    np.testing.assert_array_equal(one[path], other[path], err_msg=path)


@pytest.fixture(autouse=True)
def _one_trace_per_architecture(monkeypatch):
  """To trace a model takes a second, and most tests import into the same one."""
  trace = importer.Parameters

  def traced(model):
    key = json.dumps(model.architecture(), sort_keys=True)
    if key not in _TRACED:
      _TRACED[key] = trace(model)
    return _TRACED[key]

  monkeypatch.setattr(importer, 'Parameters', traced)


@pytest.fixture(scope='session')
def imported(tmp_path_factory):
  """fixture name -> the checkpoint imported from it, and the report; each once."""
  done = {}

  def get(name):
    if name not in done:
      output = tmp_path_factory.mktemp(name) / 'checkpoint'
      report = run(FIXTURES / name / 'model.gin', halves(name), output)
      done[name] = output, report
    return done[name]

  return get
