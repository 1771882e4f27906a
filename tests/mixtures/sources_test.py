"""Every source of every mixture, bound by gin to small files in the form of the real ones."""

import collections
import hashlib
import os

import gin
import numpy as np
import pytest
import seqio

import mixtures.chain_of_thought
import mixtures.language_table
import mixtures.open_x
import mixtures.pali_x
import mixtures.palm_e
import mixtures.robot
import mixtures.sources
import mixtures.web
from rt2_train.data import converters
from rt2_train.data import evaluator
from rt2_train.data import loader
from rt2_train.data import tasks
from tests.mixtures import small_files

TASKS = [*small_files.FILES, *small_files.ROBOT]
# Two epochs through tf.data take seconds: one task for each way of reading, the others when slow.
QUICK = ('captions', 'vqa', 'pali_split_caption', 'pali_span_corruption', 'robot',
         'language_table_success')
EPOCHS = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in TASKS]


def bind(folder, *names: str, **options) -> None:
  """Binds the sources of tasks to their files, all below `folder`."""
  gin.bind_parameter('mixtures.sources.files.below', os.fspath(folder))
  gin.bind_parameter('mixtures.sources.model.processor', small_files.processor(names[0]))
  for name in names:
    small_files.bind(name, **options)


def digest(features) -> str:
  """A hash of every feature of one row."""
  whole = hashlib.sha256()
  for key in sorted(features):
    whole.update(f'{key} {features[key].dtype} {features[key].shape}'.encode())
    whole.update(np.ascontiguousarray(features[key]).tobytes())
  return whole.hexdigest()


@pytest.mark.parametrize('name', EPOCHS)
def test_one_epoch_is_the_same_through_seqio_and_through_the_loader(name, files):
  bind(files, name)
  processor = mixtures.sources.model()
  lengths = converters.task_feature_lengths(processor)
  # SeqIO gives the id with the example, before its converter makes features of it.
  examples = tasks.get(name).get_dataset(lengths, 'train', shuffle=False)
  rows = seqio.get_dataset(name, lengths, converters.EncoderDecoderConverter(), verbose=False)
  by_seqio = collections.Counter(
      (example['example_id'].decode(), digest(row))
      for example, row in zip(examples.as_numpy_iterator(), rows.as_numpy_iterator(), strict=True))
  dataset = tasks.source_of(tasks.get(name)).open('train')
  one = loader.Loader(name, 1, processor)
  by_loader = collections.Counter()
  for step in range(len(dataset)):
    batch = next(one)
    example = int(one.order.rows(step)[1][0])
    by_loader[dataset.example_id(example), digest({k: v[0] for k, v in batch.items()})] += 1
  one.close()
  assert by_seqio == by_loader
  assert len(by_seqio) == len(dataset) >= 4


@pytest.mark.parametrize('name', TASKS)
def test_every_source_takes_the_policy_on_broken_data(name, files):
  bind(files, name, on_bad='skip', max_bad_share=3)
  with pytest.raises(ValueError, match='max_bad_share is 3; it is a share'):
    loader.Loader(name, 2, mixtures.sources.model())


@pytest.mark.parametrize('name', [*TASKS, *sorted(set(mixtures.open_x.DATASETS) - set(TASKS))])
def test_every_source_says_what_it_would_read_and_where_it_is_not(name, tmp_path):
  gin.bind_parameter('mixtures.sources.model.processor', small_files.processor(name))
  source = mixtures.sources.NAMES[name]
  with pytest.raises(ValueError, match=f'{source}.'):
    loader.Loader(name, 2, mixtures.sources.model())
  bind(tmp_path, name)
  with pytest.raises((FileNotFoundError, ValueError), match=os.fspath(tmp_path)):
    loader.Loader(name, 2, mixtures.sources.model())


@pytest.mark.parametrize('name', TASKS)
def test_answers_that_are_right_are_judged_so(name, files):
  bind(files, name)
  one = evaluator.Evaluator(name, 4, mixtures.sources.model(), split='train')
  found = one.evaluate(lambda batch: batch['decoder_target_tokens'])
  judged = tasks.get(name).predict_metric_fns
  if not judged:
    assert not found
  elif 'exact_match' in found[name]:
    assert found[name]['exact_match'] == found[name]['valid'] == 1
  else:
    # VQAv2's rule gives two of three people who agree two thirds.
    assert found[name]['accuracy'] > 0.6


def test_a_plan_is_judged_apart_from_its_action(files):
  bind(files, 'chain_of_thought')
  one = evaluator.Evaluator('chain_of_thought', 4, mixtures.sources.model(), split='train')
  right = one.evaluate(lambda batch: batch['decoder_target_tokens'])['chain_of_thought']
  assert right['plan'] == right['exact_match'] == 1
  silent = one.evaluate(lambda batch: 0 * batch['decoder_target_tokens'] + 1)['chain_of_thought']
  assert silent['plan'] == silent['valid'] == 0
