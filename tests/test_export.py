"""Export: files that others read hold the same events, labels and sensors as the shards."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
import tarfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from ezsr_shards import export
from ezsr_shards.cli import main
from ezsr_shards.datasets import open_recording
from ezsr_shards.encodings import ENCODINGS, encode_csv, encode_hdf5
from ezsr_shards.errors import ConfigError, OutputError, RunError, ShardError
from ezsr_shards.events import EventStream
from ezsr_shards.export import COLUMNS, UNLABELLED, class_folders, export_samples
from ezsr_shards.importer import ImportOptions, import_recordings
from ezsr_shards.making import RunOptions
from ezsr_shards.sample import Sample
from ezsr_shards.shard import write_shard
from ezsr_shards.shardset import (
    ShardClass,
    ShardRecord,
    hash_config,
    write_classes,
    write_index,
    write_json,
)
from ezsr_shards.verify import iterate_samples, verify

CLASSES = [ShardClass(n, name) for n, name in enumerate(["a cat", "A_cat", "../../dog", "", "sun"])]


def stream(seed: int, count: int = 300, width: int = 64, height: int = 48) -> EventStream:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, width, count), rng.integers(0, height, count)
    t, p = rng.integers(0, 90_000, count), rng.integers(0, 2, count)
    order = np.lexsort((x, y, t))
    columns = (column[order] for column in (x, y, t, p))
    return EventStream(*columns, width, height, 90_321)


def samples() -> list[Sample]:
    """Labels, captions and sizes of every kind; one recording is empty, one long."""
    made = [
        Sample(f"key-{n}", stream(n), None, 'a "cat",\nor =2+3', n % 5, {"kind": "recorded"})
        for n in range(8)
    ]
    meta = {"kind": "recorded", "source": "a,b/c\udce9"}
    made.append(Sample("none", stream(50, 0), None, None, None, meta))
    made.append(Sample("large", stream(51, 70_000, 640, 480), None, None, 4, meta))
    return made


def write_set(folder: Path, made: list[Sample], classes: list[ShardClass], shards: int = 2) -> Path:
    """A finished shard set of given samples."""
    folder.mkdir(parents=True)
    config = {"name": "events", "shards": shards}
    config["config_hash"] = hash_config(config)
    records = []
    for n in range(shards):
        part = made[n::shards]
        facts = write_shard(folder / f"events-{n:06d}.tar", part)
        labels: dict[str, int] = {}
        for one in part:
            if one.label is not None:
                labels[str(one.label)] = labels.get(str(one.label), 0) + 1
        counts = (sum(len(one.events) for one in part), sum(one.events.on_count for one in part))
        records.append(
            ShardRecord(
                *(f"events-{n:06d}", len(part), len(part), *counts, (), labels),
                *(facts.sha256, facts.size_bytes, config["config_hash"], {}),
            )
        )
        records[-1].write(folder)
    write_json(folder, "config.json", config)
    write_classes(folder, classes, "test")
    write_index(folder, records)
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = write_set(tmp_path / "set", samples(), CLASSES)
    verify(folder)
    return folder


def rows_of(to: Path) -> list[dict[str, str]]:
    with open(to / "index.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_tonic(path: Path) -> dict[str, np.ndarray]:
    array = np.load(path, allow_pickle=False)
    assert array.dtype == [("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "i1")]
    return {name: array[name] for name in "xytp"}


def read_csv(path: Path) -> dict[str, np.ndarray]:
    lines = path.read_text().splitlines()
    assert lines[0] == "t,x,y,p"
    table = np.array([[int(n) for n in line.split(",")] for line in lines[1:]], np.int64)
    return dict(zip("txyp", table.reshape(-1, 4).T, strict=True))


def read_dsec(path: Path) -> dict[str, np.ndarray]:
    """By DSEC's own rules: the events of every millisecond, found through ms_to_idx alone."""
    h5py = pytest.importorskip("h5py", reason="h5py comes with an extra of ezsr")
    with h5py.File(path, "r") as file:
        assert set(file) == {"events", "ms_to_idx", "t_offset"}
        assert file["t_offset"].shape == ()
        columns = {name: file["events"][name] for name in "xytp"}
        dtypes = {name: column.dtype.str for name, column in columns.items()}
        assert dtypes == {"x": "<u2", "y": "<u2", "t": "<u4", "p": "|u1"}
        for column in columns.values():
            assert column.compression in ("gzip", None)
        t, starts = columns["t"][()].astype(np.int64), file["ms_to_idx"][()].tolist()
        duration_us = int(file["events"].attrs["duration_us"])
        assert len(starts) == -(-duration_us // 1000) + 1
        for ms, start in enumerate(starts):  # t[start] >= 1000 * ms, t[start - 1] < 1000 * ms
            assert np.all(t[start : start + 1] >= 1000 * ms)
            assert start == 0 or t[start - 1] < 1000 * ms
        pieces = [t[a:b] for a, b in pairwise(starts)]
        assert np.array_equal(np.concatenate([*pieces, t[:0]]), t)
        return {name: column[()] for name, column in columns.items()} | {
            "t": t + int(file["t_offset"][()])
        }


READ = {"tonic": read_tonic, "hdf5": read_dsec, "csv": read_csv}


@pytest.mark.parametrize("format", ENCODINGS)
def test_every_sample_comes_back_from_its_file(format: str, shards: Path, tmp_path: Path) -> None:
    if format == "hdf5":
        pytest.importorskip("h5py", reason="h5py comes with an extra of ezsr")
    to = tmp_path / "to" / format
    report = export_samples(shards, to, format)
    rows, expected = rows_of(to), list(iterate_samples(shards))
    assert (report.samples, report.written) == (len(rows), len(expected)) == (10, 10)
    assert report.events == sum(len(sample.events) for sample in expected)
    for row, sample in zip(rows, expected, strict=True):
        assert tuple(row) == COLUMNS
        found = READ[format](to / row["file"])
        for name in "xytp":
            assert np.array_equal(found[name], getattr(sample.events, name))
        assert row["key"] == sample.key
        assert row["label"] == ("" if sample.label is None else str(sample.label))
        assert row["class_name"] == ("" if sample.label is None else CLASSES[sample.label].name)
        assert row["caption"] == (sample.caption or "")
        told = [int(row[name]) for name in ("width", "height", "duration_us", "events")]
        events = sample.events
        assert told == [events.width, events.height, events.duration_us, len(events)]
        assert int(row["on_events"]) == events.on_count
    facts = json.loads((to / "classes.json").read_text())
    assert facts == json.loads((shards / "classes.json").read_text())
    inside = {path.resolve() for path in to.rglob("*") if path.is_file()}
    assert len(inside) == 10 + 3
    assert all(path.is_relative_to(to.resolve()) for path in inside)


@pytest.mark.parametrize(("exported", "imported"), [("tonic", "npy"), ("hdf5", "hdf5")])
def test_exported_and_imported_again(
    exported: str, imported: str, shards: Path, tmp_path: Path
) -> None:
    """What the importer can know from the files alone: events, and the class by its folder."""
    if exported == "hdf5":
        pytest.importorskip("h5py", reason="h5py comes with an extra of ezsr")
    export_samples(shards, tmp_path / "to", exported)
    (empty,) = (tmp_path / "to" / "events").glob("*/none.*")
    empty.unlink()
    size = ImportOptions(size="640x480")
    import_recordings(
        imported, tmp_path / "to" / "events", tmp_path / "again", size, RunOptions(workers=1)
    )
    verify(tmp_path / "again")
    originals = {sample.key: sample for sample in iterate_samples(shards)}
    folders, count = class_folders(CLASSES), 0
    for sample in iterate_samples(tmp_path / "again"):
        folder, name = str(sample.meta["source"]).split("/")
        original = originals[Path(name).stem]
        assert folder == folders[original.label if original.label is not None else -1]
        first = int(original.events.t[0])  # an import counts from the first event
        for column in "xyp":
            assert np.array_equal(getattr(sample.events, column), getattr(original.events, column))
        assert np.array_equal(sample.events.t, original.events.t - first)
        count += 1
    assert count == 9


def test_tonic_takes_it(shards: Path, tmp_path: Path) -> None:
    """A data set of tonic's in the few lines that the README gives."""
    tonic = pytest.importorskip("tonic", reason="tonic is not installed")
    export_samples(shards, tmp_path / "to", "tonic")

    class Exported(tonic.Dataset):  # type: ignore[misc,name-defined]
        def __init__(self, folder: Path, transform: Any = None) -> None:
            super().__init__(str(folder), transform=transform)
            self.folder = folder
            self.rows = [row for row in rows_of(folder) if row["label"]]

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, n: int) -> tuple[Any, int]:
            events = np.load(Path(self.folder, self.rows[n]["file"]))
            return self.transform(events), int(self.rows[n]["label"])

    data = Exported(tmp_path / "to", tonic.transforms.ToImage(sensor_size=(640, 480, 2)))
    originals = [one for one in iterate_samples(shards) if one.label is not None]
    assert len(data) == len(originals) == 9
    for n, original in enumerate(originals):
        image, label = data[n]
        assert label == original.label
        wide = replace(original.events, width=640, height=480)
        assert np.array_equal(image, wide.count_image())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=100), max_size=12))
