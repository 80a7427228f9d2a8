"""Encodings: one recording as a file of other libraries, equal bytes for equal events.

    tonic   .npy, records x <i2, y <i2, t <i8, p i1: what tonic's transforms take as they are
    hdf5    .h5, DSEC's layout: events/x,y (u2), events/t (u4), events/p (u1), ms_to_idx, t_offset
    csv     .csv, a line `t,x,y,p`, then one line of whole numbers an event

Times are microseconds from 0, rows count from the top, p is 1 for ON and 0 for OFF in all of them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ezsr_shards.events import EventStream
from ezsr_shards.formats.reading import optional_package

_CSV_HEADER = "t,x,y,p\n"
_CSV_ROWS = 1 << 16


@dataclass(frozen=True)
class Encoding:
    """A file's suffix, how events become its bytes, and the package of an extra that it takes."""

    suffix: str
    encode: Callable[[EventStream], bytes]
    package: str = ""

    def check(self) -> None:
        """Raise ConfigError where the package is not installed."""
        if self.package:
            optional_package(self.package, "hdf5", "writing HDF5")


def encode_npy(events: EventStream) -> bytes:
    """Return an `.npy` file of `EventStream.to_structured`'s records; it holds no pickle."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, events.to_structured(), allow_pickle=False)
    return buffer.getvalue()


def encode_csv(events: EventStream) -> bytes:
    """Return text: the header line `t,x,y,p`, then a line an event, in the order of the stream."""
    table = np.stack((events.t, events.x, events.y, events.p), axis=1)
    parts = [_CSV_HEADER]
    for start in range(0, len(table), _CSV_ROWS):
        rows = table[start : start + _CSV_ROWS]
        parts.append("%d,%d,%d,%d\n" * len(rows) % tuple(rows.ravel().tolist()))
    return "".join(parts).encode()


def encode_hdf5(events: EventStream) -> bytes:
    """Return an HDF5 file in DSEC's layout, packed with gzip, which every HDF5 library has.

    ms_to_idx[n] (u8) is the first event at or after n ms, for every n up to the recording's end,
    so that any span of whole milliseconds can be cut without a search; t_offset (i8) is 0.
    The sensor's size and the length of the recording are attributes of the group `events`.
    Raises ConfigError without h5py. Source: dsec.ifi.uzh.ch, data format.
    """
    h5py = optional_package("h5py", "hdf5", "writing HDF5")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("events")
        for name, dtype in (("x", "<u2"), ("y", "<u2"), ("t", "<u4"), ("p", "u1")):
            column = getattr(events, name).astype(dtype)
            packed = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
            group.create_dataset(name, data=column, **(packed if len(column) else {}))
        for name in ("width", "height", "duration_us"):
            group.attrs[name] = np.int64(getattr(events, name))
        milliseconds = np.arange(-(-events.duration_us // 1000) + 1, dtype=np.int64)
        first = np.searchsorted(events.t, 1000 * milliseconds).astype("<u8")
        file.create_dataset("ms_to_idx", data=first, compression="gzip")
        file["t_offset"] = np.int64(0)
    return buffer.getvalue()


ENCODINGS: Mapping[str, Encoding] = {
    "tonic": Encoding(".npy", encode_npy),
    "hdf5": Encoding(".h5", encode_hdf5, "h5py"),
    "csv": Encoding(".csv", encode_csv),
}
