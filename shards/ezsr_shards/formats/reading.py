"""What the readers share: bytes of a file up to a limit, and packages that may be missing."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ezsr_shards.errors import ConfigError
from ezsr_shards.formats.raw import RecordingError
from ezsr_shards.sample import MAX_EVENTS, most_events

MAX_BYTES_PER_EVENT = 32
"""No format here spends more on an event, tonic's records of four int64 included."""

MAX_FILE_BYTES = MAX_EVENTS * MAX_BYTES_PER_EVENT

CONTROL_CHARACTERS = bytes([*range(9), *range(10, 32), 127])
"""Bytes that no line of a text header has; tabs are allowed."""


def check_file(path: Path, most: int = MAX_FILE_BYTES) -> None:
    """Raise RecordingError unless `path` is a regular file of at most `most` bytes."""
    try:
        if not path.is_file():
            path.stat()  # says what is wrong with a path that leads nowhere
            raise RecordingError("unreadable", "not a file")
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        what = getattr(error, "strerror", None) or str(error)
        raise RecordingError("unreadable", what) from error
    if size > most:
        raise RecordingError("too-large", f"{size} bytes, at most {most}")


def read_bytes(path: Path, most: int = MAX_FILE_BYTES) -> bytes:
    """Return the bytes of a file; raise RecordingError if unreadable or larger than `most`."""
    check_file(path, most)
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordingError("unreadable", error.strerror or str(error)) from error


def check_count(events: int, size_bytes: int | None = None) -> None:
    """Raise RecordingError if a file holds, or claims, more than MAX_EVENTS events.

    size_bytes  of a file that may be compressed: then at most `most_events` of it
    """
    most = MAX_EVENTS if size_bytes is None else most_events(size_bytes)
    if events > most:
        what = "" if size_bytes is None else f" in {size_bytes} bytes"
        raise RecordingError("too-many-events", f"{events}{what}, at most {most}")


def optional_package(name: str, extra: str, what: str) -> Any:
    """Import a package that only some formats need; ConfigError names the extra that has it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{what} needs {name}: pip install 'ezsr[{extra}]'") from error
