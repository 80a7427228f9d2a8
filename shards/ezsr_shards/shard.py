"""Shards: tar files of samples, written under their final name only when complete."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ezsr_shards.errors import ShardError
from ezsr_shards.sample import Sample, decode_sample, encode_sample
from ezsr_shards.store import write_atomically

MAX_MEMBER_BYTES = 1 << 30
MAX_SKIPPED_BYTES = 1 << 36
_MEMBER_CHUNK = 1 << 20


@dataclass(frozen=True)
class TarFacts:
    """What a finished tar is: its sha256 (hex) and size in bytes."""

    sha256: str
    size_bytes: int


class _HashingFile:
    """A file that can only be written to, and knows the sha256 of what it was given."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.size


def write_shard(path: Path, samples: Iterable[Sample]) -> TarFacts:
    """Write samples as a plain tar, atomically; the bytes depend on the samples alone."""
    facts: list[TarFacts] = []
    write_atomically(path, lambda file: facts.append(write_samples(file, samples)))
    return facts[0]


def write_samples(file: IO[bytes], samples: Iterable[Sample]) -> TarFacts:
    """Write samples as a plain tar to an open file; the bytes depend on the samples alone."""
    hashing = _HashingFile(file)
    kind = {"format": tarfile.USTAR_FORMAT, "copybufsize": _MEMBER_CHUNK}
    with tarfile.TarFile(fileobj=hashing, mode="w", **kind) as tar:  # type: ignore[arg-type]
        for sample in samples:
            for extension, data in encode_sample(sample).items():
                add_member(tar, f"{sample.key}.{extension}", data)
            forget_members(tar)
    return TarFacts(hashing.sha256.hexdigest(), hashing.size)


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append one file to an open tar, with fixed owner, mode and time 0."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    info.mtime = 0
    tar.addfile(info, io.BytesIO(data))


def forget_members(tar: tarfile.TarFile) -> None:
    """Drop the list of members that an open TarFile keeps, which grows without end."""
    tar.members.clear()  # type: ignore[attr-defined]


class StrictTarInfo(tarfile.TarInfo):
    """A member's header that must be whole.

    By itself tarfile takes a damaged header, and a file that was cut between two members, for
    the end of the tar, and skips a member of absurd size for years.
    """

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> StrictTarInfo:
        """Read the next header; raise ReadError unless it is whole, or the end mark."""
        try:
            info = super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the end mark
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"a header is damaged or missing: {error}") from error
        if info.size > MAX_SKIPPED_BYTES:
            raise tarfile.ReadError(f"{info.name!r} claims {info.size} bytes")
        return info


@contextmanager
def open_tar_stream(file: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """Open a tar for one pass; on leaving, raise ReadError if anything follows its end mark."""
    with tarfile.open(fileobj=file, mode="r|", tarinfo=StrictTarInfo) as tar:
        yield tar
        while rest := tar.fileobj.read(tarfile.RECORDSIZE):
            if any(rest):
                raise tarfile.ReadError("data after the end mark: several tars in one file?")


def read_members(file: IO[bytes]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, extension -> bytes) from a shard's tar, one sample at a time.

    Raises ShardError for anything but plain files with safe names, for members over 1 GiB, for
    a key that comes back later, and for a tar that ends early.
    """
    seen: set[str] = set()
    key, members = "", dict[str, bytes]()
    try:
        with open_tar_stream(file) as tar:
            for info in tar:
                name, dot, extension = info.name.partition(".")
                if not info.isreg() or not dot or "/" in info.name:
                    raise ShardError(f"member {info.name!r}: expected a plain file KEY.EXTENSION")
                if info.size > MAX_MEMBER_BYTES:
                    raise ShardError(f"member {info.name!r}: {info.size} bytes is too large")
                if name != key:
                    if members:
                        yield key, members
                    if name in seen:
                        raise ShardError(f"key {name!r} appears twice")
                    seen.add(name)
                    key, members = name, {}
                if extension in members:
                    raise ShardError(f"member {info.name!r} appears twice")
                content = tar.extractfile(info)
                members[extension] = content.read() if content else b""
                if len(members[extension]) != info.size:
                    raise ShardError(f"member {info.name!r}: the tar ends early")
                forget_members(tar)
    except tarfile.TarError as error:
        raise ShardError(f"not a whole tar ({error})") from error
    if members:
        yield key, members


def read_shard(path: Path) -> Iterator[Sample]:
    """Yield the samples of one shard in order; raise ShardError naming the first fault."""
    with open(path, "rb") as file:
        yield from read_samples(file)


def read_samples(file: IO[bytes]) -> Iterator[Sample]:
    """Yield the samples of an open shard in order; raise ShardError naming the first fault."""
    for key, members in read_members(file):
        yield decode_sample(key, members)
