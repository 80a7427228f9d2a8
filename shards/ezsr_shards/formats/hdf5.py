"""HDF5 files of events: DSEC's layout, and columns or records by their usual names."""

from __future__ import annotations

import contextlib
import math
import zlib
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
from ezsr_shards.sample import most_events

_ECF_FILTER, _DEFLATE, _FLETCHER32 = 0x8ECF, 1, 3
_ALLOCATED = 2
_SMALL_CHUNK_BYTES = 1 << 20
"""Deflate unfolds a byte to 1,032 at most, so that smaller chunks do no harm."""

_GROUPS = ("events", "CD/events")


def read_hdf5(path: Path) -> RawEvents:
    """Read the events of an HDF5 file: `events` (DSEC), `CD/events` (Prophesee), or the top level.

    Each may be a group of columns or one array of records, as `raw_from_columns` and
    `raw_from_array` take them. DSEC's `t_offset` (microseconds) is added to the times. Blosc and
    others are unpacked if `hdf5plugin` is installed.
    Refused is what a file can do besides holding its events: links and datasets that lead to other
    files, parts that were never written, which would read as zeros, and chunks that unfold beyond
    what they say. What other codecs than gzip unfold to is left to them.
    Raises RecordingError: "unreadable", "needs-codec", "wrong-columns", "truncated",
    "too-many-events" and others; ConfigError without h5py.
    Source: dsec.ifi.uzh.ch, data format; docs.prophesee.ai, HDF5 event files.
    """
    with open_hdf5(path) as file:
        place = next((name for name in _GROUPS if is_inside(file, name)), "/")
        if place == "/" or hasattr(file[place], "keys"):
            prefix = "" if place == "/" else f"{place}/"
            names = [name for labels in NAMES.values() for name in labels]
            columns = [name for name in names if is_inside(file, prefix + name)]
            raw = raw_from_columns({name: read_dataset(file, prefix + name) for name in columns})
        else:
            raw = raw_from_array(read_dataset(file, place))
        offset = (
            read_dataset(file, "t_offset") if is_inside(file, "t_offset") else np.zeros(1, np.int64)
        )
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


def is_inside(file: Any, name: str) -> bool:
    """Tell whether a path exists; RecordingError where it leads elsewhere.

    Nothing is followed but hard links: to open what others name may hang, or read other files.
    """
    h5py = optional_package("h5py", "hdf5", "HDF5")
    group = file
    for part in name.split("/"):
        if not hasattr(group, "keys") or not group.id.links.exists(part.encode()):
            return False
        if group.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise RecordingError("unreadable", f"{name} is a link, and none is followed")
        group = group[part]
    return True


def read_dataset(file: Any, name: str) -> npt.NDArray[Any]:
    """Read a whole dataset; RecordingError unless it is numbers or records, here, and not too many.

    Datasets can name other files as the place of their bytes: those are refused.
    """
    dataset = file[name]
    if hasattr(dataset, "keys") or dataset.dtype.hasobject or dataset.shape is None:
        raise RecordingError("wrong-columns", f"{name} is no array of numbers")
    if dataset.external or dataset.is_virtual:
        raise RecordingError("unreadable", f"{name} lies in another file")
    if dataset.dtype.itemsize > MAX_BYTES_PER_EVENT:
        raise RecordingError("wrong-columns", f"{name} has {dataset.dtype.itemsize} bytes an item")
    size_bytes = file.id.get_filesize()
    check_count(int(dataset.size), size_bytes)
    _check_codec(name, dataset)
    if dataset.chunks:
        _check_chunks(name, dataset, size_bytes)
    elif dataset.nbytes and dataset.id.get_space_status() != _ALLOCATED:
        raise RecordingError("truncated", f"{name} was never written")
    return np.asarray(dataset[()])


def _check_chunks(name: str, dataset: Any, size_bytes: int) -> None:
    """Raise RecordingError where chunks are missing, or unfold to more bytes than they may."""
    chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if chunk_bytes > MAX_BYTES_PER_EVENT * most_events(size_bytes):
        raise RecordingError("too-many-events", f"{name} has chunks of {chunk_bytes} bytes")
    found: list[Any] = []
    dataset.id.chunk_iter(found.append)
    wanted = math.prod(
        -(-side // step) for side, step in zip(dataset.shape, dataset.chunks, strict=True)
    )
    if len(found) < wanted:
        raise RecordingError("truncated", f"{name} has {len(found)} of {wanted} chunks")
    for chunk in found:
        if (chunk.byte_offset or 0) + chunk.size > size_bytes:
            raise RecordingError("truncated", f"{name} has a chunk that ends beyond the file")
        if dataset.compression == "gzip" and chunk.size > _SMALL_CHUNK_BYTES:
            packed = dataset.id.read_direct_chunk(chunk.chunk_offset)[1]
            inflated = zlib.decompressobj().decompress(packed, chunk_bytes + 1)
            if len(inflated) > chunk_bytes:
                raise RecordingError("too-many-events", f"{name} unfolds beyond its chunks")


def _check_codec(name: str, dataset: Any) -> None:
    settings = dataset.id.get_create_plist()
    filters = [settings.get_filter(n)[0] for n in range(settings.get_nfilters())]
    packed = filters[:-1] if filters[-1:] == [_FLETCHER32] else filters
    if _DEFLATE in packed[:-1]:
        raise RecordingError("needs-codec", f"{name} is packed twice")
    available = optional_package("h5py", "hdf5", "HDF5").h5z.filter_avail
    for code in filters:
        if not available(code):
            remedy = "pip install hdf5plugin"
            if code == _ECF_FILTER:
                remedy = "it is Prophesee's ECF; convert the file to .raw with their tools"
            raise RecordingError("needs-codec", f"{name} is packed by filter {code}: {remedy}")
