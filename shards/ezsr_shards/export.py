"""Export: a shard set becomes a folder of single files that other event libraries read.

TO/export.json              what was exported, and in which format; written first
TO/classes.json             every class, its label and the split, as in a shard set
TO/events/CLASS/KEY.npy     one file a sample, in a folder a class, where the set has classes
TO/index.csv                one line a sample; written last: its presence means complete
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ezsr_shards.encodings import ENCODINGS, Encoding
from ezsr_shards.errors import ConfigError, OutputError, RunError, ShardError
from ezsr_shards.sample import Sample
from ezsr_shards.shardset import (
    CLASSES_FILE,
    INDEX_FILE,
    ShardClass,
    read_classes,
    read_config,
    read_json,
    read_records,
    write_classes,
    write_json,
)
from ezsr_shards.store import PART_SUFFIX, Place, Store, open_store, write_atomically, write_bytes
from ezsr_shards.verify import check_index, iterate_samples

EXPORT_VERSION = 1
"""Raised whenever the same samples give other bytes."""

EXPORT_FILE, LIST_FILE, EVENTS_FOLDER = "export.json", "index.csv", "events"
UNLABELLED = "_unlabelled"
COLUMNS = (
    *("file", "key", "label", "class_name", "caption", "width", "height", "duration_us"),
    *("events", "on_events", "source"),
)
"""What `index.csv` says of each sample; what it has not is left empty."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_FOLDER_LENGTH = 80


@dataclass(frozen=True)
class ExportReport:
    """What lies in the folder after an export: samples, events, and the files that were new."""

    samples: int
    events: int
    written: int


def export_samples(
    place: Place, to: str | Path, format: str, overwrite: bool = False
) -> ExportReport:
    """Write every sample of a finished shard set as a file of its own; what is there is kept.

    format     a name of `ENCODINGS`
    overwrite  delete an earlier export in TO, and nothing else there

    Raises ConfigError or OutputError before any work; ShardError naming a broken sample; RunError
    where TO cannot be written. The same call continues.
    """
    if format not in ENCODINGS:
        raise ConfigError(f"format {format!r}: give one of {', '.join(ENCODINGS)}")
    if "://" in str(to):
        raise ConfigError(f"TO {to}: give a local folder")
    ENCODINGS[format].check()
    store, to = open_store(place), Path(to)
    facts = _describe(store, format)
    classes, split = read_classes(store)
    try:
        _prepare(to, facts, overwrite)
        counts = _Counts()
        rows = _export_each(_read(store), to, ENCODINGS[format], classes, counts)
        write_classes(to, classes, split)
        _write_list(to / LIST_FILE, rows)
    except OSError as error:
        raise RunError(
            f"TO {to}: cannot be written ({error.strerror or error}); mend this and run the same "
            f"command again to continue"
        ) from error
    return ExportReport(counts.samples, counts.events, counts.written)


def class_folders(classes: Sequence[ShardClass]) -> dict[int, str]:
    """Return a safe folder name for each label: what is safe of the class name, told apart."""
    taken, folders = {UNLABELLED}, {}
    for entry in classes:
        name = _UNSAFE.sub("_", entry.name).strip("_-")[:_FOLDER_LENGTH] or "class"
        if name.casefold() in taken:
            name = f"{name}-{entry.index}"
        while name.casefold() in taken:
            name += "-"
        taken.add(name.casefold())
        folders[entry.index] = name
    return folders


@dataclass
class _Counts:
    samples: int = 0
    events: int = 0
    written: int = 0


def _describe(store: Store, format: str) -> dict[str, Any]:
    """Return `export.json`; refuse a set that is not complete."""
    config = read_config(store)
    records = read_records(store, str(config.get("name")))
    if store.size(INDEX_FILE) is None or len(records) != config.get("shards"):
        raise OutputError(
            f"{store.url}: {len(records)} of {config.get('shards')} shards are complete and listed "
            f"in {INDEX_FILE}; run the command that makes it again, then export"
        )
    check_index(store, records)
    digest = hashlib.sha256("".join(f"{one.name} {one.sha256}\n" for one in records).encode())
    return {"export_version": EXPORT_VERSION, "format": format, "shards": digest.hexdigest()}


