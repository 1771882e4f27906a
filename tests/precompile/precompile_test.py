"""The run mode `precompile`, with the real compiler on small models."""

import dataclasses
import json
import platform
import subprocess
import sys

import pytest

from rt2_train.models import decoder_only
from rt2_train.models import encoder_decoder
from rt2_train.models import pali_x
from rt2_train.models import palm_e
from rt2_train.models import vit
from rt2_train.precompile import hlo
from rt2_train.precompile import precompile
from rt2_train.precompile import reports
from rt2_train.precompile import topologies
from rt2_train.precompile import tpu_compile
from rt2_train.training import adafactor
from rt2_train.training import chips
from rt2_train.training import partitioning
from rt2_train.training import programs

pytestmark = pytest.mark.skipif(
    sys.platform != 'linux' or platform.machine() != 'x86_64',
    reason='libtpu is made for Linux on x86-64 only',
)

VIT = vit.ViTConfig(
    width=128, depth=4, heads=2, mlp_dim=256, patch_size=8, image_height=32, image_width=32)


def model(depth: int = 4, remat_policy: str = 'none') -> pali_x.PaLIX:
  language = encoder_decoder.EncoderDecoderConfig(
      vocab_size=512, encoder_layers=depth, decoder_layers=depth, width=128, heads=4, head_dim=64,
      mlp_dim=256, remat_policy=remat_policy)
  towers = dataclasses.replace(VIT, depth=depth, remat_policy=remat_policy)
  return pali_x.PaLIX(pali_x.Network(towers, language), adafactor.Adafactor())


def run(topology: str = 'v5e:2x2', **settings):
  settings = {
      'model': model(), 'batch_size': 8, 'rules': 'fsdp', 'model_parallelism': 1, **settings
  }
  return precompile.precompile(
      topology=topology, inputs_length=16, targets_length=8, **settings)


@dataclasses.dataclass
class Trained:
  """A compiled training step: its report as returned and as written, and the compiler's text."""

  returned: dict
  written: dict
  hlo: str


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> Trained:
  path, texts = tmp_path_factory.mktemp('precompile') / 'report.json', []
  compile_setup = precompile.compile_setup

  def compile_and_keep(*args):
    compiled = compile_setup(*args)
    texts.append(compiled.hlo)
    return compiled

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(precompile, 'compile_setup', compile_and_keep)
    returned = run(remat_policy='full', report=str(path))
  return Trained(returned, json.loads(path.read_text()), *texts)


def test_the_report_is_written_as_it_is_returned(trained):
  written = trained.written
  assert written == trained.returned
  assert set(written) >= {
      'parameters', 'hbm_gib_per_chip', 'hbm_capacity_gib', 'model_flops', 'hardware_flops',
      'collective_bytes', 'exposed_collective_seconds', 'scheduled_mfu', 'overlapped_mfu', 'chips',
      'seconds_to_compile', 'topology', 'program', 'mesh', 'rules', 'remat', 'batch', 'versions',
      'largest_buffers', 'scheduled_seconds', 'overlapped_seconds',
  }
  assert 'estimated_mfu' not in written


def test_the_report_says_what_was_compiled(trained):
  report = trained.written
  assert (report['topology'], report['chips'], report['program']) == ('v5e:2x2', 4, 'train')
  assert report['mesh'] == {'replica': 1, 'data': 4, 'model': 1}
  assert (report['rules'], report['remat']) == ('fsdp', 'full')
  assert report['batch'] == {
      'batch_size': 8, 'inputs_length': 16, 'targets_length': 8, 'num_images': 1
  }
  assert set(report['versions']) == {'jax', 'jaxlib', 'libtpu'}


def test_what_the_compiler_multiplies_is_what_was_traced(trained):
  report = trained.written
  assert report['compiled_flops'] == pytest.approx(report['hardware_flops'], rel=0.01)
  assert 1.15 < report['hardware_flops'] / report['model_flops'] < 1.34  # All but the logits twice.


def test_memory_is_arguments_and_temporaries(trained):
  report = trained.written
  assert report['hbm_gib_per_chip'] == report['hbm_arguments_gib'] + report['hbm_temporaries_gib']
  # Parameters in float32 with Adafactor's rows and columns, over four chips.
  assert report['parameters'] * 4 / 4 < report['hbm_arguments_gib'] * 2**30
  assert report['hbm_capacity_gib'] == 15.75
  sizes = [buffer['gib'] for buffer in report['largest_buffers']]
  assert len(sizes) == 3 and sizes == sorted(sizes, reverse=True)


def test_the_bounds_are_ordered(trained):
  report = trained.written
  assert 0 < report['scheduled_mfu'] <= report['overlapped_mfu'] <= 1
  assert report['overlapped_seconds'] <= report['scheduled_seconds']
  parts = max(report['matmul_seconds'], report['hbm_seconds'])
  assert report['scheduled_seconds'] == pytest.approx(
      parts + report['exposed_collective_seconds'])


