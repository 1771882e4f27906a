"""Renders the demo's data: python -m tools.make_demo_data --output_dir=runs/demo/data

  tabletop/0.1.0/   robot episodes: a TFDS/RLDS directory with fractal20220817_data's keys
  captions/         image-text TFRecords: image/encoded, image/key, caption, language
  vqa/              VQAv2-style questions and annotations, detection likewise, and JPEG files
  vocabulary.model  a SentencePiece model of the training text
  vocabulary_palm_e.model  the same, with words that no text uses for actions to overwrite

Each of the first three has a train and a val part. The directory is whole or absent; the same
flags give the same bytes, and a second call with them finds the data there.

Robot episodes are of --skills and in --environments; each step has the expert's plan beside its
action. With --questions=rich the web side also holds cards with symbols, and asks what things are
for, what they are made of and what they are called in other languages.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import json
import os
import shutil
import sys
import time

from absl import app
from absl import flags
import numpy as np
import tensorflow_datasets as tfds
import tqdm

from rt2_train import prompts
from rt2_train import vocabulary
from rt2_train.sim import backdrops
from rt2_train.sim import expert
from rt2_train.sim import objects
from rt2_train.sim import tabletop
from rt2_train.sim import web
from rt2_train.sim import wordings
from tools import fractal_writer
from tools import web_writer

NUM_VAL_EPISODES = 100
NUM_VAL_IMAGES = 500
QUESTIONS_PER_IMAGE = 3
NOISE_SHARE = 0.3  # of the steps before the grasp; the label stays the expert's
NOISE_SIZE = 0.6  # of the limits of a step
# Rich questions have more words; the largest number of pieces.
VOCABULARY_SIZES = {'plain': 1536, 'rich': 2048}
VOCABULARY_TEXTS = 20_000
UNUSED_WORDS = 320

_SEEDS = {'train': tabletop.TRAIN_SEEDS, 'val': tabletop.DEV_SEEDS}
_SEEDS_PER_RUN = 200_000
_SHARDS = {'train': 8, 'val': 1}
_PARAMETERS = 'parameters.json'
# Whatever skills are written, a policy can be told these.
_SKILLS_IN_WORDS = ('pick', 'move_near')
_WEB = {
    'plain': {},
    'rich': {'shares': web.RICH_QUESTION_SHARES, 'card_share': web.CARD_SHARE},
}

_OUTPUT_DIR = flags.DEFINE_string('output_dir', 'runs/demo/data', 'Where the data goes.')
_NUM_EPISODES = flags.DEFINE_integer(
    'num_episodes', 3000, 'Robot episodes to train on, of about eleven steps each.',
    lower_bound=1, upper_bound=_SEEDS_PER_RUN // 2)
_NUM_IMAGES = flags.DEFINE_integer(
    'num_images', 20_000,
    f'Pictures with {QUESTIONS_PER_IMAGE} questions each to train on; a quarter as many more have '
    'a caption.',
    lower_bound=4, upper_bound=_SEEDS_PER_RUN)
_NUM_CATEGORIES = flags.DEFINE_integer(
    'num_categories', 16, 'Kinds of object; the robot sees half of them, the web side all.',
    lower_bound=6, upper_bound=len(objects.CATEGORIES))
_IMAGE_SIZE = flags.DEFINE_integer(
    'image_size', 48, 'Height and width of pictures, in pixels.', lower_bound=16)
_SKILLS = flags.DEFINE_list(
    'skills', ['pick'],
    f"What the robot does, episodes in turn: any of {', '.join(tabletop.SKILLS)}.")
_ENVIRONMENTS = flags.DEFINE_list(
    'environments', ['seen'],
    f"Where it does so, in turn: any of {', '.join(backdrops.ENVIRONMENTS)}.")
_QUESTIONS = flags.DEFINE_enum(
    'questions', 'plain', list(_WEB),
    'What the web side asks: plain about what pictures show, rich about cards, uses, materials and '
    'languages, too.')
_SEED = flags.DEFINE_integer(
    'seed', 0, 'Other seeds give other scenes.', lower_bound=0,
    upper_bound=len(tabletop.TRAIN_SEEDS) // _SEEDS_PER_RUN - 1)
_OVERWRITE = flags.DEFINE_bool(
    'overwrite', False, 'Make it again, also over data made with other flags.')


@dataclasses.dataclass(frozen=True)
class Parameters:
  """All that decides what is written; see the flags of the same names."""

  num_episodes: int = 3000
  num_images: int = 20_000
  num_categories: int = 16
  image_size: int = 48
  seed: int = 0
  skills: tuple[str, ...] = ('pick',)
  environments: tuple[str, ...] = ('seen',)
  questions: str = 'plain'

  def __post_init__(self):
    for name, known in (('skills', tabletop.SKILLS), ('environments', backdrops.ENVIRONMENTS)):
      given = getattr(self, name)
      if not given or set(given) - set(known):
        raise ValueError(f"{name} are {', '.join(given) or 'none'}; use any of {', '.join(known)}")

  def seeds(self, split: str) -> range:
    """Seeds of this run's scenes, out of the range that is the split's."""
    return _SEEDS[split][self.seed * _SEEDS_PER_RUN : (self.seed + 1) * _SEEDS_PER_RUN]


def make_or_keep(output_dir: str, parameters: Parameters, overwrite: bool = False) -> bool:
  """Makes the data unless it is there; returns whether it was made.

  Raises:
    ValueError: data made with other parameters is there, and `overwrite` was not asked for.
    FileExistsError: something else is there.
  """
  asked = json.loads(json.dumps(dataclasses.asdict(parameters)))
  known = os.path.join(output_dir, _PARAMETERS)
  if os.path.exists(known):
    with open(known, encoding='utf-8') as file:
      before = json.load(file)
    if before == asked and not overwrite:
      print(f'{output_dir}: the data is there already, made with the same flags')
      return False
    if not overwrite:
      changed = ', '.join(
          f'{key}={before.get(key)} (asked: {value})'
          for key, value in asked.items() if before.get(key) != value)
      raise ValueError(f'{output_dir} holds data made with {changed}; add --overwrite, or choose '
                       'another --output_dir')
  elif os.path.isfile(output_dir) or (os.path.isdir(output_dir) and os.listdir(output_dir)):
    raise FileExistsError(f'{output_dir} holds something else; choose another --output_dir')
  # Written beside and moved at the end, so that a directory of this name is always complete.
  unfinished = os.path.abspath(output_dir) + '.unfinished'
  shutil.rmtree(unfinished, ignore_errors=True)
  make(unfinished, parameters)
  with open(os.path.join(unfinished, _PARAMETERS), 'w', encoding='utf-8') as file:
    json.dump(asked, file)
  shutil.rmtree(output_dir, ignore_errors=True)
  os.rename(unfinished, output_dir)
  return True


def make(output_dir: str, parameters: Parameters) -> None:
  """Writes everything into `output_dir`, which does not exist yet."""
  robot_dir = os.path.join(output_dir, 'tabletop', '0.1.0')
  infos, texts = [], {'train': [], 'val': []}
  for split, num_images in {'train': parameters.num_images, 'val': NUM_VAL_IMAGES}.items():
    infos.append(_write_robot(robot_dir, split, parameters, texts[split]))
    texts[split] += web_writer.write_vqa(
        os.path.join(output_dir, 'vqa'), split, parameters.image_size,
        _pictures(split, parameters, 2, num_images, 'questions'), QUESTIONS_PER_IMAGE)
    texts[split] += web_writer.write_captions(
        os.path.join(output_dir, 'captions'), split, parameters.image_size,
        _pictures(split, parameters, 3, num_images // 4, 'captions'), _SHARDS[split])
  fractal_writer.write_metadata(
      robot_dir, parameters.image_size, infos,
      f"Scripted {', '.join(parameters.skills)} episodes on the embedded tabletop, with noise.")
  # A sample has every word often enough to become a piece, and all of it would take far longer.
  order = np.random.default_rng(parameters.seed).permutation(len(texts['train']))
  sample = [texts['train'][i] for i in order[:VOCABULARY_TEXTS]]
  told = _robot_prompts(parameters.skills)
  texts = sample + (web.phrases(parameters.questions == 'rich') + told) * 3
  size = VOCABULARY_SIZES[parameters.questions]
  vocabulary.train(texts, os.path.join(output_dir, 'vocabulary.model'), size)
  given = [prompts.given_images(prompt, 0) for prompt in told]
  vocabulary.train(
      texts + (given + _unused_words(parameters.seed)) * 3,
      os.path.join(output_dir, 'vocabulary_palm_e.model'), size + UNUSED_WORDS)


def record_episode(
    env: tabletop.Tabletop, seed: int) -> list[fractal_writer.RecordedStep] | None:
  """The expert's episode under noise, labelled with its clean actions; None if it failed."""
  noise = np.random.default_rng([seed, 1])
  observation, _ = env.reset(seed=seed)
  steps = []
  while True:
    scene, state, image = env.scene, env.state, observation['image']
    label = expert.act(scene, state)
    action = label.astype(np.float64)
    if state.held < 0 and noise.random() < NOISE_SHARE:
      action[1:4] += noise.uniform(-NOISE_SIZE, NOISE_SIZE, 3) * tabletop.MOTION_LIMITS
    observation, reward, terminated, truncated, _ = env.step(action)
    steps.append(fractal_writer.RecordedStep(image, scene, state, label, reward))
    if terminated or truncated:
      return steps if terminated and reward else None


