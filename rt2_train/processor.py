"""Turns frames, text and actions into what a model reads and writes, and back.

Training, evaluation and serving share this one object, and it travels in the checkpoint, so
that a robot sees the images, prompts, tokens and bounds of its training by construction.

Shape suffixes in array names: n images, H height, W width, L inputs, T targets, D dimensions.
"""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import json
import os

import numpy as np

from rt2_train import actions
from rt2_train import grammar as grammar_lib
from rt2_train import images as images_lib
from rt2_train import prompts
from rt2_train import vocabulary as vocabulary_lib

_PROCESSOR_FILE = 'processor.json'
_ACTION_SPACE_FILE = 'action_space.json'
_VOCABULARY_FILE = 'vocabulary.model'

# A dataset repeats its instructions; a server that is asked anything must not grow for ever.
_REMEMBERED_INSTRUCTIONS = 65536


@dataclasses.dataclass(frozen=True)
class Processor:
  """What stands between the world and a model.

  Attributes:
    vocabulary: text and action integers <-> ids.
    action_space: physical values <-> action integers.
    image_spec: size and number of the frames.
    inputs_length: L, most tokens of a prompt.
    targets_length: T, most tokens of an answer, EOS included; an action must fit.
  """

  vocabulary: vocabulary_lib.Vocabulary
  action_space: actions.ActionSpace
  image_spec: images_lib.ImageSpec
  inputs_length: int
  targets_length: int

  def __post_init__(self):
    for name in ('inputs_length', 'targets_length'):
      if getattr(self, name) < 1:
        raise ValueError(f'processor: {name} is {getattr(self, name)}; it must be at least 1')
    grammar_lib.check_fits(self._action_grammar, self.targets_length)

  def images(
      self, frames: Sequence[bytes | np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Decodes and resizes `frames` (encoded bytes, or uint8 [h, w, 3]), oldest first.

    Returns:
      images uint8 [n, H, W, 3] and image_mask int32 [n]; where there are fewer than n frames the
      rest is black and its mask 0.

    Raises:
      ValueError: there are more than n frames, or one cannot be decoded.
    """
    spec = self.image_spec
    if len(frames) > spec.num_images:
      raise ValueError(
          f'{len(frames)} frames, but the model takes {spec.num_images}; pass the last '
          f'{spec.num_images} or set num_images')
    images_nxHxWx3 = np.zeros((spec.num_images, spec.height, spec.width, 3), np.uint8)
    mask_n = np.zeros(spec.num_images, np.int32)
    for i, frame in enumerate(frames):
      if isinstance(frame, (bytes, bytearray, memoryview)):
        frame = images_lib.decode(bytes(frame))
      images_nxHxWx3[i] = images_lib.resize(frame, spec)
      mask_n[i] = 1
    return images_nxHxWx3, mask_n

  def robot_inputs(self, instruction: str) -> np.ndarray:
    """The robot prompt of `instruction` as int32 [<=L], read-only.

    Raises:
      ValueError: the instruction is empty, or its prompt longer than `inputs_length`: a robot
        must not act on half a sentence.
    """
    return self._robot_inputs(instruction)

  def text_inputs(self, text: str) -> np.ndarray:
    """A finished prompt (see `prompts`) as int32 [<=L], cut at `inputs_length`."""
    return np.array(self.vocabulary.encode(text)[:self.inputs_length], np.int32)

  def action_targets(self, values) -> np.ndarray:
    """The tokens of an action, EOS last: float [D] in physical units -> int32 [<=T].

    Raises:
      ValueError: a value is not finite, or there are not D of them.
    """
    return self._targets_of(self.action_space.encode(values))

  def text_targets(self, text: str) -> np.ndarray:
    """The tokens of an answer in words, int32 [<=T]; cut to make room for EOS, which is last."""
    ids = self.vocabulary.encode(text)[:self.targets_length - 1]
    return np.array([*ids, self.vocabulary.eos_id], np.int32)

  def integers_from_tokens(self, tokens: Sequence[int]) -> np.ndarray:
    """The action integers that a model wrote, int32 [D]; reads up to EOS.

    Raises:
      ValueError: the tokens are no integers, not D of them, or outside a dimension's range.
    """
    integers = self.vocabulary.decode_integers(tokens)
    space = self.action_space
    if len(integers) != space.size:
      raise ValueError(
          f'the answer has {len(integers)} integers, an action of {space.name} has {space.size}: '
          f'{integers[:16]}')
    for dimension, integer in zip(space.dimensions, integers):
      if not dimension.first <= integer <= dimension.last:
        raise ValueError(
            f'{dimension.name} of {space.name} is {integer} in the answer {integers}; it must be '
            f'within {dimension.first}..{dimension.last}')
    return np.array(integers, np.int32)

  def action_from_tokens(self, tokens: Sequence[int]) -> np.ndarray:
    """The action that a model wrote, float32 [D] in physical units.

    Raises:
      ValueError: as `integers_from_tokens`.
    """
    return self.action_space.decode(self.integers_from_tokens(tokens))

  def grammar(self) -> tuple[grammar_lib.Grammar, dict[str, int]]:
    """What may be answered, and the start states of 'question' and 'action'."""
    return self._grammar

  @functools.cached_property
  def fingerprint(self) -> str:
    """sha256 over everything that decides what an example looks like."""
    whole = {
        **self._settings(),
        'action_space': json.loads(self.action_space.to_json()),
        'prompts': prompts.TEMPLATES,
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

  def save(self, directory: str) -> None:
    """Writes processor.json, action_space.json and vocabulary.model into `directory`."""
    os.makedirs(directory, exist_ok=True)
    settings = {
        **self._settings(),
        'action_ids': self.vocabulary.action_ids_256.tolist(),
        'prompts': prompts.TEMPLATES,
    }
    with open(os.path.join(directory, _VOCABULARY_FILE), 'wb') as file:
      file.write(self.vocabulary.model_bytes)
    with open(os.path.join(directory, _ACTION_SPACE_FILE), 'w', encoding='utf-8') as file:
      file.write(self.action_space.to_json() + '\n')
    with open(os.path.join(directory, _PROCESSOR_FILE), 'w', encoding='utf-8') as file:
      file.write(json.dumps(settings, indent=2, sort_keys=True) + '\n')

  @classmethod
  def load(cls, directory: str) -> 'Processor':
    """Reads what `save` wrote.

    Raises:
      FileNotFoundError: `directory` holds no processor.
      ValueError: a file is damaged or was exchanged, or prompts or image code have changed
        since, so that the model would see what it was not trained on.
    """
    settings_file = os.path.join(directory, _PROCESSOR_FILE)
    try:
      settings = json.loads(_read(settings_file))
    except json.JSONDecodeError as error:
      raise ValueError(f'{settings_file} is damaged: {error}') from error
    space = actions.ActionSpace.from_json(_read(os.path.join(directory, _ACTION_SPACE_FILE)))
    try:
      overwritten = settings['action_tokens'] == 'least_frequent'
      vocabulary = vocabulary_lib.Vocabulary(
          os.path.join(directory, _VOCABULARY_FILE),
          settings['action_tokens'],
          settings['action_ids'] if overwritten else None,
      )
      processor = cls(
          vocabulary,
          space,
          images_lib.ImageSpec(**settings['image_spec']),
          settings['inputs_length'],
          settings['targets_length'],
      )
      _check_unchanged(directory, 'vocabulary', settings['vocabulary'], vocabulary.fingerprint)
      _check_unchanged(directory, 'image code', settings['pixels'], images_lib.PIXELS)
      # Templates that came later do no harm; those that the model knows must be spelt the same.
      for name, template in settings['prompts'].items():
        _check_unchanged(directory, f'prompt {name}', template, prompts.TEMPLATES.get(name))
    except (KeyError, TypeError) as error:
      raise ValueError(
          f'{settings_file} is not a processor: {error!r}; load what Processor.save wrote'
      ) from error
    return processor

  def _settings(self) -> dict[str, object]:
    return {
        'action_tokens': self.vocabulary.action_tokens,
        'vocabulary': self.vocabulary.fingerprint,
        'image_spec': dataclasses.asdict(self.image_spec),
        'pixels': images_lib.PIXELS,
        'inputs_length': self.inputs_length,
        'targets_length': self.targets_length,
    }

  def _targets_of(self, bins_D: np.ndarray) -> np.ndarray:
    if bins_D.ndim != 1:
      raise ValueError(f'one action has shape [{self.action_space.size}], got {list(bins_D.shape)}')
    vocabulary = self.vocabulary
    if self._every_integer_is_one_token:
      return np.append(vocabulary.action_ids_256[bins_D], np.int32(vocabulary.eos_id))
    return np.array([*vocabulary.encode_integers(bins_D), vocabulary.eos_id], np.int32)

  @functools.cached_property
  def _every_integer_is_one_token(self) -> bool:
    last = len(self.vocabulary.action_ids_256) - 1
    return all(0 <= each.first and each.last <= last for each in self.action_space.dimensions)

  @functools.cached_property
  def _robot_inputs(self):
    return functools.lru_cache(maxsize=_REMEMBERED_INSTRUCTIONS)(self._encode_instruction)

  def _encode_instruction(self, instruction: str) -> np.ndarray:
    if not instruction.strip():
      raise ValueError('the instruction is empty; a robot prompt needs one')
    ids = np.array(self.vocabulary.encode(prompts.robot(instruction.strip())), np.int32)
    if len(ids) > self.inputs_length:
      raise ValueError(
          f'the prompt of instruction {instruction[:60]!r} takes {len(ids)} tokens, inputs_length '
          f'is {self.inputs_length}; raise it or shorten the instruction')
    ids.setflags(write=False)  # every caller gets this same array
    return ids

  @functools.cached_property
  def _action_grammar(self) -> grammar_lib.Grammar:
    return grammar_lib.for_actions(self.action_space, self.vocabulary)

  @functools.cached_property
  def _grammar(self) -> tuple[grammar_lib.Grammar, dict[str, int]]:
    vocabulary = self.vocabulary
    question = grammar_lib.anything(
        vocabulary.vocab_size, eos=vocabulary.eos_id, pad=vocabulary.pad_id)
    return grammar_lib.union({'question': question, 'action': self._action_grammar})


def _read(path: str) -> str:
  if not os.path.isfile(path):
    raise FileNotFoundError(f'{path} does not exist; name a directory that Processor.save wrote')
  with open(path, encoding='utf-8') as file:
    return file.read()


def _check_unchanged(directory: str, what: str, saved, now):
  if saved != now:
    raise ValueError(
        f'{directory}: {what} was {saved!r} when the checkpoint was written and is {now!r} now; '
        f'use the version of rt2_train that wrote it (assets/versions.json)')
