"""Where two nested values that should agree do not, in words."""

from typing import Any


def first(theirs: Any, ours: Any, there: str, here: str) -> str | None:
  """The first difference between two values of dicts, lists and scalars; None if they agree.

  Args:
    theirs: one value.
    ours: the other.
    there: whose `theirs` is, such as 'the checkpoint'.
    here: whose `ours` is, such as 'this run'.
  """
  return _first(theirs, ours, there, here, '')


def _first(theirs: Any, ours: Any, there: str, here: str, where: str) -> str | None:
  if isinstance(theirs, dict) and isinstance(ours, dict):
    for key in sorted({*theirs, *ours}):
      if key not in theirs or key not in ours:
        return f'{where}{key} is only in {there if key in theirs else here}'
      if difference := _first(theirs[key], ours[key], there, here, f'{where}{key}.'):
        return difference
    return None
  if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
    pairs = enumerate(zip(theirs, ours))
    found = (_first(a, b, there, here, f'{where}{i}.') for i, (a, b) in pairs)
    return next((difference for difference in found if difference), None)
  if theirs == ours:
    return None
  return f'{where.rstrip(".")} is {theirs!r} in {there} and {ours!r} in {here}'
