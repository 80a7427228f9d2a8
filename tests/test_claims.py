"""Claims: any number of runs on one output, each shard made once, whoever dies."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import set_bytes, smooth_picture, write_picture

from ezsr_shards.beats import Beat, Lookout, beat_name, find_beats
from ezsr_shards.claims import Claims
from ezsr_shards.engines.outcomes import Attempt, Done, MakeShard, NextTask, Task
from ezsr_shards.errors import ConfigError, OutputError, RunError
from ezsr_shards.plan import ENGINES, RunOptions
from ezsr_shards.shardset import encode_json
from ezsr_shards.store import LocalStore
from ezsr_shards.verify import verify
from ezsr_synth.config import SensorSize, SynthConfig
from ezsr_synth.run import synthesize
from ezsr_synth.sources import SourceOptions

CONFIG = SynthConfig(size=SensorSize(48, 32), max_events=3000, seed=7)
SOURCE = SourceOptions(shard_size=3)
QUICK = RunOptions(workers=1, expiry_s=0.6)


class Clock:
    """A monotonic clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def traces(out: Path) -> list[str]:
    return [path.name for path in out.iterdir() if path.name.startswith(".")]


def far_beat(token: str, **changes: object) -> Beat:
    """The beat of a run on another machine, whose clock is a year ahead."""
    ahead_s = time.time() + 365 * 86_400
    beat = Beat(token, "far", 4711, "far boot", 60.0, ahead_s, ahead_s, 1)
    return replace(beat, **changes)  # type: ignore[arg-type]


def write_beat(out: Path, beat: Beat) -> None:
    (out / beat_name(beat.token)).write_bytes(encode_json(beat.__dict__ | {"work": {}}))


@pytest.fixture
def claimed(tmp_path: Path) -> tuple[Path, Beat]:
    """A folder in which a run on another machine has claimed shard 1."""
    beat = far_beat("a" * 16)
    write_beat(tmp_path, beat)
    (tmp_path / ".events-000001.0.claim").write_text(beat.token)
    return tmp_path, beat


def test_of_many_claimers_one_gets_each_shard(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    won: list[tuple[int, int]] = []

    def claim_all(number: int) -> None:
        with Claims(store, "events", 60.0) as claims:
            claims.look()
            together.wait()
            won.extend((index, number) for index in range(40) if claims.take(index))
            together.wait()  # nobody gives back before all have tried

    together = threading.Barrier(6)
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(claim_all, range(6)))
    assert sorted(index for index, _ in won) == list(range(40))
    assert traces(tmp_path) == []


def test_a_silent_owner_is_succeeded_by_one(claimed: tuple[Path, Beat]) -> None:
    out, _ = claimed
    clocks = [Clock() for _ in range(4)]
    runs = [Claims(LocalStore(out), "events", 60.0, clock) for clock in clocks]
    for seconds in (0.0, 59.0):
        for one, clock in zip(runs, clocks, strict=True):
            clock.now += seconds
            one.look()
            assert not one.take(1)
    for one, clock in zip(runs, clocks, strict=True):
        clock.now += 2.0
        one.look()
    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(lambda one: one.take(1), runs)) == [False, False, False, True]
    winner = next(one for one in runs if one.held())
    winner.release(1)
    assert traces(out) == []


def test_an_owner_that_beats_keeps_its_claim(claimed: tuple[Path, Beat]) -> None:
    """However wrong its clock is, and even if it goes backwards."""
    out, beat = claimed
    clock = Clock()
    run = Claims(LocalStore(out), "events", 60.0, clock)
    for count in range(2, 8):
        clock.now += 50.0
        said_s = beat.said_s - 1e6 * count
        write_beat(out, replace(beat, count=count, said_s=said_s))
        run.look()
        assert not run.take(1)


def test_expiry_is_the_owner_s(claimed: tuple[Path, Beat]) -> None:
    out, beat = claimed
    write_beat(out, replace(beat, expiry_s=600.0))
    clock = Clock()
    run = Claims(LocalStore(out), "events", 1.0, clock)
    for seconds, taken in ((0.0, False), (599.0, False), (2.0, True)):
        clock.now += seconds
        run.look()
        assert run.take(1) == taken


@pytest.mark.parametrize("content", [b"", b"../../precious", b"\xff" * 40, b"b" * 16])
def test_claims_of_nobody_are_free(content: bytes, tmp_path: Path) -> None:
    """Damaged ones, and those of a run that has ended and taken its beat away."""
    (tmp_path / "precious.beat").write_text("keep me")
    out = tmp_path / "out"
    out.mkdir()
    (out / ".events-000001.3.claim").write_bytes(content)
    run = Claims(LocalStore(out), "events", 60.0)
    run.look()
    assert run.take(1)
    run.release(1)
    assert traces(out) == []
    assert (tmp_path / "precious.beat").exists()


