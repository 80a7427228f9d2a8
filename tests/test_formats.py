"""Readers of recordings: bytes written by hand from each format's description, and hostile ones."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ezsr_shards.errors import ConfigError, ShardError
from ezsr_shards.events import EventStream
from ezsr_shards.formats import aedat4, arrays, matlab
from ezsr_shards.formats.aedat2 import (
    decode_aedat2_davis346,
    decode_aedat2_dvs128,
    read_aedat2_davis346,
    read_aedat2_dvs128,
    read_aedat2_jaer,
)
from ezsr_shards.formats.aedat4 import read_aedat4
from ezsr_shards.formats.aer40 import decode_aer40, read_aer40
from ezsr_shards.formats.arrays import (
    decode_npz,
    raw_from_array,
    raw_from_columns,
    read_npy,
    read_npz,
)
from ezsr_shards.formats.evt import decode_evt, read_evt
from ezsr_shards.formats.hdf5 import read_hdf5
from ezsr_shards.formats.matlab import decode_mat, read_mat
from ezsr_shards.formats.pickled import decode_bullying10k, read_bullying10k
from ezsr_shards.formats.raw import Convention, RawEvents, RecordingError, arrange
from ezsr_shards.npz import encode_npz
from ezsr_shards.sample import MAX_EVENTS, decode_events, encode_events

READERS: list[Callable[[Path], RawEvents]] = [
    read_aer40,
    read_aedat2_dvs128,
    read_aedat2_davis346,
    read_aedat4,
    read_evt,
    read_npz,
    read_npy,
    read_mat,
    read_hdf5,
    read_bullying10k,
]


def rows(raw: RawEvents) -> list[tuple[int, ...]]:
    """Events as (x, y, t, p)."""
    assert raw.t.dtype == np.int64
    columns = (np.asarray(column) for column in (raw.x, raw.y, raw.t, raw.p))
    return list(zip(*(column.tolist() for column in columns), strict=True))


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(RecordingError) as caught:
        act()
    return caught.value.reason


def needs(name: str) -> Any:
    """A package of an optional extra."""
    return pytest.importorskip(name, reason=f"{name} comes with an extra of ezsr")


# 40-bit address events


def test_aer40_golden() -> None:
    # x, y, then bit 7 p and bits 6-0 t[22:16], t[15:8], t[7:0]
    data = bytes([3, 4, 0x80 | 0x01, 0x02, 0x03]) + bytes([33, 0, 0x7F, 0xFF, 0xFF])
    assert rows(decode_aer40(data)) == [(3, 4, 0x010203, 1), (33, 0, 0x7FFFFF, 0)]


def test_aer40_overflow_marks_move_later_times() -> None:
    mark, event = bytes([0, 240, 0, 0, 0]), bytes([5, 6, 0x80, 0, 9])
    found = rows(decode_aer40(event + mark + event + mark + mark + event))
    assert found == [(5, 6, 9, 1), (5, 6, 9 + 8192, 1), (5, 6, 9 + 3 * 8192, 1)]


def aer40_twin(data: bytes) -> list[tuple[int, ...]]:
    """One event after the other."""
    found, overflow = [], 0
    for at in range(0, len(data), 5):
        x, y, b2, b3, b4 = data[at : at + 5]
        if y == 240:
            overflow += 2**13
        else:
            found.append((x, y, ((b2 & 127) << 16) + (b3 << 8) + b4 + overflow, b2 >> 7))
    return found


@given(st.binary(max_size=200).map(lambda data: data[: len(data) // 5 * 5]))
def test_aer40_is_its_twin(data: bytes) -> None:
    assert rows(decode_aer40(data)) == aer40_twin(data)


def test_aer40_reads_n_mnist(real_data: Path) -> None:
    paths = sorted((real_data / "n-mnist").glob("*.bin"))
    if not paths:
        pytest.skip("no N-MNIST recordings")
    for n, path in enumerate(paths):
        raw = read_aer40(path)
        if n < 40:
            assert rows(raw) == aer40_twin(path.read_bytes())
        events = arrange(raw, 34, 34)
        assert len(events) > 500
        assert 280_000 < events.duration_us < 340_000


# AEDAT 2.0

JAER_HEADER = (
    b"#!AER-DAT2.0\r\n"
    b"# This is a raw AE data file - do not edit\r\n"
    b"# Data format is int32 address, int32 timestamp (8 bytes total), repeated for each event\r\n"
    b"# Timestamps tick is 1 us\r\n"
    b"# created Thu Dec 03 14:47:00 CET 2015\r\n"
)


def aedat2(*records: tuple[int, int], header: bytes = JAER_HEADER) -> bytes:
    return header + b"".join(struct.pack(">II", *record) for record in records)


def test_dvs128_golden() -> None:
    # bit 15 external, bits 14-8 = 5, bits 7-1 = 20, bit 0 = 1
    address = 5 << 8 | 20 << 1 | 1
    raw = decode_aedat2_dvs128(aedat2((address, 1000), (address - 1, 1001), (0x8000, 1002)))
    assert rows(raw) == [(127 - 5, 127 - 20, 1000, 0), (127 - 5, 127 - 20, 1001, 1)]
    assert (raw.width, raw.height) == (128, 128)


def test_dvs128_as_jaer_shows_it(tmp_path: Path) -> None:
    """Address 5 << 8 | 20 << 1 | 1: x = 127 - 20, y = 127 - 5, and an OFF event."""
    (tmp_path / "one.aedat").write_bytes(aedat2((5 << 8 | 20 << 1 | 1, 7)))
    assert rows(read_aedat2_jaer(tmp_path / "one.aedat")) == [(107, 122, 7, 0)]


def test_dvs128_turns_into_the_other_conventions() -> None:
    raw = decode_aedat2_dvs128(aedat2((5 << 8 | 20 << 1 | 1, 0)))

    def first(convention: Convention) -> tuple[int, int, int]:
        events = arrange(raw, 128, 128, convention)
        return int(events.x[0]), int(events.y[0]), int(events.p[0])

    assert first(Convention(swap_xy=True)) == (127 - 20, 127 - 5, 0)  # jAER's screen
    assert first(Convention(swap_xy=True, flip_y=True)) == (127 - 20, 5, 0)  # dat2mat.m
    tonic = Convention(flip_x=True, flip_y=True, invert_polarity=True)
    assert first(tonic) == (5, 20, 1)


def test_davis346_golden() -> None:
    # bit 31 frame sample, bits 30-22 y = 10, bits 21-12 x = 300, bit 11 p = 1, bit 10 trigger
    on = 10 << 22 | 300 << 12 | 1 << 11
    records = aedat2((on, 7), (on & ~0x800, 8), (on | 1 << 31, 9), (on | 1 << 10, 10))
    raw = decode_aedat2_davis346(records)
    assert rows(raw) == [(345 - 300, 259 - 10, 7, 1), (345 - 300, 259 - 10, 8, 0)]
    assert (raw.width, raw.height) == (346, 260)


def test_davis346_masks_are_those_of_the_authors() -> None:
    address = 0x2AAAAAAA & ~0x400
    raw = decode_aedat2_davis346(aedat2((address, 0)))
    x, y = 345 - ((address & 0x3FF000) >> 12), 259 - ((address & 0x7FC00000) >> 22)
    assert rows(raw) == [(x, y, 0, (address & 0x800) >> 11)]


@pytest.mark.parametrize("ending", [b"", b"#End Of ASCII Header\r\n", b"# End of ASCII Header\r\n"])
def test_aedat2_record_that_begins_like_a_header_line(ending: bytes) -> None:
    # address 0x23xxxxxx begins with '#', and the record holds a line feed (0x0A)
    address = 0x23414243 & ~0x400
    data = aedat2((address, 0x0000000A), (address, 11), header=JAER_HEADER + ending)
    assert [row[2] for row in rows(decode_aedat2_davis346(data))] == [10, 11]


def test_aedat2_record_that_reads_as_text_needs_the_end_line() -> None:
    data = aedat2((0x23414243, 0x4142430A), header=JAER_HEADER + b"#End Of ASCII Header\r\n")
    assert len(decode_aedat2_davis346(data).t) == 1


def test_aedat2_unix_line_ends_and_no_event() -> None:
    assert rows(decode_aedat2_dvs128(b"#!AER-DAT2.0\n# made by hand\n")) == []


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0xFFFFFFFE, 1, 0xFFFFFFFF, 2], [0, 3, 1, 4]),  # a turn of 32 bits, one event late
        ([0x7FFFFFFE, 0x80000001], [0, 3]),  # signed counts turn negative: no jump as unsigned
        ([0x7FFFFFFE, 1, 2], [0, 3, 4]),  # a clock of 31 bits
        ([1000, 900, 1100], [0, -100, 100]),  # a small step back stays
    ],
)
def test_aedat2_clock_turns(times: list[int], expected: list[int]) -> None:
    t = decode_aedat2_dvs128(aedat2(*((0, time) for time in times))).t
    assert (t - t[0]).tolist() == expected


def test_aedat2_refusals() -> None:
    decode = decode_aedat2_dvs128
    assert refusal(lambda: decode(b"")) == "not-aedat2"
    assert refusal(lambda: decode(b"#!AER-DAT3.1\r\n" + bytes(16))) == "not-aedat2"
    assert refusal(lambda: decode(aedat2((1, 2))[:-1])) == "truncated"


# AEDAT 4.0, written by hand as flatbuffers

DESCRIPTION = """<dv version="2.0"><node name="outInfo">{}</node></dv>"""
STREAM = (
    '<node name="{}"><attr key="typeIdentifier" type="string">{}</attr><node name="info">'
    '<attr key="sizeX" type="int">{}</attr><attr key="sizeY" type="int">{}</attr></node></node>'
)


def flat_header(description: bytes, compression: int = 0) -> bytes:
    """IOHeader: compression, where the data table begins (-1: none), description."""
    vtable = struct.pack("<HHHHH", 10, 24, 4, 8, 16)  # sizes, then where each field lies
    start = struct.pack("<I4s6x", 24, b"IOHE") + vtable  # the vtable at 14, the table at 24
    table = struct.pack("<iiqI4x", 24 - 14, compression, -1, 8)  # the string 8 after its offset
    body = start + table + struct.pack("<I", len(description)) + description + b"\0"
    return struct.pack("<I", len(body)) + body


def flat_events(events: list[tuple[int, int, int, int]]) -> bytes:
    """EventPacket: one vector of structs t i64, x i16, y i16, on u8, 3 bytes of padding."""
    vtable = struct.pack("<HHH", 6, 8, 4)
    start = struct.pack("<I4s2x", 16, b"EVTS") + vtable  # vtable at 10, table at 16
    table = struct.pack("<iI", 16 - 10, 4)  # the vector's length stands 4 after its offset
    vector = struct.pack("<I", len(events))
    vector += b"".join(struct.pack("<qhhB3x", t, x, y, on) for x, y, t, on in events)
    body = start + table + vector
    return struct.pack("<I", len(body)) + body


def zstd_stored(data: bytes) -> bytes:
    """A Zstandard frame (RFC 8878) of one raw block, its size in four bytes."""
    block = len(data) << 3 | 1  # bit 0: the last one, bits 1-2: raw
    return struct.pack("<IBI", 0xFD2FB528, 0xA0, len(data)) + struct.pack("<I", block)[:3] + data


def aedat4_file(
    *packets: tuple[int, bytes], streams: tuple[str, ...] = ("EVTS",), compression: int = 0
) -> bytes:
    nodes = "".join(STREAM.format(n, kind, 346, 260) for n, kind in enumerate(streams))
    data = b"#!AER-DAT4.0\r\n" + flat_header(DESCRIPTION.format(nodes).encode(), compression)
    for stream, packet in packets:
        data += struct.pack("<II", stream, len(packet)) + packet
    return data


FIRST = [(1, 2, 10**15, 1), (345, 259, 10**15 + 5, 0)]
SECOND = [(3, 4, 10**15 + 9, 1)]


def test_aedat4_joins_the_packets_of_the_first_event_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.aedat4"
    packets = [(1, flat_events(FIRST)), (2, flat_events([(9, 9, 9, 1)])), (1, flat_events(SECOND))]
    path.write_bytes(aedat4_file(*packets, streams=("TRIG", "EVTS", "EVTS")))
    raw = read_aedat4(path)
    assert rows(raw) == FIRST + SECOND
    assert (raw.width, raw.height) == (346, 260)


def lz4_stored(data: bytes) -> bytes:
    """An LZ4 frame of one block that is not compressed; its header's checksum is of xxHash32."""
    header = b"\x04\x22\x4d\x18" + b"\x60\x40\x82"  # independent blocks of up to 64 kB
    return header + struct.pack("<I", 0x80000000 | len(data)) + data + bytes(4)


