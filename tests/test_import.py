"""Import: recordings become samples, with labels and splits that no directory order decides."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ezsr_shards.cli import main
from ezsr_shards.datasets import DATA_SETS, known_classes, open_recording
from ezsr_shards.errors import ConfigError, InputError, OutputError, RunError
from ezsr_shards.formats.raw import AS_READ, Convention, RawEvents, RecordingError, arrange
from ezsr_shards.importer import ImportOptions, import_recordings, list_recordings
from ezsr_shards.making import RunOptions
from ezsr_shards.shardset import read_classes, read_records
from ezsr_shards.verify import iterate_samples, verify

RUN = RunOptions(workers=2)


def columns(seed: int, events: int = 50, width: int = 34, height: int = 34) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.integers(0, width, events).astype("u2"),
        "y": rng.integers(0, height, events).astype("u2"),
        "t": np.sort(rng.integers(0, 100_000, events)).astype("i8"),
        "p": rng.integers(0, 2, events).astype("u1"),
    }


def write_npz(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **columns(seed))


def write_aer40(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    c = columns(seed)
    rows = zip(c["x"], c["y"], c["t"], c["p"], strict=True)
    path.write_bytes(
        b"".join(
            struct.pack(">BBI", x, y, (int(p) << 23) | int(t))[:2]
            + struct.pack(">I", (int(p) << 23) | int(t))[1:]
            for x, y, t, p in rows
        )
    )


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Recordings as N-MNIST lies on disk: two splits, three of ten classes."""
    for n in range(12):
        split = "Train" if n < 8 else "Test"
        write_aer40(tmp_path / "N-MNIST" / split / str(n % 3) / f"{n:05d}.bin", n)
    return tmp_path / "N-MNIST"


def test_a_split_becomes_a_set_that_keeps_the_contract(digits: Path, tmp_path: Path) -> None:
    report = import_recordings("n-mnist", digits, tmp_path / "out", ImportOptions("test"), RUN)
    found = verify(tmp_path / "out")
    assert (found.samples, found.events) == (report.samples, report.events) == (4, 200)
    classes, split = read_classes(tmp_path / "out")
    assert split == "test"
    assert [entry.folder for entry in classes] == [str(n) for n in range(10)]
    for sample in iterate_samples(tmp_path / "out"):
        assert sample.jpeg is None
        folder, name = str(sample.meta["source"]).split("/")[1:]
        assert sample.label == int(folder)
        expected = columns(int(name.removesuffix(".bin")))
        order = np.lexsort((expected["x"], expected["y"], expected["t"]))
        assert np.array_equal(sample.events.x, expected["x"][order])
        assert np.array_equal(sample.events.y, expected["y"][order])
        assert np.array_equal(sample.events.p, expected["p"][order])
        assert np.array_equal(sample.events.t, expected["t"][order] - expected["t"].min())
        assert (sample.events.width, sample.events.height) == (34, 34)


def test_the_same_bytes_whatever_the_workers_and_interruptions(
    digits: Path, tmp_path: Path
) -> None:
    options = ImportOptions("train", shard_size=2)
    import_recordings("n-mnist", digits, tmp_path / "a", options, RunOptions(workers=1))
    import_recordings("n-mnist", digits, tmp_path / "b", options, RunOptions(workers=3))
    sorted((tmp_path / "b").glob("*.tar"))[2].unlink()
    again = import_recordings("n-mnist", digits, tmp_path / "b", options, RUN)
    assert again.made == 1
    for tar in (tmp_path / "a").glob("*.tar"):
        assert tar.read_bytes() == (tmp_path / "b" / tar.name).read_bytes()
    turned = ImportOptions("train", shard_size=2, convention=Convention(flip_x=True))
    with pytest.raises(OutputError, match="flip_x was False, now True"):
        import_recordings("n-mnist", digits, tmp_path / "b", turned, RUN)


