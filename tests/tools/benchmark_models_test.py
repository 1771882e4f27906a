"""Rooflines by hand arithmetic, and the benchmark of models run whole on miniatures."""

import dataclasses
import pathlib
import re
import statistics
import subprocess
import sys

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_train.training import metrics
from tools import benchmark_models
from tools import benchmark_rates

ROOT = pathlib.Path(__file__).parents[2]
H200 = {'flops': 790e12, 'bytes_per_second': 4.3e12}
# The benchmark in a Python that has no TensorFlow.
WITHOUT_TENSORFLOW = (
    'import sys\n'
    'for name in ("tensorflow", "seqio", *{hidden!r}): sys.modules[name] = None\n'
    'from absl import app\n'
    'from tools import benchmark\n'
    'app.run(benchmark.main, ["benchmark", *{arguments!r}])\n'
)


@pytest.fixture(autouse=True)
def _no_configuration():
  yield
  gin.clear_config()


def work(name: str, **settings: int) -> benchmark_rates.Work:
  return benchmark_rates.action_work(
      benchmark_models.build(name), text_tokens=64, action_tokens=8, **settings)


def run(*arguments: str, hidden: tuple[str, ...] = ()) -> str:
  code = WITHOUT_TENSORFLOW.format(arguments=arguments, hidden=hidden)
  done = subprocess.run(
      [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False,
      timeout=300)
  assert done.returncode == 0, done.stderr
  return done.stdout


def figures(text: str) -> dict[str, float]:
  """The medians of the lines that hold one, by the name before it."""
  rows = re.findall(r'^ +(\S.*?)  +([\d.e+-]+) \([\d.e+-]+ to [\d.e+-]+\) \S', text, re.MULTILINE)
  return {name: float(value) for name, value in rows}


@pytest.mark.parametrize('name, hertz', [
    ('pali_x_55b', 12.1), ('pali_x_5b', 136.0), ('palm_e_12b', 30.0)])
def test_the_roofline_of_an_h200_is_that_of_hand_arithmetic(name, hertz):
  assert 1 / work(name).floor(**H200) == pytest.approx(hertz, rel=0.05)


def test_55b_reads_its_decoder_for_every_token_and_the_rest_once():
  found = work('pali_x_55b')
  width, mlp = 4096, 16384
  square, gated = width * width, 3 * width * mlp
  decoder = 50 * (4 * square + 2 * square + gated)  # Keys and values of the prompt are kept.
  reader = 50 * (4 * square + gated) + 50 * 2 * square
  vit = 48 * (4 * 6144**2 + 2 * 6144 * 24576)
  assert found.answer_bytes == pytest.approx(8 * 2 * (decoder + 256 * width), rel=1e-3)
  assert found.prompt_bytes == pytest.approx(2 * (vit + reader), rel=5e-3)
  assert found.prompt_flops == pytest.approx(2 * (256 * vit + 320 * reader), rel=5e-3)


def test_a_decoder_alone_gets_its_first_token_with_the_prompt():
  layer = 4096 * (2 * 4096 + 2 * 256 + 3 * 16384)
  assert work('palm_e_12b').answer_bytes == pytest.approx(
      2 * (7 * 32 * layer + 8 * 256 * 4096), rel=1e-3)


def test_scoring_the_whole_vocabulary_reads_the_whole_table_for_every_token():
  more = work('pali_x_5b', scored_ids=250_112).answer_bytes - work('pali_x_5b').answer_bytes
  assert more == 8 * 2 * 2048 * (250_112 - 256)


def test_a_prompt_takes_the_slower_of_products_and_memory():
  done = benchmark_rates.Work(prompt_flops=6.0, prompt_bytes=10.0, answer_bytes=4.0)
  assert done.floor(flops=2.0, bytes_per_second=4.0) == 3.0 + 1.0
  assert done.floor(flops=4.0, bytes_per_second=2.0) == 5.0 + 2.0


def test_rates_of_this_computer_are_those_of_a_computer():
  rates = benchmark_rates.measure('float32', rounds=2)
  assert len(rates.flops) == len(rates.bytes) == 2
  assert 1e8 < min(rates.flops) and max(rates.flops) < 1e14
  assert 1e7 < min(rates.bytes) and max(rates.bytes) < 1e13


def test_random_parameters_have_the_asked_dtypes_and_no_equal_rows():
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.bfloat16, sharding=place)
  params = benchmark_models.random_params({'a': {'kernel': shape(3, 2**19), 'scale': shape(5)}})
  kernel, scale = params['a']['kernel'], params['a']['scale']
  assert kernel.dtype == scale.dtype == jnp.bfloat16
  assert np.all(np.asarray(scale) == 1)
  rows = np.asarray(kernel, np.float32)
  assert statistics.pstdev(rows[0, :10_000].tolist()) == pytest.approx(0.02, rel=0.05)
  # Numbers start again after 2**20 - 1 of them.
  assert not np.array_equal(rows[0], rows[2]) and np.array_equal(rows[0, 1:], rows[2, :-1])


