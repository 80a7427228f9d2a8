"""40-bit address events: the `.bin` files of N-MNIST and N-Caltech101."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ezsr_shards.formats.raw import RawEvents, RecordingError
from ezsr_shards.formats.reading import check_count, read_bytes

_EVENT_BYTES = 5
_OVERFLOW_Y = 240
_OVERFLOW_US = 2**13


def read_aer40(path: Path) -> RawEvents:
    """Read a `.bin` recording; the file does not tell its sensor."""
    return decode_aer40(read_bytes(path))


def decode_aer40(data: bytes) -> RawEvents:
    """Decode five bytes an event: x, y, then p (bit 7, 1 = ON) and t (23 bits, microseconds).

    An event with y = 240 is no event but a mark: 2**13 us are added to every later time, once a
    mark, as the authors' eventvision.py and tonic do (Read_Ndataset.m does not). Recordings of
    N-MNIST are too small and short to need one. Source: garrickorchard.com/datasets.
    Raises RecordingError("truncated") where the bytes do not fill the last event.
    """
    if len(data) % _EVENT_BYTES:
        raise RecordingError("truncated", f"{len(data)} bytes, 5 an event")
    check_count(len(data) // _EVENT_BYTES)
    fields = np.frombuffer(data, np.uint8).reshape(-1, _EVENT_BYTES)
    x, y = fields[:, 0], fields[:, 1]
    high, middle, low = (fields[:, column].astype(np.int64) for column in (2, 3, 4))
    marks = y == _OVERFLOW_Y
    t = ((high & 0x7F) << 16 | middle << 8 | low) + _OVERFLOW_US * np.cumsum(marks)
    kept = ~marks
    return RawEvents(x[kept], y[kept], t[kept], fields[kept, 2] >> 7)
