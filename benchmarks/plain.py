"""The yardstick of the kernels: what anybody would write first, and write well.

OpenCV warps a frame for every time sample; a Numba loop compares every pixel of every frame with
its reference and writes the events of the crossings; a counting sort brings them in order. Buffers
are made once. Its events are those of `ezsr_synth.simulate` up to float rounding: same log picture,
same motion, same rule.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numba
import numpy as np


class Columns(NamedTuple):
    """Events: uint16 x and y, int64 t in microseconds, uint8 p."""

    x: Any
    y: Any
    t: Any
    p: Any


class Plain:
    """The yardstick at one sensor size, with room for `most` events."""

    def __init__(self, width: int, height: int, samples: int, most: int) -> None:
        """Make all buffers."""
        self.frames = np.empty((samples, height, width), np.float32)
        self.reference = np.empty((height, width), np.float32)
        self.raw, self.sorted = (self._columns(most) for _ in range(2))

    @staticmethod
    def _columns(most: int) -> Columns:
        kinds = (np.uint16, np.uint16, np.int64, np.uint8)
        return Columns(*(np.zeros(most, kind) for kind in kinds))

    def warp(self, log_picture: np.ndarray, warps: np.ndarray) -> None:
        """Fill the frames: affine warps (T, 3, 3) from sensor px to picture px."""
        height, width = self.reference.shape
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        for frame, warp in zip(self.frames, warps, strict=True):
            cv2.warpAffine(log_picture, warp[:2], (width, height), frame, flags)

    def fire(self, t_us: np.ndarray, on: float, off: float) -> Columns:
        """Return the events of the frames, sorted by t."""
        np.copyto(self.reference, self.frames[0])
        on, off = np.float32(on), np.float32(off)
        count = find_crossings(self.frames, t_us, on, off, self.reference, self.raw)
        if count > len(self.raw.x):
            raise ValueError(f"{count} events, room for {len(self.raw.x)}")
        sort_events(self.raw, count, int(t_us[-1]) + 1, self.sorted)
        return Columns(*(column[:count] for column in self.sorted))


@numba.njit(cache=True, error_model="numpy")
def find_crossings(frames, t_us, on, off, reference, events):  # type: ignore[no-untyped-def]
    """Write the events, frame by frame and pixel by pixel, that fit; return how many there are."""
    samples, height, width = frames.shape
    xs, ys, ts, ps = events
    last_us, count = t_us[-1] - 1, 0
    for k in range(1, samples):
        start, length = t_us[k - 1], t_us[k] - t_us[k - 1]
        for y in range(height):
            for x in range(width):
                now, ref = frames[k, y, x], reference[y, x]
                if ref - off < now < ref + on:
                    continue
                before = frames[k - 1, y, x]
                per_unit = length / (now - before)
                while now >= ref + on:
                    ref += on
                    if count < len(xs):
                        xs[count], ys[count], ps[count] = x, y, 1
                        ts[count] = min(start + int((ref - before) * per_unit + 0.5), last_us)
                    count += 1
                while now <= ref - off:
                    ref -= off
                    if count < len(xs):
                        xs[count], ys[count], ps[count] = x, y, 0
                        ts[count] = min(start + int((ref - before) * per_unit + 0.5), last_us)
                    count += 1
                reference[y, x] = ref
    return count


@numba.njit(cache=True, error_model="numpy")
def sort_events(events, count, stop_us, out):  # type: ignore[no-untyped-def]
    """Sort the first `count` events by t, all in [0, stop_us): a stable counting sort."""
    xs, ys, ts, ps = events
    out_x, out_y, out_t, out_p = out
    place = np.zeros(stop_us + 1, np.int32)
    for n in range(count):
        place[ts[n] + 1] += 1
    for m in range(1, stop_us + 1):
        place[m] += place[m - 1]
    for n in range(count):
        to = place[ts[n]]
        place[ts[n]] += 1
        out_x[to], out_y[to], out_t[to], out_p[to] = xs[n], ys[n], ts[n], ps[n]
