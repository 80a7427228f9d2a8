"""Stores: a shard set is the same wherever it lies, whatever the network does."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from conftest import smooth_picture, write_picture
from fault_proxy import FaultProxy, Kind, Request, run_proxy, wait_until
from test_sources import QuietHandler, img2dataset_members, write_tar

from ezsr_shards import cli as shards_cli
from ezsr_shards import connect, patience
from ezsr_shards.errors import ConfigError, InputError, OutputError, StoreError
from ezsr_shards.making import RunOptions
from ezsr_shards.patience import Patience, may_pass, persist
from ezsr_shards.remote import RemoteStore
from ezsr_shards.store import LocalStore, Store, open_store
from ezsr_shards.urls import conceal, show_url
from ezsr_synth import cli as synth_cli
from ezsr_synth.config import SensorSize, SynthConfig
from ezsr_synth.records import ImageRecord
from ezsr_synth.run import synthesize
from ezsr_synth.sources import SourceOptions, list_pictures
from ezsr_synth.tars import show_images

ACCESS_KEY, SECRET, SESSION = "AKIADUMMYDUMMY", "dummy/Secret+of+the+tests", "dummy-session-token"
BUCKET = "events"
PART_BYTES = 5 << 20  # the least that S3 takes
OPTIONS = ["--size", "48x32", "--max-events", "3000", "--shard-size", "3", "--workers", "2"]
SOURCE = SourceOptions(shard_size=3)

_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def s3_port() -> Iterator[int]:
    """The port of an S3 server, a process of its own, that ends with the tests."""
    pytest.importorskip("s3fs", reason="object stores need pip install 'ezsr[s3]'")
    pytest.importorskip("moto", reason="a server for tests needs pip install 'moto[server]'")
    command = [sys.executable, "-c", _SERVER]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.stdin.close()


@pytest.fixture(scope="module")
def proxy_of_module(s3_port: int) -> Iterator[FaultProxy]:
    with run_proxy(s3_port) as proxy:
        yield proxy


@pytest.fixture
def proxy(proxy_of_module: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy before an S3 server with an empty bucket; s3:// means this server."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy_of_module.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SESSION)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setattr(patience, "PATIENCE", Patience(4, 0.01, 0.05))
    monkeypatch.setattr(connect, "_REQUEST_TRIES", 2)  # whose pauses are up to a second
    forget_connections()
    proxy_of_module.clear()
    file_system = behind(proxy_of_module)
    if not file_system.exists(BUCKET):
        file_system.mkdir(BUCKET)
    for path in file_system.find(BUCKET):
        file_system.rm_file(path)
    yield proxy_of_module
    proxy_of_module.clear()
    forget_connections()


def forget_connections() -> None:
    """Connect anew, with what the environment now says."""
    import fsspec

    fsspec.get_filesystem_class("s3").clear_instance_cache()


def behind(proxy: FaultProxy) -> Any:
    """The file system of the S3 server itself, past the proxy."""
    import fsspec

    url = f"http://127.0.0.1:{proxy.port}"
    return fsspec.filesystem("s3", endpoint_url=url, use_listings_cache=False)


def objects(proxy: FaultProxy, prefix: str = "") -> dict[str, bytes]:
    """Every object of the bucket under a prefix, with its bytes."""
    file_system = behind(proxy)
    found = file_system.find(f"{BUCKET}/{prefix}".rstrip("/"))
    return {path.removeprefix(f"{BUCKET}/"): file_system.cat_file(path) for path in found}


def hashes(files: dict[str, bytes]) -> dict[str, str]:
    """The sha256 of every file of a set by its name, but for the log of the runs."""
    return {
        path.rpartition("/")[2]: hashlib.sha256(data).hexdigest()
        for path, data in files.items()
        if path.endswith((".tar", ".json"))
    }


def local_hashes(out: Path) -> dict[str, str]:
    return hashes({path.name: path.read_bytes() for path in out.iterdir()})


def first(count: int, kind: Kind, *methods: str) -> Callable[[Request], Kind | None]:
    """Let a fault befall the first requests of some methods, or of all."""
    left = [count]

    def choose(request: Request) -> Kind | None:
        if left[0] == 0 or (methods and request.method not in methods):
            return None
        left[0] -= 1
        return kind

    return choose


def put(data: bytes) -> Callable[[IO[bytes]], None]:
    def write(file: IO[bytes]) -> None:
        for start in range(0, len(data), 1000):
            file.write(data[start : start + 1000])

    return write


# What every store does


class PlainFiles:
    """fsspec's local files under another name: a store where a file is seen while it grows."""

    @staticmethod
    def register() -> None:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        class Plain(LocalFileSystem):
            protocol = "plain"
            seen: tuple[str, ...] = ()

            def put_file(self, here: str, there: str, **options: Any) -> None:
                super().put_file(here, there, **options)
                Plain.seen = tuple(os.listdir(os.path.dirname(there)))

        fsspec.register_implementation("plain", Plain, clobber=True)


