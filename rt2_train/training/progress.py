"""A progress bar below the log lines, not through them."""

from collections.abc import Iterator
import contextlib
from typing import Any

from absl import logging
import tqdm


@contextlib.contextmanager
def bar(start: int, total: int, shown: bool) -> Iterator[tqdm.tqdm]:
  """The bar of a run that goes on at step `start`; log lines are written above it."""
  handler = logging.get_absl_handler().python_handler
  before = handler.stream
  with tqdm.tqdm(
      initial=start, total=total, unit='step', desc='train', disable=not shown
  ) as shown_bar:
    handler.stream = _AboveTheBar(before)
    try:
      yield shown_bar
    finally:
      handler.stream = before


class _AboveTheBar:
  """A stream that takes the progress bar away while a line is written."""

  def __init__(self, stream: Any):
    self._stream = stream

  def write(self, text: str) -> None:
    tqdm.tqdm.write(text, file=self._stream, end='')

  def flush(self) -> None:
    self._stream.flush()
