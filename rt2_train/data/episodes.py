"""One RLDS episode record -> the rows of an index: steps kept, left out, and broken.

Shape suffixes: T steps of the episode, K of them kept, C cameras, M motion dimensions, D action
dimensions.
"""

from collections.abc import Callable, Mapping
import math

import numpy as np

from rt2_train import actions
from rt2_train.data import faults
from rt2_train.data import index
from rt2_train.data import layout as layout_lib
from rt2_train.data import tfds_directory
from rt2_train.data import tfrecord

_STOP, _BASE = 0, 2  # argmax of fractal's terminate_episode; 1 is arm and gripper.
_FLAGS = ('is_first', 'is_last')
EXTRA = 'extra/'  # What the index puts before a layout's extra_keys.


class EpisodeReader:
  """Reads episodes of one layout; calling it with a record gives its index.Rows."""

  def __init__(
      self, layout: layout_lib.Layout, features: Mapping[str, tfds_directory.FeatureSpec]):
    self._layout = layout
    flags = [f'steps/{key}' for key in _FLAGS if f'steps/{key}' in features]
    self._wanted = {*layout.features, *flags}
    self._specs = {key: features[key] for key in self._wanted}

  def __call__(self, record: bytes) -> index.Rows:
    """Raises Fault when the whole episode is unusable."""
    layout = self._layout
    try:
      found = tfrecord.example(record, self._wanted)
    except ValueError as e:
      raise faults.Fault('not an Example', str(e)) from e
    if absent := sorted(self._wanted - set(found)):
      raise faults.Fault('missing feature', f'has no {", ".join(absent)}')
    succeeded = not layout.success or _is_true(layout.success, found.pop(layout.success))
    num_steps = len(found[f'steps/{layout.images[0]}'])
    columns = {
        key.removeprefix('steps/'): _column(key, found[key], self._specs[key], num_steps)
        for key in sorted(found)}
    if not num_steps:
      raise faults.Fault('unequal lengths', 'holds no steps')
    last_T = _is_last(columns, num_steps)
    broken = {}
    texts = {'instruction': self._instructions(record, columns, broken)}
    if layout.plan:
      texts['plan'] = _texts(record, columns[layout.plan], 'the plan', broken)
    extra = self._extra(columns, broken)
    action_TxD, stop_T = self._actions(columns, last_T, broken)
    left_out = (self._left_out(columns, action_TxD, last_T) if succeeded else
                dict.fromkeys(range(num_steps), 'episode without success'))
    spans_TxCx2 = np.stack([columns[key] for key in layout.images], 1)
    kept = []
    for step in range(num_steps):
      if step in left_out:
        continue
      if step not in broken:
        broken.update(self._broken_image(record, spans_TxCx2[step], step))
      if step not in broken:
        kept.append(step)
    reasons = list(left_out.values())
    return index.Rows(
        steps_R=np.array(kept, np.int32),
        images_RxCx2=spans_TxCx2[kept],
        columns={'action': action_TxD[kept], 'is_last': last_T[kept],
                 **{key: column[kept] for key, column in extra.items()}},
        texts={key: [said[step] for step in kept] for key, said in texts.items()},
        seen=num_steps,
        left_out={reason: reasons.count(reason) for reason in set(reasons)},
        broken=[fault for step, fault in sorted(broken.items()) if step not in left_out],
    )

  def _instructions(self, record: bytes, columns, broken: dict) -> list[str]:
    """The instruction of each step, '' where there is none that can be read."""
    column = columns[self._layout.instruction]
    decode = _from_code_points if self._layout.text == 'code_points' else None
    texts = _texts(record, column, 'the instruction', broken, decode)
    for step, text in enumerate(texts):
      if not text and step not in broken:
        broken[step] = faults.Fault('empty instruction', 'the instruction is empty', step)
    return texts

  def _extra(self, columns, broken: dict) -> dict[str, np.ndarray]:
    """float32 [T, ...] of each extra key."""
    found = {}
    for key in self._layout.extra_keys:
      found[EXTRA + key] = column = columns[key].astype(np.float32)
      for step in np.flatnonzero(~np.isfinite(column.reshape(len(column), -1)).all(1)):
        said = f'{key} is {column[step].tolist()}, not finite'
        broken[int(step)] = faults.Fault('bad action', said, int(step))
    return found

  def _actions(self, columns, last_T, broken: dict) -> tuple[np.ndarray, np.ndarray]:
    """float32 [T, D] in the layout's order, and where the episode stops."""
    layout = self._layout
    try:
      motion = layout.motion({key: columns[key] for key in layout.motion_keys})
    except Exception as e:  # Anybody's function, given what features.json says.
      shapes = ', '.join(f'{key} {list(columns[key].shape)}' for key in layout.motion_keys)
      raise ValueError(f'layout {layout.name!r}: motion cannot take {shapes} ({e})') from e
    motion_TxM = np.array(motion, np.float32)
    names = layout.action_space.names
    moving = names if layout.terminate == 'never' else names[1:]
    if motion_TxM.shape != (len(last_T), len(moving)):
      raise ValueError(
          f'layout {layout.name!r}: motion gave shape {motion_TxM.shape} for {len(last_T)} steps; '
          f'it must give [{len(last_T)}, {len(moving)}], one column each for {", ".join(moving)}')
    stop_T = self._stops(columns, last_T, broken)
    finite_T = np.isfinite(motion_TxM).all(1)
    # What a final step says about motion may mean nothing; its picture says what done looks like.
    still_T = (last_T & (not layout.last_motion)) | (stop_T & ~finite_T)
    for step in np.flatnonzero(still_T):
      motion_TxM[step] = 0
      if layout.gripper == 'absolute' and step and finite_T[step - 1]:
        motion_TxM[step, moving.index('gripper')] = motion_TxM[step - 1, moving.index('gripper')]
    for step in np.flatnonzero(~finite_T & ~still_T):
      bad = int(np.flatnonzero(~np.isfinite(motion_TxM[step]))[0])
      broken[step] = faults.Fault(
          'bad action', f'{moving[bad]} is {motion_TxM[step, bad]}, not a finite number', int(step))
    if layout.terminate == 'never':
      return motion_TxM, stop_T
    terminate_T = np.where(stop_T, actions.TERMINATE_STOP, actions.TERMINATE_CONTINUE)
    return np.concatenate([terminate_T[:, None].astype(np.float32), motion_TxM], 1), stop_T

  def _stops(self, columns, last_T, broken: dict) -> np.ndarray:
    """bool [T]: where the action says terminate."""
    layout = self._layout
    if layout.terminate == 'never':
      return np.zeros_like(last_T)
    if layout.terminate == 'last':
      return last_T
    column = columns[layout.terminate_key]
    if layout.terminate == 'flag':
      flag_T = column.reshape(len(last_T), -1)[:, 0]
      for step in np.flatnonzero(~np.isfinite(flag_T)):
        said = f'{layout.terminate_key} is {flag_T[step]}, not a finite number'
        broken[step] = faults.Fault('bad action', said, int(step))
      return (flag_T > 0.5) | (last_T & (not layout.last_motion))
    for step in np.flatnonzero((column != 0).sum(1) != 1):
      # argmax of all zeros is 0, which would say stop.
      said = f'{layout.terminate_key} is {column[step].tolist()}, not one-hot'
      broken[step] = faults.Fault('bad action', said, int(step))
    return column.argmax(1) == _STOP

  def _left_out(self, columns, action_TxD, last_T) -> dict[int, str]:
    """Step to the reason why it is no example."""
    layout = self._layout
    left_out = {}
    if layout.terminate == 'mode':
      base_T = columns[layout.terminate_key].argmax(1) == _BASE
      left_out.update((int(step), 'base moves') for step in np.flatnonzero(base_T))
    if 'last' in layout.drop:
      left_out.update((int(step), 'last step') for step in np.flatnonzero(last_T))
    if 'first_zero' in layout.drop:
      names = layout.action_space.names
      moving = [i for i, name in enumerate(names) if name not in ('terminate', 'gripper')]
      if not action_TxD[0, moving].any():
        left_out[0] = 'first step does not move'
    return left_out

  def _broken_image(self, record: bytes, spans_Cx2, step: int) -> dict[int, faults.Fault]:
    for key, (start, stop) in zip(self._layout.images, spans_Cx2.tolist()):
      try:
        size = faults.image_size(record, start, stop)
      except faults.Fault as fault:
        return {step: faults.Fault(fault.reason, f'{key}: {fault}', step)}
      promised = self._specs[f'steps/{key}'].shape[:2]
      if any(p not in (None, s) for p, s in zip(promised, size)):
        sizes = f'{size[0]}x{size[1]}, features.json says {promised[0]}x{promised[1]}'
        return {step: faults.Fault('image size', f'{key}: image is {sizes}', step)}
    return {}