def test_a_process_that_is_gone_is_known_at_once_on_its_machine(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from ezsr_shards.claims import Claims; "
        "from ezsr_shards.store import LocalStore; "
        f"run = Claims(LocalStore(Path({str(tmp_path)!r})), 'events', 60.0); "
        "run.__enter__(); run.look(); assert run.take(1); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    (token,) = find_beats(traces(tmp_path))
    assert Lookout(LocalStore(tmp_path)).is_alive(token) is False
    with Claims(LocalStore(tmp_path), "events", 60.0) as run:
        run.look()
        assert run.take(1)
    assert traces(tmp_path) == []


def test_unfinished_files_go_with_their_run_only(claimed: tuple[Path, Beat]) -> None:
    out, beat = claimed
    parts = {
        "alive": ".events-000001.tar.123-0a1b2c3d.part",
        "dead": ".events-000002.json.124-0a1b2c3d.part",
        "index": ".index.json.125-0a1b2c3d.part",
        "theirs": ".events-mine.tar.123-0a1b2c3d.part",
    }
    for part in parts.values():
        (out / part).touch()
    clock = Clock()
    with Claims(LocalStore(out), "events", 60.0, clock) as run:
        run.sweep(complete=())
        assert run.take(2)
        run.release(2)
        assert set(traces(out)) >= {parts["alive"], parts["index"], parts["theirs"]}
        assert not (out / parts["dead"]).exists()
        clock.now += 61.0
        run.sweep(complete=(1,))
    assert traces(out) == [parts["theirs"]]
    assert beat_name(beat.token) not in traces(out)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for n in range(18):
        write_picture(folder / f"{n:02d}.png", smooth_picture(n))
    return folder


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one run alone makes of the pictures: six shards."""
    out = tmp_path_factory.mktemp("whole")
    assert synthesize(str(pictures), out, CONFIG, SOURCE, QUICK).made == 6
    return set_bytes(out)


def test_runs_on_one_output_share_the_work(
    pictures: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    """An array of three jobs and a run that knows of none; nothing is made twice."""
    options = [RunOptions(workers=1, job_id=n, num_jobs=3) for n in range(3)]
    options.append(RunOptions(workers=1))
    with ThreadPoolExecutor(4) as threads:
        reports = list(
            threads.map(
                lambda run: synthesize(str(pictures), tmp_path, CONFIG, SOURCE, run), options
            )
        )
    assert sum(report.made for report in reports) == 6
    assert {report.samples for report in reports} == {18}
    assert set_bytes(tmp_path) == whole
    assert traces(tmp_path) == []
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["made"] for line in lines) == 6
    verify(tmp_path)


def test_jobs_begin_at_different_places(pictures: Path, tmp_path: Path) -> None:
    """A job of three takes shard 4 of 6 first, as can be seen when it is the only one free."""
    store = LocalStore(tmp_path)
    order: list[int] = []

    class Watched(Claims):
        def take(self, index: int) -> bool:
            order.append(index)
            return super().take(index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ezsr_shards.making.Claims", Watched)
        run = RunOptions(workers=1, job_id=2, num_jobs=3)
        synthesize(str(pictures), store, CONFIG, SOURCE, run)
    assert order == [4, 5, 0, 1, 2, 3]


def test_a_run_waits_for_the_living_and_goes_on_for_the_dead(
    pictures: Path, whole: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ezsr_shards.progress._SECONDS_BETWEEN_LINES", 0.0)
        write_beat(tmp_path, far_beat("a" * 16, expiry_s=1.5))
        (tmp_path / ".events-000003.0.claim").write_text("a" * 16)
        with Claims(LocalStore(tmp_path), "events", 60.0) as other, ThreadPoolExecutor(1) as thread:
            other.look()
            assert other.take(5)
            report = thread.submit(synthesize, str(pictures), tmp_path, CONFIG, SOURCE, QUICK)
            while len(list(tmp_path.glob("*.json"))) < 1 + 5:  # config.json, all but shard 5
                time.sleep(0.05)
                assert not report.done()
            assert (tmp_path / ".events-000005.0.claim").exists()
            assert not (tmp_path / "events-000005.tar").exists()
            other.release(5)
            assert report.result().made == 6
    assert re.search(r"waiting for \d shards of process \d+ on ", capsys.readouterr().err)
    assert set_bytes(tmp_path) == whole
    assert traces(tmp_path) == []


def test_stragglers_hold_back_no_shards_of_runs_that_died(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one worker is still at its shard, another one takes over what a dead run was at."""
    write_beat(tmp_path, beat := far_beat("a" * 16, expiry_s=0.6))
    (tmp_path / ".events-000001.0.claim").write_text(beat.token)
    given: list[list[int]] = []

    def engine(next_task: NextTask, make: MakeShard, *_: object) -> Iterator[Done]:
        tasks: list[Task] = []
        end = time.monotonic() + 20
        while len(tasks) < 6 and time.monotonic() < end:
            tasks += filter(None, [next_task()])
            time.sleep(0.05)
        given.append([task.index for task in tasks])
        for task in tasks:
            yield Done(task.index, make(task, lambda *_: None))

    monkeypatch.setitem(ENGINES, "local", engine)
    assert synthesize(str(pictures), tmp_path, CONFIG, SOURCE, QUICK).made == 6
    assert [sorted(indices) for indices in given] == [[0, 1, 2, 3, 4, 5]]


def test_a_set_that_is_being_made_is_not_deleted(pictures: Path, tmp_path: Path) -> None:
    synthesize(str(pictures), tmp_path, CONFIG, SOURCE, QUICK)
    before = set_bytes(tmp_path)
    again = replace(QUICK, overwrite=True)
    with Claims(LocalStore(tmp_path), "events", 60.0):
        with pytest.raises(OutputError, match=r"another run \(process \d+ on .*\) is at work"):
            synthesize(str(pictures), tmp_path, CONFIG, SOURCE, again)
        other = replace(CONFIG, seed=8)
        with pytest.raises(OutputError, match="seed was 7, now 8"):
            synthesize(str(pictures), tmp_path, other, SOURCE, QUICK)
    assert set_bytes(tmp_path) == before
    write_beat(tmp_path, far_beat("a" * 16, expiry_s=0.5))  # dead, which only time can tell
    assert synthesize(str(pictures), tmp_path, CONFIG, SOURCE, again).made == 6
    assert traces(tmp_path) == []


def test_nobody_joins_while_a_set_is_deleted(pictures: Path, tmp_path: Path) -> None:
    with (
        Claims(LocalStore(tmp_path), "events", 60.0) as other,
        other.alone(),
        pytest.raises(OutputError, match="is deleting the set"),
    ):
        synthesize(str(pictures), tmp_path, CONFIG, SOURCE, QUICK)
    assert traces(tmp_path) == []


def test_a_clock_that_goes_backwards_changes_nothing(
    pictures: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, calls = time.time(), iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: start - 3600.0 * next(calls))
    report = synthesize(str(pictures), tmp_path, CONFIG, SOURCE, QUICK)
    assert report.seconds > 0
    assert set_bytes(tmp_path) == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"job_id": 3, "num_jobs": 3}, "job_id 3: give 0 to 2, below num_jobs 3; let the array"),
        ({"job_id": -1}, "job_id -1: give 0 to 0"),
        ({"num_jobs": 0}, "num_jobs 0"),
        ({"num_jobs": 2, "overwrite": True}, "each of 2 jobs would delete"),
        ({"expiry_s": 0.0}, "expiry_s"),
        ({"engine": "slurm"}, "engine 'slurm': give local or ray"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunOptions(**options)  # type: ignore[arg-type]


def test_a_run_that_slept_while_others_began_anew_ends(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin_anew(*_: object) -> None:
        (tmp_path / "config.json").write_text('{"config_hash": "another", "name": "events"}')

    monkeypatch.setattr("ezsr_shards.making._Judge.__call__", begin_anew)
    with pytest.raises(RunError, match="begun it anew with another configuration"):
        synthesize(str(pictures), tmp_path, CONFIG, SOURCE, QUICK)
    assert len(list(tmp_path.glob("*.tar"))) <= 2
    assert traces(tmp_path) == []


def test_an_answer_that_is_lost_on_the_way_is_not_taken_for_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS makes the link, loses the answer, is asked again, and says that there is one."""
    link = os.link

    def lose_answer(source: object, target: object) -> None:
        link(source, target)  # type: ignore[arg-type]
        raise FileExistsError

    store = LocalStore(tmp_path)
    monkeypatch.setattr("os.link", lose_answer)
    assert store.create("claim", b"mine")
    monkeypatch.setattr("os.link", link)
    assert not store.create("claim", b"of another")
    assert store.read("claim") == b"mine"
    assert store.names() == ["claim"]


def test_runs_work_where_there_are_no_links(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, target: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    store = LocalStore(tmp_path / "store")
    store.make()
    assert (store.create("claim", b"one"), store.create("claim", b"two")) == (True, False)
    synthesize(str(pictures), tmp_path / "out", CONFIG, SOURCE, QUICK)
    verify(tmp_path / "out")
    assert not [name for name in store.names() if name != "claim"]


def test_an_output_that_refuses_everything_is_named(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where rights expire: not even that the set is finished can be seen any more."""
    synthesize(str(pictures), tmp_path, CONFIG, SOURCE, QUICK)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "access denied")

    for method in ("sizes", "write", "create"):
        monkeypatch.setattr(LocalStore, method, refuse)
    with pytest.raises(RunError, match=r"OUT .*: cannot be written \(access denied\); mend this"):
        synthesize(str(pictures), tmp_path, CONFIG, SOURCE, QUICK)


def test_a_run_whose_unfinished_file_was_taken_away_tries_again() -> None:
    """As happens to one that slept, was taken for dead, and wakes."""
    attempt = Attempt(_Task(0))
    again = attempt.judge(FileNotFoundError(errno.ENOENT, "No such file or directory"))
    assert again == Attempt(_Task(0), 2)
    with pytest.raises(RunError, match="No space left"):
        attempt.judge(OSError(errno.ENOSPC, "No space left on device"))


@dataclass(frozen=True)
class _Task:
    index: int
