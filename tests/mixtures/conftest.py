"""Small files of every format, and no gin left over."""

import gin
import pytest

from tests.mixtures import small_files


@pytest.fixture(scope='session')
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp('files')
  small_files.write(folder)
  return folder


@pytest.fixture(autouse=True)
def no_configuration():
  gin.clear_config()
  yield
  gin.clear_config()
