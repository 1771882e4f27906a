"""Mixture `language_table`: the five prediction tasks of RT-2's Language-Table model.

RT-2 fine-tunes PaLI-3B to predict the action, the instruction, the arm's position, the number of
steps between frames, and success (section 4.1, appendix E). One source, five tasks of equal weight:

  import mixtures.language_table
  mixtures.language_table.source.data_dir = '/data/language_table/0.0.1'
  mixtures.language_table.rates.language_table_action = 2.0

gin/data/language_table.gin has what belongs to it: two frames, the action space, the control rate.
"""

import functools

from mixtures import robot
from mixtures import sources
from rt2_train.data import language_table
from rt2_train.data import metrics

source = robot.dataset('mixtures.language_table', 'source', language_table.TableExamples)

TASKS = tuple(f'language_table_{task}' for task in language_table.TASKS)
for _name, _task in zip(TASKS, language_table.TASKS):
  robot.register(
      _name, functools.partial(source, task=_task),
      metric=metrics.actions if _task == 'action' else sources.judged_answers,
      example='/data/language_table/0.0.1')

rates = sources.rates('mixtures.language_table', dict.fromkeys(TASKS, 1.0))
sources.add_mixture('language_table', (lambda: 1.0, rates))
