"""Shard sets as training reads them: a list of tars, near or far, and samples in any order."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy.typing as npt

from ezsr_shards.errors import InputError, ShardError, StoreError
from ezsr_shards.events import MAX_SIDE_PX
from ezsr_shards.lookup import MemberPlaces, locate_samples, read_members_at
from ezsr_shards.npz import NpzRows
from ezsr_shards.shardset import (
    CLASSES_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    ShardClass,
    read_classes,
    read_json,
)
from ezsr_shards.store import open_store, write_atomically
from ezsr_shards.urls import is_url, show_url

_LOCATED_SHARDS = 160
_MOST_SAMPLES = 10**7  # in one shard


@dataclass(frozen=True)
class Shard:
    """A finished tar: where it is read, its content, and where it comes from if that is elsewhere.

    far   URL of its set, and its name there
    kept  the places in the tar of the samples that are read; None reads all
    """

    path: Path
    samples: int
    sha256: str
    far: tuple[str, str] | None = None
    kept: tuple[int, ...] | None = None

    def locate(self) -> tuple[MemberPlaces, ...]:
        """Return where its samples lie, after fetching it; raise ShardError where it is broken."""
        if self.far is not None and not self.path.is_file():
            _copy(*self.far, self.path, self.sha256)
        return _locate(self.path)


@dataclass(frozen=True)
class ShardSet:
    """A finished shard set: its tars and its classes; `folder` is where its local files lie."""

    folder: Path
    shards: tuple[Shard, ...]
    classes: tuple[ShardClass, ...]
    sizes: tuple[int, ...] = field(init=False)
    _ends: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Keep the sizes, which the order of samples is drawn from."""
        object.__setattr__(self, "sizes", tuple(shard.samples for shard in self.shards))
        object.__setattr__(self, "_ends", tuple(accumulate(self.sizes)))

    def __len__(self) -> int:
        """Return the number of samples."""
        return sum(self.sizes)

    def place_of(self, number: int) -> tuple[Shard, int]:
        """Return the shard that sample `number` of the set lies in, and its place there."""
        n = bisect_right(self._ends, number)
        return self.shards[n], number - (self._ends[n - 1] if n else 0)

    def read(self, number: int, with_picture: bool) -> StoredRecording:
        """Return sample `number` of the set; raise ShardError where it is broken."""
        return read_recording(*self.place_of(number), with_picture)

    def origin(self, number: int) -> str:
        """Return the name of the tar that a sample lies in."""
        return self.place_of(number)[0].path.name

    @property
    def identity(self) -> str:
        """A hash of the shards' contents and order, wherever they lie."""
        hashing = hashlib.sha256()
        for shard in self.shards:
            kept = "" if shard.kept is None else f" {shard.kept}"
            hashing.update(f"{shard.sha256} {shard.samples}{kept}\n".encode())
        return hashing.hexdigest()


def open_shard_set(source: str | Path, cache: str | None = None) -> ShardSet:
    """Read the index of a shard set in a folder or at a URL; its tars are fetched when needed.

    Raises InputError where there is no finished shard set.
    """
    shown = show_url(str(source))
    url = str(source).rstrip("/") if is_url(source) else None
    folder = Path(source)
    if url is not None:
        if cache is None:
            raise InputError(
                f"SHARDS {shown}: say where copies may lie, with --cache FOLDER (of "
                f"ezsr-train, --data.cache)"
            )
        folder = Path(cache) / f"{Path(shown).name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        for name in (INDEX_FILE, CLASSES_FILE, CONFIG_FILE):
            _fetch_or_refuse(url, name, folder / name)
    if not (folder / INDEX_FILE).is_file():
        raise InputError(
            f"SHARDS {shown}: no {INDEX_FILE}, so no finished shard set; run ezsr-synth first, "
            f"or ezsr-shards import for recordings (ezsr-eval also takes them with --format)"
        )
    try:
        listed = read_json(folder, INDEX_FILE)["shardlist"]
        shards = tuple(_read_entry(folder, url, entry) for entry in listed)
        classes, _ = read_classes(folder)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"SHARDS {shown}: {INDEX_FILE} is garbled ({error})") from error
    except ShardError as error:
        raise InputError(f"SHARDS {shown}: {error}; see ezsr-shards verify") from error
    if not shards:
        raise InputError(f"SHARDS {shown}: holds no sample")
    return ShardSet(folder, shards, tuple(classes))


