"""The registered mixtures, bound from gin files to real data on disk."""

import collections
import json

import gin
import pytest
import seqio
import tensorflow as tf

import mixtures.cofinetune
import mixtures.robot
import mixtures.sources
import mixtures.web
from rt2_train import gin_files
from rt2_train import prompts
from rt2_train.data import converters
from rt2_train.data import evaluator
from rt2_train.data import loader
from rt2_train.data import tasks
from tests.data import memory_fixture
from tests.data import rlds_fixture

# What a user writes. The singleton keeps one processor for all that name it.
PROCESSOR = """
from __gin__ import dynamic_registration
import mixtures.cofinetune
import mixtures.robot
import mixtures.sources
import mixtures.web
from rt2_train import actions
from rt2_train import images
from rt2_train import processor
from rt2_train import vocabulary

PROCESSOR = @the_processor/gin.singleton()
mixtures.sources.model.processor = %PROCESSOR
the_processor/gin.singleton.constructor = @processor.Processor
processor.Processor:
  vocabulary = @vocabulary.Vocabulary()
  action_space = @actions.rt2()
  image_spec = @images.ImageSpec()
  inputs_length = 64
  targets_length = 24
vocabulary.Vocabulary.model_file = '{model_file}'
images.ImageSpec:
  height = 24
  width = 32
"""
ROBOT = """
mixtures.robot.source:
  data_dir = '{data}/robot'
"""
CAPTIONS = """
mixtures.web.captions:
  pattern = {{'train': '{data}/captions.tfrecord-*'}}
"""
VQA = """
mixtures.web.vqa:
  questions = {{'train': '{data}/questions.json', 'validation': '{data}/questions.json'}}
  annotations = {{'train': '{data}/annotations.json', 'validation': '{data}/annotations.json'}}
  images = {{'train': '{data}/{{image_id}}.jpg', 'validation': '{data}/{{image_id}}.jpg'}}
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """Robot episodes, caption records and VQA files, as they lie on a user's disk."""
  folder = tmp_path_factory.mktemp('data')
  for split, count in (('train', 3), ('val', 1)):
    rlds_fixture.write(
        folder / 'robot', 'fractal', [rlds_fixture.episodes('fractal', count)], split)
  rlds_fixture.write_records(str(folder / 'captions.tfrecord-00000-of-00001'), [
      rlds_fixture.serialize({'image': [rlds_fixture.jpeg(i)], 'caption': [f'cup {i}'.encode()]})
      for i in range(6)])
  for i in range(4):
    (folder / f'{i}.jpg').write_bytes(rlds_fixture.jpeg(50 + i))
  (folder / 'questions.json').write_text(json.dumps({'questions': [
      {'question_id': i, 'image_id': i, 'question': 'what is it?'} for i in range(4)]}))
  (folder / 'annotations.json').write_text(json.dumps({'annotations': [
      {'question_id': i, 'multiple_choice_answer': 'a cup'} for i in range(4)]}))
  return folder


@pytest.fixture
def configure(data, tmp_path):
  """Parses gin text; the configuration is gone after the test."""

  def parse(*texts: str):
    path = tmp_path / 'run.gin'
    values = {'data': data, 'model_file': memory_fixture.model_file()}
    path.write_text('\n'.join(text.format(**values) for text in (PROCESSOR, *texts)))
    gin_files.parse([str(path)])
    return mixtures.sources.model()

  gin.clear_config()
  yield parse
  gin.clear_config()


def shares(name: str) -> dict[str, float]:
  mixture = seqio.get_mixture_or_task(name)
  return {task.name: mixture.get_rate(task) for task in mixture.tasks}


def test_a_gin_file_is_all_it_takes_to_train_on_three_sources(configure):
  processor = configure(ROBOT, CAPTIONS, VQA)
  one = loader.Loader('cofinetune', 8, processor)
  batch = next(one)
  counts = collections.Counter(one.sources[int(row)] for row in batch['source'][:, 0])
  assert counts == {'robot': 4, 'captions': 2, 'vqa': 2}
  robot = batch['source'][:, 0] == tasks.source_id('robot')
  for tokens in batch['decoder_target_tokens'][robot]:
    assert processor.action_from_tokens(tokens).shape == (8,)
  asked = {processor.vocabulary.decode(row) for row in batch['encoder_input_tokens'][~robot]}
  assert prompts.vqa('what is it?') in asked and len(asked) == 2


def test_rates_bound_in_gin_reach_the_mixture(configure):
  configure(
      ROBOT, CAPTIONS, VQA, 'mixtures.cofinetune.share.robot = 0.66',
      'mixtures.web.rates.vqa = 3.0')
  named = lambda name: {task: share for task, share in shares(name).items() if share}
  assert named('cofinetune') == pytest.approx({'robot': 0.66, 'captions': 0.085, 'vqa': 0.255})
  assert named('web') == pytest.approx({'captions': 0.25, 'vqa': 0.75})


def test_a_web_source_without_files_leaves_its_weight_to_the_others(configure):
  processor = configure(ROBOT, CAPTIONS)
  assert shares('cofinetune')['captions'] == 0.5
  one = loader.Loader('cofinetune', 4, processor)
  table = {row['source']: row for row in one.table()}
  assert table['captions']['weight'] == table['robot']['weight'] == 0.5
  assert 'mixtures.web.vqa.questions' in table['vqa']['note']


