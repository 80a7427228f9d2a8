"""Look-up and order: what is done eight or thousands at a time is what one by one would be."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest

from ezsr_synth import kernels, lanes, reduce
from ezsr_synth.kernels import T_SHIFT
from ezsr_synth.order import order_steps
from ezsr_synth.rows import sample_row

F32 = npt.NDArray[np.float32]


def draw_warp(rng: np.random.Generator, turn_deg: float, scale: float) -> npt.NDArray[np.float64]:
    """Return a warp that turns and scales about (40, 40)."""
    angle = np.deg2rad(turn_deg)
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    warp = np.eye(3)
    warp[:2, :2] = matrix
    warp[:2, 2] = np.array([130, 130]) - matrix @ [40, 40] + rng.uniform(0, 1, 2)
    return warp


def look_up(picture: F32, warp: npt.NDArray[np.float64], y: int, width: int) -> F32:
    row = np.empty(width, np.float32)
    sample_row(picture, warp, y, width, row)
    return row


@pytest.mark.parametrize("width", [1, 15, 16, 17, 31, 64, 65, 80, 100])
@pytest.mark.parametrize(
    ("turn_deg", "scale"),
    [
        (0, 1),
        (3, 1.03),
        (-3, 0.97),
        (3.8, 1),
        (4, 1),
        (8.2, 1),
        (8.3, 1),
        (0, 1.142),
        (0, 1.144),
        (2, 0.86),
        (0, 0.85),
        (0, 1.9),
        (0, 2),
        (1, 0.2),
        (30, 1),
        (180, 1),
    ],
)
def test_runs_are_looked_up_as_single_points_are(turn_deg: float, scale: float, width: int) -> None:
    """Where nothing lies below, runs are not: the same picture cut there gives the same bits."""
    rng = np.random.default_rng([width, round(10 * scale), int(turn_deg) % 360])
    picture = rng.normal(-2, 2, (400, 301)).astype(np.float32)
    warp = draw_warp(rng, turn_deg, scale)
    for y in (0, 40, 79):
        points = np.stack([np.arange(width), np.full(width, y), np.ones(width)])
        px, py, _ = warp @ points
        if min(px.min(), py.min()) < 0 or px.max() > 299:
            continue
        found = look_up(picture, warp, y, width)
        cut = look_up(np.ascontiguousarray(picture[: int(py.max()) + 2]), warp, y, width)
        assert np.array_equal(found, cut)
        i, j = px.astype(int), py.astype(int)
        fx, fy = px - i, py - j
        double = picture.astype(np.float64)
        above = (1 - fx) * double[j, i] + fx * double[j, i + 1]
        below = (1 - fx) * double[j + 1, i] + fx * double[j + 1, i + 1]
        assert np.abs(found - ((1 - fy) * above + fy * below)).max() < 3e-5


def test_runs_end_with_the_picture() -> None:
    """Every row down to the last that can be looked up, in pictures as narrow as a run and less."""
    rng = np.random.default_rng(0)
    for stride in (17, 20, 31, 32, 33, 48):
        picture = rng.normal(size=(24, stride)).astype(np.float32)
        for top in range(23):
            warp = np.array([[1, 0, 0.5], [0, 1, top], [0, 0, 1.0]])
            row = look_up(picture, warp, 0, 16)
            expected = 0.5 * (picture[top, :16] + picture[top, 1:17])
            assert np.abs(row - expected).max() < 1e-6


def draw_block(
    rng: np.random.Generator, t_us: npt.NDArray[np.int64], most: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return up to `most` words of each step, unordered, and how many there are."""
    counts = rng.integers(0, most + 1, len(t_us) - 1)
    words = rng.integers(0, 1 << 60, (len(counts) + 1, most + 3), "u8")  # the rest is never read
    for k, n in enumerate(counts):
        t = rng.integers(t_us[k], t_us[k + 1], n, endpoint=True).astype(np.uint64)
        y, x = rng.integers(0, 7, n, "u8"), rng.integers(0, 99, n, "u8")
        words[k, :n] = t << np.uint64(T_SHIFT) | y << np.uint64(14) | x
    return words, counts