def test_fully_sharded_weights_are_gathered_along_data_for_both_passes(trained):
  report = trained.written
  gathered = report['collective_bytes']['all-gather']['data']
  # In bfloat16, each chip the three quarters that it lacks, forward and backward.
  stacked = 2 * 0.75 * report['parameters'] * 2
  assert 0.5 * stacked < gathered < 1.5 * stacked
  assert all(axes.keys() <= {'data'} for axes in report['collective_bytes'].values())


def test_a_person_reads_the_same(trained):
  text = reports.text(trained.written)
  for words in (
      'train step on v5e:2x2 (4 chips)', 'mesh', 'rules fsdp, remat full', 'HBM per chip',
      'all-gather', 'MFU at most', 'largest buffers', 'libtpu',
  ):
    assert words in text


def test_full_code_generation_adds_an_estimate_that_the_bound_does_not_exceed():
  report = run('v5e:1x1', program='decode', batch_size=1, full_codegen=True)
  assert report['collective_bytes'] == {} and report['exposed_collective_seconds'] == 0
  assert 0 < report['estimated_mfu'] < report['scheduled_mfu']
  assert report['estimated_seconds'] > report['scheduled_seconds']
  assert 'estimate' in reports.text(report)


def test_decoding_holds_weights_in_bfloat16_and_is_bound_by_reading_them():
  report = run(program='decode', batch_size=1, rules='fsdp_tensor', model_parallelism=4)
  assert report['program'] == 'decode' and report['mesh']['model'] == 4
  assert report['model_flops'] == report['hardware_flops']
  # Matrices this small are not split.
  assert report['hbm_arguments_gib'] * 2**30 == pytest.approx(report['parameters'] * 2, rel=0.1)
  assert 'all-reduce' in report['collective_bytes']
  assert report['hbm_seconds'] > report['matmul_seconds']


@pytest.mark.slow
def test_slices_are_joined_along_the_axis_replica():
  report = run('v5e:1x1', slices=2, rules='data_parallel', remat_policy='full')
  assert (report['chips'], report['mesh']['replica']) == (2, 2)
  assert set(report['collective_bytes']['all-reduce']) == {'replica'}


@pytest.mark.slow
def test_microbatches_frozen_parts_and_averages_are_those_of_the_run():
  report = run('v5e:1x1', remat_policy='full', num_microbatches=2, frozen=['^vit/'], ema_decay=0.9)
  # Parameters twice, and Adafactor's small state of what is trained.
  assert report['hbm_arguments_gib'] * 2**30 > 2 * 4 * report['parameters']
  assert report['hardware_flops'] < 1.15 * report['model_flops']


def test_a_decoder_alone_compiles_too():
  language = decoder_only.DecoderOnlyConfig(
      vocab_size=512, layers=4, width=128, heads=4, head_dim=64, mlp_dim=256)
  network = palm_e.Network(VIT, language)
  decoder = palm_e.PaLME(network, adafactor.Adafactor(), targets_length=8)
  report = run('v5e:1x1', model=decoder, remat_policy='dots')
  assert report['compiled_flops'] == pytest.approx(report['hardware_flops'], rel=0.01)
  assert report['hardware_flops'] < 1.1 * report['model_flops']


def test_the_size_of_a_program_does_not_depend_on_depth(trained):
  setup = reports.Setup(
      'train', topologies.parse('v5e:2x2'), programs.Batch(8, 16, 8), 'fsdp', 1, 'full', 9)
  deep = precompile.compile_setup(model(depth=12), programs.Training(), setup)
  instructions = lambda text: sum(map(len, hlo.parse(text).computations.values()))
  # What is fetched ahead depends on sizes a little.
  assert instructions(deep.hlo) == pytest.approx(instructions(trained.hlo), rel=0.05)


@pytest.mark.parametrize(
    'own, given, tried',
    [
        ('none', None, ['dots', 'names_mlp', 'names', 'full']), ('names', None, ['names']),
        ('names', 'dots', ['dots']),
    ],
)
def test_what_is_not_given_is_recommended_and_the_models_own_remat_is_respected(
    own, given, tried, monkeypatch
):
  asked = []

  def too_much(of_model, training, setup, full_codegen=False):
    asked.append(setup)
    raise tpu_compile.OutOfMemory(2**40, 2**34, {'argument_bytes': 2**40}, 1.0)

  monkeypatch.setattr(precompile, 'compile_setup', too_much)
  monkeypatch.setattr(precompile, 'too_big', lambda attempt, setup, error: 'nothing fits')
  with pytest.raises(ValueError, match='nothing fits'):
    run(model=model(remat_policy=own), rules=None, model_parallelism=None, remat_policy=given)
  assert [setup.remat_policy for setup in asked] == tried
  assert {(setup.rules, setup.model_parallelism) for setup in asked} == {('fsdp_tensor', 4)}


