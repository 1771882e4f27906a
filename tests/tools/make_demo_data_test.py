"""The demo's data on disk, read back with the libraries that others would read it with."""

import collections
import dataclasses
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import simplejpeg
import tensorflow as tf
import tensorflow_datasets as tfds

from rt2_train import vocabulary
from rt2_train.sim import objects
from rt2_train.sim import tabletop
from rt2_train.sim import web
from rt2_train.sim import world
from tools import fractal_writer
from tools import make_demo_data

PARAMETERS = make_demo_data.Parameters(num_episodes=20, num_images=60)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """Small data, made by the command itself."""
  path = tmp_path_factory.mktemp('demo') / 'data'
  done = run(path)
  assert done.returncode == 0, done.stderr
  assert 'made in' in done.stdout
  return path


def run(path):
  return subprocess.run(
      [sys.executable, '-m', 'tools.make_demo_data', f'--output_dir={path}', '--num_episodes=20',
       '--num_images=60'],
      capture_output=True, text=True, check=False)


def episodes(data_dir, split):
  builder = tfds.builder_from_directory(str(data_dir / 'tabletop' / '0.1.0'))
  for episode in builder.as_dataset(split=split):
    yield episode, list(episode['steps'].as_numpy_iterator())


def entries(data_dir, name):
  with open(data_dir / 'vqa' / f'{name}.json', encoding='utf-8') as file:
    (content,) = json.load(file).values()
  return content


def test_tfds_reads_the_episodes_without_builder_code(data_dir):
  builder = tfds.builder_from_directory(str(data_dir / 'tabletop' / '0.1.0'))
  assert builder.info.splits['train'].num_examples == 20
  assert builder.info.splits['val'].num_examples == make_demo_data.NUM_VAL_EPISODES
  assert builder.info.splits['train'].num_shards == 8
  assert len(list(episodes(data_dir, 'train'))) == 20


def test_a_step_has_every_key_of_fractal(data_dir):
  _, steps = next(episodes(data_dir, 'train'))
  step = steps[0]
  assert set(step) == {'action', 'observation', 'reward', 'is_first', 'is_last', 'is_terminal'}
  assert {key: (value.dtype, value.shape) for key, value in step['action'].items()} == {
      'world_vector': (np.float32, (3,)),
      'rotation_delta': (np.float32, (3,)),
      'gripper_closedness_action': (np.float32, (1,)),
      'terminate_episode': (np.int32, (3,)),
      'base_displacement_vector': (np.float32, (2,)),
      'base_displacement_vertical_rotation': (np.float32, (1,)),
  }
  observation = step['observation']
  assert observation['image'].shape == (48, 48, 3) and observation['image'].dtype == np.uint8
  assert {key: value.shape for key, value in observation.items() if hasattr(value, 'shape')} == {
      'image': (48, 48, 3), 'natural_language_embedding': (512,),
      'base_pose_tool_reached': (7,), 'gripper_closed': (1,),
      'gripper_closedness_commanded': (1,), 'height_to_bottom': (1,), 'orientation_start': (4,),
      'src_rotation': (4,), 'vector_to_go': (3,), 'rotation_delta_to_go': (3,),
      'orientation_box': (2, 3), 'robot_orientation_positions_box': (3, 3),
      'workspace_bounds': (3, 3),
  }
  assert observation['natural_language_instruction'].startswith(b'pick ')
  assert observation['plan'] == observation['natural_language_instruction']


def test_an_episode_has_fractals_aspects_and_attributes(data_dir):
  episode, _ = next(episodes(data_dir, 'val'))
  assert set(episode) == {'steps', 'aspects', 'attributes'}
  assert set(episode['aspects']) == {
      'already_success', 'feasible', 'has_aspects', 'success', 'undesirable'}
  kinds = {'collection_mode', 'data_type', 'env', 'location', 'objects_family', 'task_family'}
  assert set(episode['attributes']) == kinds | {f'{kind}_name' for kind in kinds}
  assert episode['attributes']['task_family_name'].numpy() == b'pick'


