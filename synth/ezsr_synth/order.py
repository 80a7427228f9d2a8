"""Order: event words as the kernels write them, row by row, into the order of time.

A row's events come time step by time step. So the events of one step are those of a short time, few
enough to be counted and put in place within the CPU's nearest cache, which takes half as long as to
sort all words.
"""

from __future__ import annotations

import numpy as np

from ezsr_synth.jit import jit, jit_into
from ezsr_synth.kernels import I64, T_SHIFT, U64

LONGEST_STEP_US = 1 << 17
"""Counting takes time for every microsecond, so longer steps had better be sorted."""
_MOST_MOVES = 8


@jit
def order_steps(words: U64, ends: I64, t_us: I64, ordered: U64, filled: int) -> bool:
    """Append a block's event words to ordered[:filled], all in order; tell whether that is done.

    words   in any order within a row and a step
    ends    int64 (H, K), where in `words` the events of a row and a step end; rows come one after
            the other, and within each its steps
    t_us    int64 (K + 1), the ends of the steps; an event may lie on either
    filled  what is there already is not later than t_us[0]

    False, and the appended words left in any order, where too many of them share a microsecond.
    """
    height, steps = ends.shape
    longest_us = 0
    for k in range(steps):
        longest_us = max(longest_us, t_us[k + 1] - t_us[k])
    places, free = np.empty(longest_us + 1, np.int64), filled
    for k in range(steps):
        start_us = t_us[k]
        counted = places[: t_us[k + 1] - start_us + 1]
        counted[:] = 0
        for y in range(height):
            for n in range(_begin(ends, y, k), ends[y, k]):
                counted[np.int64(words[n] >> np.uint64(T_SHIFT)) - start_us] += 1
        for moment in range(len(counted)):
            count, counted[moment] = counted[moment], free
            free += count
        for y in range(height):
            for n in range(_begin(ends, y, k), ends[y, k]):
                moment = np.int64(words[n] >> np.uint64(T_SHIFT)) - start_us
                ordered[counted[moment]] = words[n]
                counted[moment] += 1
    return _insert(ordered, max(filled, 1), free)


@jit_into
def _begin(ends: I64, y: int, k: int) -> int:
    if k > 0:
        return int(ends[y, k - 1])
    return int(ends[y - 1, -1]) if y > 0 else 0


@jit
def _insert(words: U64, start: int, stop: int) -> bool:
    """Put words that are out of order by little where they belong, unless that takes long."""
    left = _MOST_MOVES * (stop - start)
    for n in range(start, stop):
        word, to = words[n], n
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
    words, ends = np.zeros(1, np.uint64), np.ones((1, 1), np.int64)
    order_steps(words, ends, np.array([0, 1]), np.empty(1, np.uint64), 0)
