"""What the demo's suites promise about the scenes they play."""

import gymnasium
import numpy as np
import pytest

from rt2_train.evaluation import suites
from rt2_train.sim import objects
from rt2_train.sim import tabletop


def scenes(suite: suites.Suite) -> list[tabletop.Scene]:
  env: gymnasium.Env = tabletop.Tabletop(**suite.env)
  return [env.reset(seed=seed)[1]['scene'] for seed in suite.seeds]


def groups(scene: tabletop.Scene, num_categories: int = 16) -> tuple[str, set[str]]:
  """The group of the target, and the groups of the objects beside it."""
  seen = objects.indices('seen', num_categories)
  names = ['seen' if category in seen else 'unseen' for category in scene.categories]
  return names[scene.target], {g for i, g in enumerate(names) if i != scene.target}


def test_each_suite_has_the_objects_its_name_says():
  seen, unseen, unseen_only, backgrounds = suites.demo(
      40, names=('seen', 'unseen', 'unseen_only', 'backgrounds')
  )
  assert all(groups(scene) == ('seen', {'seen'}) for scene in scenes(seen))
  assert all(groups(scene) == ('unseen', {'unseen'}) for scene in scenes(unseen_only))
  for scene in scenes(unseen):
    target, others = groups(scene)
    # Mixed: always something familiar to drift to.
    assert target == 'unseen' and 'seen' in others
  assert {scene.background for scene in scenes(backgrounds)} == {'unseen'}
  assert {scene.background for scene in scenes(unseen)} == {'seen'}


def test_seeds_belong_to_no_other_split():
  dev, test = suites.demo(100, 'dev')[0], suites.demo(100, 'test')[0]
  for suite in (dev, test):
    assert not any(seed in tabletop.TRAIN_SEEDS for seed in suite.seeds)
  assert not set(dev.seeds) & set(test.seeds)


def test_every_suite_names_every_target_of_its_group():
  _, unseen, _ = suites.demo(200)
  targets = np.array([scene.categories[scene.target] for scene in scenes(unseen)])
  assert set(targets) == set(objects.indices('unseen', 16))


@pytest.mark.parametrize(
    'arguments, message',
    [
        ({'split': 'train'}, 'split .train. is unknown'),
        ({'names': ('sen',)}, "'sen' is unknown; use one of seen"),
        ({'n': 0}, 'n is 0'),
    ],
)
def test_what_there_is_not_is_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    suites.demo(**arguments)


def test_an_episode_is_not_counted_twice():
  with pytest.raises(ValueError, match='none twice'):
    suites.Suite('seen', {}, (1, 1))