def _write_robot(
    directory: str, split: str, parameters: Parameters, texts: list[str]) -> tfds.core.SplitInfo:
  num_episodes = parameters.num_episodes if split == 'train' else NUM_VAL_EPISODES
  # Episodes take their turn by seed, whether one fails or not.
  envs = [
      tabletop.Tabletop(
          skill, environment=environment, num_categories=parameters.num_categories,
          image_size=parameters.image_size,
          # More than an evaluation allows: noise costs a few, and every episode ends in a stop.
          max_steps=2 * tabletop.SKILLS[skill].max_steps)
      for environment in parameters.environments for skill in parameters.skills]
  bar = tqdm.tqdm(total=num_episodes, desc=f'episodes {split}', unit='ep')

  def episodes() -> Iterator[list[fractal_writer.RecordedStep]]:
    for seed in parameters.seeds(split):
      if steps := record_episode(envs[seed % len(envs)], seed):
        texts.append(prompts.robot(steps[0].scene.instruction))
        bar.update()
        yield steps

  with bar:
    return fractal_writer.write_split(
        directory, split, parameters.image_size, episodes(), num_episodes, _SHARDS[split])


def _pictures(
    split: str, parameters: Parameters, stream: int, count: int, label: str,
) -> Iterator[tuple[np.random.Generator, web.Picture]]:
  """`count` web pictures, each with the generator that what is said about it comes from."""
  for seed in tqdm.tqdm(parameters.seeds(split)[:count], desc=f'{label} {split}', unit='img'):
    # `stream` keeps questions, captions and robot scenes of one seed apart.
    rng = np.random.default_rng([seed, stream])
    yield rng, web.sample_picture(
        rng, parameters.num_categories, **_WEB[parameters.questions])


