"""Look-up: a register's worth of points on a line in a picture at once, bilinearly.

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
from llvmlite import ir
from numba.core import types

from ezsr_synth.jit import jit_into
from ezsr_synth.vector import LANES, PACKS, PERMUTES, declare, intrinsic, make_array, overload

POINT_BITS = 24
"""Positions are fixed-point numbers, int32, with so many bits behind the point."""
RUN = LANES
"""Points that are looked up at once: 16 with AVX-512, else 8."""

_UNIT = 2.0**-POINT_BITS
_FRACTION = 2**POINT_BITS - 1
_WORD, _LONG, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_WORDS, _FLOATS = ir.VectorType(_WORD, LANES), ir.VectorType(_FLOAT, LANES)
_ONE, _COUNT, _LAST = _WORDS([1] * LANES), _WORDS(list(range(LANES))), _WORD(LANES - 1)
_PICK, _PICK_ONE = "llvm.x86.avx512.vpermi2var.ps.512", "llvm.x86.avx2.permps"


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
        near = bool(abs(across - ((RUN - 1) << POINT_BITS)) <= _FRACTION and between_px[0] >= 2)
    return bool(near and down <= _FRACTION and inside)


def look_up_run(
    picture: npt.NDArray[np.float32],
    corner: int,
    x: tuple[np.int32, np.int32],
    y: tuple[np.int32, np.int32],
    row: npt.NDArray[np.float32],
    place: int,
) -> None:
    """Look up RUN points of a line that `sees_runs` into row[place : place + RUN].

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
    """Add weights[n] * values[first[n] + away] to row[n], for RUN n from `place` on.

    Only where the CPU PACKS.

    first    less than 2 RUN from one another, none before the first; 2 RUN values are loaded
    weights  of any shape; the first that is meant is at the offset `start`
    """
    for n in range(place, place + RUN):
        row[n] += weights.reshape(-1)[start + n - place] * values[first[n] + away]


class _Vectors:
    """Writes LLVM instructions on LANES lanes."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder

    def splat(self, value: Any) -> Any:
        none = _WORDS(ir.Undefined)
        low = self._builder.insert_element(none, value, _WORD(0))
        return self._builder.shuffle_vector(low, none, _WORDS([0] * LANES))

    def positions(self, first: Any, step: Any) -> Any:
        away = self._builder.mul(self.splat(step), _COUNT)
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
        """Load two registers of pixels."""
        return self.load(at), self.load(self._builder.gep(at, [_LONG(LANES)]))

    def pick(self, row: tuple[Any, Any], lane: Any) -> Any:
        builder, module = self._builder, self._builder.module
        if PERMUTES:
            kind = ir.FunctionType(_FLOATS, [_FLOATS, _WORDS, _FLOATS])
            return builder.call(declare(module, kind, _PICK), [row[0], lane, row[1]])
        permute = declare(module, ir.FunctionType(_FLOATS, [_FLOATS, _WORDS]), _PICK_ONE)
        low, high = (builder.call(permute, [half, lane]) for half in row)
        return builder.select(builder.icmp_signed("<", lane, _WORDS([LANES] * LANES)), low, high)

    def least(self, a: Any, b: Any) -> Any:
        return self._builder.select(self._builder.icmp_signed("<", a, b), a, b)

    def pair_picker(self, ends: tuple[Any, Any], column: Any) -> tuple[Any, Callable[[Any], Any]]:
        """Return the leftmost column, and what picks every lane's two values of a row from there.

        ends    columns of the first lane and of the last
        column  of every lane
        """
        builder = self._builder
        if PERMUTES:
            lane = builder.sub(column, self.splat(ends[0]))

            def permute(at: Any) -> tuple[Any, Any]:
                row = self.load_row(at)
                return self.pick(row, lane), self.pick(row, builder.add(lane, _ONE))

            return ends[0], permute

        left = self.least(ends[0], builder.sub(ends[1], _LAST))
        nearer = builder.icmp_signed("==", column, builder.add(self.splat(left), _COUNT))

        def select(at: Any) -> tuple[Any, Any]:
            zero, one, two = (self.load(builder.gep(at, [_LONG(n)])) for n in (0, 1, 2))
            return builder.select(nearer, zero, one), builder.select(nearer, one, two)

        return left, select

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
        ends_x, ends_y = (
            (vectors.whole(first), vectors.whole(builder.add(first, builder.mul(step, _LAST))))
            for first, step in ((first_x, step_x), (first_y, step_y))
        )
        left, pick_pair = vectors.pair_picker(ends_x, vectors.whole(px))
        top = vectors.least(*ends_y)
        at = builder.add(values[1], builder.sext(left, _LONG))
        at = builder.add(at, builder.mul(builder.sext(top, _LONG), stride))
        pointer = builder.gep(scene.data, [at])
        fx, fy = vectors.fraction(px), vectors.fraction(py)
        rows = []
        for _ in range(3):
            rows.append(vectors.blend(fx, *pick_pair(pointer)))
            pointer = builder.gep(pointer, [stride])
        higher = builder.icmp_signed("==", vectors.whole(py), vectors.splat(top))
        above, below = (builder.select(higher, rows[n], rows[n + 1]) for n in (0, 1))
        vectors.store(vectors.blend(fy, above, below), builder.gep(out.data, [values[5]]))
        return context.get_dummy_value()

    return types.void(picture, types.int64, x, y, row, types.int64), generate


@overload(look_up_run)
def _compile_look_up_run(picture, corner, x, y, row, place):  # type: ignore[no-untyped-def]
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
    if not PACKS:
        return lambda values, first, away, weights, start, row, place: None  # never comes to it
    return lambda values, first, away, weights, start, row, place: _add(
        values, first, away, weights, start, row, place
    )
