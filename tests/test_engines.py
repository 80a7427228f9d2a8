"""Engines: the same bytes from processes here, a real Ray cluster, and jobs of an array."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT, set_bytes, smooth_picture, write_picture
from test_claims import CONFIG, SOURCE, traces
from test_run import _Poison

from ezsr_shards.engines.local import run_local
from ezsr_shards.engines.outcomes import Lost, Working
from ezsr_shards.engines.ray_cluster import run_ray
from ezsr_shards.errors import ConfigError
from ezsr_shards.plan import ENGINES, RunOptions
from ezsr_shards.shardset import ShardRecord
from ezsr_shards.store import LocalStore
from ezsr_shards.verify import verify
from ezsr_synth.cli import main
from ezsr_synth.records import ShardPlan, ShardTask
from ezsr_synth.run import synthesize
from ezsr_synth.work import make_shard

SLOW = ("--size", "320x240", "--views", "2", "--max-events", "400000", "--shard-size", "4")
IMPORTABLE = os.pathsep.join(str(ROOT / part) for part in ("shards", "synth", "tests"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray cluster of this machine alone, with two CPUs, and RAY_ADDRESS set to it."""
    pytest.importorskip("ray", reason="the engine ray needs pip install 'ezsr[ray]'")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets have short names
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--num-cpus=2", "--include-dashboard=false", "--object-store-memory=80000000"]
    command += [f"--port={port}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}
    environment = {**os.environ, **quiet, "PYTHONPATH": IMPORTABLE}
    with open(Path(folder, "said"), "w") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
    address = f"127.0.0.1:{port}"
    try:
        wait_until(lambda: "runtime started" in Path(folder, "said").read_text(), 90, process)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_ADDRESS", address)
            yield address
    finally:
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(happened: object, seconds: float, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for n in range(18):
        write_picture(folder / f"{n:02d}.png", smooth_picture(n, 200, 300))
    (folder / "bad.png").write_text("no picture")
    return folder


def test_every_engine_gives_the_same_bytes(
    cluster: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes here, a Ray cluster, three jobs one after the other; with paths as users write."""
    monkeypatch.chdir(pictures.parent)
    same = {"workers": 2, "max_failures": 0.1}
    for engine in ENGINES:
        out = os.path.relpath(tmp_path / engine)
        run = RunOptions(engine=engine, **same)  # type: ignore[arg-type]
        report = synthesize(pictures.name, out, CONFIG, SOURCE, run)
        assert (report.made, report.samples) == (7, 18)
        assert report.failures == {"not-an-image": 1}
    jobs = [RunOptions(job_id=n, num_jobs=3, **same) for n in range(3)]  # type: ignore[arg-type]
    words = ["--size", "48x32", "--max-events", "3000", "--seed", "7", "--shard-size", "3"]
    words += ["--max-failures", "0.1", "--workers", "1", "--num-jobs", str(len(jobs))]
    command = [sys.executable, "-m", "ezsr_synth.cli", pictures.name, str(tmp_path / "array")]
    array = [subprocess.Popen([*command, *words, "--job-id", str(n)]) for n in range(3)]
    assert [job.wait() for job in array] == [0, 0, 0]
    assert set_bytes(tmp_path / "ray") == set_bytes(tmp_path / "local")
    assert set_bytes(tmp_path / "array") == set_bytes(tmp_path / "local")
    assert all(traces(tmp_path / name) == [] for name in ("ray", "local", "array"))
    verify(tmp_path / "ray")


@pytest.mark.parametrize(
    ("deaths", "outcome"), [(1, "Done"), pytest.param(3, "Lost", marks=pytest.mark.faults)]
)
def test_a_crashed_ray_worker_costs_its_shard_an_attempt(
    cluster: str, deaths: int, outcome: str, tmp_path: Path
) -> None:
    (tmp_path / "marks").mkdir()
    (tmp_path / "out").mkdir()
    plan = ShardPlan(LocalStore(tmp_path / "out"), "events", CONFIG, "hash")
    tasks = [ShardTask(n, _Poison(tmp_path / "marks", deaths if n == 0 else 0)) for n in range(3)]
    outcomes = {}
    for said in run_ray(partial(next, iter(tasks), None), partial(make_shard, plan=plan), 2):
        if not isinstance(said, Working):
            outcomes[said.index] = type(said).__name__
        if isinstance(said, Lost):
            assert "worker process ended" in said.why
    assert outcomes == {0: outcome, 1: "Done", 2: "Done"}


def ray_workers(address: str) -> list[int]:
    """The processes of the tests' own cluster that make shards; there may be others of others."""
    raylets = workers_of(None, f":{address.rpartition(':')[2]} ")
    return [worker for raylet in raylets for worker in workers_of(raylet, "ray::_make_one")]


def workers_of(parent: int | None, words: str) -> list[int]:
    """The processes, below `parent` or anywhere, whose command line holds some words."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            above = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if words in command and parent in (None, above):
            found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def slow_bytes(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("slow")
    assert main([str(pictures), str(out), *SLOW, "--max-failures", "0.1"]) == 0
    return set_bytes(out)


@pytest.mark.parametrize(
    ("engine", "kills"),
    [
        ("local", 2),
        pytest.param("local", 50, marks=pytest.mark.faults),
        pytest.param("ray", 50, marks=pytest.mark.faults),
    ],
)
def test_workers_killed_in_the_middle_of_a_shard(
    engine: str,
    kills: int,
    pictures: Path,
    slow_bytes: dict[str, str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """At random times, until it has happened often enough; no byte differs in the end."""
    if engine == "ray":
        request.getfixturevalue("cluster")
    out, rng, done = tmp_path / "out", random.Random(kills), 0
    command = [sys.executable, "-m", "ezsr_synth.cli", str(pictures), str(out), *SLOW]
    command += ["--engine", engine, "--workers", "2", "--max-failures", "0.1"]
    for _ in range(20 + 2 * kills):
        if done >= kills:
            break
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while process.poll() is None:
            time.sleep(rng.uniform(0.1, 0.8))
            at_work = makers(process.pid, engine)
            if at_work and list(out.glob(".events-*.tar.*.part")):
                os.kill(rng.choice(at_work), signal.SIGKILL)
                done += 1
        said = process.communicate()[1]
        assert process.returncode in (0, 1), said
        assert "Traceback" not in said
        assert process.returncode == 0 or "could not be made" in said
        for tar in sorted(out.glob("*.tar"))[2:]:  # so that there is always work left
            tar.unlink()
    assert done >= kills
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert set_bytes(out) == slow_bytes
    assert traces(out) == []


def makers(run: int, engine: str) -> list[int]:
    """The processes that make shards for a run."""
    if engine == "ray":
        return ray_workers(os.environ["RAY_ADDRESS"])
    return [w for server in workers_of(run, "forkserver") for w in workers_of(server, "forkserver")]


def test_interrupt_stops_a_ray_run(cluster: str, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ezsr_synth.cli", str(pictures), str(out), "--engine", "ray"]
    command += ["--size", "640x480", "--views", "50", "--max-events", "2000000"]
    for signum in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: list(out.glob(".events-*.tar.*.part")), 90, process)
        assert ray_workers(cluster)
        process.send_signal(signum)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 130, said
        assert "run the same command again" in said
        assert "Traceback" not in said
        assert traces(out) == []
        assert not ray_workers(cluster)


def test_without_a_cluster_it_says_how_to_start_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="the engine ray needs pip install 'ezsr[ray]'")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert main(["toy:4", str(tmp_path), "--engine", "ray"]) == 2
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("ezsr-synth: engine ray: no cluster can be reached at 127.")
    assert "ray start --head" in said


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r'engine ray: .*pip install "ezsr\[ray\]"'):
        synthesize("toy:4", tmp_path, CONFIG, run=RunOptions(engine="ray"))
    assert traces(tmp_path) == []


def test_engines_ask_for_no_more_than_they_can_do() -> None:
    """So that a run claims what it is about to make, and leaves the rest to others."""
    asked: list[int] = []

    def tasks() -> Iterator[ShardTask]:
        for index in range(50):
            asked.append(index)
            yield ShardTask(index, ())  # type: ignore[arg-type]

    outcomes = run_local(partial(next, tasks(), None), refuse, 3)
    with closing(outcomes):
        next(outcomes)
        assert len(asked) <= 4


def test_free_workers_ask_again_while_a_straggler_works(tmp_path: Path) -> None:
    """It says nothing for six seconds; what comes up meanwhile is done before it ends."""
    asked: list[float] = []

    def next_task() -> ShardTask | None:
        asked.append(time.monotonic())
        if len(asked) == 1:
            return ShardTask(0, ())  # type: ignore[arg-type]
        return ShardTask(1, ()) if len(asked) == 4 else None  # type: ignore[arg-type]

    outcomes = run_local(next_task, dawdle, 2)
    assert [outcome.index for outcome in outcomes] == [1, 0]


def dawdle(task: ShardTask, on_picture: object) -> ShardRecord:
    if task.index == 0:
        time.sleep(6)
    return ShardRecord("events-000000", 1, 1, 1, 1, (), {}, "", 0, "", {})


def refuse(task: ShardTask, on_picture: object) -> None:
    raise ConfigError("no")
