"""Picture files: folders, class trees and lists."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ezsr_shards.errors import InputError
from ezsr_shards.keys import key_of, printable
from ezsr_synth.decode import EXTENSIONS, MAX_FILE_BYTES, PictureError
from ezsr_synth.records import ImageRecord, tidy_caption

_MAX_CAPTION_BYTES = 1 << 16


@dataclass(frozen=True)
class FilePictures:
    """Picture files under one root; `labels` and `names` run beside `paths`, or are empty."""

    root: str
    paths: tuple[str, ...]
    labels: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[ImageRecord]:
        """Yield a record per file, in order; files are read when the record is."""
        for n, path in enumerate(self.paths):
            full = os.path.join(self.root, path)
            yield ImageRecord(
                key=key_of(path),
                source=printable(path),
                read=lambda full=full: read_file(full),  # type: ignore[misc]
                caption=_read_caption(full),
                label=self.labels[n] if self.labels else None,
                class_name=self.names[n] if self.names else None,
            )


def read_file(path: str) -> bytes:
    """Return a file's bytes; raise PictureError for what is no readable file of sensible size."""
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):
            raise PictureError("not-a-file", "a pipe, socket or device")
        if facts.st_size > MAX_FILE_BYTES:
            raise PictureError("too-large", f"{facts.st_size} bytes, over {MAX_FILE_BYTES}")
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise PictureError("missing", "no such file, or a link to nowhere") from error
    except OSError as error:
        raise PictureError("unreadable", error.strerror or str(error)) from error


def _read_caption(path: str) -> str | None:
    """Return the text of the `.txt` beside a picture, if there is one."""
    beside = os.path.splitext(path)[0] + ".txt"
    try:
        if not stat.S_ISREG(os.stat(beside).st_mode):
            return None
        with open(beside, "rb") as file:
            return tidy_caption(file.read(_MAX_CAPTION_BYTES).decode("utf-8", "replace"))
    except OSError:
        return None


def list_folder(
    root: str, extensions: frozenset[str] = EXTENSIONS, leave_out: str | None = None
) -> list[str]:
    """Return the paths of all pictures under a folder, relative to it with `/`, sorted.

    Every folder is read once, links to folders after the folders themselves; hidden names and
    the folder `leave_out` are left out; a dangling link counts as a picture, so that it is
    reported and not lost. Raises InputError for a folder that cannot be listed.
    """
    found: list[str] = []
    visited = {_identity(leave_out)} if leave_out and os.path.isdir(leave_out) else set()
    folders, links = [""], list[str]()
    while folders or links:
        links.sort(reverse=True)
        inside = folders.pop() if folders else links.pop()
        here = os.path.join(root, inside)
        try:
            if _identity(here) in visited:
                continue
            visited.add(_identity(here))
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        (links if entry.is_symlink() else folders).append(f"{inside}{entry.name}/")
                    elif os.path.splitext(entry.name)[1].lower() in extensions:
                        found.append(inside + entry.name)
        except OSError as error:
            raise InputError(
                f"IMAGES {here}: cannot be listed ({error.strerror}); make it readable, or name "
                f"the pictures in a .txt list"
            ) from error
    found.sort()
    return found


def _identity(path: str) -> tuple[int, int]:
    facts = os.stat(path)
    return facts.st_dev, facts.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def read_list(path: Path) -> list[str]:
    """Return the picture paths of a `.txt` list in its order, each once.

    One path a line, absolute or relative to the list. Raises InputError for URLs and for a list
    that is not text.
    """
    try:
        return parse_list(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"IMAGES {path}: cannot be read ({error.strerror})") from error


def parse_list(data: bytes, path: str) -> list[str]:
    """Return the picture paths in the content of a `.txt` list, as `read_list` does."""
    text = data.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
    lines = dict.fromkeys(text.split("\n"))
    lines.pop("", None)
    for line in lines:
        if "\0" in line:
            raise InputError(f"IMAGES {path}: not a text file; give one picture path a line")
        if "://" in line:
            raise InputError(
                f"IMAGES {path}: {line[:80]!r} is a URL; lists hold file paths, so download the "
                f"pictures first (img2dataset writes tars that are read as they are)"
            )
    return list(lines)


def class_folder(path: str) -> str:
    """Return the first folder of a relative path, or "" for a file at the root."""
    return path.partition("/")[0] if "/" in path else ""
