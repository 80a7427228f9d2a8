"""Numpy arrays of events, from `.npz` and `.npy` files or straight from a user's program."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ezsr_shards.formats.raw import RawEvents, RecordingError
from ezsr_shards.formats.reading import MAX_BYTES_PER_EVENT, MAX_FILE_BYTES, check_count, read_bytes
from ezsr_shards.npz import check_packing

NAMES = {
    "x": ("x", "x_pos"),
    "y": ("y", "y_pos"),
    "t": ("t", "ts", "timestamp", "timestamps"),
    "p": ("p", "pol", "polarity", "on"),
}
"""What libraries and data sets call the columns; where a file has two of a row, the first."""

_SECONDS_SPAN = 100
_MAX_WHOLE = 2**53
_MAX_DIMENSIONS = 4
_POLARITIES = ([0, 1], [-1, 1])
_ORDER = ("x", "y", "t", "p")


def read_npz(path: Path) -> RawEvents:
    """Read an `.npz` recording; see `decode_npz`."""
    return decode_npz(read_bytes(path))


def read_npy(path: Path) -> RawEvents:
    """Read an `.npy` recording; see `raw_from_array`. Pickled ones are refused."""
    return raw_from_array(decode_npy(io.BytesIO(read_bytes(path))))


def decode_npz(data: bytes) -> RawEvents:
    """Decode an archive of columns, or of one array of records.

    Columns: HARDVS, SpikingJelly, our own events.npz, and N-ImageNet's x_pos, y_pos, timestamp,
    polarity; records: N-ImageNet's event_data. Other members are not unpacked.
    Times of 16 bits are taken as they are: N-ImageNet's recordings last 50 ms of the 65 ms that
    fit.
    Raises RecordingError: "unreadable", "truncated", "wrong-columns" and others.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = ["event_data"] if "event_data" in members else list(members)
            if len(wanted) > 1:
                wanted = list(_found_names(members).values())
            arrays = {n: _decode_member(archive, members[n], len(data)) for n in wanted}
    except RecordingError:
        raise
    except Exception as error:  # zip and npy readers raise almost anything on hostile bytes
        raise RecordingError("unreadable", f"{type(error).__name__}: {error}") from error
    if len(arrays) == 1:
        return raw_from_array(next(iter(arrays.values())))
    return raw_from_columns(arrays)


def _decode_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, size_bytes: int
) -> npt.NDArray[Any]:
    if info.file_size > MAX_FILE_BYTES:
        raise RecordingError("too-large", f"{info.filename[:50]} claims {info.file_size} bytes")
    check_packing(info)
    with archive.open(info) as stream:
        return decode_npy(stream, size_bytes)


