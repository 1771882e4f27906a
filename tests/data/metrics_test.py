"""What predicted actions and answers are worth."""

import numpy as np
import pytest

from rt2_train.data import metrics
from tests.data import memory_fixture

PROCESSOR = memory_fixture.processor()
SPACE = PROCESSOR.action_space


def tokens(*integers) -> list[int]:
  return [*PROCESSOR.vocabulary.encode_integers(integers), 1]


GO = (1, 10, 20, 30, 40, 50, 60, 255)
STOP = (0, 10, 20, 30, 40, 50, 60, 255)


def test_a_perfect_answer():
  values = metrics.actions([tokens(*GO), tokens(*STOP)], [tokens(*GO), tokens(*STOP)], PROCESSOR)
  assert values['exact_match'] == values['token_accuracy'] == values['valid'] == 1
  assert values['bin_error'] == values['l1/dx'] == 0
  assert values['terminate/f1'] == pytest.approx(1)
  assert values['terminate/stops'] == 1


def test_a_distance_is_in_bins_and_in_the_unit_of_its_dimension():
  near = (1, 14, 20, 30, 40, 50, 60, 255)
  values = metrics.actions([tokens(*GO)] * 2, [tokens(*near), tokens(*GO)], PROCESSOR)
  assert values['exact_match'] == 0.5
  assert values['token_accuracy/dx'] == 0.5
  assert values['token_accuracy/dy'] == 1
  assert values['token_accuracy'] == 15 / 16
  assert values['bin_error/dx'] == 2
  assert values['bin_error'] == 4 / 16
  step = (SPACE.decode(np.array(near)) - SPACE.decode(np.array(GO)))[1]
  assert values['l1/dx'] == pytest.approx(step / 2)
  assert 'l1/terminate' not in values


def test_an_answer_that_is_no_action_is_as_wrong_as_can_be():
  answers = [PROCESSOR.text_targets('apple'), tokens(*GO)[:4] + [1], []]
  values = metrics.actions([tokens(*GO)] * 3, answers, PROCESSOR)
  assert values['valid'] == values['exact_match'] == values['token_accuracy'] == 0
  assert values['bin_error/dx'] == 255
  assert values['bin_error/terminate'] == 1
  assert values['l1/dx'] == 2.0


def test_stopping_has_precision_recall_and_f1():
  targets = [STOP, STOP, STOP, GO, GO]
  answers = [STOP, GO, GO, STOP, GO]
  values = metrics.actions(
      [tokens(*one) for one in targets], [tokens(*one) for one in answers], PROCESSOR)
  assert values['terminate/precision'] == 1 / 2
  assert values['terminate/recall'] == 1 / 3
  assert values['terminate/f1'] == pytest.approx(0.4)


def test_without_any_stop_nothing_is_divided_by_zero():
  values = metrics.actions([tokens(*GO)], [tokens(*GO)], PROCESSOR)
  assert values['terminate/precision'] == values['terminate/recall'] == values['terminate/f1'] == 0


@pytest.mark.parametrize('answer, normal', [
    ('The red Cup.', 'red cup'), (' a  cup\n', 'cup'), ('"Yes!"', 'yes'), ('a', 'a'), ('2', '2')])
def test_answers_are_compared_without_case_articles_and_punctuation(answer, normal):
  assert metrics.normalise(answer) == normal


def test_accuracy_of_text_is_the_share_of_matching_answers():
  targets = [PROCESSOR.text_targets(word) for word in ('cup', 'apple', 'can', 'bowl')]
  answers = [PROCESSOR.text_targets(word) for word in ('cup', 'a apple', 'pen', '')]
  assert metrics.vqa(targets, answers, PROCESSOR) == {'accuracy': 0.5}


def test_an_answer_is_as_right_as_three_of_ten_people_say():
  people = [['cup'] * 2 + ['can'] * 8]
  said = lambda word: [PROCESSOR.text_targets(word)]
  # VQAv2's official average over the ten ways to leave one person out.
  assert metrics.vqa(people, said('cup'), PROCESSOR)['accuracy'] == pytest.approx(
      (8 * 2 / 3 + 2 * 1 / 3) / 10)
  assert metrics.vqa(people, said('can'), PROCESSOR)['accuracy'] == 1.0
  assert metrics.vqa(people, said('pen'), PROCESSOR)['accuracy'] == 0.0
  assert metrics.vqa(people, said('cup'), PROCESSOR, consensus=False)['accuracy'] == 1.0


def test_coordinates_may_be_off_by_the_tolerance_and_words_may_not():
  assert metrics.matches('cup 60 195', 'cup 83 172', integer_tolerance=23)
  assert not metrics.matches('cup 60 195', 'cup 84 195', integer_tolerance=23)
  assert not metrics.matches('cup 60 195', 'can 60 195', integer_tolerance=23)
  assert not metrics.matches('60 195', '60', integer_tolerance=23)
  # A count is no coordinate.
  assert not metrics.matches('2', '3', integer_tolerance=23)
