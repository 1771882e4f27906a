"""What gin accepts in silence is refused with the name of what was probably meant."""

import gin
import pytest

from rt2_train import gin_files
from rt2_train import images


@pytest.fixture(autouse=True)
def clean_gin():
  gin.clear_config()
  yield
  gin.clear_config()


@pytest.fixture
def config(tmp_path):
  path = tmp_path / 'run.gin'
  path.write_text(
      'from __gin__ import dynamic_registration\n'
      'from rt2_train import images\n'
      'BATCH_SIZE = 8  # rows\n'
      'IMAGE_SIZE = 24\n'
      'images.ImageSpec.height = %IMAGE_SIZE\n'
      'images.ImageSpec.width = %BATCH_SIZE\n'
  )
  return str(path)


def test_a_binding_overrides_a_file(config):
  gin_files.parse([config], ['BATCH_SIZE = 16'])
  spec = gin.get_configurable(images.ImageSpec)()
  assert (spec.height, spec.width) == (24, 16)


@pytest.mark.parametrize(
    'binding, message',
    [
        ('BATCH_SZIE = 16', 'BATCH_SZIE is set but nothing reads it; did you mean BATCH_SIZE?'),
        ('images.ImageSpec.hieght = 3', "doesn't have a parameter named 'hieght'"),
        ('pictures.Spec.height = 3', "No configurable matching 'pictures.Spec'"),
        ('BATCH_SIZE =', 'gin: '),
    ],
)
def test_a_misspelt_name_is_refused_in_one_line(config, binding, message):
  with pytest.raises(ValueError) as error:
    gin_files.parse([config], [binding])
  assert message in str(error.value) and '\n' not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(ValueError, match='nowhere.gin'):
    gin_files.parse([str(tmp_path / 'nowhere.gin')])


def test_no_configuration_at_all_says_what_to_pass():
  with pytest.raises(ValueError, match='--gin_file'):
    gin_files.parse([])


def test_a_macro_that_a_second_file_declares_may_stay_unread(config, tmp_path):
  other = tmp_path / 'other.gin'
  other.write_text('EVAL_PERIOD = 10\n')
  again = tmp_path / 'again.gin'
  again.write_text('EVAL_PERIOD = 20\n')
  gin_files.parse([config, str(other), str(again)])


def test_the_resolved_configuration_parses_to_itself(config):
  gin_files.parse([config], ['IMAGE_SIZE = 48'])
  text = gin_files.resolved()
  gin.clear_config()
  gin.parse_config(text)
  assert gin.get_configurable(images.ImageSpec)().height == 48


def test_an_error_loses_the_call_stack_that_gin_appends(config):
  gin_files.parse([config], ['IMAGE_SIZE = -1'])
  with pytest.raises(ValueError) as error:
    gin.get_configurable(images.ImageSpec)()
  assert 'In call to' not in gin_files.message(error.value)