def test_no_web_source_at_all_is_an_error_that_names_them(configure):
  processor = configure(ROBOT)
  with pytest.raises(ValueError, match='cofinetune: none of captions, .* has files'):
    loader.Loader('cofinetune', 4, processor)
  with pytest.raises(ValueError, match='captions: .*mixtures.web.captions.pattern'):
    loader.Loader('web', 4, processor)


def test_the_robot_source_must_be_named(configure):
  processor = configure(CAPTIONS)
  for name in ('robot', 'cofinetune'):
    with pytest.raises(ValueError, match=r"to the gin file: mixtures.robot.source.data_dir = '/"):
      loader.Loader(name, 4, processor)


def test_files_without_a_model_say_what_binds_it(configure):
  processor = configure(ROBOT, CAPTIONS, 'mixtures.sources.model.processor = None')
  assert processor is None
  for name in ('robot', 'captions'):
    with pytest.raises(ValueError, match='mixtures.sources.model.processor = %PROCESSOR'):
      loader.Loader(name, 4, memory_fixture.processor())


def test_weights_that_are_all_zero_are_one_clear_line(configure):
  processor = configure(CAPTIONS, 'mixtures.web.rates.captions = 0')
  with pytest.raises(ValueError, match='are 0 .captions.; raise one in mixtures.web.rates'):
    loader.Loader('web', 4, processor)


@pytest.mark.parametrize('weight', [-1, float('nan'), float('inf'), '2'])
def test_a_weight_that_is_none_is_refused(configure, weight):
  processor = configure(ROBOT, CAPTIONS, VQA)
  with gin.unlock_config():
    gin.bind_parameter('mixtures.web.rates.captions', weight)
  with pytest.raises(ValueError, match='mixtures.web.rates.captions is .*; a weight is a number'):
    loader.Loader('cofinetune', 4, processor)


def test_a_source_without_the_split_leaves_its_weight_to_its_own_part(configure):
  processor = configure(
      ROBOT, CAPTIONS, VQA, "mixtures.web.vqa.questions = {{'validation': '{data}/questions.json'}}",
      "mixtures.web.vqa.annotations = {{'validation': '{data}/annotations.json'}}",
      "mixtures.web.vqa.images = {{'validation': '{data}/{{image_id}}.jpg'}}")
  for split, web in (('train', 'captions'), ('validation', 'vqa')):
    table = loader.Loader('cofinetune', 4, processor, split=split).table()
    weights = {row['source']: row['weight'] for row in table if row['weight']}
    assert weights == {'robot': 0.5, web: 0.5}


def test_a_path_without_its_split_is_refused(configure):
  processor = configure("mixtures.web.captions.pattern = '/data/captions-*'")
  with pytest.raises(ValueError, match="takes a path per split: {'train': '/data/captions-.'}"):
    loader.Loader('captions', 4, processor)


def test_relative_paths_start_from_the_directory_of_the_data(configure, data):
  absolute = configure(ROBOT, CAPTIONS)
  expected = loader.Loader('cofinetune', 4, absolute).state()['sources']
  gin.clear_config()
  processor = configure(
      "mixtures.sources.files.below = '{data}'", "mixtures.robot.source.data_dir = 'robot'",
      "mixtures.web.captions.pattern = {{'train': 'captions.tfrecord-*'}}")
  assert loader.Loader('cofinetune', 4, processor).state()['sources'] == expected


def test_half_a_configuration_says_what_is_missing(configure):
  configure(ROBOT, "mixtures.web.vqa.questions = {{'train': 'q.json'}}")
  with pytest.raises(ValueError, match='task vqa is half .* mixtures.web.vqa.annotations'):
    loader.Loader('web', 4, mixtures.sources.model())


def test_a_split_must_be_named_everywhere(configure):
  processor = configure(ROBOT, VQA, "mixtures.web.vqa.images = {{'train': 'a.jpg'}}")
  with pytest.raises(ValueError, match="split 'validation' is not in mixtures.web.vqa.images"):
    loader.Loader('vqa', 4, processor)


def test_robot_splits_can_be_named_in_gin(configure):
  processor = configure(ROBOT, "mixtures.robot.source.splits = {{'train': 'val'}}")
  assert loader.Loader('robot', 4, processor).table()[0]['examples'] == 5


def test_metrics_read_the_bound_processor(configure):
  processor = configure(ROBOT, CAPTIONS, VQA)
  one = evaluator.Evaluator('cofinetune', 4, processor)
  assert [task.name for task in one.tasks] == ['robot', 'vqa']
  results = one.evaluate(lambda batch: batch['decoder_target_tokens'])
  assert results['robot']['exact_match'] == 1
  assert results['robot']['terminate/stops'] == 1
  assert results['vqa'] == {'accuracy': 1.0}


def test_a_processor_is_made_once(configure):
  configure(ROBOT, CAPTIONS)
  first, second = (tasks.source_of(tasks.get(name)).open('train') for name in ('robot', 'captions'))
  assert first._processor is second._processor is mixtures.sources.model()


def test_tf_data_mixes_them_too(configure):
  processor = configure(ROBOT, CAPTIONS)
  ds = seqio.get_dataset(
      'cofinetune', converters.task_feature_lengths(processor),
      converters.EncoderDecoderConverter(), num_epochs=None, shuffle=True, seed=1, batch_size=16,
      verbose=False)
  batch = next(ds.as_numpy_iterator())
  assert set(batch['source'][:, 0]) == {tasks.source_id('robot'), tasks.source_id('captions')}
  assert isinstance(ds, tf.data.Dataset)
