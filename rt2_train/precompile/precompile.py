"""The run mode `precompile`: what a model would need and do on a TPU slice, told by its compiler.

Nothing is executed and no TPU is needed. Speeds are arithmetic on the compiler's schedule: bounds
where matrix products are taken to run at the chip's peak, an estimate where the compiler's own
cycles are there (`full_codegen`).
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import json
import os
from typing import Any

from absl import logging
import jax

from rt2_train.precompile import recommendations
from rt2_train.precompile import reports
from rt2_train.precompile import topologies
from rt2_train.precompile import tpu_compile
from rt2_train.training import chips
from rt2_train.training import partitioning
from rt2_train.training import programs

_PROGRAMS = ('train', 'decode')


def precompile(
    *,
    model: Any,
    topology: str,
    batch_size: int,
    program: str = 'train',
    inputs_length: int = 64,
    targets_length: int = 64,
    num_images: int = 1,
    decode_length: int = 9,
    slices: int = 1,
    rules: str | None = None,
    model_parallelism: int | None = None,
    remat_policy: str | None = None,
    learning_rate: Callable[[jax.Array], jax.Array] | float = 1e-3,
    num_microbatches: int = 1,
    frozen: Sequence[str] = (),
    frozen_dtype: str | None = None,
    ema_decay: float | None = None,
    full_codegen: bool = False,
    report: str | None = None,
) -> dict[str, Any]:
  """Compiles one step of `model` for a slice, prints what it takes, and returns it.

  Args:
    model: see rt2_train.models.vlm; carries its optimizer_def if it is to be trained.
    topology: such as 'v5p:4x4x4'.
    batch_size: global rows of a step.
    program: 'train', or 'decode': reading the prompts and writing actions.
    inputs_length: text tokens of a prompt.
    targets_length: tokens of a training target.
    num_images: images of a prompt.
    decode_length: tokens of a decoded answer; an action has 8 and EOS.
    slices: slices of that topology, joined by the data-center network.
    rules: name in partitioning.RULES; None takes what is recommended for the topology.
    model_parallelism: size of the mesh axis `model`; None likewise.
    remat_policy: see stacks.stack; None takes the model's own; where that is 'none', the policy
      that computes least again of those that fit.
    learning_rate: see train.train, as the next four.
    num_microbatches: parts in which a batch is computed.
    frozen: patterns of the paths of parameters that stay as they are.
    frozen_dtype: what these are kept in.
    ema_decay: keeps a moving average of the parameters.
    full_codegen: goes on to the end of compilation, which gives the estimate.
    report: path of a JSON file with what is returned.

  Returns:
    The report, see reports.values.

  Raises:
    ValueError: settings do not fit each other, libtpu is not installed, or the program does not
      fit the chip; the message then says what would.
  """
  if program not in _PROGRAMS:
    raise ValueError(f'precompile: PROGRAM is {program!r}; choose one of {", ".join(_PROGRAMS)}')
  if report is not None and not os.path.isdir(os.path.dirname(report) or '.'):
    raise ValueError(f'precompile: the folder of REPORT {report!r} does not exist; make it first')
  where = topologies.parse(topology, slices)
  topologies.check_libtpu()
  batch = programs.Batch(batch_size, inputs_length, targets_length, num_images)
  if remat_policy is None and model.module.config.remat_policy != 'none':
    remat_policy = model.module.config.remat_policy
  options = recommendations.recommend(where, program, batch_size, rules)
  if model_parallelism is not None:
    options = options[:1]
  training = programs.Training(
      learning_rate, num_microbatches, tuple(frozen), frozen_dtype, ema_decay)
  attempt = functools.partial(compile_setup, model, training)
  for advice in options:
    setup = reports.Setup(
        program, where, batch, _choose('rules', rules, advice.rules),
        _choose('model_parallelism', model_parallelism, advice.model_parallelism),
        remat_policy, decode_length)
    policies = [remat_policy] if remat_policy else advice.remat_policies
    try:
      setup, compiled = _first_that_fits(attempt, setup, policies, full_codegen)
      break
    except tpu_compile.OutOfMemory as error:
      last = dataclasses.replace(setup, remat_policy=policies[-1])
      raise ValueError(too_big(attempt, last, error)) from error
    except partitioning.DoesNotDivide as error:
      if advice is options[-1]:
        raise
      logging.info('precompile: %s', error)
  values = reports.values(setup, compiled, full_codegen)
  print(reports.text(values))
  if report is not None:
    with open(report, 'w', encoding='utf-8') as file:
      json.dump(values, file, indent=2)
      file.write('\n')
  return values


def _first_that_fits(
    attempt: Callable[..., tpu_compile.Compiled], setup: reports.Setup, policies: Sequence[str],
    full_codegen: bool,
) -> tuple[reports.Setup, tpu_compile.Compiled]:
  """Compiles with one remat policy after the other; raises OutOfMemory if the last does not fit."""
  *others, last = policies
  for policy in others:
    logging.info('precompile: remat_policy is %s (recommended)', policy)
    changed = dataclasses.replace(setup, remat_policy=policy)
    try:
      return changed, attempt(changed, full_codegen)
    except tpu_compile.OutOfMemory as error:
      logging.info('precompile: %s', error)
  logging.info('precompile: remat_policy is %s', last)
  changed = dataclasses.replace(setup, remat_policy=last)
  return changed, attempt(changed, full_codegen)


def _choose(name: str, given: Any, recommended: Any) -> Any:
  value, source = (recommended, 'recommended') if given is None else (given, 'given')
  logging.info('precompile: %s is %s (%s)', name, value, source)
  return value


def compile_setup(
    model: Any, training: programs.Training, setup: reports.Setup, full_codegen: bool = False
) -> tpu_compile.Compiled:
  """Compiles one step of `model` as `setup` says; raises what tpu_compile does."""
  model = model.with_remat_policy(setup.remat_policy)

  def build(devices):
    partitioner = partitioning.Partitioner(
        setup.rules, setup.model_parallelism, setup.topology.slices, devices)
    if setup.program == 'decode':
      return programs.decode_step(model, setup.batch, partitioner, setup.decode_length)
    return programs.train_step(model, setup.batch, partitioner, training)

  return tpu_compile.compile_program(build, setup.topology, full_codegen=full_codegen)


def too_big(
    attempt: Callable[[reports.Setup], tpu_compile.Compiled], setup: reports.Setup,
    error: tpu_compile.OutOfMemory,
) -> str:
  """By how much, and what would fit: what arithmetic proposes is compiled before it is said."""
  logging.info('precompile: %s; looking for what fits', error)
  over = (error.used - error.capacity) / chips.GIB
  said = []
  for name, changed in _smaller(setup, error):
    try:
      total = attempt(changed).hbm.total / chips.GIB
      said.append(f'{name} fits with {total:.1f} GiB')
    except tpu_compile.OutOfMemory as larger:
      said.append(f'{name} does not fit either with {larger.used / chips.GIB:.1f} GiB')
    except ValueError as refused:
      said.append(f'{name} is refused ({refused})')
  return (
      f'precompile: the {setup.program} step does not fit {setup.topology.name}: {error}, '
      f'{over:.1f} GiB too much. Compiled in its place: {"; ".join(said) or "nothing smaller"}'
  )


def _smaller(
    setup: reports.Setup, error: tpu_compile.OutOfMemory
) -> Iterator[tuple[str, reports.Setup]]:
  """Changes of one thing each: remat, rules and mesh, batch, slice."""
  if setup.program == 'train' and setup.remat_policy != 'full':
    yield "REMAT_POLICY='full'", dataclasses.replace(setup, remat_policy='full')
  advice = recommendations.recommend(setup.topology, setup.program, setup.batch.batch_size)[0]
  mesh = {'rules': advice.rules, 'model_parallelism': advice.model_parallelism}
  if dataclasses.replace(setup, **mesh) != setup:
    name = f'RULES={advice.rules!r} with MODEL_PARALLELISM={advice.model_parallelism}'
    yield name, dataclasses.replace(setup, **mesh)
  # Arguments stay; what is temporary goes with the rows of a chip.
  arguments = error.facts['argument_bytes']
  share = (error.capacity - arguments) / max(error.used - arguments, 1)
  count = setup.topology.chips
  rows = int(setup.batch.batch_size * share) // count * count
  if rows > 0:
    batch = dataclasses.replace(setup.batch, batch_size=rows)
    yield f'BATCH_SIZE={rows}', dataclasses.replace(setup, batch=batch)
  for topology in topologies.larger(setup.topology):
    if error.used * count <= error.capacity * topology.chips:
      yield f"TOPOLOGY='{topology.name}'", dataclasses.replace(setup, topology=topology)
      return