def test_flags_choose_remat_and_how_layers_are_kept():
  model = benchmark_models.build('palm_e_100m', 'apart', 'full')
  for config in (model.module.config, model.module.vit_config):
    assert config.remat_policy == 'full' and not config.scan_layers
  assert benchmark_models.build('palm_e_100m').module.config.scan_layers


@pytest.mark.slow
def test_palm_e_decodes_an_action_whole():
  model = benchmark_models.build('tiny_palm_e', 'apart')
  seconds, tokens_T = benchmark_models.decode_actions(model, rounds=2)
  assert len(seconds) == 2 and min(seconds) > 0
  assert tokens_T.shape == (8,) and tokens_T[0] in (3, 4)
  assert np.all((tokens_T >= 3) & (tokens_T < 259))


def test_a_program_that_does_not_fit_says_what_it_needs(monkeypatch):
  program = jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((2**28,), jnp.float32)).compile()
  benchmark_models.check_fits(program, 'unused')
  memory = type('', (), {'available': 2**30})
  monkeypatch.setattr(benchmark_models.psutil, 'virtual_memory', lambda: memory)
  with pytest.raises(ValueError, match=r'needs 2\.0 GiB, .* the device has 1\.0: buy more'):
    benchmark_models.check_fits(program, 'buy more')


@pytest.mark.slow
def test_train_mfu_without_tensorflow_prints_figures_that_agree():
  text = run(
      'train_mfu', '--rounds=1', '--batch_size=2', '--inputs_length=6', '--targets_length=5')
  assert text.startswith('$') and 'tiny, 748,960 parameters, float32, batch 2, 36 image + 6' in text
  found = figures(text)
  model = benchmark_models.build('tiny')
  flops = metrics.model_flops(
      lambda params, batch: model.loss_fn(params, batch, None)[0],
      benchmark_rates.parameter_shapes(model), benchmark_models.random_batch(model, 2, 6, 5))
  assert found['model'] * 1e12 * found['step'] / 1e3 == pytest.approx(flops, rel=0.01)
  assert found['examples'] == pytest.approx(2 / (found['step'] / 1e3), rel=0.01)
  assert found['MFU of matrix products'] == pytest.approx(
      100 * found['model'] / found['matrix products'], rel=0.01)
  assert found['MFU of matrix products'] > 0
  assert text.endswith('say nothing of a GPU, which this is meant for.\n')


@pytest.mark.slow
def test_decode_rate_without_tensorflow_prints_rates_beside_the_roofline():
  text = run('decode_rate', '--rounds=1', '--models=tiny')
  found = figures(text)
  roofline = float(re.search(r'tiny, 748,960 parameters, .* roofline ([\d.e+]+) Hz', text).group(1))
  shares = [float(share) for share in re.findall(r'; ([\d.e-]+) % of the roofline', text)]
  rates = [found['layers stacked'], found['layers apart']]
  assert shares == pytest.approx([100 * rate / roofline for rate in rates], rel=0.01)
  assert min(shares) > 0 and found['copy'] > 0
  assert text.endswith('say nothing of a GPU, which this is meant for.\n')


def test_without_pytorch_one_line_says_what_it_takes(monkeypatch, capsys):
  from tools import benchmark

  monkeypatch.setattr(benchmark.importlib.util, 'find_spec', lambda name: None)
  benchmark.pytorch()
  assert capsys.readouterr().out == (
      'pytorch: not measured for want of torch and transformers; install transformers and '
      'PyTorch with CUDA\n')


@pytest.mark.slow  # Needs PyTorch, which nothing else here does.
@pytest.mark.parametrize('name', ['tiny', 'tiny_palm_e'])
def test_pytorch_models_train_and_act_at_our_size(name):
  pytest.importorskip('transformers')
  pytest.importorskip('torch')
  from tools import benchmark_pytorch

  model = benchmark_models.build(name)
  if name == 'tiny':
    # T5's generate makes as many caches as the encoder has layers.
    config = dataclasses.replace(model.module.config, encoder_layers=2)
    model.module = model.module.clone(config=config)
  sizes = benchmark_rates.parameter_sizes(model)
  ours = sum(size for path, size in sizes.items() if 'patch' not in path and 'logits' not in path)
  size, seconds = benchmark_pytorch.train_seconds(
      model.module, 'cpu', batch_size=2, inputs_length=6, targets_length=5, checkpointing=True,
      rounds=1)
  assert seconds[0] > 0 and size == pytest.approx(ours, rel=0.02)
  size, seconds = benchmark_pytorch.decode_seconds(model.module, 'cpu', rounds=1)
  assert seconds[0] > 0 and size == pytest.approx(ours, rel=0.02)
