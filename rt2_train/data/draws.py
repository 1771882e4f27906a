"""Choices that a name alone decides: the same in every process, order and run."""

import hashlib

import numpy as np


def share(name: str) -> float:
  """A number in [0, 1), evenly spread over names."""
  digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
  return (int.from_bytes(digest, 'big') >> 11) / 2**53  # As many bits as a float tells apart.


def rng(name: str) -> np.random.Generator:
  """A generator of all that is drawn for one name."""
  digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
  return np.random.default_rng(int.from_bytes(digest, 'big'))


def one_of(name: str, count: int) -> int:
  """A number in 0..count-1."""
  return int(share(name) * count)
