"""RemoteStore: a shard set anywhere that fsspec reaches, such as s3://, gs://, hf:// or https://."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any

from ezsr_shards.connect import check_url, connect, open_url
from ezsr_shards.errors import OutputError, StoreError
from ezsr_shards.patience import is_condition, persist
from ezsr_shards.store import Store, Write, part_name, write_bytes
from ezsr_shards.urls import conceal, protocol_of, show_url

_READS_AT_ONCE = 16
_WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "hf"}
"""Stores where a file appears under its name when all of it has arrived, and not before."""
_CONDITIONAL = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}
"""Stores that make a file on condition that it is not there, as one act."""
_READ_ONLY = {"http", "https", "github", "data"}


@dataclass(frozen=True)
class RemoteStore(Store):
    """A folder behind a URL. Files are made on this machine first and then sent.

    Where a file would be seen before it is whole, it is sent under another name and moved.
    """

    address: str = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse what no package here can reach, and passwords that would end up in logs."""
        check_url(self.address)

    @property
    def url(self) -> str:
        """The URL without its secrets."""
        return show_url(self.address)

    @property
    def at_once(self) -> int:
        """How many small files are best read at once: as each takes a way there and back."""
        return _READS_AT_ONCE

    def make(self) -> None:
        """Prove that files can be made here, by making one and deleting it."""
        protocol = protocol_of(self.address)
        if protocol in _READ_ONLY:
            raise OutputError(f"OUT {self.url}: such URLs can only be read; give s3:// or a folder")
        probe = part_name("probe")
        try:
            if protocol not in _WHOLE:
                self._persist("", lambda fs, path: fs.makedirs(path, exist_ok=True))
            self._persist(probe, lambda fs, path: fs.pipe_file(path, b"may be deleted"))
            self.delete(probe)
        except (OSError, StoreError) as error:
            raise OutputError(f"OUT {self.url}: not writable ({_reason(error)})") from None

    def exists(self) -> bool:
        """Tell whether there is any file."""
        return bool(self._persist("", lambda fs, path: fs.exists(path)))

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of every file by name; 0 where a listing does not tell."""
        try:
            found = self._persist("", _list)
        except FileNotFoundError:
            return {}
        files = ((e["name"].rpartition("/")[2], e["size"]) for e in found if e["type"] == "file")
        return {name: size or 0 for name, size in files if name}  # some keep a mark for the folder

    def find(self) -> dict[str, int]:
        """Return the size of every file at any depth, by its path below this folder."""

        def find(fs: Any, path: str) -> dict[str, int]:
            fs.invalidate_cache()
            root = fs._strip_protocol(path).rstrip("/") + "/"
            found = fs.find(path, detail=True).items()
            below = {name.removeprefix(root): told["size"] or 0 for name, told in found}
            return {name: size for name, size in below.items() if name and name[-1] != "/"}

        found: dict[str, int] = self._persist("", find)
        return found

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None where there is no such file."""
        try:
            told = self._persist(name, lambda fs, path: fs.info(path))
        except FileNotFoundError:
            return None
        return int(told["size"] or 0) if told["type"] == "file" else None

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        whole = {"max_concurrency": 1} if protocol_of(self.address) in ("s3", "s3a") else {}
        return bytes(self._persist(name, lambda fs, path: fs.cat_file(path, **whole)))

    def open(self, name: str) -> IO[bytes]:
        """Open a file as a stream that takes up again where a connection broke."""
        return open_url(f"{self.address.rstrip('/')}/{name}")

    def write(self, name: str, write: Write) -> None:
        """Have the file written on this machine, send it, and let it appear when it is whole."""
        with _scratch() as (file, path_here):
            try:
                write(file)
                file.flush()
            except OSError as error:
                why = f"{error.strerror or error}, in {tempfile.gettempdir()}"
                raise OSError(error.errno or errno.EIO, why) from error
            self._persist(name, lambda fs, path: _send(fs, path_here, path))

    def create(self, name: str, data: bytes) -> bool:
        """Make a small file by a conditional request: of all callers the store takes one.

        Stores that know no conditions, such as hf:// and some that are like S3, keep the last of
        callers in the same moment, and may tell an earlier one True, too.
        """
        conditional = protocol_of(self.address) in _CONDITIONAL
        create = _create if conditional else _create_if_missing
        try:
            self._persist(name, lambda fs, path: create(fs, path, data))
        except FileExistsError:
            return self._is_mine(name, data)
        return conditional or self._is_mine(name, data)

    def _is_mine(self, name: str, data: bytes) -> bool:
        """Tell whether a file is the one that was made here: an answer may have been lost."""
        try:
            return self.read(name) == data
        except FileNotFoundError:
            return False

    def append(self, name: str, data: bytes) -> None:
        """Write the file anew with the data at its end; of two callers at once one may be lost."""
        before = b""
        with suppress(FileNotFoundError):
            before = self.read(name)
        self.write(name, write_bytes(before + data))

    def delete(self, name: str) -> None:
        """Delete a file, if there is one."""
        with suppress(FileNotFoundError):
            self._persist(name, lambda fs, path: fs.rm_file(path))

    def _persist(self, name: str, call: Callable[[Any, str], Any]) -> Any:
        """Call with the file system and the path of a file; again where its errors may pass."""
        address = f"{self.address.rstrip('/')}/{name}".rstrip("/")
        return persist(lambda: call(*connect(address)), show_url(address))


def _list(fs: Any, path: str) -> Any:
    fs.invalidate_cache()
    return fs.ls(path, detail=True)


def _create(fs: Any, path: str, data: bytes) -> None:
    """Make a file on condition that it is not there (S3: If-None-Match)."""
    try:
        fs.pipe_file(path, data, mode="create")
    except Exception as error:
        if is_condition(error):
            raise FileExistsError(path) from None
        raise


def _create_if_missing(fs: Any, path: str, data: bytes) -> None:
    """Look first, then make a file; who comes between is not seen."""
    if fs.exists(path):
        raise FileExistsError(path)
    fs.pipe_file(path, data)


def _send(fs: Any, path_here: str, path: str) -> None:
    """Send a file of this machine; nobody sees it before all of it is there."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if "s3" in protocols:
        fs.put_file(path_here, path, chunksize=fs.default_block_size)
        return
    if protocols & _WHOLE:
        fs.put_file(path_here, path)
        return
    folder, _, name = path.rpartition("/")
    part = f"{folder}/{part_name(name)}"
    try:
        fs.put_file(path_here, part)
        try:
            fs.mv(part, path)
        except FileExistsError:
            fs.rm_file(path)
            fs.mv(part, path)
    except BaseException:
        with suppress(Exception):
            fs.rm_file(part)
        raise


@contextmanager
def _scratch() -> Iterator[tuple[IO[bytes], str]]:
    """Open a file of this machine that is gone when its process is, and its path until then."""
    if os.path.isdir("/dev/fd"):
        with tempfile.TemporaryFile(prefix="ezsr-") as file:
            yield file, f"/dev/fd/{file.fileno()}"
        return
    folder = tempfile.mkdtemp(prefix="ezsr-")
    try:
        with open(os.path.join(folder, "scratch"), "wb") as file:
            yield file, file.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _reason(error: Exception) -> str:
    """Return why, without the URL, which the sentence around it has."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return conceal(str(error))
