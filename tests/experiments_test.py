"""The paper's recipes parse with a data file, and say what the paper says."""

import pathlib

import gin
import pytest

from rt2_train import gin_files

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize('name, batch_size, steps, robot', [
    ('rt2_pali_x_55b', 2048, 80_000, 0.5),
    ('rt2_pali_x_5b', 2048, 270_000, 0.5),
    ('rt2_pali_3b_language_table', 128, 300_000, 0.5),
    ('rt2_palm_e_12b', 512, 1_000_000, 0.66),
])
def test_a_recipe_has_the_papers_numbers(name, batch_size, steps, robot, monkeypatch):
  monkeypatch.chdir(ROOT)
  gin.clear_config()
  gin_files.parse(
      [f'gin/experiments/{name}.gin', 'gin/data/my_robot.gin'],
      ["MODEL_DIR = 'run'", "INITIAL_CHECKPOINT_PATH = 'vlm'"])
  assert gin.query_parameter('BATCH_SIZE/gin.macro.value') == batch_size
  assert gin.query_parameter('TRAIN_STEPS/gin.macro.value') == steps
  assert gin.query_parameter('mixtures.cofinetune.rates.robot') == robot
  gin.clear_config()
