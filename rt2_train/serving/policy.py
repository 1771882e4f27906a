"""The policy: observations in, actions out, for any number of robots and questions at once.

Everything between pixels and numbers (images, prompts, tokens, bins) is done by the `Processor`
that training used and the checkpoint carries, so that serving cannot drift from training.

Shape suffixes: B rows of a batch, L input tokens, T target tokens.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from rt2_train import actions as actions_lib
from rt2_train import processor as processor_lib
from rt2_train import prompts
from rt2_train.models import vlm
from rt2_train.serving import saved
from rt2_train.serving import weights


@dataclasses.dataclass(frozen=True)
class Observation:
  """What a robot sees and is told, or what somebody asks about the picture.

  Attributes:
    images: one frame per camera, uint8 [h, w, 3] or encoded bytes; fewer than the model takes are
      filled up and masked. A model with a history (`Processor.history`) acts on so many frames of
      each camera, the oldest first and all cameras of a time together.
    instruction: what to do; the answer is an action. Or:
    question: what to say; the answer is text.
    plan: whether to write a plan before the action (RT-2, section 4.4), for a model that learnt to.
  """

  images: Sequence[np.ndarray | bytes]
  instruction: str | None = None
  question: str | None = None
  plan: bool = False


@dataclasses.dataclass(frozen=True)
class Action:
  """The answer to one observation.

  Attributes:
    values: float32 [D] in physical units, in the order of the action space; None for a question.
    terminate: the episode is over.
    tokens: int32 [T], the ids the model wrote, padded.
    text: the action's integers, or the answer to the question.
    plan: what the model said it would do; '' when it was not asked.
  """

  values: np.ndarray | None
  terminate: bool
  tokens: np.ndarray
  text: str
  plan: str = ''


class Policy:
  """A model that answers instructions with valid actions and questions with text."""

  def __init__(
      self,
      model: vlm.VisionLanguageModel,
      params: Any,
      processor: processor_lib.Processor,
      temperature: float = 0.0,
      seed: int = 0,
      batch_sizes: Sequence[int] = (1, 8, 32),
  ):
    """Places the parameters; each batch size is compiled when it is first needed.

    Args:
      model: built with the same `processor`.
      params: the model's parameters, on the host or on devices; integers and scales as
        `weights` has them stay so in memory.
      processor: turns observations into model inputs and tokens into actions.
      temperature: of sampling; 0 takes the likeliest token.
      seed: of sampling; a policy called in the same way answers in the same way.
      batch_sizes: the sizes that are compiled; any number of observations is cut into and padded
        up to these, so a robot that joins never waits for the compiler twice.
    """
    if not batch_sizes or min(batch_sizes) < 1:
      raise ValueError(f'policy: batch_sizes {tuple(batch_sizes)} must be one or more, each > 0')
    self.processor, self._model = processor, model
    self._batch_sizes = sorted(set(batch_sizes))
    self._params = jax.device_put(params)
    self._rng = jax.random.key(seed)
    self._calls = itertools.count()
    # Grammar start states: an instruction may be answered with an action only.
    self._start = processor.grammar()[1]
    self._decode = jax.jit(
        lambda params, batch, rng: model.predict_batch_with_aux(
            weights.dequantized(params), batch, rng, temperature=temperature
        )[0]
    )
    self.checkpoint: pathlib.Path | None = None
    self._averaged = False

  @classmethod
  def from_checkpoint(
      cls, checkpoint_dir: str, step: int | None = None, *, ema: bool | None = None, **kwargs: Any
  ) -> 'Policy':
    """The policy of a checkpoint: model, processor and parameters, without the optimizer.

    Args:
      checkpoint_dir: a run's MODEL_DIR, one `checkpoint_<step>` of it, or what was exported.
      step: which checkpoint of MODEL_DIR; the newest when None.
      ema: takes the averaged parameters (item `ema/`) instead of the last ones; by default where
        the run kept them, since those are what it was evaluated with.
      **kwargs: handed to `Policy`.

    Raises:
      FileNotFoundError: there is no such checkpoint, or a part of it is missing.
      ValueError: the parameters are not those of the model the checkpoint describes.
    """
    directory = saved.find(checkpoint_dir, step)
    model, processor = saved.read(directory)
    if saved.is_export(directory):
      if ema is not None:
        raise ValueError(f'{directory} holds the parameters that were exported; leave ema out')
      params = weights.nested(weights.read(directory))
    else:
      ema = (directory / 'ema').is_dir() if ema is None else ema
      params = read_params(directory, ema=ema)
    shapes = weights.flat(jax.eval_shape(weights.dequantized, params))
    saved.check_fits({name: leaf.shape for name, leaf in shapes.items()}, model, directory)
    policy = cls(model, params, processor, **kwargs)
    policy.checkpoint, policy._averaged = directory, bool(ema)
    return policy

  def reload(self, directory: pathlib.Path) -> None:
    """Takes the parameters of another checkpoint of the same run; no program is compiled again.

    A batch that is being answered keeps the parameters it began with; for that while memory holds
    both.

    Args:
      directory: a whole `checkpoint_<step>`.

    Raises:
      FileNotFoundError: a part of it is missing.
      ValueError: it is of another model or processor.
    """
    model, processor = saved.read(directory)
    same = model.architecture() == self._model.architecture()
    if not same or processor.fingerprint != self.processor.fingerprint:
      raise ValueError(
          f'{directory} holds another model or processor than {self.checkpoint}; start a policy of '
          'its own for it')
    params = jax.device_put(read_params(directory, ema=self._averaged))
    saved.check_fits(
        {name: leaf.shape for name, leaf in weights.flat(params).items()}, model, directory)
    self._params, self.checkpoint = params, directory

  @property
  def batch_sizes(self) -> tuple[int, ...]:
    """The sizes that are compiled, ascending."""
    return tuple(self._batch_sizes)

  def compile(self) -> None:
    """Compiles every batch size, so that nobody who asks later waits for the compiler."""
    spec = self.processor.image_spec
    black = np.zeros((spec.height, spec.width, 3), np.uint8)
    row = self.prepare(Observation([black], question='What is this?'))
    for size in self._batch_sizes:
      self.answer([row] * size)

  def infer(self, observations: Sequence[Observation]) -> list[Action]:
    """Answers all observations, instructions and questions in one batch.

    Raises:
      ValueError: an observation is unusable; it is named by position and nothing is computed.
    """
    rows = []
    for i, observation in enumerate(observations):
      try:
        rows.append(self.prepare(observation))
      except ValueError as error:
        raise ValueError(f'observation {i}: {error}') from error
    answers = []
    for start in range(0, len(rows), self._batch_sizes[-1]):
      answers.extend(self.answer(rows[start : start + self._batch_sizes[-1]]))
    return [self.read(o, tokens) for o, tokens in zip(observations, answers, strict=True)]

  def predict_batch(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """The ids int32 [B, T] that answer the rows of a training batch, each under its grammar."""
    rng = jax.random.fold_in(self._rng, next(self._calls))
    return np.asarray(self._decode(self._params, dict(batch), rng))

  def prepare(self, observation: Observation) -> dict[str, np.ndarray]:
    """One row of what the model reads; `answer` takes it.

    Raises:
      ValueError: the observation is unusable.
    """
    processor = self.processor
    if (observation.instruction is None) == (observation.question is None):
      raise ValueError('needs an instruction or a question, and not both')
    images, image_mask = processor.images(observation.images)
    if observation.instruction is not None and len(observation.images) % processor.history:
      raise ValueError(
          f'has {len(observation.images)} images; the model acts on {processor.history} frames of '
          'each camera, the oldest first')
    if observation.plan:
      if observation.instruction is None:
        raise ValueError('a plan needs an instruction')
      inputs, state = processor.plan_inputs(observation.instruction), self._start['plan']
    elif observation.instruction is not None:
      inputs, state = processor.robot_inputs(observation.instruction), self._start['action']
    else:
      inputs = processor.text_inputs(prompts.vqa(observation.question))
      state = self._start['question']
    inputs_L = np.zeros(processor.prompt_length, np.int32)
    inputs_L[: len(inputs)] = inputs
    return {
        'inputs': inputs_L,
        'images': images,
        'image_mask': image_mask,
        'grammar_state': np.int32(state),
    }

  def answer(self, rows: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """The ids int32 [B, T] that answer `rows`, at most the largest batch size of them.

    At temperature 0 an answer depends on its own row and on the compiled size, not on its
    neighbours.
    """
    size = next(size for size in self._batch_sizes if size >= len(rows))
    # A copy of a real row is the safest padding: no row sees another.
    padded = [*rows, *[rows[0]] * (size - len(rows))]
    batch = {name: np.stack([row[name] for row in padded]) for name in rows[0]}
    batch |= self.processor.features(batch.pop('inputs'))
    rng = jax.random.fold_in(self._rng, next(self._calls))
    return np.asarray(self._decode(self._params, batch, rng))[: len(rows)]

  def read(self, observation: Observation, tokens_T: np.ndarray) -> Action:
    """What the ids int32 [T] that answer `observation` say."""
    if observation.question is not None:
      text = self.processor.vocabulary.decode(tokens_T.tolist())
      return Action(values=None, terminate=False, tokens=tokens_T, text=text)
    plan, answer = '', tokens_T
    if observation.plan:
      plan, answer = self.processor.split_plan(tokens_T)
    integers = self.processor.integers_from_tokens(answer)
    return Action(
        values=self.processor.action_from_tokens(answer),
        terminate=_says_stop(self.processor.action_space, integers),
        tokens=tokens_T,
        text=' '.join(map(str, integers.tolist())),
        plan=plan,
    )


def load_processor(checkpoint_dir: str, step: int | None = None) -> processor_lib.Processor:
  """The processor of a checkpoint, for datasets that the checkpoint is to be evaluated on."""
  return processor_lib.Processor.load(saved.find(checkpoint_dir, step) / saved.ASSETS)


def read_params(checkpoint: pathlib.Path, *, ema: bool = False) -> Any:
  """The parameters of one checkpoint, on the default device; the optimizer's state is not read.

  Raises:
    FileNotFoundError: the checkpoint has no averaged parameters although they were asked for.
    ValueError: the checkpoint holds no parameters under `target`.
  """
  item = checkpoint / ('ema' if ema else 'state')
  if not item.is_dir():
    raise FileNotFoundError(f'{item} is missing: the run did not write it')
  handler = ocp.PyTreeCheckpointHandler()
  found = handler.metadata(item).tree
  if not ema:
    if 'target' not in found:
      raise ValueError(f'{item} holds {sorted(found)} but no "target": these are no parameters')
    found = {'target': found['target']}
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  tree = handler.restore(
      item,
      args=ocp.args.PyTreeRestore(
          item=jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), found),
          # The mesh that trained need not exist here.
          restore_args=jax.tree.map(lambda _: ocp.ArrayRestoreArgs(sharding=device), found),
          partial_restore=True,
      ),
  )
  return tree if ema else tree['target']


def _says_stop(space: actions_lib.ActionSpace, integers: np.ndarray) -> bool:
  """Whether an action ends its episode; a space without `terminate` never says so."""
  if 'terminate' not in space.names:
    return False
  return bool(integers[space.names.index('terminate')] == actions_lib.TERMINATE_STOP)
