"""Picture files: folders, class trees and lists."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ezsr_shards.errors import InputError
from ezsr_synth.decode import EXTENSIONS, MAX_FILE_BYTES, PictureError
from ezsr_synth.records import ImageRecord, key_of, printable, tidy_caption

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
    try:
        with open(os.path.splitext(path)[0] + ".txt", "rb") as file:
            return tidy_caption(file.read(_MAX_CAPTION_BYTES).decode("utf-8", "replace"))
    except OSError:
        return None


def list_folder(root: str, extensions: frozenset[str] = EXTENSIONS) -> list[str]:
    """Return the paths of all pictures under a folder, relative to it with `/`, sorted.

    Links to folders are followed, but never into a folder that holds them; hidden names are left
    out; a dangling link counts as a picture, so that it is reported and not lost.
    """
    found: list[str] = []
    _walk(root, "", extensions, (), found)
    found.sort()
    return found


def _walk(
    root: str,
    inside: str,
    extensions: frozenset[str],
    above: tuple[tuple[int, int], ...],
    found: list[str],
) -> None:
    here = os.path.join(root, inside)
    try:
        identity = os.stat(here)
        if (identity.st_dev, identity.st_ino) in above:
            return
        with os.scandir(here) as entries:
            folders = []
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif os.path.splitext(entry.name)[1].lower() in extensions:
                    found.append(inside + entry.name)
    except OSError as error:
        raise InputError(f"IMAGES {here}: cannot be listed ({error.strerror})") from error
    for name in folders:
        chain = (*above, (identity.st_dev, identity.st_ino))
        _walk(root, f"{inside}{name}/", extensions, chain, found)


def read_list(path: Path) -> list[str]:
    """Return the picture paths of a `.txt` list in its order, each once.

    One path a line, absolute or relative to the list. Raises InputError for URLs and for a list
    that is not text.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = dict.fromkeys(line.rstrip("\r\n") for line in file)
    except OSError as error:
        raise InputError(f"IMAGES {path}: cannot be read ({error.strerror})") from error
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
