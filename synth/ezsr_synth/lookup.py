"""Look-up: what LANES points on a line see in a picture, bilinearly, at once.

A gather instruction loads its lanes one by one, four values a point. But where the sensor turns
and scales little, what neighbours see lies in three rows of a few picture pixels: these are loaded
whole, and every point picks its four values out of registers. With AVX-512 by number, among 32
pixels. Elsewhere point n sees either the n-th pixel of a row or the one after it, and picks between
rows that were loaded at both places. Same values, same arithmetic as the loop in `rows.py`, so
the same bits. Likewise neighbours of a reduced row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ezsr_synth.jit import jit_into
from ezsr_synth.lanes import LANES, PERMUTES, choose, load, number_lanes, pick, store, to_floats

POINT_BITS = 24
"""Positions are fixed-point numbers, int32, with so many bits behind the point."""
RUN = LANES
"""Points that are looked up at once: 16 with AVX-512, else 8."""

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
_BITS, _FRACTION = np.int32(POINT_BITS), np.int32(2**POINT_BITS - 1)
_UNIT = np.float32(2.0**-POINT_BITS)
_ONE, _LAST = np.int32(1), np.int32(RUN - 1)


@jit_into
def sees_runs(
    shape: tuple[int, int], steps: tuple[np.int32, np.int32], between_px: tuple[float, float]
) -> bool:
    """Tell whether runs of a line may be looked up in pictures of that shape.

    steps       from point to point, across and down, in fixed point
    between_px  how far up and down in the picture the line goes

    In a run, the line must go up or down by less than a row, and right: by less than 31 columns
    with permutes, else by less than one more or less than there are points. More is loaded than
    seen: a row further down than the two below, or a value to the left of the line's.
    """
    across, down = np.int64(steps[0]) * (RUN - 1), np.int64(abs(steps[1])) * (RUN - 1)
    inside = between_px[1] + 4 < shape[0] and shape[1] >= 2 * RUN
    if PERMUTES:
        near = bool(0 <= across < (2 * RUN - 2) << POINT_BITS)
    else:
        near = bool(
            abs(across - ((RUN - 1) << POINT_BITS)) < 1 << POINT_BITS and between_px[0] >= 2
        )
    return bool(near and down < 1 << POINT_BITS and inside)


@jit_into
def _blend(share: Any, zero: Any, one: Any) -> Any:
    return zero + share * (one - zero)


@jit_into
def _blend_by_number(picture: F32, at: int, column: Any, share: Any) -> Any:
    """Return what lies a share of the way from a column of a row to the next, of LANES columns."""
    low, high = load(picture, at), load(picture, at + LANES)
    return _blend(share, pick(low, high, column), pick(low, high, column + _ONE))


@jit_into
def _blend_by_choice(picture: F32, at: int, column: Any, share: Any) -> Any:
    """Return the same where lane n looks at column n or the one after it."""
    nearer = column == number_lanes()
    zero, one, two = load(picture, at), load(picture, at + 1), load(picture, at + 2)
    return _blend(share, choose(nearer, zero, one), choose(nearer, one, two))


_blend_row: Callable[[F32, int, Any, Any], Any] = _blend_by_number if PERMUTES else _blend_by_choice


@jit_into
def look_up_run(
    picture: F32,
    corner: int,
    x: tuple[np.int32, np.int32],
    y: tuple[np.int32, np.int32],
    row: F32,
    place: int,
) -> None:
    """Look up RUN points of a line that `sees_runs` into row[place : place + RUN].

    corner  the picture pixel that positions are relative to, as an offset into the picture
    x, y    the first point, and the step from each to the next, in fixed point
    """
    px, py = x[0] + x[1] * number_lanes(), y[0] + y[1] * number_lanes()
    ends_x, ends_y = np.int32(x[0] + x[1] * _LAST), np.int32(y[0] + y[1] * _LAST)
    left, top = np.int32(x[0] >> _BITS), np.int32(min(y[0] >> _BITS, ends_y >> _BITS))
    if not PERMUTES:
        left = np.int32(min(left, (ends_x >> _BITS) - _LAST))
    stride = picture.shape[1]
    at = corner + np.int64(top) * stride + np.int64(left)
    column = (px >> _BITS) - left
    fx, fy = to_floats(px & _FRACTION) * _UNIT, to_floats(py & _FRACTION) * _UNIT
    zero = _blend_row(picture, at, column, fx)
    one = _blend_row(picture, at + stride, column, fx)
    two = _blend_row(picture, at + 2 * stride, column, fx)
    higher = (py >> _BITS) == top
    store(row, place, _blend(fy, choose(higher, zero, one), choose(higher, one, two)))


@jit_into
def add_run(
    values: F32, first: I32, away: int, weights: F32, start: int, row: F32, place: int
) -> None:
    """Add weights times values[first + away] to row[place : place + RUN].

    first    less than 2 RUN from one another, none before the first; 2 RUN values are loaded
    weights  of any shape; the first that is meant is at the offset `start`
    """
    lowest = first[place]
    low, high = load(values, lowest + away), load(values, lowest + away + LANES)
    seen = pick(low, high, load(first, place) - lowest)
    store(row, place, load(row, place) + load(weights, start) * seen)
