"""RawEvents: columns as a file has them, before they keep our contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ezsr_shards.errors import EzsrError
from ezsr_shards.events import MAX_DURATION_US, MAX_SIDE_PX, EventStream
from ezsr_shards.sample import MAX_EVENTS


class RecordingError(EzsrError):
    """A recording cannot be used: a short reason to count by, and a detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """Keep both apart."""
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, eq=False)
class RawEvents:
    """Events in the order and on the axes of the file, columns of equal length N.

    x, y           whole numbers (N,), pixel column and row as the format's own default says
    t              int64 (N,), microseconds from any origin
    p              (N,), 1 = ON, 0 = OFF
    width, height  of the sensor where the file tells, else None
    """

    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    t: npt.NDArray[np.int64]
    p: npt.NDArray[Any]
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Convention:
    """How a recording's axes differ from ours; libraries disagree, so each can be turned.

    The axes are exchanged first; then x and y are mirrored on the sensor that results.
    """

    swap_xy: bool = False
    """Exchange x and y, and the sides of the sensor with them."""
    flip_x: bool = False
    """Mirror left and right."""
    flip_y: bool = False
    """Mirror top and bottom."""
    invert_polarity: bool = False
    """Exchange ON and OFF."""


AS_READ = Convention()


def arrange(
    raw: RawEvents, width: int, height: int, convention: Convention = AS_READ
) -> EventStream:
    """Return a recording as an EventStream: axes turned, times from 0, sorted by (t, y, x).

    Times that run backwards are put in order, as some cameras deliver events late; where a damaged
    time makes the recording longer than 2**32 us, it is refused.
    `width`, `height` are of the sensor, on the file's own axes.
    Raises RecordingError where there is no event, too many, or one lies beyond the sensor, and
    where the sensor is none: files tell their own, so that this is theirs to get wrong.
    """
    if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX):
        raise RecordingError("wrong-size", f"a sensor of {width}x{height}")
    if not len(raw.t):
        raise RecordingError("no-events")
    if len(raw.t) > MAX_EVENTS:
        raise RecordingError("too-many-events", f"{len(raw.t)}, at most {MAX_EVENTS}")
    x, y = (np.asarray(column).astype(np.int64) for column in (raw.x, raw.y))
    if convention.swap_xy:
        x, y, width, height = y, x, height, width
    for name, column, side in (("x", x, width), ("y", y, height)):
        if int(column.min()) < 0 or int(column.max()) >= side:
            found = f"{name} from {column.min()} to {column.max()}"
            raise RecordingError("off-sensor", f"{found}, the sensor is {width}x{height}")
    x = width - 1 - x if convention.flip_x else x
    y = height - 1 - y if convention.flip_y else y
    on = np.asarray(raw.p) > 0
    p = (on != convention.invert_polarity).astype(np.uint8)
    t = np.asarray(raw.t).astype(np.int64)
    span_us = int(t.max()) - int(t.min())
    if span_us >= MAX_DURATION_US:
        raise RecordingError("too-long", f"{span_us / 1e6:.0f} s; are the times microseconds?")
    t = t - t.min()
    order = np.lexsort((x, y, t))
    columns, rows = (column[order].astype(np.uint16) for column in (x, y))
    return EventStream(columns, rows, t[order], p[order], width, height, int(t.max()) + 1)