def _read_entry(folder: Path, url: str | None, entry: dict[str, Any]) -> Shard:
    name = str(entry["url"])
    if Path(name).name != name or not name.isprintable():
        raise ValueError(f"shard {name!r} lies outside the set")
    samples = entry["nsamples"]
    if not isinstance(samples, int) or not 0 < samples <= _MOST_SAMPLES:
        raise ValueError(f"shard {name}: {samples!r} is no number of samples")
    sha256 = str(entry["sha256"])
    if url is None:
        return Shard(folder / name, samples, sha256)
    return Shard(folder / f"{sha256[:12]}-{name}", samples, sha256, (url, name))


def _fetch_or_refuse(url: str, name: str, path: Path) -> None:
    try:
        _copy(url, name, path)
    except ShardError as error:
        raise InputError(f"SHARDS {error}; no finished shard set there?") from error


def _copy(url: str, name: str, path: Path, sha256: str | None = None) -> None:
    """Copy a file of a store, atomically.

    Raises ShardError where it cannot be had, or is not the one that the index tells of.
    """
    try:
        with open_store(url).open(name) as remote:
            write_atomically(path, partial(_pour, remote, sha256=sha256))
    except StoreError as error:
        raise ShardError(str(error)) from None
    except OSError as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or error
        raise ShardError(f"{show_url(url)}/{name}: cannot be read ({why})") from None
    except ValueError as error:
        raise ShardError(f"{show_url(url)}/{name}: {error}") from None


def _pour(source: IO[bytes], file: IO[bytes], *, sha256: str | None) -> None:
    hashing = hashlib.sha256()
    while block := source.read(1 << 20):
        hashing.update(block)
        file.write(block)
    if sha256 is not None and hashing.hexdigest() != sha256:
        raise ValueError("another sha256 than in the index")


@lru_cache(maxsize=_LOCATED_SHARDS)
def _locate(path: Path) -> tuple[MemberPlaces, ...]:
    return locate_samples(path)


@dataclass(frozen=True)
class StoredRecording:
    """A Recording in a shard."""

    key: str
    width: int
    height: int
    events: int
    label: int
    jpeg: bytes | None
    rows: NpzRows

    def read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Return events start to stop of column x, y, t or p, as stored.

        Raises ShardError where they are fewer, or no coordinates on the sensor.
        """
        column = self.rows.read(name, start, stop)
        if len(column) != stop - start:
            raise ShardError(f"sample {self.key}: column {name} ends early")
        most = {"x": self.width - 1, "y": self.height - 1, "p": 1}.get(name)
        if most is not None and len(column) and int(column.max()) > most:
            raise ShardError(f"sample {self.key}: column {name} exceeds {most}")
        return column


def read_recording(shard: Shard, index: int, with_picture: bool) -> StoredRecording:
    """Return the `index`th of a shard's kept samples; raise ShardError where it is broken."""
    samples = shard.locate()
    index = index if shard.kept is None else shard.kept[index]
    if index >= len(samples):
        raise ShardError(f"{shard.path.name}: the tar is not whole")
    place = samples[index]
    wanted = ("events.npz", "json", "jpg") if with_picture else ("events.npz", "json")
    members = read_members_at(shard.path, place, wanted)
    try:
        facts = json.loads(members["json"])
        width, height, events = (int(facts[name]) for name in ("width", "height", "events"))
        label = -1 if facts["label"] is None else int(facts["label"])
        if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX and events >= 0):
            raise ValueError(f"{width}x{height}, {events} events")
        if not -1 <= label < _MOST_SAMPLES:
            raise ValueError(f"label {label}")
        rows = NpzRows(members["events.npz"])
    except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise ShardError(f"sample {place.key}: garbled ({error})") from error
    return StoredRecording(place.key, width, height, events, label, members.get("jpg"), rows)