def test_folders_are_safe_and_told_apart(names: list[str]) -> None:
    folders = class_folders([ShardClass(n, name) for n, name in enumerate(names)])
    assert len({folder.casefold() for folder in (UNLABELLED, *folders.values())}) == len(names) + 1
    for folder in folders.values():
        assert 0 < len(folder) < 120
        assert folder.isascii()
        assert not set(folder) & set("/\\.: \0")


def test_a_stopped_export_goes_on_and_writes_what_is_missing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    export_samples(shards, whole, "csv")
    to, write, written = tmp_path / "to", export._write, []

    def fails_late(path: Path, data: bytes) -> None:
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        written.append(path)
        write(path, data)

    monkeypatch.setattr(export, "_write", fails_late)
    with pytest.raises(RunError, match=r"TO .*to: cannot be written \(No space left on device\)"):
        export_samples(shards, to, "csv")
    assert len(list(to.rglob("*.csv"))) == 4  # no index.csv: it is not complete
    (to / "events" / ".gone.csv.1.part").write_text("of a killed one")
    monkeypatch.undo()
    assert export_samples(shards, to, "csv").written == 6
    assert export_samples(shards, to, "csv").written == 0
    first, second, *_ = sorted((to / "events").rglob("*.csv"))
    first.write_bytes(b"")  # by a file system that lost power, or by somebody
    second.write_bytes(second.read_bytes().replace(b"1", b"2", 1))
    assert export_samples(shards, to, "csv").written == 2
    for folder in (whole, to):
        assert not list(folder.rglob("*.part"))
    there = {path.relative_to(whole) for path in whole.rglob("*")}
    assert there == {path.relative_to(to) for path in to.rglob("*")}
    for path in there:
        assert (whole / path).is_dir() or (whole / path).read_bytes() == (to / path).read_bytes()


