"""What a run leaves on disk is whole or absent: files that are replaced at once, and checkpoints.

A run directory holds `checkpoint_<step>` directories, see `training.checkpoints`.
"""

from collections.abc import Iterator
import contextlib
import errno
import json
import os
import pathlib
import re
import shutil

# Orbax writes these last, so a checkpoint that is half there lacks one of them.
_LAST = ('_CHECKPOINT_METADATA', 'state/_METADATA')
# Sizes of all other files of a checkpoint, by path.
_SIZES = 'files.json'
# What a disk, a quota or a limit says that has no room for what is written.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def naming_full_disk(path: str | os.PathLike[str]) -> Iterator[None]:
  """Within, no room for `path` is an error that names it: the system names what it opens alone."""
  try:
    yield
  except OSError as error:
    if error.errno not in _NO_ROOM:
      raise
    raise OSError(
        error.errno, f'{os.strerror(error.errno)}: {os.fspath(path)} cannot be written; make room '
        'there and start again') from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
  """Yields where to write; what is there at the end becomes `path`, unless an error was raised."""
  path = os.path.abspath(path)
  partial = f'{path}.partial'
  with naming_full_disk(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
      yield partial
      descriptor = os.open(partial, os.O_RDONLY)
      try:
        os.fsync(descriptor)
      finally:
        os.close(descriptor)
      os.replace(partial, path)
    except BaseException:
      with contextlib.suppress(OSError):
        os.unlink(partial)
      raise


@contextlib.contextmanager
def new_directory(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a directory to write into, which becomes `path` at the end; on an error, nothing does.

  Raises:
    FileExistsError: there is something at `path` already.
  """
  path = pathlib.Path(os.path.abspath(path))
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise FileExistsError(f'{path} exists; name another directory, or remove it')
  partial = path.with_name(f'{path.name}.partial')
  with naming_full_disk(path):
    # What a killed process left behind.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
      yield partial
      for file in [*filter(pathlib.Path.is_file, partial.rglob('*')), partial]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
          os.fsync(descriptor)
        finally:
          os.close(descriptor)
      os.replace(partial, path)
    except BaseException:
      shutil.rmtree(partial, ignore_errors=True)
      raise


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
  """Writes a file, its directory too, that is there completely or as it was before."""
  with replacing(path) as partial, open(partial, 'wb') as file:
    file.write(content.encode() if isinstance(content, str) else content)


def checkpoint_path(run_dir: str | os.PathLike[str], step: int) -> str:
  return os.path.join(run_dir, f'checkpoint_{step}')


def checkpoint_steps(run_dir: str | os.PathLike[str]) -> list[int]:
  """Steps of all checkpoints in a run directory, ascending, whole or not."""
  names = os.listdir(run_dir) if os.path.isdir(run_dir) else []
  found = (re.fullmatch(r'checkpoint_(\d+)', name) for name in names)
  return sorted(int(name[1]) for name in found if name)


def seal(checkpoint: str | os.PathLike[str]) -> None:
  """Writes down the files of a checkpoint that is complete, so that `damage` knows them."""
  checkpoint = pathlib.Path(checkpoint)
  files = sorted(path for path in checkpoint.rglob('*') if path.is_file())
  sizes = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
  for changing in (_LAST[0], _SIZES):  # Orbax adds the time to the first.
    sizes.pop(changing, None)
  write(checkpoint / _SIZES, json.dumps(sizes, indent=0) + '\n')


def damage(checkpoint: str | os.PathLike[str]) -> str | None:
  """Which file of a checkpoint is missing or cut short; None if all are as they were written."""
  for last in _LAST:
    if not os.path.exists(os.path.join(checkpoint, last)):
      return f'{last} is missing'
  sealed = os.path.join(checkpoint, _SIZES)
  if not os.path.exists(sealed):
    return None  # T5X's.
  try:
    with open(sealed, encoding='utf-8') as file:
      sizes = json.load(file)
  except ValueError:
    return f'{_SIZES} is cut short'
  for name, size in sizes.items():
    if os.path.isabs(name) or '..' in name.split('/'):
      return f'{_SIZES} names {name!r}, which is not in the checkpoint'
    path = os.path.join(checkpoint, name)
    if not os.path.exists(path):
      return f'{name} is missing'
    if os.path.getsize(path) != size:
      return f'{name} has {os.path.getsize(path)} of {size} bytes'
  return None


def find_checkpoint(path: str | os.PathLike[str], step: int | None = None) -> pathlib.Path:
  """The directory of one checkpoint.

  Args:
    path: a checkpoint directory, or a run directory.
    step: which checkpoint of the run directory; the newest whole one when None.

  Raises:
    FileNotFoundError: there is none; the message lists the steps there are.
  """
  path = pathlib.Path(os.path.abspath(path))
  if step is None and damage(path) is None:
    return path
  steps = [step for step in checkpoint_steps(path) if not damage(checkpoint_path(path, step))]
  if not steps:
    raise FileNotFoundError(
        f'{path} holds no whole checkpoint_<step>; name the MODEL_DIR of a run, or one of its '
        'checkpoints'
    )
  if step is not None and step not in steps:
    raise FileNotFoundError(f'{path} holds no checkpoint of step {step}; it has {steps}')
  return pathlib.Path(checkpoint_path(path, steps[-1] if step is None else step))
