"""Reduce: pictures to the sensor's scale, every pixel the mean of the area that it covers.

What OpenCV's INTER_AREA gives, at less than half its time, and only where it is looked at: a row of
the picture is read once, added to the one or two rows that it is part of, and these are then
averaged along x.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ezsr_synth.jit import jit, jit_into
from ezsr_synth.lanes import PACKS
from ezsr_synth.lookup import RUN, add_run
from ezsr_synth.vector import peek_scene, poke_row

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
_HALF = np.float32(0.5)
_BEYOND = 2 * RUN
"""Values that follow a row, since so many are loaded at once; they never count."""

COMPILED_IN = "55cebc5219bd856a"
"""As in `kernels.py`."""


class Taps(NamedTuple):
    """Which values a reduced one is the mean of, along one axis.

    first    int32 (n,), the first of them
    apart    how far they are apart: the channels of a pixel stand side by side
    weights  float32 (K, n), the share of each, 0 where there are fewer than K
    """

    first: I32
    apart: int
    weights: F32


def area_taps(length: int, reduced: int, start: int, stop: int, channels: int = 1) -> Taps:
    """Return the taps of pixels start to stop, of `reduced` ones that cover `length`."""
    most = min(int(np.ceil(length / reduced - 1e-9)) + 1, length)
    count = (stop - start) * channels
    taps = Taps(np.empty(count, np.int32), channels, np.empty((most, count), np.float32))
    _cover(length, length / reduced, start, taps)
    return taps


@jit
def _cover(length: int, scale: float, start: int, taps: Taps) -> None:
    """Fill in taps: pixel n covers from n scale to (n + 1) scale, and pixels before and beyond."""
    most, count = taps.weights.shape
    for n in range(0, count, taps.apart):
        pixel = start + n // taps.apart
        begin, end = min(pixel * scale, length), min((pixel + 1) * scale, length)
        first = min(int(np.floor(begin + 1e-9)), length - most)
        for channel in range(taps.apart):
            taps.first[n + channel] = first * taps.apart + channel
        for k in range(most):
            covered = min(first + k + 1.0, end) - max(float(first + k), begin)
            for channel in range(taps.apart):
                taps.weights[k, n + channel] = np.float32(max(covered, 0.0) / scale)


def reduce_rgb(rgb: U8, crop: Box, size: tuple[int, int], window: Box) -> U8:
    """Return the window of a picture's crop that is reduced to (width, height), as RGB.

    rgb   uint8 (h, w, 3)
    crop  (x0, y0, x1, y1) in its pixels; `window` in those of the reduced crop
    """
    x0, y0, x1, y1 = window
    across = area_taps(crop[2] - crop[0], size[0], x0, x1, channels=3)
    down = area_taps(crop[3] - crop[1], size[1], y0, y1)
    out = np.empty((y1 - y0, (x1 - x0) * 3), np.uint8)
    left = int(across.first[0])
    total = np.empty(int(across.first[-1]) + 3 * len(across.weights) - left + _BEYOND, np.float32)
    across.first[:] -= left
    codes = np.ascontiguousarray(rgb).reshape(len(rgb), -1)
    corner = crop[1], 3 * crop[0] + left
    _reduce_codes(codes, corner, across, down, (total, np.empty(out.shape[1], np.float32)), out)
    return out.reshape(y1 - y0, x1 - x0, 3)


def reduce_luminance(rgb: U8, crop: Box, weights: F32, size: tuple[int, int]) -> F32:
    """Return sum over c of weights[c, rgb[..., c]] of a crop, reduced: (3, 256) -> (H, W)."""
    width = crop[2] - crop[0]
    across = area_taps(width, size[0], 0, size[0])
    down = area_taps(crop[3] - crop[1], size[1], 0, size[1])
    out = np.empty(size[::-1], np.float32)
    rows = np.empty((3, width + _BEYOND), np.float32)
    _reduce_light(np.ascontiguousarray(rgb), crop[:2], weights, (across, down), rows, out)
    return out


@jit
def _reduce_codes(
    codes: U8,
    corner: tuple[int, int],
    across: Taps,
    down: Taps,
    rows: tuple[F32, F32],
    out: U8,
) -> None:
    (top, left), (total, mean) = corner, rows
    width = total.shape[0] - _BEYOND
    for y in range(out.shape[0]):
        total[:] = 0
        for k in range(down.weights.shape[0]):
            share = down.weights[k, y]
            if share > 0:
                source = codes[top + down.first[y] + k, left : left + width]
                for n in range(source.shape[0]):
                    total[n] += share * np.float32(source[n])
        _average(total, across, mean)
        for n in range(out.shape[1]):
            out[y, n] = np.uint8(np.int32(mean[n] + _HALF))


@jit
def _reduce_light(
    rgb: U8,
    corner: tuple[int, int],
    weights: F32,
    taps: tuple[Taps, Taps],
    rows: F32,
    out: F32,
) -> None:
    (left, top), (across, down) = corner, taps
    width, total, held = rows.shape[1] - _BEYOND, rows[2], (-1, -1)
    for y in range(out.shape[0]):
        total[:] = 0
        for k in range(down.weights.shape[0]):
            share, at = down.weights[k, y], top + down.first[y] + k
            if share > 0:
                light = rows[at & 1]
                if at not in held:  # two rows are all that a row is part of
                    held = (at, held[1]) if at & 1 == 0 else (held[0], at)
                    _weigh_row(rgb[at, left : left + width], weights, light)
                for x in range(width):
                    total[x] += share * light[x]
        _average(total, across, out[y])


@jit_into
def _weigh_row(row: U8, weights: F32, light: F32) -> None:
    for x in range(row.shape[0]):
        red, green, blue = row[x, 0], row[x, 1], row[x, 2]
        value = peek_scene(weights, 0, np.int32(red)) + peek_scene(weights, 256, np.int32(green))
        poke_row(light, 0, x, value + peek_scene(weights, 512, np.int32(blue)))


@jit_into
def _average(total: F32, across: Taps, mean: F32) -> None:
    """Reduce a row along x: in runs, up to the first that sees too far for it."""
    mean[:] = 0
    count, most = mean.shape[0], across.weights.shape[0]
    done = 0
    while PACKS and done + RUN <= count:
        if across.first[done + RUN - 1] - across.first[done] >= 2 * RUN:
            break
        for k in range(most):
            away = k * across.apart
            add_run(total, across.first, away, across.weights, k * count + done, mean, done)
        done += RUN
    for k in range(most):
        away = k * across.apart
        for n in range(done, count):
            mean[n] += across.weights[k, n] * peek_scene(total, away, across.first[n])


def compile_reduction() -> None:
    """Compile every kernel of this file, or load it from the cache."""
    rgb = np.zeros((4, 4, 3), np.uint8)
    crop = 0, 0, 4, 4
    reduce_luminance(rgb, crop, np.zeros((3, 256), np.float32), (2, 2))
    reduce_rgb(rgb, crop, (2, 2), (0, 0, 2, 2))