def test_nothing_is_overwritten_unless_asked(shards: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    export_samples(shards, to, "csv")
    with pytest.raises(OutputError, match="of other shards or of another format"):
        export_samples(shards, to, "tonic")
    (to / "notes.txt").write_text("mine")
    export_samples(shards, to, "tonic", overwrite=True)
    assert not list(to.rglob("events/*/*.csv"))
    assert (to / "notes.txt").read_text() == "mine"
    other = write_set(tmp_path / "other", samples()[:3], CLASSES)
    with pytest.raises(OutputError, match="of other shards"):
        export_samples(other, to, "tonic")
    for foreign in (shards, tmp_path):
        before = sorted(foreign.rglob("*"))
        with pytest.raises(OutputError, match="holds other things"):
            export_samples(shards, foreign, "csv", overwrite=True)
        assert sorted(foreign.rglob("*")) == before
    (to / "export.json").write_text("{")
    with pytest.raises(OutputError, match=r"export\.json: unreadable"):
        export_samples(shards, to, "tonic")


def test_what_cannot_be_exported_says_so(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="'evt': give one of tonic, hdf5, csv"):
        export_samples(shards, tmp_path / "to", "evt")
    with pytest.raises(OutputError, match="it is no shard set"):
        export_samples(tmp_path, tmp_path / "to", "csv")
    arguments = ["export", str(shards), str(tmp_path / "to"), "--format", "csv"]
    record = min(shards.glob("*-000000.json"))
    kept = record.read_bytes()
    record.unlink()
    assert main(arguments) == 2
    assert "shards are complete and listed in index.json; run the" in capsys.readouterr().err
    record.write_bytes(kept)
    (shards / "index.json").unlink()
    assert main(arguments) == 2
    assert "shards are complete and listed in index.json; run the" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": 99}, "label 99 is not in classes.json"),
        ({"key": "KEY-1"}, "the key appears twice"),
        ({"events": replace(stream(1), width=10)}, "a coordinate lies outside"),
    ],
)
def test_broken_samples_are_named_with_exit_code_1(
    change: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = samples()
    made[3] = replace(made[3], **change)
    folder = write_set(tmp_path / "set", made, CLASSES)
    with pytest.raises(ShardError, match=says):
        export_samples(folder, tmp_path / "to", "csv")
    assert main(["export", str(folder), str(tmp_path / "to"), "--format", "csv"]) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "to" / "index.csv").exists()


