"""Store: the place where a shard set lies, a folder here or anywhere that fsspec reaches."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar
from uuid import uuid4

from ezsr_shards.errors import OutputError
from ezsr_shards.urls import is_url, local_path

PART_SUFFIX = ".part"
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What a file system says that has no hard links, such as exFAT and many of FUSE's."""

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")
Write = Callable[[IO[bytes]], None]
"""Writes a file's content to an open file, from first byte to last."""


class Store(ABC):
    """A flat folder of named files; small, picklable, and opened anew in each process.

    Every method raises OSError for what no repetition would mend, as FileNotFoundError where
    there is no such file, and StoreError where the store was not reached in spite of retries.
    """

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it is, as users may see it: without credentials."""

    @abstractmethod
    def make(self) -> None:
        """Make the folder if it is missing; raise OutputError where it cannot be written to."""

    @abstractmethod
    def exists(self) -> bool:
        """Tell whether the folder is there; object stores have one as soon as it holds a file."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of every file in the folder, hidden ones too, by name."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None where there is no such file."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the bytes of a small file."""

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """Open a file to be read once, from its beginning to its end."""

    @abstractmethod
    def write(self, name: str, write: Write) -> None:
        """Make or replace a file; a reader sees the old one or the new one, never a part.

        A killed writer leaves nothing under the name.
        """

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Make a small file with its content, at once; tell whether it was not there before.

        Of any number of callers, on any machines, one is told True; for that, each must come
        with other data, such as its own name and the time.
        """

    @abstractmethod
    def append(self, name: str, data: bytes) -> None:
        """Add to the end of a small file, made if missing."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file, if there is one."""

    def names(self) -> list[str]:
        """Return the names of all files in the folder, hidden ones too."""
        return list(self.sizes())

    @property
    def at_once(self) -> int:
        """How many small files are best read at once."""
        return 1

    def read_each(self, read: Callable[[_Item], _Found], items: Iterable[_Item]) -> list[_Found]:
        """Return what `read` makes of each item, in order, as many at once as is best here."""
        with ThreadPoolExecutor(self.at_once) as pool:
            return list(pool.map(read, items))

    @property
    def nearby(self) -> Path:
        """Folder of this machine for what is drawn or written about the set."""
        return Path()


Place = str | Path | Store
"""Where a shard set lies: a path, a URL, or the store that one of them opens."""


def open_store(place: Place) -> Store:
    """Return the store at a path or URL; nothing is looked up or made yet."""
    if isinstance(place, Store):
        return place
    path = local_path(str(place))
    if is_url(path):
        from ezsr_shards.remote import RemoteStore

        return RemoteStore(path)
    return LocalStore(Path(path))


@dataclass(frozen=True)
class LocalStore(Store):
    """A folder on a file system of this machine."""

    folder: Path

    @property
    def url(self) -> str:
        """The folder's path."""
        return str(self.folder)

    @property
    def nearby(self) -> Path:
        """The folder itself."""
        return self.folder

    def make(self) -> None:
        """Make the folder if it is missing; raise OutputError where it cannot be written to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"OUT {self.folder}: cannot be made ({error.strerror})") from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise OutputError(f"OUT {self.folder}: not writable; give a folder that you own")

    def exists(self) -> bool:
        """Tell whether the folder is there."""
        return self.folder.is_dir()

    def names(self) -> list[str]:
        """Return all names in the folder, without a look at what they name."""
        return os.listdir(self.folder)

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of every file in the folder by name."""
        sizes = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # deleted since the folder was read
                    if entry.is_file():
                        sizes[entry.name] = entry.stat().st_size
        return sizes

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None where there is no such file."""
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        return (self.folder / name).read_bytes()

    def open(self, name: str) -> IO[bytes]:
        """Open a file to be read."""
        return open(self.folder / name, "rb")

    def write(self, name: str, write: Write) -> None:
        """Write under a temporary name, force to disk, and rename."""
        write_atomically(self.folder / name, write)

    def create(self, name: str, data: bytes) -> bool:
        """Make a file whole and at once: a link, which NFS too makes for one caller only."""
        part = self.folder / part_name(name)
        try:
            part.write_bytes(data)
            os.link(part, self.folder / name)
        except FileExistsError:
            return part.stat().st_nlink > 1  # ours: NFS may lose the answer, and ask again
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return self._create_unlinked(name, data)
        finally:
            part.unlink(missing_ok=True)
        return True

    def _create_unlinked(self, name: str, data: bytes) -> bool:
        """Make a file where there are no links; one that is seen half written is nobody's."""
        try:
            with open(self.folder / name, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True

    def append(self, name: str, data: bytes) -> None:
        """Add to the end of a file."""
        with open(self.folder / name, "ab") as file:
            file.write(data)

    def delete(self, name: str) -> None:
        """Delete a file, if there is one."""
        (self.folder / name).unlink(missing_ok=True)


def write_bytes(data: bytes) -> Write:
    """Return what writes a file of these bytes."""

    def write(file: IO[bytes]) -> None:
        file.write(data)

    return write


def part_name(name: str) -> str:
    """Return a temporary name that no other process has, on this machine or another."""
    return f".{name}.{os.getpid()}-{uuid4().hex[:8]}{PART_SUFFIX}"


def write_atomically(path: Path, write: Write) -> None:
    """Call `write` on a temporary file, force it to disk, and rename it to `path`.

    A reader sees the old file or the new one, never a part; a killed writer leaves only a
    `*.part` file behind.
    """
    part = path.with_name(part_name(path.name))
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
