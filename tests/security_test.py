"""Nothing that is read can run code: no pickle, no eval; and no name leads out of a directory."""

import ast
import json
import pathlib

import pytest

from rt2_train import run_files
from rt2_train.data import rlds
from tests.data import broken_data

ROOT = pathlib.Path(__file__).parent.parent
MODULES = [path for top in ('rt2_train', 'mixtures', 'tools') for path in (ROOT / top).rglob('*.py')]
# Modules and calls that turn bytes or text into code.
LOADERS = {'pickle', 'cloudpickle', 'dill', 'joblib', 'marshal', 'shelve'}
CALLS = {'eval', 'exec', 'compile', '__import__'}
# Hands a program to a process that it starts itself, through a directory that nobody else may read.
OWN_CHILD = ROOT / 'rt2_train/precompile/tpu_compile.py'


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_turns_data_into_code(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      loaders = LOADERS & {alias.name.split('.')[0] for alias in node.names}
      assert loaders == ({'cloudpickle'} & loaders if path == OWN_CHILD else set())
    elif isinstance(node, ast.ImportFrom):
      assert node.module.split('.')[0] not in LOADERS
    elif isinstance(node, ast.Call):
      assert not (isinstance(node.func, ast.Name) and node.func.id in CALLS)
      for keyword in node.keywords:
        if keyword.arg == 'allow_pickle':
          assert ast.literal_eval(keyword.value) is False
        if keyword.arg == 'shell':
          assert ast.literal_eval(keyword.value) is False
      # PyYAML's load builds any object; only safe_load is harmless.
      assert not (isinstance(node.func, ast.Attribute) and node.func.attr in ('load', 'unsafe_load')
                  and isinstance(node.func.value, ast.Name) and node.func.value.id == 'yaml')


@pytest.mark.parametrize('name', ['../../elsewhere', '/elsewhere', 'a/b'])
def test_a_dataset_whose_name_is_a_path_is_refused(tmp_path, name):
  data = tmp_path / 'data'
  broken_data.write(data)
  info = data / 'dataset_info.json'
  info.write_text(json.dumps({**json.loads(info.read_text()), 'name': name}))
  before = sorted(tmp_path.rglob('*'))
  with pytest.raises(ValueError, match='dataset_info.json: name'):
    rlds.RobotSteps(str(data), 'train', 'fractal')
  assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize('name', ['../elsewhere', 'state/../../elsewhere', '/etc/hostname'])
def test_a_checkpoint_that_names_files_of_others_is_not_whole(tmp_path, name):
  checkpoint = tmp_path / 'checkpoint_1'
  for file in ('_CHECKPOINT_METADATA', 'state/_METADATA', '../elsewhere'):
    run_files.write(checkpoint / file, '')
  run_files.seal(checkpoint)
  assert run_files.damage(checkpoint) is None
  (checkpoint / 'files.json').write_text(json.dumps({'state/_METADATA': 0, name: 0}))
  said = run_files.damage(checkpoint)
  assert said == f'files.json names {name!r}, which is not in the checkpoint'
