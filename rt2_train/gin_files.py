"""Reads gin files and bindings, and refuses what gin accepts in silence: a misspelt macro."""

import collections
from collections.abc import Sequence
import difflib
import logging
import re

import gin

_ASSIGNED = re.compile(r'^([A-Za-z_]\w*)[ \t]*=', re.MULTILINE)
_READ = re.compile(r'%([A-Za-z_]\w*)')
_COMMENT = re.compile(r'#.*')


def parse(
    files: Sequence[str], bindings: Sequence[str] = (), search_paths: Sequence[str] = ('.',)
) -> None:
  """Parses `files`, then `bindings` over them, into gin's global configuration.

  Args:
    files: gin files; a later one overrides an earlier one.
    bindings: lines such as "TRAIN_STEPS=100"; they override every file.
    search_paths: folders in which relative file names and includes are looked up.

  Raises:
    ValueError: a file does not exist, a name is unknown to gin, or a macro is assigned once
      and read by nobody.
  """
  if not files and not bindings:
    raise ValueError('no configuration: pass --gin_file=gin/... (README shows the usual ones)')
  for path in search_paths:
    gin.add_config_file_search_path(path)
  # gin logs every folder in which a file is not, as an error; what matters is raised below.
  root = logging.getLogger()
  quiet = lambda record: record.module != 'resource_reader'
  root.addFilter(quiet)
  try:
    parsed = gin.parse_config_files_and_bindings(files, bindings, finalize_config=True)
  except OSError as error:
    paths = ','.join(search_paths)
    raise ValueError(f'gin: {message(error)} (--gin_search_paths={paths})') from error
  except Exception as error:  # gin raises classes of its own, made on the spot.
    # What follows is the whole configuration, in one line.
    text = ' '.join(str(error).split()).split(' in config string:')[0]
    raise ValueError(f'gin: {text.replace("/gin.macro", "")}') from error
  finally:
    root.removeFilter(quiet)
  texts = [_read(name, search_paths) for name in _file_names(parsed)]
  _check_macros(texts + list(bindings))


def resolved() -> str:
  """The whole configuration as gin text that parses to the same configuration."""
  return gin.config_str(max_line_length=100)


def message(error: BaseException) -> str:
  """One line that says what was wrong, without the call stack gin appends to it."""
  text = str(error).split('\n  In call to configurable')[0]
  return ' '.join(text.split()) or type(error).__name__


def _check_macros(texts: Sequence[str]) -> None:
  """A macro nobody reads is a typing error, unless another file declares the same name."""
  texts = [_COMMENT.sub('', text) for text in texts]
  assigned = collections.Counter(name for text in texts for name in set(_ASSIGNED.findall(text)))
  read = {name for text in texts for name in _READ.findall(text)}
  for name, times in assigned.items():
    if times == 1 and name not in read:
      known = sorted(read | (set(assigned) - {name}))
      near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
      hint = f'did you mean {near[0]}?' if near else f'there are {", ".join(known)}'
      raise ValueError(f'gin: macro {name} is set but nothing reads it; {hint}')


def _file_names(parsed) -> list[str]:
  """Names of all parsed files, with what they include, each once."""
  names = []
  pending = list(parsed[0] if isinstance(parsed, tuple) else parsed)
  while pending:
    one = pending.pop()
    if one.filename not in names:
      names.append(one.filename)
    pending.extend(one.includes)
  return names


def _read(name: str, search_paths: Sequence[str]) -> str:
  for folder in ('', *search_paths):
    try:
      with open(f'{folder}/{name}' if folder else name, encoding='utf-8') as file:
        return file.read()
    except FileNotFoundError:
      continue
  raise ValueError(f'gin file {name} vanished while it was read')
