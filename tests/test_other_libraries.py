"""Real recordings in files of other libraries: we read in them what these libraries read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_corpus import Columns, drawn
from test_formats import DV_RECORD, needs

from ezsr_shards.datasets import open_recording

SIZES = {"drawn": (346, 260), "n-mnist": (34, 34), "n-imagenet": (640, 480)}
Found = tuple[Any, Any, Any, Any]


def needs_outside(name: str) -> Any:
    """A package that no extra of ours has, for its licence or its weight."""
    return pytest.importorskip(name, reason=f"{name} is not installed")


@pytest.fixture(scope="module", params=SIZES)
def recording(request: pytest.FixtureRequest) -> tuple[Columns, tuple[int, int]]:
    """Events that a camera recorded, and random ones where none are at hand."""
    size = SIZES[request.param]
    if request.param == "drawn":
        return drawn(7, 20_000, *size), size
    folder = request.getfixturevalue("real_data") / request.param
    if request.param == "n-imagenet":
        with np.load(folder / "recording.npz") as archive:
            rows = archive["event_data"][:30_000]
        return Columns(*(rows[name].astype(np.int64) for name in "xytp")), size
    data = sorted(folder.glob("*.bin"))[0].read_bytes()
    b = np.frombuffer(data, np.uint8).reshape(-1, 5).astype(np.int64).T
    return Columns(b[0], b[1], (b[2] & 127) << 16 | b[3] << 8 | b[4], b[2] >> 7), size


def structured(columns: Columns, *dtype: tuple[str, str]) -> np.ndarray:
    made = np.zeros(len(columns.t), list(dtype))
    for name, _ in dtype:
        made[name] = getattr(columns, name)
    return made


def by_faery(path: Path, columns: Columns, size: tuple[int, int]) -> Found:
    faery = needs_outside("faery")
    events = np.zeros(len(columns.t), faery.EVENTS_DTYPE)
    for name, column in (("t", "t"), ("x", "x"), ("y", "y"), ("on", "p")):
        events[name] = getattr(columns, column)
    kind = path.stem.partition("-")[2]
    options = {"version": kind} if path.suffix == ".raw" else {"compression": (kind, 1)}
    faery.events_stream_from_array(events, size).to_file(path, zero_t0=False, **options)
    read = faery.events_stream_from_file(path).to_array()
    return read["x"], read["y"], read["t"], read["on"]


def by_dv(path: Path, columns: Columns, size: tuple[int, int]) -> Found:
    """dv-processing writes, the package aedat reads."""
    dv, aedat = needs_outside("dv_processing"), needs("aedat")
    store = dv.EventStore()
    for x, y, t, p in columns.rows():
        store.push_back(t, x, y, bool(p))
    config = dv.io.MonoCameraWriter.Config("camera")
    config.compression = getattr(dv.CompressionType, path.stem.partition("-")[2])
    config.addEventStream(size)
    writer = dv.io.MonoCameraWriter(str(path), config)
    writer.writeEvents(store)
    del writer
    read = np.concatenate([one["events"] for one in aedat.Decoder(path) if "events" in one])
    return read["x"], read["y"], read["t"], read["on"]


def by_expelliarmus(path: Path, columns: Columns, size: tuple[int, int]) -> Found:
    expelliarmus = needs_outside("expelliarmus")
    events = structured(columns, ("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1"))
    wizard = expelliarmus.Wizard(encoding="evt2")
    wizard.save(path, events)
    read = expelliarmus.Wizard(encoding="evt2").read(path)
    return read["x"], read["y"], read["t"], read["p"]


def by_numpy(path: Path, columns: Columns, size: tuple[int, int]) -> Found:
    c = columns
    if path.suffix == ".npy":
        np.save(path, np.stack([c.x, c.y, c.t * 1e-6, 2 * c.p - 1], 1))
        x, y, seconds, p = np.load(path).T
        return x, y, np.rint(seconds * 1e6), p > 0
    np.savez_compressed(path, x=c.x.astype("u2"), y=c.y.astype("u2"), t=c.t, p=c.p)
    with np.load(path) as archive:
        return archive["x"], archive["y"], archive["t"], archive["p"]


def by_h5py(path: Path, columns: Columns, size: tuple[int, int]) -> Found:
    """As DSEC is packed: Blosc with Zstandard."""
    h5py, plugin = needs("h5py"), needs("hdf5plugin")
    packed = {"chunks": (4096,), **plugin.Blosc(cname="zstd", clevel=1, shuffle=1)}
    with h5py.File(path, "w") as file:
        for name, dtype in (("x", "u2"), ("y", "u2"), ("t", "u4"), ("p", "u1")):
            column = getattr(columns, name).astype(dtype)
            file.create_dataset(f"events/{name}", data=column, **packed)
        file["t_offset"] = np.int64(49_599_300_523)
    with h5py.File(path) as file:
        x, y, t, p = (file[f"events/{name}"][()].astype(np.int64) for name in "xytp")
        return x, y, t + file["t_offset"][()], p


def by_scipy(path: Path, columns: Columns, size: tuple[int, int]) -> Found:
    scipy_io, c = needs("scipy.io"), columns
    upright = {"ts": c.t, "x": c.x, "y": c.y, "pol": c.p}
    variables = {name: column.astype(np.float64)[:, None] for name, column in upright.items()}
    scipy_io.savemat(path, variables, do_compression=True)
    read = scipy_io.loadmat(path)
    x, y, t, p = (read[name].ravel().astype(np.int64) for name in ("x", "y", "ts", "pol"))
    return x, 179 - y, t, p


def by_pickle(path: Path, columns: Columns, size: tuple[int, int]) -> Found:
    packets = np.array_split(structured_dv(columns), 7)
    outer = np.empty(7, object)
    outer[:] = packets
    np.save(path, outer, allow_pickle=True)
    read = np.concatenate(list(np.load(path, allow_pickle=True)))
    return read["x"], read["y"], read["timestamp"], read["polarity"]


def structured_dv(columns: Columns) -> np.ndarray:
    return np.array([(t, x, y, p, 0, 0) for x, y, t, p in columns.rows()], DV_RECORD)


WRITERS: dict[str, tuple[Callable[[Path, Columns, tuple[int, int]], Found], str]] = {
    "faery-evt2.raw": (by_faery, "evt"),
    "faery-evt3.raw": (by_faery, "evt"),
    "faery-lz4.aedat4": (by_faery, "aedat4"),
    "faery-zstd.aedat4": (by_faery, "aedat4"),
    "dv-LZ4.aedat4": (by_dv, "aedat4"),
    "dv-ZSTD.aedat4": (by_dv, "aedat4"),
    "dv-NONE.aedat4": (by_dv, "aedat4"),
    "expelliarmus.raw": (by_expelliarmus, "evt"),
    "numpy.npz": (by_numpy, "npz"),
    "numpy.npy": (by_numpy, "npy"),
    "h5py.h5": (by_h5py, "hdf5"),
    "scipy.mat": (by_scipy, "ucf101-dvs"),
    "numpy-pickle.npy": (by_pickle, "bullying10k"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_they_write_and_read_we_read(
    name: str, recording: tuple[Columns, tuple[int, int]], tmp_path: Path
) -> None:
    (columns, size), path = recording, tmp_path / name
    write, format = WRITERS[name]
    if format == "ucf101-dvs" and int(columns.y.max()) >= 180:
        pytest.skip("these files have 180 rows")
    theirs = [np.asarray(column).astype(np.int64) for column in write(path, columns, size)]
    given = None if format == "ucf101-dvs" else size
    ours = open_recording(path, format, given, allow_pickle=True)
    ours.check()
    x, y, t, p = theirs
    order = np.lexsort((x, y, t))
    assert len(ours) == len(columns.t) == len(t)
    assert np.array_equal(ours.t, t[order] - t.min())
    for mine, column in ((ours.x, x), (ours.y, y), (ours.p, p)):
        assert np.array_equal(mine, column[order])
    if write in (by_faery, by_dv):  # the file tells its sensor, too
        told = open_recording(path, format)
        assert (told.width, told.height) == size


def test_tonic_reads_the_same_in_n_mnist(real_data: Path) -> None:
    tonic_io = needs_outside("tonic.io")
    dtype = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])
    paths = sorted((real_data / "n-mnist").glob("*.bin"))[:20]
    if not paths:
        pytest.skip("no N-MNIST recordings")
    for path in paths:
        theirs = tonic_io.read_mnist_file(str(path), dtype)
        ours = open_recording(path, "n-mnist")
        order = np.lexsort((theirs["x"], theirs["y"], theirs["t"]))
        for mine, name in ((ours.x, "x"), (ours.y, "y"), (ours.p, "p")):
            assert np.array_equal(mine, theirs[name][order])
        assert np.array_equal(ours.t, theirs["t"][order] - theirs["t"].min())
