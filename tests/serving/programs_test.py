"""Exported programs answer as the policy does, without this package."""

import json
import pathlib
import re
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from rt2_train import actions
from rt2_train.serving import export as export_lib
from rt2_train.serving import policy as policy_lib
from rt2_train.serving import programs
from rt2_train.serving import weights
from tests.serving import small_models

ROOT = pathlib.Path(__file__).parent.parent.parent
# A camera that is neither of the model's size nor of its shape; rows are averaged, too.
CAMERA = (40, 56)
BATCH_SIZES = (1, 3)
INSTRUCTIONS = ('pick anchor', 'pick sun', 'move the anchor')


def observations(num_images: int) -> list[policy_lib.Observation]:
  """Three robots, the last of which lacks a camera."""
  rng = np.random.default_rng(0)
  return [
      policy_lib.Observation(
          list(rng.integers(0, 256, (num_images - (i == 2), *CAMERA, 3), np.uint8)), instruction)
      for i, instruction in enumerate(INSTRUCTIONS)
  ]


def arguments(
    asked: list[policy_lib.Observation], processor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """What a program is called with."""
  n = processor.image_spec.num_images
  images = np.full((len(asked), n, *CAMERA, 3), 99, np.uint8)
  image_mask = np.zeros((len(asked), n), np.int32)
  prompt_ids = np.zeros((len(asked), processor.prompt_length), np.int32)
  for row, observation in enumerate(asked):
    images[row, :len(observation.images)] = observation.images
    image_mask[row, :len(observation.images)] = 1
    ids = processor.robot_inputs(observation.instruction)
    prompt_ids[row, :len(ids)] = ids
  return images, prompt_ids, image_mask


def assert_same(found, answers) -> None:
  np.testing.assert_array_equal(found['tokens'], [answer.tokens for answer in answers])
  np.testing.assert_array_equal(found['actions'], [answer.values for answer in answers])
  np.testing.assert_array_equal(found['terminate'], [answer.terminate for answer in answers])


@pytest.fixture(
    # Of these parameters the answers depend on the pictures.
    scope='module', params=[('pali_x', 0, 'pad', 'float32'), ('palm_e', 4, 'crop', 'int8')],
    ids=['pali_x', 'palm_e'])
def exported(request, tmp_path_factory):
  """A directory of programs, its model, and what the policy answers to three robots."""
  family, seed, resize, dtype = request.param
  directory = tmp_path_factory.mktemp(family)
  model = small_models.make(directory, family, resize=resize, num_images=2)
  small_models.write_checkpoint(directory / 'run', model, small_models.params(model, seed))
  export_lib.export(
      checkpoint_path=str(directory / 'run'), output_path=str(directory / 'out'),
      format='stablehlo', dtype=dtype, batch_sizes=BATCH_SIZES, camera_size=CAMERA)
  policy = policy_lib.Policy.from_checkpoint(directory / 'out', batch_sizes=(3,))
  asked = observations(num_images=2)
  return types.SimpleNamespace(
      directory=directory / 'out', model=model, asked=asked, answers=policy.infer(asked))


def test_a_program_answers_a_batch_as_the_policy_does(exported):
  program = jax.export.deserialize((exported.directory / 'program_b3.stablehlo').read_bytes())
  found = jax.jit(program.call)(
      weights.read(exported.directory), *arguments(exported.asked, exported.model.processor))
  assert_same(found, exported.answers)
  assert len({answer.text for answer in exported.answers}) == 3


def test_the_manifest_says_how_a_program_is_called(exported):
  directory = exported.directory
  manifest = json.loads((directory / 'manifest.json').read_text())
  program = jax.export.deserialize((directory / manifest['programs'][0]['file']).read_bytes())
  assert [each['batch_size'] for each in manifest['programs']] == list(BATCH_SIZES)
  assert program.platforms == tuple(manifest['platforms']) == ('cpu', 'cuda', 'tpu')
  parameters, *others = manifest['arguments']
  said = [(each['shape'], each['dtype']) for each in [*parameters['order'], *others]]
  said = [([BATCH_SIZES[0] if size == 'B' else size for size in shape], dtype)
          for shape, dtype in said]
  assert said == [(list(aval.shape), aval.dtype.name) for aval in program.in_avals]
  held = {name: (list(array.shape), array.dtype.name)
          for name, array in weights.read(directory).items()}
  assert {each['name']: (each['shape'], each['dtype']) for each in parameters['order']} == held
  assert [each['name'] for each in manifest['results']] == ['actions', 'terminate', 'tokens']
  said = [[BATCH_SIZES[0], *each['shape'][1:]] for each in manifest['results']]
  assert said == [list(aval.shape) for aval in program.out_avals]
  action = manifest['action']
  assert action['names'][:2] == ['terminate', 'dx'] and action['units'][1] == 'm'
  assert action['low'][1] == -1 and action['high'][1] == 1


def documented_lines() -> str:
  """The example of docs/export.md that runs a program."""
  examples = re.findall('```python\n(.*?)```', (ROOT / 'docs/export.md').read_text(), re.DOTALL)
  (example,) = [example for example in examples if 'stablehlo' in example]
  return example


def test_the_documented_lines_run_a_program_where_there_is_no_rt2_train(exported, tmp_path):
  first, answer = exported.asked[0], exported.answers[0]
  np.save(tmp_path / 'images.npy', np.stack(first.images)[None])
  lines = documented_lines()
  replaced = {
      "pathlib.Path('programs')": f'pathlib.Path({str(exported.directory)!r})',
      "instruction='pick sun'": f'instruction={first.instruction!r}',
      'np.zeros(program.in_avals[-3].shape, np.uint8)': f'np.load({str(tmp_path / "images.npy")!r})',
  }
  for old, new in replaced.items():
    assert lines.count(old) == 1
    lines = lines.replace(old, new)
  ours = ('rt2_train', 'flax', 'optax', 'orbax', 'tensorstore', 'cv2', 'tensorflow')
  code = (
      'import sys\n'
      f'for name in {ours!r}:\n'
      '  sys.modules[name] = None  # Importing it is an error.\n'
      f'{lines}\n'
      f'np.savez({str(tmp_path / "answer.npz")!r}, **answer)\n'
  )
  done = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path, check=False)
  assert done.returncode == 0, done.stderr
  with np.load(tmp_path / 'answer.npz') as found:
    assert_same(found, [answer])
  assert "{'terminate': " in done.stdout


