"""What a robot, or somebody with a question, may rely on when it calls the policy."""

import dataclasses
import io
import json
import pathlib

import flax
import jax
import numpy as np
import PIL.Image
import pytest

from rt2_train import actions
from rt2_train import images
from rt2_train import processor as processor_lib
from rt2_train import prompts
from rt2_train import vocabulary
from rt2_train.models import encoder_decoder
from rt2_train.models import pali_x
from rt2_train.models import vit
from rt2_train.serving import policy as policy_lib
from rt2_train.training import checkpoints
from rt2_train.training import optimizers
from rt2_train.training import state

SIZE = 16


@pytest.fixture(scope='module')
def processor(tmp_path_factory) -> processor_lib.Processor:
  return make_processor(tmp_path_factory.mktemp('vocabulary'), actions.RT2)


def make_processor(directory: pathlib.Path, space: actions.ActionSpace) -> processor_lib.Processor:
  model_file = str(directory / 'vocabulary.model')
  texts = [prompts.robot('pick anchor'), prompts.vqa('where is the sun?')]
  vocabulary.train(texts, model_file, vocab_size=1200, num_integers=1000)
  return processor_lib.Processor(
      vocabulary.Vocabulary(model_file), space, images.ImageSpec(SIZE, SIZE), 64, 12
  )


@pytest.fixture(scope='module')
def model(processor) -> pali_x.PaLIX:
  return make_model(processor)


def make_model(processor: processor_lib.Processor) -> pali_x.PaLIX:
  module = pali_x.Network(
      vit.ViTConfig(
          width=16, depth=1, heads=2, mlp_dim=32, patch_size=8, image_height=SIZE, image_width=SIZE,
          dtype='float32',
      ),
      encoder_decoder.EncoderDecoderConfig(
          vocab_size=processor.vocabulary.vocab_size, encoder_layers=1, decoder_layers=1, width=16,
          heads=2, head_dim=8, mlp_dim=32, dtype='float32',
      ),
  )
  return pali_x.PaLIX(module, processor=processor)


@pytest.fixture(scope='module')
def params(model):
  return make_params(model, seed=0)


def make_params(model: pali_x.PaLIX, seed: int):
  """Random parameters, without compiling the model's own initialisation."""
  shapes = {
      'encoder_input_tokens': (1, 64), 'decoder_input_tokens': (1, 12),
      'decoder_target_tokens': (1, 12), 'images': (1, 1, SIZE, SIZE, 3), 'image_mask': (1, 1),
  }
  variables = jax.eval_shape(
      lambda rng: model.get_initial_variables(rng, shapes), jax.random.key(0)
  )
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32),
      flax.core.unfreeze(variables['params']),
  )


@pytest.fixture(scope='module')
def policy(model, params, processor) -> policy_lib.Policy:
  return policy_lib.Policy(model, params, processor, batch_sizes=(1, 4))


