"""Lanes: what is said of a register is what NumPy says of an array, value by value."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

from ezsr_synth import lanes
from ezsr_synth.lanes import LANES, load, load_bits, store, to_bits

ARITHMETIC = (operator.add, operator.sub, operator.mul)
COMPARISONS = (operator.lt, operator.le, operator.gt, operator.ge, operator.eq)
BROKEN, WHOLE = (np.float32, np.float64), (np.int32, np.uint32, np.uint64)


def draw(kind: type, seed: int) -> np.ndarray:
    """Draw values of which some are equal, and some below 0 where there are any."""
    rng = np.random.default_rng([seed, np.dtype(kind).num])
    values = rng.integers(-4, 5, 3 * LANES)
    if kind in BROKEN:
        return (values / 3).astype(kind)
    return (values if kind == np.int32 else abs(values) << 20).astype(kind)


def apply(work: Callable[..., Any], *given: np.ndarray, out: type) -> np.ndarray:
    """Apply compiled work on lanes to arrays, a register at a time."""
    compiled = numba.njit(work)

    @numba.njit
    def one(a: np.ndarray, found: np.ndarray) -> None:
        for n in range(0, len(a), LANES):
            store(found, n, compiled(load(a, n)))

    @numba.njit
    def two(a: np.ndarray, b: np.ndarray, found: np.ndarray) -> None:
        for n in range(0, len(a), LANES):
            store(found, n, compiled(load(a, n), load(b, n)))

    found = np.zeros(len(given[0]), out)
    (one if len(given) == 1 else two)(*given, found)
    return found


def mark(compare: Callable[..., Any], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compare compiled lanes, and return the bits as booleans."""
    compiled = numba.njit(compare)

    @numba.njit
    def bits_of(a: np.ndarray, b: np.ndarray, n: int) -> int:
        return to_bits(compiled(load(a, n), load(b, n)))

    found = [bits_of(a, b, n) for n in range(0, len(a), LANES)]
    return np.array([bits >> lane & 1 for bits in found for lane in range(LANES)], bool)


@pytest.mark.parametrize("kind", BROKEN + WHOLE)
@pytest.mark.parametrize("sign", ARITHMETIC)
def test_arithmetic_is_that_of_arrays(sign: Callable[..., Any], kind: type) -> None:
    """Wrapping round where whole numbers do; with one number on either side, too."""
    a, b, one = draw(kind, 1), draw(kind, 2), kind(3)
    assert np.array_equal(apply(lambda x, y: sign(x, y), a, b, out=kind), sign(a, b))
    assert np.array_equal(apply(lambda x: sign(x, one), a, out=kind), sign(a, one))
    assert np.array_equal(apply(lambda x: sign(one, x), a, out=kind), sign(one, a))


@pytest.mark.parametrize("kind", BROKEN)
def test_division_is_that_of_arrays(kind: type) -> None:
    a, b = draw(kind, 1), draw(kind, 2) + kind(7)
    assert np.array_equal(apply(lambda x, y: x / y, a, b, out=kind), a / b)


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("sign", COMPARISONS)
def test_comparisons_are_those_of_arrays(sign: Callable[..., Any], kind: type) -> None:
    a, b = draw(kind, 1), draw(kind, 2)
    assert sign(a, b).any()
    assert not sign(a, b).all()
    assert np.array_equal(mark(lambda x, y: sign(x, y), a, b), sign(a, b))
    assert np.array_equal(mark(lambda x, y: sign(x, y) & (x > y), a, b), sign(a, b) & (a > b))
    assert np.array_equal(mark(lambda x, y: sign(x, y) | (x > y), a, b), sign(a, b) | (a > b))


@pytest.mark.parametrize("kind", WHOLE)
def test_bits_are_those_of_arrays(kind: type) -> None:
    a, b, three = draw(kind, 1), draw(kind, 2), kind(3)
    assert np.array_equal(apply(lambda x, y: x & y, a, b, out=kind), a & b)
    assert np.array_equal(apply(lambda x, y: x | y, a, b, out=kind), a | b)
    assert np.array_equal(apply(lambda x: x << three, a, out=kind), a << three)
    assert np.array_equal(mark(lambda x, y: x == y, a, b), a == b)


