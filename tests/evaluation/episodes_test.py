"""Records of episodes: what comes back from disk, and what they add up to."""

import dataclasses

import numpy as np
import pytest

from rt2_train.evaluation import episodes


def episode(seed: int, success: bool = True, suite: str = 'seen', filmed: bool = False):
  rng = np.random.default_rng(seed)
  return episodes.Episode(
      suite=suite, seed=seed, instruction='pick anchor', success=success, reach=success,
      nearest_is_target=success or seed % 2 == 0, distance=0.01 * seed, steps=3,
      stopped_by='policy' if success else 'limit', path_Px2=rng.random((4, 2), np.float32),
      film_PxHxWx3=rng.integers(0, 256, (4, 8, 8, 3), np.uint8) if filmed else None,
  )  # pyformat: disable


def test_episodes_come_back_from_disk_as_they_were(tmp_path):
  # The same seed in two suites is two episodes with two films.
  played = [episode(1, filmed=True), episode(2, False), episode(1, suite='unseen', filmed=True)]
  episodes.save(str(tmp_path), played)
  for saved, original in zip(episodes.load(str(tmp_path)), played, strict=True):
    for field in dataclasses.fields(original):
      np.testing.assert_array_equal(getattr(saved, field.name), getattr(original, field.name))


def test_an_evaluation_that_did_not_finish_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='episodes.jsonl is missing'):
    episodes.load(str(tmp_path))


def test_rates_are_counts_over_n_with_wilsons_interval():
  summary = episodes.summarize([episode(i, success=i < 8) for i in range(10)])
  assert (summary['n'], summary['success'], summary['reach']) == (10, 0.8, 0.8)
  assert summary['nearest_is_target'] == 0.9
  np.testing.assert_allclose(summary['success_interval'], (0.4902, 0.9433), atol=1e-4)
  assert summary['stopped_itself'] == 0.8
  assert summary['median_distance'] == pytest.approx(0.045)


def test_a_suite_without_episodes_has_no_rate():
  with pytest.raises(ValueError, match='without episodes'):
    episodes.summarize([])


def test_suites_keep_their_order_and_their_episodes():
  played = [episode(1), episode(2, suite='unseen'), episode(3)]
  assert {k: [e.seed for e in v] for k, v in episodes.by_suite(played).items()} == {
      'seen': [1, 3], 'unseen': [2]}