def test_episodes_are_the_experts_and_end_in_one_rewarded_stop(data_dir):
  instructions = set()
  for _, steps in episodes(data_dir, 'train'):
    modes = [step['action']['terminate_episode'].tolist() for step in steps]
    assert modes == [[0, 1, 0]] * (len(steps) - 1) + [[1, 0, 0]]
    assert [step['is_first'] for step in steps] == [True] + [False] * (len(steps) - 1)
    assert [step['is_last'] for step in steps] == [False] * (len(steps) - 1) + [True]
    assert [step['reward'] for step in steps] == [0.0] * (len(steps) - 1) + [1.0]
    assert steps[-1]['is_terminal'] and not steps[-1]['action']['world_vector'].any()
    quarters = np.stack([s['action']['world_vector'] for s in steps]) / tabletop.MOTION_LIMITS * 4
    np.testing.assert_allclose(quarters, np.round(quarters), atol=1e-5)
    instructions |= {step['observation']['natural_language_instruction'] for step in steps}
  seen = objects.indices('seen', make_demo_data.Parameters().num_categories)
  assert instructions <= {f'pick {objects.CATEGORIES[i].name}'.encode() for i in seen}


def test_noise_moves_the_arm_but_not_the_label():
  env = tabletop.Tabletop(max_steps=40)
  pushed = steps = 0
  for seed in range(40):
    episode = make_demo_data.record_episode(env, seed)
    for now, then in zip(episode, episode[1:]):
      moved = then.state.gripper_3 - now.state.gripper_3
      free = (then.state.gripper_3 > world.GRIPPER_LOW) & (
          then.state.gripper_3 < world.GRIPPER_HIGH)
      if now.state.held < 0:
        steps += 1
        pushed += np.abs(moved - now.action[1:4])[free].max(initial=0) > 1e-3
  assert 0.2 < pushed / steps < 0.4


def test_every_question_has_its_answer_and_its_picture(data_dir):
  each = make_demo_data.QUESTIONS_PER_IMAGE
  for split, num_images in {'train': 60, 'val': make_demo_data.NUM_VAL_IMAGES}.items():
    questions = entries(data_dir, f'{split}_questions')
    annotations = entries(data_dir, f'{split}_annotations')
    assert len(questions) == len(annotations) == num_images * each
    assert collections.Counter(q['image_id'] for q in questions) == {
        i: each for i in range(num_images)}
    for question, annotation in zip(questions, annotations):
      assert question['question_id'] == annotation['question_id']
      assert question['image_id'] == annotation['image_id']
      right = [answer['answer'] for answer in annotation['answers']]
      assert annotation['multiple_choice_answer'] == right[0]
    images = data_dir / 'vqa' / 'images' / split
    assert len(list(images.iterdir())) == num_images
    jpeg = (images / f'{num_images - 1:012d}.jpg').read_bytes()
    assert simplejpeg.decode_jpeg(jpeg).shape == (48, 48, 3)


def test_every_object_has_its_box_in_cocos_form(data_dir):
  with open(data_dir / 'vqa' / 'train_instances.json', encoding='utf-8') as file:
    whole = json.load(file)
  names = {category['id']: category['name'] for category in whole['categories']}
  assert set(names.values()) <= {category.name for category in objects.CATEGORIES}
  assert sorted(names) == list(range(1, len(names) + 1)) and len(names) > 10
  boxes = collections.defaultdict(list)
  for annotation in whole['annotations']:
    x, y, width, height = annotation['bbox']
    assert min(x, y) >= 0 and 48 >= x + width > x and 48 >= y + height > y
    boxes[annotation['image_id']].append((names[annotation['category_id']], annotation['bbox']))
  assert [image['file_name'] for image in whole['images']] == [f'{i:012d}.jpg' for i in range(60)]
  assert len(boxes) == 60 and {len(found) for found in boxes.values()} == {2, 3}
  # What a picture shows in a box differs from the table around it.
  for image_id, found in boxes.items():
    jpeg = (data_dir / 'vqa' / 'images' / 'train' / f'{image_id:012d}.jpg').read_bytes()
    picture = simplejpeg.decode_jpeg(jpeg).astype(int)
    table = np.median(picture.reshape(-1, 3), axis=0)
    for name, (x, y, width, height) in found:
      inside = np.abs(picture[y:y + height, x:x + width] - table).max(-1)
      assert (inside > 30).mean() > 0.1, (image_id, name)


