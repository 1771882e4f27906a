"""Every mixture teaches a small model each of its sources, and its report is what batches held."""

import collections
import json
import os

import gin
import pytest

import mixtures.chain_of_thought
import mixtures.language_table
import mixtures.open_x
import mixtures.pali_x
import mixtures.palm_e
import mixtures.sources
from rt2_train.data import loader
from rt2_train.models import decoder_only
from rt2_train.models import encoder_decoder
from rt2_train.models import pali_x
from rt2_train.models import palm_e
from rt2_train.models import vit
from rt2_train.training import adafactor
from rt2_train.training import records
from rt2_train.training import train
from tests.mixtures import small_files

WEB, PALI, PALM_E = (tuple(files) for files in (
    small_files.WEB, small_files.PALI, small_files.PALM_E))
OPEN_X = ('fractal20220817_data', 'bridge', 'bridge_dataset')
# Mixture -> the tasks whose sources have files.
MIXTURES = {
    'cofinetune': ('robot', *WEB),
    'rt2_pali_x': ('robot', *PALI),
    'rt2_palm_e': ('robot', *PALM_E),
    'cofinetune_open_x': (*OPEN_X, *WEB),
    'cofinetune_plans': ('chain_of_thought', 'robot', *WEB),
    'language_table': small_files.TABLE,
}
STEPS, BATCH_SIZE = 150, 16


def model_of(mixture: str, tokens: int):
  """A small PaLI-X, or PaLM-E for its own mixture; optimizer and processor included."""
  processor = small_files.processor(MIXTURES[mixture][0])
  spec = processor.image_spec
  tower = vit.ViTConfig(
      width=32, depth=1, heads=2, mlp_dim=64, patch_size=8, image_height=spec.height,
      image_width=spec.width, dtype='float32')
  sizes = {'vocab_size': tokens, 'width': 48, 'heads': 3, 'head_dim': 16, 'mlp_dim': 96,
           'dtype': 'float32'}
  optimizer = adafactor.Adafactor()
  if mixture == 'rt2_palm_e':
    config = decoder_only.DecoderOnlyConfig(layers=2, **sizes)
    processor = small_files.processor('robot', layout='decoder_only', image_tokens=tower.num_tokens)
    return palm_e.PaLME(palm_e.Network(tower, config), optimizer, processor)
  config = encoder_decoder.EncoderDecoderConfig(encoder_layers=1, decoder_layers=1, **sizes)
  return pali_x.PaLIX(pali_x.Network(tower, config), optimizer, processor)


@pytest.mark.slow
@pytest.mark.parametrize('mixture', MIXTURES)
def test_the_loss_of_every_source_falls_and_the_report_counts_what_was_read(
    mixture, files, tmp_path):
  model = model_of(mixture, tokens=1408)
  gin.bind_parameter('mixtures.sources.model.processor', model.processor)
  gin.bind_parameter('mixtures.sources.files.below', os.fspath(files))
  for name in MIXTURES[mixture]:
    small_files.bind(name)
    if mixture == 'rt2_palm_e' and name in PALM_E:
      # Of the published weights, 1 in 191 is six rows here: too few to learn from.
      gin.bind_parameter(f'mixtures.palm_e.rates.{name}', 1.0)
  read = {}

  class Counting(loader.Loader):

    def __next__(self):
      batch = super().__next__()
      # Training looks at the first batch before it trains on it, and reads one ahead.
      read[self.step] = [self.sources[source] for source in batch['source'][:, 0].tolist()]
      return batch

  summary = train.train(
      model=model, train_data=lambda: Counting(mixture, BATCH_SIZE, model.processor),
      model_dir=str(tmp_path), train_steps=STEPS, learning_rate=0.03, checkpoint_period=STEPS,
      log_period=15, progress=False)
  assert summary['finished']
  lines = [json.loads(line)
           for line in (tmp_path / 'train-metrics.jsonl').read_text().splitlines()]
  # A source that is rare in the paper's mixture is not in every line.
  for name in MIXTURES[mixture]:
    losses = [line[f'loss/{name}'] for line in lines if f'loss/{name}' in line]
    assert len(losses) >= 2 and losses[-1] < 0.7 * losses[0], (name, losses)

  counted = collections.Counter(
      source for step, rows in read.items() if step <= STEPS for source in rows)
  report = loader.Loader(mixture, BATCH_SIZE, model.processor).table(STEPS)
  assert {row['source']: row['seen'] for row in report if row['seen']} == counted
  assert sum(counted.values()) == STEPS * BATCH_SIZE
  for row in report:
    assert row['share'] == counted[row['source']] / (STEPS * BATCH_SIZE)
    assert abs(row['share'] - row['weight']) < 1e-4 + 1 / (STEPS * BATCH_SIZE)
  told = records.mixture_table(report)
  if mixture == 'rt2_pali_x':
    assert 'pali_pix2struct' in told and 'are not built' in told