def _column(
    key: str, feature: tfrecord.Feature, spec: tfds_directory.FeatureSpec, num_steps: int
) -> np.ndarray:
  """Spans [T, 2] of bytes, or numbers [T, *shape]."""
  holds_bytes = spec.kind in ('image', 'text') or spec.dtype == 'string'
  kind = 'bytes' if holds_bytes else 'float' if 'float' in spec.dtype else 'int64'
  if len(feature) and feature.kind != kind:
    said = spec.dtype or spec.kind
    raise faults.Fault('missing feature', f'{key} holds {feature.kind}, features.json says {said}')
  if holds_bytes:
    if len(feature) != num_steps:
      raise faults.Fault(
          'unequal lengths', f'{key} has {len(feature)} values for {num_steps} steps')
    return np.array(feature.spans, np.int64).reshape(-1, 2)
  size = math.prod(d or 1 for d in spec.shape)
  if len(feature) != num_steps * size:
    raise faults.Fault(
        'unequal lengths', f'{key} has {len(feature)} numbers for {num_steps} steps of {size}')
  return feature.values.reshape(num_steps, *(d or 1 for d in spec.shape))


def _is_true(key: str, feature: tfrecord.Feature) -> bool:
  """The one truth value of an episode's own feature."""
  if feature.kind == 'bytes' or len(feature) != 1:
    said = f'holds {len(feature)} values of {feature.kind}, not one number'
    raise faults.Fault('missing feature', f'{key} {said}')
  return bool(feature.values[0])


