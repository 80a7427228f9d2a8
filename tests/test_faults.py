"""Faults of disks, folders and tars: a sentence, the right exit code, nothing wrong kept.

Killed workers and runs: `test_engines.py`, `test_run.py`. Clocks, other runs: `test_claims.py`.
Cut, glued, hostile tars: `test_sources.py`. Broken pictures: `test_hostile.py`.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import set_bytes, smooth_picture, write_picture
from test_claims import traces
from test_sources import jpeg

from ezsr_shards.errors import EzsrError
from ezsr_shards.shardset import read_records
from ezsr_shards.verify import iterate_samples, verify

SMALL = ("--size", "128x96", "--shard-size", "3", "--workers", "2")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for n in range(15):
        write_picture(folder / f"{n:02d}.png", smooth_picture(n, 150, 200))
    return folder


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("whole")
    assert run(pictures, out).returncode == 0
    return set_bytes(out)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a file system of its own, where the system lets tests do so."""
    place = tmp_path / "mounted"
    place.mkdir()

    def mount_there(*options: str) -> Path:
        command = ["mount", *options, str(place)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"tests may not mount here: {done.stderr.strip()}")
        return place

    if shutil.which("mount") is None:
        pytest.skip("no mount here")
    yield mount_there
    subprocess.run(["umount", str(place)], capture_output=True)


def run(
    images: object, out: object, *options: str, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run ezsr-synth; `before` is Python that its process executes first."""
    code = f"{before}\nimport sys; from ezsr_synth.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, str(images), str(out), *SMALL, *options]
    return subprocess.run(command, capture_output=True, text=True)


def sentence(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line that a failed command said, after checking that it failed as it should."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ezsr-synth: ")]
    return line


def assert_nothing_wrong(out: Path) -> None:
    """Every file under a final name is whole: records agree with their tars, to the last byte."""
    for record in read_records(out, "events"):
        assert (out / f"{record.name}.tar").stat().st_size == record.size_bytes
    assert sum(1 for _ in iterate_samples(out)) == sum(
        r.samples for r in read_records(out, "events")
    )


@pytest.mark.faults
@pytest.mark.parametrize("room", ["350k", "150k", "12k"])
def test_a_full_disk(
    room: str, pictures: Path, whole: dict[str, str], mount: Callable[..., Path]
) -> None:
    out = mount("-t", "tmpfs", "-o", f"size={room}", "none")
    said = sentence(run(pictures, out), 1)
    assert "No space left" in said
    assert "run the same command again" in said
    if (out / "config.json").exists():
        assert_nothing_wrong(out)
    assert traces(out) == []
    subprocess.run(["mount", "-o", "remount,size=100m", str(out)], check=True)
    assert run(pictures, out).returncode == 0
    assert set_bytes(out) == whole


def test_files_that_may_not_grow(pictures: Path, whole: dict[str, str], tmp_path: Path) -> None:
    """What a quota does, wherever tests run."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, -1))"
    said = sentence(run(pictures, tmp_path, before=limit), 1)
    assert "File too large" in said
    assert list(tmp_path.glob("*.tar")) == []
    assert traces(tmp_path) == []
    assert run(pictures, tmp_path).returncode == 0
    assert set_bytes(tmp_path) == whole


def test_a_read_only_output(pictures: Path, mount: Callable[..., Path]) -> None:
    """A finished set is left alone, as ever; anything else is refused."""
    out = mount("-t", "tmpfs", "-o", "size=50m", "none")
    assert run(pictures, out).returncode == 0
    before = set_bytes(out)
    subprocess.run(["mount", "-o", "remount,ro", str(out)], check=True)
    done = run(pictures, out)
    assert done.returncode == 0, done.stderr
    assert "nothing to do: every shard was complete" in done.stdout
    assert "another configuration (seed was 0, now 1)" in sentence(
        run(pictures, out, "--seed", "1"), 2
    )
    assert "Read-only file system" in sentence(run(pictures, out, "--overwrite"), 1)
    assert set_bytes(out) == before
    verify(out)
    subprocess.run(["mount", "-o", "remount,rw", str(out)], check=True)
    (out / "index.json").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(out)], check=True)
    assert "not writable; give a folder that you own" in sentence(run(pictures, out), 2)


@pytest.mark.faults
def test_an_output_that_becomes_read_only(pictures: Path, mount: Callable[..., Path]) -> None:
    out = mount("-t", "tmpfs", "-o", "size=50m", "none")
    process = start(pictures, out)
    while not list(out.glob("*.tar")):
        time.sleep(0.01)
        assert process.poll() is None
    remount = ["mount", "-o", "remount,ro", str(out)]
    while subprocess.run(remount, capture_output=True).returncode != 0:  # busy: a file is written
        if process.poll() is not None:
            pytest.skip("the run ended before the file system would become read-only")
    said = finish(process)
    assert "Read-only file system" in sentence(said, 1)
    assert_nothing_wrong(out)


