"""What an export holds of a checkpoint, and that it is whole or absent."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import gin
import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy

from rt2_train import gin_files
from rt2_train.serving import export as export_lib
from rt2_train.serving import policy as policy_lib
from rt2_train.serving import tensors
from rt2_train.serving import weights
from tests.serving import small_models

ROOT = pathlib.Path(__file__).parent.parent.parent
export = export_lib.export


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  return small_models.make(tmp_path_factory.mktemp('model'), 'pali_x')


@pytest.fixture(scope='module')
def target(model):
  return small_models.params(model, seed=0)


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory, model, target) -> pathlib.Path:
  directory = tmp_path_factory.mktemp('run')
  small_models.write_checkpoint(directory, model, target, step=100)
  small_models.write_checkpoint(
      directory, model, small_models.params(model, seed=1), ema=small_models.params(model, seed=2),
      step=200)
  return directory


def observations(count: int = 3) -> list[policy_lib.Observation]:
  rng = np.random.default_rng(0)
  size = small_models.SIZE
  frames = rng.integers(0, 256, (count, size, size, 3), np.uint8)
  return [policy_lib.Observation([frame], 'pick anchor') for frame in frames]


def texts(policy: policy_lib.Policy) -> list[str]:
  return [answer.text for answer in policy.infer(observations())]


def held(directory) -> dict[str, np.ndarray]:
  manifest = json.loads((directory / 'manifest.json').read_text())
  return {name: array for file in manifest['files']
          for name, array in safetensors.numpy.load_file(directory / file).items()}


def test_float32_comes_back_bit_for_bit_without_the_optimizer(run_dir, target, tmp_path):
  manifest = export(checkpoint_path=run_dir, output_path=tmp_path / 'out', step=100)
  expected = weights.flat(target)
  found = held(tmp_path / 'out')
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(found[name], array, strict=True)
  assert manifest['checkpoint'] == 'checkpoint_100' and manifest['averaged'] is False
  assert manifest['bytes'] == sum(array.nbytes for array in expected.values())


def test_bfloat16_is_the_cast(run_dir, target, tmp_path):
  export(checkpoint_path=run_dir, output_path=tmp_path / 'out', step=100, dtype='bfloat16')
  found = held(tmp_path / 'out')
  for name, array in weights.flat(target).items():
    np.testing.assert_array_equal(found[name], array.astype(ml_dtypes.bfloat16), strict=True)


def test_int8_is_within_half_a_step_of_each_output_channel(run_dir, target, tmp_path):
  export(checkpoint_path=run_dir, output_path=tmp_path / 'out', step=100, dtype='int8')
  found = held(tmp_path / 'out')
  restored = weights.flat(weights.dequantized(weights.nested(found)))
  expected = weights.flat(target)
  assert restored.keys() == expected.keys()
  for name, array in expected.items():
    if name.endswith(('/kernel', '/embedding')):
      scale = found[f'{name}_scale']
      assert found[name].dtype == np.int8 and np.abs(found[name]).max() == 127
      assert (np.abs(restored[name] - array) <= scale * 0.50001).all(), name
    else:
      np.testing.assert_array_equal(restored[name], array)
  # One scale per output channel and layer, whatever is summed over.
  layers, width, heads, head_dim = 2, 16, 2, 8
  attention = 'encoder/encoder/attention'
  assert found[f'{attention}/query/kernel_scale'].shape == (1, layers, heads, head_dim)
  assert found[f'{attention}/out/kernel_scale'].shape == (1, layers, 1, width)
  assert found['encoder/encoder/mlp/wo/kernel_scale'].shape == (1, layers, width)
  assert found['token_embedder/embedding_scale'].shape == (small_models.VOCAB_SIZE, 1)


def test_a_channel_of_zeros_stays_zero(model, target, tmp_path):
  silent = jax.tree.map(np.copy, target)
  silent['image_projection']['kernel'][:, 3] = 0
  small_models.write_checkpoint(tmp_path / 'run', model, silent)
  export(checkpoint_path=tmp_path / 'run', output_path=tmp_path / 'out', dtype='int8')
  restored = weights.dequantized(weights.nested(held(tmp_path / 'out')))
  assert not np.isnan(restored['image_projection']['kernel']).any()
  assert (restored['image_projection']['kernel'][:, 3] == 0).all()


@pytest.mark.parametrize('dtype', [
    'int8', pytest.param('float32', marks=pytest.mark.slow),
    pytest.param('bfloat16', marks=pytest.mark.slow)])
def test_a_policy_of_an_export_answers_as_one_of_its_parameters(
    dtype, run_dir, model, target, tmp_path):
  export(checkpoint_path=run_dir, output_path=tmp_path / 'out', step=100, dtype=dtype)
  expected = target
  if dtype == 'bfloat16':
    expected = jax.tree.map(
        lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32), target)
  elif dtype == 'int8':
    expected = jax.device_get(weights.dequantized(weights.nested(held(tmp_path / 'out'))))
  loaded = policy_lib.Policy.from_checkpoint(tmp_path / 'out', batch_sizes=(4,))
  assert texts(loaded) == texts(
      policy_lib.Policy(model, expected, model.processor, batch_sizes=(4,)))
  assert policy_lib.load_processor(tmp_path / 'out').fingerprint == model.processor.fingerprint


def test_averaged_parameters_are_taken_where_the_run_kept_them(run_dir, model, tmp_path):
  for name, ema, seed in [('default', None, 2), ('last', False, 1)]:
    manifest = export(checkpoint_path=run_dir, output_path=tmp_path / name, ema=ema)
    assert manifest['averaged'] is (seed == 2)
    expected = weights.flat(small_models.params(model, seed))
    for key, array in held(tmp_path / name).items():
      np.testing.assert_array_equal(array, expected[key])


def test_large_parameters_are_several_files_with_an_index(run_dir, target, tmp_path):
  out = tmp_path / 'out'
  manifest = export(checkpoint_path=run_dir, output_path=out, step=100, most_bytes=20_000)
  assert len(manifest['files']) > 2
  index = json.loads((out / 'params.safetensors.index.json').read_text())
  assert set(index['weight_map'].values()) == set(manifest['files'])
  for file in manifest['files']:
    arrays = safetensors.numpy.load_file(out / file)
    assert {index['weight_map'][name] for name in arrays} == {file}
    assert len(arrays) == 1 or sum(array.nbytes for array in arrays.values()) <= 20_000
  read = weights.nested(jax.device_get(weights.read(out)))
  jax.tree.map(np.testing.assert_array_equal, read, target)
  os.remove(out / manifest['files'][1])
  with pytest.raises(FileNotFoundError, match=f'{manifest["files"][1]} is missing; copy the whole'):
    policy_lib.Policy.from_checkpoint(out)


def test_parameters_stored_in_chunks_are_read_row_by_row(model, target, tmp_path, monkeypatch):
  """As a run on several devices stores them; pieces far smaller than chunks and tensors."""
  monkeypatch.setattr('rt2_train.serving.tensors._PIECE', 1000)
  write_parameters(tmp_path / 'run', model, target, chunk_byte_size=2000)
  stored = tensors.of_checkpoint(tmp_path / 'run/checkpoint_1')
  assert stored['encoder/encoder/mlp/wi_0/kernel'].store.chunk_layout.read_chunk.shape[0] < 16
  for dtype in ('float32', 'int8'):
    export(checkpoint_path=tmp_path / 'run', output_path=tmp_path / dtype, dtype=dtype)
  jax.tree.map(np.testing.assert_array_equal, weights.nested(held(tmp_path / 'float32')), target)
  found = held(tmp_path / 'int8')
  kernel = target['encoder']['encoder']['mlp']['wi_0']['kernel']
  np.testing.assert_allclose(
      found['encoder/encoder/mlp/wi_0/kernel_scale'],
      np.abs(kernel).max(0, keepdims=True) / 127, rtol=1e-6)
  table = target['token_embedder']['embedding']
  np.testing.assert_allclose(
      found['token_embedder/embedding_scale'], np.abs(table).max(1, keepdims=True) / 127, rtol=1e-6)


def write_parameters(run_dir, model, target, chunk_byte_size=None) -> None:
  """A checkpoint of parameters alone."""
  checkpoint = run_dir / 'checkpoint_1'
  (checkpoint / 'assets').mkdir(parents=True)
  small_models.write_assets(str(checkpoint / 'assets'), model)
  save_args = jax.tree.map(
      lambda _: ocp.SaveArgs(chunk_byte_size=chunk_byte_size), {'target': target})
  with ocp.PyTreeCheckpointer() as checkpointer:
    checkpointer.save(
        checkpoint / 'state', ocp.args.PyTreeSave({'target': target}, save_args=save_args))
  (checkpoint / '_CHECKPOINT_METADATA').write_text('{}')


def test_an_export_that_is_killed_leaves_nothing_that_loads(run_dir, tmp_path):
  code = textwrap.dedent(f"""
      import os, signal
      from rt2_train.serving import export, weights
      write, written = weights._write_file, []
      def killed_at_the_third_file(path, held):
        if len(written) == 2:
          os.kill(os.getpid(), signal.SIGKILL)
        written.append(path)
        write(path, held)
      weights._write_file = killed_at_the_third_file
      export.export(checkpoint_path={str(run_dir)!r}, output_path={str(tmp_path / 'out')!r},
                    most_bytes=20_000)
  """)
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, check=False)
  assert done.returncode == -signal.SIGKILL, done.stderr
  assert not (tmp_path / 'out').exists()
  assert len(list((tmp_path / 'out.partial').glob('*.safetensors'))) == 2
  for path in (tmp_path / 'out', tmp_path / 'out.partial'):
    with pytest.raises(FileNotFoundError):
      policy_lib.Policy.from_checkpoint(path)
  # The next one is not hindered by what was left.
  export(checkpoint_path=run_dir, output_path=tmp_path / 'out')
  assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_an_export_that_fails_leaves_nothing(model, target, tmp_path):
  broken = jax.tree.map(np.copy, target)
  broken['encoder']['encoder_norm']['scale'][5] = np.nan
  small_models.write_checkpoint(tmp_path / 'run', model, broken)
  with pytest.raises(ValueError, match='parameter encoder/encoder_norm/scale is not finite'):
    export(checkpoint_path=tmp_path / 'run', output_path=tmp_path / 'out')
  assert [path.name for path in tmp_path.iterdir()] == ['run']


def test_a_file_that_is_cut_short_is_named(run_dir, tmp_path):
  export(checkpoint_path=run_dir, output_path=tmp_path / 'out')
  file = tmp_path / 'out/params.safetensors'
  file.write_bytes(file.read_bytes()[:-1])
  with pytest.raises(ValueError, match='out/params.safetensors is damaged: .*; export again'):
    policy_lib.Policy.from_checkpoint(tmp_path / 'out')


@pytest.mark.parametrize('wrong, message', [
    ({'format': 'onnx'}, "format is 'onnx'; choose one of params, stablehlo"),
    ({'dtype': 'int4'}, "dtype is 'int4'; choose one of float32, bfloat16, int8"),
    ({'batch_sizes': (0,)}, r'batch_sizes \(0,\)'),
    ({'camera_size': (480,)}, r'camera_size is \(480,\); it is height and width'),
    ({'camera_size': (0, 640)}, r'camera_size is \(0, 640\)'),
])
def test_wrong_arguments_are_refused_by_name(run_dir, tmp_path, wrong, message):
  with pytest.raises(ValueError, match=message):
    export(checkpoint_path=run_dir, output_path=tmp_path / 'out', **wrong)
  assert not (tmp_path / 'out').exists()


def test_missing_checkpoints_and_a_taken_directory_are_refused(run_dir, tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no checkpoint of step 7; it has \[100, 200\]'):
    export(checkpoint_path=run_dir, output_path=tmp_path / 'out', step=7)
  with pytest.raises(FileNotFoundError, match='ema is missing'):
    export(checkpoint_path=run_dir, output_path=tmp_path / 'out', step=100, ema=True)
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out/mine').write_text('keep')
  with pytest.raises(FileExistsError, match='out exists; name another directory, or remove it'):
    export(checkpoint_path=run_dir, output_path=tmp_path / 'out')
  assert (tmp_path / 'out/mine').read_text() == 'keep'


def test_what_was_chosen_at_export_cannot_be_chosen_again(run_dir, tmp_path):
  export(checkpoint_path=run_dir, output_path=tmp_path / 'out')
  with pytest.raises(ValueError, match='leave step 100 out'):
    policy_lib.Policy.from_checkpoint(tmp_path / 'out', step=100)
  with pytest.raises(ValueError, match='leave ema out'):
    policy_lib.Policy.from_checkpoint(tmp_path / 'out', ema=True)


def test_the_command_and_the_run_mode_write_the_same(run_dir, tmp_path):
  gin_files.parse(['gin/runs/export.gin'], [
      f'CHECKPOINT_PATH = {str(run_dir)!r}', f'OUTPUT_PATH = {str(tmp_path / "mode")!r}',
      "DTYPE = 'bfloat16'"], [str(ROOT)])
  try:
    gin.get_configurable(export_lib.export)()
  finally:
    gin.clear_config()
  command = [sys.executable, '-m', 'tools.export_checkpoint', f'--checkpoint={run_dir}']
  done = subprocess.run(
      [*command, f'--output={tmp_path / "command"}', '--dtype=bfloat16'], capture_output=True,
      text=True, cwd=ROOT, check=True)
  assert done.stdout.startswith('wrote params.safetensors of checkpoint_200 to ')
  contents = [
      {path.relative_to(tmp_path / name): path.read_bytes()
       for path in (tmp_path / name).rglob('*') if path.is_file()}
      for name in ('mode', 'command')]
  assert contents[0] == contents[1]


@pytest.mark.slow
@pytest.mark.parametrize('dtype', weights.DTYPES)
def test_three_hundred_million_parameters_are_a_stream(dtype, large_run, tmp_path):
  run_dir, largest = large_run
  code = (
      'import pathlib, re\n'
      'from rt2_train.serving import export\n'
      f'export.export(checkpoint_path={str(run_dir)!r}, output_path={str(tmp_path / "out")!r}, '
      f'dtype={dtype!r})\n'
      # Not ru_maxrss, in which a child begins with what its parent held.
      "print(re.search('VmHWM:(.*)kB', pathlib.Path('/proc/self/status').read_text())[1])\n"
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  peak = 1024 * int(done.stdout)
  assert peak < 2 * largest + 2**30, f'{peak / 2**20:.0f} MiB'
  size = sum(file.stat().st_size for file in (tmp_path / 'out').glob('*.safetensors'))
  assert size > 300e6 * {'float32': 4, 'bfloat16': 2, 'int8': 1}[dtype]


@pytest.fixture(scope='module')
def large_run(tmp_path_factory) -> tuple[pathlib.Path, int]:
  """A run of 307 M parameters, which take more than the limit, and the bytes of the largest."""
  directory = tmp_path_factory.mktemp('large')
  model = small_models.make(
      directory, 'pali_x', width=2048, mlp_dim=20480, heads=16, head_dim=128, encoder_layers=1,
      decoder_layers=1)
  target = small_models.params(model)
  sizes = [leaf.nbytes for leaf in jax.tree.leaves(target)]
  assert sum(sizes) > 4 * 300e6
  write_parameters(directory / 'run', model, target)
  return directory / 'run', max(sizes)
