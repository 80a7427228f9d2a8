"""AEDAT 2.0, what jAER writes: CIFAR10-DVS and DailyAction-DVS (DVS128), PAF (DAVIS346)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ezsr_shards.formats.raw import RawEvents, RecordingError
from ezsr_shards.formats.reading import CONTROL_CHARACTERS, check_count, read_bytes

_VERSION = b"#!AER-DAT2"
_END_OF_HEADER = b"endofasciiheader"
_MAX_HEADER_BYTES = 1 << 20
_RECORD = np.dtype([("address", ">u4"), ("t", ">u4")])

_DVS128_SIDE_PX = 128
_DAVIS346_PX = (346, 260)


def read_aedat2_dvs128(path: Path) -> RawEvents:
    """Read a DVS128 recording; see `decode_aedat2_dvs128`."""
    return decode_aedat2_dvs128(read_bytes(path))


def read_aedat2_jaer(path: Path) -> RawEvents:
    """Read a DVS128 recording as jAER shows it: x = 127 - bits 1-7, y = 127 - bits 8-14.

    So people stand upright in DailyAction-DVS, as one public reader found by looking. See
    `decode_aedat2_dvs128`.
    """
    raw = decode_aedat2_dvs128(read_bytes(path))
    return replace(raw, x=raw.y, y=raw.x)


def read_aedat2_davis346(path: Path) -> RawEvents:
    """Read a DAVIS346 recording; see `decode_aedat2_davis346`."""
    return decode_aedat2_davis346(read_bytes(path))


def decode_aedat2_dvs128(data: bytes) -> RawEvents:
    """Decode DVS128 addresses: bit 0 polarity, bits 1-7 and 8-14 the pixel, bit 15 no pixel.

    As SpikingJelly reads CIFAR10-DVS, and most programs after it: x = 127 - bits 8-14,
    y = 127 - bits 1-7, p = 1 - bit 0. The data set's dat2mat.m gives x = 127 - bits 1-7,
    y = bits 8-14 (`swap_xy` and `flip_y`), which is the same turned by 90 degrees; jAER's screen,
    where y counts upwards, is `swap_xy`; tonic reads x = bits 8-14, y = bits 1-7, p = bit 0
    (`flip_x`, `flip_y`, `invert_polarity`).
    Raises RecordingError: "not-aedat2", "truncated", "too-many-events".
    """
    address, t = _records(data)
    pixels = address & 0x8000 == 0  # bit 15 marks events of the synchronisation pin
    address, t = address[pixels], t[pixels]
    last = _DVS128_SIDE_PX - 1
    x = last - (address >> 8 & 0x7F).astype(np.int16)
    y = last - (address >> 1 & 0x7F).astype(np.int16)
    p = (1 - (address & 1)).astype(np.uint8)
    return RawEvents(x, y, t, p, _DVS128_SIDE_PX, _DVS128_SIDE_PX)


def decode_aedat2_davis346(data: bytes) -> RawEvents:
    """Decode DAVIS346 addresses: bits 12-21 x, 22-30 y, 11 polarity; bits 31 and 10 no pixel.

    x = 345 - bits 12-21, y = 259 - bits 22-30 (jAER counts rows from the bottom, and PAF's own
    frequency.py turns its pictures over before it shows them), p = bit 11, as jAER means it and
    tonic reads it; PAF's frequency.py and ExACT use 1 - bit 11 (`invert_polarity`). Bit 31 marks
    samples of frames and of the motion sensor, bit 10 the trigger pin: neither is an event.
    Raises RecordingError: "not-aedat2", "truncated", "too-many-events".
    """
    address, t = _records(data)
    pixels = address & 0x80000400 == 0
    address, t = address[pixels], t[pixels]
    width, height = _DAVIS346_PX
    x = width - 1 - (address >> 12 & 0x3FF).astype(np.int16)
    y = height - 1 - (address >> 22 & 0x1FF).astype(np.int16)
    p = (address >> 11 & 1).astype(np.uint8)
    return RawEvents(x, y, t, p, width, height)


def _records(data: bytes) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Return addresses and times in microseconds, without the turns of the 32-bit clock."""
    if not data.startswith(_VERSION):
        raise RecordingError("not-aedat2", f"begins with {data[:14]!r}, not {_VERSION.decode()}.0")
    start = _header_bytes(data)
    count, rest = divmod(len(data) - start, _RECORD.itemsize)
    if rest:
        raise RecordingError("truncated", f"{rest} bytes after {count} records of 8")
    check_count(count)
    records = np.frombuffer(data, _RECORD, count, start)
    return records["address"].astype(np.uint32), _unwrapped(records["t"].astype(np.int64))


def _header_bytes(data: bytes) -> int:
    r"""Return where the records begin.

    The first record may begin with '#' too, so a header line must be printable to its line feed:
    '#', no control characters but tabs, then "\r\n" or "\n". jAER's last line "#End Of ASCII
    Header", where a file has it, ends the header whatever follows.
    Source: docs.inivation.com, AEDAT file formats, common version header.
    """
    start = 0
    while data[start : start + 1] == b"#" and start < _MAX_HEADER_BYTES:
        end = data.find(b"\n", start, start + _MAX_HEADER_BYTES) + 1
        line = data[start : end - 1].removesuffix(b"\r")
        if not end or len(line.translate(None, CONTROL_CHARACTERS)) < len(line):
            break
        start = end
        if line[1:].replace(b" ", b"").lower() == _END_OF_HEADER:
            break
    return start


def _unwrapped(t: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Undo the turns of a 32-bit clock, (N,) microseconds; small steps back stay as they are.

    jAER counts in signed 32 bits, which read as unsigned turn from 2**32 - 1 to 0; devices whose
    clock has 31 bits turn from 2**31 - 1 to 0.
    """
    step = np.diff(t)
    turned = step <= -(2**31)
    late = step >= 2**31  # an event from before the turn that was written after it
    short = (step <= -(2**30)) & ~turned & (t[:-1] < 2**31)
    offsets = 2**32 * (turned.astype(np.int64) - late) + 2**31 * short
    t[1:] += np.cumsum(offsets)
    return t
