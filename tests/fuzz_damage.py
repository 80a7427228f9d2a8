"""Damage: what goes wrong with files, at random and where formats keep their counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from fuzz_corpus import Seed

_NUMBERS = (0, 1, 2, *(2**bits + n for bits in (7, 8, 15, 16, 31, 32, 63, 64) for n in (-1, 0)))
_TEXTS = (*b"0 -1 3 99999 200000001 4294967296 nan 1e400".split(), b"9" * 30, b"")
_FILLINGS = (b"\0", b"\xff", b" ", b"\n")
_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
_IN_PLACE = (0, 2, 7, 8)
"""Kinds of damage that move nothing."""


def make_input(seeds: Sequence[Seed], words: Sequence[bytes], key: tuple[int, ...]) -> bytes:
    """Return a damaged file: a pure function of its arguments."""
    rng = np.random.default_rng(key)
    chosen, other = (seeds[int(n)] for n in rng.integers(0, len(seeds), 2))
    parts = list(chosen.parts)
    if len(parts) > 1 and rng.random() < 0.7:
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(0, len(parts)))
            parts[at] = _damage(rng, parts[at], words, other)
        return chosen.join(parts)
    data = chosen.join(parts)
    for _ in range(int(rng.integers(1, 5))):
        data = _damage(rng, data, words, other)
    return data


def _damage(rng: np.random.Generator, data: bytes, words: Sequence[bytes], other: Seed) -> bytes:
    at = _place(rng, len(data))
    kind = int(rng.choice(_IN_PLACE)) if other.rigid and rng.random() < 0.9 else rng.integers(0, 9)
    if kind == 0:  # a bit
        changed = data[at : at + 1] or b"\0"
        return _over(data, at, bytes([changed[0] ^ 1 << int(rng.integers(0, 8))]))
    if kind == 1:
        return data[:at]
    if kind == 2:  # a count, an offset, a size
        width, order = int(rng.choice([1, 2, 4, 8])), _ORDERS[int(rng.integers(0, 2))]
        near = len(data) + int(rng.integers(-16, 17))
        number = int(rng.choice(_NUMBERS)) if rng.random() < 0.8 else max(near, 0)
        number &= (1 << 8 * width) - 1
        return _over(data, at, number.to_bytes(width, order))
    if kind == 3:  # a number or a word of the header
        found = list(re.finditer(rb"-?\d+", data[:4096]))
        if found:
            one, text = found[int(rng.integers(0, len(found)))], int(rng.integers(0, len(_TEXTS)))
            return data[: one.start()] + _TEXTS[text] + data[one.end() :]
    if kind == 4 and words:
        word = words[int(rng.integers(0, len(words)))]
        return _over(data, at, word) if rng.random() < 0.5 else data[:at] + word + data[at:]
    if kind == 5:  # splice
        spliced = other.join(other.parts)
        return data[:at] + spliced[_place(rng, len(spliced)) :]
    if kind == 6:  # a piece twice, moved or left out
        end = min(len(data), at + int(rng.integers(1, 200)))
        return data[:end] + data[at:] if rng.random() < 0.5 else data[:at] + data[end:]
    if kind == 7:
        return _over(data, at, _FILLINGS[int(rng.integers(0, 4))] * int(rng.integers(1, 64)))
    return _over(data, at, rng.bytes(int(rng.integers(1, 9))))


def _over(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def _place(rng: np.random.Generator, size: int) -> int:
    """Return a place in a file, more often near its ends, where counts and directories are."""
    if size == 0:
        return 0
    where = rng.random()
    if where < 0.4:
        return int(rng.integers(0, min(size, 256)))
    if where < 0.6:
        return size - 1 - int(rng.integers(0, min(size, 128)))
    return int(rng.integers(0, size))
