"""The arrows of the house: who imports whom, and that the model side needs no TensorFlow."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
GROUND = {
    'actions', 'prompts', 'sequences', 'vocabulary', 'grammar', 'images', 'processor', 'run_files',
}
# Room -> rooms whose modules it may import, beside the ground and itself.
ALLOWED = {
    'ground': set(),
    'gin_files': set(),
    'distributed': set(),
    'data': set(),
    'models': set(),
    'sim': set(),
    'training': {'models', 'gin_files'},
    'precompile': {'training'},
    'serving': {'models'},
    'convert': {'models', 'training'},
    'evaluation': {'models', 'sim', 'serving'},
    'main': {'gin_files', 'distributed', 'training', 'precompile', 'evaluation'},
    'mixtures': {'data'},
    'tools': {
        'data', 'models', 'sim', 'training', 'precompile', 'serving', 'convert', 'evaluation',
        'main', 'mixtures', 'gin_files',
    },
}
TENSORFLOW = (
    'tensorflow', 'seqio', 'tensorflow_datasets', 'clu.metric_writers', 'clu.periodic_actions',
    'flax.metrics.tensorboard',
)  # pyformat: disable
TOPS = ('rt2_train', 'mixtures', 'tools')
MODULES = [path for top in TOPS for path in (ROOT / top).rglob('*.py')]


def room_of(module: str) -> str | None:
  """The room a dotted module name belongs to; None if it is not ours."""
  parts = module.split('.')
  if parts[0] in ('mixtures', 'tools'):
    return parts[0]
  if parts[0] != 'rt2_train' or len(parts) == 1:
    return None
  return 'ground' if parts[1] in GROUND else parts[1]


def imports(path: pathlib.Path) -> set[str]:
  """Dotted names of everything a file imports, inside functions too."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      found |= {f'{node.module}.{alias.name}' for alias in node.names}
  return found


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_rooms_below_it(path):
  module = '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
  room = room_of(module)
  if room is None:
    return
  for name in imports(path):
    other = room_of(name)
    assert other in (None, 'ground', room) or other in ALLOWED[room], f'{module} imports {name}'
    if room not in ('data', 'mixtures', 'tools'):
      assert not name.startswith(TENSORFLOW), f'{module} imports {name}'


def test_models_training_and_serving_start_without_tensorflow():
  code = (
      'import sys\n'
      'from rt2_train.models import vlm\n'
      'from rt2_train.training import train\n'
      'from rt2_train.serving import policy\n'
      f'print([name for name in {TENSORFLOW!r} if name in sys.modules])\n'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == '[]'
