"""Prophesee RAW recordings: events as the sensor sends them, encoded as EVT 2.0 or EVT 3.0."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ezsr_shards.formats.raw import RawEvents, RecordingError
from ezsr_shards.formats.reading import CONTROL_CHARACTERS, check_count, read_bytes

_MAX_HEADER_BYTES = 1 << 20
_Words = npt.NDArray[np.unsignedinteger]
_Integers = npt.NDArray[np.int64]

_EVT2_CD_ON, _EVT2_TIME_HIGH = 0x1, 0x8
_EVT2_TIME_HIGH_BITS, _EVT2_TIME_LOW_BITS = 28, 6

_ADDR_Y, _ADDR_X, _BASE_X, _VECT_12, _VECT_8 = 0x0, 0x2, 0x3, 0x4, 0x5
_TIME_LOW, _TIME_HIGH = 0x6, 0x8
_EVT3_TIME_HIGH_BITS, _EVT3_TIME_LOW_BITS = 12, 12


@dataclass(frozen=True)
class _Header:
    """What the '%' lines tell: version ("2.0", "3.0"), byte order, sensor, where words begin."""

    version: str
    byte_order: str
    width: int | None
    height: int | None
    size_bytes: int


def read_evt(path: Path) -> RawEvents:
    """Read a Prophesee `.raw` file; see `decode_evt`."""
    return decode_evt(read_bytes(path))


def decode_evt(data: bytes) -> RawEvents:
    """Decode a RAW file of EVT 2.0 or EVT 3.0; x and y count from the top left, p = 1 is ON.

    Words before the first TIME_HIGH are dropped, as Prophesee's OpenEB does: their time is
    unknown. In EVT 3.0 so are events before the first row, and vectors before their first base.
    Triggers and vendor words are passed over. Width and height are None where the header has no
    geometry. Source: docs.prophesee.ai, RAW file format, EVT 2.0 and EVT 3.0 format.
    Raises RecordingError: "not-evt", "unsupported-evt", "truncated", "too-many-events".
    """
    header = _read_header(data)
    word = np.dtype(np.uint32 if header.version == "2.0" else np.uint16)
    word = word.newbyteorder("<" if header.byte_order == "little" else ">")
    count, rest = divmod(len(data) - header.size_bytes, word.itemsize)
    if rest:
        raise RecordingError("truncated", f"{rest} bytes after {count} words of {word.itemsize}")
    words = np.frombuffer(data, word, count, header.size_bytes)
    decode = _decode_evt2 if header.version == "2.0" else _decode_evt3
    x, y, t, p = decode(words)
    return RawEvents(x, y, t, p, header.width, header.height)


def _read_header(data: bytes) -> _Header:
    facts, start = {}, 0
    while data[start : start + 2] == b"% " and start < _MAX_HEADER_BYTES:
        end = data.find(b"\n", start, start + _MAX_HEADER_BYTES) + 1
        if not end:
            break
        text = data[start : end - 1].removesuffix(b"\r")
        if len(text.translate(None, CONTROL_CHARACTERS)) < len(text):
            break  # the first word of a file without "% end" may begin with these bytes too
        line = text[2:].decode("ascii", "replace").strip()
        start = end
        if line == "end":
            break
        name, _, value = line.partition(" ")
        facts[name] = value.strip()
    if not start:
        raise RecordingError("not-evt", "no '%' lines at the beginning say how it is encoded")
    encoding, *options = facts.get("format", "").split(";")
    facts.update((name, value) for name, _, value in (o.partition("=") for o in options))
    version = {"EVT2": "2.0", "EVT3": "3.0"}.get(encoding, encoding) or facts.get("evt", "")
    if version not in ("2.0", "3.0"):
        raise RecordingError(
            "unsupported-evt",
            f"encoded as {version[:20] or 'the header does not say what'}: "
            "convert it to EVT 2.0 or EVT 3.0 with Prophesee's tools",
        )
    width, height = _geometry(facts)
    order = "big" if facts.get("endianness") == "big" else "little"
    return _Header(version, order, width, height, start)


def _geometry(facts: dict[str, str]) -> tuple[int | None, int | None]:
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", facts.get("geometry", ""))
    if not found:
        sides = f"{facts.get('width')}x{facts.get('height')}"
        found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", sides)
    return (int(found[1]), int(found[2])) if found else (None, None)


def _decode_evt2(words: _Words) -> tuple[_Integers, _Integers, _Integers, _Integers]:
    """Decode 32-bit words: type (4 bits); CD: low time (6), x (11), y (11); else high time (28)."""
    kind = (words >> 28).astype(np.uint8)
    high_at = np.flatnonzero(kind == _EVT2_TIME_HIGH)
    at = np.flatnonzero(kind <= _EVT2_CD_ON)
    at = at[at > high_at[0]] if len(high_at) else at[:0]
    check_count(len(at))
    high = _unwrapped(words[high_at].astype(np.int64) & 0xFFFFFFF, _EVT2_TIME_HIGH_BITS)
    event = words[at].astype(np.int64)
    t = (high[_latest(high_at, at)] << _EVT2_TIME_LOW_BITS) + (event >> 22 & 0x3F)
    return event >> 11 & 0x7FF, event & 0x7FF, t, event >> 28


def _decode_evt3(words: _Words) -> tuple[_Integers, _Integers, _Integers, _Integers]:
    """Decode 16-bit words: type (4 bits), payload (12 bits); each word changes one thing only."""
    kind = (words >> 12).astype(np.uint8)
    high_at = np.flatnonzero(kind == _TIME_HIGH)
    if len(high_at):
        words, kind = words[high_at[0] :], kind[high_at[0] :]
    else:
        words, kind = words[:0], kind[:0]
    at, x, p = _single_events(words, kind)
    vector_at, vector_x, vector_p = _vector_events(words, kind, len(at))
    at = np.concatenate((at, vector_at))
    order = np.argsort(at, kind="stable")
    at = at[order]
    x, p = (np.concatenate(parts)[order] for parts in ((x, vector_x), (p, vector_p)))
    rows_at = np.flatnonzero(kind == _ADDR_Y)
    first = int(np.searchsorted(at, rows_at[0])) if len(rows_at) else len(at)
    at, x, p = at[first:], x[first:], p[first:]
    y = (words[rows_at] & 0x7FF).astype(np.int64)[_latest(rows_at, at)]
    return x, y, _evt3_times(words, kind, at), p


def _single_events(words: _Words, kind: _Words) -> tuple[_Integers, _Integers, _Integers]:
    """Return index of the word, x and p of the ADDR_X words: p (1 bit), x (11 bits)."""
    at = np.flatnonzero(kind == _ADDR_X)
    check_count(len(at))
    word = words[at].astype(np.int64)
    return at, word & 0x7FF, word >> 11 & 1


def _vector_events(
    words: _Words, kind: _Words, before: int
) -> tuple[_Integers, _Integers, _Integers]:
    """Return index of the word, x and p of the events in VECT_12 and VECT_8 words.

    Bit i of a vector is a pixel at base + i; the base then moves on by the vector's 12 or 8.
    """
    base_at = np.flatnonzero(kind == _BASE_X)
    at = np.flatnonzero((kind == _VECT_12) | (kind == _VECT_8))
    at = at[at > base_at[0]] if len(base_at) else at[:0]
    size = np.where(kind[at] == _VECT_12, 12, 8)
    moved = np.concatenate(([0], np.cumsum(size)))  # pixels by all vectors before each
    base_of = _latest(base_at, at)
    base = words[base_at].astype(np.int64)
    start_x = (base & 0x7FF)[base_of] + moved[:-1] - moved[np.searchsorted(at, base_at)][base_of]
    mask = words[at] & np.where(size == 12, 0xFFF, 0xFF).astype(np.uint16)
    vector, bit = _set_bits(mask, before)
    return at[vector], start_x[vector] + bit, (base >> 11 & 1)[base_of][vector]


def _set_bits(mask: _Words, before: int) -> tuple[_Integers, _Integers]:
    """Return index and bit of every bit that is set, in order; RecordingError past MAX_EVENTS."""
    bits = np.unpackbits(mask.astype("<u2").view(np.uint8).reshape(-1, 2), 1, bitorder="little")
    check_count(before + int(np.count_nonzero(bits)))
    vector, bit = np.nonzero(bits)
    return vector, bit


def _evt3_times(words: _Words, kind: _Words, at: _Integers) -> _Integers:
    """Return the time of the words `at`: 12 high bits and 12 low bits, of the words before them.

    A TIME_HIGH that differs from the last one starts at low bits 0 until the next TIME_LOW, as
    OpenEB does; one that repeats it, which cameras send to keep a reader in step, changes nothing.
    """
    high_at = np.flatnonzero(kind == _TIME_HIGH)
    high = _unwrapped(words[high_at].astype(np.int64) & 0xFFF, _EVT3_TIME_HIGH_BITS)
    new = np.diff(high, prepend=-1) != 0
    low_at = np.flatnonzero(kind == _TIME_LOW)
    either_at = np.concatenate((high_at[new], low_at))
    low = np.concatenate((np.zeros(np.count_nonzero(new), np.int64), words[low_at] & 0xFFF))
    order = np.argsort(either_at)
    low = low[order][_latest(either_at[order], at)]
    return (high[_latest(high_at, at)] << _EVT3_TIME_LOW_BITS) + low


def _latest(positions: _Integers, at: _Integers) -> _Integers:
    """Return, for each index of a word, which of the ascending `positions` comes last before it."""
    return np.searchsorted(positions, at) - 1


def _unwrapped(t: _Integers, bits: int) -> _Integers:
    """Undo the turns of a counter; a step back of less than half its range is no turn."""
    turns = np.cumsum(np.diff(t) <= -(1 << bits - 1))
    t[1:] += turns << bits
    return t
