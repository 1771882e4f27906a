"""Lets a policy act: seeded episodes of any environment, run in lock step, each one recorded.

The policy is any object with `infer(observations) -> actions` (`serving.policy.Policy`). The
environment is any gymnasium environment whose observation holds `image` and `instruction`, whose
`info` holds `success`, `reach`, `nearest_is_target`, `distance` and a `state` with `gripper_3`
(and `plan`, what is to be done next, where policies are asked for plans), and which ends an episode
by itself when the action says terminate (`sim.tabletop.Tabletop`). An episode is judged by what the
environment reports at its end.
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
import tqdm

from rt2_train.evaluation import episodes as episodes_lib
from rt2_train.evaluation import suites as suites_lib
from rt2_train.serving import policy as policy_lib


class Actor(Protocol):
  """What an evaluation needs of a policy."""

  def infer(self, observations: Sequence[policy_lib.Observation]) -> Sequence[policy_lib.Action]:
    ...


def play(
    policy: Actor,
    suite: suites_lib.Suite,
    make_env: Callable[..., gymnasium.Env],
    *,
    num_envs: int = 32,
    num_films: int = 6,
    plan: bool = False,
    history: int = 1,
) -> list[episodes_lib.Episode]:
  """Plays every seed of `suite` once; returns the episodes in the order of the seeds.

  Args:
    policy: asked for all running environments at once.
    suite: its `env` are the keyword arguments of `make_env`, its `seeds` the episodes.
    make_env: makes one environment.
    num_envs: environments that run side by side; each takes the next seed when it is done.
    num_films: how many episodes keep their frames, from the first seed on.
    plan: asks for a plan before each action (RT-2, section 4.4).
    history: frames that the policy acts on (`Processor.history`); the first of an episode stands
      for those before it.
  """
  waiting = collections.deque(enumerate(suite.seeds))
  envs = [make_env(**suite.env) for _ in range(min(num_envs, len(suite.seeds)))]
  start = lambda env: _Running(env, suite.name, *waiting.popleft(), num_films, plan, history)
  running = [start(env) for env in envs]
  done = {}
  with tqdm.tqdm(total=len(suite.seeds), desc=f'{suite.name}: episodes', unit='ep') as progress:
    while running:
      actions = policy.infer([episode.observation for episode in running])
      still = []
      for episode, action in zip(running, actions, strict=True):
        finished = episode.step(action)
        if finished is None:
          still.append(episode)
          continue
        done[episode.index] = finished
        progress.update()
        rate = np.mean([e.success for e in done.values()])
        progress.set_postfix(success=f'{rate:.2f}', refresh=False)
        if waiting:
          still.append(start(episode.env))
      running = still
  for env in envs:
    env.close()
  return [done[i] for i in range(len(suite.seeds))]


class _Running:
  """One environment in the middle of an episode."""

  def __init__(
      self, env: gymnasium.Env, suite: str, index: int, seed: int, num_films: int, plan: bool,
      history: int):
    self.env, self.index = env, index
    self._suite, self._seed, self._plan = suite, seed, plan
    self._plans, self._due = [], []
    self._frames = collections.deque(maxlen=history)
    self._path, self._film = [], [] if index < num_films else None
    self._see(*env.reset(seed=seed))

  def _see(self, observation: dict[str, Any], info: dict[str, Any]) -> None:
    self._frames.append(observation['image'])
    while len(self._frames) < self._frames.maxlen:
      self._frames.append(observation['image'])
    self.observation = policy_lib.Observation(
        images=tuple(self._frames), instruction=observation['instruction'], plan=self._plan)
    self._path.append(info['state'].gripper_3[:2])
    self._next = info.get('plan')
    if self._film is not None:
      self._film.append(self.env.render())

  def step(self, action: policy_lib.Action) -> episodes_lib.Episode | None:
    """Acts; returns the episode when this was its last step."""
    if self._plan:
      self._due.append(action.plan == self._next)
      if action.plan not in self._plans[-1:]:
        self._plans.append(action.plan)
    observation, _, terminated, truncated, info = self.env.step(action.values)
    self._see(observation, info)
    if not terminated and not truncated:
      return None
    return episodes_lib.Episode(
        suite=self._suite,
        seed=self._seed,
        instruction=self.observation.instruction,
        success=bool(info['success']),
        reach=bool(info['reach']),
        nearest_is_target=bool(info['nearest_is_target']),
        distance=float(info['distance']),
        steps=len(self._path) - 1,
        stopped_by='policy' if action.terminate else 'limit' if truncated else 'environment',
        path_Px2=np.array(self._path, np.float32),
        film_PxHxWx3=None if self._film is None else np.stack(self._film),
        plans=tuple(self._plans),
        plan_due=float(np.mean(self._due)) if self._plan else None,
    )
