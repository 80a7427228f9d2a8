"""Every Numba kernel: arrays in, arrays out; no configuration, no I/O, no randomness.

Each has a slow twin in `tests/reference.py` that shares no code with it. One policy for all:
compiled once and cached on disk, without the interpreter lock, and without `fastmath`, so that
neither vector width nor block size can change a result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]

_ONE = 2.0**32
_FRACTION = 2**32 - 1
_UNIT = np.float32(2.0**-32)

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


def _jit(kernel: _Kernel) -> _Kernel:
    policy: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return cast(_Kernel, numba.njit(cache=True, **policy)(kernel))
    except RuntimeError:  # no folder for the cache can be written: compile in every process
        return cast(_Kernel, numba.njit(**policy)(kernel))


@_jit
def weigh_channels(rgb: U8, weights: F32) -> F32:
    """Return sum over c of weights[c, rgb[..., c]]: (H, W, 3) uint8 and (3, 256) -> (H, W)."""
    height, width = rgb.shape[:2]
    out = np.empty((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            out[y, x] = (
                weights[0, rgb[y, x, 0]] + weights[1, rgb[y, x, 1]] + weights[2, rgb[y, x, 2]]
            )
    return out


@_jit
def _sample_row(log_picture: F32, warp: F64, y: int, row: F32) -> None:
    """Look up sensor row y in the log picture, bilinearly; every point must lie inside.

    A warp without perspective steps through the picture in 32.32 fixed point: its error, under
    1e-6 px, is far below that of float32 coordinates (3e-5 px at 600 px, too much on steep
    edges), and it vectorises 2.4 times better than float64.
    """
    flat, stride = log_picture.ravel(), log_picture.shape[1]
    x0, y0 = warp[0, 1] * y + warp[0, 2], warp[1, 1] * y + warp[1, 2]
    if warp[2, 0] == 0.0 and warp[2, 1] == 0.0 and warp[2, 2] == 1.0:
        start_x, step_x = np.int64(x0 * _ONE), np.int64(warp[0, 0] * _ONE)
        start_y, step_y = np.int64(y0 * _ONE), np.int64(warp[1, 0] * _ONE)
        for x in range(row.shape[0]):
            px, py = start_x + step_x * x, start_y + step_y * x
            fx = np.float32(px & _FRACTION) * _UNIT
            fy = np.float32(py & _FRACTION) * _UNIT
            at = np.uint64((py >> 32) * stride + (px >> 32))
            row[x] = _bilinear(flat, at, np.uint64(stride), fx, fy)
        return
    w0 = warp[2, 1] * y + warp[2, 2]
    for x in range(row.shape[0]):
        w = warp[2, 0] * x + w0
        qx, qy = (warp[0, 0] * x + x0) / w, (warp[1, 0] * x + y0) / w
        i, j = np.int64(qx), np.int64(qy)
        at = np.uint64(j * stride + i)
        row[x] = _bilinear(flat, at, np.uint64(stride), np.float32(qx - i), np.float32(qy - j))


@_jit
def _bilinear(
    flat: F32, at: np.uint64, stride: np.uint64, fx: np.float32, fy: np.float32
) -> np.float32:
    one = np.uint64(1)
    top = flat[at] + fx * (flat[at + one] - flat[at])
    below = flat[at + stride] + fx * (flat[at + stride + one] - flat[at + stride])
    return np.float32(top + fy * (below - top))


@_jit
def start_reference(log_picture: F32, warp: F64, reference: F32) -> None:
    """Set every pixel's reference (H, W) to the log intensity that it sees at the start."""
    for y in range(reference.shape[0]):
        _sample_row(log_picture, warp, y, reference[y])


