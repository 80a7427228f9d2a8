"""Runs: the same bytes however they are made, and nothing lost whatever happens to them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import set_bytes, smooth_picture, write_picture

from ezsr_shards.engines.local import run_local
from ezsr_shards.engines.outcomes import Lost, Working
from ezsr_shards.errors import ConfigError, InputError, OutputError, RunError, ShardError
from ezsr_shards.making import RunOptions, RunReport, summarize
from ezsr_shards.process import available_cpus
from ezsr_shards.sample import encode_sample
from ezsr_shards.shardset import ShardRecord, read_classes, read_records
from ezsr_shards.verify import iterate_samples, verify
from ezsr_synth.config import SensorSize, SynthConfig
from ezsr_synth.records import ImageRecord, ShardPlan, ShardTask
from ezsr_synth.run import synthesize
from ezsr_synth.sources import SourceOptions
from ezsr_synth.work import make_shard

CONFIG = SynthConfig(size=SensorSize(48, 32), max_events=3000, seed=7)
SOURCE = SourceOptions(shard_size=3)


def run(images: Path, out: Path, workers: int = 2, **options: object) -> RunReport:
    config = options.pop("config", CONFIG)
    return synthesize(
        str(images),
        out,
        config,
        SOURCE,
        RunOptions(workers=workers, **options),  # type: ignore[arg-type]
    )


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ezsr_synth.cli", *map(str, arguments)]


def test_a_run_makes_a_set_that_keeps_the_contract(picture_folder: Path, tmp_path: Path) -> None:
    report = run(picture_folder, tmp_path / "out")
    found = verify(tmp_path / "out")
    assert (found.shards, found.samples) == (report.shards, report.samples) == (4, 12)
    assert found.events == report.events
    classes, split = read_classes(tmp_path / "out")
    assert [entry.folder for entry in classes] == ["class_a", "class_b", "class_c"]
    assert split is None
    for sample in iterate_samples(tmp_path / "out"):
        assert sample.meta["kind"] == "synthetic"
        assert sample.label == "abc".index(str(sample.meta["source"])[6])
        assert 0.1 <= sample.meta["camera"]["threshold_on"] <= 0.3
        assert len(sample.events) <= 3000


def test_workers_do_not_change_a_byte(picture_folder: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        run(picture_folder, tmp_path / f"out{workers}", workers)
    assert set_bytes(tmp_path / "out1") == set_bytes(tmp_path / "out3")


def test_a_rerun_does_no_work(picture_folder: Path, tmp_path: Path) -> None:
    run(picture_folder, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert run(picture_folder, tmp_path / "out").made == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}


def test_only_what_is_missing_is_made_again(picture_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(picture_folder, out)
    whole = set_bytes(out)
    (out / "events-000001.tar").unlink()
    (out / "events-000002.json").unlink()
    (out / "index.json").unlink()
    assert run(picture_folder, out).made == 2
    assert set_bytes(out) == whole


def test_a_set_of_several_versions_of_libraries_says_so(
    picture_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(picture_folder, out).mixed == ()
    record = out / "events-000001.json"
    facts = json.loads(record.read_text())
    facts["versions"] = None
    record.write_text(json.dumps(facts))
    assert run(picture_folder, out).made == 1  # what is no record is made again
    facts = json.loads(record.read_text())
    facts["versions"]["numpy"] = "1.0.0"
    record.write_text(json.dumps(facts))
    report = run(picture_folder, out)
    assert report.mixed == (f"numpy (1.0.0, {np.__version__})",)
    assert f"several versions of numpy (1.0.0, {np.__version__})" in summarize(report, "OUT")


def test_views_are_different_recordings(picture_folder: Path, tmp_path: Path) -> None:
    config = SynthConfig(size=SensorSize(48, 32), views=2)
    run(picture_folder, tmp_path / "out", config=config)
    samples = list(iterate_samples(tmp_path / "out"))
    assert len(samples) == 24
    for first, second in zip(samples[::2], samples[1::2], strict=True):
        assert first.key.endswith("_v00")
        assert second.key == first.key[:-1] + "1"
        assert first.meta["motion"] != second.meta["motion"]
        assert not np.array_equal(first.events.t, second.events.t)


def test_samples_do_not_depend_on_their_neighbours(picture_folder: Path, tmp_path: Path) -> None:
    run(picture_folder, tmp_path / "before")
    write_picture(picture_folder / "class_a" / "another.jpg", smooth_picture(99))
    run(picture_folder, tmp_path / "after")
    before, after = (
        {s.key: encode_sample(s) for s in iterate_samples(tmp_path / n)}
        for n in ("before", "after")
    )
    assert len(after) == len(before) + 1
    assert {key: after[key] for key in before} == before


def test_another_configuration_is_refused_and_named(picture_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(picture_folder, out)
    whole = set_bytes(out)
    other = SynthConfig(size=SensorSize(48, 32), max_events=3000, seed=8)
    with pytest.raises(OutputError, match=r"seed was 7, now 8.*--overwrite"):
        run(picture_folder, out, config=other)
    write_picture(picture_folder / "class_a" / "more.jpg", smooth_picture(99))
    with pytest.raises(OutputError, match="pictures was 12, now 13"):
        run(picture_folder, out)
    assert set_bytes(out) == whole
    assert run(picture_folder, out, config=other, overwrite=True).samples == 13
    verify(out)


def test_overwrite_deletes_nothing_else(picture_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(picture_folder, out)
    for name in ("notes.txt", "events-mine.tar", "other-000000.tar"):
        (out / name).write_text("keep me")
    run(picture_folder, out, overwrite=True)
    for name in ("notes.txt", "events-mine.tar", "other-000000.tar"):
        assert (out / name).read_text() == "keep me"


def test_a_folder_with_foreign_tars_is_refused(picture_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "events-000000.tar").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="not ours to replace"):
            run(picture_folder, tmp_path, overwrite=overwrite)
    assert (tmp_path / "events-000000.tar").read_text() == "precious"


@pytest.mark.parametrize("name", ["config.json", "index.json", "classes.json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_other_programs_are_kept(
    name: str, overwrite: bool, picture_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for file in (name, ".download.part"):
        (out / file).write_text('{"theirs": 1}')
    with pytest.raises(OutputError, match="another folder"):
        run(picture_folder, out, overwrite=overwrite)
    for file in (name, ".download.part"):
        assert (out / file).read_text() == '{"theirs": 1}'


def test_what_is_damaged_is_made_again_or_named(picture_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(picture_folder, out)
    whole = set_bytes(out)
    (out / "events-000000.json").write_text("")
    (out / "events-000001.json").write_text("[]")
    assert run(picture_folder, out).made == 2
    assert set_bytes(out) == whole
    (out / "config.json").write_text("{")
    with pytest.raises(OutputError, match=r"config\.json is damaged"):
        run(picture_folder, out)


def test_pictures_elsewhere_are_other_pictures(picture_folder: Path, tmp_path: Path) -> None:
    """The same names in another folder may be other pictures, so nothing is taken for done."""
    run(picture_folder, tmp_path / "out")
    picture_folder.rename(tmp_path / "moved")
    with pytest.raises(OutputError, match=r"was made from .*moved.*correct 'images'"):
        run(tmp_path / "moved", tmp_path / "out")
    (tmp_path / "moved" / "class_a" / "image 00.jpg").rename(
        tmp_path / "moved" / "class_a" / "b.jpg"
    )
    with pytest.raises(OutputError, match="as many inputs, but others"):
        run(tmp_path / "moved", tmp_path / "out")


def test_the_shard_size_is_part_of_the_configuration(tmp_path: Path) -> None:
    for n in range(10):
        write_picture(tmp_path / "p" / f"{n}.png", smooth_picture(n))
    for size, outcome in ((6, None), (5, "shard_size was 6, now 5")):
        options = (str(tmp_path / "p"), tmp_path / "out", CONFIG, SourceOptions(shard_size=size))
        if outcome is None:
            synthesize(*options)
        else:
            with pytest.raises(OutputError, match=outcome):
                synthesize(*options)


def test_out_inside_the_pictures_is_not_read_again(picture_folder: Path) -> None:
    out = picture_folder / "out"
    run(picture_folder, out)
    write_picture(out / "view.png", smooth_picture(0))
    assert run(picture_folder, out).made == 0
    with pytest.raises(InputError, match="is also OUT"):
        run(picture_folder, picture_folder)


def test_tars_are_never_closed_as_complete_when_some_are_missing(tmp_path: Path) -> None:
    from test_sources import jpeg, write_tar

    bad = {f"a{n}.jpg": b"no picture" for n in range(5)}
    write_tar(tmp_path / "0.tar", bad | {f"b{n}.jpg": jpeg(n) for n in range(60)})
    for n in (1, 2):
        write_tar(tmp_path / f"{n}.tar", {f"b{n}.jpg": jpeg(n) for n in range(5)})
    report = run(tmp_path, tmp_path / "out", workers=1, max_failures=0.07)
    assert (report.shards, report.samples) == (3, 70)
    verify(tmp_path / "out")


def test_labels_without_a_name_still_get_a_class(tmp_path: Path) -> None:
    from test_sources import jpeg, write_tar

    write_tar(
        tmp_path / "a.tar", {"a.jpg": jpeg(), "a.cls": b"12", "b.jpg": jpeg(1), "b.cls": b"1"}
    )
    (tmp_path / "names.txt").write_text("0 tench\n1 shark\n")
    source = SourceOptions(classnames=str(tmp_path / "names.txt"))
    synthesize(str(tmp_path / "a.tar"), tmp_path / "out", CONFIG, source)
    classes, _ = read_classes(tmp_path / "out")
    assert [(c.index, c.name) for c in classes] == [(0, "tench"), (1, "shark"), (12, "12")]
    verify(tmp_path / "out")


def spoil(folder: Path, count: int) -> None:
    for n in range(count):
        (folder / "class_b" / f"bad {n}.jpg").write_text("no picture")


def test_failures_are_listed_and_limited(picture_folder: Path, tmp_path: Path) -> None:
    spoil(picture_folder, 2)
    with pytest.raises(RunError, match=r"2 of 14 .*2 not-an-image.*--max-failures 0\.15"):
        run(picture_folder, tmp_path / "out")
    assert not (tmp_path / "out" / "index.json").exists()
    report = run(picture_folder, tmp_path / "out", max_failures=0.15)
    assert report.failures == {"not-an-image": 2}
    failures = [f for record in read_records(tmp_path / "out", "events") for f in record.failures]
    assert sorted(f.source for f in failures) == ["class_b/bad 0.jpg", "class_b/bad 1.jpg"]
    verify(tmp_path / "out")


def test_a_run_stops_early_when_it_cannot_succeed(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(picture_folder, 120)
    monkeypatch.setattr("ezsr_shards.making._JUDGE_AFTER", 20)
    with pytest.raises(RunError, match="stopped after"):
        run(picture_folder, tmp_path / "out", workers=1)
    assert len(list((tmp_path / "out").glob("*.tar"))) < 20


def test_failures_of_several_views_are_judged_by_samples(tmp_path: Path) -> None:
    for n in range(4):
        flat = np.full((40, 40, 3), 90, np.uint8)
        write_picture(tmp_path / "p" / f"{n}.png", flat if n < 2 else smooth_picture(n))
    config = SynthConfig(size=SensorSize(48, 32), views=5)
    with pytest.raises(RunError, match=r"10 of 20 samples \(50\.0%\)"):
        run(tmp_path / "p", tmp_path / "out", config=config, max_failures=0.4)
    assert run(tmp_path / "p", tmp_path / "out", config=config, max_failures=0.5).samples == 10


def test_pictures_without_contrast_are_failures(tmp_path: Path) -> None:
    for n in range(3):
        write_picture(tmp_path / "p" / f"{n}.png", np.full((40, 40, 3), 80 * n, np.uint8))
    with pytest.raises(RunError, match="3 too-few-events"):
        run(tmp_path / "p", tmp_path / "out")
    with pytest.raises(RunError, match="none of the 3"):
        run(tmp_path / "p", tmp_path / "out", max_failures=1.0)


def test_killed_at_random_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    folder, out = tmp_path / "p", tmp_path / "out"
    for n in range(40):
        write_picture(folder / f"{n}.png", smooth_picture(n, 200, 300))
    slow = ("--size", "320x240", "--views", 2, "--max-events", 400_000, "--shard-size", 4)
    for whole in ("first", "whole"):  # the first may have to compile
        started = time.monotonic()
        subprocess.run(command(folder, tmp_path / whole, *slow), check=True, capture_output=True)
        duration = time.monotonic() - started
    rng = random.Random(0)
    kills = 0
    while kills < 10:
        process = subprocess.Popen(command(folder, out, *slow), stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=rng.uniform(0.2, 0.8) * duration)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        for tar in sorted(out.glob("*.tar"))[3:]:  # so that there is always work left to kill
            tar.unlink()
    subprocess.run(command(folder, out, *slow), check=True, capture_output=True)
    made, whole_bytes = set_bytes(out), set_bytes(tmp_path / "whole")
    assert sorted(set(made.items()) ^ set(whole_bytes.items())) == []
    assert not list(out.glob(".*.part"))
    verify(out)


def test_interrupt_stops_cleanly_and_says_how_to_continue(tmp_path: Path) -> None:
    folder, out = tmp_path / "p", tmp_path / "out"
    for n in range(200):
        write_picture(folder / f"{n}.png", smooth_picture(n, 60, 60))
    big = command(folder, out, "--size", "640x480", "--shard-size", 50, "--max-events", 2_000_000)
    for signum in (signal.SIGINT, signal.SIGTERM):
        took_s = [interrupt(big, out, signum)]
        while min(took_s) >= 2 and len(took_s) < 3:  # a disk that stalls says nothing about us
            took_s.append(interrupt(big, out, signum))
        assert min(took_s) < 2


def interrupt(big: list[str], out: Path, signum: signal.Signals) -> float:
    """Run a command, stop it in the middle, check how it ends, and return how long that took."""
    process = subprocess.Popen(big, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(out.glob(".*.part")):
        time.sleep(0.02)
        assert process.poll() is None
    asked = time.monotonic()
    os.killpg(process.pid, signum)  # as a terminal does: the whole group
    _, said = process.communicate(timeout=20)
    took_s = time.monotonic() - asked
    assert process.returncode == 130
    assert "run the same command again" in said
    assert "Traceback" not in said
    return took_s


class _Poison:
    """Pictures of which one kills its worker when read, as a crash in a decoder would."""

    def __init__(self, marks: Path, deaths: int) -> None:
        self.marks, self.deaths = marks, deaths

    def __iter__(self) -> Iterator[ImageRecord]:
        for n in range(3):
            yield ImageRecord(f"k{n}", f"s{n}", self.read if n == 1 else harmless)

    def read(self) -> bytes:
        tries = len(list(self.marks.iterdir()))
        if tries < self.deaths:
            (self.marks / str(tries)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return b""


def harmless() -> bytes:
    return b""


@pytest.mark.parametrize("repeat", range(3))
@pytest.mark.parametrize(("deaths", "outcome"), [(1, "Done"), (2, "Done"), (3, "Lost")])
def test_a_crashed_worker_costs_its_shard_an_attempt(
    deaths: int, outcome: str, repeat: int, tmp_path: Path
) -> None:
    (tmp_path / "marks").mkdir()
    (tmp_path / "out").mkdir()
    plan = ShardPlan(tmp_path / "out", "events", CONFIG, "hash")
    tasks = [ShardTask(n, _Poison(tmp_path / "marks", deaths if n == 0 else 0)) for n in range(4)]
    outcomes = {}
    for said in run_local(partial(next, iter(tasks), None), partial(make_shard, plan=plan), 2):
        time.sleep(0.005)  # a slow consumer: a worker may die with its messages unread
        if not isinstance(said, Working):
            outcomes[said.index] = type(said).__name__
        if isinstance(said, Lost):
            assert "'s1'" in said.why
    assert outcomes == {0: outcome, 1: "Done", 2: "Done", 3: "Done"}


def test_an_output_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    plan = ShardPlan(tmp_path / "gone", "events", CONFIG, "hash")
    with pytest.raises(RunError, match="could not be written"):
        list(
            run_local(
                partial(next, iter([ShardTask(0, ())]), None), partial(make_shard, plan=plan), 1
            )
        )  # type: ignore[arg-type]


@pytest.mark.parametrize("out", ["s3://bucket/out", "file.txt/out", "memory://out", "n" * 300])
def test_outputs_that_cannot_be(out: str, picture_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file.txt").touch()
    target = out if "://" in out else str(tmp_path / out)
    with pytest.raises((ConfigError, OutputError), match="OUT"):
        synthesize(str(picture_folder), target, CONFIG)


def break_set(out: Path, how: str) -> None:
    tar = out / "events-000001.tar"
    data = bytearray(tar.read_bytes())
    if how == "flipped byte":
        data[len(data) // 2] ^= 1
        tar.write_bytes(data)
    elif how == "cut":
        tar.write_bytes(data[:-10240])
    elif how == "no tar":
        tar.unlink()
    elif how == "no record":
        (out / "events-000001.json").unlink()
    elif how == "no index":
        (out / "index.json").unlink()
    elif how == "no classes":
        (out / "classes.json").unlink()
    elif how == "stray tar":
        (out / "events-000009.tar").write_bytes(data)
    elif how == "other class list":
        (out / "classes.json").write_text('{"split": null, "classes": []}')
    elif how == "edited configuration":
        config = (out / "config.json").read_text()
        (out / "config.json").write_text(config.replace('"seed": 7', '"seed": 8'))
    elif how == "garbled index":
        (out / "index.json").write_text('{"shardlist": [{"url": "events-000000.tar"}]}')
    elif how in ("wrong labels", "labels of another kind"):
        facts = json.loads((out / "events-000001.json").read_text())
        facts["labels"] = {"0": 99} if how == "wrong labels" else [1]
        (out / "events-000001.json").write_text(json.dumps(facts))
    elif how == "wrong count":
        facts = json.loads((out / "events-000001.json").read_text())
        facts["events"] += 1
        (out / "events-000001.json").write_text(json.dumps(facts))
    elif how == "wrong index":
        index = (out / "index.json").read_text()
        (out / "index.json").write_text(index.replace('"sha256": "', '"sha256": "0'))
    elif how == "same key twice":
        facts = json.loads((out / "events-000001.json").read_text())
        other = json.loads((out / "events-000000.json").read_text())
        tar.write_bytes((out / "events-000000.tar").read_bytes())
        (out / "events-000001.json").write_text(json.dumps({**other, "name": facts["name"]}))
        ShardRecord.read(out, "events-000001.json")
        index = json.loads((out / "index.json").read_text())
        index["shardlist"][1] = {**index["shardlist"][0], "url": "events-000001.tar"}
        (out / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("flipped byte", r"events-000001\.tar.*sha256"),
        ("cut", r"events-000001\.tar.*bytes"),
        ("no tar", r"events-000001\.tar"),
        ("no record", "3 of 4 shards"),
        ("no index", r"index\.json"),
        ("no classes", r"classes\.json"),
        ("stray tar", r"events-000009\.tar"),
        ("other class list", r"label \d is not in classes\.json"),
        ("wrong count", r"events"),
        ("wrong index", r"index\.json"),
        ("same key twice", "twice"),
        ("edited configuration", r"config\.json.*hash"),
        ("garbled index", r"index\.json"),
        ("wrong labels", "labels"),
        ("labels of another kind", r"events-000001\.json"),
    ],
)
def test_verify_names_the_first_fault(
    how: str, message: str, picture_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(picture_folder, out)
    break_set(out, how)
    with pytest.raises(ShardError, match=message) as caught:
        verify(out)
    assert "\n" not in str(caught.value)


def test_cpus() -> None:
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)
