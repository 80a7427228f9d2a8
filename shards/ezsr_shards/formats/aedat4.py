"""AEDAT 4.0, what iniVation's DV writes: DailyDVS-200 and others."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from ezsr_shards.formats.raw import RawEvents, RecordingError
from ezsr_shards.formats.reading import (
    MAX_BYTES_PER_EVENT,
    check_count,
    check_file,
    optional_package,
)
from ezsr_shards.sample import most_events

_MAGIC = b"#!AER-DAT4.0\r\n"
_MAX_HEADER_BYTES, _PIECE_BYTES, _MAX_PACKETS = 1 << 20, 1 << 20, 10_000_000
_COMPRESSION, _DATA_TABLE, _DESCRIPTION = 0, 1, 2
_NONE, _LZ4, _ZSTD = (0,), (1, 2), (3, 4)
_ELEMENTS = 0
_EVENT = np.dtype(
    {
        "names": ["t", "x", "y", "p"],
        "formats": ["<i8", "<i2", "<i2", "u1"],
        "offsets": [0, 8, 10, 12],
        "itemsize": 16,
    }
)


@dataclass(frozen=True)
class _Header:
    """How packets are compressed, where they end, and the first stream of events."""

    compression: int
    end: int
    stream: int
    width: int | None
    height: int | None


def read_aedat4(path: Path) -> RawEvents:
    """Read the first event stream of an AEDAT4 file, all of its packets; y counts from the top.

    Width and height are the stream's own. Times are microseconds since 1970, as DV writes them.
    This reader is our own because the package `aedat` believes sizes and offsets: a file of 80 kB
    made it fill all memory. Every offset is checked here, and packets are unpacked no further
    than `most_events` of the file's size. A file that ends within a packet is refused, not cut.
    Source: docs.inivation.com, AEDAT 4.0 format; flatbuffers.dev, internals.
    Raises RecordingError: "not-aedat4", "truncated", "no-event-stream", "too-many-events",
    "wrong-polarity", "unreadable"; ConfigError without `lz4` or `zstandard` (BSD), where needed.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            header = _read_header(file, size)
            found = list(_packets(file, size, header, path))
    except OSError as error:
        raise RecordingError("unreadable", error.strerror or str(error)) from error
    except struct.error as error:
        raise RecordingError("truncated", "an offset or length leads outside the file") from error
    events = np.concatenate([*found, np.zeros(0, _EVENT)])
    if bool(np.any(events["p"] > 1)):
        raise RecordingError("wrong-polarity", f"{events['p'].max()} is neither 0 nor 1")
    x, y, t, p = (events[name] for name in "xytp")
    return RawEvents(x, y, t, p, header.width, header.height)


def _read_header(file: BinaryIO, size: int) -> _Header:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise RecordingError("not-aedat4", f"begins without {_MAGIC[:-2].decode()}")
    (length,) = struct.unpack("<I", file.read(4))
    if length > _MAX_HEADER_BYTES:
        raise RecordingError("unreadable", f"a header of {length} bytes")
    header = _part(file, size, length)
    compression = _field(header, _COMPRESSION)
    table = _field(header, _DATA_TABLE)
    end = _number(header, "<q", table) if table else -1
    start = _field(header, _DESCRIPTION)
    if not start:
        raise RecordingError("not-aedat4", "the header describes no streams")
    start += _number(header, "<I", start)
    stream, width, height = _first_stream(header[start + 4 : _end(header, start, 1)])
    packed = _number(header, "<i", compression) if compression else 0
    return _Header(packed, size if end < 0 else end, stream, width, height)


def _first_stream(description: bytes) -> tuple[int, int | None, int | None]:
    """Return number, width and height of the lowest event stream of DV's XML."""
    if b"<!" in description:  # DV declares no entities, which can unfold without end
        raise RecordingError("unreadable", "the header's XML declares something")
    try:
        root = ElementTree.fromstring(description.rstrip(b"\0"))  # noqa: S314 - see above
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise RecordingError("unreadable", f"the header's XML: {error}") from error
    streams: dict[int, ElementTree.Element] = {}
    kinds = set()
    for node in root.iterfind("node[@name='outInfo']/node"):
        kind = node.findtext("attr[@key='typeIdentifier']") or "nothing"
        kinds.add(kind)
        if kind == "EVTS" and (number := _whole(node.get("name"))) is not None:
            streams[number] = node
    if not streams:
        raise RecordingError("no-event-stream", f"only {', '.join(sorted(kinds))}"[:100])
    first = min(streams)
    sides = (f"node[@name='info']/attr[@key='size{side}']" for side in "XY")
    width, height = (_whole(streams[first].findtext(side)) for side in sides)
    return first, width, height


