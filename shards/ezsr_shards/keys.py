"""Keys: stable names of inputs, and an order that mixes them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence

import numpy as np

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_READABLE_PART = 48
_HASH_DIGITS = 12


def key_of(source: str) -> str:
    """Return a key for a source: what is readable of its name, then a hash of all of it."""
    stem = os.path.splitext(source)[0]
    readable = _UNSAFE.sub("_", stem)[-_READABLE_PART:].strip("_-")
    return f"{readable}-{hash_text(source)[:_HASH_DIGITS]}".lstrip("-")


def hash_text(text: str) -> str:
    """Return the sha256 (hex) of a string, also of file names that are no valid Unicode."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()


def printable(name: str) -> str:
    """Return a file name that any JSON reader accepts; bytes that are no Unicode are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def mix(paths: Sequence[str]) -> list[str]:
    """Put sorted paths into an order that mixes folders, so that no shard holds a single class.

    The order is by hash: it stays when files come or go, and a prefix is a fair sample.
    """
    hashes = np.fromiter((int(hash_text(path)[:15], 16) for path in paths), np.int64, len(paths))
    return [paths[n] for n in np.argsort(hashes, kind="stable")]
