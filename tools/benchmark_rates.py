"""What a device can do: its measured rates, and the least time that an action takes at those rates.

At batch 1 a prompt is read at the rate of matrix products, or at that of memory where its weights
take longer to fetch than to multiply; and then every token fetches the decoder's weights once more.
Attention scores, caches and activations add two or three percent and are left out, which makes the
floor a little lower than any program can get.
"""

from collections.abc import Callable
import dataclasses
import math
import re
import statistics
import time
from typing import Any

from flax import core
import jax
import jax.numpy as jnp

from rt2_train.models import vlm
from rt2_train.training import optimizers

_ROUND_SECONDS = 0.2
# Large enough that nothing but the rate counts; a CPU would take minutes.
_SIZES = {'cpu': (512, 2**26)}
_MATRIX, _COPY_BYTES = 8192, 2**32
# What one token of an action is chosen out of.
BINS = 256
_BYTES = 2  # of a bfloat16


@dataclasses.dataclass(frozen=True)
class Rates:
  """What a device reaches.

  Attributes:
    flops: FLOP/s of a large square matrix product, one per round.
    bytes: bytes/s read and written by a large copy, one per round.
  """

  flops: list[float]
  bytes: list[float]


@dataclasses.dataclass(frozen=True)
class Work:
  """What the weights ask for in answering one prompt with one action.

  Attributes:
    prompt_flops: of reading images and text.
    prompt_bytes: weights fetched for it.
    answer_bytes: weights fetched for all tokens of the answer.
  """

  prompt_flops: float
  prompt_bytes: float
  answer_bytes: float

  def floor(self, flops: float, bytes_per_second: float) -> float:
    """Seconds below which no program gets at these rates."""
    prompt = max(self.prompt_flops / flops, self.prompt_bytes / bytes_per_second)
    return prompt + self.answer_bytes / bytes_per_second


def measure(dtype: str, rounds: int) -> Rates:
  """The rates of the first device, matrix products in `dtype`."""
  size, copied = _SIZES.get(jax.default_backend(), (_MATRIX, _COPY_BYTES))
  # Zeros multiply faster than numbers do: the chip's power, and with it its clock, depends on them.
  a, b = (jax.random.normal(jax.random.key(i), (size, size), dtype) for i in range(2))
  product, copy = jax.jit(jnp.matmul), jax.jit(jnp.copy)
  flops = [
      2 * size**3 / seconds
      for seconds in seconds_per_call(lambda: product(a, b), jax.block_until_ready, rounds)
  ]
  x = jnp.arange(copied // 4, dtype=jnp.uint32)
  return Rates(flops, [
      2 * x.nbytes / seconds
      for seconds in seconds_per_call(lambda: copy(x), jax.block_until_ready, rounds)
  ])


def action_work(
    model: vlm.VisionLanguageModel, *, text_tokens: int, action_tokens: int,
    scored_ids: int = BINS,
) -> Work:
  """What one image, `text_tokens` and an action of `action_tokens` take at batch 1 in bfloat16.

  Args:
    model: counted on shapes alone.
    text_tokens: of the prompt.
    action_tokens: of the answer, EOS not among them.
    scored_ids: rows of the output table that each token needs; the grammar of an action leaves 256
      to choose from, a program that scores all of the vocabulary reads all.
  """
  sizes = parameter_sizes(model)
  count = lambda pattern: sum(size for path, size in sizes.items() if re.match(pattern, path))
  vision, decoder = count('vit/|image_projection/'), count('decoder/(?!logits_dense)')
  if model.layout == 'decoder_only':
    # The pass that reads the prompt also gives the first token.
    reader, passes = decoder, action_tokens - 1
  else:
    # Keys and values of the prompt are computed with it, and kept.
    kept = count('decoder/.*/encoder_decoder_attention/(key|value)/')
    reader, decoder, passes = count('encoder/') + kept, decoder - kept, action_tokens
  image_tokens = model.module.vit_config.num_tokens
  head = scored_ids * model.module.config.width
  return Work(
      prompt_flops=2.0 * (vision * image_tokens + reader * (image_tokens + text_tokens)),
      prompt_bytes=_BYTES * (vision + reader),
      answer_bytes=_BYTES * (decoder * passes + head * action_tokens),
  )


def parameter_sizes(model: vlm.VisionLanguageModel) -> dict[str, int]:
  """Entries of each parameter, by path; none is allocated."""
  return {
      path: math.prod(leaf.shape)
      for path, leaf in optimizers.flatten(parameter_shapes(model)).items()
  }


def parameter_shapes(model: vlm.VisionLanguageModel) -> Any:
  """The parameters as float32 shapes."""
  batch = model.batch_shapes(batch_size=1, inputs_length=4, targets_length=4)
  shapes = {name: feature.shape for name, feature in batch.items()}
  return core.unfreeze(jax.eval_shape(
      lambda key: model.get_initial_variables(key, shapes)['params'], jax.random.key(0)))


def seconds_per_call(
    run: Callable[[], Any], wait: Callable[[Any], Any], rounds: int
) -> list[float]:
  """The mean time of a call in each round.

  Args:
    run: starts the work.
    wait: returns when the work whose result it gets is done.
    rounds: number of; each makes so many calls that it is not too short to time.
  """
  wait(run())  # Compiles, and warms caches up.
  begin = time.perf_counter()
  wait(run())
  calls = max(1, round(_ROUND_SECONDS / (time.perf_counter() - begin)))
  times = []
  for _ in range(rounds):
    begin = time.perf_counter()
    for _ in range(calls):
      result = run()
    wait(result)
    times.append((time.perf_counter() - begin) / calls)
  return times


def row(name: str, values: list[float], unit: str, remark: str = '') -> str:
  """A line of figures: the median and range of the rounds, and what is to be said of them."""
  spread = f'{statistics.median(values):9.4g} ({min(values):.4g} to {max(values):.4g}) {unit}'
  return f'  {name:38} {spread}{remark and "; " + remark}'
