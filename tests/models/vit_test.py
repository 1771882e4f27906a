"""What a vision tower sees, and the blocks of the plain ViT and of ViT-22B."""

import dataclasses

import jax
import numpy as np
import pytest

from rt2_train.models import vit

CONFIG = vit.ViTConfig(
    width=8, depth=2, heads=2, mlp_dim=12, patch_size=2, image_height=4, image_width=6,
    dtype='float32')
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3)).astype(np.uint8)
VIT_22B = dict(parallel=True, qk_norm=True, norm='rmsnorm', qkv_bias=False)


@pytest.fixture
def init(tiny):
  return lambda config: tiny.make_params(vit.ViT(config).init, IMAGES)


def test_patches_go_row_by_row():
  images = np.arange(4 * 6 * 3).reshape(1, 4, 6, 3)
  patches = vit.patches(images, 2)
  assert patches.shape == (1, 6, 12)
  np.testing.assert_array_equal(patches[0, 1], images[0, :2, 2:4].reshape(-1))
  np.testing.assert_array_equal(patches[0, 3], images[0, 2:, :2].reshape(-1))


def test_overlapping_patches_reach_into_their_neighbours_and_repeat_the_edge():
  images = np.arange(1 * 4 * 6 * 3).reshape(1, 4, 6, 3)
  patches = vit.patches(images, 2, overlap=1)
  assert patches.shape == (1, 6, 4 * 4 * 3)
  around = np.pad(images[0], ((1, 1), (1, 1), (0, 0)), mode='edge')
  np.testing.assert_array_equal(patches[0, 0], around[:4, :4].reshape(-1))
  np.testing.assert_array_equal(patches[0, 4], around[2:6, 2:6].reshape(-1))


def test_one_token_per_patch_and_image(init):
  tokens = vit.ViT(CONFIG).apply({'params': init(CONFIG)}, IMAGES)
  assert tokens.shape == (3, CONFIG.num_tokens, CONFIG.width) == (3, 6, 8)


def test_centered_pixels_do_not_see_the_mean_colour_and_range_does(init):
  darker = (IMAGES // 2).astype(np.uint8)
  shifted = darker + np.array([10, 60, 100], np.uint8)
  for pixels, same in (('centered', True), ('range', False)):
    config = dataclasses.replace(CONFIG, pixels=pixels)
    run = jax.jit(lambda x, c=config, p=init(config): vit.ViT(c).apply({'params': p}, x))
    assert np.allclose(run(darker), run(shifted), atol=1e-4) == same


def attention_and_mlp_add_up(tiny, config) -> bool:
  """Whether the MLP's part of one layer does not depend on the attention's."""
  config = dataclasses.replace(config, depth=1)
  layer = vit.ViTLayer(config, True)
  x = np.random.default_rng(1).normal(size=(1, 6, 8)).astype(np.float32)
  params = tiny.make_params(layer.init, x)
  zeroed = lambda part, name: {**params, part: {
      **params[part], name: {**params[part][name], 'kernel': 0 * params[part][name]['kernel']}}}
  run = lambda p: np.asarray(layer.apply({'params': p}, x)[0])
  without_attention = zeroed('attention', 'out')
  without_both = {**without_attention, 'mlp': zeroed('mlp', 'wo')['mlp']}
  return np.allclose(
      run(params) - run(zeroed('mlp', 'wo')), run(without_attention) - run(without_both), atol=1e-5)


def test_attention_and_mlp_read_the_same_input_only_in_the_parallel_block(tiny):
  assert attention_and_mlp_add_up(tiny, dataclasses.replace(CONFIG, **VIT_22B))
  assert not attention_and_mlp_add_up(tiny, CONFIG)


def test_the_22b_block_has_one_norm_scales_only_and_no_bias_on_queries_keys_values(init):
  layer = init(dataclasses.replace(CONFIG, **VIT_22B))['vit']
  assert set(layer) == {'attention', 'mlp', 'pre_attention_layer_norm'}
  assert set(layer['pre_attention_layer_norm']) == {'scale'}
  assert {name for name in layer['attention'] if 'bias' in layer['attention'][name]} == {'out'}
  assert set(layer['mlp']['wi']) == {'kernel', 'bias'}


def test_sincos_positions_differ_from_patch_to_patch():
  config = dataclasses.replace(CONFIG, position_init='sincos2d')
  positions = jax.jit(
      lambda key: vit.ViT(config).init(key, IMAGES)['params']['pos_embedding'])(jax.random.key(0))
  distance = np.abs(positions[:, None] - positions[None]).max(-1)
  assert (distance + np.eye(6) > 0.1).all()


@pytest.mark.parametrize('config, parameters', [
    (dict(width=6144, depth=48, heads=48, mlp_dim=24576, **VIT_22B), 21_750_546_432),
    (dict(width=1664, depth=48, heads=16, mlp_dim=8192), 1_842_772_352),
    (dict(width=1792, depth=56, heads=16, mlp_dim=15360), 3_805_417_728),
], ids=['22B', 'G/14', 'e/14'])
def test_full_size_towers_have_the_papers_parameters(config, parameters):
  config = vit.ViTConfig(patch_size=14, image_height=224, image_width=224, **config)
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), np.uint8)
  shapes = jax.eval_shape(vit.ViT(config).init, jax.random.key(0), images)['params']
  assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters


def test_an_ungated_mlp_can_be_saved_beside_the_attention_projections(init):
  saved = {}
  params = init(CONFIG)
  for policy in ('names', 'names_mlp'):
    module = vit.ViT(dataclasses.replace(CONFIG, remat_policy=policy))
    run = lambda p, m=module: m.apply({'params': p}, IMAGES)
    pullback = jax.eval_shape(lambda p: jax.vjp(run, p)[1], params)
    saved[policy] = sum(leaf.size for leaf in jax.tree.leaves(pullback))
  # What is saved has the bias in it, which then needs no keeping.
  tokens = len(IMAGES) * CONFIG.num_tokens
  assert saved['names_mlp'] - saved['names'] == CONFIG.depth * CONFIG.mlp_dim * (tokens - 1)


@pytest.mark.parametrize('wrong, message', [
    (dict(image_height=5), 'image_height 5 is no multiple of patch_size 2'),
    (dict(heads=3), 'width 8 is not divisible by its 3 heads'),
    (dict(pixels='raw'), "pixels is 'raw'"),
    (dict(remat_policy='some'), "remat_policy is 'some'"),
])
def test_a_config_that_cannot_be_built_is_refused(wrong, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, **wrong)


def test_images_of_another_size_are_refused():
  with pytest.raises(ValueError, match=r'images are \(8, 6, 3\), the model takes \(4, 6, 3\)'):
    vit.ViT(CONFIG).init(jax.random.key(0), np.zeros((1, 8, 6, 3), np.uint8))
