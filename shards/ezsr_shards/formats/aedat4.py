"""AEDAT 4.0, what iniVation's DV writes: DailyDVS-200 and others, read by the package aedat."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ezsr_shards.formats.raw import RawEvents, RecordingError
from ezsr_shards.formats.reading import check_count, check_file, optional_package

_MAGIC = b"#!AER-DAT4.0\r\n"
_COMPRESSION, _DATA_TABLE, _DESCRIPTION = 0, 1, 2
_ELEMENTS = 0
_EVENT_BYTES = 16


def read_aedat4(path: Path) -> RawEvents:
    """Read the first event stream of an AEDAT4 file, all of its packets; y counts from the top.

    Width and height are the stream's own. Times are microseconds since 1970, as DV writes them.
    Raises RecordingError: "not-aedat4", "truncated", "no-event-stream", "too-many-events",
    "unreadable"; ConfigError without the package `aedat` (MIT).
    """
    aedat = optional_package("aedat", "aedat", f"{path}: AEDAT4")
    check_file(path)
    try:
        with path.open("rb") as file:
            _check_container(file, path.stat().st_size)
    except OSError as error:
        raise RecordingError("unreadable", error.strerror or str(error)) from error
    try:
        return _events(aedat.Decoder(path))
    except RecordingError:
        raise
    except Exception as error:
        raise RecordingError("unreadable", f"aedat: {error}") from error
    except BaseException as error:  # Rust's panics are no Exceptions
        if type(error).__name__ != "PanicException":
            raise
        raise RecordingError("unreadable", f"aedat: {error}") from error


def _events(decoder: Any) -> RawEvents:
    streams = decoder.id_to_stream()
    chosen = min((n for n, stream in streams.items() if stream["type"] == "events"), default=None)
    if chosen is None:
        kinds = sorted({str(stream["type"]) for stream in streams.values()})
        raise RecordingError("no-event-stream", f"only {', '.join(kinds)}")
    packets, count = [], 0
    for packet in decoder:
        if packet["stream_id"] == chosen and "events" in packet:
            packets.append(packet["events"])
            count += len(packets[-1])
            check_count(count)
    t, x, y, on = (
        np.concatenate([packet[name] for packet in packets] or [np.zeros(0, np.int64)])
        for name in ("t", "x", "y", "on")
    )
    stream = streams[chosen]
    return RawEvents(
        x, y, t.astype(np.int64), on.astype(np.uint8), stream["width"], stream["height"]
    )


def _check_container(file: BinaryIO, size: int) -> None:
    """Raise RecordingError unless every length and offset of the file stays inside it.

    `aedat` believes them, and follows the offsets of the header's and the packets' flatbuffers
    unchecked. What is inside compressed packets cannot be checked here.
    """
    if file.read(len(_MAGIC)) != _MAGIC:
        raise RecordingError("not-aedat4", f"begins without {_MAGIC[:-2].decode()}")
    try:
        header = _part(file, size, *struct.unpack("<I", file.read(4)))
        compression = _field(header, _COMPRESSION)
        packed = bool(compression and _number(header, "<i", compression))
        description = _field(header, _DESCRIPTION)
        if not description:
            raise RecordingError("not-aedat4", "the header describes no streams")
        description += _number(header, "<I", description)
        header[description + 4 : _end(header, description, 1)].decode()
        table = _field(header, _DATA_TABLE)
        end = _number(header, "<q", table) if table else -1
        while file.tell() != (size if end < 0 else end):
            _, length = struct.unpack("<II", file.read(8))
            if packed:
                file.seek(length, 1)
                if file.tell() > size:
                    raise RecordingError("truncated", "a packet ends beyond the file")
            else:
                _check_packet(_part(file, size, length))
    except (struct.error, UnicodeDecodeError) as error:
        raise RecordingError("truncated", "an offset or length leads outside the file") from error


def _part(file: BinaryIO, size: int, length: int) -> bytes:
    if length > size - file.tell():
        raise RecordingError("truncated", f"a part of {length} bytes ends beyond the file")
    return file.read(length)


def _check_packet(packet: bytes) -> None:
    if packet[8:12] != b"EVTS":
        return
    table = packet[4:]  # a length comes before the flatbuffer
    elements = _field(table, _ELEMENTS)
    if elements:
        _end(table, elements + _number(table, "<I", elements), _EVENT_BYTES)


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