def frame(seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def instruction(seed: int = 0) -> policy_lib.Observation:
  return policy_lib.Observation([frame(seed)], instruction='pick anchor')


def question(seed: int = 0) -> policy_lib.Observation:
  return policy_lib.Observation([frame(seed)], question='where is the sun?')


def test_an_untrained_model_still_answers_an_instruction_with_a_valid_action(policy):
  for answer in policy.infer([instruction(seed) for seed in range(8)]):
    integers = [int(word) for word in answer.text.split()]
    assert len(integers) == 8
    np.testing.assert_array_equal(answer.values, actions.RT2.decode(np.array(integers)))
    assert answer.values.dtype == np.float32
    assert answer.terminate == (integers[0] == actions.TERMINATE_STOP)


def test_a_question_is_answered_with_text(policy, processor):
  (answer,) = policy.infer([question()])
  assert answer.values is None and not answer.terminate
  assert answer.text == processor.vocabulary.decode(answer.tokens.tolist())


def test_a_plan_comes_before_a_valid_action_beside_other_answers(processor):
  planner = dataclasses.replace(processor, targets_length=40, plan_length=16)
  model = make_model(planner)
  policy = policy_lib.Policy(model, make_params(model, seed=1), planner, batch_sizes=(4,))
  planned = dataclasses.replace(instruction(), plan=True)
  first, second, third = policy.infer([planned, instruction(), question()])
  assert len(first.text.split()) == len(second.text.split()) == 8
  written, action = planner.split_plan(first.tokens)
  assert first.plan == written and second.plan == third.plan == ''
  np.testing.assert_array_equal(first.values, planner.action_from_tokens(action))


def test_a_model_with_a_history_is_not_asked_with_half_of_it(processor):
  remembering = dataclasses.replace(
      processor, image_spec=images.ImageSpec(SIZE, SIZE, num_images=2), history=2)
  model = make_model(remembering)
  policy = policy_lib.Policy(model, make_params(model, seed=1), remembering, batch_sizes=(1,))
  with pytest.raises(ValueError, match='has 1 images; the model acts on 2 frames of each camera'):
    policy.infer([instruction()])
  (answer,) = policy.infer([policy_lib.Observation([frame(0), frame(1)], 'pick anchor')])
  assert len(answer.text.split()) == 8


def test_each_row_of_a_mixed_batch_is_answered_as_if_it_were_alone(policy):
  observations = [instruction(0), question(1), instruction(2), question(3), question(4)]
  alone = [policy.infer([observation])[0] for observation in observations]
  together = policy.infer(observations)
  assert [a.tokens.tolist() for a in together] == [a.tokens.tolist() for a in alone]
  assert [a.text for a in together] == [a.text for a in alone]


def test_one_more_robot_never_compiles_again(policy):
  policy.infer([instruction()])
  policy.infer([instruction()] * 4)
  compiled = []

  def listen(event, seconds, **_):
    if 'backend_compile' in event:
      compiled.append(seconds)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    for robots in range(1, 11):
      assert len(policy.infer([instruction(seed) for seed in range(robots)])) == robots
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert not compiled


def test_nobody_asking_is_answered_with_nothing(policy):
  assert policy.infer([]) == []


def test_encoded_and_decoded_frames_are_the_same_to_the_policy(policy):
  buffer = io.BytesIO()
  PIL.Image.fromarray(frame(7)).save(buffer, 'PNG')
  encoded = policy_lib.Observation([buffer.getvalue()], instruction='pick anchor')
  assert policy.infer([encoded])[0].text == policy.infer([instruction(7)])[0].text


@pytest.mark.parametrize(
    'observation, message',
    [
        (policy_lib.Observation([frame()]), 'needs an instruction or a question'),
        (policy_lib.Observation([frame()], 'pick anchor', 'where?'), 'and not both'),
        (policy_lib.Observation([frame()], ''), 'instruction is empty'),
        (policy_lib.Observation([frame()], 'pick anchor', plan=True), 'writes no plans'),
        (policy_lib.Observation([frame()], question='where?', plan=True), 'needs an instruction'),
        (policy_lib.Observation([frame(), frame()], 'pick anchor'), '2 frames, but'),
        (policy_lib.Observation([b'\xff\xd8 torn'], 'pick anchor'), 'truncated'),
        (policy_lib.Observation([frame().astype(np.float32)], 'pick anchor'), 'uint8'),
    ],
)
def test_an_unusable_observation_is_named_by_position(policy, observation, message):
  with pytest.raises(ValueError, match=f'observation 1: .*{message}'):
    policy.infer([instruction(), observation])


def test_sampling_is_seeded_and_stays_within_valid_actions(model, params, processor):
  def texts(seed: int) -> list[str]:
    sampling = policy_lib.Policy(
        model, params, processor, temperature=1.0, seed=seed, batch_sizes=(4,)
    )
    return [answer.text for _ in range(2) for answer in sampling.infer([instruction()] * 4)]

  first = texts(1)
  assert first == texts(1)
  # Neither the rows of a batch nor two calls share their randomness.
  assert len(set(first)) == 8
  assert all(len(text.split()) == 8 for text in first)


def test_an_action_space_without_terminate_never_ends_an_episode(tmp_path):
  processor = make_processor(tmp_path, actions.LANGUAGE_TABLE)
  model = make_model(processor)
  policy = policy_lib.Policy(model, make_params(model, 0), processor, batch_sizes=(4,))
  for answer in policy.infer([instruction(seed) for seed in range(4)]):
    assert answer.values.shape == (2,) and np.abs(answer.values).max() <= 0.0316
    assert not answer.terminate


def write_checkpoint(run_dir: pathlib.Path, step: int, model, params, processor, ema=None) -> None:
  """A checkpoint as training writes it, optimizer and assets included."""
  def assets(directory: str) -> None:
    processor.save(directory)
    pathlib.Path(directory, 'model.json').write_text(json.dumps(model.architecture()))

  optimizer = optimizers.adamw().create(params)
  saved = checkpoints.Checkpoints(str(run_dir), assets=assets)
  saved.save(step, state.TrainState(optimizer=optimizer, ema=ema), data={'step': step})
  saved.close()


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory, model, params, processor) -> pathlib.Path:
  directory = tmp_path_factory.mktemp('run')
  write_checkpoint(directory, 90, model, make_params(model, seed=5), processor)
  write_checkpoint(directory, 100, model, params, processor, ema=make_params(model, seed=6))
  # What a crash and a broken copy leave behind.
  (directory / 'checkpoint_110.orbax-checkpoint-tmp').mkdir()
  (directory / 'checkpoint_120' / 'state').mkdir(parents=True)
  return directory