def test_a_split_must_be_chosen_where_there_are_several(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds train, test; choose one with --split"):
        list_recordings("n-mnist", digits)
    with pytest.raises(ConfigError, match=r"'val': ROOT .* holds train, test"):
        list_recordings("n-mnist", digits, ImportOptions("val"))
    assert list_recordings("n-mnist", digits / "Test").split == "test"


def test_a_list_names_the_recordings_by_their_last_two_parts(digits: Path, tmp_path: Path) -> None:
    listed = tmp_path / "mine.txt"
    listed.write_text(
        "/home/somebody/N-MNIST/Train/1/00001.bin 1\nC:\\data\\Test\\2\\00011.bin\n\n0/00009 0\n"
    )
    found = list_recordings("n-mnist", digits, ImportOptions(list=str(listed)))
    assert sorted(found.paths) == ["Test/0/00009.bin", "Test/2/00011.bin", "Train/1/00001.bin"]
    assert found.split is not None
    assert found.split.startswith("mine ")
    listed.write_text("0/99999.bin\n")
    with pytest.raises(InputError, match=r"line 1: '0/99999\.bin' is not under ROOT"):
        list_recordings("n-mnist", digits, ImportOptions(list=str(listed)))


def test_order_does_not_follow_the_folders(digits: Path) -> None:
    labels = list_recordings("n-mnist", digits, ImportOptions("train")).labels
    assert list(labels.values()) != sorted(labels.values())  # type: ignore[type-var]


def test_broken_recordings_are_counted_by_reason(digits: Path, tmp_path: Path) -> None:
    (digits / "Train/0/00000.bin").write_bytes(b"abc")
    (digits / "Train/1/00001.bin").write_bytes(b"")
    with pytest.raises(RunError, match=r"2 of 8 samples .*--max-failures 0\.26"):
        import_recordings("n-mnist", digits, tmp_path / "out", ImportOptions("train"), RUN)
    accepting = RunOptions(workers=2, max_failures=0.3)
    report = import_recordings(
        "n-mnist", digits, tmp_path / "out", ImportOptions("train"), accepting
    )
    assert report.samples == 6
    assert sum(report.failures.values()) == 2
    sources = {
        f.source for record in read_records(tmp_path / "out", "events") for f in record.failures
    }
    assert sources == {"Train/0/00000.bin", "Train/1/00001.bin"}


def test_generic_formats_take_folders_as_classes_or_none(tmp_path: Path) -> None:
    for n in range(4):
        write_npz(tmp_path / "tree" / f"class_{n % 2}" / f"{n}.npz", n)
        write_npz(tmp_path / "flat" / f"{n}.npz", n)
    tree = list_recordings("npz", tmp_path / "tree", ImportOptions(size="34x34"))
    assert [entry.name for entry in tree.classes] == ["class 0", "class 1"]
    assert {tree.labels[path] for path in tree.paths} == {0, 1}
    report = import_recordings(
        "npz", tmp_path / "flat", tmp_path / "out", ImportOptions(size="34x34"), RUN
    )
    assert report.samples == 4
    assert read_classes(tmp_path / "out") == ([], None)


def test_the_sensor_must_be_known(tmp_path: Path) -> None:
    write_npz(tmp_path / "one.npz", 1)
    with pytest.raises(ConfigError, match="does not tell its sensor; give --size WxH, or --format"):
        open_recording(tmp_path / "one.npz")
    (tmp_path / "two.aedat").touch()
    with pytest.raises(ConfigError, match="say which with --format"):
        open_recording(tmp_path / "two.aedat")
    assert open_recording(tmp_path / "one.npz", size=(40, 40)).width == 40
    assert open_recording(tmp_path / "one.npz", "n-imagenet").width == 640
    with pytest.raises(RecordingError, match="off-sensor"):
        open_recording(tmp_path / "one.npz", size=(8, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "mp4", "ROOT", "OUT"), "format 'mp4'"),
        (("--format", "n-mnist", "nowhere", "OUT"), "no such folder"),
        (("--format", "hardvs", "ROOT", "OUT"), "no .npz file"),
        (("--format", "bullying10k", "ROOT", "OUT"), "--allow-pickle"),
        (("--format", "n-mnist", "ROOT", "OUT", "--size", "3by4"), "size '3by4'"),
        (("--format", "n-mnist", "ROOT", "OUT", "--list", "no.txt"), "no.txt"),
        (("ROOT", "OUT"), "required: --format (see"),
        (("--format", "n-mnist", "ROOT"), "required: OUT (see"),
        ((), "required: --format, ROOT, OUT (see"),
    ],
)
def test_mistakes_end_in_a_sentence(
    arguments: tuple[str, ...],
    message: str,
    digits: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"ROOT": str(digits), "OUT": str(tmp_path / "out")}
    assert main(["import", *(places.get(word, word) for word in arguments)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said
    assert not (tmp_path / "out").exists()


def test_files_in_no_class_folder_are_refused(digits: Path) -> None:
    write_aer40(digits / "Train" / "eleven" / "1.bin", 1)
    with pytest.raises(InputError, match=r"'Train/eleven/1\.bin' lies in no class folder"):
        list_recordings("n-mnist", digits, ImportOptions("train"))
    with pytest.raises(InputError, match=r"--list FILE.* --labels none"):
        list_recordings("n-mnist", digits, ImportOptions("train"))
    unlabelled = list_recordings("n-mnist", digits, ImportOptions("train", labels="none"))
    assert "Train/eleven/1.bin" in unlabelled.paths


def test_the_command_line_imports_describes_and_draws(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    flags = ["--split", "test", "--flip-y", "--invert-polarity", "--workers", "1"]
    assert main(["import", "--format", "n-mnist", str(digits), out, *flags]) == 0
    assert main(["info", out]) == 0
    assert main(["verify", out]) == 0
    assert main(["view", out]) == 0
    said = capsys.readouterr().out
    assert "4 samples with 0.0 M events from 4 recordings" in said
    assert "flip_y, invert_polarity" in said
    assert "n-mnist, sensor as it tells" in said
    assert (tmp_path / "out" / "view.png").stat().st_size > 5000


RAW = RawEvents(
    np.array([0, 5, 5, 2]),
    np.array([1, 0, 3, 3]),
    np.array([70, 90, 70, 70]),
    np.array([1, 0, 1, 0]),
)


def points(convention: Convention) -> list[tuple[int, ...]]:
    found = arrange(RAW, 8, 4, convention)
    return list(zip(*(getattr(found, c).tolist() for c in "xytp"), strict=True))


@pytest.mark.parametrize(
    ("convention", "change"),
    [
        (AS_READ, lambda x, y, p: (x, y, p)),
        (Convention(flip_x=True), lambda x, y, p: (7 - x, y, p)),
        (Convention(flip_y=True), lambda x, y, p: (x, 3 - y, p)),
        (Convention(swap_xy=True), lambda x, y, p: (y, x, p)),
        (Convention(invert_polarity=True), lambda x, y, p: (x, y, 1 - p)),
        (Convention(True, True, True, True), lambda x, y, p: (3 - y, 7 - x, 1 - p)),
    ],
)
def test_conventions_turn_what_they_say(
    convention: Convention, change: Callable[[int, int, int], tuple[int, int, int]]
) -> None:
    expected = []
    for x, y, t, p in zip(RAW.x, RAW.y, RAW.t, RAW.p, strict=True):
        x, y, p = change(int(x), int(y), int(p))
        expected.append((int(t) - 70, y, x, p))
    assert points(convention) == [(x, y, t, p) for t, y, x, p in sorted(expected)]


@pytest.mark.parametrize("name", [n for n, one in DATA_SETS.items() if one.classes])
def test_every_data_set_knows_its_classes_and_sensor(name: str) -> None:
    known = known_classes(name)
    assert [one.shown.index for one in known] == list(range(len(known)))
    assert DATA_SETS[name].size is not None


def test_real_digits_are_what_an_independent_reader_sees(real_data: Path, tmp_path: Path) -> None:
    """All 500 recordings of N-MNIST, read byte by byte."""
    labels = dict(
        line.split()[:2] for line in (real_data / "n-mnist/labels.txt").read_text().splitlines()
    )
    for number, label in labels.items():
        folder = tmp_path / "Test" / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.bin").symlink_to(real_data / "n-mnist" / f"{number}.bin")
    report = import_recordings("n-mnist", tmp_path / "Test", tmp_path / "out", None, RUN)
    assert report.samples == len(labels) == 500
    for sample in iterate_samples(tmp_path / "out"):
        number = Path(str(sample.meta["source"])).stem
        assert sample.label == int(labels[number])
        data = (real_data / "n-mnist" / f"{number}.bin").read_bytes()
        expected = []
        for n in range(0, len(data), 5):
            x, y, rest = data[n], data[n + 1], int.from_bytes(data[n + 2 : n + 5], "big")
            expected.append((rest & 0x7FFFFF, y, x, rest >> 23))
        first = min(expected)[0]
        events = sample.events
        found = zip(events.t.tolist(), events.y.tolist(), events.x.tolist(), strict=True)
        assert list(found) == sorted((t - first, y, x) for t, y, x, _ in expected)
        assert events.on_count == sum(p for *_, p in expected)


def test_facts_of_an_import_are_in_its_configuration(digits: Path, tmp_path: Path) -> None:
    import_recordings("n-mnist", digits, tmp_path / "out", ImportOptions("test"), RUN)
    facts = json.loads((tmp_path / "out" / "config.json").read_text())
    assert facts["import"] == {
        "format": "n-mnist",
        "size": None,
        "labels": "auto",
        "swap_xy": False,
        "flip_x": False,
        "flip_y": False,
        "invert_polarity": False,
    }
    assert facts["root"] == str(digits)


def test_classes_are_all_folders_whichever_are_chosen(tmp_path: Path) -> None:
    for n in range(6):
        write_npz(tmp_path / "tree" / f"c{n % 3}" / f"{n}.npz", n)
    (tmp_path / "list.txt").write_text("c1/1.npz\nc2/2.npz\n")
    told = ImportOptions(size="34x34", list=str(tmp_path / "list.txt"))
    found = list_recordings("npz", tmp_path / "tree", told)
    assert [entry.folder for entry in found.classes] == ["c0", "c1", "c2"]
    assert found.labels == {"c1/1.npz": 1, "c2/2.npz": 2}
    write_npz(tmp_path / "tree" / "stray.npz", 7)
    with pytest.raises(InputError, match=r"'stray\.npz' does not lie exactly one folder deep"):
        list_recordings("npz", tmp_path / "tree", ImportOptions(size="34x34"))
    none = list_recordings("npz", tmp_path / "tree", ImportOptions(size="34x34", labels="none"))
    assert len(none.paths) == 7
    assert none.classes == ()


def test_only_archives_with_copies_lose_them(tmp_path: Path) -> None:
    for name in ("walk", "walk (1)", "walk (2)", "run(1)"):
        write_npz(tmp_path / "npz" / "c" / f"{name}.npz", 1)
    assert len(list_recordings("npz", tmp_path / "npz", ImportOptions(size="34x34")).paths) == 4
    for name in ("a", "a(1)", "b(1)"):
        (tmp_path / "daily" / "walk").mkdir(parents=True, exist_ok=True)
        (tmp_path / "daily" / "walk" / f"{name}.aedat").write_bytes(b"")
    found = list_recordings("daily-action", tmp_path / "daily").paths
    assert sorted(found) == ["walk/a.aedat", "walk/b(1).aedat"]


def test_the_users_sensor_goes_before_the_files(tmp_path: Path) -> None:
    header = b"% evt 2.0\n% geometry 1280x720\n% end\n"
    words = struct.pack("<II", 0x8 << 28, 0x1 << 28 | 5 << 11 | 7)
    (tmp_path / "one.raw").write_bytes(header + words)
    assert open_recording(tmp_path / "one.raw").width == 1280
    assert open_recording(tmp_path / "one.raw", size=(640, 480)).width == 640


def test_what_an_import_lacks_is_said_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_npz(tmp_path / "tree" / "c" / "1.npz", 1)
    words = ["import", "--format", "npz", str(tmp_path / "tree"), str(tmp_path / "out")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "give --size WxH" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert main([*words, "--size", "34x34", "--workers", "1"]) == 0


def test_pickles_are_opened_only_where_they_are_allowed(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match="a Python pickle, which can run code"):
        open_recording(tmp_path / "one.npy", "bullying10k")
    with pytest.raises(RecordingError):
        open_recording(tmp_path / "one.npy", "bullying10k", allow_pickle=True)
