"""The paper's recipes parse after a data file, say what the paper says, and make a model."""

import pathlib
import re

import gin
import pytest
import seqio

from rt2_train import gin_files
from rt2_train.models import pali_x
from rt2_train.models import paligemma
from rt2_train.models import palm_e
from rt2_train.training import adafactor
from rt2_train.training import schedules

ROOT = pathlib.Path(__file__).parents[1]


def macro(name: str):
  return gin.query_parameter(f'{name}/gin.macro.value')


@pytest.mark.parametrize('name, mixture, network, batch_size, steps, robot, rate, vocab_size', [
    ('rt2_pali_x_55b', 'rt2_pali_x', pali_x.Network, 2048, 80_000, 0.5, 1e-3, 250_112),
    ('rt2_pali_x_5b', 'rt2_pali_x', pali_x.Network, 2048, 270_000, 0.5, 1e-3, 250_112),
    ('rt2_pali_3b_language_table', 'language_table', pali_x.Network, 128, 300_000, 0.5, 1e-3,
     250_112),
    ('rt2_palm_e_12b', 'rt2_palm_e', palm_e.Network, 512, 1_000_000, 0.66, 4e-4, 256_000),
])
def test_a_recipe_has_the_papers_numbers(
    name, mixture, network, batch_size, steps, robot, rate, vocab_size, monkeypatch):
  monkeypatch.chdir(ROOT)
  gin.clear_config()
  data = 'language_table' if 'table' in name else 'my_robot'
  gin_files.parse(
      [f'gin/data/{data}.gin', f'gin/experiments/{name}.gin'],
      ["MODEL_DIR = 'run'", "INITIAL_CHECKPOINT_PATH = 'vlm'"])
  assert (macro('BATCH_SIZE'), macro('TRAIN_STEPS')) == (batch_size, steps)
  assert gin.query_parameter('mixtures.cofinetune.share.robot') == robot
  assert macro('MIXTURE_OR_TASK_NAME') == mixture
  assert seqio.MixtureRegistry.get(mixture).tasks
  schedule = gin.get_configurable(schedules.schedule)()
  assert float(schedule(999_999)) == pytest.approx(rate)
  # What the paper does not say is a flag.
  for unknown in ('SCHEDULE', 'WARMUP_STEPS', 'GRADIENT_CLIP', 'DROPOUT_RATE', 'FROZEN',
                  'AUGMENTATION', 'INPUTS_LENGTH', 'TARGETS_LENGTH'):
    macro(unknown)
  assert gin.get_configurable(adafactor.Adafactor)() is not None
  # The data file's picture and vocabulary sizes are those of a miniature: the model's own win.
  module = gin.get_configurable(network)()
  assert module.config.vocab_size == vocab_size
  assert module.config.dropout_rate == macro('DROPOUT_RATE') == 0.1
  assert module.vit_config.image_height == 224
  gin.clear_config()


def test_paligemma_is_tuned_at_its_own_resolution_and_vocabulary_whatever_the_data(monkeypatch):
  monkeypatch.chdir(ROOT)
  gin.clear_config()
  gin_files.parse(
      ['gin/data/my_robot.gin', 'gin/experiments/paligemma_3b.gin'],
      ["MODEL_DIR = 'run'", "INITIAL_CHECKPOINT_PATH = 'paligemma'"])
  module = gin.get_configurable(paligemma.Network)()
  assert (module.config.vocab_size, module.config.width) == (257_152, 2048)
  assert module.vit_config.num_tokens == macro('IMAGE_TOKENS') == 256
  assert gin.query_parameter('rt2_train.processor.Processor.prompt_format') == 'paligemma'
  assert gin.query_parameter('rt2_train.vocabulary.Vocabulary.action_tokens') == '<loc{:04d}>'
  assert macro('LEARNING_RATE') == 1e-5
  gin.clear_config()


def test_the_plans_demo_is_one_model_over_one_set_of_data(monkeypatch):
  monkeypatch.chdir(ROOT)
  found = []
  for files in (['demo_pretrain', 'demo_plans'], ['demo_cofinetune', 'demo_plans'],
                ['demo_chain_of_thought']):
    gin.clear_config()
    gin_files.parse([f'gin/experiments/{file}.gin' for file in files], [])
    found.append([macro(name) for name in (
        'DATA_DIR', 'VOCABULARY_FILE', 'VOCAB_SIZE', 'IMAGE_SIZE')])
  assert found[0] == found[1] == found[2]
  assert macro('MIXTURE_OR_TASK_NAME') == 'cofinetune_plans' and macro('PLAN_LENGTH') > 0
  gin.clear_config()


def test_the_template_of_web_data_names_sources_that_there_are(monkeypatch, tmp_path):
  monkeypatch.chdir(ROOT)
  text = (ROOT / 'gin/data/web.gin').read_text()
  # Everything uncommented, but sentences.
  lines = [line.removeprefix('# ') if re.match(r'# (mixtures\.|  \w+ = )', line) else line
           for line in text.splitlines()]
  (tmp_path / 'web.gin').write_text('\n'.join(lines))
  gin.clear_config()
  gin_files.parse([str(tmp_path / 'web.gin')], [])
  assert gin.query_parameter('mixtures.web.gqa.questions')['train'].startswith('gqa/')
  assert gin.query_parameter('mixtures.pali_x.vqg.pattern')
  gin.clear_config()