def _texts(
    record: bytes, column: np.ndarray, what: str, broken: dict,
    decode: Callable[[np.ndarray], str] | None = None,
) -> list[str]:
  """The text of each step, from its span of bytes or by `decode`; '' where it cannot be read."""
  texts = []
  for step, value in enumerate(column):
    try:
      texts.append(decode(value) if decode else faults.text(record, *value, what))
    except ValueError as e:
      texts.append('')
      broken[step] = faults.Fault('bad text', str(e), step)
  return texts


def _is_last(columns: Mapping[str, np.ndarray], num_steps: int) -> np.ndarray:
  """bool [T]; from the position where the data never say it."""
  position_T = np.arange(num_steps)
  for key, right in (('is_first', 0), ('is_last', num_steps - 1)):
    said = np.flatnonzero(columns[key]) if key in columns else ()
    if len(said) and said.tolist() != [right]:
      steps = ', '.join(map(str, said[:5]))
      raise faults.Fault('step order', f'steps/{key} is set at step {steps} of {num_steps} steps')
  return position_T == num_steps - 1


def _from_code_points(points: np.ndarray) -> str:
  """Text from zero-padded Unicode code points."""
  ends = np.flatnonzero(points == 0)
  try:
    text = ''.join(map(chr, points[:ends[0] if len(ends) else None].tolist())).strip()
    text.encode()  # Half of a surrogate pair is a code point, and no text.
    return text
  except (ValueError, OverflowError) as e:
    raise ValueError('the instruction is not Unicode code points') from e
