"""What summary.json, ablation.json and the tables say, and when they are not written."""

import dataclasses
import json
import math

import numpy as np
import pytest

from rt2_train.evaluation import episodes
from rt2_train.evaluation import report


def play(suite: str, success: float, nearest: float, n: int = 200, seed: int = 0):
  """Episodes with these rates; the better policy solves what the worse one solves, and more."""
  order = np.random.default_rng(seed).permutation(n)
  return [
      episodes.Episode(
          suite=suite, seed=i, instruction='pick sun', success=bool(order[i] < success * n),
          reach=bool(order[i] < success * n), nearest_is_target=bool(order[i] < nearest * n),
          distance=0.1, steps=9, stopped_by='policy', path_Px2=np.zeros((10, 2), np.float32),
      )  # pyformat: disable
      for i in range(n)
  ]


def run(success: float = 0.7, nearest: float = 0.76) -> list[episodes.Episode]:
  return [
      *play('seen', success, success),
      *play('unseen', 0.1, nearest),
      *play('unseen_only', 0.05, nearest),
  ]


def write(directory, played=None, **changes) -> dict:
  arguments = {
      'episodes': run() if played is None else played,
      'web': {'accuracy_before': 0.98, 'accuracy_after': 0.97},
      'offline': {'robot': {'accuracy/dx': 0.91, 'terminate_f1': 0.8}},
      'wall_seconds': 905.4,
      'peak_rss_gib': 3.14,
      **changes,
  }
  return report.write_summary(str(directory), **arguments)


def test_summary_json_has_the_keys_that_are_promised(tmp_path):
  write(tmp_path)
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert set(summary) == {
      'seen', 'unseen', 'unseen_only', 'web', 'offline', 'wall_seconds', 'peak_rss_gib'}
  assert {'success', 'reach', 'n'} <= set(summary['seen'])
  assert {'success', 'reach', 'nearest_is_target', 'n'} <= set(summary['unseen'])
  assert (summary['seen']['success'], summary['unseen']['nearest_is_target']) == (0.7, 0.76)
  assert summary['unseen_only']['n'] == 200
  assert summary['web'] == {'accuracy_before': 0.98, 'accuracy_after': 0.97}
  assert summary['offline']['robot']['accuracy/dx'] == 0.91
  assert report.read_summary(str(tmp_path)) == summary


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'web': {'accuracy_before': 98.0, 'accuracy_after': 0.9}}, 'accuracy_before is 98.0'),
        ({'web': {'accuracy_after': 0.9}}, 'needs accuracy_before and accuracy_after'),
        ({'offline': {'loss': math.nan}}, 'not JSON compliant'),
    ],
)
def test_a_summary_that_is_wrong_is_not_written_at_all(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    write(tmp_path, **changes)
  assert not list(tmp_path.iterdir())


def test_a_run_that_has_not_finished_has_no_summary(tmp_path):
  with pytest.raises(FileNotFoundError, match='has not been evaluated to its end'):
    report.read_summary(str(tmp_path))


def test_the_table_of_a_run_shows_every_rate_with_its_interval(tmp_path):
  text = report.table('co-fine-tuned', write(tmp_path))
  assert text.startswith('co-fine-tuned')
  unseen = next(line for line in text.splitlines() if line.startswith('unseen '))
  assert '0.10 [0.07 0.15]' in unseen and '0.76 [0.70 0.81]' in unseen
  assert '0.980 before robot training, 0.970 after' in text
  assert 'robot/terminate_f1' in text
  assert 'took 15 min 05 s, peak memory 3.1 GiB' in text
  assert max(map(len, text.splitlines())) <= 100


def test_a_policy_without_web_training_has_none_before(tmp_path):
  summary = write(tmp_path, web={'accuracy_before': None, 'accuracy_after': 0.0})
  assert 'none before robot training, 0.000 after' in report.table('from scratch', summary)


def test_policies_are_compared_in_the_suites_they_share():
  without = play('seen', 0.4, 0.5)
  planned = [dataclasses.replace(e, plan_due=0.75) for e in play('seen', 0.6, 0.7)]
  text = report.comparison_table('two steps', {'without': without, 'with_a_plan': planned})
  assert 'seen: success            0.40 [0.33 0.47]   0.60 [0.53 0.67]' in text
  assert 'seen: says what is due   none               0.750' in text
  assert '+0.20' in text and 'intervals apart' in text


@pytest.fixture
def ablation(tmp_path) -> tuple[dict, dict]:
  played = {
      'from_scratch': run(0.5, 0.31), 'finetune': run(0.75, 0.52), 'cofinetune': run(0.7, 0.77)
  }  # pyformat: disable
  return {name: write(tmp_path / name, p) for name, p in played.items()}, played


def test_ablation_json_holds_the_three_summaries(tmp_path, ablation):
  report.write_ablation(str(tmp_path / 'ablation.json'), ablation[0])
  assert json.loads((tmp_path / 'ablation.json').read_text()) == ablation[0]
  assert list(ablation[0]) == ['from_scratch', 'finetune', 'cofinetune']


def test_the_ablation_table_says_whether_each_step_is_more_than_luck(ablation):
  text = report.ablation_table(*ablation)
  nearest, success = text.split(', step by step')[1:]
  lines = nearest.splitlines()
  assert '+0.21 [+0.11 +0.30]' in lines[1] and 'intervals apart' in lines[1]
  assert '+0.25' in lines[2] and 'intervals apart' in lines[2]
  assert '-0.05' in success and 'intervals overlap' in success
  # All 10 episodes in which the two differ went the same way: 2 x 0.5^10.
  assert 'p = 0.002' in success


def test_runs_on_other_seeds_are_not_paired(ablation):
  summaries, played = ablation
  shifted = {**played, 'cofinetune': [e for e in played['cofinetune'] if e.seed > 0]}
  assert 'other seeds, not paired' in report.ablation_table(summaries, shifted)
