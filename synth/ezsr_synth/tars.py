"""Pictures in tar shards, local or behind a URL, as webdataset and img2dataset write them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import IO, Any

from braceexpand import braceexpand

from ezsr_shards.connect import check_url, open_url
from ezsr_shards.errors import InputError, StoreError
from ezsr_shards.keys import key_of, printable
from ezsr_shards.shard import forget_members, open_tar_stream
from ezsr_shards.urls import is_url, local_path, show_url
from ezsr_synth.decode import EXTENSIONS, MAX_FILE_BYTES, PictureError
from ezsr_synth.records import ImageRecord, tidy_caption

_TEXT_FIELDS = ("txt", "json", "cls")
_MAX_TEXT_BYTES = 1 << 20
_LABEL_DIGITS = 6
_MOST_TARS = 1_000_000
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
_TAR_WORD = re.compile(r"[^\s'\"|<>=]+\.tar\b")


def expand_urls(spec: str, allow_pipe: bool = False) -> list[str]:
    """Expand `a{000..123}.tar::b.tar` to paths, URLs and, if allowed, pipes, in order.

    Raises InputError with a remedy for what cannot be read.
    """
    try:
        ranges = [abs(int(last) - int(first)) for first, last in _RANGE.findall(spec)]
        if max(ranges, default=0) >= _MOST_TARS:  # which would be counted out in memory
            raise _too_many(spec)
        expanded = chain.from_iterable(braceexpand(part) for part in spec.split("::"))
        urls = [local_path(url) for url in islice(expanded, _MOST_TARS + 1)]
    except ValueError as error:
        raise InputError(
            f"IMAGES {show_images(spec)[:80]!r}: unbalanced braces ({error})"
        ) from error
    if len(urls) > _MOST_TARS:
        raise _too_many(spec)
    for url in urls:
        if is_pipe(url):
            _check_pipe(url, allow_pipe)
        elif not url.split("?")[0].endswith(".tar"):
            raise InputError(f"IMAGES {show_url(url)!r}: expected a .tar file or URL")
        elif not is_url(url) and not os.path.isfile(url):
            raise InputError(f"IMAGES {url!r}: no such tar; check the path and its braces")
    if len(set(urls)) != len(urls):
        raise InputError(f"IMAGES {show_images(spec)!r}: a tar is named twice")
    _check_first(urls)
    return urls


def _too_many(spec: str) -> InputError:
    shown = show_images(spec)[:80]
    return InputError(f"IMAGES {shown!r}: names over {_MOST_TARS} tars; check its braces")


def is_pipe(url: str) -> bool:
    """Tell whether a tar is what a program prints."""
    return url.startswith("pipe:")


def show_images(images: str) -> str:
    """Return what the user calls IMAGES without secrets: of a pipe, the tar that it names."""
    return "::".join(_show(part) for part in images.split("::"))


def _show(url: str) -> str:
    if is_pipe(url):
        named = _TAR_WORD.findall(url)
        return f"pipe:{show_url(named[-1])}" if named else "pipe:"
    return show_url(url)


def _check_pipe(url: str, allowed: bool) -> None:
    if not allowed:
        raise InputError(
            f"IMAGES {_show(url)[:80]!r}: pipe: would run a program; give a path or a URL instead, "
            f"or say --allow-pipe if the command is your own"
        )
    if not _TAR_WORD.search(url):
        raise InputError(
            f"IMAGES {_show(url)!r}: the command names no .tar, which the keys of its pictures "
            f"begin with"
        )


def _check_first(urls: list[str]) -> None:
    """Raise InputError where the first tar behind a URL cannot be had, before any work."""
    far = next((url for url in urls if is_url(url) and not is_pipe(url)), None)
    if far is not None:
        with _open(far):
            pass


def short_names(urls: list[str]) -> list[str]:
    """Return FOLDER/NAME of each tar, its part in the keys; raise InputError if two are equal."""
    names: dict[str, str] = {}
    for url in urls:
        path = _show(url) if is_url(url) or is_pipe(url) else os.path.abspath(url)
        name = "/".join(path.removesuffix(".tar").split("/")[-2:])
        if name in names:
            raise InputError(
                f"IMAGES: {_show(names[name])!r} and {_show(url)!r} would give the same keys; "
                f"rename a folder, or make two shard sets"
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
    """Open a path, URL or pipe; what goes wrong while it is open is an InputError that names it."""
    try:
        if is_pipe(url):
            with _run(url.removeprefix("pipe:")) as file:
                yield file
        elif is_url(url):
            check_url(url)
            with open_url(url) as file:
                yield file
        else:
            with open(url, "rb") as file:
                yield file
    except StoreError as error:
        raise InputError(f"IMAGES {error}") from None
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"IMAGES {_show(url)}: cannot be read ({why})") from None


@contextmanager
def _run(command: str) -> Iterator[IO[bytes]]:
    """Run a command that the user wrote and allowed; raise OSError where it fails."""
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, shell=True, start_new_session=True, **streams) as process:  # noqa: S602
        if process.stdout is None:
            raise OSError("its output is closed")
        try:
            yield process.stdout
            process.stdout.read()
        except BaseException:
            with suppress(OSError):  # it has ended by itself
                os.killpg(process.pid, signal.SIGKILL)  # the shell, and what it started
            raise
    if process.returncode:
        raise OSError(f"the command ended with status {process.returncode}")


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