def assert_same(params, expected) -> None:
  assert jax.tree.structure(params) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_a_loaded_policy_answers_as_the_one_that_was_trained(run_dir, policy):
  loaded = policy_lib.Policy.from_checkpoint(run_dir, ema=False, batch_sizes=(4,))
  observations = [instruction(0), question(1), instruction(2)]
  for ours, theirs in zip(loaded.infer(observations), policy.infer(observations), strict=True):
    assert ours.text == theirs.text


def test_averaged_parameters_answer_where_the_run_kept_them(run_dir, model, processor):
  averaged = policy_lib.Policy(model, make_params(model, seed=6), processor, batch_sizes=(4,))
  loaded = policy_lib.Policy.from_checkpoint(run_dir, batch_sizes=(4,))
  observations = [instruction(0), question(1)]
  for ours, theirs in zip(loaded.infer(observations), averaged.infer(observations), strict=True):
    assert ours.text == theirs.text


def test_only_parameters_are_read_and_averaged_ones_when_asked_for(run_dir, model, params):
  first, last = run_dir / 'checkpoint_90', run_dir / 'checkpoint_100'
  assert_same(policy_lib.read_params(first), make_params(model, seed=5))
  assert_same(policy_lib.read_params(last), params)
  assert_same(policy_lib.read_params(last, ema=True), make_params(model, seed=6))


def test_missing_checkpoints_and_parts_are_named(run_dir, tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no checkpoint of step 95; it has \[90, 100\]'):
    policy_lib.Policy.from_checkpoint(run_dir, step=95)
  with pytest.raises(FileNotFoundError, match='holds no whole checkpoint_<step>'):
    policy_lib.Policy.from_checkpoint(tmp_path)
  with pytest.raises(FileNotFoundError, match='ema is missing'):
    policy_lib.Policy.from_checkpoint(run_dir, step=90, ema=True)


def test_parameters_of_another_model_are_refused_by_name(tmp_path, model, processor):
  wrong = make_params(model, 0)
  kernel = wrong['image_projection']['kernel']
  wrong['image_projection']['kernel'] = kernel[:, :10]
  write_checkpoint(tmp_path, 1, model, wrong, processor)
  message = r'image_projection/kernel is \[16, 10\], the model .* has \[16, 16\]'
  with pytest.raises(ValueError, match=message):
    policy_lib.Policy.from_checkpoint(tmp_path)
