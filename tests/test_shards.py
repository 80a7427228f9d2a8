"""The contract: samples and shards read back, by us and by others; what breaks it is named."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ezsr_shards.errors import ShardError
from ezsr_shards.events import EventStream
from ezsr_shards.npz import encode_npz
from ezsr_shards.sample import Sample, decode_events, decode_sample, encode_events, encode_sample
from ezsr_shards.shard import add_member, read_shard, write_shard


def random_events(seed: int, width: int = 64, height: int = 48, count: int = 500) -> EventStream:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, width, count), rng.integers(0, height, count)
    t, p = rng.integers(0, 20_000, count), rng.integers(0, 2, count)
    order = np.lexsort((x, y, t))
    return EventStream(x[order], y[order], t[order], p[order], width, height, 20_000)


def sample(n: int = 0, **fields: object) -> Sample:
    known = {"caption": "a cat", "label": 3, "meta": {"kind": "synthetic", "seed": 1}}
    return Sample(f"cat-{n:03d}_v00", random_events(n), b"jpeg bytes", **{**known, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(64, 48), (256, 256), (257, 10), (640, 480)])
def test_numpy_reads_the_events(size: tuple[int, int]) -> None:
    events = random_events(1, *size)
    data = encode_events(events)
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        assert archive.files == ["x", "y", "t", "p"]
        for name in archive.files:
            assert np.array_equal(archive[name], getattr(events, name))
        assert archive["x"].dtype == (np.uint8 if max(size) <= 256 else np.uint16)
        assert archive["t"].dtype == np.uint32
        assert archive["p"].dtype == np.uint8
    with zipfile.ZipFile(io.BytesIO(data)) as archive_file:
        assert archive_file.testzip() is None
        assert {info.compress_type for info in archive_file.infolist()} == {zipfile.ZIP_DEFLATED}
        assert {info.date_time for info in archive_file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    back = decode_events(data, *size, 20_000)
    for name in ("x", "y", "t", "p"):
        assert np.array_equal(getattr(back, name), getattr(events, name))


def test_other_zip_readers_agree(tmp_path: Path) -> None:
    path = tmp_path / "events.npz"
    path.write_bytes(encode_npz({"a": np.arange(1000), "b": np.zeros((3, 4), np.float32)}))
    code = "import sys,zipfile; sys.exit(zipfile.main(['-t', sys.argv[1]]))"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True)


def test_objects_are_never_pickled() -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        encode_npz({"a": np.array([{}], dtype=object)})


def test_sample_reads_back() -> None:
    for original in (sample(), sample(caption=None, label=None), sample(caption="ça: «é»\u2028")):
        back = decode_sample(original.key, encode_sample(original))
        assert (back.caption, back.label, back.jpeg) == (
            original.caption,
            original.label,
            original.jpeg,
        )
        assert back.meta == {**original.meta}
        assert np.array_equal(back.events.t, original.events.t)
        assert back.events.duration_us == 20_000


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "../x", "a b", "é", "x" * 91, "a\n"])
def test_unsafe_keys_are_refused(key: str) -> None:
    with pytest.raises(ShardError, match="key"):
        Sample(key, random_events(0))


def test_shard_bytes_depend_on_the_samples_alone(tmp_path: Path) -> None:
    facts = [write_shard(tmp_path / f"{n}.tar", (sample(k) for k in range(5))) for n in range(2)]
    assert facts[0] == facts[1]
    data = (tmp_path / "0.tar").read_bytes()
    assert data == (tmp_path / "1.tar").read_bytes()
    assert len(data) == facts[0].size_bytes
    with tarfile.open(tmp_path / "0.tar") as tar:
        members = tar.getmembers()
        assert [m.name for m in members[:5]] == [
            f"cat-000_v00.{extension}" for extension in ("events.npz", "jpg", "json", "txt", "cls")
        ]
        assert {(m.mtime, m.uid, m.gid, m.mode, m.uname) for m in members} == {(0, 0, 0, 0o644, "")}


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    def samples() -> object:
        yield sample()
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        write_shard(tmp_path / "a.tar", samples())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_writing_many_samples_keeps_memory_flat(tmp_path: Path) -> None:
    import tracemalloc

    def peak(count: int) -> int:
        tracemalloc.start()
        write_shard(tmp_path / "a.tar", (sample(n % 10) for n in range(count)))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(10)
    assert peak(2000) < peak(50) + 100_000


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"json": None}, "json is missing"),
        ({"events.npz": None}, "events.npz is missing"),
        ({"events.npz": b"PK nonsense"}, "unreadable archive"),
        ({"json": b"{"}, "garbles"),
        ({"json": b"[]"}, "garbles"),
        ({"txt": b"a dog"}, "txt"),
        ({"txt": None}, "txt"),
        ({"cls": b"4"}, "cls"),
        ({"cls": None}, "cls"),
    ],
)
def test_faults_in_a_sample_are_named(fault: dict[str, bytes | None], message: str) -> None:
    members = {**encode_sample(sample()), **fault}
    present = {name: data for name, data in members.items() if data is not None}
    with pytest.raises(ShardError, match=message):
        decode_sample("cat", present)


@pytest.mark.parametrize(
    ("field", "value"), [("format", 99), ("events", 1), ("on_events", 1), ("width", 300)]
)
def test_json_that_disagrees_is_named(field: str, value: int) -> None:
    members = encode_sample(sample())
    facts = json.loads(members["json"])
    members["json"] = json.dumps({**facts, field: value}).encode()
    with pytest.raises(ShardError, match="sample cat"):
        decode_sample("cat", members)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.array([64, 0])}, "outside"),
        ({"p": np.array([2, 0])}, "polarity"),
        ({"t": np.array([5, 4])}, "backwards"),
        ({"t": np.array([-1, 4])}, "outside"),
        ({"t": np.array([5, 100])}, "outside"),
        ({"t": np.array([5, 5]), "y": np.array([1, 0])}, "sorted"),
        ({"t": np.array([5, 5]), "x": np.array([1, 0])}, "sorted"),
    ],
)
def test_check_names_broken_rules(change: dict[str, np.ndarray], message: str) -> None:
    columns = {"x": np.array([0, 1]), "y": np.array([0, 0]), "t": np.array([0, 1])}
    columns = {**columns, "p": np.array([0, 1]), **change}
    with pytest.raises(ShardError, match=message):
        EventStream(**columns, width=64, height=48, duration_us=100).check()  # type: ignore[arg-type]


def test_streams_cannot_be_changed() -> None:
    events = random_events(1)
    with pytest.raises(ValueError, match="read-only"):
        events.t[0] = 3


def test_structured_records_and_count_image() -> None:
    events = random_events(2)
    records = events.to_structured()
    assert records.dtype == [("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "i1")]
    counts = np.zeros((2, 48, 64), int)
    for record in records:
        counts[record["p"], record["y"], record["x"]] += 1
    assert np.array_equal(counts, events.count_image())


def hostile_tar(path: Path, *members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            if kind == tarfile.REGTYPE:
                add_member(tar, name, data)
            else:
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "/etc/passwd"
                tar.addfile(info)


@pytest.mark.parametrize(
    "members",
    [
        [("../a.json", b"{}")],
        [("/a.json", b"{}")],
        [("a", b"{}")],
        [("a.json", b"{}"), ("a.json", b"{}")],
        [("a.json", b"{}"), ("b.json", b"{}"), ("a.txt", b"")],
    ],
)
def test_hostile_tars_are_refused(members: list[tuple[str, bytes]], tmp_path: Path) -> None:
    hostile_tar(tmp_path / "a.tar", *members)
    with pytest.raises(ShardError):
        list(read_shard(tmp_path / "a.tar"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_links_in_tars_are_refused(kind: bytes, tmp_path: Path) -> None:
    hostile_tar(tmp_path / "a.tar", ("a.json", b""), kind=kind)
    with pytest.raises(ShardError, match="plain file"):
        list(read_shard(tmp_path / "a.tar"))


@pytest.mark.parametrize("share", [0.0, 0.01, *np.linspace(0.1, 0.9, 30)])
def test_cut_tars_are_refused(share: float, tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", (sample(n) for n in range(30)))
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ShardError):
        list(read_shard(tmp_path / "a.tar"))


def test_an_archive_that_claims_too_much_is_refused() -> None:
    """A zip bomb: the directory claims more than any recording holds."""
    data = bytearray(encode_events(random_events(0)))
    directory = data.rindex(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    with pytest.raises(ShardError, match=r"claims|unreadable"):
        decode_events(bytes(data), 64, 48, 20_000)
