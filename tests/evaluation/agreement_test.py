"""How the agreement of two models' tokens is counted."""

import types

from rt2_train.evaluation import agreement
from rt2_train.evaluation import offline


def test_tokens_agree_place_by_place_up_to_the_end_of_the_longer_answer():
  counts = agreement.Agreement()
  counts.add([5, 6, 1, 0, 0], [5, 6, 1])
  assert counts == agreement.Agreement(answers=1, same_answers=1, tokens=3, same_tokens=3)
  counts.add([5, 6, 1], [5, 7, 8, 1])
  assert counts == agreement.Agreement(answers=2, same_answers=1, tokens=7, same_tokens=4)


def test_both_policies_are_asked_the_same_examples_and_counted_by_task(monkeypatch):
  written = {'run': [[5, 1], [6, 1], [7, 1]], 'exported': [[5, 1], [6, 1], [8, 1]]}

  def load(path, *, evaluator):
    del evaluator
    rows = [{'source': source, 'prediction_ids': ids}
            for source, ids in zip(('robot', 'vqa', 'robot'), written[path])]
    asked = types.SimpleNamespace(infer=lambda predict: rows)
    return types.SimpleNamespace(predict_batch=None), asked

  monkeypatch.setattr(offline, 'load', load)
  found = agreement.measure(checkpoint_path='run', exported_path='exported', evaluator=None)
  assert found['robot'] == agreement.Agreement(2, 1, 4, 3)
  assert found['vqa'] == agreement.Agreement(1, 1, 2, 2)
