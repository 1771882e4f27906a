"""Language-Table's five prediction tasks (RT-2, section 4.1 and appendix E), over the same steps.

The paper names them and gives the answer 'X Y' of the first; prompts (`prompts.table_*`) and all
other answers are ours. Each reads two frames of every camera, t-1 and t; where there is no t-1, the
first frame of the episode stands for it.

  action: the instruction is answered with the move, 'X Y' in units of the action space.
  instruction: what the episode was told.
  arm: where the arm is, 'X Y' on a grid of 100 by 100 over the workspace.
  steps: how many steps lie between the two frames, of which the first is then earlier than t-1.
  success: whether a task was done, yes or no.

The data are 10 steps per second. At 5, as on the paper's robot, a move is the sum of two and t-1
lies two steps back; every step is an example all the same, so both ways to pair the steps are
learnt. A step without a successor to add (the last of an episode, the last before a broken one) has
no action at that rate, and is left out of that task with a count.

Success is ours altogether, since every episode fulfils its instruction: it was labelled with it in
hindsight. The last two steps of an episode show it done: yes. For each of them there is one no:
either a step from the first half of the episode, when the task is not yet done, or the same step
under another episode's instruction, which may by chance be fulfilled as well. So neither frames nor
instruction alone tell the answer. Episodes of fewer than eight steps are left out.

Shape suffixes: N steps, E examples.
"""

from collections.abc import Mapping

import numpy as np

from rt2_train import prompts
from rt2_train.data import draws
from rt2_train.data import layouts
from rt2_train.data import rlds
from rt2_train.processor import Processor

TASKS = ('action', 'instruction', 'arm', 'steps', 'success')

# Corners of the workspace of Language-Table's environment, in metres.
_LOW_XY, _HIGH_XY = np.array([0.15, -0.3048]), np.array([0.6, 0.3048])
_ARM_GRID = 100
_ARM_KEY = 'observation/effector_translation'
_MOST_STEPS = 20  # Between two frames.
_DONE_STEPS, _SHORTEST = 2, 8  # Of an episode, for success.


