"""What a robot's message means: its keys -> an observation, and an action -> what it is told.

Both protocols send a map; they differ in the names of the keys and in the sense of the gripper.

Shape suffixes: D dimensions of the action space, M those that move the robot.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import io
from typing import Any

import numpy as np
import PIL.Image

from rt2_train import images
from rt2_train import processor as processor_lib
from rt2_train.serving import policy as policy_lib

# 'close_positive' is that of the action space: high closes, low opens. 'open_one' is what OpenVLA's
# clients expect: 1 is open, 0 is closed.
GRIPPERS = ('close_positive', 'open_one')

# Longer than any prompt, and short enough to be tokenized at once.
_MOST_CHARACTERS = 4096


@dataclasses.dataclass(frozen=True)
class Interface:
  """The keys and units that one protocol speaks.

  Attributes:
    processor: of the policy.
    instruction_key: of what to do, 'prompt' or 'instruction'. A free question has 'question'.
    image_keys: of the cameras, in the model's order.
    gripper: one of `GRIPPERS`.
    plan: whether instructions are answered with a plan first, where a message has no key 'plan'.
    most_pixels: of an image; larger ones are refused before they are decoded.
  """

  processor: processor_lib.Processor
  instruction_key: str
  image_keys: tuple[str, ...]
  gripper: str
  plan: bool = False
  most_pixels: int = 1 << 22

  def __post_init__(self):
    processor, cameras = self.processor, len(self.image_keys)
    if self.gripper not in GRIPPERS:
      raise ValueError(f'gripper is {self.gripper!r}; choose one of {", ".join(GRIPPERS)}')
    if self.plan and not processor.plan_length:
      raise ValueError(
          'plan is on, but this model writes no plans: its processor has plan_length 0')
    if not cameras or cameras * processor.history > processor.image_spec.num_images:
      raise ValueError(
          f'image_keys are {cameras} ({", ".join(self.image_keys)}), the model takes '
          f'{processor.image_spec.num_images} images, {processor.history} of each camera')

  def observation(self, message: Mapping[str, Any]) -> policy_lib.Observation:
    """Reads a robot's message; keys that the model has no use for, such as a state, are left.

    Raises:
      ValueError: a key is missing or its value is not what it should be.
    """
    instruction, question = self._text(message, self.instruction_key), self._text(
        message, 'question')
    if (instruction is None) == (question is None):
      raise ValueError(
          f'the message needs {self.instruction_key!r} or "question", and not both; it has '
          f'{_names(message)}')
    plan = message.get('plan', self.plan and instruction is not None)
    if not isinstance(plan, (bool, np.bool_)):
      raise ValueError(f'"plan" is a {type(plan).__name__}; it must be true or false')
    cameras = [self._frames(message, key) for key in self.image_keys]
    times = {len(frames) for frames in cameras}
    if len(times) > 1:
      raise ValueError(f'the cameras {", ".join(self.image_keys)} have {sorted(times)} frames; '
                       'send as many of each')
    # All cameras of a time together, the oldest time first.
    images = [frame for frames in zip(*cameras) for frame in frames]
    return policy_lib.Observation(images, instruction, question, bool(plan))

  def motion(self, values_D: np.ndarray) -> np.ndarray:
    """The action without `terminate`, float32 [M], its gripper in this protocol's sense."""
    values_M = np.array(values_D, np.float32)[self._moving]
    if self.gripper == 'open_one' and 'gripper' in self.names:
      at = self.names.index('gripper')
      low, high = self._bounds[at]
      values_M[at] = (high - values_M[at]) / (high - low)
    return values_M

  @functools.cached_property
  def names(self) -> tuple[str, ...]:
    """Of the dimensions that `motion` returns."""
    return tuple(self.processor.action_space.names[i] for i in self._moving)

  def metadata(self) -> dict[str, Any]:
    """What a client may want to know before it asks, of plain types."""
    space, spec = self.processor.action_space, self.processor.image_spec
    bounds = [list(pair) for pair in self._bounds]
    if self.gripper == 'open_one' and 'gripper' in self.names:
      bounds[self.names.index('gripper')] = [0.0, 1.0]
    return {
        'action_names': list(self.names),
        'action_units': [space.dimensions[i].unit for i in self._moving],
        'action_bounds': bounds,
        'action_dim': len(self.names),
        'action_horizon': 1,
        # Where `terminate` stands among the dimensions that the model writes.
        'terminate_index': space.names.index('terminate') if 'terminate' in space.names else None,
        'gripper': self.gripper if 'gripper' in self.names else None,
        'control_hz': space.control_hz,
        'image_keys': list(self.image_keys),
        'image_size': [spec.height, spec.width],
        'history': self.processor.history,
        'instruction_key': self.instruction_key,
        'question_key': 'question',
        'plan': self.plan,
    }

  @functools.cached_property
  def _moving(self) -> list[int]:
    names = self.processor.action_space.names
    return [i for i, name in enumerate(names) if name != 'terminate']

  @functools.cached_property
  def _bounds(self) -> list[tuple[float, float]]:
    dimensions = self.processor.action_space.dimensions
    return [(float(dimensions[i].low), float(dimensions[i].high)) for i in self._moving]

  def _text(self, message: Mapping[str, Any], key: str) -> str | None:
    text = message.get(key)
    if text is not None and not isinstance(text, str):
      raise ValueError(f'{key!r} is a {type(text).__name__}; it must be text')
    if text is not None and len(text) > _MOST_CHARACTERS:
      raise ValueError(f'{key!r} has {len(text)} characters; at most {_MOST_CHARACTERS} are read')
    return text

  def _frames(self, message: Mapping[str, Any], key: str) -> Sequence[np.ndarray | bytes]:
    """The frames of one camera, the oldest first."""
    if key not in message:
      raise ValueError(f'the message lacks the image {key!r}; it has {_names(message)}. Which keys '
                       'hold images is set when the server is started (--image_keys)')
    value = message[key]
    frames = value if isinstance(value, list) else [value]
    if isinstance(value, np.ndarray) and value.ndim == 4:
      frames = list(value)
    if not 1 <= len(frames) <= self.processor.history:
      raise ValueError(
          f'{key!r} has {len(frames)} frames; the model acts on {self.processor.history}')
    for frame in frames:
      self._check(key, frame)
    return frames

  def _check(self, key: str, frame: Any) -> None:
    if isinstance(frame, bytes):
      try:
        # Reads the header alone.
        with PIL.Image.open(io.BytesIO(frame), formats=images.FORMATS) as picture:
          height, width = picture.height, picture.width
      except Exception as error:  # pylint: disable=broad-except
        # PIL's readers raise what they meet.
        raise ValueError(f'{key!r} is no picture: {error}') from error
    elif isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] == 3 and (
        frame.dtype == np.uint8):
      height, width, _ = frame.shape
    else:
      said = f'{frame.dtype} {list(frame.shape)}' if isinstance(frame, np.ndarray) else type(
          frame).__name__
      raise ValueError(f'{key!r} is {said}; an image is uint8 [height, width, 3], RGB')
    if not 0 < height * width <= self.most_pixels:
      raise ValueError(
          f'{key!r} is {height} x {width} pixels; from 1 to {self.most_pixels} are taken')


def _names(message: Mapping[str, Any]) -> str:
  names = ', '.join(repr(key[:40]) for key in list(message)[:16])
  return names or 'no keys'