def _prepare(to: Path, facts: Mapping[str, Any], overwrite: bool) -> None:
    """Make the folder ready; raise OutputError where what lies there is not this export's."""
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"TO {to}: cannot be made ({error.strerror})") from error
    there = _read_facts(to)
    if there is None:
        if any(to.iterdir()):
            raise OutputError(f"TO {to}: holds other things; give a new or an empty folder")
    elif overwrite:
        _delete_export(to)
    elif there != facts:
        raise OutputError(
            f"TO {to}: holds an export of other shards or of another format; give another folder, "
            f"or --overwrite to start anew"
        )
    write_json(to, EXPORT_FILE, facts)
    (to / LIST_FILE).unlink(missing_ok=True)  # until it is whole again
    for part in to.rglob(f".*{PART_SUFFIX}"):  # of an export that was killed
        part.unlink(missing_ok=True)


def _read_facts(to: Path) -> dict[str, Any] | None:
    if not (to / EXPORT_FILE).exists():
        return None
    try:
        return read_json(to, EXPORT_FILE)
    except ShardError as error:
        raise OutputError(f"TO {to}: {error}; give another folder") from error


def _delete_export(to: Path) -> None:
    """Delete exactly what an export writes, what says that it is one last."""
    for name in (LIST_FILE, CLASSES_FILE):
        (to / name).unlink(missing_ok=True)
    if (to / EVENTS_FOLDER).exists():
        shutil.rmtree(to / EVENTS_FOLDER)
    (to / EXPORT_FILE).unlink()


def _read(store: Store) -> Iterator[Sample]:
    """Yield every sample; a set that cannot be read is no fault of TO's."""
    try:
        yield from iterate_samples(store)
    except OSError as error:
        raise ShardError(f"{store.url}: cannot be read ({error.strerror or error})") from error


def _export_each(
    samples: Iterable[Sample],
    to: Path,
    encoding: Encoding,
    classes: Sequence[ShardClass],
    counts: _Counts,
) -> Iterator[tuple[object, ...]]:
    """Write the files that are missing or damaged; yield a row of the index for each sample."""
    folders = class_folders(classes)
    names = {entry.index: entry.name for entry in classes}
    keys: set[int] = set()
    for sample in samples:
        _check(sample, names, keys)
        file = f"{sample.key}{encoding.suffix}"
        if classes:
            file = f"{UNLABELLED if sample.label is None else folders[sample.label]}/{file}"
        path, data = to / EVENTS_FOLDER / file, encoding.encode(sample.events)
        if not _holds(path, data):
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, data)
            counts.written += 1
        counts.samples += 1
        counts.events += len(sample.events)
        yield _row(f"{EVENTS_FOLDER}/{file}", sample, names)


def _check(sample: Sample, names: Mapping[int, str], keys: set[int]) -> None:
    """Raise ShardError where a sample would be written wrongly, or over another one."""
    try:
        sample.events.check()
    except ShardError as error:
        raise ShardError(f"sample {sample.key}: {error}; see ezsr-shards verify") from error
    if sample.label is not None and sample.label not in names:
        raise ShardError(f"sample {sample.key}: label {sample.label!r} is not in {CLASSES_FILE}")
    sample_id = hash(sample.key.casefold())  # 8 bytes a key, for sets of many millions
    if sample_id in keys:
        raise ShardError(f"sample {sample.key}: the key appears twice in the set")
    keys.add(sample_id)


def _write(path: Path, data: bytes) -> None:
    write_atomically(path, write_bytes(data))


def _holds(path: Path, data: bytes) -> bool:
    """Tell whether a file is there as an export before made it, and nobody has changed it."""
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False


def _row(file: str, sample: Sample, names: Mapping[int, str]) -> tuple[object, ...]:
    events, label = sample.events, sample.label
    return (
        *(file, sample.key, label, None if label is None else names[label], sample.caption),
        *(events.width, events.height, events.duration_us, len(events), events.on_count),
        sample.meta.get("source"),
    )


def _write_list(path: Path, rows: Iterator[tuple[object, ...]]) -> None:
    """Write `index.csv` line by line as samples are exported, under its name when all are."""

    def write(file: IO[bytes]) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(rows)
        text.flush()
        text.detach()

    write_atomically(path, write)
