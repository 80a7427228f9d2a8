"""Whole files of every format to be damaged, by writers that share no code with our readers."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from test_formats import (
    DV_RECORD,
    EVT2,
    EVT3,
    JAER_HEADER,
    aedat2,
    aedat4_file,
    flat_events,
    mat_variable,
    npy_claiming,
    zstd_stored,
)

Join = Callable[[Sequence[bytes]], bytes]


@dataclass(frozen=True)
class Seed:
    """A whole file: its parts, and how they are joined so that sizes and checksums are right.

    rigid  places in it are counted from its beginning, so that what is moved is lost at once
    """

    parts: tuple[bytes, ...]
    join: Join = b"".join
    rigid: bool = False


@dataclass(frozen=True)
class Columns:
    """Events as a writer is given them: int64 (N,) each, sorted by t, microseconds."""

    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray

    def rows(self) -> list[tuple[int, int, int, int]]:
        """Events as (x, y, t, p)."""
        columns = (column.tolist() for column in (self.x, self.y, self.t, self.p))
        return list(zip(*columns, strict=True))


def drawn(seed: int, count: int = 60, width: int = 34, height: int = 34) -> Columns:
    """Random events."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, width, count), rng.integers(0, height, count)
    return Columns(x, y, np.sort(rng.integers(0, 100_000, count)), rng.integers(0, 2, count))


def recorded(folder: Path, count: int = 300) -> list[Columns]:
    """The first events of real recordings, where there are any, moved onto 34x34 pixels."""
    found = []
    for path in sorted((folder / "n-mnist").glob("*.bin"))[:2]:
        rows = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 5)[:count].astype(np.int64)
        x, y, p = rows[:, 0], rows[:, 1], rows[:, 2] >> 7
        found.append(Columns(x, y, (rows[:, 2] & 127) << 16 | rows[:, 3] << 8 | rows[:, 4], p))
    for path in sorted((folder / "n-imagenet").glob("*.npz")):
        with np.load(path) as archive:
            rows = archive["event_data"][:count]
        x, y, t, p = (rows[name].astype(np.int64) for name in "xytp")
        found.append(Columns(x % 34, y % 34, t, p))
    return found


def aer40(c: Columns) -> Seed:
    packed = (p << 23 | t for _, _, t, p in c.rows())
    events = (
        struct.pack(">BBI", x, y, w) for (x, y, _, _), w in zip(c.rows(), packed, strict=True)
    )
    return Seed((b"".join(event[:2] + event[3:] for event in events),))


def dvs128(c: Columns) -> Seed:
    return Seed(
        (JAER_HEADER, aedat2(*((y << 8 | x << 1 | p, t) for x, y, t, p in c.rows()), header=b""))
    )


def davis346(c: Columns) -> Seed:
    rows = ((y << 22 | x << 12 | p << 11, t) for x, y, t, p in c.rows())
    return Seed((JAER_HEADER, aedat2(*rows, header=b"")))


def evt2(c: Columns) -> Seed:
    words, high = [], -1
    for x, y, t, p in c.rows():
        if t >> 6 != high:
            high = t >> 6
            words.append(8 << 28 | high)
        words.append(p << 28 | (t & 63) << 22 | x << 11 | y)
    return Seed((EVT2, struct.pack(f"<{len(words)}I", *words)))


def evt3(c: Columns) -> Seed:
    """Single events, and every tenth as a vector of 12."""
    words, high = [], -1
    for n, (x, y, t, p) in enumerate(c.rows()):
        if t >> 12 != high:
            high = t >> 12
            words.append(8 << 12 | high)
        words += [6 << 12 | t & 0xFFF, y]
        words += (
            [3 << 12 | p << 11 | x, 4 << 12 | 0x801] if n % 10 == 0 else [2 << 12 | p << 11 | x]
        )
    return Seed((EVT3, struct.pack(f"<{len(words)}H", *words)))


def aedat4(c: Columns) -> list[Seed]:
    """Plain and compressed packets; the compressed ones are packed after they were damaged."""
    dv = [(t, x, y, p) for x, y, t, p in c.rows()]
    packets = [flat_events_of(dv[:30]), flat_events_of(dv[30:])]

    def plain(parts: Sequence[bytes]) -> bytes:
        return aedat4_file(*((0, part) for part in parts))

    def stored(parts: Sequence[bytes]) -> bytes:
        return aedat4_file(*((0, zstd_stored(part)) for part in parts), compression=3)

    whole = plain(packets)
    made = [
        Seed(tuple(packets), plain),
        Seed(tuple(packets), stored),
        Seed((whole[:500], whole[500:])),
    ]
    with suppress(ImportError):
        import lz4.frame
        import zstandard

        def by(pack: Callable[[bytes], bytes], number: int) -> Join:
            return lambda parts: aedat4_file(
                *((0, pack(part)) for part in parts), compression=number
            )

        for pack, number in ((lz4.frame.compress, 1), (zstandard.compress, 3)):
            made.append(Seed(tuple(packets), by(pack, number)))
            made.append(Seed((by(pack, number)(packets),)))
    return made


def flat_events_of(rows: list[tuple[int, int, int, int]]) -> bytes:
    return flat_events([(x, y, t, p) for t, x, y, p in rows])


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def records(c: Columns, dtype: list[tuple[str, str]]) -> np.ndarray:
    made = np.zeros(len(c.t), dtype)
    for name, column in zip(made.dtype.names or (), (c.x, c.y, c.t, c.p), strict=True):
        made[name] = column
    return made


