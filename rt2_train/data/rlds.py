"""Robot steps -> the examples a model trains on.

`RobotExamples` turns `RobotSteps` into model inputs through a `Processor`: an instruction is
answered with an action. `chain_of_thought` and `language_table` ask other things of the same steps.

Shape suffixes: N steps, D action dimensions.
"""

from collections.abc import Mapping
import functools
import hashlib

from absl import logging
import numpy as np

from rt2_train import images as images_lib
from rt2_train.data import annotations
from rt2_train.data import draws
from rt2_train.data import steps as steps_lib
from rt2_train.data.layouts import LAYOUTS, Layout
from rt2_train.data.steps import RobotSteps, Step
from rt2_train.processor import Processor

__all__ = ['LAYOUTS', 'Layout', 'RobotExamples', 'RobotSteps', 'Step', 'StepExamples']

_MANY_CLIPPED = 0.01  # Share of a dimension's values above which the log warns.


class StepExamples:
  """Examples about robot steps, one for each: their frames, and what they are called.

  Attributes:
    note: RobotSteps' note, and the share of values clipped to the action space, per dimension.
    fingerprint: RobotSteps', and of all options that change examples.
    answered_with: the grammar of the answers, see `Processor.grammar`.
  """

  answered_with = 'action'

  def __init__(
      self,
      steps: RobotSteps,
      processor: Processor,
      control_hz: float | None = None,
      options: str = '',
  ):
    """Checks that `steps` suit the model.

    Args:
      steps: what the examples are about.
      processor: of the model.
      control_hz: actions per second, where they differ from the layout's.
      options: what else decides what examples look like, as text; '' for what always was so.

    Raises:
      ValueError: the layout does not fit the processor.
    """
    self._steps, self._processor, history = steps, processor, processor.history
    layout, space = steps.layout, processor.action_space
    if layout.action_space.names != space.names:
      raise ValueError(
          f'{steps.name}: layout {layout.name!r} yields ({", ".join(layout.action_space.names)}), '
          f'action space {space.name!r} is ({", ".join(space.names)}); choose another of either')
    control_hz = control_hz or layout.control_hz
    if None not in (control_hz, space.control_hz) and control_hz != space.control_hz:
      raise ValueError(
          f'{steps.name}: its actions are {control_hz:g} per second, those of action space '
          f'{space.name!r} {space.control_hz:g}; give both the same control_hz')
    cameras, num_images = len(layout.images), processor.image_spec.num_images
    if cameras * history > num_images:
      frames = f'{cameras} cameras' + (f' with {history} frames each' if history > 1 else '')
      raise ValueError(
          f'{steps.name}: layout {layout.name!r} has {frames}, the model takes {num_images} '
          'images; name fewer in Layout.images' + (' or lower history' if history > 1 else ''))
    self.note = steps.note
    options += (f' history {history}' if history > 1 else '') + (' bgr' if layout.bgr else '')
    self.fingerprint = steps.fingerprint if not options else hashlib.sha256(
        f'{steps.fingerprint} {options}'.encode()).hexdigest()

  def __len__(self) -> int:
    return len(self._steps)

  def example_id(self, i: int) -> str:
    """Such as 'tabletop/train shard 00003 episode 17 step 3'."""
    return self._steps.example_id(self._position(i))

  def step(self, i: int) -> Step:
    """The step of the i-th example, before the processor."""
    return self._steps.step(self._position(i))

  @functools.cached_property
  def report(self) -> dict:
    """RobotSteps' report, and `clipped`: the share beyond the bounds, per dimension."""
    return {**self._steps.report, 'examples': len(self), 'clipped': self._clipped}

  def _position(self, i: int) -> int:
    """Of the i-th example's step among the steps."""
    return i

  def _encoded(self, i: int) -> tuple[bytes, ...]:
    """The encoded frames of the i-th example."""
    return self._steps.images(self._position(i), self._processor.history)

  def _images(self, i: int) -> dict[str, np.ndarray]:
    """`images` and `image_mask`; ValueError names the example when a frame does not decode."""
    frames = self._encoded(i)
    try:
      if self._steps.layout.bgr:
        frames = [np.ascontiguousarray(images_lib.decode(frame)[..., ::-1]) for frame in frames]
      images, image_mask = self._processor.images(frames)
    except ValueError as e:
      raise ValueError(f'{self.example_id(i)}: {e}; the shard changed after indexing, or was '
                       'broken when written: write it again') from e
    return {'images': images, 'image_mask': image_mask}

  def _count_clipped(self, action_NxD: np.ndarray):
    """Puts into note, report and log what lies beyond the bounds of the action space."""
    space = self._processor.action_space
    self._clipped = steps_lib.clipped(action_NxD, space)
    listed = ', '.join(
        f'{name} {100 * share:.3g} %' for name, share in self._clipped.items() if share)
    self.note = '; '.join(filter(None, (self.note, listed and f'clipped: {listed}')))
    if max(self._clipped.values()) > _MANY_CLIPPED:
      logging.warning(
          '%s: values beyond the bounds of action space %s are clipped to them: %s; widen the '
          'bounds if these motions matter', self._steps.name, space.name, listed)


