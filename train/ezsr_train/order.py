"""Order: the endless stream of samples, a pure function of (seed, sample number).

A position in it is one number, so a run continues exactly where it stopped, and neither the number
of reading processes nor that of ranks changes which samples make up a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_POOLED_SHARDS = 64


@dataclass(frozen=True)
class Place:
    """Where one sample of the stream lies: its number, shard and place in the shard."""

    number: int
    shard: int
    index: int


def stream_places(
    sizes: Sequence[int], seed: int, start: int = 0, resampled: bool = False
) -> Iterator[Place]:
    """Yield the endless stream of places from sample number `start`.

    An epoch is as many samples as there are. In it the shards are put in a random order, and
    samples are mixed within pools of 64 shards, so that reading stays local on large sets while
    small ones are mixed wholly. Each sample comes once in an epoch; `resampled` draws shards, and
    samples of a pool, with replacement instead.
    """
    total = sum(sizes)
    epoch, skip = divmod(start, total)
    while True:
        rng = np.random.Generator(np.random.PCG64([seed, epoch]))
        places = (_resample if resampled else _permute)(np.asarray(sizes), rng)
        for number, (shard, index) in enumerate(places, epoch * total):
            if number >= epoch * total + skip:
                yield Place(number, shard, index)
        epoch, skip = epoch + 1, 0


def _permute(sizes: npt.NDArray[np.int64], rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    shards = rng.permutation(len(sizes))
    for first in range(0, len(shards), _POOLED_SHARDS):
        pool = _list_samples(sizes, shards[first : first + _POOLED_SHARDS])
        yield from map(tuple, pool[rng.permutation(len(pool))].tolist())


def _resample(sizes: npt.NDArray[np.int64], rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    left = int(sizes.sum())
    while left:
        shards = rng.integers(len(sizes), size=min(_POOLED_SHARDS, len(sizes)))
        pool = _list_samples(sizes, shards)
        drawn = pool[rng.integers(len(pool), size=min(left, len(pool)))]
        left -= len(drawn)
        yield from map(tuple, drawn.tolist())


def _list_samples(
    sizes: npt.NDArray[np.int64], shards: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return (shard, index) of every sample of some shards, int64 (n, 2)."""
    counts = sizes[shards]
    ends = counts.cumsum()
    index = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
    return np.stack([np.repeat(shards, counts), index], axis=1)