@pytest.mark.parametrize("name", ["../escaped.json", "/tmp/escaped.json", "a/../../b.json"])
def test_hostile_keys_cannot_leave_the_folder(name: str, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "in" / "set", samples()[:2], CLASSES, shards=1)
    member = tarfile.TarInfo(name)
    with tarfile.open(folder / "events-000000.tar", "a") as tar:
        tar.addfile(member)
    before = {path for path in tmp_path.rglob("*") if path.name != "to"}
    with pytest.raises(ShardError):
        export_samples(folder, tmp_path / "to", "csv")
    after = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "to") for path in after)


def test_bytes_are_the_same_every_time() -> None:
    events = stream(3)
    pytest.importorskip("h5py", reason="h5py comes with an extra of ezsr")
    for encoding in ENCODINGS.values():
        assert encoding.encode(events) == encoding.encode(events)


def test_hdf5_without_events_and_csv_of_many() -> None:
    pytest.importorskip("h5py", reason="h5py comes with an extra of ezsr")
    assert encode_hdf5(stream(0, 0))[:4] == b"\x89HDF"
    assert encode_csv(stream(0, 0)) == b"t,x,y,p\n"
    assert encode_csv(stream(1, 70_000)).count(b"\n") == 70_001


def test_without_h5py_one_sentence(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"pip install 'ezsr\[hdf5\]'"):
        export_samples(shards, tmp_path / "to", "hdf5")
    assert not (tmp_path / "to").exists()


FAERY = re.search(r"^faery input .*$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("name", ["out.raw", "out.aedat4", "out.es", "out.dat"])
def test_the_line_with_faery(name: str, shards: Path, tmp_path: Path) -> None:
    """What it makes, in every format that the README names, read by faery and, if we can, by us."""
    faery = pytest.importorskip("faery", reason="faery is not installed")
    assert FAERY
    export_samples(shards, tmp_path / "to", "csv")
    for row in rows_of(tmp_path / "to")[:2]:
        table = np.loadtxt(tmp_path / "to" / row["file"], np.int64, delimiter=",", skiprows=1)
        size = (int(row["width"]), int(row["height"]))
        words = shlex.split(FAERY[0].replace("64x48", f"{size[0]}x{size[1]}"))
        words = [name if word == "out.aedat4" else word for word in words]
        words = [str(tmp_path / "to" / row["file"]) if ".csv" in word else word for word in words]
        command = [sys.executable, "-m", *words, "--no-progress"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        stream = faery.events_stream_from_file(tmp_path / name)
        assert stream.dimensions() == size
        found = stream.to_array()
        for column, label in enumerate(("t", "x", "y", "on")):
            assert found[label].tolist() == table[:, column].tolist()
        if name in ("out.raw", "out.aedat4"):
            ours = open_recording(tmp_path / name)
            assert (ours.width, ours.height) == size
            order = np.lexsort((table[:, 1], table[:, 2], table[:, 0]))
            for column, label in ((1, "x"), (2, "y"), (3, "p")):
                assert getattr(ours, label).tolist() == table[order, column].tolist()
            assert ours.t.tolist() == (table[:, 0] - table[0, 0]).tolist()
