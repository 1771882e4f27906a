"""What a checkpoint holds beside parameters, so that it can be evaluated and served alone."""

from collections.abc import Mapping
import importlib.metadata
import json
import os
from typing import Any

from rt2_train import gin_files

_PACKAGES = ('rt2_train', 'jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'sentencepiece')


class Assets:
  """Writes the assets of a run."""

  def __init__(self, model: Any):
    """`model` has architecture() and a processor, or None where weights alone are imported."""
    self._model = model

  def __call__(self, directory: str, sources: Mapping[int, str] = {}) -> None:
    """Writes into `directory`.

    The files: those of `Processor.save`; model.json, from which the model is rebuilt; config.gin,
    the resolved configuration; sources.json, hash in a batch's `source` -> task; versions.json.
    """
    if self._model.processor is not None:
      self._model.processor.save(directory)
    _write_json(directory, 'model.json', self._model.architecture())
    _write_json(directory, 'sources.json', {str(key): name for key, name in sources.items()})
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    _write_json(directory, 'versions.json', versions)
    with open(os.path.join(directory, 'config.gin'), 'w', encoding='utf-8') as file:
      file.write(gin_files.resolved())


def _write_json(directory: str, name: str, value: Any) -> None:
  with open(os.path.join(directory, name), 'w', encoding='utf-8') as file:
    json.dump(value, file, indent=2, sort_keys=True)
