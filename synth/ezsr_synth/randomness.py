"""Randomness as a pure function of (seed, key, view, purpose).

No generator is ever shared, so neither the order of the work nor the number of workers can change
a draw, and a new purpose leaves the draws of the others as they were.
"""

from __future__ import annotations

import hashlib

import numpy as np


def rng_for(seed: int, key: str, view: int, purpose: str) -> np.random.Generator:
    """Return a fresh generator for one purpose of one view of one picture."""
    return np.random.Generator(np.random.PCG64(_hash(seed, key, view, purpose, 16)))


def seed_of(seed: int, key: str, view: int, purpose: str) -> int:
    """Return 64 bits for one purpose, for the kernels to hash with pixels and numbers."""
    return _hash(seed, key, view, purpose, 8)


def _hash(seed: int, key: str, view: int, purpose: str, length: int) -> int:
    digest = hashlib.sha256(f"{seed}/{key}/{view}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:length], "little")
