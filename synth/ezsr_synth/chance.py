"""Chance: draws that any order of work gives alike, since each is a hash of its own name."""

from __future__ import annotations

import numpy as np

from ezsr_synth.jit import jit_into


@jit_into
def _mix(h: np.uint64) -> np.uint64:
    """Scramble 64 bits (the finaliser of SplitMix64, Steele et al. 2014)."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@jit_into
def _draw(seed: np.uint64, purpose: int, pixel: int, n: int) -> np.uint64:
    """Return 64 bits, the n-th draw of a purpose and pixel: a hash, so no order matters."""
    h = _mix(seed + np.uint64(purpose + 1) * np.uint64(0x9E3779B97F4A7C15))
    h = _mix(h + np.uint64(pixel) * np.uint64(0x9E3779B97F4A7C15))
    return _mix(h + np.uint64(n) * np.uint64(0x9E3779B97F4A7C15))


@jit_into
def uniform(seed: np.uint64, purpose: int, pixel: int, n: int) -> float:
    """Return a draw as a number in (0, 1)."""
    return (np.float64(_draw(seed, purpose, pixel, n) >> np.uint64(11)) + 0.5) * 2.0**-53


@jit_into
def normal(seed: np.uint64, purpose: int, pixel: int) -> np.float32:
    """Return a draw of mean 0 and variance 1, normal to within 0.2% of its distribution.

    The sum of twelve uniform draws less 6 (Irwin 1927, Hall 1927): unlike a logarithm it is
    made of whole numbers alone. Nothing is farther out than 6.
    """
    total = np.uint64(0)
    low = np.uint64(0xFFFF)
    for n in range(3):
        h = _draw(seed, purpose, pixel, n)
        total += (h & low) + ((h >> np.uint64(16)) & low)
        total += ((h >> np.uint64(32)) & low) + (h >> np.uint64(48))
    return np.float32(np.int32(np.int64(total)) - np.int32(6 * 65536 - 6)) * np.float32(2.0**-16)
