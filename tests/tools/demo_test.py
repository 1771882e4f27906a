"""The recipe's account of time and memory, with commands that do next to nothing."""

import json

import pytest

from tools import demo


@pytest.fixture
def recipe(tmp_path):
  return demo.Recipe(demo.Variant(run_dir=tmp_path))


def phases(tmp_path) -> dict:
  return json.loads((tmp_path / 'phases.json').read_text())


def test_a_run_costs_its_own_phases_and_those_all_stand_on(recipe, tmp_path):
  recipe.run('data', 'all', 'this')
  recipe.run('train a', 'a', 'calendar', '2026', '11')
  recipe.run('train b', 'b', 'calendar', '2026', '12')
  took = {name: phase['seconds'] for name, phase in phases(tmp_path).items()}
  assert recipe.cost('a')['wall_seconds'] == pytest.approx(took['data'] + took['train a'])
  assert recipe.cost('a')['peak_rss_gib'] >= 0


def test_a_failed_phase_ends_the_recipe_and_its_time_is_added_to_the_next_attempt(recipe, tmp_path):
  with pytest.raises(SystemExit, match='phase "train" failed with status 2'):
    recipe.run('train', 'a', 'calendar', 'no-year')
  failed = phases(tmp_path)['train']
  assert not failed['finished']
  # Another process goes on with the account.
  demo.Recipe(demo.Variant(run_dir=tmp_path)).run('train', 'a', 'calendar', '2026')
  finished = phases(tmp_path)['train']
  assert finished['finished'] and finished['seconds'] > failed['seconds']


def test_what_is_done_once_more_counts_once(recipe, tmp_path):
  recipe.run('evaluate', 'a', 'calendar', '2026')
  first = phases(tmp_path)['evaluate']['seconds']
  recipe.run('evaluate', 'a', 'calendar', '2026')
  assert phases(tmp_path)['evaluate']['seconds'] < 1.9 * first + 0.2


def test_an_interrupted_phase_says_that_the_same_command_goes_on(recipe, tmp_path, monkeypatch):
  (tmp_path / 'stopped.py').write_text('import sys; sys.exit(75)')
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  with pytest.raises(SystemExit, match='the same command goes on from there'):
    recipe.run('train', 'a', 'stopped')