def test_captions_are_records_with_image_text_and_language(data_dir):
  paths = sorted(str(path) for path in (data_dir / 'captions').glob('train.tfrecord-*-of-00008'))
  assert len(paths) == 8
  keys, languages = [], set()
  for record in tf.data.TFRecordDataset(paths).as_numpy_iterator():
    feature = tf.train.Example.FromString(record).features.feature
    assert set(feature) == {'image/encoded', 'image/key', 'caption', 'language'}
    values = {key: value.bytes_list.value[0] for key, value in feature.items()}
    assert simplejpeg.decode_jpeg(values['image/encoded']).shape == (48, 48, 3)
    assert values['caption'].decode()
    keys.append(values['image/key'])
    languages.add(values['language'])
  assert len(set(keys)) == len(keys) == 15
  assert languages <= {b'en', b'de', b'es', b'fr'}


def test_the_vocabulary_has_the_words_of_the_world_as_pieces(data_dir):
  vocab = vocabulary.Vocabulary(str(data_dir / 'vocabulary.model'))
  assert len(vocab.encode('Q: what action should the robot take to pick anchor? A:')) <= 15
  assert len(vocab.encode('145 41 250 999 scissors')) == 5
  assert vocab.unk_id not in vocab.encode('un parapluie violet au-dessous d\'une étoile jaune')


def test_train_and_val_have_no_picture_in_common(data_dir):
  digests = {
      split: {hashlib.sha256(path.read_bytes()).digest()
              for path in (data_dir / 'vqa' / 'images' / split).iterdir()}
      for split in ('train', 'val')}
  assert not digests['train'] & digests['val']


def test_the_same_parameters_give_the_same_bytes(data_dir, tmp_path):
  make_demo_data.make_or_keep(str(tmp_path / 'again'), PARAMETERS)
  for parent, _, files in os.walk(data_dir):
    other = tmp_path / 'again' / os.path.relpath(parent, data_dir)
    assert sorted(os.listdir(other)) == sorted(os.listdir(parent))
    for name in files:
      with open(os.path.join(parent, name), 'rb') as a, open(other / name, 'rb') as b:
        assert a.read() == b.read(), name


def test_data_that_is_there_is_kept_and_other_parameters_are_refused(data_dir, capsys):
  before = (data_dir / 'parameters.json').stat().st_mtime_ns
  assert not make_demo_data.make_or_keep(str(data_dir), PARAMETERS)
  assert 'the data is there already' in capsys.readouterr().out
  other = dataclasses.replace(PARAMETERS, num_images=61)
  with pytest.raises(ValueError, match=r'num_images=60 \(asked: 61\); add --overwrite'):
    make_demo_data.make_or_keep(str(data_dir), other)
  assert (data_dir / 'parameters.json').stat().st_mtime_ns == before


@pytest.fixture(scope='module')
def rich_dir(tmp_path_factory):
  """Every skill in two environments, and rich questions."""
  path = tmp_path_factory.mktemp('rich') / 'data'
  parameters = make_demo_data.Parameters(
      num_episodes=18, num_images=60, skills=tuple(tabletop.SKILLS),
      environments=('seen', 'unseen'), questions='rich')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(make_demo_data, 'NUM_VAL_EPISODES', 1)
    patch.setattr(make_demo_data, 'NUM_VAL_IMAGES', 40)
    make_demo_data.make(str(path), parameters)
  return path