def test_what_is_below_0_is_shifted_as_arrays_are() -> None:
    a, two = draw(np.int32, 1), np.int32(2)
    assert np.array_equal(apply(lambda x: x >> two, a, out=np.int32), a >> two)


def test_lanes_are_chosen_by_marks() -> None:
    a, b = draw(np.float32, 1), draw(np.float32, 2)
    least = apply(lambda x, y: lanes.least(x, y), a, b, out=np.float32)
    most = apply(lambda x, y: lanes.most(x, y), a, b, out=np.float32)
    chosen = apply(lambda x, y: lanes.choose(x > y, y, x), a, b, out=np.float32)
    assert np.array_equal(least, np.minimum(a, b))
    assert np.array_equal(most, np.maximum(a, b))
    assert np.array_equal(chosen, np.minimum(a, b))


@pytest.mark.parametrize(
    ("convert", "kinds", "out"),
    [
        (lanes.to_floats, (np.float64, np.int32), np.float32),
        (lanes.to_doubles, (np.float32,), np.float64),
        (lanes.to_words, (np.float64, np.int32), np.uint32),
        (lanes.to_longs, (np.uint32,), np.uint64),
    ],
)
def test_conversions_are_those_of_arrays(convert: Any, kinds: tuple[type, ...], out: type) -> None:
    for kind in kinds:
        a = draw(kind, 1)
        a = abs(a) if out == np.uint32 else a
        assert np.array_equal(apply(lambda x: convert(x), a, out=out), a.astype(out))


def test_marks_become_ones() -> None:
    a, b = draw(np.float32, 1), draw(np.float32, 2)
    found = apply(lambda x, y: lanes.to_longs(x > y), a, b, out=np.uint64)
    assert np.array_equal(found, a > b)


def test_lanes_are_spread_numbered_and_counted() -> None:
    @numba.njit
    def look(marks: np.ndarray, spread: np.ndarray, numbers: np.ndarray) -> tuple[int, int]:
        store(spread, 0, lanes.spread(spread[0]))
        store(numbers, 0, lanes.number_lanes())
        bits = load_bits(marks, 1)
        return bits, lanes.count_bits(bits)

    marks = np.tile(np.array([9, 0, 1], np.uint8), LANES)
    spread, numbers = np.full(LANES, 2.5), np.zeros(LANES, np.int32)
    spread[1:] = 0
    bits, count = look(marks, spread, numbers)
    assert [bits >> lane & 1 for lane in range(LANES)] == list(marks[1 : 1 + LANES] > 0)
    assert count == np.count_nonzero(marks[1 : 1 + LANES])
    assert np.all(spread == 2.5)
    assert numbers.tolist() == list(range(LANES))


@pytest.mark.skipif(not lanes.PACKS, reason="this CPU does not pick lanes by number")
def test_lanes_are_picked_by_number() -> None:
    rng = np.random.default_rng(3)
    pair = rng.normal(size=2 * LANES).astype(np.float32)

    @numba.njit
    def pick(pair: np.ndarray, wanted: np.ndarray, found: np.ndarray) -> None:
        store(found, 0, lanes.pick(load(pair, 0), load(pair, LANES), load(wanted, 0)))

    for _ in range(20):
        wanted, found = rng.integers(0, 2 * LANES, LANES, np.int32), np.zeros(LANES, np.float32)
        pick(pair, wanted, found)
        assert np.array_equal(found, pair[wanted])


def test_numbers_and_lanes_are_rounded_down_and_raise_two() -> None:
    x = np.linspace(-60, 60, 16 * LANES).astype(np.float32)
    assert np.array_equal(apply(lambda x: lanes.floor(x), x, out=np.float32), np.floor(x))
    power = np.floor(x)
    raised = apply(lambda x: lanes.raise_two(x), power, out=np.float32)
    assert np.array_equal(raised, np.exp2(power))
    one = numba.njit(lambda x: lanes.raise_two(lanes.floor(x)))
    assert [one(value) for value in x] == np.exp2(power).tolist()
