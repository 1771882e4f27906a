"""Keeps the host memory of a long run flat, where the C library is glibc.

glibc gives threads heaps of their own and keeps in each what was freed there. Every checkpoint is
written by new threads, from copies as large as the state, and leaves pieces of them in other heaps
than the one before it: no leak, but memory that grows over days.
"""

import ctypes

_ARENA_MAX = -8  # mallopt's M_ARENA_MAX, of malloc.h


def share_one_heap() -> None:
  """Threads that begin later allocate where the first one does."""
  if (mallopt := _of_glibc('mallopt')) is not None:
    mallopt(_ARENA_MAX, 1)


def return_what_is_free() -> None:
  """Gives memory that was freed back to the system."""
  if (trim := _of_glibc('malloc_trim')) is not None:
    trim(0)


def _of_glibc(name: str):
  """The function of that name; None in other C libraries."""
  library = ctypes.CDLL(None)
  return getattr(library, name, None) if hasattr(library, 'gnu_get_libc_version') else None