PACKED = [(3, zstd_stored), (4, zstd_stored), (1, lz4_stored), (2, lz4_stored)]


@pytest.mark.parametrize(("number", "pack"), PACKED)
def test_aedat4_of_compressed_packets(
    number: int, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    needs("zstandard")
    needs("lz4")
    path = tmp_path / "a.aedat4"
    packets = [(0, pack(flat_events(part))) for part in (FIRST, SECOND)]
    path.write_bytes(aedat4_file(*packets, compression=number))
    assert rows(read_aedat4(path)) == FIRST + SECOND
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert refusal(lambda: read_aedat4(path)) == "truncated"
    path.write_bytes(aedat4_file((0, packets[0][1][:-30]), compression=number))
    assert refusal(lambda: read_aedat4(path)) == "truncated"
    path.write_bytes(aedat4_file((0, b"\0" * 30), compression=number))
    assert refusal(lambda: read_aedat4(path)) == "unreadable"


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_aedat4_is_read_as_the_package_aedat_reads_it(compression: str, tmp_path: Path) -> None:
    aedat, path = needs("aedat"), tmp_path / "a.aedat4"
    rng = np.random.default_rng(5)
    t = np.sort(rng.integers(10**15, 10**15 + 10**6, 20_000)).tolist()
    x, y, p = (rng.integers(0, side, 20_000).tolist() for side in (346, 260, 2))
    events = list(zip(x, y, t, p, strict=True))
    pack, number = flat_events, 0
    if compression == "lz4":
        pack, number = (lambda part: needs("lz4.frame").compress(flat_events(part))), 1
    if compression == "zstd":
        pack, number = (lambda part: needs("zstandard").compress(flat_events(part))), 3
    parts = [events[start : start + 3000] for start in range(0, len(events), 3000)]
    path.write_bytes(aedat4_file(*((0, pack(part)) for part in parts), compression=number))
    theirs = np.concatenate([packet["events"] for packet in aedat.Decoder(path)])
    assert rows(read_aedat4(path)) == events
    for name, column in (("x", x), ("y", y), ("t", t), ("on", p)):
        assert theirs[name].tolist() == column


def zstd_bomb(blocks: int) -> bytes:
    """A Zstandard frame of runs: four bytes for each 128 kB (RFC 8878, type 1)."""
    runs = (
        struct.pack("<I", 131072 << 3 | 2 | (n == blocks - 1))[:3] + b"\0" for n in range(blocks)
    )
    return struct.pack("<IBB", 0xFD2FB528, 0x00, 0x58) + b"".join(runs)


def test_aedat4_unfolds_no_further_than_its_size_allows(tmp_path: Path) -> None:
    needs("zstandard")
    path = tmp_path / "a.aedat4"
    path.write_bytes(aedat4_file((0, zstd_bomb(20_000)), compression=3))  # 80 kB for 2.6 GB
    tracemalloc.start()
    assert refusal(lambda: read_aedat4(path)) == "too-many-events"
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 200_000_000


def test_aedat4_refusals(tmp_path: Path) -> None:
    path = tmp_path / "a.aedat4"

    def reason(data: bytes) -> str:
        path.write_bytes(data)
        return refusal(lambda: read_aedat4(path))

    whole = aedat4_file((0, flat_events(FIRST)))
    assert reason(aedat2((1, 2))) == "not-aedat4"
    assert reason(aedat4_file(streams=("TRIG",))) == "no-event-stream"
    for cut in range(14, len(whole)):
        if cut != len(aedat4_file()):
            assert reason(whole[:cut]) in ("truncated", "unreadable", "not-aedat4")
    claims = flat_events(FIRST)
    at = claims.index(struct.pack("<I", 2), 24)
    claims = claims[:at] + struct.pack("<I", 2**31) + claims[at + 4 :]
    assert reason(aedat4_file((0, claims))) == "truncated"
    assert reason(aedat4_file((0, flat_events([(1, 2, 3, 2)])))) == "wrong-polarity"
    assert reason(aedat4_file((0, flat_header(b"")))) == "unreadable"  # no packet of events
    assert reason(aedat4_file((0, b""), compression=9)) == "unreadable"
    unfolds = b"<!DOCTYPE a [<!ENTITY b 'bb'><!ENTITY c '&b;&b;'>]><a>&c;</a>"
    assert reason(b"#!AER-DAT4.0\r\n" + flat_header(unfolds)) == "unreadable"
    assert reason(b"#!AER-DAT4.0\r\n" + flat_header(b"<dv>")) == "unreadable"
    assert reason(b"#!AER-DAT4.0\r\n" + flat_header(b"<a>" * 90_000)) == "unreadable"
    assert reason(b"#!AER-DAT4.0\r\n" + flat_header(b" " * 2_000_000)) == "unreadable"


def test_aedat4_of_nothing_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aedat4, "_MAX_PACKETS", 50)
    path = tmp_path / "a.aedat4"
    path.write_bytes(aedat4_file((0, flat_events(FIRST)), *[(7, b"")] * 50))
    assert refusal(lambda: read_aedat4(path)) == "unreadable"
    path.write_bytes(aedat4_file((0, flat_events(FIRST)), *[(7, b"")] * 40))
    assert rows(read_aedat4(path)) == FIRST


