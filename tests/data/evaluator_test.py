"""The evaluator calls metric functions as SeqIO's own does, in batches of one shape."""

import json
import uuid

import numpy as np
import pytest
import seqio

from rt2_train.data import converters
from rt2_train.data import evaluator
from rt2_train.data import metrics
from rt2_train.data import tasks
from tests.data import memory_fixture

PROCESSOR = memory_fixture.processor()
ROBOT = memory_fixture.robot(10, PROCESSOR)
WEB = memory_fixture.web(7, PROCESSOR)


def actions(targets, predictions):
  return metrics.actions(targets, predictions, PROCESSOR)


def text(targets, predictions):
  return metrics.vqa(targets, predictions, PROCESSOR)


def register(dataset, *metric_fns) -> str:
  name = f'test_{uuid.uuid4().hex}'
  tasks.add_task(name, {'validation': lambda: dataset}, metric_fns)
  return name


NAMES = register(ROBOT, actions), register(WEB, text)
MIXTURE = f'test_{uuid.uuid4().hex}'
seqio.MixtureRegistry.add(MIXTURE, [(name, 1.0) for name in NAMES])


def perfect(batch):
  return batch['decoder_target_tokens']


def clumsy(batch):
  """Another bin in the second token of every second row; rows then end in junk after EOS."""
  tokens = batch['decoder_target_tokens'].copy()
  tokens[::2, 1] = PROCESSOR.vocabulary.action_ids_256[7]
  tokens[tokens == 0] = 9
  return tokens


def test_a_perfect_model_is_perfect_on_every_task():
  results = evaluator.Evaluator(MIXTURE, 4, PROCESSOR).evaluate(perfect)
  assert set(results) == set(NAMES)
  assert results[NAMES[0]]['exact_match'] == 1
  assert results[NAMES[1]] == {'accuracy': 1.0}


def test_the_same_values_as_seqios_evaluator():
  theirs = seqio.Evaluator(
      MIXTURE, converters.EncoderDecoderConverter(),
      sequence_length=converters.task_feature_lengths(PROCESSOR))

  def predict(ds):
    outputs = []
    for i, row in ds.as_numpy_iterator():
      batch = {'decoder_target_tokens': np.stack([row['decoder_target_tokens']] * 2)}
      outputs.append((int(i), clumsy(batch)[int(i) % 2].tolist()))
    return outputs

  expected, _ = theirs.evaluate(compute_metrics=True, predict_fn=predict)
  results = evaluator.Evaluator(MIXTURE, 4, PROCESSOR).evaluate(clumsy)
  assert results == expected.result()
  assert 0 < results[NAMES[0]]['token_accuracy'] < 1
  theirs.close()


def test_batches_have_one_shape_and_copies_do_not_count():
  shapes, seen = set(), []

  def predict(batch):
    shapes.add(batch['images'].shape)
    seen.append(len(np.unique(batch['images'].reshape(4, -1), axis=0)))
    return batch['decoder_target_tokens']

  def count(targets, predictions):
    return {'count': len(targets), 'predicted': len(predictions)}

  name = register(ROBOT, count)
  results = evaluator.Evaluator(name, 4, PROCESSOR).evaluate(predict)
  assert results == {name: {'count': 10, 'predicted': 10}}
  assert shapes == {(4, 1, 16, 16, 3)}
  assert seen == [4, 4, 2]


def test_fewer_examples_are_spread_over_the_split():
  one = evaluator.Evaluator(NAMES[0], 4, PROCESSOR, max_examples=5)
  ids = [row['example_id'] for row in one.infer(perfect)]
  assert ids == [ROBOT.example_id(i) for i in (0, 2, 4, 6, 8)]


def test_scores_and_aux_values_go_to_the_metrics_that_name_them():

  def mean_score(targets, scores):
    assert len(targets) == len(scores) == 7
    return {'score': float(np.mean(scores))}

  def aux(targets, predictions, aux_values):
    assert [list(p) for p in predictions] == [list(t) for t in targets]
    return {'lengths': aux_values['lengths'].tolist()}

  name = register(WEB, mean_score, aux)

  def with_aux(batch):
    return batch['decoder_target_tokens'], {'lengths': batch['decoder_loss_weights'].sum(1)}

  results = evaluator.Evaluator(name, 4, PROCESSOR).evaluate(
      predict_with_aux=with_aux, score=lambda batch: np.full(4, -2.0))
  assert results == {name: {
      'score': -2.0, 'lengths': [len(WEB[i]['targets']) for i in range(7)]}}


def test_a_missing_function_is_named():
  with pytest.raises(ValueError, match=f'metric text of task {NAMES[1]} needs the function'):
    evaluator.Evaluator(NAMES[1], 4, PROCESSOR).evaluate(score=lambda batch: np.zeros(4))


def test_two_metrics_of_one_name_are_refused():
  name = register(WEB, text, lambda targets, predictions: {'accuracy': 0.0})
  with pytest.raises(ValueError, match='two metrics of .* are called .*accuracy'):
    evaluator.Evaluator(name, 4, PROCESSOR).evaluate(perfect)


def test_inference_can_be_written_as_json():
  one = evaluator.Evaluator(MIXTURE, 4, PROCESSOR)
  rows = [json.loads(json.dumps(row)) for row in one.infer(clumsy)]
  by_source = {name: [row for row in rows if row['source'] == name] for name in NAMES}
  robot, web = by_source[NAMES[0]], by_source[NAMES[1]]
  assert [row['example_id'] for row in robot] == [ROBOT.example_id(i) for i in range(10)]
  assert robot[1]['prompt'] == 'Q: what action should the robot take to pick the apple? A:'
  space = PROCESSOR.action_space
  targets = space.decode(PROCESSOR.integers_from_tokens(ROBOT[1]['targets']))
  np.testing.assert_allclose(robot[1]['action'], targets)
  assert robot[1]['prediction'] == robot[1]['target']
  assert robot[1]['prediction_ids'][-1] == 1
  assert robot[0]['action'] != robot[0]['target_action']
  assert robot[0]['action'][1] == pytest.approx(space.decode(np.array([1, 7] + [0] * 6))[1])
  assert web[1]['target'] == 'can' and 'action' not in web[1]


def test_an_answer_that_is_no_action_is_none():
  def words(batch):
    return np.tile(PROCESSOR.text_targets('cup')[:2], (4, 1))

  row = next(evaluator.Evaluator(NAMES[0], 4, PROCESSOR).infer(words))
  assert row['action'] is None and len(row['target_action']) == 8


def test_a_task_without_metrics_is_inferred_but_not_evaluated():
  name = register(WEB)
  one = evaluator.Evaluator(name, 4, PROCESSOR)
  assert one.evaluate(perfect) == {}
  assert len(list(one.infer(perfect))) == 7


def test_a_split_that_no_task_has_is_refused():
  with pytest.raises(ValueError, match="no task of .* has split 'test'"):
    evaluator.Evaluator(MIXTURE, 4, PROCESSOR, split='test')


def test_a_broken_example_is_named():
  broken = memory_fixture.InMemory([('episode 3 step 4', [b'\xff\xd8'], [5], [1])], PROCESSOR)
  name = register(broken, text)
  with pytest.raises(ValueError, match=f'task {name}, example episode 3 step 4: JPEG truncated'):
    evaluator.Evaluator(name, 4, PROCESSOR).evaluate(perfect)
