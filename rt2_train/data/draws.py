"""Choices that a name alone decides: the same in every process, order and run."""

import hashlib


def share(name: str) -> float:
  """A number in [0, 1), evenly spread over names."""
  digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
  return (int.from_bytes(digest, 'big') >> 11) / 2**53  # As many bits as a float tells apart.


def one_of(name: str, count: int) -> int:
  """A number in 0..count-1."""
  return int(share(name) * count)
