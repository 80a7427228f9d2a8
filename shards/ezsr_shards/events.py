"""EventStream: what an event camera reports, as four columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ezsr_shards.errors import ShardError

STRUCTURED_DTYPE = np.dtype([("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "i1")])
"""The record layout that other event libraries accept as it is."""

MAX_SIDE_PX = 32767
MAX_DURATION_US = 2**32 - 1


@dataclass(frozen=True, eq=False)
class EventStream:
    """Events of one recording, sorted by (t, y, x), in read-only columns of equal length N.

    x, y         uint16 (N,), pixel column and row from the top left
    t            int64 (N,), microseconds from the start of the recording, 0 <= t < duration_us
    p            uint8 (N,), ON/OFF polarity: 1 = brighter, 0 = darker
    width, height  sensor size in pixels
    duration_us  length of the recorded time span in microseconds
    """

    x: npt.NDArray[np.uint16]
    y: npt.NDArray[np.uint16]
    t: npt.NDArray[np.int64]
    p: npt.NDArray[np.uint8]
    width: int
    height: int
    duration_us: int

    def __post_init__(self) -> None:
        """Freeze the columns and check what is cheap; `check` proves the rest."""
        columns = (("x", np.uint16), ("y", np.uint16), ("t", np.int64), ("p", np.uint8))
        for name, dtype in columns:
            column = np.asarray(getattr(self, name), dtype=dtype).view()
            if column.ndim != 1 or len(column) != len(self.x):
                raise ShardError(f"events: column {name} has shape {column.shape}, not (N,)")
            column.flags.writeable = False
            object.__setattr__(self, name, column)
        if not (0 < self.width <= MAX_SIDE_PX and 0 < self.height <= MAX_SIDE_PX):
            raise ShardError(f"events: sensor size {self.width}x{self.height} is out of range")
        if not 0 <= self.duration_us <= MAX_DURATION_US:
            raise ShardError(f"events: duration {self.duration_us} us is out of range")

    def __len__(self) -> int:
        """Return the number of events N."""
        return len(self.t)

    @property
    def on_count(self) -> int:
        """Number of ON events."""
        return int(np.count_nonzero(self.p))

    def check(self) -> None:
        """Raise ShardError at the first broken rule: bounds, polarity, times, order."""
        if not len(self):
            return
        if int(self.x.max()) >= self.width or int(self.y.max()) >= self.height:
            raise ShardError(f"events: a coordinate lies outside {self.width}x{self.height}")
        if int(self.p.max()) > 1:
            raise ShardError(f"events: polarity {int(self.p.max())} is neither 0 nor 1")
        if int(self.t.min()) < 0 or int(self.t.max()) >= self.duration_us:
            raise ShardError(f"events: a time lies outside [0, {self.duration_us}) us")
        pixel = self.y.astype(np.int64) * self.width + self.x
        step_t, step_pixel = np.diff(self.t), np.diff(pixel)
        if bool(np.any(step_t < 0)):
            raise ShardError(f"events: times run backwards at event {int(np.argmax(step_t < 0))}")
        unsorted = (step_t == 0) & (step_pixel < 0)
        if bool(np.any(unsorted)):
            raise ShardError(f"events: not sorted by (t, y, x) at event {int(np.argmax(unsorted))}")

    def to_structured(self) -> npt.NDArray[np.void]:
        """Return the events as records (N,) of `STRUCTURED_DTYPE`, p in {0, 1}, t in microseconds.

        With `sensor_size=(width, height, 2)` this is what tonic's transforms expect.
        """
        records = np.empty(len(self), STRUCTURED_DTYPE)
        for name in ("x", "y", "t", "p"):
            records[name] = getattr(self, name)
        return records

    def count_image(self) -> npt.NDArray[np.int64]:
        """Return the event count image, int64 (2, height, width): [0] OFF, [1] ON events."""
        pixel = self.y.astype(np.int64) * self.width + self.x
        cell = self.p.astype(np.int64) * (self.width * self.height) + pixel
        counts = np.bincount(cell, minlength=2 * self.width * self.height)
        return counts.reshape(2, self.height, self.width)
