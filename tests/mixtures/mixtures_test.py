"""The registered mixtures, bound from gin files to real data on disk."""

import collections
import hashlib
import json
import os

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf

import mixtures.cofinetune
import mixtures.robot
import mixtures.web
from rt2_train import gin_files
from rt2_train import prompts
from rt2_train.data import converters
from rt2_train.data import evaluator
from rt2_train.data import layouts
from rt2_train.data import loader
from rt2_train.data import tasks
from tests.data import memory_fixture
from tests.data import rlds_fixture

# What a user writes. The singleton keeps one processor for all that name it.
PROCESSOR = """
from __gin__ import dynamic_registration
import mixtures.cofinetune
import mixtures.robot
import mixtures.web
from rt2_train import actions
from rt2_train import images
from rt2_train import processor
from rt2_train import vocabulary

PROCESSOR = @the_processor/gin.singleton()
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
  processor = %PROCESSOR
"""
CAPTIONS = """
mixtures.web.captions:
  pattern = {{'train': '{data}/captions.tfrecord-*'}}
  processor = %PROCESSOR
"""
VQA = """
mixtures.web.vqa:
  questions = {{'train': '{data}/questions.json', 'validation': '{data}/questions.json'}}
  annotations = {{'train': '{data}/annotations.json', 'validation': '{data}/annotations.json'}}
  images = {{'train': '{data}/{{image_id}}.jpg', 'validation': '{data}/{{image_id}}.jpg'}}
  processor = %PROCESSOR
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
    return mixtures.robot.source().processor

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


# Every kind of task: what its source is bound to; a robot task also has a layout.
FILES = {
    'questions': 'questions.json', 'annotations': 'annotations.json', 'images': '{image_id}.jpg'}
KINDS = {
    **{f'robot {layout}': {'data_dir': layout} for layout in layouts.LAYOUTS},
    'captions': {'pattern': 'captions.tfrecord-*'},
    'coco_captions': {'annotations': 'coco.json', 'image_dir': '.'},
    'vqa': FILES,
    'vqa_records': {'pattern': 'vqa.tfrecord-*'},
    'detection': {**FILES, 'questions': 'detect.json'},
}


def bind(kind: str, folder):
  """Binds the source of one kind of task to its files in `folder`; returns task and processor."""
  task, _, layout = kind.partition(' ')
  processor = rlds_fixture.a_processor(layouts.LAYOUTS[layout or 'fractal'].action_space)
  values = {key: os.path.join(folder, value) for key, value in KINDS[kind].items()}
  if layout:
    source = 'mixtures.robot.source'
    values['layout'] = layout
  else:
    source = f'mixtures.web.{task}'
    values = {key: {'train': value} for key, value in values.items()}
  for key, value in {**values, 'processor': processor}.items():
    gin.bind_parameter(f'{source}.{key}', value)
  return task, processor


@pytest.fixture(scope='module')
def every_kind(data):
  """`data`, and files for the kinds of task that it lacks."""
  for layout in layouts.LAYOUTS:
    rlds_fixture.write(data / layout, layout, [
        rlds_fixture.episodes(layout, 1), rlds_fixture.episodes(layout, 1, first_seed=1)])
  (data / 'coco.json').write_text(json.dumps({
      'images': [{'id': i, 'file_name': f'{i}.jpg'} for i in range(4)],
      'annotations': [{'id': 9 - i, 'image_id': i, 'caption': f'cup {i}'} for i in range(4)]}))
  (data / 'detect.json').write_text(json.dumps({'questions': [
      {'question_id': i, 'image_id': 3 - i, 'question': prompts.detect([f'cup {i}'])}
      for i in range(4)]}))
  rlds_fixture.write_records(str(data / 'vqa.tfrecord-00000-of-00001'), [
      rlds_fixture.serialize({
          'image': [rlds_fixture.jpeg(i)], 'question': [b'what is it?', b'is it red?'],
          'answer': [f'cup {i}'.encode(), b'yes']})
      for i in range(3)])
  return data


def digest(features) -> str:
  """A hash of every feature of one row."""
  whole = hashlib.sha256()
  for key in sorted(features):
    whole.update(f'{key} {features[key].dtype} {features[key].shape}'.encode())
    whole.update(np.ascontiguousarray(features[key]).tobytes())
  return whole.hexdigest()


@pytest.mark.parametrize('kind', KINDS)
def test_one_epoch_is_the_same_through_seqio_and_through_the_loader(kind, configure, every_kind):
  name, processor = bind(kind, every_kind)
  lengths = converters.task_feature_lengths(processor)
  # SeqIO gives the id with the example, before its converter makes features of it.
  examples = tasks.get(name).get_dataset(lengths, 'train', shuffle=False)
  rows = seqio.get_dataset(name, lengths, converters.EncoderDecoderConverter(), verbose=False)
  by_seqio = collections.Counter(
      (example['example_id'].decode(), digest(row))
      for example, row in zip(examples.as_numpy_iterator(), rows.as_numpy_iterator(), strict=True))
  dataset = tasks.source_of(tasks.get(name)).open('train')
  one = loader.Loader(name, 2, processor)
  by_loader = collections.Counter()
  for step in range(len(dataset) // 2):
    batch = next(one)
    for row, i in enumerate(one.order.rows(step)[1]):
      by_loader[dataset.example_id(int(i)), digest({k: v[row] for k, v in batch.items()})] += 1
  one.close()
  assert by_seqio == by_loader
  assert len(by_seqio) == len(dataset) >= 4


def test_a_detection_question_is_the_whole_prompt(configure, every_kind):
  name, processor = bind('detection', every_kind)
  one = evaluator.Evaluator(name, 4, processor, split='train')
  rows = list(one.infer(lambda batch: batch['decoder_target_tokens']))
  assert [row['prompt'] for row in rows] == [f'detect cup {i}' for i in range(4)]
  assert rows[1]['example_id'] == 'detection question 1'
  assert one.evaluate(lambda batch: batch['decoder_target_tokens']) == {
      'detection': {'accuracy': 1.0}}
  assert one.evaluate(lambda batch: 0 * batch['decoder_target_tokens'] + 1) == {
      'detection': {'accuracy': 0.0}}


@pytest.mark.parametrize('kind', KINDS)
def test_every_source_takes_the_policy_on_broken_data(kind, configure, every_kind):
  name, processor = bind(kind, every_kind)
  source = 'mixtures.robot.source' if name == 'robot' else f'mixtures.web.{name}'
  gin.bind_parameter(f'{source}.on_bad', 'skip')
  gin.bind_parameter(f'{source}.max_bad_share', 3)
  with pytest.raises(ValueError, match='^max_bad_share is 3; it is a share'):
    loader.Loader(name, 2, processor)


def test_the_table_says_what_a_source_goes_without(configure, every_kind):
  name, processor = bind('robot bridge', every_kind)
  assert loader.Loader(name, 2, processor).table()[0]['note'] == (
      'left out: first step does not move 2')


def test_rates_bound_in_gin_reach_the_mixture(configure):
  configure(
      ROBOT, CAPTIONS, VQA, 'mixtures.cofinetune.rates.robot = 0.66',
      'mixtures.web.rates.vqa = 3.0')
  assert shares('cofinetune') == pytest.approx(
      {'robot': 0.66, 'captions': 0.085, 'vqa': 0.255, 'coco_captions': 0, 'vqa_records': 0,
       'detection': 0})
  assert shares('web') == pytest.approx(
      {'captions': 0.25, 'vqa': 0.75, 'coco_captions': 0, 'vqa_records': 0, 'detection': 0})


def test_a_web_source_without_files_leaves_its_weight_to_the_others(configure):
  processor = configure(ROBOT, CAPTIONS)
  assert shares('cofinetune')['captions'] == 0.5
  one = loader.Loader('cofinetune', 4, processor)
  table = {row['source']: row for row in one.table()}
  assert table['captions']['weight'] == table['robot']['weight'] == 0.5
  assert 'mixtures.web.vqa.questions' in table['vqa']['note']


def test_no_web_source_at_all_is_an_error_that_names_them(configure):
  processor = configure(ROBOT)
  with pytest.raises(ValueError, match='no web source is configured; name files in one of'):
    loader.Loader('cofinetune', 4, processor)
  with pytest.raises(ValueError, match='captions: .*mixtures.web.captions.pattern'):
    loader.Loader('web', 4, processor)


def test_the_robot_source_must_be_named(configure):
  with pytest.raises(ValueError, match=r"add to the gin file: mixtures.robot.source.data_dir = '/"):
    configure(CAPTIONS)
  with pytest.raises(ValueError, match='mixtures.robot.source.data_dir'):
    loader.Loader('robot', 4, memory_fixture.processor())


def test_half_a_configuration_says_what_is_missing(configure):
  configure(ROBOT, "mixtures.web.vqa.questions = {{'train': 'q.json'}}")
  with pytest.raises(ValueError, match='task vqa is half .* mixtures.web.vqa.annotations'):
    loader.Loader('web', 4, mixtures.robot.source().processor)


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
  assert mixtures.robot.source().processor is mixtures.web.captions().processor


def test_tf_data_mixes_them_too(configure):
  processor = configure(ROBOT, CAPTIONS)
  ds = seqio.get_dataset(
      'cofinetune', converters.task_feature_lengths(processor),
      converters.EncoderDecoderConverter(), num_epochs=None, shuffle=True, seed=1, batch_size=16,
      verbose=False)
  batch = next(ds.as_numpy_iterator())
  assert set(batch['source'][:, 0]) == {tasks.source_id('robot'), tasks.source_id('captions')}
  assert isinstance(ds, tf.data.Dataset)
