"""Span corruption and continuation, on ids."""

import numpy as np
import pytest

from rt2_train import actions
from rt2_train import images
from rt2_train import processor as processor_lib
from rt2_train import vocabulary
from rt2_train.data import text_objectives
from tests.data import rlds_fixture

EOS = 1


@pytest.fixture(scope='module')
def model_file(tmp_path_factory) -> str:
  file = str(tmp_path_factory.mktemp('text') / 'sentinels.model')
  vocabulary.train(['pick the cup'] * 9, file, 900, num_integers=256, num_sentinels=20)
  return file


def a_processor(model_file, inputs_length=64, targets_length=32):
  return processor_lib.Processor(
      vocabulary.Vocabulary(model_file), actions.RT2, images.ImageSpec(8, 8), inputs_length,
      targets_length)


def put_back(inputs, targets, sentinels) -> list[int]:
  """The text, with each span where its sentinel stands."""
  spans, span = {}, None
  for id_ in targets[:-1]:
    if id_ in sentinels:
      span = spans.setdefault(id_, [])
    else:
      span.append(id_)
  return [id_ for each in inputs for id_ in (spans[each] if each in sentinels else [each])]


@pytest.mark.parametrize('size', [1, 2, 3, 5, 10, 40, 71])
def test_what_span_corruption_leaves_out_is_what_it_answers(model_file, size):
  processor = a_processor(model_file)
  sentinels = processor.vocabulary.sentinel_ids
  ids_N = np.arange(1000, 1000 + size)
  for seed in range(20):
    inputs, targets = text_objectives.span_corruption().write(
        ids_N, processor, np.random.default_rng(seed))
    assert put_back(inputs, targets, sentinels) == ids_N.tolist()
    used = [id_ for id_ in inputs if id_ in sentinels]
    assert used == list(sentinels[:len(used)])
    assert targets[-2:] == [sentinels[len(used)], EOS]
    assert len(inputs) <= 64 and len(targets) <= 32


def test_fifteen_percent_are_left_out_in_spans_of_three(model_file):
  processor = a_processor(model_file, 400, 200)
  sentinels = processor.vocabulary.sentinel_ids
  inputs, targets = text_objectives.span_corruption().write(
      np.arange(1000, 1360), processor, np.random.default_rng(0))
  left_out = sum(id_ >= 1000 for id_ in targets)
  assert left_out == round(0.15 * 360) == 54
  assert sum(id_ in sentinels for id_ in inputs) == 18


def test_spans_lie_anywhere_and_are_of_any_length(model_file):
  processor = a_processor(model_file)
  begins, lengths = set(), set()
  for seed in range(200):
    _, targets = text_objectives.span_corruption().write(
        np.arange(1000, 1040), processor, np.random.default_rng(seed))
    numbers = np.array([id_ for id_ in targets if id_ >= 1000])
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    begins |= {int(run[0]) for run in runs}
    lengths |= {len(run) for run in runs}
  assert len(begins) > 30 and lengths >= {1, 2, 3, 4}


@pytest.mark.parametrize('inputs_length, targets_length', [(64, 32), (30, 32), (200, 8), (2, 4)])
def test_a_long_text_gives_a_part_that_fills_one_of_the_lengths(
    model_file, inputs_length, targets_length):
  processor = a_processor(model_file, inputs_length, max(targets_length, 9))
  object.__setattr__(processor, 'targets_length', targets_length)
  objective = text_objectives.span_corruption()
  starts = set()
  for seed in range(30):
    inputs, targets = objective.write(
        np.arange(1000, 9000), processor, np.random.default_rng(seed))
    assert len(inputs) <= inputs_length and len(targets) <= targets_length
    assert len(inputs) >= inputs_length - 1 or len(targets) >= targets_length - 1
    starts.add(inputs[0])
  assert len(starts) > 20


def test_sentinels_are_never_used_up(model_file):
  processor = a_processor(model_file, 3000, 3000)
  inputs, targets = text_objectives.span_corruption().write(
      np.arange(1000, 9000), processor, np.random.default_rng(0))
  used = [id_ for id_ in inputs if id_ in processor.vocabulary.sentinel_ids]
  assert len(used) == 19 and targets[-2] == processor.vocabulary.sentinel_ids[19]


@pytest.mark.parametrize('size', [1, 2, 20, 95, 5000])
def test_a_continuation_is_the_text_cut_in_two(model_file, size):
  processor = a_processor(model_file)
  cuts = set()
  for seed in range(60):
    inputs, targets = text_objectives.continuation().write(
        np.arange(1000, 1000 + size), processor, np.random.default_rng(seed))
    whole = [*inputs, *targets[:-1]]
    assert whole == list(range(whole[0], whole[0] + min(size, 95)))
    assert targets[-1] == EOS and 1 <= len(inputs) <= 64 and len(targets) <= 32
    cuts.add(len(inputs))
  # Of 95 tokens 64 are read at most and 31 answered at most, so there is one place to cut.
  assert len(cuts) > {1: 0, 2: 0, 20: 10, 95: 0, 5000: 0}[size]


def test_a_model_without_sentinels_is_refused_with_the_remedy():
  with pytest.raises(ValueError, match=r'has no piece <extra_id_0>.*mT5.*num_sentinels=100'):
    text_objectives.resolve('span_corruption').check(rlds_fixture.a_processor())


def test_lengths_that_are_too_short_are_refused(model_file):
  processor = a_processor(model_file, 1, 9)
  with pytest.raises(ValueError, match='span_corruption needs an inputs_length of 2, a targets_'
                     'length of 4 and 2 sentinels at least; the processor has 1, 9 and 20'):
    text_objectives.resolve('span_corruption').check(processor)
  object.__setattr__(processor, 'targets_length', 1)
  with pytest.raises(ValueError, match='continuation needs a targets_length of 2 at least'):
    text_objectives.resolve('continuation').check(processor)


def test_options_and_names_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match='noise_density is 1.5 and mean_span 3.0; the first must'):
    text_objectives.span_corruption(noise_density=1.5)
  with pytest.raises(ValueError, match="no objective 'caption' for text without images; there are"):
    text_objectives.resolve('caption')
