"""Look-up: sixteen points on a line in a picture at once, bilinearly.

A gather instruction loads its lanes one by one, four values a point. But where the sensor turns
and scales little, what sixteen neighbours see lies in three rows of 32 picture pixels: these are
loaded whole, and every point picks its four values out of registers. Same values, same arithmetic
as the loop in `kernels.py`, so the same bits. Likewise sixteen neighbours of a reduced row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types

from ezsr_synth.jit import jit_into
from ezsr_synth.vector import LANES, PERMUTES, declare, intrinsic, make_array, overload

POINT_BITS = 24
"""Positions are fixed-point numbers, int32, with so many bits behind the point."""
RUN = LANES
"""Points that are looked up at once."""

_UNIT = 2.0**-POINT_BITS
_FRACTION = 2**POINT_BITS - 1
_WORD, _LONG, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_WORDS, _FLOATS = ir.VectorType(_WORD, LANES), ir.VectorType(_FLOAT, LANES)
_ONE = _WORDS([1] * LANES)
_PICK = "llvm.x86.avx512.vpermi2var.ps.512"


@jit_into
def sees_runs(shape: tuple[int, int], steps: tuple[np.int32, np.int32], lowest_px: float) -> bool:
    """Tell whether runs of a line may be looked up: in pictures of that shape, on this CPU.

    steps      from point to point, across and down, in fixed point
    lowest_px  nothing on the line is farther down in the picture

    In a run, the line must go right, by less than 31 columns, and up or down by less than a row;
    and the two rows below must be followed by a further one, for 32 pixels are loaded of each.
    """
    across, down = np.int64(steps[0]) * (RUN - 1), np.int64(abs(steps[1])) * (RUN - 1)
    near = 0 <= across < (2 * RUN - 2) << POINT_BITS and down <= _FRACTION
    return bool(PERMUTES and near and lowest_px + 4 < shape[0] and shape[1] >= 2 * RUN)


def look_up_run(
    picture: npt.NDArray[np.float32],
    corner: int,
    x: tuple[np.int32, np.int32],
    y: tuple[np.int32, np.int32],
    row: npt.NDArray[np.float32],
    place: int,
) -> None:
    """Look up 16 points of a line that `sees_runs` into row[place : place + 16].

    corner  the picture pixel that positions are relative to, as an offset into the picture
    x, y    the first point, and the step from each to the next, in fixed point
    """
    flat, stride = picture.reshape(-1), picture.shape[1]
    for n in range(RUN):
        px, py = x[0] + x[1] * n, y[0] + y[1] * n
        at = corner + (py >> POINT_BITS) * stride + (px >> POINT_BITS)
        fx, fy = (np.float32((q & _FRACTION) * _UNIT) for q in (px, py))
        above, below = (
            flat[start] + fx * (flat[start + 1] - flat[start]) for start in (at, at + stride)
        )
        row[place + n] = above + fy * (below - above)


def add_run(
    values: npt.NDArray[np.float32],
    first: npt.NDArray[np.int32],
    away: int,
    weights: npt.NDArray[np.float32],
    start: int,
    row: npt.NDArray[np.float32],
    place: int,
) -> None:
    """Add weights[n] * values[first[n] + away] to row[n], for n = place to place + 15.

    first    within 31 of one another, none before the first of them; 32 values are loaded
    weights  of any shape; the first that is meant is at the offset `start`
    """
    for n in range(place, place + RUN):
        row[n] += weights.reshape(-1)[start + n - place] * values[first[n] + away]


class _Vectors:
    """Writes LLVM instructions on 16 lanes."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder

    def splat(self, value: Any) -> Any:
        none = _WORDS(ir.Undefined)
        low = self._builder.insert_element(none, value, _WORD(0))
        return self._builder.shuffle_vector(low, none, _WORDS([0] * LANES))

    def positions(self, first: Any, step: Any) -> Any:
        away = self._builder.mul(self.splat(step), _WORDS(list(range(LANES))))
        return self._builder.add(self.splat(first), away)

    def whole(self, position: Any) -> Any:
        bits = position.type([POINT_BITS] * LANES) if position.type == _WORDS else None
        return self._builder.ashr(position, bits or _WORD(POINT_BITS))

    def fraction(self, position: Any) -> Any:
        rest = self._builder.and_(position, _WORDS([_FRACTION] * LANES))
        return self._builder.fmul(self._builder.sitofp(rest, _FLOATS), _FLOATS([_UNIT] * LANES))

    def load(self, at: Any, kind: Any = _FLOATS) -> Any:
        return self._builder.load(self._builder.bitcast(at, kind.as_pointer()), align=4)

    def store(self, value: Any, at: Any) -> None:
        self._builder.store(value, self._builder.bitcast(at, _FLOATS.as_pointer()), align=4)

    def load_row(self, at: Any) -> tuple[Any, Any]:
        """Load 32 pixels."""
        return self.load(at), self.load(self._builder.gep(at, [_LONG(LANES)]))

    def pick(self, row: tuple[Any, Any], lane: Any) -> Any:
        kind = ir.FunctionType(_FLOATS, [_FLOATS, _WORDS, _FLOATS])
        function = declare(self._builder.module, kind, _PICK)
        return self._builder.call(function, [row[0], lane, row[1]])

    def blend(self, share: Any, zero: Any, one: Any) -> Any:
        change = self._builder.fsub(one, zero)
        return self._builder.fadd(zero, self._builder.fmul(share, change))


