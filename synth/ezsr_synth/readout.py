"""Readout: events as the camera hands them over, in order of (t, y, x), with its time stamps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ezsr_synth.camera import Camera
from ezsr_synth.config import SensorSize
from ezsr_synth.jit import jit
from ezsr_synth.kernels import F64, I64, T_SHIFT, U8, U64, X_SHIFT, Y_SHIFT

U16 = npt.NDArray[np.uint16]
Events = tuple[U16, U16, I64, U8]
"""Columns x, y, t (us), p."""


def unpack(words: U64) -> Events:
    """Return the columns of event words."""
    count = len(words)
    x, y = np.empty(count, np.uint16), np.empty(count, np.uint16)
    columns = x, y, np.empty(count, np.int64), np.empty(count, np.uint8)
    _unpack(words, columns)
    return columns


@jit
def _unpack(words: U64, columns: Events) -> None:
    x, y, t, p = columns
    side = np.uint64((1 << (Y_SHIFT - X_SHIFT)) - 1)
    for n in range(len(words)):
        word = words[n]
        x[n] = (word >> np.uint64(X_SHIFT)) & side
        y[n] = (word >> np.uint64(Y_SHIFT)) & side
        t[n] = word >> np.uint64(T_SHIFT)
        p[n] = word & np.uint64(1)


def read_rows(events: Events, row_us: float, rows: int, read_at: F64) -> None:
    """Set when an arbiter reads each event, in us: rows one by one, all that wait in one at once.

    events  sorted by (t, y, x); rows are served in the order of their first waiting event, each
            for `row_us`, and what comes in a row while it is served waits for its next turn
    """
    _read_rows(
        events[1], events[2], row_us, np.full((3, rows), -1), np.full(len(read_at), -1), read_at
    )


@jit
def _read_rows(y: U16, t: I64, row_us: float, queued: I64, follows: I64, read_at: F64) -> None:
    """Serve rows; `queued` has room for the queue, and each row's first and last waiting event."""
    queue, first, last = queued
    count, rows = len(t), len(queue)
    head, length, n, free = 0, 0, 0, 0.0
    while n < count or length > 0:
        if length == 0:
            free = max(free, np.float64(t[n]))
        while n < count and t[n] <= free:
            row = y[n]
            if first[row] >= 0:
                follows[last[row]] = n
            else:
                first[row] = n
                queue[(head + length) % rows] = row
                length += 1
            last[row] = n
            n += 1
        row = queue[head]
        head, length = (head + 1) % rows, length - 1
        free += row_us
        member = first[row]
        while member >= 0:
            read_at[member] = free
            member = follows[member]
        first[row] = -1


def read_out(words: U64, camera: Camera, size: SensorSize, duration_us: int) -> U64:
    """Return ordered event words with the times at which the camera reports them, in order.

    Rows wait for their turn where the camera has a row arbiter; time stamps are rounded down to
    its clock. What would be read after the end of the recording is lost.
    """
    shift = np.uint64(T_SHIFT)
    if camera.row_readout_us > 0:
        read_at = np.empty(len(words))
        read_rows(unpack(words), camera.row_readout_us, size.height, read_at)
        t = np.ceil(read_at).astype(np.uint64)
    elif camera.timestamp_us == 1:
        return words
    else:
        t = words >> shift
    tick = np.uint64(camera.timestamp_us)
    pixels = words & np.uint64((1 << T_SHIFT) - 1)
    words = np.sort((t // tick * tick) << shift | pixels)
    return words[: np.searchsorted(words, np.uint64(duration_us << T_SHIFT))]


def compile_readout() -> None:
    """Compile every kernel of this file, or load it from the cache."""
    read_rows(unpack(np.zeros(1, np.uint64)), 1.0, 1, np.empty(1))
