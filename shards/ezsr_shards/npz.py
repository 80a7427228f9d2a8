"""Numpy archives with reproducible bytes, packed and unpacked faster than numpy does it.

`np.savez_compressed` spends most of a sample's budget in zlib and stamps the current time into
the archive. Here the same container (a zip of .npy members, APPNOTE.TXT 6.3) is deflated by
ISA-L at level 1, with a fixed date. `np.load` reads it as any other archive; `NpzRows` inflates
only the columns and rows that are asked for.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from ezsr_shards.errors import ShardError

_DEFLATE = 8
_VERSION_NEEDED = 20
_DATE_1980_01_01 = 0x21
_RAW_DEFLATE_WINDOW_BITS = -15
_LOCAL_HEADER_BYTES = 30
NPY_HEADER_BYTES = 128  # of one-dimensional columns, as every numpy since 1.14 pads them


def encode_npz(columns: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return the bytes of an .npz archive of the given arrays, equal for equal arrays.

    Raises ValueError for object arrays: they would need pickle.
    """
    body = io.BytesIO()
    directory = io.BytesIO()
    for name, column in columns.items():
        raw = _encode_npy(column)
        packed = isal_zlib.compress(raw, 1, _RAW_DEFLATE_WINDOW_BITS)
        member = f"{name}.npy".encode("ascii")
        facts = struct.pack(
            "<5H3L2H",
            *(_VERSION_NEEDED, 0, _DEFLATE, 0, _DATE_1980_01_01),
            *(isal_zlib.crc32(raw), len(packed), len(raw), len(member), 0),
        )
        # Central directory entry: made-by version, the facts, then comment length, disk,
        # internal and external attributes, and where the local header begins.
        entry = struct.pack("<3H2L", 0, 0, 0, 0, body.tell())
        directory.write(b"PK\x01\x02" + struct.pack("<H", _VERSION_NEEDED) + facts + entry + member)
        body.write(b"PK\x03\x04" + facts + member + packed)
    start, size = body.tell(), directory.tell()
    end = struct.pack("<4H2LH", 0, 0, len(columns), len(columns), size, start, 0)
    return body.getvalue() + directory.getvalue() + b"PK\x05\x06" + end


def _encode_npy(column: npt.NDArray[Any]) -> bytes:
    if column.dtype.hasobject:
        raise ValueError(f"npz: {column.dtype} would need pickle, which allow_pickle=False forbids")
    return _npy_header(column.dtype.str, column.shape) + column.tobytes()


@lru_cache(maxsize=64)
def _npy_header(kind: str, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    facts = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, facts)
    return buffer.getvalue()


def check_packing(info: zipfile.ZipInfo) -> None:
    """Raise ValueError unless a member is stored or deflated, as numpy writes them.

    Zip knows others, of which some let the file say how much memory its reader takes.
    """
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename[:50]} is packed by method {info.compress_type}")


def decode_npy(data: bytes) -> npt.NDArray[Any]:
    """Return the one-dimensional column of whole numbers in `.npy` bytes, which fill it exactly.

    Raises ValueError for anything else; memory is never set aside for what the header claims.
    """
    start, dtype, count = _parse_npy_header(data[:NPY_HEADER_BYTES])
    if len(data) != start + count * dtype.itemsize:
        raise ValueError(f"{len(data) - start} bytes for {count} numbers")
    return np.frombuffer(data, dtype, count, start)


class NpzRows:
    """The columns of an .npz archive, a range of rows at a time.

    Neither the checksums nor the rest of a column are looked at: that is `ezsr-shards verify`'s
    work. Raises ShardError for whatever is not a one-dimensional column of unsigned
    numbers.
    """

    def __init__(self, data: bytes) -> None:
        """Read the archive's directory."""
        self._data = data
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                self._members = {info.filename: info for info in archive.infolist()}
        except Exception as error:  # zipfile raises almost anything on hostile bytes
            raise ShardError(f"events: unreadable archive ({error})") from error

    def read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows start to stop of a column, or fewer where it ends earlier."""
        try:
            return self._read(self._members[f"{name}.npy"], start, stop)
        except Exception as error:  # as above
            raise ShardError(f"events: column {name} is unreadable ({error})") from error

    def _read(self, info: zipfile.ZipInfo, start: int, stop: int) -> npt.NDArray[Any]:
        lengths = self._data[info.header_offset + 26 : info.header_offset + _LOCAL_HEADER_BYTES]
        begin = info.header_offset + _LOCAL_HEADER_BYTES + sum(struct.unpack("<2H", lengths))
        packed = memoryview(self._data)[begin : begin + info.compress_size]

        def unpack(size: int) -> bytes:
            if info.compress_type == zipfile.ZIP_STORED:
                return bytes(packed[:size])
            return isal_zlib.decompressobj(_RAW_DEFLATE_WINDOW_BITS).decompress(packed, size)

        start_of_rows, dtype, _ = _parse_npy_header(unpack(NPY_HEADER_BYTES))
        raw = unpack(start_of_rows + stop * dtype.itemsize)
        rows = (len(raw) - start_of_rows) // dtype.itemsize
        return np.frombuffer(raw, dtype, rows, start_of_rows)[start:]


@lru_cache(maxsize=64)
def _parse_npy_header(header: bytes) -> tuple[int, np.dtype[Any], int]:
    """Return where the rows of a one-dimensional column begin, its dtype and its length."""
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another version of .npy")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if len(shape) != 1 or shape[0] < 0 or dtype.kind != "u":
        raise ValueError(f"{dtype} {shape}")
    return file.tell(), dtype, shape[0]