def npy(c: Columns) -> list[Seed]:
    floats = np.stack([c.x, c.y, c.t * 1e-6, 2 * c.p - 1], 1)
    tonic = records(c, [("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "i1")])
    whole = [npy_bytes(floats), npy_bytes(tonic), npy_bytes(floats.astype("f4").T.copy().T)]
    return [Seed((data[:128], data[128:])) for data in whole]


def npz(c: Columns) -> list[Seed]:
    """Columns, N-ImageNet's records, and the archive itself as bytes."""
    columns = {
        "x": c.x.astype("u2"),
        "y": c.y.astype("u2"),
        "t": c.t.astype("u4"),
        "p": c.p.astype("u1"),
    }
    packed = records(c, [("x", "<u2"), ("y", "<u2"), ("t", "<u4"), ("p", "?")])
    return [
        Seed(tuple(map(npy_bytes, columns.values())), zip_of(*columns)),
        Seed((npy_bytes(packed),), zip_of("event_data")),
        Seed((zip_of(*columns)(tuple(map(npy_bytes, columns.values()))),)),
    ]


def zip_of(*names: str) -> Join:
    def join(parts: Sequence[bytes]) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, part in zip(names, parts, strict=True):
                info = zipfile.ZipInfo(f"{name}.npy")  # not of the current time
                archive.writestr(info, part, zipfile.ZIP_DEFLATED)
        return buffer.getvalue()

    return join


def mat(c: Columns) -> list[Seed]:
    """Matlab 5, plain and deflated after the damage."""
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
    count = len(c.t)
    variables = (
        mat_variable(b"ts", c.t.astype("<u4").tobytes(), 6, count),
        mat_variable(b"x", c.x.astype("u1").tobytes(), 2, count),
        mat_variable(b"y", c.y.astype("<f8").tobytes(), 9, count),
        mat_variable(b"pol", c.p.astype("i1").tobytes(), 1, count),
    )

    def deflated(parts: Sequence[bytes]) -> bytes:
        packed = map(zlib.compress, parts)
        return header + b"".join(struct.pack("<II", 15, len(one)) + one for one in packed)

    return [Seed((header, *variables)), Seed(variables, deflated), Seed((deflated(variables),))]


def hdf5(c: Columns, userblock: bytes = b"") -> list[Seed]:
    """Old and new layout of the library's own, plain, chunked and deflated."""
    import h5py

    made = []
    for libver in ("earliest", "latest"):
        for options in ({}, {"compression": "gzip", "chunks": (32,), "shuffle": True}):
            buffer = io.BytesIO()
            with h5py.File(buffer, "w", libver=libver) as file:
                prefix = "" if userblock else "events/"
                names = ("ts", "x", "y", "pol") if userblock else ("t", "x", "y", "p")
                for name, column in zip(names, (c.t, c.x, c.y, c.p), strict=True):
                    file.create_dataset(prefix + name, data=column.astype("<u4"), **options)
                if not userblock:
                    file["t_offset"] = np.int64(5)
            data = buffer.getvalue()
            made.append(Seed((userblock + data,), rigid=True))
    if not userblock:
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            openeb = [("x", "<u2"), ("y", "<u2"), ("t", "<i8"), ("p", "<i2")]
            file.create_dataset("CD/events", data=records(c, openeb), chunks=(32,))
        made.append(Seed((buffer.getvalue(),), rigid=True))
    return made


def mat73(c: Columns) -> list[Seed]:
    return hdf5(c, b"MATLAB 7.3 MAT-file".ljust(512, b"\0"))


def bullying10k(c: Columns) -> list[Seed]:
    rows = [(t, x, y, p, 0, 0) for x, y, t, p in c.rows()]
    packets = np.empty(2, object)
    packets[:] = [np.array(part, DV_RECORD) for part in (rows[:30], rows[30:])]
    bodies = (pickle.dumps(packets, protocol=protocol) for protocol in (0, 2, 3, 4))
    head = npy_claiming("(2,)", "'|O'")
    return [Seed((head, body)) for body in bodies]


def shard(c: Columns) -> list[Seed]:
    """Our own tars, as numpy and tarfile write them."""
    columns = {
        "x": c.x.astype("u1"),
        "y": c.y.astype("u1"),
        "t": c.t.astype("<u4"),
        "p": c.p.astype("u1"),
    }
    order = np.lexsort((c.x, c.y, c.t))
    arrays = tuple(npy_bytes(column[order]) for column in columns.values())
    facts = (
        f'{{"format": 1, "width": 34, "height": 34, "duration_us": 100000, "events": {len(c.t)}, '
        f'"on_events": {int(c.p.sum())}, "label": 3, "caption": "three", "kind": "recorded"}}'
    )

    def join(parts: Sequence[bytes]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            members = {
                "events.npz": zip_of(*columns)(parts[:4]),
                "json": parts[4],
                "txt": b"three",
                "cls": b"3",
            }
            for extension, data in members.items():
                info = tarfile.TarInfo(f"key.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return buffer.getvalue()

    parts = (*arrays, facts.encode())
    return [Seed(parts, join), Seed((join(parts)[:2048], join(parts)[2048:]))]