class TableExamples(rlds.StepExamples):
  """Steps of Language-Table as examples of one of its tasks."""

  def __init__(
      self,
      data_dir: str,
      split: str,
      processor: Processor,
      layout: str | layouts.Layout = 'language_table',
      index_dir: str | None = None,
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
      *,
      task: str = 'action',
      control_hz: float = 10.0,
  ):
    """Opens the split.

    Args:
      data_dir, split, layout, index_dir, on_bad, max_bad_share: as rlds.RobotExamples.
      processor: of the model; it takes two images of every camera.
      task: one of TASKS.
      control_hz: actions per second; the layout's rate, or a whole part of it.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: as rlds.RobotExamples; and where the task is unknown, the rate is no part of the
        data's, or no step can be an example.
    """
    if task not in TASKS:
      raise ValueError(f'task is {task!r}; it is one of {", ".join(TASKS)}')
    steps = rlds.RobotSteps(data_dir, split, layout, index_dir, on_bad, max_bad_share)
    if processor.history != 2:
      raise ValueError(f'{steps.name}: the tasks of Language-Table read two frames, the processor '
                       f'has history {processor.history}; set HISTORY = 2')
    self._task, self._stride = task, _stride(steps.layout, control_hz)
    super().__init__(
        steps, processor, control_hz=control_hz,
        options=f' table {task} at {control_hz:g} Hz')
    self.answered_with = 'action' if task == 'action' else 'question'
    begins_N = np.append(True, np.diff(steps.episode_N) != 0)
    self._first_N = np.maximum.accumulate(np.where(begins_N, np.arange(len(steps)), 0))
    self._clipped = {}
    # Per example: its step; where success is asked, the instruction and the answer.
    self._steps_E = np.arange(len(steps))
    self._instruction_E = steps.instruction_N
    self._done_E = None
    if task == 'action':
      self._sum_moves()
    elif task == 'instruction':
      self._count_cut()
    elif task == 'arm':
      self._place_arm()
    elif task == 'success':
      self._judge()
    self._inputs = self._prompts()

  def __len__(self) -> int:
    return len(self._steps_E)

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    """The i-th example; ValueError names it when its images do not decode."""
    images = self._images(i)
    return {**images, 'inputs': self._prompt(i), 'targets': self._answer(i)}

  def example_id(self, i: int) -> str:
    """Such as 'language_table/train shard 00003 episode 17 step 3'."""
    step = super().example_id(i)
    if self._done_E is None or self._instruction_E[i] == self._steps.instruction_N[
        self._steps_E[i]]:
      return step
    return f'{step} asked for {self._steps.instructions[self._instruction_E[i]]!r}'

  def _position(self, i: int) -> int:
    if not 0 <= i < len(self):
      raise IndexError(f'{self._steps.name} has examples 0 to {len(self) - 1}, not {i}')
    return int(self._steps_E[i])

  def _encoded(self, i: int) -> tuple[bytes, ...]:
    position = self._position(i)
    before = (self._earlier(i)[0] if self._task == 'steps' else
              max(position - self._stride, int(self._first_N[position])))
    return self._steps.images(before) + self._steps.images(position)

  def _prompt(self, i: int) -> np.ndarray:
    return self._inputs[self._instruction_E[i] if len(self._inputs) > 1 else 0]

  def _answer(self, i: int) -> np.ndarray:
    position = self._position(i)
    if self._task == 'action':
      return self._processor.action_targets(self._move_ExD[i])
    if self._task == 'instruction':
      text = self._steps.instructions[self._steps.instruction_N[position]]
    elif self._task == 'arm':
      text = '{} {}'.format(*self._cell_Nx2[position])
    elif self._task == 'steps':
      text = str(self._earlier(i)[1])
    else:
      text = 'yes' if self._done_E[i] else 'no'
    return self._processor.text_targets(text)

  def _prompts(self) -> list[np.ndarray]:
    """The prompt of each instruction, or the one prompt of a task that has none in it."""
    plain = {'instruction': prompts.table_instruction, 'arm': prompts.table_arm,
             'steps': prompts.table_steps}
    if self._task in plain:
      return [self._processor.text_inputs(plain[self._task]())]
    found = []
    for number, instruction in enumerate(self._steps.instructions):
      try:
        found.append(self._processor.robot_inputs(instruction) if self._task == 'action' else
                     self._success_inputs(instruction))
      except ValueError as e:
        i = int(np.argmax(self._instruction_E == number))
        raise ValueError(f'{self.example_id(i)}: {e}') from e
    return found

  def _success_inputs(self, instruction: str) -> np.ndarray:
    text = prompts.table_success(instruction)
    # A prompt in words is cut where it is too long, and this one asks at its end.
    if (size := len(self._processor.vocabulary.encode(text))) > self._processor.inputs_length:
      raise ValueError(f'the prompt {text[:60]!r} takes {size} tokens, inputs_length is '
                       f'{self._processor.inputs_length}; raise it')
    return self._processor.text_inputs(text)

  def _earlier(self, i: int) -> tuple[int, int]:
    """A step of the same episode before the i-th example's, and how many steps before."""
    position = self._position(i)
    first = int(self._first_N[position])
    steps = self._steps.step_N[first:position + 1]
    back = (steps[-1] - steps) // self._stride
    exact = np.flatnonzero((back * self._stride == steps[-1] - steps) & (back <= _MOST_STEPS))
    # The last is the step itself, which stands for two equal frames where there is no other.
    chosen = draws.one_of(self.example_id(i), max(len(exact) - 1, 1))
    return first + int(exact[chosen]), int(back[exact[chosen]])

  def _sum_moves(self):
    """The move of each step at the rate of control, and which steps have one."""
    steps, last = self._steps, self._stride - 1
    whole = len(steps) - last
    if whole < 1:
      raise ValueError(f'{steps.name}: no step has a move at this rate; episodes are too short')
    together_E = ((steps.episode_N[last:] == steps.episode_N[:whole])
                  & (steps.step_N[last:] - steps.step_N[:whole] == last))
    self._steps_E = np.flatnonzero(together_E)
    if not len(self._steps_E):
      raise ValueError(f'{steps.name}: no step has a move at this rate; episodes are too short')
    moves = [steps.action_NxD[self._steps_E + ahead] for ahead in range(self._stride)]
    self._move_ExD = np.sum(moves, 0, dtype=np.float64).astype(np.float32)
    self._instruction_E = steps.instruction_N[self._steps_E]
    self._add_note(len(steps) - len(self._steps_E), 'steps without a whole move left out')
    self._count_clipped(self._move_ExD)

  def _count_cut(self):
    """Says how many instructions are longer than an answer may be."""
    room = self._processor.targets_length - 1
    encode = self._processor.vocabulary.encode
    cut = sum(len(encode(instruction)) > room for instruction in self._steps.instructions)
    self._add_note(cut, 'instructions that are cut to targets_length')

  def _place_arm(self):
    """The cell of the arm's place at each step."""
    steps = self._steps
    if _ARM_KEY not in steps.layout.extra_keys:
      raise ValueError(f'layout {steps.layout.name!r} keeps no {_ARM_KEY}, where the arm is; add it'
                       ' to extra_keys')
    share_Nx2 = (steps.extra(_ARM_KEY) - _LOW_XY) / (_HIGH_XY - _LOW_XY)
    slack = 1e-6  # Its very edge is a hair outside once it is a float32.
    outside = int(((share_Nx2 < -slack) | (share_Nx2 > 1 + slack)).any(1).sum())
    self._cell_Nx2 = np.clip(share_Nx2 * _ARM_GRID, 0, _ARM_GRID - 1).astype(np.int32)
    self._add_note(outside, 'arm outside the workspace')

  def _judge(self):
    """Pairs of a yes and a no; see the module."""
    steps = self._steps
    starts = np.flatnonzero(self._first_N == np.arange(len(steps)))
    stops = np.append(starts[1:], len(steps))
    asked, left_out = [], 0
    for start, stop in zip(starts.tolist(), stops.tolist()):
      if stop - start < _SHORTEST:
        left_out += stop - start
        continue
      for number, position in enumerate(range(stop - _DONE_STEPS, stop)):
        told = int(steps.instruction_N[position])
        name = steps.example_id(position)
        # Not the first step, whose frames are equal: that would give the answer away.
        early = range(start + 1 + number, start + (stop - start) // 2, _DONE_STEPS)
        undone = early[draws.one_of(f'{name} undone', len(early))]
        other = draws.one_of(f'{name} other', len(steps.instructions) - 1)
        other += other >= told
        otherwise = len(steps.instructions) > 1 and draws.share(f'{name} no') < 0.5
        asked.append((position, told, True))
        asked.append((position, other, False) if otherwise else (undone, told, False))
    if not asked:
      raise ValueError(f'{steps.name}: no episode has {_SHORTEST} steps, which success takes')
    self._steps_E, self._instruction_E, self._done_E = map(np.array, zip(*asked))
    self._add_note(left_out, f'steps of episodes of fewer than {_SHORTEST} left out')

  def _add_note(self, count: int, what: str):
    self.note = '; '.join(filter(None, (self.note, count and f'{what}: {count}')))


def _stride(layout: layouts.Layout, control_hz: float) -> int:
  """Steps of the data in one step of control."""
  stride = layout.control_hz / control_hz if layout.control_hz and control_hz > 0 else 0
  if stride < 1 or stride != int(stride):
    raise ValueError(
        f'control_hz is {control_hz}; layout {layout.name!r} has {layout.control_hz} steps per '
        'second, of which it takes a whole part, such as half')
  return int(stride)
