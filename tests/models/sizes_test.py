"""The models of gin/models have the parameters that the papers, or their own first lines, say."""

import pathlib

import gin
import jax
import pytest

from rt2_train.models import vlm

ROOT = pathlib.Path(__file__).parents[2]

SIZES = {
    'pali_x_55b': 54_024_655_872,
    'pali_x_5b': 5_076_572_544,
    'pali_3b': 5_076_572_544,
    'pali_3b_original': 3_074_058_624,
    'palm_e_12b': 12_444_774_656,
    'paligemma_3b': 2_923_335_408,
    'paligemma2_3b': 3_032_094_960,
    'paligemma_10b': 9_662_409_456,
    't5gemma2_270m': 786_029_296,
    't5gemma2_1b': 2_115_977_456,
    't5gemma2_4b': 7_508_928_880,
    'pali_x_100m': 104_403_968,
    'palm_e_100m': 100_480_896,
    'siglip2_umt5_1b': 1_005_371_376,
    'siglip2_umt5_5b': 4_906_342_912,
    'siglip2_ul2_21b': 20_600_747_520,
    'tiny': 748_960,
    'tiny_palm_e': 534_624,
}


@pytest.fixture(autouse=True)
def _no_configuration():
  gin.clear_config()
  yield
  gin.clear_config()


def model(name: str, *bindings: str) -> vlm.VisionLanguageModel:
  """The model of gin/models/<name>.gin, without data, optimizer or processor."""
  small = ['IMAGE_SIZE = 24', f'VOCAB_SIZE = {1408 if name == "tiny" else 1792}']
  gin.parse_config_files_and_bindings(
      [str(ROOT / f'gin/models/{name}.gin')],
      ['PROCESSOR = None', 'OPTIMIZER = None', *(small if 'tiny' in name else []), *bindings,
       'sizes_test.parse.model = %MODEL'],
      finalize_config=False)
  return gin.get_configurable('sizes_test.parse')()


@gin.configurable('parse', module='sizes_test')
def _parse(model):  # pylint: disable=redefined-outer-name
  return model


def size(network: vlm.VisionLanguageModel) -> int:
  """Parameters, none of them allocated."""
  batch = network.batch_shapes(batch_size=1, inputs_length=4, targets_length=4)
  shapes = {name: feature.shape for name, feature in batch.items()}
  variables = jax.eval_shape(
      lambda key: network.get_initial_variables(key, shapes), jax.random.key(0))
  return sum(x.size for x in jax.tree.leaves(variables['params']))


@pytest.mark.parametrize('name', SIZES)
def test_a_model_has_the_published_size(name):
  assert size(model(name)) == SIZES[name]


@pytest.mark.parametrize('name, tied, expected', [
    ('pali_x_55b', True, 53_000_197_120), ('pali_x_5b', False, 5_588_801_920)])
def test_embeddings_are_tied_by_a_flag(name, tied, expected):
  assert size(model(name, f'TIED_EMBEDDINGS = {tied}')) == expected


def test_every_model_file_is_counted_or_a_part_of_one():
  parts = {
      'pali_x', 'palm_e', 'paligemma', 'paligemma2', 't5gemma2', 'defaults', 'tiny_vit', 'vit_22b',
      'vit_g', 'siglip2_g_opt', 'siglip2_so400m', 'umt5_base', 'umt5_xl', 'ul2_20b'}
  files = {path.stem for path in (ROOT / 'gin/models').glob('*.gin')}
  assert files == {*SIZES, *parts}


def test_palm_e_says_how_many_tokens_an_image_takes():
  for name in SIZES:
    if 'palm_e' in name or 'paligemma' in name:
      network = model(name)
      assert gin.query_parameter('IMAGE_TOKENS/gin.macro.value') == network.image_tokens
      gin.clear_config()