@intrinsic  # type: ignore[untyped-decorator]
def _look_up(typing: Any, picture: Any, corner: Any, x: Any, y: Any, row: Any, place: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vectors = _Vectors(builder)
        scene = make_array(signature.args[0])(context, builder, values[0])
        out = make_array(signature.args[4])(context, builder, values[4])
        stride = builder.extract_value(scene.shape, 1)
        first_x, step_x = (builder.extract_value(values[2], n) for n in (0, 1))
        first_y, step_y = (builder.extract_value(values[3], n) for n in (0, 1))
        px, py = vectors.positions(first_x, step_x), vectors.positions(first_y, step_y)

        left = vectors.whole(first_x)
        last_y = builder.add(first_y, builder.mul(step_y, _WORD(LANES - 1)))
        ends = vectors.whole(first_y), vectors.whole(last_y)
        top = builder.select(builder.icmp_signed("<", *ends), *ends)

        at = builder.add(values[1], builder.sext(left, _LONG))
        at = builder.add(at, builder.mul(builder.sext(top, _LONG), stride))
        pointer = builder.gep(scene.data, [at])
        rows = []
        for _ in range(3):
            rows.append(vectors.load_row(pointer))
            pointer = builder.gep(pointer, [stride])

        lane = builder.sub(vectors.whole(px), vectors.splat(left))
        lefts = [vectors.pick(row, lane) for row in rows]
        rights = [vectors.pick(row, builder.add(lane, _ONE)) for row in rows]
        higher = builder.icmp_signed("==", vectors.whole(py), vectors.splat(top))
        fx, fy = vectors.fraction(px), vectors.fraction(py)
        above, below = (
            vectors.blend(
                fx, *(builder.select(higher, side[n], side[n + 1]) for side in (lefts, rights))
            )
            for n in (0, 1)
        )
        vectors.store(vectors.blend(fy, above, below), builder.gep(out.data, [values[5]]))
        return context.get_dummy_value()

    return types.void(picture, types.int64, x, y, row, types.int64), generate


@overload(look_up_run)
def _compile_look_up_run(picture, corner, x, y, row, place):  # type: ignore[no-untyped-def]
    if not PERMUTES:
        return lambda picture, corner, x, y, row, place: None  # `sees_runs` never lets it happen
    return lambda picture, corner, x, y, row, place: _look_up(picture, corner, x, y, row, place)


@intrinsic  # type: ignore[untyped-decorator]
def _add(
    typing: Any, source: Any, first: Any, away: Any, weights: Any, start: Any, row: Any, place: Any
) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vectors, at = _Vectors(builder), values[6]
        pixels, places, shares, out = (
            make_array(signature.args[n])(context, builder, values[n]).data for n in (0, 1, 3, 5)
        )
        lanes = vectors.load(builder.gep(places, [at]), _WORDS)
        lowest = builder.extract_element(lanes, _WORD(0))
        begin = builder.add(builder.sext(lowest, _LONG), values[2])
        seen = vectors.pick(
            vectors.load_row(builder.gep(pixels, [begin])),
            builder.sub(lanes, vectors.splat(lowest)),
        )
        share = vectors.load(builder.gep(shares, [values[4]]))
        to = builder.gep(out, [at])
        vectors.store(builder.fadd(vectors.load(to), builder.fmul(share, seen)), to)
        return context.get_dummy_value()

    long = types.int64
    return types.void(source, first, long, weights, long, row, long), generate


@overload(add_run)
def _compile_add_run(values, first, away, weights, start, row, place):  # type: ignore[no-untyped-def]
    if not PERMUTES:
        return lambda values, first, away, weights, start, row, place: None  # never comes to it
    return lambda values, first, away, weights, start, row, place: _add(
        values, first, away, weights, start, row, place
    )
