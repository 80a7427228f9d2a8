"""Pictures in tar shards, local or behind a URL, as webdataset and img2dataset write them."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import fsspec
from braceexpand import braceexpand

from ezsr_shards.errors import InputError
from ezsr_shards.shard import EndWatch, forget_members
from ezsr_synth.decode import EXTENSIONS, MAX_FILE_BYTES, PictureError
from ezsr_synth.records import ImageRecord, key_of, printable, tidy_caption

_TEXT_FIELDS = ("txt", "json", "cls")
_MAX_TEXT_BYTES = 1 << 20


def expand_urls(spec: str) -> list[str]:
    """Expand `a{000..123}.tar::b.tar` to paths and URLs, in order; raise InputError for pipes."""
    urls = [url for part in spec.split("::") for url in braceexpand(part)]
    for url in urls:
        if url.startswith("pipe:"):
            raise InputError(
                f"IMAGES {url[:80]!r}: pipe: would run a program; give a path or a URL instead"
            )
        if not url.split("?")[0].endswith(".tar"):
            raise InputError(f"IMAGES {url!r}: expected a .tar file or URL")
        if "://" not in url and not os.path.isfile(url):
            raise InputError(f"IMAGES {url!r}: no such tar; check the path and its braces")
    if len(set(urls)) != len(urls):
        raise InputError(f"IMAGES {spec!r}: a tar is named twice")
    return urls


def short_names(urls: list[str]) -> list[str]:
    """Return the fewest last parts of each path that still tell all tars apart, without `.tar`."""
    parts = [url.split("?")[0].removesuffix(".tar").split("/") for url in urls]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return urls


@dataclass(frozen=True)
class TarPictures:
    """The pictures of one tar, streamed: never more than one sample is held.

    url      path or URL
    name     short name, unique among the tars of the run
    classes  label (as text) -> words
    """

    url: str
    name: str
    classes: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[ImageRecord]:
        """Yield a record per sample in the tar's order.

        A tar that ends early gives what is whole, and then a record that fails with its reason.
        """
        stem, members = "", dict[str, bytes]()
        with _open(self.url) as raw:
            file = EndWatch(raw)
            try:
                with tarfile.open(fileobj=file, mode="r|") as tar:  # type: ignore[call-overload]
                    for info in tar:
                        forget_members(tar)
                        folder, base = os.path.split(info.name)
                        name, _, extension = base.partition(".")
                        extension = extension.lower()
                        if not info.isreg() or not _is_wanted(extension):
                            continue
                        if os.path.join(folder, name) != stem:
                            yield from self._record(stem, members)
                            stem, members = os.path.join(folder, name), {}
                        members[extension] = _read_member(tar, info, extension)
            except (tarfile.TarError, EOFError) as error:
                yield self._broken(str(error))
                return
            yield from self._record(stem, members)
            if not file.ends_in_zeros:
                yield self._broken("no end mark")

    def _record(self, stem: str, members: Mapping[str, bytes]) -> Iterator[ImageRecord]:
        pictures = [extension for extension in members if f".{extension}" in EXTENSIONS]
        if not pictures:
            return
        facts = _read_json(members)
        text = members.get("txt", b"").decode("utf-8", "replace") or str(facts.get("caption") or "")
        cls = members.get("cls", b"").decode("utf-8", "replace").strip()
        source = f"{self.name}.tar/{printable(stem)}.{pictures[0]}"
        yield ImageRecord(
            key=key_of(source),
            source=source,
            read=lambda: _check_member(members[pictures[0]], cls),
            caption=tidy_caption(text),
            label=int(cls) if cls.isdecimal() else None,
            class_name=self.classes.get(cls),
            url=str(facts["url"]) if "url" in facts else None,
        )

    def _broken(self, detail: str) -> ImageRecord:
        def fail() -> bytes:
            raise PictureError("tar-ends-early", detail)

        return ImageRecord(key=key_of(self.name), source=f"{self.name}.tar", read=fail)


@contextmanager
def _open(url: str) -> Iterator[IO[bytes]]:
    """Open a path or URL; whatever goes wrong while it is open is an InputError that names it."""
    try:
        with open(url, "rb") if "://" not in url else fsspec.open(url, "rb") as file:
            yield file
    except (tarfile.TarError, PictureError, GeneratorExit):
        raise
    except ImportError as error:
        raise InputError(f"IMAGES {url}: {error}; install it to read such URLs") from error
    except Exception as error:  # every store has errors of its own
        said = f"{type(error).__name__}: {error}"
        raise InputError(f"IMAGES {url}: cannot be read ({said})") from error


def _is_wanted(extension: str) -> bool:
    return extension in _TEXT_FIELDS or f".{extension}" in EXTENSIONS


def _read_member(tar: tarfile.TarFile, info: tarfile.TarInfo, extension: str) -> bytes:
    """Return a member's bytes; too large a text is left out, too large a picture marked by b""."""
    limit = _MAX_TEXT_BYTES if extension in _TEXT_FIELDS else MAX_FILE_BYTES
    content = tar.extractfile(info) if info.size <= limit else None
    data = content.read() if content else b""
    if content and len(data) != info.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _read_json(members: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        facts = json.loads(members.get("json", b"{}"))
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _check_member(data: bytes, cls: str) -> bytes:
    if cls and not cls.isdecimal():
        raise PictureError("bad-label", f".cls holds {cls[:40]!r}, not a whole number")
    return data