def _robot_prompts(skills: Sequence[str]) -> list[str]:
  """Every skill with every object, so that the words of later instructions are pieces, too."""
  names = [category.name for category in objects.CATEGORIES]
  told = []
  for name in dict.fromkeys((*_SKILLS_IN_WORDS, *skills)):
    skill, places = tabletop.SKILLS[name], itertools.cycle(wordings.PLACE_NAMES)
    sentences = [
        skill.template.format(target=target, reference=reference, second=second, place=place)
        for target, reference, second, place in zip(
            names, names[1:] + names[:1], names[2:] + names[:2], places)]
    told += map(prompts.robot, sentences)
    if skill.step:
      told += [*map(prompts.plan, sentences), *map(prompts.plan_target, sentences)]
  return told


def _unused_words(seed: int) -> list[str]:
  """Made-up words: they stand for the thousands that a vocabulary of 256,000 hardly ever uses."""
  rng = np.random.default_rng([seed, 4])
  words = set()
  while len(words) < UNUSED_WORDS:
    words.add(''.join(
        rng.choice(list(letters)) for letters in ('bdfgklmnprstvz', 'aeiou') * 3))
  return sorted(words)


def _print_sizes(output_dir: str) -> None:
  for name in sorted(os.listdir(output_dir)):
    path = os.path.join(output_dir, name)
    files = [os.path.join(parent, file) for parent, _, found in os.walk(path) for file in found]
    files = files or [path]
    size = sum(map(os.path.getsize, files)) / 2**20
    print(f'  {name:24} {size:7.1f} MiB in {len(files)} files')


def main(argv: Sequence[str]) -> int:
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  start = time.time()
  try:
    parameters = Parameters(
        _NUM_EPISODES.value, _NUM_IMAGES.value, _NUM_CATEGORIES.value, _IMAGE_SIZE.value,
        _SEED.value, tuple(_SKILLS.value), tuple(_ENVIRONMENTS.value), _QUESTIONS.value)
    made = make_or_keep(_OUTPUT_DIR.value, parameters, _OVERWRITE.value)
  except (ValueError, OSError) as error:
    print(f'make_demo_data: {error}', file=sys.stderr)
    return 1
  if made:
    _print_sizes(_OUTPUT_DIR.value)
    print(f'{_OUTPUT_DIR.value}: made in {time.time() - start:.0f} s')
  return 0


if __name__ == '__main__':
  app.run(main)
