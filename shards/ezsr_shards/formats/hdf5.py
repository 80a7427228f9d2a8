"""HDF5 files of events: DSEC's layout, and columns or records by their usual names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ezsr_shards.formats.arrays import NAMES, raw_from_array, raw_from_columns
from ezsr_shards.formats.raw import RawEvents, RecordingError
from ezsr_shards.formats.reading import (
    MAX_BYTES_PER_EVENT,
    check_count,
    check_file,
    optional_package,
)

_ECF_FILTER = 0x8ECF
_GROUPS = ("events", "CD/events", "/")


def read_hdf5(path: Path) -> RawEvents:
    """Read the events of an HDF5 file: `events` (DSEC), `CD/events` (Prophesee), or the top level.

    Each may be a group of columns or one array of records, as `raw_from_columns` and
    `raw_from_array` take them. DSEC's `t_offset` (microseconds) is added to the times. Blosc and
    others are unpacked if `hdf5plugin` is installed.
    Raises RecordingError: "unreadable", "needs-codec", "wrong-columns" and others; ConfigError
    without h5py. Source: dsec.ifi.uzh.ch, data format; docs.prophesee.ai, HDF5 event files.
    """
    with open_hdf5(path) as file:
        place = next((name for name in _GROUPS if name in file), "/")
        if hasattr(file[place], "keys"):
            columns = [name for labels in NAMES.values() for name in labels if name in file[place]]
            prefix = "" if place == "/" else f"{place}/"
            raw = raw_from_columns({name: read_dataset(file, prefix + name) for name in columns})
        else:
            raw = raw_from_array(read_dataset(file, place))
        offset = read_dataset(file, "t_offset") if "t_offset" in file else np.zeros(1, np.int64)
        if offset.size != 1 or offset.dtype.kind not in "iu":
            raise RecordingError("wrong-columns", "t_offset is no whole number of microseconds")
    return RawEvents(raw.x, raw.y, raw.t + offset.astype(np.int64).reshape(()), raw.p)


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading; whatever h5py raises inside becomes a RecordingError."""
    h5py = optional_package("h5py", "hdf5", f"{path}: HDF5")
    with contextlib.suppress(ImportError):
        __import__("hdf5plugin")
    check_file(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except RecordingError:
        raise
    except Exception as error:  # h5py raises almost anything on hostile bytes
        raise RecordingError("unreadable", f"{type(error).__name__}: {error}") from error


def read_dataset(file: Any, name: str) -> npt.NDArray[Any]:
    """Read a whole dataset; RecordingError unless it is numbers or records, here, and not too many.

    Datasets can name other files as the place of their bytes: those are refused.
    """
    dataset = file[name]
    if hasattr(dataset, "keys") or dataset.dtype.hasobject or dataset.shape is None:
        raise RecordingError("wrong-columns", f"{name} is no array of numbers")
    if dataset.file.filename != file.file.filename or dataset.external or dataset.is_virtual:
        raise RecordingError("unreadable", f"{name} lies in another file")
    if dataset.dtype.itemsize > MAX_BYTES_PER_EVENT:
        raise RecordingError("wrong-columns", f"{name} has {dataset.dtype.itemsize} bytes an item")
    check_count(int(dataset.size), file.id.get_filesize())
    _check_codec(name, dataset)
    return np.asarray(dataset[()])


def _check_codec(name: str, dataset: Any) -> None:
    settings = dataset.id.get_create_plist()
    filters = [settings.get_filter(n)[0] for n in range(settings.get_nfilters())]
    available = optional_package("h5py", "hdf5", "HDF5").h5z.filter_avail
    for code in filters:
        if not available(code):
            remedy = "pip install hdf5plugin"
            if code == _ECF_FILTER:
                remedy = "it is Prophesee's ECF; convert the file to .raw with their tools"
            raise RecordingError("needs-codec", f"{name} is packed by filter {code}: {remedy}")
