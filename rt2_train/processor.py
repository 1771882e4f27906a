"""Turns frames, text and actions into what a model reads and writes, and back.

Training, evaluation and serving share this one object, and it travels in the checkpoint, so
that a robot sees the images, prompts, tokens and bounds of its training by construction.

Shape suffixes in array names: n images, H height, W width, L inputs, T targets, D dimensions.
"""

from collections.abc import Callable, Sequence
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
from rt2_train import sequences
from rt2_train import vocabulary as vocabulary_lib

_PROCESSOR_FILE = 'processor.json'
_ACTION_SPACE_FILE = 'action_space.json'
_VOCABULARY_FILE = 'vocabulary.model'
_PROMPT_FORMATS = ('palm_e', 'paligemma')

# A dataset repeats its instructions; a server that is asked anything must not grow for ever.
_REMEMBERED_INSTRUCTIONS = 65536


@dataclasses.dataclass(frozen=True)
class Processor:
  """What stands between the world and a model.

  Attributes:
    vocabulary: text and action integers <-> ids.
    action_space: physical values <-> action integers.
    image_spec: size and number of the frames.
    inputs_length: most tokens of a prompt's text.
    targets_length: T, most tokens of an answer, EOS included; an action must fit.
    layout: how the model reads inputs and targets, a name in `sequences.LAYOUTS`.
    image_tokens: tokens that an image takes inside the prompt (PaLM-E); 0 where the model lays
      images before the text by itself (PaLI-X).
    plan_length: most tokens of a plan that precedes an action (RT-2, section 4.4); 0 where the
      model is asked for none. `targets_length` must hold plan, marker and action.
    history: frames of each camera that an action is decided on, the oldest first and all cameras of
      a time together; RT-2 has 1.
    prompt_format: how images inside a prompt stand to its text: 'palm_e', or 'paligemma', where all
      come first, then <bos>, text and a newline.
  """

  vocabulary: vocabulary_lib.Vocabulary
  action_space: actions.ActionSpace
  image_spec: images_lib.ImageSpec
  inputs_length: int
  targets_length: int
  layout: str = 'encoder_decoder'
  image_tokens: int = 0
  plan_length: int = 0
  history: int = 1
  prompt_format: str = 'palm_e'

  def __post_init__(self):
    for name, least in (
        ('inputs_length', 1), ('targets_length', 1), ('image_tokens', 0), ('plan_length', 0),
        ('history', 1)):
      value = getattr(self, name)
      if not isinstance(value, int) or value < least:
        raise ValueError(f'processor: {name} is {value}; it must be a whole number of at least '
                         f'{least}')
    if self.history > self.image_spec.num_images:
      raise ValueError(
          f'processor: history is {self.history}, but the model takes {self.image_spec.num_images} '
          'images; raise num_images')
    if self.layout not in sequences.LAYOUTS:
      raise ValueError(
          f'processor: layout is {self.layout!r}; choose one of {sorted(sequences.LAYOUTS)}')
    if self.prompt_format not in _PROMPT_FORMATS:
      raise ValueError(
          f'processor: prompt_format is {self.prompt_format!r}; choose one of {_PROMPT_FORMATS}')
    vocabulary = self.vocabulary
    if self.prompt_format == 'paligemma' and (
        vocabulary.bos_id is None or not self._newline or vocabulary.unk_id in self._newline):
      raise ValueError(
          f'processor: vocabulary {vocabulary.model_file} lacks <bos> or a newline, between which '
          "prompt_format 'paligemma' puts a prompt; use PaliGemma's, or 'palm_e'")
    grammar_lib.check_fits(self._action_grammar, self.targets_length)
    if self.plan_length:
      grammar_lib.check_fits(self._plan_grammar, self.targets_length)

  @property
  def prompt_length(self) -> int:
    """L, most tokens of a prompt: its text and the images in it."""
    return self.inputs_length + self.image_spec.num_images * self.image_tokens

  @functools.cached_property
  def every_integer_is_one_token(self) -> bool:
    """Whether an action is D tokens, each out of `Vocabulary.action_ids_256`."""
    last = len(self.vocabulary.action_ids_256) - 1
    return all(0 <= each.first and each.last <= last for each in self.action_space.dimensions)

  def features(
      self, inputs_BxL: np.ndarray, targets_BxT: np.ndarray | None = None
  ) -> dict[str, np.ndarray]:
    """The token features of a batch, as the model reads them; without targets, to be answered."""
    if targets_BxT is None:
      xp = inputs_BxL.__array_namespace__()
      targets_BxT = xp.zeros((len(inputs_BxL), self.targets_length), np.int32)
    return sequences.LAYOUTS[self.layout](inputs_BxL, targets_BxT)

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
    return self._robot_inputs(prompts.robot, instruction)

  def plan_inputs(self, instruction: str) -> np.ndarray:
    """The prompt that asks for a plan and then an action, as int32 [<=L], read-only.

    Raises:
      ValueError: as `robot_inputs`; or the model is not asked for plans.
    """
    self._check_plans()
    return self._robot_inputs(prompts.plan, instruction)

  def text_inputs(self, text: str) -> np.ndarray:
    """A finished prompt (see `prompts`) as int32 [<=L], its text cut at `inputs_length`.

    Where images stand inside the text, `prompts.IMAGE` marks the place of each; a prompt without
    marks gets them in front (`prompts.given_images`).

    Raises:
      ValueError: the prompt marks places for another number of images.
    """
    return self._encode_prompt(text, cut=True)

  def action_targets(self, values) -> np.ndarray:
    """The tokens of an action, EOS last: float [D] in physical units -> int32 [<=T].

    Raises:
      ValueError: a value is not finite, or there are not D of them.
    """
    return self._targets_of(self.action_space.encode(values))

  def plan_targets(self, plan: str, values) -> np.ndarray:
    """The tokens of a plan and its action, EOS last: int32 [<=T]; `values` as `action_targets`.

    Raises:
      ValueError: the plan is empty, longer than `plan_length`, or holds the marker that ends it;
        or the values are no action.
    """
    self._check_plans()
    written = self._remembered_plan(plan)
    return np.concatenate([written, self.action_targets(values)])

  def text_targets(self, text: str, separator: str | None = None) -> np.ndarray:
    """The tokens of an answer in words, int32 [<=T]; cut to make room for EOS, which is last.

    Args:
      text: the answer.
      separator: what stands between its parts, of which whole ones are then left out at the end.
    """
    room = self.targets_length - 1
    ids = self.vocabulary.encode(text)
    while len(ids) > room and separator and separator in text:
      text = text.rpartition(separator)[0]
      ids = self.vocabulary.encode(text)
    return np.array([*ids[:room], self.vocabulary.eos_id], np.int32)

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

  def split_plan(self, tokens: Sequence[int]) -> tuple[str, list[int]]:
    """A plan's text, without the words around it, and the tokens of the action after it.

    Raises:
      ValueError: no marker stands between the two.
    """
    tokens = [int(token) for token in tokens]
    end = _find(tokens, self._marker)
    if end < 0:
      raise ValueError(f'the answer {self.vocabulary.decode(tokens)[:60]!r} has no '
                       f'{prompts.ACTION_MARKER!r}, which stands between plan and action')
    said = self.vocabulary.decode(tokens[:end])
    return prompts.plan_of(said), tokens[end + len(self._marker):]

  def grammar(self) -> tuple[grammar_lib.Grammar, dict[str, int]]:
    """What may be answered, and the start states of 'question', 'action' and, if any, 'plan'."""
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
          settings['layout'],
          settings['image_tokens'],
          settings['plan_length'],
          settings['history'],
          # Checkpoints from before there was another have none.
          settings.get('prompt_format', 'palm_e'),
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
        'layout': self.layout,
        'image_tokens': self.image_tokens,
        'plan_length': self.plan_length,
        'history': self.history,
        'prompt_format': self.prompt_format,
    }

  def _targets_of(self, bins_D: np.ndarray) -> np.ndarray:
    if bins_D.ndim != 1:
      raise ValueError(f'one action has shape [{self.action_space.size}], got {list(bins_D.shape)}')
    vocabulary = self.vocabulary
    if self.every_integer_is_one_token:
      return np.append(vocabulary.action_ids_256[bins_D], np.int32(vocabulary.eos_id))
    return np.array([*vocabulary.encode_integers(bins_D), vocabulary.eos_id], np.int32)

  @functools.cached_property
  def _robot_inputs(self):
    return functools.lru_cache(maxsize=_REMEMBERED_INSTRUCTIONS)(self._encode_instruction)

  def _encode_instruction(self, prompt: Callable[[str], str], instruction: str) -> np.ndarray:
    if not instruction.strip():
      raise ValueError('the instruction is empty; a robot prompt needs one')
    ids = self._encode_prompt(prompt(instruction.strip()))
    ids.setflags(write=False)  # every caller gets this same array
    return ids

  def _check_plans(self):
    if not self.plan_length:
      raise ValueError('this model writes no plans: its processor has plan_length 0')

  @functools.cached_property
  def _marker(self) -> list[int]:
    return self.vocabulary.encode(prompts.ACTION_MARKER)

  @functools.cached_property
  def _remembered_plan(self):
    return functools.lru_cache(maxsize=_REMEMBERED_INSTRUCTIONS)(self._encode_plan)

  def _encode_plan(self, plan: str) -> np.ndarray:
    if not plan.strip():
      raise ValueError('the plan is empty; an action prompt without a plan is robot_inputs')
    said = prompts.plan_target(plan.strip()).removesuffix(prompts.ACTION_MARKER).rstrip()
    # Encoded apart, so that the marker's tokens are the same behind every plan.
    ids = self.vocabulary.encode(said)
    if len(ids) > self.plan_length:
      raise ValueError(f'the plan {plan[:60]!r} takes {len(ids)} tokens, plan_length is '
                       f'{self.plan_length}; raise it or shorten the plan')
    if _find([*ids, *self._marker], self._marker) < len(ids):
      raise ValueError(f'the plan {plan[:60]!r} holds {prompts.ACTION_MARKER!r}, which ends plans; '
                       'write it without')
    return np.array([*ids, *self._marker], np.int32)

  def _encode_prompt(self, text: str, cut: bool = False) -> np.ndarray:
    num_images = self.image_spec.num_images if self.image_tokens else 0
    images_first = self.prompt_format == 'paligemma'
    if images_first and prompts.IMAGE in text:
      raise ValueError(
          f'prompt {text[:60]!r} marks places for images, which PaliGemma reads before all text; '
          f'leave {prompts.IMAGE} out')
    if images_first:
      text = prompts.IMAGE * num_images + text
    elif num_images and prompts.IMAGE not in text:
      text = prompts.given_images(text, num_images)
    # Without images in the text, a mark is text like any other.
    parts = text.split(prompts.IMAGE) if num_images else [text]
    if len(parts) - 1 != num_images:
      raise ValueError(
          f'prompt {text[:60]!r} marks {len(parts) - 1} images, the model takes {num_images}; '
          f'write {prompts.IMAGE} once for each')
    encoded = [self.vocabulary.encode(part) for part in parts]
    end = self._newline if images_first else []
    if images_first:
      encoded[-1].insert(0, self.vocabulary.bos_id)
    excess = sum(map(len, encoded)) + len(end) - self.inputs_length
    if excess > 0 and not cut:
      raise ValueError(
          f'the prompt {text[:60]!r} takes {excess + self.inputs_length} tokens, inputs_length is '
          f'{self.inputs_length}; raise it or shorten the instruction')
    if excess > 0:
      encoded[-1] = encoded[-1][:-excess]
    image = [sequences.IMAGE_TOKEN_ID] * self.image_tokens
    ids = encoded[0]
    for part in encoded[1:]:
      ids = [*ids, *image, *part]
    return np.array([*ids, *end], np.int32)

  @functools.cached_property
  def _newline(self) -> list[int]:
    return self.vocabulary.encode('\n')

  @functools.cached_property
  def _action_grammar(self) -> grammar_lib.Grammar:
    return grammar_lib.for_actions(self.action_space, self.vocabulary)

  @functools.cached_property
  def _grammar(self) -> tuple[grammar_lib.Grammar, dict[str, int]]:
    vocabulary = self.vocabulary
    question = grammar_lib.anything(
        vocabulary.vocab_size, eos=vocabulary.eos_id, pad=vocabulary.pad_id)
    plan = {'plan': self._plan_grammar} if self.plan_length else {}
    return grammar_lib.union({'question': question, 'action': self._action_grammar, **plan})

  @functools.cached_property
  def _plan_grammar(self) -> grammar_lib.Grammar:
    return grammar_lib.after(
        self._marker, self._action_grammar, self.plan_length, eos=self.vocabulary.eos_id,
        pad=self.vocabulary.pad_id)


def _find(tokens: Sequence[int], part: Sequence[int]) -> int:
  """Where `part` first stands in `tokens`, -1 if nowhere."""
  starts = range(len(tokens) - len(part) + 1)
  return next((i for i in starts if list(tokens[i:i + len(part)]) == list(part)), -1)


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
