"""A loader that writes down what it hands to training; gin files of tests put it in front."""

import os

import numpy as np


class RecordedBatches:
  """Hands on everything of `loader`, and writes DIRECTORY/<step>_<first row>.npz."""

  def __init__(self, loader, directory: str):
    self._loader, self._directory = loader, directory
    self._rows = range(loader.batch_size)
    os.makedirs(directory, exist_ok=True)

  def __getattr__(self, name: str):
    return getattr(self._loader, name)

  def __next__(self) -> dict[str, np.ndarray]:
    name = f'{self._loader.step}_{self._rows[0]}.npz'
    batch = next(self._loader)
    np.savez(os.path.join(self._directory, name), rows=self._rows, **batch)
    return batch

  def select(self, rows: np.ndarray) -> None:
    self._rows = rows
    self._loader.select(rows)


def read(directory: str, step: int) -> dict[str, np.ndarray]:
  """The global batch of a step, whoever read its rows; each row must have been read once."""
  names = [name for name in os.listdir(directory) if name.startswith(f'{step}_')]
  parts = [np.load(os.path.join(directory, name)) for name in names]
  joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
  order = np.argsort(joined.pop('rows'))
  np.testing.assert_array_equal(np.sort(order), np.arange(len(order)))
  return {name: values[order] for name, values in joined.items()}