def test_skills_take_turns(rich_dir):
  families = collections.Counter(
      episode['attributes']['task_family_name'].numpy().decode()
      for episode, _ in episodes(rich_dir, 'train'))
  assert families.keys() == tabletop.SKILLS.keys()
  assert set(families.values()) <= {1, 2, 3}  # hardly one fails


def test_each_step_says_which_step_of_the_instruction_it_is(rich_dir):
  for episode, steps in episodes(rich_dir, 'train'):
    told = [step['observation']['natural_language_instruction'] for step in steps]
    plans = [step['observation']['plan'] for step in steps]
    if episode['attributes']['task_family_name'] == b'move_then_pick':
      assert list(dict.fromkeys(plans)) == told[0].split(b' then ')
    else:
      assert plans == told


def test_rich_questions_are_asked_and_their_words_are_pieces(rich_dir):
  kinds = {entry['question_type'] for entry in entries(rich_dir, 'val_annotations')}
  assert len(kinds & (web.RICH_QUESTION_SHARES.keys() - web.QUESTION_SHARES.keys())) >= 4
  vocab = vocabulary.Vocabulary(str(rich_dir / 'vocabulary.model'))
  told = 'Q: what action should the robot take to pick the thing that can cut paper? A:'
  assert len(vocab.encode(told)) <= 24
  assert vocab.unk_id not in vocab.encode('öffne untere Schublade')
  assert len(vocab.encode('Instruction: move sun near star then pick cup')) <= 12


@pytest.mark.parametrize('wrong, message', [
    ({'skills': ('pick', 'fly')}, 'skills are pick, fly; use any of pick, move_near'),
    ({'skills': ()}, 'skills are none; use any of pick'),
    ({'environments': ('office',)}, 'environments are office; use any of seen, unseen, desk'),
])
def test_skills_and_environments_that_there_are_not_are_refused(wrong, message):
  with pytest.raises(ValueError, match=message):
    make_demo_data.Parameters(**wrong)


def test_a_directory_with_other_things_is_left_alone(tmp_path):
  (tmp_path / 'thesis.txt').write_text('mine')
  with pytest.raises(FileExistsError, match='holds something else'):
    make_demo_data.make_or_keep(str(tmp_path), PARAMETERS, overwrite=True)
  assert (tmp_path / 'thesis.txt').read_text() == 'mine'


def test_interrupted_work_leaves_no_directory_and_is_made_anew(tmp_path, monkeypatch):
  output_dir = tmp_path / 'data'
  small = dataclasses.replace(PARAMETERS, num_episodes=8, num_images=4)
  monkeypatch.setattr(make_demo_data, 'NUM_VAL_EPISODES', 1)
  monkeypatch.setattr(make_demo_data, 'NUM_VAL_IMAGES', 4)
  with monkeypatch.context() as patch:
    patch.setattr(make_demo_data, 'VOCABULARY_SIZES', {'plain': 10})  # which training refuses
    with pytest.raises(ValueError, match='vocab_size is 10'):
      make_demo_data.make_or_keep(str(output_dir), small)
  assert not output_dir.exists()
  assert make_demo_data.make_or_keep(str(output_dir), small)
  assert os.listdir(tmp_path) == ['data']
  assert not make_demo_data.make_or_keep(str(output_dir), small)
  assert make_demo_data.make_or_keep(str(output_dir), small, overwrite=True)


def test_a_bad_output_dir_ends_in_one_line(tmp_path):
  (tmp_path / 'thesis.txt').write_text('mine')
  done = run(tmp_path)
  assert done.returncode == 1
  assert done.stderr.strip().splitlines()[-1].startswith('make_demo_data: ')
  assert 'Traceback' not in done.stderr


def test_jpegs_keep_small_colours():
  image = np.full((48, 48, 3), 180, np.uint8)
  image[20:24, 20:24] = (210, 40, 40)
  seen = simplejpeg.decode_jpeg(fractal_writer.jpeg(image)).astype(int)
  assert np.abs(seen[21:23, 21:23] - (210, 40, 40)).max() < 12