@pytest.fixture(params=["folder", "memory", "plain", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        request.getfixturevalue("proxy")
        return open_store(f"s3://{BUCKET}/deep/out")
    if request.param == "plain":
        PlainFiles.register()
        return open_store(f"plain://{tmp_path}/deep/out")
    if request.param == "memory":
        return open_store(f"memory://{tmp_path.name}/deep/out")
    return open_store(tmp_path / "deep" / "out")


def test_a_store_keeps_what_it_is_given(store: Store) -> None:
    assert not store.exists()
    store.make()
    assert store.sizes() == {}
    store.write("a.tar", put(b"x" * 2500))
    store.write("a.json", put(b"old"))
    store.write("a.json", put(b"{}"))
    assert store.sizes() == {"a.tar": 2500, "a.json": 2}
    assert sorted(store.names()) == ["a.json", "a.tar"]
    assert (store.size("a.tar"), store.size("b.tar")) == (2500, None)
    assert store.read("a.json") == b"{}"
    with store.open("a.tar") as file:
        assert file.read(5) + file.read() == b"x" * 2500
    store.append("log", b"one\n")
    store.append("log", b"two\n")
    assert store.read("log") == b"one\ntwo\n"
    store.delete("log")
    store.delete("log")
    assert store.size("log") is None
    assert store.exists()
    for look in (store.read, store.open):
        with pytest.raises(FileNotFoundError):
            look("log")
    assert pickle.loads(pickle.dumps(store)).sizes() == store.sizes()


def test_of_many_callers_one_creates(store: Store) -> None:
    store.make()
    with ThreadPoolExecutor(12) as pool:
        told = list(pool.map(lambda n: store.create("claim", f"caller {n}".encode()), range(12)))
    if store.url.startswith(("plain", "memory")):  # which know no conditions
        assert sum(told) >= 1
    else:
        assert sum(told) == 1
        assert store.read("claim") == f"caller {told.index(True)}".encode()
    assert store.names() == ["claim"]
    store.delete("claim")
    assert store.create("claim", b"next")


def test_a_writer_that_fails_leaves_nothing(store: Store) -> None:
    store.make()

    def write(file: IO[bytes]) -> None:
        file.write(b"x" * 100_000)
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        store.write("a.tar", write)
    assert store.names() == []


def test_where_files_are_seen_growing_they_grow_under_another_name(tmp_path: Path) -> None:
    PlainFiles.register()
    import fsspec

    store = open_store(f"plain://{tmp_path}")
    store.write("a.tar", put(b"x" * 1000))
    (seen,) = fsspec.get_filesystem_class("plain").seen
    assert re.fullmatch(r"\.a\.tar\.\d+-[0-9a-f]+\.part", seen)
    assert store.names() == ["a.tar"]


def test_file_urls_are_folders(tmp_path: Path) -> None:
    assert open_store((tmp_path / "a b").as_uri()) == LocalStore(tmp_path / "a b")


# Faults on the way


def test_busy_stores_are_asked_again(proxy: FaultProxy) -> None:
    store = open_store(f"s3://{BUCKET}/out")
    proxy.fault = first(3, "busy")
    store.write("a.tar", put(b"x" * 10_000))
    assert proxy.count("PUT", "busy") == 3
    for look in (lambda: store.read("a.tar"), lambda: store.open("a.tar").read()):
        proxy.fault = first(2, "busy", "GET")
        assert look() == b"x" * 10_000
    proxy.fault = first(2, "busy")
    assert store.sizes() == {"a.tar": 10_000}


def test_connections_cut_in_mid_body_are_taken_up_again(proxy: FaultProxy) -> None:
    store = open_store(f"s3://{BUCKET}/out")
    data = np.random.default_rng(0).bytes(3 << 20)
    store.write("a.tar", put(data))
    proxy.fault = first(2, "cut", "GET")
    with store.open("a.tar") as file:
        assert file.read() == data
    proxy.fault = first(2, "cut", "GET")
    assert store.read("a.tar") == data
    assert proxy.count("GET", "cut") == 4


def test_a_stream_goes_on_where_it_was(s3_port: int, proxy: FaultProxy, tmp_path: Path) -> None:
    """Over http, with servers that know ranges and ones that do not."""
    data = np.random.default_rng(1).bytes(12 << 20)
    open_store(f"s3://{BUCKET}/out").write("a.tar", put(data))
    cuts = [2]

    def cut(request: Request) -> Kind | None:
        cuts[0] -= request.method == "GET"
        return "cut" if request.method == "GET" and cuts[0] >= 0 else None

    proxy.fault = cut
    file_system, path = connect.connect(f"s3://{BUCKET}/out/a.tar")
    signed = file_system.sign(path)
    with connect.open_url(signed) as file:
        assert file.read() == data
    assert proxy.count("GET", "cut") == 2
    with pytest.raises(PermissionError, match="403"):
        connect.open_url(signed.partition("?")[0])
    (tmp_path / "a.tar").write_bytes(data)
    with serve_files(tmp_path) as port, run_proxy(port) as other:
        other.fault = lambda request: {1: "busy", 3: "busy", 5: "cut"}.get(request.number)  # type: ignore[return-value]
        with connect.open_url(f"{other.url}/a.tar") as file:
            assert file.read() == data
        assert [kind for _, kind in other.seen if kind] == ["busy", "busy", "cut"]


@contextmanager
def serve_files(folder: Path) -> Iterator[int]:
    """Serve a folder by Python's own server, which knows no ranges."""
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_file_that_changes_while_it_is_read_is_no_mixture(proxy: FaultProxy) -> None:
    store = open_store(f"s3://{BUCKET}/out")
    store.write("a.tar", put(b"x" * (40 << 20)))
    with store.open("a.tar") as file:
        assert file.read(1000) == b"x" * 1000
        behind(proxy).pipe_file(f"{BUCKET}/out/a.tar", b"y" * (40 << 20))
        with pytest.raises(OSError, match="it was changed while it was read"):
            file.read()


def test_slow_reads_time_out_and_are_repeated(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_READ_S", 0.5)
    forget_connections()
    store = open_store(f"s3://{BUCKET}/out")
    data = np.random.default_rng(2).bytes(1 << 20)
    store.write("a.tar", put(data))
    proxy.fault = first(1, "slow", "GET")
    assert store.open("a.tar").read() == data
    assert proxy.count("GET", "slow") == 1


def test_a_lost_answer_does_not_lose_a_claim(proxy: FaultProxy) -> None:
    store = open_store(f"s3://{BUCKET}/out")
    proxy.fault = first(1, "lost", "PUT")
    assert store.create("claim", b"mine")
    assert proxy.count("PUT") >= 1
    assert not store.create("claim", b"another's")


def test_a_store_that_stays_away_ends_in_a_sentence(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_REQUEST_TRIES", 1)
    forget_connections()
    proxy.fault = first(1000, "busy")
    store = open_store(f"s3://{BUCKET}/out")
    with pytest.raises(StoreError, match=r"s3://events/out/a\.tar: not reached in 4 .*503"):
        store.write("a.tar", put(b"x"))
    assert len(proxy.seen) == 4
    with pytest.raises(OutputError, match="not writable"):
        store.make()


def test_a_server_that_is_not_there_is_named(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    forget_connections()
    with pytest.raises(OutputError, match=r"not writable \(.*not reached in 4 tries") as caught:
        open_store(f"s3://{BUCKET}/out").make()
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def find(protocol: str) -> type:
        raise ImportError(f"install something for {protocol}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", find)
    for protocol, package in (("s3", "'ezsr[s3]'"), ("gs", "'ezsr[gcs]'"), ("hf", "'ezsr[hf]'")):
        with pytest.raises(ConfigError, match=re.escape(f"pip install {package}")):
            open_store(f"{protocol}://events/out")


def test_what_no_repetition_mends_is_said_at_once(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.fault = first(1000, "denied")
    with pytest.raises(OutputError, match=r"OUT s3://events/out: not writable \(access denied"):
        open_store(f"s3://{BUCKET}/out").make()
    assert len(proxy.seen) == 1
    for command in ("info", "verify", "view"):
        assert shards_cli.main([command, f"s3://{BUCKET}/out"]) == 2
        assert "access denied" in capsys.readouterr().err
    proxy.clear()
    for command in ("info", "verify", "view"):
        assert shards_cli.main([command, "s3://no-such-bucket/out"]) == 2
        assert "no such bucket" in capsys.readouterr().err
        assert shards_cli.main([command, f"s3://{BUCKET}/nothing"]) == 2
        assert "no such folder" in capsys.readouterr().err
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    forget_connections()
    proxy.clear()
    with pytest.raises(OutputError, match="no credentials; set them in the environment"):
        open_store(f"s3://{BUCKET}/out").make()
    assert not proxy.seen


def test_pauses_grow_and_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", pauses.append)
    for _ in range(300):
        with pytest.raises(StoreError):
            persist(lambda: (_ for _ in ()).throw(TimeoutError()), "s3://x", Patience(5, 1.0, 3.0))
    for n, bound in enumerate((1.0, 2.0, 3.0, 3.0)):
        drawn = pauses[n::4]
        assert 0 <= min(drawn) < 0.1 * bound
        assert 0.9 * bound < max(drawn) <= bound


def test_errors_of_this_machine_do_not_pass() -> None:
    for error in (OSError(28, "No space left"), PermissionError(13, "no"), ValueError("x")):
        assert not may_pass(error)
    for error in (TimeoutError(), ConnectionResetError(), OSError(16, "slow down")):
        assert may_pass(error)


# Shard sets in an object store


def synth(images: str, out: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Run ezsr-synth as users do, in a process of its own."""
    command = [sys.executable, "-m", "ezsr_synth.cli", images, out, *OPTIONS, *more]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def made_here(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pictures in class folders with a caption, and the set that a local run makes of them."""
    folder = tmp_path_factory.mktemp("here")
    for n in range(12):
        path = folder / "pictures" / f"class_{'abc'[n % 3]}" / f"image {n:02d}.jpg"
        write_picture(path, smooth_picture(n))
    (folder / "pictures" / "class_a" / "image 00.txt").write_text("a caption")
    config = SynthConfig(size=SensorSize(48, 32), max_events=3000)
    synthesize(str(folder / "pictures"), folder / "out", config, SOURCE, RunOptions(2))
    return folder / "pictures", folder / "out"


def test_a_set_in_an_object_store_is_that_of_a_folder(
    made_here: tuple[Path, Path],
    proxy: FaultProxy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Made with faults on the way, looked at before every upload, then used in every way."""
    pictures, here = made_here
    out = f"s3://{BUCKET}/sets/out"
    shown: list[dict[str, bytes]] = []

    def look(request: Request) -> None:
        if request.method == "PUT":
            shown.append(objects(proxy, "sets/out"))

    proxy.watch = look
    proxy.fault = lambda request: "busy" if request.number % 9 == 4 else None
    done = synth(str(pictures), out)
    assert done.returncode == 0, done.stderr
    assert any(kind == "busy" for _, kind in proxy.seen)
    proxy.clear()
    made = objects(proxy, "sets/out")
    assert hashes(made) == local_hashes(here)
    check_listings([hashes(files) for files in shown], hashes(made))

    config = SynthConfig(size=SensorSize(48, 32), max_events=3000)
    assert synthesize(str(pictures), out, config, SOURCE).made == 0
    with pytest.raises(OutputError, match=r"OUT s3://events/sets/out: .*seed was 0, now 9"):
        synthesize(str(pictures), out, SynthConfig(config.size, max_events=3000, seed=9), SOURCE)
    assert hashes(objects(proxy, "sets/out")) == hashes(made)
    said = []
    drawn = ["view", "--to", str(tmp_path / "sheet.png")]
    told = ["report", "--to", str(tmp_path / "report.html")]
    for place in (out, str(here)):
        for command in (["info"], ["verify"], drawn, told):
            assert shards_cli.main([command[0], place, *command[1:]]) == 0
            said.append(capsys.readouterr().out.replace(place, "PLACE"))
    assert said[:4] == said[4:]
    assert "12 samples" in said[1]
    stored = [data.decode("latin1") for data in objects(proxy).values()]
    page = (tmp_path / "report.html").read_text()
    for text in (*said, page, done.stdout, done.stderr, *stored):
        assert not any(secret in text for secret in (ACCESS_KEY, SECRET, SESSION))


def check_listings(listings: list[dict[str, str]], whole: dict[str, str]) -> None:
    """A listing shows finished files alone: a record has its tar, the index all of both."""
    assert len(listings) > 8
    for files in listings:
        listed = {name: sha256 for name, sha256 in files.items() if name[0] != "."}
        assert listed.items() <= whole.items()
        for name in listed:
            if re.fullmatch(r"events-\d+\.json", name):
                assert name.replace(".json", ".tar") in listed
        if "index.json" in listed:
            assert len(listed) == len(whole)


def test_a_changed_byte_in_the_store_is_found(
    made_here: tuple[Path, Path], proxy: FaultProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    upload(proxy, made_here[1], "out")
    store = open_store(f"s3://{BUCKET}/out")
    data = bytearray(store.read("events-000002.tar"))
    data[len(data) // 2] ^= 1
    store.write("events-000002.tar", put(bytes(data)))
    assert shards_cli.main(["verify", f"s3://{BUCKET}/out"]) == 1
    assert "events-000002.tar: its sha256 is not the recorded one" in capsys.readouterr().err
    reads = [0]

    def fail_from_the_second(request: Request) -> Kind | None:
        reads[0] += request.method == "GET" and "000000.tar" in request.path
        return "busy" if reads[0] > 1 else None

    proxy.fault = fail_from_the_second
    assert shards_cli.main(["verify", f"s3://{BUCKET}/out"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"ezsr-shards: s3://{BUCKET}/out/events-000000.tar: not reached in")


def upload(proxy: FaultProxy, folder: Path, prefix: str) -> None:
    file_system = behind(proxy)
    for path in folder.rglob("*"):
        if path.is_file():
            there = f"{BUCKET}/{prefix}/{path.relative_to(folder).as_posix()}"
            file_system.pipe_file(there, path.read_bytes())


def test_training_reads_from_the_store(
    made_here: tuple[Path, Path], proxy: FaultProxy, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="training needs pip install 'ezsr[train]'")
    from ezsr_shards.errors import ShardError
    from ezsr_train.shard_files import open_shard_set

    upload(proxy, made_here[1], "out")
    near = open_shard_set(made_here[1])
    proxy.fault = lambda request: "cut" if request.number in (2, 9) else None
    far = open_shard_set(f"s3://{BUCKET}/out", str(tmp_path))
    assert far.identity == near.identity
    for n in (0, 5, 11):
        there, here = far.read(n, True), near.read(n, True)
        assert (there.key, there.jpeg) == (here.key, here.jpeg)
    assert any(kind == "cut" for _, kind in proxy.seen)
    open_store(f"s3://{BUCKET}/out").delete("events-000002.tar")
    with pytest.raises(ShardError, match="no such file"):
        far.shards[2].locate()


def test_a_large_shard_goes_up_in_parts_and_is_seen_when_whole(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_PART_BYTES", PART_BYTES)
    forget_connections()
    store = open_store(f"s3://{BUCKET}/out")
    data = np.random.default_rng(3).bytes(4 * PART_BYTES + 12345)
    listings: list[tuple[str, list[str]]] = []

    def look(request: Request) -> None:
        listings.append((f"{request.method} {request.path}", behind(proxy).ls(f"{BUCKET}/")))

    proxy.watch = look
    proxy.fault = lambda request: (
        "busy" if "partNumber=2" in request.path and proxy.count("PUT", "busy") < 2 else None
    )
    store.write("a.tar", put(data))
    proxy.clear()
    parts = [re.search(r"partNumber=(\d+)", name) for name, _ in listings]
    assert {part[1] for part in parts if part} == {"1", "2", "3", "4", "5"}
    assert listings[-1][0].startswith("POST")
    assert not any(names for _, names in listings)
    assert store.names() == ["a.tar"]
    with store.open("a.tar") as file:
        assert hashlib.sha256(file.read()).digest() == hashlib.sha256(data).digest()


def killed_at(proxy: FaultProxy, uploads: int, images: Path) -> None:
    """Run ezsr-synth and kill all of it when so many shards are on their way."""
    command = [sys.executable, "-m", "ezsr_synth.cli", str(images), f"s3://{BUCKET}/out", *OPTIONS]
    hold = threading.Event()

    def wait(request: Request) -> None:
        if request.method == "PUT" and request.path.split("?")[0].endswith(".tar"):
            started.append(request)
            if len(started) >= uploads:
                hold.wait(60)
                raise ConnectionAbortedError("the sender was killed in the middle")

    started: list[Request] = []
    proxy.watch = wait
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: len(started) >= uploads or process.poll() is not None)
        os.killpg(process.pid, signal.SIGKILL)
    names = {request.path.rpartition("/")[2] for request in started[uploads - 1 :]}
    assert not names & {path.rpartition("/")[2] for path in objects(proxy, "out")}
    hold.set()
    proxy.clear()


def test_a_run_killed_in_an_upload_goes_on(made_here: tuple[Path, Path], proxy: FaultProxy) -> None:
    pictures, here = made_here
    killed_at(proxy, 2, pictures)
    done = synth(str(pictures), f"s3://{BUCKET}/out")
    assert done.returncode == 0, done.stderr
    assert hashes(objects(proxy, "out")) == local_hashes(here)


def test_a_set_behind_http_can_be_looked_at(
    made_here: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve_files(made_here[1].parent) as port:
        place = f"http://127.0.0.1:{port}/out"
        for command in (["info"], ["verify"], ["view", "--to", str(tmp_path / "sheet.png")]):
            assert shards_cli.main([command[0], place, *command[1:]]) == 0
        assert "12 samples" in capsys.readouterr().out
        assert shards_cli.main(["verify", f"http://127.0.0.1:{port}/nothing"]) == 2
        assert "/nothing: no such folder" in capsys.readouterr().err
        with pytest.raises(OutputError, match="can only be read"):
            open_store(place).make()
        assert shards_cli.main(["verify", place, "--repair"]) == 2
        assert "such URLs can only be read" in capsys.readouterr().err
    with pytest.raises(StoreError, match=r"not reached in \d tries \(.*[Cc]onnect") as caught:
        open_store(place).read("config.json")
    assert "no such file" not in str(caught.value)


@pytest.mark.faults
def test_killed_again_and_again_gives_the_same_bytes(
    made_here: tuple[Path, Path], proxy: FaultProxy
) -> None:
    pictures, here = made_here
    for uploads in (1, 1, 2, 1, 1):
        if len([name for name in objects(proxy, "out") if name.endswith(".tar")]) >= 3:
            open_store(f"s3://{BUCKET}/out").delete("events-000000.tar")
        killed_at(proxy, uploads, pictures)
    rng = random.Random(1)
    kinds: list[Kind] = ["busy", "cut", "lost"]
    proxy.fault = lambda request: rng.choice(kinds) if rng.random() < 0.25 else None
    done = synth(str(pictures), f"s3://{BUCKET}/out")
    assert done.returncode == 0, done.stderr
    proxy.clear()
    assert hashes(objects(proxy, "out")) == local_hashes(here)


# Pictures from an object store


def read_all(
    images: str, options: SourceOptions = SOURCE, out: str | None = None
) -> list[tuple[Any, ...]]:
    listing = list_pictures(images, options, out)
    return [
        (one.key, one.source, one.caption, one.label, one.class_name, content(one))
        for task in listing.tasks()
        for one in task.pictures
    ]


def content(record: ImageRecord) -> bytes:
    data = record.read()
    assert isinstance(data, bytes)
    return data


def test_pictures_of_a_store_are_those_of_a_folder(
    made_here: tuple[Path, Path], proxy: FaultProxy, tmp_path: Path
) -> None:
    pictures, _ = made_here
    upload(proxy, pictures, "pictures")
    here = read_all(str(pictures))
    proxy.fault = lambda request: "busy" if request.number % 7 == 3 else None
    assert read_all(f"s3://{BUCKET}/pictures") == here
    assert [one[2] for one in here if one[2]] == ["a caption"]
    assert list_pictures(f"s3://{BUCKET}/pictures/", SOURCE).fingerprint == (
        list_pictures(str(pictures), SOURCE).fingerprint
    )
    assert read_all(f"s3://{BUCKET}", SOURCE, f"s3://{BUCKET}/pictures/class_b/") == [
        one for one in read_all(f"s3://{BUCKET}") if "class_b" not in one[1]
    ]
    with pytest.raises(InputError, match="is also OUT"):
        list_pictures(f"s3://{BUCKET}/pictures", SOURCE, f"s3://{BUCKET}/pictures/")
    (single,) = read_all(f"s3://{BUCKET}/pictures/class_b/image 01.jpg")
    assert single[-1] == (pictures / "class_b" / "image 01.jpg").read_bytes()
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "some.txt").write_text("class_c/image 02.jpg\nclass_a/image 03.jpg\n")
    upload(proxy, tmp_path / "lists", "pictures")
    listed = read_all(f"s3://{BUCKET}/pictures/some.txt")
    assert [one[1] for one in listed] == ["class_c/image 02.jpg", "class_a/image 03.jpg"]
    assert read_all(pictures.as_uri()) == here


def test_tars_of_a_store_survive_the_way(proxy: FaultProxy, tmp_path: Path) -> None:
    (tmp_path / "cc").mkdir()
    for n in range(2):
        write_tar(tmp_path / "cc" / f"{n:05d}.tar", img2dataset_members(3))
    upload(proxy, tmp_path / "cc", "cc")
    here = read_all(str(tmp_path / "cc" / "{00000..00001}.tar"))
    proxy.fault = lambda request: {2: "cut", 4: "busy", 6: "cut"}.get(request.number)  # type: ignore[return-value]
    assert read_all(f"s3://{BUCKET}/cc/{{00000..00001}}.tar") == here
    proxy.clear()
    assert read_all(f"s3://{BUCKET}/cc") == here
    assert read_all((tmp_path / "cc").as_uri() + "/{00000..00001}.tar") == here
    for url, why in (
        (f"s3://{BUCKET}/cc/00009.tar", "no such file"),
        ("s3://no-such-bucket/a.tar", "no such bucket"),
        ("s3://no-such-bucket/folder", "no such bucket"),
        (f"s3://{BUCKET}/empty", "no pictures here"),
        ("teleport://a/b.tar", "not known"),
    ):
        with pytest.raises((ConfigError, InputError), match=why):
            list_pictures(url, SOURCE)


def test_pipes_run_only_if_allowed(tmp_path: Path) -> None:
    (tmp_path / "cc").mkdir()
    write_tar(tmp_path / "cc" / "00000.tar", img2dataset_members(3))
    tar = tmp_path / "cc" / "00000.tar"
    touched = tmp_path / "touched"
    command = f"pipe:touch {touched}; TOKEN={SECRET} cat {tar}"
    with pytest.raises(InputError, match="--allow-pipe") as caught:
        list_pictures(command, SOURCE)
    assert not touched.exists()
    assert SECRET not in str(caught.value)
    allowed = SourceOptions(allow_pipe=True)
    assert read_all(command, allowed) == read_all(str(tar))
    assert touched.exists()
    with pytest.raises(InputError, match=r"pipe:\S*00000\.tar: .*status 3") as caught:
        read_all(f"pipe:cat {tar}; TOKEN={SECRET} exit 3", allowed)
    assert SECRET not in str(caught.value)
    assert synth_cli.main([command, str(tmp_path / "out"), *OPTIONS, "--allow-pipe"]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["images"] == f"pipe:{tar}"


def test_a_pipe_that_is_left_early_ends(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", img2dataset_members(3))
    listing = list_pictures(f"pipe:cat {tmp_path}/a.tar; sleep 600", SourceOptions(allow_pipe=True))
    pictures = iter(listing.pictures_of(0))
    assert next(pictures).caption
    pictures.close()  # type: ignore[attr-defined]


# Secrets


def test_secrets_of_urls_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    signed = "https://u:pw@host/a/b.tar?X-Amz-Signature=abc&X-Amz-Credential=id#part"
    assert show_url(signed) == "https://host/a/b.tar"
    assert conceal(f"GET {signed} failed (see {signed})") == (
        "GET https://host/a/b.tar failed (see https://host/a/b.tar)"
    )
    assert show_url("/a/folder?with=mark") == "/a/folder?with=mark"
    for url, shown in (
        ("http://host/{a,b}.tar?sig=TOPSECRET", "http://host/{a,b}.tar"),
        ("http://host/a.tar?x=1,2;token=TOPSECRET", "http://host/a.tar"),
        ("https://user:p(a)TOPSECRET@host/a.tar", "https://host/a.tar"),
        ("https://user:p'TOPSECRET@host/a.tar", "https://host/a.tar"),
        (
            "http://host/a.tar?sig=TOPSECRET::http://host/b.tar",
            "http://host/a.tar::http://host/b.tar",
        ),
        ("pipe:curl https://user:TOPSECRET@host/a.tar", "pipe:https://host/a.tar"),
    ):
        assert show_images(url) == shown
        assert "TOPSECRET" not in conceal(f"'{url}': not found, ({url})")
    monkeypatch.setenv("SOME_API_TOKEN", "abcdefgh1234")
    assert conceal("refused: abcdefgh1234 is no token") == "refused: *** is no token"


def test_passwords_in_urls_are_refused_or_concealed(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="leave user and password out") as caught:
        RemoteStore(f"s3://{ACCESS_KEY}:pass@{BUCKET}/out")
    assert "pass@" not in str(caught.value)
    (tmp_path / "cc").mkdir()
    write_tar(tmp_path / "cc" / "00000.tar", img2dataset_members(3))
    with serve_files(tmp_path) as port:
        signed = f"http://someone:pass@127.0.0.1:{port}/cc/00000.tar?X-Amz-Signature=0123abcd"
        config = SynthConfig(size=SensorSize(48, 32), max_events=3000)
        synthesize(signed, tmp_path / "out", config, SOURCE, RunOptions(1))
    for path in (tmp_path / "out").iterdir():
        assert not any(secret in path.read_bytes() for secret in (b"pass@", b"0123abcd"))
    with pytest.raises(InputError) as failed:
        list_pictures(signed.replace("00000", "00009"), SOURCE)
    assert "pass" not in str(failed.value)
    assert "0123abcd" not in str(failed.value)


# What the README says


def test_the_readme_does_what_it_says(
    made_here: tuple[Path, Path],
    proxy: FaultProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from test_readme import BLOCKS, pattern

    upload(proxy, made_here[0], "pictures")
    monkeypatch.chdir(tmp_path)
    ((_, text),) = ((kind, text) for kind, text in BLOCKS if kind == "console" and "s3://" in text)
    said = ""
    for line in text.splitlines():
        if not line.startswith("$ "):
            continue
        program, *words = line[2:].split()
        if program == "ezsr-synth":  # whose workers are processes that see this environment
            command = [sys.executable, "-m", "ezsr_synth.cli", *words]
            said += line + "\n" + subprocess.check_output(command, text=True)
        else:
            assert shards_cli.main(words) == 0
            said += line + "\n" + capsys.readouterr().out
    assert pattern(said, tmp_path) == pattern(text, tmp_path)