def list_words(
    words: npt.NDArray[np.uint64], counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    return np.concatenate([row[:n] for row, n in zip(words[:-1], counts, strict=True)])


@pytest.mark.parametrize("seed", range(20))
def test_blocks_of_steps_come_in_order(seed: int) -> None:
    """Of any lengths, down to 1 us, so that many events lie on the times that steps share."""
    rng = np.random.default_rng(seed)
    t_us = np.concatenate([[0], np.cumsum(rng.integers(1, 1 + 10 ** rng.integers(1, 4), 9))])
    ordered, filled, everything = np.zeros(4000, np.uint64), 0, np.empty(0, np.uint64)
    for start, stop in ((0, 2), (2, 3), (3, 9)):
        words, counts = draw_block(rng, t_us[start : stop + 1], int(rng.integers(0, 140)))
        done = order_steps(words, counts, t_us[start : stop + 1], ordered, filled)
        everything = np.concatenate([everything, list_words(words, counts)])
        filled = len(everything)
        if not done:  # nearly all in a microsecond or two
            ordered[:filled].sort()
    assert np.array_equal(ordered[:filled], np.sort(everything))


def test_too_many_events_of_a_microsecond_are_left_to_a_real_sort() -> None:
    rng = np.random.default_rng(0)
    words, counts = draw_block(rng, np.array([0, 1]), 9000)
    ordered = np.empty(int(counts.sum()), np.uint64)
    assert not order_steps(words, counts, np.array([0, 1]), ordered, 0)
    assert np.array_equal(np.sort(ordered), np.sort(list_words(words, counts)))


def test_long_blocks_are_left_to_a_real_sort() -> None:
    t_us = np.array([0, 1 << 20, (1 << 20) + 9])
    words, counts = draw_block(np.random.default_rng(1), t_us, 50)
    ordered = np.zeros(int(counts.sum()) + 1, np.uint64)
    assert not order_steps(words, counts, t_us, ordered, 1)
    assert np.array_equal(ordered[1:], list_words(words, counts))


@pytest.mark.parametrize(
    ("told", "host", "expected"),
    [
        (None, "+avx512f,+avx2", {"avx512f", "avx2"}),
        (None, "-avx512f,+avx2", {"avx2"}),  # as LLVM lists what a CPU has not
        (None, "+neon", set()),
        (None, "", set()),
        ("", "+avx512f,+avx2", set()),
        ("+avx2,+avx512f", "", {"avx512f", "avx2"}),
        ("+avx2", "+avx512f", {"avx2"}),
    ],
)
def test_instructions_are_asked_of_cpus_that_have_them(
    told: str | None, host: str, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes.settings, "CPU_FEATURES", told)
    monkeypatch.setattr(lanes.codegen, "get_host_cpu_features", lambda: host)
    assert {name for name in ("avx512f", "avx2") if lanes._can(name)} == expected


def test_what_numba_is_forbidden_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes.settings, "CPU_FEATURES", None)
    monkeypatch.setattr(lanes.settings, "ENABLE_AVX", 0)
    assert not lanes._can("avx2")
    assert not lanes._can("avx512f")


@pytest.mark.parametrize("module", [kernels, reduce])
def test_cached_kernels_know_what_is_compiled_into_them(module: ModuleType) -> None:
    folder = Path(kernels.__file__).parent
    names = ("chance", "jit", "lanes", "lookup", "photoreceptor", "rows", "vector")
    sources = b"".join((folder / f"{name}.py").read_bytes() for name in names)
    digest = hashlib.sha256(sources).hexdigest()[:16]
    assert digest == module.COMPILED_IN, "put the digest there, so that no cached code is used"