class RobotExamples(StepExamples):
  """Robot steps as examples of a model: `images`, `image_mask`, `inputs`, `targets`."""

  def __init__(
      self,
      data_dir: str,
      split: str,
      processor: Processor,
      layout: str | Layout = 'fractal',
      index_dir: str | None = None,
      on_bad: str | Mapping[str, str] = 'error',
      max_bad_share: float = 0.001,
      *,
      idle: Mapping[str, float] | None = None,
      paraphrase_file: str | None = None,
      original_share: float = 0.5,
  ):
    """Opens the split.

    Args:
      data_dir, split, layout, index_dir, on_bad, max_bad_share, idle: as RobotSteps.
      processor: of the model; where it takes a history, an episode's first frame is repeated at
        its beginning.
      paraphrase_file: other wordings of instructions, see `annotations`; None for none, as in
        the paper. Which wording an example has, its id decides.
      original_share: share of examples, among those with other wordings, that keep their own.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: as RobotSteps; and where the layout does not fit the processor, an instruction is
        longer than the model takes, or an option is not what it takes.
    """
    steps = RobotSteps(data_dir, split, layout, index_dir, on_bad, max_bad_share, idle)
    wordings, unknown, options = {}, '', ''
    if paraphrase_file is not None:
      if not 0 <= original_share <= 1:
        raise ValueError(f'original_share is {original_share}; it is a share, 0 to 1')
      wordings, unknown = annotations.paraphrases(paraphrase_file, set(steps.all_instructions))
      options = f' paraphrases {original_share} {sorted(wordings.items())}'
    super().__init__(steps, processor, options=options)
    self.note = '; '.join(filter(None, (self.note, unknown)))
    self._original_share = original_share
    # Of each instruction, its own prompt and then those of its other wordings.
    self._inputs = [
        [self._prompt(number, instruction),
         *(self._prompt(number, wording, f'{paraphrase_file}: ')
           for wording in wordings.get(instruction, ()))]
        for number, instruction in enumerate(steps.instructions)]
    self._count_clipped(steps.action_NxD)

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    """The i-th example; ValueError names it when its image does not decode."""
    return {
        **self._images(i),
        'inputs': self._wording(i),
        'targets': self._processor.action_targets(self._steps.action_NxD[i])}

  def _wording(self, i: int) -> np.ndarray:
    prompts = self._inputs[self._steps.instruction_N[i]]
    if len(prompts) == 1:
      return prompts[0]
    beyond = draws.share(self.example_id(i)) - self._original_share
    if beyond < 0:
      return prompts[0]
    others = len(prompts) - 1
    return prompts[1 + min(int(beyond / (1 - self._original_share) * others), others - 1)]

  def _prompt(self, number: int, text: str, where: str = '') -> np.ndarray:
    """The prompt of a wording of instruction `number`, as tokens."""
    try:
      return self._processor.robot_inputs(text)
    except ValueError as e:
      i = int(np.argmax(self._steps.instruction_N == number))
      raise ValueError(f'{where}{self.example_id(i)}: {e}') from e
