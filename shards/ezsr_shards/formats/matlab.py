"""Matlab files of events: UCF101-DVS, HMDB51-DVS and ASL-DVS, all converted with jAER."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ezsr_shards.formats.arrays import NAMES, raw_from_columns
from ezsr_shards.formats.hdf5 import is_inside, open_hdf5, read_dataset
from ezsr_shards.formats.raw import RawEvents, RecordingError
from ezsr_shards.formats.reading import check_count, read_bytes

_WIDTH_PX, _HEIGHT_PX = 240, 180
_VERSION_7_3 = b"MATLAB 7.3"
_HEADER_BYTES = 128
_BYTE_ORDERS = {b"IM": "<", b"MI": ">"}
_MATRIX, _COMPRESSED = 14, 15
_MAX_LABEL_BYTES, _MAX_VARIABLES = 64, 10_000
_WANTED = {label for labels in NAMES.values() for label in labels}

# Numbers of the format's storage types and of Matlab's classes, as numpy writes them.
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_STORED |= {12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4"}
_CLASSES |= {14: "i8", 15: "u8"}


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read_mat(path: Path) -> RawEvents:
    """Read a `.mat` recording; see `decode_mat`. Files of Matlab 7.3 are HDF5 and need h5py."""
    data = read_bytes(path)
    if not data.startswith(_VERSION_7_3):
        return decode_mat(data)
    with open_hdf5(path) as file:
        known = [name for name in _WANTED if is_inside(file, name)]
        columns = {name: read_dataset(file, name) for name in known}
    return _raw_from_variables(columns)


def decode_mat(data: bytes) -> RawEvents:
    """Decode the variables ts (microseconds), x, y, pol of a DAVIS240 recording, 240x180.

    Rows are counted from the top: y = 179 - the file's. jAER counts from the bottom, and tonic's
    asl_dvs.py and events-tfds's hmdb_dvs.py turn them likewise; some readers of UCF101-DVS leave
    them (`flip_y`). Other variables are passed over. This reader is our own because scipy's
    crashes on damaged files. Source: MathWorks, MAT-File Format, version 5.
    Raises RecordingError: "not-mat", "truncated", "unreadable", "wrong-columns", "off-sensor".
    """
    try:
        return _raw_from_variables(dict(_variables(data)))
    except (struct.error, zlib.error, KeyError, ValueError, OverflowError) as error:
        raise RecordingError("unreadable", f"{type(error).__name__}: {error}") from error


def _raw_from_variables(variables: Mapping[str, npt.NDArray[Any]]) -> RawEvents:
    raw = raw_from_columns(variables)
    if len(raw.t) and not (int(raw.y.min()) >= 0 and int(raw.y.max()) < _HEIGHT_PX):
        found = f"y from {raw.y.min()} to {raw.y.max()}"
        raise RecordingError("off-sensor", f"{found}, these sensors are {_WIDTH_PX}x{_HEIGHT_PX}")
    y = _HEIGHT_PX - 1 - raw.y.astype(np.int16)
    return RawEvents(raw.x, y, raw.t, raw.p, _WIDTH_PX, _HEIGHT_PX)


def _variables(data: bytes) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield the wanted variables: the file is a header, then elements of type, size and bytes."""
    order = _BYTE_ORDERS.get(data[126:_HEADER_BYTES])
    if order is None:
        raise RecordingError("not-mat", "no MAT-file of Matlab 5 or later")
    start = _HEADER_BYTES
    for _ in range(_MAX_VARIABLES):
        if start >= len(data):
            return
        kind, size = struct.unpack_from(f"{order}II", data, start)
        end = start + 8 + size
        if end > len(data):
            raise RecordingError("truncated", f"an element of {size} bytes ends beyond the file")
        found = None
        if kind == _COMPRESSED:
            found = _matrix(_Inflating(data[start + 8 : end]), order, len(data))
        elif kind == _MATRIX:
            found = _matrix(io.BytesIO(data[start:end]), order, len(data))
        if found:
            yield found
        start = end if kind == _COMPRESSED else end + -size % 8
    raise RecordingError("unreadable", f"more than {_MAX_VARIABLES} variables")


class _Inflating:
    """Inflates compressed bytes, only as many as are read."""

    def __init__(self, packed: bytes) -> None:
        self._inflate, self._packed = zlib.decompressobj(), packed

    def read(self, size: int, /) -> bytes:
        if not size:  # zlib takes 0 for no limit
            return b""
        found = self._inflate.decompress(self._packed, size)
        self._packed = self._inflate.unconsumed_tail
        return found


def _matrix(stream: _Stream, order: str, size_bytes: int) -> tuple[str, npt.NDArray[Any]] | None:
    """Return name and numbers of a matrix: flags, shape, name, numbers; None if unwanted."""
    kind, _ = struct.unpack(f"{order}II", stream.read(8))
    if kind != _MATRIX:
        return None
    _, flags = _element(stream, order, 8)
    matlab_class = struct.unpack(f"{order}II", flags)[0] & 0xFF
    if matlab_class not in _CLASSES:  # structures, text and objects go on otherwise
        return None
    _, sides = _element(stream, order, _MAX_LABEL_BYTES)
    _, label = _element(stream, order, _MAX_LABEL_BYTES)
    name = label.decode("latin1")
    if name not in _WANTED:
        return None
    count = math.prod(np.frombuffer(sides, f"{order}i4").tolist())
    check_count(count, size_bytes)
    stored, numbers = _element(stream, order, 8 * count)
    column = np.frombuffer(numbers, order + _STORED[stored])
    if len(column) != count:
        raise RecordingError("unreadable", f"{name} has {len(column)} numbers, not {count}")
    return name, column.astype(_CLASSES[matlab_class])


def _element(stream: _Stream, order: str, most: int) -> tuple[int, bytes]:
    """Return type and bytes of the next part; RecordingError where it has more than `most`.

    Up to four bytes stand in the tag itself, after a type and a size of 16 bits each. The rest
    fill up to multiples of eight.
    """
    tag = stream.read(8)
    kind, size = struct.unpack(f"{order}II", tag)
    small = kind >> 16
    if small:
        return kind & 0xFFFF, tag[4 : 4 + small]
    if size > most:
        raise RecordingError("unreadable", f"a part of {size} bytes, at most {most} fit here")
    data = stream.read(size)
    if len(data) < size:
        raise RecordingError("truncated", f"{len(data)} of {size} bytes")
    stream.read(-size % 8)
    return kind, data