def _whole(text: str | None) -> int | None:
    """Return a number of at most nine digits, None for other text."""
    return int(text) if text and len(text) < 10 and text.isascii() and text.isdigit() else None


def _packets(
    file: BinaryIO, size: int, header: _Header, path: Path
) -> Iterator[npt.NDArray[np.void]]:
    """Yield the events of each of the stream's packets; others are passed over unread."""
    left = MAX_BYTES_PER_EVENT * most_events(size)
    count = 0
    for _ in range(_MAX_PACKETS):
        if file.tell() == header.end:
            return
        stream, length = struct.unpack("<II", file.read(8))
        if stream != header.stream:
            if length > size - file.tell():
                raise RecordingError(
                    "truncated", f"a packet of {length} bytes ends beyond the file"
                )
            file.seek(length, io.SEEK_CUR)
            continue
        packet = _unpacked(_part(file, size, length), header.compression, left, path)
        left -= len(packet)
        events = _events(packet)
        count += len(events)
        check_count(count)
        yield events
    raise RecordingError("unreadable", f"more than {_MAX_PACKETS} packets")


def _part(file: BinaryIO, size: int, length: int) -> bytes:
    if length > size - file.tell():
        raise RecordingError("truncated", f"a part of {length} bytes ends beyond the file")
    return file.read(length)


def _unpacked(packet: bytes, compression: int, most: int, path: Path) -> bytes:
    """Return a packet's bytes; RecordingError where they are damaged, or more than `most`."""
    if compression in _NONE:
        return packet
    if compression in _LZ4:
        package = optional_package("lz4.frame", "aedat", f"{path}: AEDAT4 packed with LZ4")
        pieces = _lz4_pieces(package, packet)
    elif compression in _ZSTD:
        package = optional_package("zstandard", "aedat", f"{path}: AEDAT4 packed with Zstandard")
        pieces = _zstd_pieces(package, packet)
    else:
        raise RecordingError("unreadable", f"packed in an unknown way ({compression})")
    data = bytearray()
    try:
        for piece in pieces:
            data += piece
            if len(data) > most:
                raise RecordingError("too-many-events", f"unfolds to more than {most} bytes")
    except (RuntimeError, EOFError) as error:  # what lz4 raises
        raise RecordingError("unreadable", f"LZ4: {error}") from error
    return bytes(data)


def _lz4_pieces(package: Any, packet: bytes) -> Iterator[bytes]:
    frame = package.LZ4FrameDecompressor()
    piece = frame.decompress(packet, _PIECE_BYTES)
    while piece:
        yield piece
        piece = b"" if frame.eof else frame.decompress(b"", _PIECE_BYTES)


def _zstd_pieces(package: Any, packet: bytes) -> Iterator[bytes]:
    try:
        with package.ZstdDecompressor().stream_reader(packet) as stream:
            while piece := stream.read(_PIECE_BYTES):
                yield piece
    except package.ZstdError as error:
        raise RecordingError("unreadable", f"Zstandard: {error}") from error


def _events(packet: bytes) -> npt.NDArray[np.void]:
    """Return the one vector of a packet's flatbuffer, after which the file's length comes."""
    if packet[8:12] != b"EVTS":
        raise RecordingError("unreadable", "a packet of an event stream holds other things")
    table = packet[4:]  # a length comes before the flatbuffer
    elements = _field(table, _ELEMENTS)
    if not elements:
        return np.zeros(0, _EVENT)
    start = elements + _number(table, "<I", elements)
    _end(table, start, _EVENT.itemsize)
    return np.frombuffer(table, _EVENT, _number(table, "<I", start), start + 4)


def _field(buffer: bytes, slot: int) -> int:
    """Return where a field of a flatbuffer's root table lies, 0 where it is left out."""
    table = _number(buffer, "<I", 0)
    fields = table - _number(buffer, "<i", table)
    entry = 4 + 2 * slot
    if entry + 2 > _number(buffer, "<H", fields):
        return 0
    offset = _number(buffer, "<H", fields + entry)
    return table + offset if offset else 0


def _end(buffer: bytes, start: int, item_bytes: int) -> int:
    """Return where a flatbuffer's vector ends; struct.error if outside the buffer."""
    end = start + 4 + item_bytes * _number(buffer, "<I", start)
    if end > len(buffer):
        raise struct.error("a vector ends outside")
    return end


def _number(buffer: bytes, layout: str, start: int) -> int:
    if start < 0:  # struct would count from the end
        raise struct.error("an offset leads outside")
    return int(struct.unpack_from(layout, buffer, start)[0])