def test_aedat4_without_an_event(tmp_path: Path) -> None:
    (tmp_path / "a.aedat4").write_bytes(aedat4_file())
    assert rows(read_aedat4(tmp_path / "a.aedat4")) == []


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_aedat4_with_any_bytes_changed(data: st.DataObject) -> None:
    whole = bytearray(aedat4_file((0, flat_events(FIRST)), (0, flat_events(SECOND))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    reads_or_refuses(read_aedat4, bytes(whole))


@pytest.mark.parametrize(("number", "name"), [(1, "lz4.frame"), (3, "zstandard")])
def test_aedat4_says_which_package_is_missing(
    number: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.aedat4"
    path.write_bytes(aedat4_file((0, b"packed"), compression=number))
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'ezsr\[aedat\]'"):
        read_aedat4(path)


# Prophesee RAW

EVT2 = b"% evt 2.0\n% geometry 640x480\n% end\n"
EVT3 = b"% date 2023-03-29 16:37:46\n% evt 3.0\n% format EVT3;height=720;width=1280\n% end\n"


def evt2_words(*words: int) -> bytes:
    return EVT2 + struct.pack(f"<{len(words)}I", *words)


def evt3_words(*words: int) -> bytes:
    return EVT3 + struct.pack(f"<{len(words)}H", *words)


def test_evt2_golden() -> None:
    # [31:28] type; CD: [27:22] low time, [21:11] x, [10:0] y; TIME_HIGH: [27:0] time >> 6
    lost = 1 << 28 | 5 << 22 | 1 << 11 | 1
    on, off = 1 << 28 | 63 << 22 | 639 << 11 | 479, 0 << 28 | 1 << 22 | 2 << 11 | 3
    trigger = 0xA << 28 | 1 << 22 | 1
    raw = decode_evt(evt2_words(lost, 8 << 28 | 100, on, trigger, off, 8 << 28 | 101, off))
    assert rows(raw) == [(639, 479, 6463, 1), (2, 3, 6401, 0), (2, 3, 6465, 0)]
    assert (raw.width, raw.height) == (640, 480)


def test_evt2_clock_turns_after_34_bits() -> None:
    raw = decode_evt(evt2_words(8 << 28 | 0xFFFFFFF, 63 << 22, 8 << 28, 0))
    assert raw.t.tolist() == [2**34 - 1, 2**34]


def test_evt3_golden() -> None:
    words = [
        *(0x0001, 0x2805),  # y 1, x 5 ON: no time yet, dropped
        *(0x8001, 0x6002),  # TIME_HIGH 1, TIME_LOW 2
        0x2805,  # x 5 ON: no row yet, dropped
        0x02CF,  # ADDR_Y 719
        0x2CFF,  # ADDR_X 1279, polarity bit 11: ON
        *(0x3064, 0x4801, 0x4001, 0x5081),  # base 100 OFF; bits 0 and 11; 112: 0; 124: 0 and 7
        *(0xA001, 0xE000, 0xF123, 0x7001),  # trigger, others, continued
        *(0x8001, 0x2001),  # the same TIME_HIGH again: low bits stay
        *(0x8002, 0x2002),  # a new one: low bits begin at 0
    ]
    raw = decode_evt(evt3_words(*words))
    vector = [(x, 719, 4098, 0) for x in (100, 111, 112, 124, 131)]
    last = [(1, 719, 4098, 0), (2, 719, 8192, 0)]
    assert rows(raw) == [(1279, 719, 4098, 1), *vector, *last]
    assert (raw.width, raw.height) == (1280, 720)


def test_evt3_clock_turns_after_24_bits_and_small_steps_back_are_none() -> None:
    words = [0x0000, 0x8FFF, 0x6FFF, 0x0000, 0x2000, 0x8000, 0x2000, 0x8002, 0x2000, 0x8001, 0x2000]
    turn = 2**24
    expected = [turn - 1, turn, turn + 2 * 4096, turn + 4096]
    assert decode_evt(evt3_words(*words)).t.tolist() == expected


def evt3_twin(words: list[int]) -> list[tuple[int, ...]]:
    """One word after the other, as the format is told."""
    found: list[tuple[int, ...]] = []
    high = y = base = None
    low = loops = polarity = 0
    for word in words:
        kind, value = word >> 12, word & 0xFFF
        if high is None and kind != 0x8:
            continue
        if kind == 0x8:
            if high is not None and high - value >= 2048:
                loops += 1
            low = low if value == high else 0
            high = value
        elif kind == 0x6:
            low = value
        elif kind == 0x0:
            y = value & 0x7FF
        elif kind == 0x3:
            base, polarity = value & 0x7FF, value >> 11
        time = (loops << 24) + ((high or 0) << 12) + low
        if kind == 0x2 and y is not None:
            found.append((value & 0x7FF, y, time, value >> 11))
        if kind in (0x4, 0x5) and base is not None:
            size = 12 if kind == 0x4 else 8
            if y is not None:
                for bit in range(size):
                    if value >> bit & 1:
                        found.append((base + bit, y, time, polarity))
            base += size
    return found


def evt2_twin(words: list[int]) -> list[tuple[int, ...]]:
    found, high, loops = [], None, 0
    for word in words:
        kind = word >> 28
        if kind == 0x8:
            value = word & 0xFFFFFFF
            if high is not None and high - value >= 2**27:
                loops += 1
            high = value
        elif kind <= 1 and high is not None:
            time = (((loops << 28) + high) << 6) + (word >> 22 & 63)
            found.append((word >> 11 & 0x7FF, word & 0x7FF, time, kind))
    return found


EVT3_KINDS = [0x0, 0x2, 0x2, 0x3, 0x4, 0x5, 0x6, 0x8, 0xA, 0xE, 0xF, 0x7, 0x1]
evt3_streams = st.lists(
    st.builds(
        lambda kind, value: kind << 12 | value, st.sampled_from(EVT3_KINDS), st.integers(0, 0xFFF)
    ),
    max_size=80,
)
evt2_streams = st.lists(
    st.builds(
        lambda kind, value: kind << 28 | value,
        st.sampled_from([0, 1, 1, 8, 0xA, 0xE]),
        st.integers(0, 0xFFFFFFF),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(evt3_streams)
def test_evt3_is_its_twin(words: list[int]) -> None:
    assert rows(decode_evt(evt3_words(*words))) == evt3_twin(words)


@settings(max_examples=150, deadline=None)
@given(evt2_streams)
def test_evt2_is_its_twin(words: list[int]) -> None:
    assert rows(decode_evt(evt2_words(*words))) == evt2_twin(words)


def test_evt3_long_stream_is_its_twin() -> None:
    rng = np.random.default_rng(3)
    kinds = rng.choice(np.array(EVT3_KINDS), 60_000)
    words = (kinds << 12 | rng.integers(0, 0x1000, len(kinds))).tolist()
    assert rows(decode_evt(evt3_words(*words))) == evt3_twin(words)


def test_evt_headers() -> None:
    words = struct.pack("<3H", 0x8001, 0x0001, 0x2002)
    no_size = decode_evt(b"% evt 3.0\n" + words)  # no end line: data begins where '% ' does not
    assert (rows(no_size), no_size.width) == ([(2, 1, 4096, 0)], None)
    swapped = np.frombuffer(words, "<u2").astype(">u2").tobytes()
    big = decode_evt(b"% format EVT3;endianness=big;height=9;width=8\n% end\n" + swapped)
    assert (rows(big), big.width, big.height) == (rows(no_size), 8, 9)
    like_a_line = struct.pack("<3I", 0x80002025, 0x10000000 | 3 << 11 | 2, 0x0A000000)
    told = decode_evt(b"% evt 2.0\n" + like_a_line)  # the first word's bytes are "% "
    assert rows(told)[0] == (3, 2, 0x2025 << 6, 1)
    assert refusal(lambda: decode_evt(words)) == "not-evt"
    assert refusal(lambda: decode_evt(b"% date today\n% end\n")) == "unsupported-evt"
    assert (
        refusal(lambda: decode_evt(b"% format EVT21;height=720;width=1280\n")) == "unsupported-evt"
    )
    assert refusal(lambda: decode_evt(b"% evt 2.1\n% end\n")) == "unsupported-evt"
    assert refusal(lambda: decode_evt(EVT3 + b"\0")) == "truncated"
    assert refusal(lambda: decode_evt(EVT2 + b"\0\0\0")) == "truncated"


# Numpy arrays

X, Y, T, P = [3, 1, 2], [9, 8, 7], [0, 50, 400], [1, 0, 1]
EVENTS = list(zip(X, Y, T, P, strict=True))


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def npy(path: Path, array: Any, allow_pickle: bool = False) -> Path:
    np.save(path, array, allow_pickle=allow_pickle)
    return path


def records(dtype: Any) -> Any:
    """The three events as records; the names' order is x, y, t, p in `dtype`'s own words."""
    made = np.zeros(3, dtype)
    names = made.dtype.names
    for label, column in zip(sorted(names, key=column_of), (P, T, X, Y), strict=True):
        made[label] = column
    return made


def column_of(label: str) -> str:
    """'p' < 't' < 'x' < 'y', whatever a library calls them."""
    return "p" if label == "on" else label[0]


LIBRARIES = {
    "tonic": [("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "?")],
    "dv-processing": [("timestamp", "i8"), ("x", "i2"), ("y", "i2"), ("polarity", "i1")],
    "openeb": [("x", "u2"), ("y", "u2"), ("p", "i2"), ("t", "i8")],
    "faery": [("t", "u8"), ("x", "u2"), ("y", "u2"), (("p", "on"), "?")],
    "big-endian": [("ts", ">i4"), ("x", ">i2"), ("y", ">i2"), ("pol", "i1")],
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_records_of_other_libraries(library: str, tmp_path: Path) -> None:
    made = records(LIBRARIES[library])
    assert rows(raw_from_array(made)) == EVENTS
    assert rows(read_npy(npy(tmp_path / "a.npy", made))) == EVENTS


def test_npz_layouts() -> None:
    n_imagenet = np.zeros(3, [("x", "<u2"), ("y", "<u2"), ("t", "<u2"), ("p", "?")])
    for name, column in zip("xytp", (X, Y, T, P), strict=True):
        n_imagenet[name] = column
    assert rows(decode_npz(npz(event_data=n_imagenet))) == EVENTS
    assert rows(decode_npz(npz(x_pos=X, y_pos=Y, timestamp=T, polarity=P))) == EVENTS
    assert rows(decode_npz(npz(p=[1, -1, 1], t=T, y=Y, x=X, label=[7]))) == EVENTS
    assert (
        rows(decode_npz(npz(x=np.float32(X), y=Y, t=np.float64(T), p=np.array(P, bool)))) == EVENTS
    )
    assert rows(decode_npz(npz(events=np.stack([X, Y, T, P], 1)))) == EVENTS


def test_npz_reads_our_own_shards() -> None:
    t = np.array(T, np.int64)
    events = EventStream(np.uint16(X), np.uint16(Y), t, np.uint8(P), 16, 16, 500)
    assert rows(decode_npz(encode_events(events))) == EVENTS


def test_npz_reads_n_imagenet(real_data: Path) -> None:
    path = real_data / "n-imagenet" / "recording.npz"
    if not path.is_file():
        pytest.skip("no N-ImageNet recording")
    raw = read_npz(path)
    with np.load(path) as archive:
        expected = archive["event_data"]
    for column, name in ((raw.x, "x"), (raw.y, "y"), (raw.t, "t"), (raw.p, "p")):
        assert np.array_equal(column, expected[name])
    events = arrange(raw, 640, 480)
    assert (len(events), events.duration_us) == (107_037, 50_109)


def test_npy_numbers_and_the_unit_of_times(tmp_path: Path) -> None:
    signed = [1, -1, 1]
    microseconds = np.stack([X, Y, T, P], 1)
    seconds = np.stack([X, Y, np.array(T) * 1e-6, signed], 1)
    whole_seconds = np.stack([X, Y, [0.0, 1, 2], signed], 1)
    for array, expected in (
        (microseconds, T),
        (microseconds.astype(np.float64), T),  # whole, and they span 400
        (seconds, T),
        (seconds.astype(np.float32), T),
        (whole_seconds, [0, 10**6, 2 * 10**6]),
        (
            microseconds + np.array([0, 0, 1.6e15, 0]),
            np.array(T) + 1_600_000_000_000_000,
        ),  # since 1970
        (microseconds[:, [0, 1, 3, 3]], P),  # integers are microseconds however few
    ):
        raw = read_npy(npy(tmp_path / "a.npy", array))
        assert rows(raw) == list(zip(X, Y, expected, P, strict=True))
    fortran = np.asfortranarray(microseconds)
    assert rows(read_npy(npy(tmp_path / "a.npy", fortran))) == EVENTS


def test_columns_from_a_users_program() -> None:
    assert rows(raw_from_columns({"x": X, "y": Y, "t": T, "p": P})) == EVENTS
    upright = {"x": np.array([X]), "y": np.array([Y]).T, "t": np.array(T), "p": np.array(P)}
    assert rows(raw_from_columns(upright)) == EVENTS
    assert rows(raw_from_array(np.zeros((0, 4)))) == []


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        ({"p": [0, 1, 2]}, "wrong-polarity", "p: give 0 and 1"),
        ({"p": [0, 1, -1]}, "wrong-polarity", "-1 and 1"),
        ({"p": [0.0, 1.0, float("nan")]}, "wrong-polarity", "p: give"),
        ({"x": [0.5, 1.0, 2.0]}, "wrong-columns", "x has fractions"),
        ({"y": [0.0, float("inf"), 2.0]}, "wrong-columns", "y has fractions"),
        ({"t": [0.0, float("nan"), 2.0]}, "wrong-columns", "t has NaN"),
        ({"t": [0.0, 1e300, 2.0]}, "wrong-columns", "too large times"),
        ({"t": [-(2**63), 0, 2**63 - 1]}, "wrong-columns", "microseconds"),
        ({"t": np.array([0, 1, 2**64 - 1], np.uint64)}, "wrong-columns", "microseconds"),
        ({"t": np.array([60_000, 100, 200], np.uint16)}, "wrapped-times", "int64"),
        ({"t": np.array([2**32 - 5, 3, 9], np.uint32)}, "wrapped-times", "int64"),
        ({"x": [1, 2]}, "wrong-columns", "unequal length: x 2, y 3"),
        ({"x": ["a", "b", "c"]}, "wrong-columns", "x is <U1"),
        ({"x": [[1], [2, 3], [4]]}, "wrong-columns", "x"),
        ({"x": np.zeros((3, 2))}, "wrong-columns", "(3, 2)"),
        ({"x": 5}, "wrong-columns", "give numbers (N,)"),
    ],
)
def test_wrong_columns_say_field_and_remedy(change: dict[str, Any], reason: str, says: str) -> None:
    with pytest.raises(RecordingError) as caught:
        raw_from_columns({"x": X, "y": Y, "t": T, "p": P} | change)
    assert caught.value.reason == reason
    assert says in str(caught.value)


def test_missing_columns_say_what_is_there() -> None:
    with pytest.raises(RecordingError, match=r"no t, p among x, y, time: .* timestamp"):
        raw_from_columns({"x": X, "y": Y, "time": T})
    assert refusal(lambda: raw_from_array(np.zeros((4, 3)))) == "wrong-columns"
    assert refusal(lambda: raw_from_array([[1], [2, 3]])) == "wrong-columns"


def npy_claiming(shape: str, descr: str = "'<i8'", body: bytes = b"") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + body


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def test_arrays_refuse_claims_and_bombs(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"

    def reason(data: bytes) -> str:
        path.write_bytes(data)
        return refusal(lambda: read_npy(path))

    assert reason(npy_claiming(f"({MAX_EVENTS + 1},)")) == "too-many-events"
    assert reason(npy_claiming(f"({10**9}, 4)")) == "too-many-events"
    assert reason(npy_claiming(f"({10**30}, 4)")) == "unreadable"
    assert reason(npy_claiming(f"({10**30}, 0)")) == "unreadable"  # none, yet more than numpy has
    assert reason(npy_claiming(f"({'9' * 4000}, {'9' * 4000})")) == "unreadable"
    assert reason(npy_claiming("(1, 1, 1, 1, 1, 1)")) == "unreadable"
    assert reason(npy_claiming("(1000000, 4)")) == "truncated"
    assert reason(npy_claiming("(-1, 4)")) == "unreadable"
    assert reason(npy_claiming("(4,)", "'S999999999'")) == "wrong-columns"
    assert reason(npy_claiming("(1,)", "'|O'")) == "forbidden-pickle"
    assert reason(npy_claiming("(" * 300 + "1" + ")" * 300)) == "unreadable"
    column = npy_claiming(f"({10 * MAX_EVENTS},)", body=bytes(1000))
    bomb = zipped(x=column, y=column, t=column, p=column)
    assert refusal(lambda: decode_npz(bomb)) == "too-many-events"
    objects = npz_of_objects()
    assert refusal(lambda: decode_npz(objects)) == "forbidden-pickle"
    assert refusal(lambda: decode_npz(b"")) == "unreadable"
    assert refusal(lambda: decode_npz(npz(x=X, y=Y))) == "wrong-columns"
    assert refusal(lambda: decode_npz(npz(x=X, y=Y, t=T, p=P)[:-30])) == "unreadable"


def test_archives_unfold_no_further_than_their_size_allows() -> None:
    """Two million whole events of nothing, in a few kilobytes: no camera's."""
    zeros = np.zeros(2_000_000, np.uint8)
    bomb = npz(x=zeros, y=zeros, t=zeros, p=zeros)
    assert len(bomb) < 20_000
    assert refusal(lambda: decode_npz(bomb)) == "too-many-events"
    small = np.zeros(500_000, np.uint8)
    assert len(decode_npz(npz(x=small, y=small, t=small, p=small)).t) == 500_000
    with pytest.raises(ShardError, match="events: 2000000 in"):
        decode_events(encode_npz(dict.fromkeys("xytp", zeros)), 64, 64, 1)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_are_stored_or_deflated(method: int) -> None:
    """An LZMA member says how large its dictionary is, up to 4 GB, before a byte is unpacked."""
    buffer = io.BytesIO()
    whole = io.BytesIO(npz(x=X, y=Y, t=T, p=P))
    with zipfile.ZipFile(whole) as plain, zipfile.ZipFile(buffer, "w", method) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(RecordingError, match=f"packed by method {method}"):
        decode_npz(buffer.getvalue())
    with pytest.raises(ShardError, match=f"packed by method {method}"):
        decode_events(buffer.getvalue(), 64, 64, 500)


def test_a_shards_column_that_claims_more_than_it_holds() -> None:
    """numpy sets memory aside for what a header claims before it reads."""
    column = np.zeros(9, np.uint8)
    data = zipped(
        **{name: npy_claiming("(200000000,)", "'|u1'", column.tobytes()) for name in "xytp"}
    )
    tracemalloc.start()
    with pytest.raises(ShardError, match="9 bytes for 200000000 numbers"):
        decode_events(data, 64, 64, 1)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 10_000_000


def npz_of_objects() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, event_data=np.array([None, {}], object))
    return buffer.getvalue()


def test_npz_member_that_claims_too_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MAX_FILE_BYTES", 2**31)
    data = bytearray(npz(x=X, y=Y, t=T, p=P))
    at = data.index(b"PK\x01\x02")  # the directory's entry of x: its size stands at 24
    data[at + 24 : at + 28] = struct.pack("<I", 2**32 - 2)
    assert refusal(lambda: decode_npz(bytes(data))) == "too-large"


# Matlab


def test_mat_as_scipy_writes_it(tmp_path: Path) -> None:
    scipy_io = needs("scipy.io")
    path = tmp_path / "v_Archery_g01_c01.mat"
    upright = {"ts": T, "x": X, "y": Y, "pol": P}
    variables = {name: np.array([column], np.uint32).T for name, column in upright.items()}
    for compressed in (False, True):
        for as_double in (False, True):
            stored = {n: c.astype(np.float64) if as_double else c for n, c in variables.items()}
            scipy_io.savemat(path, {**stored, "us": 1}, do_compression=compressed)
            raw = read_mat(path)
            turned = [(x, 179 - y, t, p) for x, y, t, p in EVENTS]
            assert rows(raw) == turned
            assert (raw.width, raw.height) == (240, 180)


def mat_variable(name: bytes, numbers: bytes, stored: int, count: int, order: str = "<") -> bytes:
    """One double array: flags (class 6), shape, name, then the numbers as type `stored`."""

    def part(kind: int, data: bytes) -> bytes:
        return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)

    small_name = struct.pack(f"{order}I", len(name) << 16 | 1) + name.ljust(4, b"\0")
    flags, shape = struct.pack(f"{order}II", 6, 0), struct.pack(f"{order}ii", count, 1)
    return part(14, part(6, flags) + part(5, shape) + small_name + part(stored, numbers))


def mat_file(order: str = "<") -> bytes:
    # types: 4 uint16, 2 uint8, 9 double, 1 int8
    header = b"MATLAB 5.0 MAT-file".ljust(124) + (b"\0\1IM" if order == "<" else b"\1\0MI")
    return (
        header
        + mat_variable(b"ts", struct.pack(f"{order}3H", *T), 4, 3, order)
        + mat_variable(b"x", struct.pack("3B", *X), 2, 3, order)
        + mat_variable(b"us", struct.pack(f"{order}d", 5), 9, 1, order)
        + mat_variable(b"y", struct.pack(f"{order}3d", *Y), 9, 3, order)
        + mat_variable(b"pol", struct.pack("3b", *P), 1, 3, order)
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_mat_golden(order: str) -> None:
    turned = [(x, 179 - y, t, p) for x, y, t, p in EVENTS]
    assert rows(decode_mat(mat_file(order))) == turned


def test_mat_refusals(tmp_path: Path) -> None:
    whole = mat_file()
    assert refusal(lambda: decode_mat(b"")) == "not-mat"
    assert refusal(lambda: decode_mat(whole[:-12])) == "truncated"
    assert refusal(lambda: decode_mat(whole[:200])) == "truncated"
    assert refusal(lambda: decode_mat(whole[:128])) == "wrong-columns"
    below = whole.replace(struct.pack("<d", Y[0]), struct.pack("<d", 180.0))
    assert refusal(lambda: decode_mat(below)) == "off-sensor"
    shape = struct.pack("<IIii", 5, 8, 3, 1)
    claims = whole.replace(shape, struct.pack("<IIii", 5, 8, 2**31 - 1, 2**31 - 1))
    assert refusal(lambda: decode_mat(claims)) == "too-many-events"
    negative = whole.replace(shape, struct.pack("<IIii", 5, 8, -3, 1))
    assert refusal(lambda: decode_mat(negative)) == "unreadable"


def test_mat_of_nothing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matlab, "_MAX_VARIABLES", 50)
    assert refusal(lambda: decode_mat(mat_file() + bytes(8 * 50))) == "unreadable"
    assert len(decode_mat(mat_file() + bytes(8 * 40)).t) == 3


def test_mat_inflates_no_more_than_it_wants() -> None:
    def packed(element: bytes) -> bytes:
        data = zlib.compress(element)
        return struct.pack("<II", 15, len(data)) + data

    unwanted = packed(mat_variable(b"z", bytes(50_000_000), 9, 6_250_000))
    tracemalloc.start()
    turned = rows(decode_mat(mat_file()[:128] + unwanted + mat_file()[128:]))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert turned == [(x, 179 - y, t, p) for x, y, t, p in EVENTS]
    assert peak_bytes < 10_000_000
    many = packed(mat_variable(b"x", bytes(16_000_000), 9, 2_000_000))
    assert refusal(lambda: decode_mat(mat_file()[:128] + many)) == "too-many-events"
    bomb = packed(mat_variable(b"x", bytes(50_000_000), 9, 3))
    assert refusal(lambda: decode_mat(mat_file()[:128] + bomb)) == "unreadable"


def test_mat_of_version_7_3_is_hdf5(tmp_path: Path) -> None:
    h5py = needs("h5py")
    path = tmp_path / "a.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, column in (("ts", T), ("x", X), ("y", Y), ("pol", P)):
            file[name] = np.array([column], np.float64)
    data = bytearray(path.read_bytes())
    data[:19] = b"MATLAB 7.3 MAT-file"
    path.write_bytes(data)
    assert rows(read_mat(path)) == [(x, 179 - y, t, p) for x, y, t, p in EVENTS]


# HDF5


def hdf5(path: Path, write: Callable[[Any], object]) -> Path:
    with needs("h5py").File(path, "w") as file:
        write(file)
    return path


def columns_in(file: Any, prefix: str = "", **options: Any) -> None:
    for name, column, dtype in (("x", X, "u2"), ("y", Y, "u2"), ("t", T, "u4"), ("p", P, "u1")):
        file.create_dataset(prefix + name, data=np.array(column, dtype), **options)


def test_hdf5_layouts(tmp_path: Path) -> None:
    needs("h5py")
    path = tmp_path / "events.h5"

    def dsec(file: Any) -> None:
        columns_in(file, "events/", compression="gzip")
        file["ms_to_idx"] = np.zeros(3, np.uint64)
        file["t_offset"] = np.int64(49_599_300_523)

    raw = read_hdf5(hdf5(path, dsec))
    assert rows(raw) == [(x, y, t + 49_599_300_523, p) for x, y, t, p in EVENTS]
    assert rows(read_hdf5(hdf5(path, columns_in))) == EVENTS
    made = records(LIBRARIES["openeb"])

    def prophesee(file: Any) -> None:
        file["CD/events"] = made
        file["CD/indexes"] = np.zeros(2)

    assert rows(read_hdf5(hdf5(path, prophesee))) == EVENTS


def test_hdf5_blosc(tmp_path: Path) -> None:
    needs("h5py")
    plugin = needs("hdf5plugin")
    blosc = plugin.Blosc(cname="zstd")
    path = hdf5(tmp_path / "a.h5", lambda file: columns_in(file, "events/", **blosc))
    assert rows(read_hdf5(path)) == EVENTS


def test_hdf5_refusals(tmp_path: Path) -> None:
    h5py = needs("h5py")
    path = tmp_path / "a.h5"

    def reason(write: Callable[[Any], object]) -> str:
        return refusal(lambda: read_hdf5(hdf5(path, write)))

    def ecf(file: Any) -> None:  # as Prophesee writes it: chunks packed by filter 0x8ECF
        kind = h5py.h5t.py_create(np.dtype(LIBRARIES["openeb"]), logical=True)
        settings_ = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings_.set_chunk((64,))
        settings_.set_filter(0x8ECF, h5py.h5z.FLAG_OPTIONAL, (1,))
        group = file.create_group("CD")
        space = h5py.h5s.create_simple((3,), (h5py.h5s.UNLIMITED,))
        h5py.h5d.create(group.id, b"events", kind, space, settings_)

    def elsewhere(file: Any) -> None:
        columns_in(file)
        del file["x"]
        file.create_dataset("x", (3,), "u1", external=[(str(tmp_path / "other"), 0, 3)])

    def huge(file: Any) -> None:
        columns_in(file)
        del file["x"]
        file.create_dataset("x", (MAX_EVENTS + 1,), "u1", chunks=(1000,))

    def strings(file: Any) -> None:
        columns_in(file)
        del file["p"]
        file["p"] = ["a", "b", "c"]

    def other_file(file: Any) -> None:
        hdf5(tmp_path / "b.h5", columns_in)
        columns_in(file)
        del file["x"]
        file["x"] = h5py.ExternalLink(str(tmp_path / "b.h5"), "/x")

    def pipe(file: Any) -> None:  # to open it would wait for ever
        columns_in(file)
        os.mkfifo(tmp_path / "pipe.h5")
        file["events"] = h5py.ExternalLink(str(tmp_path / "pipe.h5"), "/")

    def soft(file: Any) -> None:
        columns_in(file, "others/")
        file["events"] = h5py.SoftLink("/others")

    def virtual(file: Any) -> None:
        columns_in(file)
        del file["x"]
        layout = h5py.VirtualLayout((3,), "u1")
        layout[:] = h5py.VirtualSource(str(tmp_path / "b.h5"), "x", (3,))
        file.create_virtual_dataset("x", layout)

    def unwritten(file: Any) -> None:
        columns_in(file)
        del file["t"]
        file.create_dataset("t", (3,), "u4")

    def unwritten_chunks(file: Any) -> None:
        columns_in(file)
        del file["t"]
        file.create_dataset("t", (3,), "u4", chunks=(2,))[2] = 5

    def twice(file: Any) -> None:
        columns_in(file)
        del file["t"]
        settings_ = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings_.set_chunk((3,))
        settings_.set_deflate(9)
        settings_.set_deflate(9)
        space = h5py.h5s.create_simple((3,))
        h5py.h5d.create(file.id, b"t", h5py.h5t.STD_U32LE, space, settings_)

    (tmp_path / "other").write_bytes(b"abc")
    assert reason(pipe) == "unreadable"
    assert reason(soft) == "unreadable"
    assert reason(virtual) == "unreadable"
    assert reason(unwritten) == "truncated"
    assert reason(unwritten_chunks) == "truncated"
    assert reason(twice) == "needs-codec"
    assert reason(ecf) == "needs-codec"
    assert reason(elsewhere) == "unreadable"
    assert reason(other_file) == "unreadable"
    assert reason(huge) == "too-many-events"
    assert reason(strings) == "wrong-columns"
    assert reason(lambda file: None) == "wrong-columns"


def test_hdf5_chunk_that_unfolds_beyond_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 kB for 40 MB, where a chunk has 400 kB; small chunks are left to HDF5."""
    needs("h5py")
    monkeypatch.setattr("ezsr_shards.formats.hdf5._SMALL_CHUNK_BYTES", 1000)

    def bomb(file: Any) -> None:
        columns_in(file)
        del file["t"]
        t = file.create_dataset("t", (100_000,), "u4", chunks=(100_000,), compression=9)
        t.id.write_direct_chunk((0,), zlib.compress(bytes(40_000_000)))

    path = hdf5(tmp_path / "a.h5", bomb)
    tracemalloc.start()
    assert refusal(lambda: read_hdf5(path)) == "too-many-events"
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 5_000_000


def test_hdf5_chunk_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    needs("h5py")
    path = hdf5(tmp_path / "a.h5", lambda file: columns_in(file, chunks=(3,), compression="gzip"))
    data = bytearray(path.read_bytes())
    at = data.index(b"TREE\x01") + 24  # a tree of chunks: its first key begins with a size
    data[at : at + 4] = (0xF0000000).to_bytes(4, "little")
    path.write_bytes(data)
    assert refusal(lambda: read_hdf5(path)) == "truncated"


# Bullying10K

DV_RECORD = np.dtype(
    [
        ("timestamp", "<i8"),
        ("x", "<i2"),
        ("y", "<i2"),
        ("polarity", "i1"),
        ("_p1", "<i2"),
        ("_p2", "i1"),
    ]
)
DV_EVENTS = [(2, 1, 100, 1), (345, 259, 101, 0), (7, 8, 10_100, 1), (9, 9, 20_100, 0)]


def dv_packet(*events: tuple[int, ...]) -> Any:
    return np.array([(t, x, y, p, 0, 0) for x, y, t, p in events], DV_RECORD)


def packets() -> Any:
    made = np.empty(3, object)
    made[:] = [dv_packet(*DV_EVENTS[:2]), dv_packet(DV_EVENTS[2]), dv_packet(DV_EVENTS[3])]
    return made


def npy_pickle(body: bytes, shape: str = "(3,)") -> bytes:
    return npy_claiming(shape, "'|O'", body)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_bullying10k_packets(protocol: int, core: bytes) -> None:
    body = pickle.dumps(packets(), protocol=protocol)
    if protocol < 4:  # names stand as lines there; later pickles count their letters
        body = body.replace(b"cnumpy._core.", b"c" + core + b".")
    raw = decode_bullying10k(npy_pickle(body))
    assert rows(raw) == DV_EVENTS
    assert (raw.width, raw.height) == (346, 260)


def test_bullying10k_other_shapes(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    assert rows(read_bullying10k(npy(path, packets(), allow_pickle=True))) == DV_EVENTS
    equal = np.stack([dv_packet(*DV_EVENTS[:2]), dv_packet(*DV_EVENTS[2:])])
    assert rows(read_bullying10k(npy(path, equal))) == DV_EVENTS  # no pickle at all
    gaps = np.empty(4, object)
    gaps[:] = [None, *packets()]
    assert rows(read_bullying10k(npy(path, gaps, allow_pickle=True))) == DV_EVENTS
    single = np.empty(4, object)
    single[:] = list(np.concatenate(packets()))  # records one by one: numpy's scalars
    assert rows(read_bullying10k(npy(path, single, allow_pickle=True))) == DV_EVENTS
    plain = np.empty(2, object)
    table = np.array([(t, x, y, p, 0) for x, y, t, p in DV_EVENTS], ">i4")
    plain[:] = [table[:1], np.asfortranarray(table[1:])]
    assert rows(read_bullying10k(npy(path, plain, allow_pickle=True))) == DV_EVENTS


class Calls:
    """Pickles to a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (os.system, "touch {}"),
        (eval, "open({!r}, 'w')"),
        (exec, "open({!r}, 'w')"),
        (np.save, "{}"),
        (np.load, "{}"),
        (np.fromfile, "{}"),
        (open, "{}"),
        (getattr, "{}"),
        (codecs.decode, "{}"),
        (np.dtypes.Int8DType, "{}"),
    ],
)
def test_bullying10k_runs_nothing(
    function: Callable[..., object], argument: str, protocol: int, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    made = np.empty(1, object)
    made[0] = Calls(function, argument.format(str(trace)))
    body = pickle.dumps(made, protocol=protocol)
    assert refusal(lambda: decode_bullying10k(npy_pickle(body, "(1,)"))) == "forbidden-pickle"
    assert not trace.exists()


def test_bullying10k_says_the_name_it_refused() -> None:
    with pytest.raises(RecordingError, match=r"forbidden-pickle \((posix|nt).system\)"):
        decode_bullying10k(npy_pickle(b"cposix\nsystem\n(S'echo no'\ntR."))


@pytest.mark.parametrize(
    "body",
    [
        b"\x80\x04\x82\x01.",  # EXT1: names from copyreg's registry, not from find_class
        b"inumpy\nndarray\n.",  # INST
        b"cnumpy\nndarray\n)\x81.",  # NEWOBJ
        b"r\xff\xff\xff\x7f.",  # LONG_BINPUT: a memo of 2**31 places
        b"cnumpy\nndarray\n}b.",  # BUILD a function
        b"(lp0\n" + b"h\x00" * 3 + b"Pname\n.",  # PERSID
        b"N" * 2_000_002,
    ],
)
def test_bullying10k_refuses_opcodes(body: bytes) -> None:
    assert refusal(lambda: decode_bullying10k(npy_pickle(body))) == "forbidden-pickle"


def test_bullying10k_refuses_arrays_that_do_not_fit_their_bytes() -> None:
    body = pickle.dumps(packets(), protocol=3)

    def reason(old: bytes, new: bytes) -> str:
        assert old in body
        return refusal(lambda: decode_bullying10k(npy_pickle(body.replace(old, new))))

    record = bytes([DV_RECORD.itemsize])
    assert reason(b"K" + record, b"K" + bytes([255])) == "wrong-columns"  # 255 bytes a record
    assert reason(b"K" + record, b"K" + bytes([3])) == "unreadable"  # fields beyond the record
    assert reason(b"timestamp", b"timestomp") == "wrong-columns"
    assert reason(b"i8q", b"O8q") == "wrong-columns"  # pointers made of the file's bytes
    assert reason(b"K\x02\x85", b"K\x05\x85") == "unreadable"  # five events, bytes of two
    assert refusal(lambda: decode_bullying10k(npy_pickle(body, "(4,)"))) == "unreadable"
    assert refusal(lambda: decode_bullying10k(npy_pickle(body[:-40]))) == "unreadable"
    assert refusal(lambda: decode_bullying10k(npy_pickle(b"N."))) == "wrong-columns"
    assert refusal(lambda: decode_bullying10k(npy_pickle(b""))) == "unreadable"


def test_bullying10k_one_packet_named_many_times_is_too_large() -> None:
    big = np.zeros(4_000_000, np.int64)
    made = np.empty(100, object)
    made[:] = [big] * 100
    body = pickle.dumps(made, protocol=4)  # 32 MB that would unfold to 3.2 GB
    assert refusal(lambda: decode_bullying10k(npy_pickle(body, "(100,)"))) == "too-large"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_bullying10k_with_any_bytes_changed(data: st.DataObject) -> None:
    whole = bytearray(npy_pickle(pickle.dumps(packets(), protocol=3)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    reads_or_refuses(read_bullying10k, bytes(whole))


# Every reader


def reads_or_refuses(read: Callable[[Path], RawEvents], data: bytes) -> None:
    """Nothing but RecordingError comes out."""
    path = SCRATCH / f"{read.__name__}.bin"
    path.write_bytes(data)
    with contextlib.suppress(RecordingError):
        raw = read(path)
        assert len(raw.x) == len(raw.y) == len(raw.t) == len(raw.p)


SCRATCH = Path()


@pytest.fixture(autouse=True, scope="module")
def _scratch(tmp_path_factory: pytest.TempPathFactory) -> None:
    global SCRATCH
    SCRATCH = tmp_path_factory.mktemp("scratch")


BEGINNINGS = [
    b"",
    JAER_HEADER,
    b"#!AER-DAT4.0\r\n",
    aedat4_file(),
    EVT2,
    EVT3,
    b"PK\x03\x04",
    b"\x93NUMPY\x01\x00",
    npy_claiming("(2, 4)"),
    npy_claiming("(2,)", "[('x', '<u2'), ('y', '<u2'), ('t', '<f4'), ('p', '?')]"),
    npy_claiming("(2,)", "'|O'"),
    npy_claiming("(2, 4)", "'<f2'"),
    b"MATLAB 7.3 MAT-file",
    b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM",
    b"\x89HDF\r\n\x1a\n",
]


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_random_bytes_give_recording_errors_only(read: Callable[[Path], RawEvents]) -> None:
    packages = {"read_mat": "h5py", "read_hdf5": "h5py"}
    if read.__name__ in packages:
        needs(packages[read.__name__])

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(BEGINNINGS), st.binary(max_size=120))
    def try_bytes(beginning: bytes, data: bytes) -> None:
        reads_or_refuses(read, beginning + data)

    try_bytes()


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_paths_that_cannot_be_read(read: Callable[[Path], RawEvents], tmp_path: Path) -> None:
    packages = {"read_mat": "h5py", "read_hdf5": "h5py"}
    if read.__name__ in packages:
        needs(packages[read.__name__])
    for path in (tmp_path / "none", tmp_path, Path("/dev/zero"), Path("nul\0l")):
        assert refusal(lambda path=path: read(path)) == "unreadable"  # type: ignore[misc]
