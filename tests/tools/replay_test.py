"""Replaying training frames: agreement is found where it is, a difference where there is one."""

import cv2
import numpy as np
import pytest

from rt2_train import actions
from rt2_train import images
from rt2_train import processor as processor_lib
from rt2_train import prompts
from rt2_train import vocabulary
from tests.data import rlds_fixture
from tests.serving import served
from tools import index_dataset
from tools import replay


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  directory = tmp_path_factory.mktemp('data') / 'tabletop' / '0.1.0'
  rlds_fixture.write(directory, 'fractal', [rlds_fixture.episodes('fractal', 4, 6)])
  return index_dataset.open_source(str(directory), 'fractal')


@pytest.fixture(scope='module')
def policy(source, tmp_path_factory):
  model_file = str(tmp_path_factory.mktemp('vocabulary') / 'vocabulary.model')
  told = source.steps('train').instructions
  vocabulary.train([prompts.robot(each) for each in told], model_file, 1200, num_integers=1000)
  return served.tiny_policy(processor_lib.Processor(
      vocabulary.Vocabulary(model_file), actions.RT2, images.ImageSpec(16, 16), 64, 12), [16])


def test_training_and_serving_agree_on_every_frame(source, policy, capsys):
  assert replay.replay(source, 'train', policy, None, 24) == 0
  said = capsys.readouterr().out
  assert 'tabletop/train: 24 of 24 steps' in said and 'training and serving agree' in said
  for name in ('pixels', 'prompts', 'answers'):
    assert f'{name:8} 24 of 24 the same in training and serving' in said
  rows = [line.split() for line in said.splitlines() if line.split()[:1] == ['dx']]
  assert len(rows) == 1 and float(rows[0][2]) > 0


def test_another_resize_in_serving_is_found(source, policy, capsys, monkeypatch):
  resize, prepare = images.resize, policy.prepare

  def prepare_otherwise(observation):
    monkeypatch.setattr(images, 'resize', lambda image, spec: cv2.resize(
        image, (spec.width, spec.height), interpolation=cv2.INTER_NEAREST))
    try:
      return prepare(observation)
    finally:
      monkeypatch.setattr(images, 'resize', resize)

  monkeypatch.setattr(policy, 'prepare', prepare_otherwise)
  differing = replay.replay(source, 'train', policy, None, 24)
  said = capsys.readouterr().out
  assert differing == 24 and 'training and serving differ in 24 steps' in said
  assert 'pixels   0 of 24 the same' in said and 'prompts  24 of 24 the same' in said


def test_errors_are_those_of_the_recorded_actions(capsys):
  said = np.array([[1, 0.5, 0, 0, 0, 0, 0, 1.0]] * 4, np.float32)
  recorded = np.array([[1, 0.25, 0, 0, 0, 0, 0, -1.0]] * 4, np.float32)
  replay._print_errors(said, recorded, actions.RT2)
  lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
  assert lines['dx'][2:] == ['0.2500', '0.2500', '0.2500', '0.0%']
  assert lines['gripper'][1:] == ['2.0000', '2.0000', '2.0000', '0.0%']
  assert lines['dyaw'][2:] == ['0.0000', '0.0000', '0.0000', '100.0%']
