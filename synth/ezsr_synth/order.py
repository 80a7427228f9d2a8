"""Order: event words as the kernels write them, step by step, into the order of time.

Counting says where each microsecond's events begin. Those of one time step go to places near one
another, within the CPU's nearer caches.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ezsr_synth.jit import jit, jit_into
from ezsr_synth.kernels import I64, T_SHIFT, U64

U32 = npt.NDArray[np.uint32]

LONGEST_US = 1 << 20
"""Counting takes time for every microsecond, so longer blocks had better be sorted."""
_MOST_MOVES = 8
_SHIFT, _ONE = np.uint64(T_SHIFT), np.uint32(1)


def order_steps(words: U64, counts: I64, t_us: I64, ordered: U64, filled: int) -> bool:
    """Append a block's event words to ordered[:filled], all in order; tell whether that is done.

    words   (K, N), each step's words in any order
    counts  int64 (K,), how many there are of each step
    t_us    int64 (K + 1), the ends of the steps; an event may lie on either
    filled  what is there already is not later than t_us[0]

    False, and the appended words left in any order, where the block is long or too many events
    share a microsecond.
    """
    start_us, length_us = int(t_us[0]), int(t_us[-1] - t_us[0])
    if length_us > LONGEST_US:
        parts = [row[:count] for row, count in zip(words, counts, strict=True)]
        np.concatenate(parts, out=ordered[filled : filled + int(counts.sum())])
        return False
    places = np.zeros(length_us + 1, np.uint32)
    start = np.uint64(start_us << T_SHIFT)
    return bool(_count_into(words, counts, start, places, ordered, filled))


@jit
def _count_into(
    words: U64, counts: I64, start: np.uint64, places: U32, ordered: U64, filled: int
) -> bool:
    """Put every word in place; `places` has a zero for every microsecond from `start` on."""
    for k in range(len(counts)):
        for n in range(counts[k]):
            places[(words[k, n] - start) >> _SHIFT] += _ONE
    free = np.uint32(filled)
    for us in range(len(places)):
        count, places[us] = places[us], free
        free += count
    for k in range(len(counts)):
        for n in range(counts[k]):
            moment = (words[k, n] - start) >> _SHIFT
            ordered[places[moment]] = words[k, n]
            places[moment] += _ONE
    return bool(_insert(ordered, max(filled, 1), filled + int(counts.sum())))


@jit_into
def _insert(words: U64, start: int, stop: int) -> bool:
    """Put words that are out of order by little where they belong, unless that takes long."""
    left = _MOST_MOVES * (stop - start)
    for n in range(start, stop):
        word, to = words[n], n
        if words[n - 1] <= word:
            continue
        while to > 0 and words[to - 1] > word:
            words[to] = words[to - 1]
            to -= 1
        words[to] = word
        left -= n - to
        if left < 0:
            return False
    return True


def compile_order() -> None:
    """Compile every kernel of this file, or load it from the cache."""
    words, counts = np.zeros((1, 1), np.uint64), np.ones(1, np.int64)
    order_steps(words, counts, np.array([0, 1]), np.empty(1, np.uint64), 0)
