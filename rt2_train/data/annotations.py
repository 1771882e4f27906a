"""What people write about a dataset's instructions: other wordings, and plans; JSON files.

A paraphrase file is {instruction: [other wordings]}; a plan file (RT-2, section 4.4) is a list of
{"instruction": "I am hungry", "plan": "pick rxbar chocolate"}, where the plan is the instruction of
episodes.
"""

from collections.abc import Collection
import difflib
import reprlib

from absl import logging

from rt2_train.data import json_files

_MOST_NAMED = 3


def paraphrases(path: str, known: Collection[str]) -> tuple[dict[str, tuple[str, ...]], str]:
  """Instruction -> its other wordings, for those of `known`; and what else the file names, or ''.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it has another schema, or is about none of the `known` instructions.
  """
  whole = _read(path, dict, 'an object {instruction: [other wordings]}')
  for instruction, wordings in whole.items():
    where = f'{path}: {instruction!r}'
    if not isinstance(wordings, list) or not wordings:
      raise ValueError(f'{where} has {reprlib.repr(wordings)}; write a list of other wordings')
    for wording in wordings:
      _check_text(wording, f'{where}: a wording')
  used = {key: tuple(text.strip() for text in value) for key, value in whole.items()}
  return _only_known(path, used, known)


def plans(path: str, known: Collection[str]) -> tuple[dict[str, tuple[str, ...]], str]:
  """Plan -> what people may say to want it, for plans of `known`; and what else it names, or ''.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it has another schema, or none of its plans is one of the `known` instructions.
  """
  form = 'a list of {"instruction": ..., "plan": ...}'
  said = {}
  for number, entry in enumerate(_read(path, list, form)):
    where = f'{path}: entry {number}'
    if not isinstance(entry, dict) or set(entry) != {'instruction', 'plan'}:
      raise ValueError(f'{where} is {reprlib.repr(entry)}; write {form}')
    for key in ('instruction', 'plan'):
      _check_text(entry[key], f'{where}: its {key}')
    said.setdefault(entry['plan'].strip(), []).append(entry['instruction'].strip())
  return _only_known(path, {plan: tuple(texts) for plan, texts in said.items()}, known)


def _read(path: str, kind: type, form: str):
  whole = json_files.load(path, form)
  if not isinstance(whole, kind) or not whole:
    raise ValueError(f'{path} holds {reprlib.repr(whole)}; write {form}')
  return whole


def _check_text(text, what: str):
  if not isinstance(text, str) or not text.strip():
    raise ValueError(f'{what} is {reprlib.repr(text)}; write words')


def _only_known(
    path: str, texts: dict[str, tuple[str, ...]], known: Collection[str]
) -> tuple[dict[str, tuple[str, ...]], str]:
  """Those of `texts` that the dataset has, and the others in words."""
  unknown = [text for text in texts if text not in known]
  if not unknown:
    return texts, ''
  first = unknown[0]
  near = difflib.get_close_matches(first, sorted(known)[:1000], 1)
  hint = f' (did you mean {near[0]!r}?)' if near else ''
  if len(unknown) == len(texts):
    raise ValueError(f'{path}: none of its {len(texts)} instructions is in the dataset; the first '
                     f'is {first!r}{hint}')
  listed = ', '.join(map(repr, unknown[:_MOST_NAMED])) + (
      ', ...' if len(unknown) > _MOST_NAMED else '')
  note = f'{path}: {len(unknown)} of {len(texts)} instructions not in the dataset: {listed}'
  logging.warning('%s%s', note, hint)
  return {text: texts[text] for text in texts if text in known}, note
