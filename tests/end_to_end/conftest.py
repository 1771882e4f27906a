"""A small demo data set, made once, and directories to run in."""

import shutil

import pytest

from tests.end_to_end import commands


@pytest.fixture(scope='session')
def demo_data(tmp_path_factory):
  """40 robot episodes and 64 web pictures."""
  path = tmp_path_factory.mktemp('demo_data')
  commands.succeed(
      path, 'tools.make_demo_data', '--output_dir=data', '--num_episodes=40', '--num_images=64'
  )
  return path / 'data'


@pytest.fixture(scope='module')
def home(tmp_path_factory, demo_data):
  """A directory to run in, with data where the demo's gin files name them."""
  path = tmp_path_factory.mktemp('home')
  shutil.copytree(demo_data, path / 'runs/demo/data')
  return path
