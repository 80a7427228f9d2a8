"""Order: event words as the kernels write them, step by step, into the order of time.

Step after step, counting says where each microsecond's events begin: all within the CPU's nearer
caches. What is left are events of one microsecond: on either side of where two steps meet, and of
one row, where noise comes first and pixels that fire again come last.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ezsr_synth.jit import jit, jit_into
from ezsr_synth.kernels import I64, T_SHIFT, U64

U32 = npt.NDArray[np.uint32]

LONGEST_US = 1 << 20
"""Counting takes time for every microsecond, so longer blocks had better be sorted."""
_MOST_MOVES, _RUN = 8, 32
_SHIFT, _ONE, _NEXT = np.uint64(T_SHIFT), np.uint32(1), np.uint64(1)


def order_steps(words: U64, counts: I64, t_us: I64, ordered: U64, filled: int) -> bool:
    """Append a block's event words to ordered[:filled], all in order; tell whether that is done.

    words   (K + 1, N), each step's words in any order, and room for those of one step
    counts  int64 (K,), how many there are of each step
    t_us    int64 (K + 1), the ends of the steps; an event may lie on either
    filled  what is there already is not later than t_us[0]

    False, and the appended words left in any order, where the block is long or too many events
    share a microsecond.
    """
    if int(t_us[-1] - t_us[0]) > LONGEST_US:
        parts = [row[:count] for row, count in zip(words[:-1], counts, strict=True)]
        np.concatenate(parts, out=ordered[filled : filled + int(counts.sum())])
        return False
    places = np.empty(int(np.diff(t_us).max()) + 1, np.uint32)
    return bool(_count_into(words, counts, t_us, places, ordered, filled))


@jit
def _count_into(words: U64, counts: I64, t_us: I64, places: U32, ordered: U64, filled: int) -> bool:
    """Put every word in place; `places` has room for every microsecond of a step.

    First within one row, which the caches hold, and from there on in one go: written one by one all
    over memory that is new to the caches, words take three times as long.
    """
    start, row = max(filled, 1), words[len(counts)]
    for k in range(len(counts)):
        begin, length = np.uint64(t_us[k] << T_SHIFT), t_us[k + 1] - t_us[k] + 1
        for us in range(length):
            places[us] = 0
        for n in range(counts[k]):
            places[(words[k, n] - begin) >> _SHIFT] += _ONE
        free, first = np.uint32(0), np.uint64(filled)
        for us in range(length):
            count, places[us] = places[us], free
            free += count
        for n in range(counts[k]):
            moment = (words[k, n] - begin) >> _SHIFT
            row[places[moment]] = words[k, n]
            places[moment] += _ONE
        for n in range(np.uint64(counts[k])):
            ordered[first + n] = row[n]
        filled += counts[k]
    return bool(_insert(ordered, start, filled))


@jit_into
def _insert(words: U64, start: int, stop: int) -> bool:
    """Put words that are out of order by little where they belong, unless that takes long."""
    left = _MOST_MOVES * (stop - start)
    for first in range(start, stop, _RUN):
        last, late = min(first + _RUN, stop), False
        for n in range(np.uint64(first), np.uint64(last)):  # no branch: most runs are in order
            late |= words[n - _NEXT] > words[n]
        if late:
            for n in range(first, last):
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
    words, counts = np.zeros((2, 1), np.uint64), np.ones(1, np.int64)
    order_steps(words, counts, np.array([0, 1]), np.empty(1, np.uint64), 0)
