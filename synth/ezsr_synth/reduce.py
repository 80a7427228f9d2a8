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
from ezsr_synth.vector import peek_scene, poke_row

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]
_HALF = np.float32(0.5)


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
    scale = length / reduced
    most = min(int(np.ceil(scale - 1e-9)) + 1, length)
    edges = np.minimum(np.arange(start, stop + 1) * scale, length)
    first = np.minimum(np.floor(edges[:-1] + 1e-9).astype(np.int32), length - most)
    places = first + np.arange(most)[:, None]
    covered = np.minimum(places + 1, edges[1:]) - np.maximum(places, edges[:-1])
    shares = np.clip(covered, 0, None) / scale
    first = (first[:, None] * channels + np.arange(channels)).ravel().astype(np.int32)
    weights = np.repeat(shares, channels, axis=1).astype(np.float32)
    return Taps(first, channels, np.ascontiguousarray(weights))


def reduce_rgb(rgb: U8, size: tuple[int, int], window: tuple[int, int, int, int]) -> U8:
    """Return the window (x0, y0, x1, y1) of an RGB picture (h, w, 3) reduced to (width, height)."""
    x0, y0, x1, y1 = window
    height, width = rgb.shape[:2]
    across, down = area_taps(width, size[0], x0, x1, channels=3), area_taps(height, size[1], y0, y1)
    left, right = across.first[0], across.first[-1] + 1 + 3 * (len(across.weights) - 1)
    top, bottom = down.first[0], down.first[-1] + len(down.weights)
    codes = np.ascontiguousarray(rgb[top:bottom, left // 3 : right // 3])
    out = np.empty((y1 - y0, (x1 - x0) * 3), np.uint8)
    across.first[:] -= left
    down.first[:] -= top
    _reduce_codes(codes.reshape(bottom - top, -1), across, down, out)
    return out.reshape(y1 - y0, x1 - x0, 3)


def reduce_luminance(rgb: U8, weights: F32, size: tuple[int, int]) -> F32:
    """Return sum over c of weights[c, rgb[..., c]], reduced: (h, w, 3) and (3, 256) -> (H, W)."""
    out = np.empty(size[::-1], np.float32)
    across = area_taps(rgb.shape[1], size[0], 0, size[0])
    down = area_taps(rgb.shape[0], size[1], 0, size[1])
    _reduce_light(np.ascontiguousarray(rgb), weights, across, down, out)
    return out


@jit
def _reduce_codes(codes: U8, across: Taps, down: Taps, out: U8) -> None:
    total, mean = np.empty(codes.shape[1], np.float32), np.empty(out.shape[1], np.float32)
    for y in range(out.shape[0]):
        total[:] = 0
        for k in range(down.weights.shape[0]):
            share = down.weights[k, y]
            if share > 0:
                source = codes[down.first[y] + k]
                for n in range(source.shape[0]):
                    total[n] += share * np.float32(source[n])
        _average(total, across, mean)
        for n in range(out.shape[1]):
            out[y, n] = np.uint8(np.int32(mean[n] + _HALF))


@jit
def _reduce_light(rgb: U8, weights: F32, across: Taps, down: Taps, out: F32) -> None:
    width = rgb.shape[1]
    rows, held = np.empty((2, width), np.float32), np.full(2, -1, np.int64)
    total = np.empty(width, np.float32)
    for y in range(out.shape[0]):
        total[:] = 0
        for k in range(down.weights.shape[0]):
            share, at = down.weights[k, y], down.first[y] + k
            if share > 0:
                light = rows[at & 1]
                if held[at & 1] != at:  # two rows are all that a row is part of
                    held[at & 1] = at
                    _weigh_row(rgb[at], weights, light)
                for x in range(width):
                    total[x] += share * light[x]
        _average(total, across, out[y])


@jit_into
def _weigh_row(row: U8, weights: F32, light: F32) -> None:
    for x in range(row.shape[0]):
        value = peek_scene(weights, 0, np.int32(row[x, 0])) + peek_scene(
            weights, 256, np.int32(row[x, 1])
        )
        poke_row(light, 0, x, value + peek_scene(weights, 512, np.int32(row[x, 2])))


@jit_into
def _average(total: F32, across: Taps, mean: F32) -> None:
    mean[:] = 0
    for k in range(across.weights.shape[0]):
        shares, away = across.weights[k], k * across.apart
        for n in range(mean.shape[0]):
            mean[n] += shares[n] * peek_scene(total, away, across.first[n])


def compile_reduction() -> None:
    """Compile every kernel of this file, or load it from the cache."""
    rgb = np.zeros((4, 4, 3), np.uint8)
    reduce_luminance(rgb, np.zeros((3, 256), np.float32), (2, 2))
    reduce_rgb(rgb, (2, 2), (0, 0, 2, 2))