@_jit
def fire_events(
    log_picture: F32,
    warps: F64,
    t_us: I64,
    thresholds: F32,
    reference: F32,
    last_us: int,
    events: tuple[U16, U16, I64, U8],
) -> int:
    """Move the sensor through K + 1 time samples and write the events in (y, x, t) order.

    log_picture  float32, seen bilinearly; log intensity is linear in time between samples
    warps, t_us  float64 (K + 1, 3, 3) and int64 (K + 1,), whole microseconds
    thresholds   float32 (2,): OFF, ON
    reference    float32 (H, W), read and updated: the log intensity of the pixel's last event
    last_us      no event is later: the last whole microsecond of the path
    events       columns x, y, t, p; t is the crossing time to the nearest whole microsecond

    Returns how many events there are; those beyond the columns' length are counted, not written.
    A pixel fires ON when its log intensity reaches reference + ON, and the reference rises by
    ON; likewise OFF. The comparison is with the pixel's own reference alone.
    """
    out_x, out_y, out_t, out_p = events
    height, width = reference.shape
    samples, capacity, count = len(t_us), len(out_x), 0
    off, on = thresholds[0], thresholds[1]
    seen = np.empty((samples, width), np.float32)
    low, high = np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(height):
        for k in range(samples):
            _sample_row(log_picture, warps[k], y, seen[k])
        low[:] = seen[1]
        high[:] = seen[1]
        for k in range(2, samples):
            for x in range(width):
                low[x] = min(low[x], seen[k, x])
                high[x] = max(high[x], seen[k, x])
        for x in range(width):
            ref = reference[y, x]
            if high[x] < ref + on and low[x] > ref - off:
                continue
            for k in range(1, samples):
                before, now = seen[k - 1, x], seen[k, x]
                step = on if now > ref else -off
                while (now >= ref + step) if step > 0 else (now <= ref + step):
                    ref += step
                    if count < capacity:
                        share = (np.float64(ref) - before) / (np.float64(now) - before)
                        wait = np.int64(share * (t_us[k] - t_us[k - 1]) + 0.5)
                        out_x[count], out_y[count] = x, y
                        out_t[count] = min(t_us[k - 1] + wait, last_us)
                        out_p[count] = step > 0
                    count += 1
            reference[y, x] = ref
    return count


@_jit
def sort_by_time(
    events: tuple[U16, U16, I64, U8], count: int, start_us: int, stop_us: int
) -> tuple[U16, U16, I64, U8]:
    """Return the first `count` events stably sorted by t, all in [start_us, stop_us) microseconds.

    A counting sort: events in (y, x, t) order come out in (t, y, x) order.
    """
    x, y, t, p = events
    place = np.zeros(stop_us - start_us + 1, np.int64)
    for n in range(count):
        place[t[n] - start_us + 1] += 1
    for m in range(1, len(place)):
        place[m] += place[m - 1]
    out_x, out_y = np.empty(count, np.uint16), np.empty(count, np.uint16)
    out_t, out_p = np.empty(count, np.int64), np.empty(count, np.uint8)
    for n in range(count):
        to = place[t[n] - start_us]
        place[t[n] - start_us] += 1
        out_x[to], out_y[to], out_t[to], out_p[to] = x[n], y[n], t[n], p[n]
    return out_x, out_y, out_t, out_p


def compile_kernels() -> None:
    """Compile every kernel, or load it from the cache, by running each on a tiny scene."""
    rgb, weights = np.zeros((4, 5, 3), np.uint8), np.zeros((3, 256), np.float32)
    weigh_channels(rgb[:, :4], weights)  # a crop is another type to the compiler
    scene = weigh_channels(rgb, weights)
    warps = np.stack([np.eye(3), np.eye(3)])
    t_us = np.array([0, 1])
    reference = np.empty((2, 2), np.float32)
    start_reference(scene, warps[0], reference)
    coordinates, t, p = np.empty(1, np.uint16), np.empty(1, np.int64), np.empty(1, np.uint8)
    room = (coordinates, coordinates.copy(), t, p)
    count = fire_events(scene, warps, t_us, np.ones(2, np.float32), reference, 0, room)
    sort_by_time(room, count, 0, 1)