def decode_npy(stream: IO[bytes], size_bytes: int | None = None) -> npt.NDArray[Any]:
    """Read one array from the `.npy` bytes of a stream, no more of it than its events can fill.

    size_bytes  of the compressed file that the stream unfolds from, if any

    Raises RecordingError: "unreadable", "forbidden-pickle", "too-many-events", "truncated".
    """
    shape, fortran, dtype = read_npy_header(stream)
    if dtype.hasobject:
        raise RecordingError("forbidden-pickle", "an array of Python objects, which can run code")
    count = math.prod(shape)
    if not 0 < dtype.itemsize <= MAX_BYTES_PER_EVENT:
        raise RecordingError("wrong-columns", f"{dtype.itemsize} bytes an item")
    check_count(shape[0] if len(shape) == 2 and shape[1] == len(_ORDER) else count, size_bytes)
    data = stream.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise RecordingError("truncated", f"{len(data)} of {count * dtype.itemsize} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def read_npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether columns lie together, and dtype; RecordingError("unreadable").

    Version 1.0 only: what later versions add, headers past 64 KiB, no events need.
    """
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"version {version}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers that Python 2 wrote
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except Exception as error:  # numpy evaluates the header as a literal
        raise RecordingError("unreadable", f"no .npy header ({error})") from error
    if len(shape) > _MAX_DIMENSIONS or not all(0 <= side <= MAX_FILE_BYTES for side in shape):
        raise RecordingError("unreadable", f"shape {shape}"[:100])
    return shape, fortran, dtype


def raw_from_array(array: npt.ArrayLike) -> RawEvents:
    """Return events from records with fields named as in NAMES, or from numbers (N, 4) x, y, t, p.

    Fields may come in any order (tonic, aedat, faery, dv-processing, OpenEB). Rules for columns
    are those of `raw_from_columns`. Raises RecordingError naming the field and the remedy.
    """
    events = _as_array("events", array)
    if events.dtype.names:
        flat = events.reshape(-1)
        return raw_from_columns({name: flat[name] for name in events.dtype.names})
    if events.ndim != 2 or events.shape[1] != len(_ORDER):
        raise RecordingError(
            "wrong-columns",
            f"{events.dtype} {events.shape}: give (N, 4) with columns x, y, t, p, "
            "or records with these fields",
        )
    return raw_from_columns(dict(zip(_ORDER, events.T, strict=True)))


def raw_from_columns(columns: Mapping[str, npt.ArrayLike]) -> RawEvents:
    """Return events from four columns of equal length, named as in NAMES; others are left alone.

    x, y  whole numbers, as integers or floats
    t     integers are microseconds. Floats are seconds if any is not whole or if they span less
          than 100 (EST's repacked N-Caltech101, EventCLIP), else microseconds
    p     0 and 1, -1 and 1, or bool; 1 is ON

    Raises RecordingError naming the field and the remedy: "wrong-columns", "wrong-polarity",
    "wrapped-times", "too-many-events".
    """
    found = _found_names(columns)
    arrays = {name: _column(label, columns[label]) for name, label in found.items()}
    lengths = {len(column) for column in arrays.values()}
    if len(lengths) > 1:
        sizes = ", ".join(f"{found[name]} {len(column)}" for name, column in arrays.items())
        raise RecordingError("wrong-columns", f"columns of unequal length: {sizes}")
    check_count(lengths.pop())
    x, y = (_whole(found[name], arrays[name]) for name in ("x", "y"))
    return RawEvents(x, y, _microseconds(found["t"], arrays["t"]), _on(found["p"], arrays["p"]))


def _found_names(present: Iterable[str]) -> dict[str, str]:
    """Return what the columns x, y, t and p are called here."""
    present = list(present)
    found = {
        name: next((label for label in labels if label in present), "")
        for name, labels in NAMES.items()
    }
    missing = [name for name, label in found.items() if not label]
    if missing:
        remedies = "; ".join(f"name one of them {' or '.join(NAMES[name])}" for name in missing)
        there = ", ".join(map(str, present))[:200] or "nothing"
        raise RecordingError("wrong-columns", f"no {', '.join(missing)} among {there}: {remedies}")
    return found


def _as_array(label: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except Exception as error:  # whatever a user's object does when numpy asks for its values
        raise RecordingError("wrong-columns", f"{label}: no array ({error})") from error


def _column(label: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    column = _as_array(label, values)
    if column.ndim == 2 and 1 in column.shape:  # Matlab knows no vectors
        column = column.reshape(-1)
    if column.ndim != 1 or column.dtype.kind not in "biuf":
        raise RecordingError(
            "wrong-columns", f"{label} is {column.dtype} {column.shape}: give numbers (N,)"
        )
    return column


def _whole(label: str, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if column.dtype.kind != "f":
        return column.astype(np.uint8) if column.dtype.kind == "b" else column
    with np.errstate(all="ignore"):
        column = column.astype(np.float64)
    if not bool(np.all(np.abs(column) <= _MAX_WHOLE)) or bool(np.any(column % 1)):
        raise RecordingError("wrong-columns", f"{label} has fractions or NaN: give whole pixels")
    return column.astype(np.int64)


def _microseconds(label: str, t: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    if not len(t):
        return np.zeros(0, np.int64)
    if t.dtype.kind == "f":
        with np.errstate(all="ignore"):
            t = t.astype(np.float64)
        largest = float(np.max(np.abs(t)))
        if largest <= _MAX_WHOLE and (bool(np.any(t % 1)) or np.ptp(t) < _SECONDS_SPAN):
            t, largest = t * 1e6, largest * 1e6
        if not largest <= _MAX_WHOLE:  # NaN too
            raise RecordingError("wrong-columns", f"{label} has NaN or too large times")
        return np.rint(t).astype(np.int64)
    if t.dtype.kind == "b" or max(-int(t.min()), int(t.max())) > _MAX_WHOLE:
        raise RecordingError("wrong-columns", f"{label} is {t.dtype}: give microseconds")
    times = t.astype(np.int64)
    bits = 8 * t.dtype.itemsize
    if t.dtype.kind == "u" and bits < 64 and bool(np.any(np.diff(times) <= -(2 ** (bits - 1)))):
        raise RecordingError("wrapped-times", f"{label} is {t.dtype} and turns over: give int64")
    return times


def _on(label: str, p: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if p.dtype.kind == "b":
        return np.asarray(p.view(np.uint8) != 0, np.uint8)
    for values in _POLARITIES:
        if bool(np.all(np.isin(p, values))):
            return np.asarray(p > 0, np.uint8)
    raise RecordingError("wrong-polarity", f"{label}: give 0 and 1, -1 and 1, or bool")