def test_actions_that_take_several_tokens_are_decoded_too(tmp_path):
  model = small_models.make(tmp_path, 'pali_x', actions.LANGUAGE_TABLE)
  processor = model.processor
  assert not processor.every_integer_is_one_token
  integers_NxD = np.array([[-10, 10], [3, -7], [0, 0]])
  tokens_NxT = np.zeros((3, processor.targets_length), np.int32)
  for row, values in zip(tokens_NxT, actions.LANGUAGE_TABLE.decode(integers_NxD)):
    ids = processor.action_targets(values)
    row[:len(ids)] = ids
  np.testing.assert_array_equal(
      programs.actions_of(processor)(tokens_NxT), actions.LANGUAGE_TABLE.decode(integers_NxD))


def test_every_integer_of_every_dimension_decodes_to_its_very_value(tmp_path):
  processor = small_models.make(tmp_path, 'pali_x').processor
  integers_NxD = np.repeat(np.arange(256)[:, None], 8, axis=1)
  integers_NxD[:, 0] = integers_NxD[:, 0] % 2
  tokens_NxT = np.zeros((256, processor.targets_length), np.int32)
  tokens_NxT[:, :8] = processor.vocabulary.action_ids_256[integers_NxD]
  np.testing.assert_array_equal(
      programs.actions_of(processor)(tokens_NxT), processor.action_space.decode(integers_NxD),
      strict=True)
