"""Lets a checkpoint act in the tabletop and writes what happened: episodes.jsonl, films.npz.

  python -m tools.closed_loop --checkpoint=runs/demo/cofinetune --output_dir=played
  python -m tools.closed_loop --server=ws://127.0.0.1:8000 --output_dir=played
"""

from collections.abc import Sequence
import os
import sys

from absl import app
from absl import flags

from rt2_train.evaluation import closed_loop
from rt2_train.evaluation import episodes as episodes_lib
from rt2_train.evaluation import suites
from rt2_train.serving import client
from rt2_train.serving import policy as policy_lib
from rt2_train.sim import tabletop

_CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'A run, or one of its checkpoints. Or:')
_SERVER = flags.DEFINE_string(
    'server', None, 'Address of tools.serve, such as ws://127.0.0.1:8000; its key, where it asks for '
    'one, is RT2_API_KEY.')
_OUTPUT_DIR = flags.DEFINE_string(
    'output_dir', None, 'Where the episodes are written.', required=True)
_SUITES = flags.DEFINE_list(
    'suites', ['seen', 'unseen', 'unseen_only'], f'Which suites, of {", ".join(suites.DEMO)}.')
_NUM_EPISODES = flags.DEFINE_integer(
    'num_episodes', 1000, 'Episodes per suite.', lower_bound=1)
_NUM_ENVS = flags.DEFINE_integer(
    'num_envs', None, 'Episodes that run at once: 32, or 4 where a server is asked.', lower_bound=1)
_SPLIT = flags.DEFINE_enum(
    'split', 'test', ['test', 'dev'], 'Seeds: dev for tuning, test for reporting.')
_NUM_CATEGORIES = flags.DEFINE_integer(
    'num_categories', 16, 'Categories in play, as in the data: see its parameters.json.',
    lower_bound=6)
_SKILL = flags.DEFINE_enum('skill', 'pick', sorted(tabletop.SKILLS), 'What to do.')
_PLAN = flags.DEFINE_bool(
    'plan', False, 'Whether the policy writes a plan before each action, as it must have learnt.')
_TEMPERATURE = flags.DEFINE_float(
    'temperature', 0.0, 'Of sampling; 0 takes the likeliest token.', lower_bound=0.0)
_SEED = flags.DEFINE_integer('sampling_seed', 0, 'Of sampling.')
flags.mark_flags_as_mutual_exclusive(['checkpoint', 'server'], required=True)


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  try:
    tried = suites.demo(
        _NUM_EPISODES.value, _SPLIT.value, _SUITES.value,
        num_categories=_NUM_CATEGORIES.value, skill=_SKILL.value,
    )  # pyformat: disable
    if _SERVER.value:
      policy = client.RemotePolicy(_SERVER.value, os.environ.get('RT2_API_KEY'))
      history = policy.history
    else:
      policy = policy_lib.Policy.from_checkpoint(
          _CHECKPOINT.value, temperature=_TEMPERATURE.value, seed=_SEED.value)
      history = policy.processor.history
    num_envs = _NUM_ENVS.value or (4 if _SERVER.value else 32)
    played = [episode for suite in tried
              for episode in closed_loop.play(
                  policy, suite, tabletop.Tabletop, num_envs=num_envs, plan=_PLAN.value,
                  history=history)]
    episodes_lib.save(_OUTPUT_DIR.value, played)
  except (ValueError, OSError) as error:
    sys.exit(f'closed_loop: {error}')
  for name, episodes in episodes_lib.by_suite(played).items():
    rates = episodes_lib.summarize(episodes)
    measures = '  '.join(f'{measure} {rates[measure]:.3f}' for measure in episodes_lib.MEASURES)
    print(f'{name:12s} {rates["n"]} episodes  {measures}')


if __name__ == '__main__':
  app.run(main)
