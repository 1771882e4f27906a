"""Robot steps whose answer is a plan and then the action (RT-2, section 4.4).

Where a plan is from, one of two says: the data, step by step, or a file that people wrote about
whole episodes. The paper's kind is the second: an episode that is told "pick rxbar chocolate" is
asked for as "I am hungry", and its own instruction is the plan.
"""

from collections.abc import Mapping
import dataclasses

import numpy as np

from rt2_train.data import annotations
from rt2_train.data import draws
from rt2_train.data import layouts
from rt2_train.data import rlds
from rt2_train.processor import Processor


class PlanExamples(rlds.StepExamples):
  """Steps that have a plan as examples: the instruction is answered with plan and action."""

  answered_with = 'plan'

  def __init__(
      self,
      data_dir: str,
      split: str,
      processor: Processor,
      layout: str | layouts.Layout = 'fractal',
      index_dir: str | None = None,
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
      *,
      plan_key: str = '',
      annotation_file: str | None = None,
      idle: Mapping[str, float] | None = None,
  ):
    """Opens the split; plans are from one of `plan_key`, the layout's `plan` and annotation_file.

    Args:
      data_dir, split, layout, index_dir, on_bad, max_bad_share, idle: as
        rlds.RobotExamples.
      processor: of the model.
      plan_key: the layout's `plan`, for a layout that names none; such as 'observation/plan'.
      annotation_file: a plan file, see `annotations`. Episodes whose instruction is one of its
        plans are asked for in the words beside it; which of several, the episode decides.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: as rlds.RobotExamples; and where not exactly one place has the plans, no step has
        one, or a plan is longer than the model writes.
    """
    layout = layouts.resolve(layout)
    if plan_key:
      layout = dataclasses.replace(layout, plan=plan_key)
    if bool(layout.plan) == (annotation_file is not None):
      both = 'in both' if layout.plan else 'in none'
      raise ValueError(
          f'layout {layout.name!r}: plans are in the data (plan_key, here {layout.plan!r}) or in a '
          f'file (annotation_file, here {annotation_file!r}), not {both}')
    steps = rlds.RobotSteps(data_dir, split, layout, index_dir, on_bad, max_bad_share, idle)
    said, unknown, options = {}, '', ' plans'
    if annotation_file is not None:
      said, unknown = annotations.plans(annotation_file, set(steps.all_instructions))
      options += f' {sorted(said.items())}'
    super().__init__(steps, processor, options=options)
    plan_N = steps.plan_N if layout.plan else steps.instruction_N
    self._plans = steps.plans if layout.plan else steps.instructions
    has_one = np.array([bool(plan) if layout.plan else plan in said for plan in self._plans])
    self._kept = np.flatnonzero(has_one[plan_N])
    self._plan_N, self._said = plan_N, said
    if not len(self._kept):
      raise ValueError(f'{steps.name}: no step has a plan from '
                       f'{annotation_file or f"steps/{layout.plan}"}')
    without = len(steps) - len(self._kept)
    self.note = '; '.join(filter(None, (
        self.note, unknown, without and f'steps without a plan left out: {without}')))
    self._check_lengths()
    self._count_clipped(steps.action_NxD[self._kept])

  def __len__(self) -> int:
    return len(self._kept)

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    """The i-th example; ValueError names it when its image does not decode."""
    position = self._position(i)
    plan = self._plans[self._plan_N[position]]
    return {
        **self._images(i),
        'inputs': self._processor.plan_inputs(self._instruction(position, plan)),
        'targets': self._processor.plan_targets(plan, self._steps.action_NxD[position])}

  def _position(self, i: int) -> int:
    if not 0 <= i < len(self):
      raise IndexError(f'{self._steps.name} has examples 0 to {len(self) - 1}, not {i}')
    return int(self._kept[i])

  def _instruction(self, position: int, plan: str) -> str:
    """What the robot is asked for at a step whose plan this is."""
    if not self._said:
      return self._steps.instructions[self._steps.instruction_N[position]]
    texts = self._said[plan]
    return texts[draws.one_of(self._steps.episode(position), len(texts))]

  def _check_lengths(self):
    """Finds a plan or an instruction that does not fit before it is met in training."""
    pairs_Kx2 = np.stack([self._plan_N, self._steps.instruction_N], 1)[self._kept]
    _, first = np.unique(pairs_Kx2, axis=0, return_index=True)
    for i in first.tolist():
      position = int(self._kept[i])
      plan = self._plans[self._plan_N[position]]
      asked = self._said.get(plan) or [self._instruction(position, plan)]
      try:
        self._processor.plan_targets(plan, self._steps.action_NxD[position])
        for text in asked:
          self._processor.plan_inputs(text)
      except ValueError as e:
        raise ValueError(f'{self.example_id(i)}: {e}') from e
