"""Worlds that results were measured in stay as they were: same seeds, same scenes and texts.

Pictures are not hashed, since a glyph may differ by a grey level from one FreeType to the next.
"""

import hashlib
import json

import numpy as np
import pytest

from rt2_train import actions
from rt2_train.sim import expert
from rt2_train.sim import tabletop
from rt2_train.sim import web


def digest(values) -> str:
  """Of anything that JSON can write, with floats and arrays rounded to a micrometre."""

  def plain(value):
    if isinstance(value, np.ndarray | np.generic):
      value = value.tolist()
    if isinstance(value, float):
      return round(value, 6) + 0.0  # no -0.0
    if isinstance(value, list | tuple):
      return [plain(one) for one in value]
    return value

  return hashlib.sha256(json.dumps(plain(values)).encode()).hexdigest()[:16]


class Blind(tabletop.Tabletop):
  """Without pictures, which take most of the time of a step."""

  def render(self):
    return np.zeros((48, 48, 3), np.uint8)


def episode(env: tabletop.Tabletop, seed: int) -> list:
  """All that there is to an episode under noise."""
  rng = np.random.default_rng(seed)
  env.reset(seed=seed)
  scene = env.scene
  record = [
      scene.instruction, scene.categories, scene.target, scene.reference, scene.start_Nx2,
      scene.background, scene.look]
  done = False
  while not done:
    state, action = env.state, expert.act(env.scene, env.state)
    record.append([
        state.positions_Nx2, state.angles_N, state.gripper_3, state.closed, state.held, action])
    action = actions.RT2.decode(actions.RT2.encode(action)).astype(np.float64)
    if rng.random() < 0.3:
      action[1:7] += rng.uniform(-0.5, 0.5, 6) * [*tabletop.MOTION_LIMITS, 1, 1, 1]
    _, reward, terminated, truncated, info = env.step(action)
    record.append([reward, info['success'], info['distance'], info['held']])
    done = terminated or truncated
  return record


@pytest.mark.parametrize('skill, groups, expected', [
    ('pick', {}, '6525eef06540e2aa'),
    ('pick', {'targets': 'unseen', 'others': 'all', 'backgrounds': 'unseen'}, 'd4e803392e8c5e1f'),
    ('pick', {'targets': 'all', 'others': 'all', 'num_objects': 5, 'num_categories': 24},
     '083facce8c937fc1'),
    ('move_near', {}, 'd31f0886b64daf6e'),
    ('move_near', {'targets': 'unseen', 'others': 'unseen', 'max_steps': 12}, '7faa8f39b9bb963f'),
])
def test_scenes_states_and_actions_of_old_seeds_are_what_they_were(skill, groups, expected):
  env = Blind(skill, **groups)
  seeds = [*range(40), *tabletop.DEV_SEEDS[:20], *tabletop.TEST_SEEDS[:20]]
  assert digest([episode(env, seed) for seed in seeds]) == expected


@pytest.mark.parametrize('num_categories, expected', [
    (8, '438789eda35a1716'), (16, 'f9704cd7e0bfc68a'), (24, 'ef27fd8ccc6f5c38')])
def test_web_pictures_questions_and_captions_of_old_seeds_are_what_they_were(
    num_categories, expected):
  said = []
  for seed in range(150):
    rng = np.random.default_rng([seed, 2])
    picture = web.sample_picture(rng, num_categories)
    scene, state = picture.scene, picture.state
    said.append([scene.categories, scene.look, state.positions_Nx2, state.angles_N])
    said += [[q.kind, q.text, q.answer, q.accepted]
             for q in web.sample_questions(rng, picture, 5)]
    said.append([web.sample_caption(rng, picture), rng.random()])
  assert digest(said) == expected
