"""Pictures of a run: drawn from real frames, at README width, refused when there is nothing."""

import json
import pathlib
import zlib

import numpy as np
import PIL.Image
import pytest

from rt2_train import actions
from rt2_train import images
from rt2_train import processor as processor_lib
from rt2_train import prompts
from rt2_train import vocabulary
from rt2_train.evaluation import episodes
from rt2_train.evaluation import pictures
from rt2_train.sim import expert
from rt2_train.sim import tabletop

GREEN, AMBER, RED, BLUE, VERMILLION = (
    (0, 158, 115), (230, 159, 0), (209, 73, 91), (0, 114, 178), (213, 94, 0))


def count(path: pathlib.Path, color: tuple[int, int, int]) -> int:
  """Pixels of a picture that have exactly this colour."""
  with PIL.Image.open(path) as picture:
    assert picture.format == 'PNG' and picture.width == 1200
    return int((np.asarray(picture.convert('RGB')) == color).all(-1).sum())


def filmed(suite: str, seed: int, success: bool, reach: bool) -> episodes.Episode:
  """The expert's episode in a real scene; the outcome is said, not measured."""
  env = tabletop.Tabletop()
  env.reset(seed=seed)
  film, path, stop = [env.render()], [env.state.gripper_3[:2]], False
  while not stop:
    *_, stop, _, info = env.step(expert.act(env.scene, env.state))
    film.append(env.render())
    path.append(info['state'].gripper_3[:2])
  return episodes.Episode(
      suite, seed, env.scene.instruction, success, reach, success, 0.0, len(film) - 1, 'policy',
      np.array(path, np.float32), np.stack(film),
  )


def test_every_outcome_has_its_colour(tmp_path):
  outcomes = {GREEN: (True, True), AMBER: (False, True), RED: (False, False)}
  drawn = {}
  for color, (success, reach) in outcomes.items():
    path = tmp_path / f'{color[0]}.png'
    pictures.rollouts(str(path), [filmed('seen', 1, success, reach)], suites=['seen'])
    drawn[color] = {other: count(path, other) for other in outcomes}
  for color in outcomes:
    # The legend names all three; the path and its frame are of one.
    others = [drawn[other][color] for other in outcomes if other != color]
    assert drawn[color][color] > max(others) + 500
  assert not list(tmp_path.glob('*.partial'))


def test_rollouts_need_a_film_of_each_suite(tmp_path):
  with pytest.raises(ValueError, match="no episode of suite 'unseen' was filmed"):
    pictures.rollouts(str(tmp_path / 'rollouts.png'), [filmed('seen', 1, True, True)])
  assert not list(tmp_path.iterdir())


def write_metrics(directory: pathlib.Path, sources: list[str]) -> str:
  """Metrics as training writes them."""
  lines = [
      {'step': step, 'loss': 1.0, 'timing/mfu': 0.4}
      | {f'loss/{source}': 5 / step**0.4 for source in sources}
      | {f'accuracy/{source}': 1 - 1 / step**0.4 for source in sources}
      for step in range(10, 500, 10)
  ]
  directory.mkdir()
  (directory / 'train-metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  held_out = directory / 'training_eval' / f'{sources[0]}-metrics.jsonl'
  held_out.parent.mkdir()
  held_out.write_text(json.dumps({'step': 400, 'loss': 0.5, 'accuracy': 0.9}) + '\n')
  return str(directory)


def test_curves_draw_every_source_of_every_run(tmp_path):
  path = tmp_path / 'curves.png'
  web = write_metrics(tmp_path / 'web', ['vqa'])
  both = write_metrics(tmp_path / 'both', ['robot', 'vqa'])
  pictures.curves(str(path), {'pre-training': web})
  assert count(path, BLUE) > 200 and count(path, VERMILLION) == 0
  pictures.curves(str(path), {'pre-training': web, 'co-fine-tuning': both})
  # In name's order robot is blue, once, and vqa vermillion, twice.
  assert count(path, VERMILLION) > 1.2 * count(path, BLUE) > 200


def test_curves_need_metrics_per_source(tmp_path):
  with pytest.raises(FileNotFoundError, match='train-metrics.jsonl is missing'):
    pictures.curves(str(tmp_path / 'curves.png'), {'run': str(tmp_path)})
  (tmp_path / 'train-metrics.jsonl').write_text('{"step": 1, "loss": 2.0}\n')
  with pytest.raises(ValueError, match='no loss per source'):
    pictures.curves(str(tmp_path / 'curves.png'), {'run': str(tmp_path)})


@pytest.fixture(scope='module')
def processor(tmp_path_factory) -> processor_lib.Processor:
  model_file = str(tmp_path_factory.mktemp('vocabulary') / 'vocabulary.model')
  texts = [prompts.robot('pick anchor'), prompts.vqa('where is the sun?')]
  vocabulary.train(texts, model_file, vocab_size=1200)
  return processor_lib.Processor(
      vocabulary.Vocabulary(model_file), actions.RT2, images.ImageSpec(48, 48), 64, 12)


SOURCES = {zlib.crc32(name.encode()) & 0x7fffffff: name for name in ('robot', 'vqa')}


def make_batch(processor: processor_lib.Processor, num_robot: int, size: int = 8) -> dict:
  """`num_robot` rows of robot data, then text-only questions."""
  rows = []
  for i in range(size):
    env = tabletop.Tabletop()
    observation, info = env.reset(seed=i)
    robot = i < num_robot
    if robot:
      inputs = processor.robot_inputs(observation['instruction'])
      targets = processor.action_targets(expert.act(info['scene'], info['state']))
    else:
      inputs = processor.text_inputs(prompts.vqa('where is the sun?'))
      targets = processor.text_targets('128 48')
    image, mask = processor.images([observation['image']] if robot else [])
    rows.append({
        'images': image,
        'image_mask': mask,
        'source': np.array([list(SOURCES)[not robot]], np.int32),
        'encoder_input_tokens': np.pad(inputs, (0, 64 - len(inputs))),
        'decoder_target_tokens': np.pad(targets, (0, 12 - len(targets))),
        'decoder_loss_weights': np.pad(np.ones(len(targets), np.int32), (0, 12 - len(targets))),
    })
  return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def test_the_mixture_shows_shares_and_examples(tmp_path, processor):
  path = tmp_path / 'mixture.png'
  batches = [make_batch(processor, 2)] * 3
  pictures.mixture(
      str(path), batches, sources=SOURCES, shares={'robot': 0.25, 'vqa': 0.75}, processor=processor)
  # robot is blue, vqa vermillion: the bars are one to three.
  assert 2.5 < count(path, VERMILLION) / count(path, BLUE) < 3.5


def test_batches_of_another_mixture_are_refused(tmp_path, processor):
  both = {'robot': 0.5, 'vqa': 0.5}
  for sources, shares in (({1: 'robot', 2: 'vqa'}, both), (SOURCES, {'robot': 1.0})):
    with pytest.raises(ValueError, match='of the same mixture'):
      pictures.mixture(
          str(tmp_path / 'mixture.png'), [make_batch(processor, 2)], sources=sources, shares=shares,
          processor=processor)