def test_an_output_that_is_removed_under_the_run(
    pictures: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(pictures, out)
    while not list(out.glob("*.tar")):
        time.sleep(0.01)
        assert process.poll() is None
    out.rename(tmp_path / "gone")  # at one moment, so that nothing is made anew meanwhile
    said = sentence(finish(process), 1)
    assert "No such file or directory" in said
    assert not out.exists()
    assert_nothing_wrong(tmp_path / "gone")
    assert run(pictures, tmp_path / "gone").returncode == 0
    assert set_bytes(tmp_path / "gone") == whole


def start(pictures: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ezsr_synth.cli", str(pictures), str(out), *SMALL]
    return subprocess.Popen([*command, "--workers", "1"], stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    said = process.communicate(timeout=60)[1]
    return subprocess.CompletedProcess(process.args, process.returncode, "", said)


def test_tars_with_path_tricks(tmp_path: Path) -> None:
    """Names in a tar are names, not places: nothing is read or written where they point."""
    (tmp_path / "secret.jpg").write_bytes(jpeg(9))
    tricks = ["../../escape.jpg", "/tmp/absolute.jpg", "a/../../b.jpg", "..", "plain.jpg"]
    with tarfile.open(tmp_path / "tricks.tar", "w") as tar:
        for n, name in enumerate(tricks):
            info = tarfile.TarInfo(name)
            info.size = len(jpeg(n))
            tar.addfile(info, io.BytesIO(jpeg(n)))
        for kind, name in ((tarfile.SYMTYPE, "soft.jpg"), (tarfile.LNKTYPE, "hard.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(tmp_path / "secret.jpg")
            tar.addfile(info)
        info = tarfile.TarInfo("device.jpg")
        info.type = tarfile.CHRTYPE
        tar.addfile(info)
    out = tmp_path / "out"
    before = {path.name for path in tmp_path.iterdir()}
    done = run(tmp_path / "tricks.tar", out, "--max-failures", "1")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == before | {"out"}
    verify(out)
    samples = list(iterate_samples(out))
    assert len(samples) == 4
    assert all("/" not in sample.key and ".." not in sample.key for sample in samples)
    (record,) = read_records(out, "events")
    assert {failure.reason for failure in record.failures} == {"not-a-file"}
    assert len(record.failures) == 3


@pytest.mark.parametrize("content", [b"", b"\0" * 10_240])
def test_tars_with_nothing_in_them(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "empty.tar").write_bytes(content)
    said = sentence(run(tmp_path / "empty.tar", tmp_path / "out"), 1)
    assert "gave a sample" in said
    assert not (tmp_path / "out" / "index.json").exists()
    with pytest.raises(EzsrError):
        verify(tmp_path / "out")


def test_a_list_of_a_million_pictures_is_planned_in_bounded_memory(tmp_path: Path) -> None:
    count = 1_000_000
    listed = tmp_path / "list.txt"
    with open(listed, "w") as file:
        file.writelines(f"n{n % 1000:08d}/n{n % 1000:08d}_{n}.JPEG\n" for n in range(count))
    code = (
        "import resource, sys; from ezsr_synth.sources import SourceOptions, list_pictures; "
        "own = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = own(); "
        "listing = list_pictures(sys.argv[1], SourceOptions()); "
        "assert len(list(listing.tasks())) == listing.shards; "
        "print(listing.pictures, listing.shards, own() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(listed)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pictures, shards, grown_kb = map(int, done.stdout.split())
    assert (pictures, shards) == (count, 1000)
    assert grown_kb * 1024 / count < 500


@pytest.mark.faults
def test_a_dry_run_of_a_million_pictures_tries_a_few(tmp_path: Path) -> None:
    """Names that lead to files, so that something can be tried."""
    for n in range(10):
        write_picture(tmp_path / f"{n}.png", smooth_picture(n))
    names = [os.path.join("." + "/." * (n // 10 % 100), f"{n % 10}.png") for n in range(1000)]
    listed = tmp_path / "list.txt"
    with open(listed, "w") as file:
        for extra in range(1000):
            file.writelines(f"{'/' * extra}{tmp_path}/{name}\n" for name in names)
    done = run(listed, tmp_path / "out", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "samples from 1000000 pictures" in done.stdout
    assert not (tmp_path / "out").exists()
