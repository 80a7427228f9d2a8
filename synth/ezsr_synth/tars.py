"""Pictures in tar shards, local or behind a URL, as webdataset and img2dataset write them."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import IO, Any

import fsspec
from braceexpand import braceexpand

from ezsr_shards.errors import InputError
from ezsr_shards.keys import key_of, printable
from ezsr_shards.shard import forget_members, open_tar_stream
from ezsr_synth.decode import EXTENSIONS, MAX_FILE_BYTES, PictureError
from ezsr_synth.records import ImageRecord, tidy_caption

_TEXT_FIELDS = ("txt", "json", "cls")
_MAX_TEXT_BYTES = 1 << 20
_LABEL_DIGITS = 6
_MOST_TARS = 1_000_000


def expand_urls(spec: str) -> list[str]:
    """Expand `a{000..123}.tar::b.tar` to paths and URLs, in order; raise InputError for pipes."""
    try:
        expanded = chain.from_iterable(braceexpand(part) for part in spec.split("::"))
        urls = list(islice(expanded, _MOST_TARS + 1))
    except ValueError as error:
        raise InputError(f"IMAGES {spec[:80]!r}: unbalanced braces ({error})") from error
    if len(urls) > _MOST_TARS:
        raise InputError(f"IMAGES {spec[:80]!r}: names over {_MOST_TARS} tars; check its braces")
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
    """Return FOLDER/NAME of each tar, its part in the keys; raise InputError if two are equal."""
    names: dict[str, str] = {}
    for url in urls:
        path = url.split("?")[0] if "://" in url else os.path.abspath(url)
        name = "/".join(path.removesuffix(".tar").split("/")[-2:])
        if name in names:
            raise InputError(
                f"IMAGES: {names[name]!r} and {url!r} would give the same keys; rename a folder, "
                f"or make two shard sets"
            )
        names[name] = url
    return list(names)


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

        What is no usable picture, or comes twice, gives a record that fails with its reason; so
        does the end of a tar that is not whole, after the pictures before.
        """
        seen: set[str] = set()
        stem, members = "", dict[str, bytes]()
        with _open(self.url) as file:
            try:
                with open_tar_stream(file) as tar:
                    for info in tar:
                        forget_members(tar)
                        folder, base = os.path.split(info.name)
                        name, _, extension = base.partition(".")
                        extension = extension.lower()
                        reason = _why_unusable(info, extension)
                        if reason:
                            yield self._broken(info.name, reason)
                        if reason or not _is_wanted(extension):
                            continue
                        if os.path.join(folder, name) != stem:
                            yield from self._record(stem, members)
                            stem, members = os.path.join(folder, name), {}
                            if stem in seen:
                                yield self._broken(info.name, "duplicate-key")
                            seen.add(stem)
                        if extension in members:
                            yield self._broken(info.name, "duplicate-key")
                            continue
                        members[extension] = _read_member(tar, info, extension)
                    yield from self._record(stem, members)
            except (tarfile.TarError, EOFError) as error:
                yield self._broken("", "tar-not-whole", str(error))

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
            label=int(cls) if _is_label(cls) else None,
            class_name=self.classes.get(cls),
            url=tidy_caption(str(facts["url"])) if "url" in facts else None,
        )

    def _broken(self, member: str, reason: str, detail: str = "") -> ImageRecord:
        def fail() -> bytes:
            raise PictureError(reason, detail)

        source = f"{self.name}.tar/{printable(member)}".rstrip("/")
        return ImageRecord(key=key_of(source), source=source, read=fail)


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


def _why_unusable(info: tarfile.TarInfo, extension: str) -> str | None:
    """Return the reason why a member that looks like a picture cannot be one, or None."""
    last = "." + extension.rpartition(".")[2]
    if last not in EXTENSIONS:
        return None
    if not info.isreg():
        return "not-a-file"
    return "dotted-name" if f".{extension}" != last else None


def _read_json(members: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        facts = json.loads(members.get("json", b"{}"))
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _is_label(cls: str) -> bool:
    return cls.isdecimal() and len(cls) <= _LABEL_DIGITS


def _check_member(data: bytes, cls: str) -> bytes:
    if cls and not _is_label(cls):
        raise PictureError("bad-label", f".cls holds {cls[:40]!r}, not a whole number under 10^6")
    return data