def test_the_next_set_is_taken_where_a_model_does_not_divide(monkeypatch):
  asked = []

  def refuses_fsdp(of_model, training, setup, full_codegen=False):
    asked.append((setup.rules, setup.model_parallelism))
    if setup.rules == 'fsdp':
      raise partitioning.DoesNotDivide('1664 over 256')
    raise ValueError('enough')

  monkeypatch.setattr(precompile, 'compile_setup', refuses_fsdp)
  with pytest.raises(ValueError, match='enough'):
    run(batch_size=2048, rules=None, model_parallelism=None)
  assert asked == [('fsdp', 1), ('fsdp_two_stage', 4)]
  with pytest.raises(ValueError, match='1664 over 256'):
    run(batch_size=2048, rules='fsdp', model_parallelism=None)


def test_a_parameter_that_does_not_divide_is_named():
  odd = model()
  odd.module = odd.module.clone(vit_config=dataclasses.replace(VIT, width=258))
  message = r"target\['vit'\].*\['key'\]\['kernel'\] .* does not divide over the mesh"
  with pytest.raises(partitioning.DoesNotDivide, match=message):
    run(model=odd)


def test_a_program_that_is_too_big_says_by_how_much_and_what_fits():
  setup = reports.Setup(
      'train', topologies.parse('v5e:8x8'), programs.Batch(2048, 16, 8), 'data_parallel', 1, 'dots',
      9)
  gib = chips.GIB
  error = tpu_compile.OutOfMemory(31.5 * gib, 15.75 * gib, {'argument_bytes': 3 * gib}, 1.0)

  def attempt(changed):
    if changed.topology.name == 'v5e:8x16':
      raise ValueError('the mesh is odd')
    if changed.rules == 'fsdp':
      raise tpu_compile.OutOfMemory(16 * gib, 15.75 * gib, {'argument_bytes': 0}, 1.0)
    hbm = tpu_compile.buffers.Assignment(0, changed.batch.batch_size * gib // 200, [])
    return tpu_compile.Compiled({}, '', hbm, 1.0, 0)

  assert precompile.too_big(attempt, setup, error) == (
      'precompile: the train step does not fit v5e:8x8: 31.5 GiB of 15.8 GiB HBM per chip, 15.8 '
      "GiB too much. Compiled in its place: REMAT_POLICY='full' fits with 10.2 GiB; RULES='fsdp' with "
      'MODEL_PARALLELISM=1 does not fit either with 16.0 GiB; BATCH_SIZE=896 fits with 4.5 GiB; '
      "TOPOLOGY='v5e:8x16' is refused (the mesh is odd)"
  )


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'topology': 'v5e:3x3'}, "v5e has no slice '3x3'"),
        ({'program': 'serve'}, "PROGRAM is 'serve'; choose one of train, decode"),
        ({'report': '/no/such/folder/report.json'}, 'folder of REPORT .* does not exist'),
        ({'batch_size': 6}, 'BATCH_SIZE 6 does not divide over 4 devices'),
        ({'remat_policy': 'some'}, "remat_policy is 'some'"),
        ({'model': pali_x.PaLIX(model().module)}, 'no optimizer_def to train with; bind OPTIMIZER'),
    ],
)
def test_bad_settings_are_named(settings, message):
  with pytest.raises(ValueError, match=message):
    run(**settings)


def test_the_command_prints_a_report_without_tensorflow(tmp_path):
  code = (
      'import sys\n'
      'from absl import app\n'
      'from rt2_train import main\n'
      'try:\n'
      '  app.run(main.main, main.gin_flags(sys.argv))\n'
      'except SystemExit as end:\n'
      '  assert not end.code, end.code\n'
      "print([name for name in ('tensorflow', 'seqio') if name in sys.modules])\n"
  )
  report = tmp_path / 'report.json'
  done = subprocess.run(
      [
          sys.executable, '-c', code, '--run_mode=precompile', '--gin_file=gin/models/tiny.gin',
          '--gin_file=gin/runs/precompile.gin', "--gin.TOPOLOGY='v5e:1x1'", '--gin.BATCH_SIZE=8',
          '--gin.VOCAB_SIZE=512', '--gin.IMAGE_SIZE=32', f"--gin.REPORT='{report}'",
      ],
      capture_output=True, text=True, check=False,
  )  # pyformat: disable
  assert done.returncode == 0, done.stderr
  *printed, modules = done.stdout.splitlines()
  assert modules == '[]'
  assert '\n'.join(printed) == reports.text(json.loads(report.read_text()))
