"""ShardSet: shards with their records, index and classes, as they lie in a store.

config.json         what decided the bytes, and its hash
NAME-000042.tar     samples
NAME-000042.json    the shard's record, written after its tar: its presence means complete
classes.json        every class and the split
index.json          the list of shards (wids shard-index form), written when all are complete
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ezsr_shards.errors import OutputError, ShardError
from ezsr_shards.store import Place, open_store, write_bytes

CONFIG_FILE, INDEX_FILE, CLASSES_FILE = "config.json", "index.json", "classes.json"
RUNS_FILE = "runs.jsonl"
ORIGINS = ("images", "root")
"""What `config.json` says of where the inputs lie; they may be moved, so no hash holds them."""


@dataclass(frozen=True)
class Failure:
    """A picture that gave no sample: where it came from, a short reason, and a detail."""

    source: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class ShardRecord:
    """What `NAME-000042.json` says of its tar.

    name         file stem, such as "events-000042"
    pictures     pictures tried; samples, events, on_events: what came of them
    failures     every picture that gave no sample
    labels       class index (as text) -> number of samples
    sha256, size_bytes  of the tar
    config_hash  of the configuration that made it
    versions     of the libraries that made it
    """

    name: str
    pictures: int
    samples: int
    events: int
    on_events: int
    failures: tuple[Failure, ...]
    labels: Mapping[str, int]
    sha256: str
    size_bytes: int
    config_hash: str
    versions: Mapping[str, str]

    def write(self, place: Place) -> None:
        """Write `NAME.json`, atomically, which declares the shard complete."""
        write_json(place, f"{self.name}.json", asdict(self))

    @staticmethod
    def read(place: Place, name: str) -> ShardRecord:
        """Read a shard's record, the file `name`; raise ShardError if it is not one."""
        facts = read_json(place, name)
        try:
            facts["failures"] = tuple(Failure(**failure) for failure in facts["failures"])
            record = ShardRecord(**facts)
            _check_types(record)
            return record
        except (KeyError, TypeError, AttributeError) as error:
            raise ShardError(f"{name}: not a shard's record ({error})") from error


def _check_types(record: ShardRecord) -> None:
    """Raise TypeError unless the fields that are computed with are what they should be."""
    if not isinstance(record.versions, Mapping):
        raise TypeError("its versions are garbled")
    texts = [record.name, record.sha256, record.config_hash]
    for failure in record.failures:
        texts += [failure.source, failure.reason, failure.detail]
    for library in record.versions.items():
        texts += library
    counts = [record.pictures, record.samples, record.events, record.on_events, record.size_bytes]
    if not all(isinstance(text, str) for text in (*texts, *record.labels)):
        raise TypeError("a text is missing")
    if not all(type(count) is int for count in (*counts, *record.labels.values())):
        raise TypeError("a count is no whole number")


@dataclass(frozen=True)
class ShardClass:
    """One class: its label, the words for it, and the folder it came from (or "")."""

    index: int
    name: str
    folder: str = ""


def list_mixed_versions(records: Iterable[ShardRecord]) -> list[str]:
    """Return each library of which more than one version made the shards, with its versions."""
    found: dict[str, set[str]] = {}
    for record in records:
        for library, version in record.versions.items():
            found.setdefault(library, set()).add(version)
    return [
        f"{library} ({', '.join(sorted(versions))})"
        for library, versions in sorted(found.items())
        if len(versions) > 1
    ]


def count_reasons(failures: Sequence[Failure]) -> dict[str, int]:
    """Count the failures of each reason, most frequent first."""
    counts: dict[str, int] = {}
    for failure in failures:
        counts[failure.reason] = counts.get(failure.reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def list_reasons(counts: Mapping[str, int]) -> str:
    """Return counted reasons in words, such as '3 truncated, 1 empty', or ""."""
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def shard_name(name: str, index: int) -> str:
    """Return the file stem of a shard: NAME-000042."""
    return f"{name}-{index:06d}"


def find_shards(place: Place, name: str, suffix: str) -> list[str]:
    """Return the file names of a set's records (".json") or tars (".tar"), in order."""
    return sorted_shards(open_store(place).names(), name, suffix)


def sorted_shards(names: Iterable[str], name: str, suffix: str) -> list[str]:
    """Return those of a folder's names that are a set's records or tars, in order."""
    numbered = re.compile(re.escape(name) + r"-(\d{6,})" + re.escape(suffix))
    found = ((numbered.fullmatch(file), file) for file in names)
    return [file for _, file in sorted((int(match[1]), file) for match, file in found if match)]


def read_records(place: Place, name: str) -> list[ShardRecord]:
    """Return the records of all complete shards, in order."""
    store = open_store(place)
    return store.read_each(partial(ShardRecord.read, store), find_shards(store, name, ".json"))


def read_config(place: Place) -> dict[str, Any]:
    """Return `config.json`; raise OutputError if the folder is no shard set."""
    store = open_store(place)
    try:
        there = store.size(CONFIG_FILE) is not None
    except OSError as error:
        raise OutputError(f"{store.url}: cannot be read ({error.strerror or error})") from None
    if not there:
        if not store.exists():
            raise OutputError(f"{store.url}: no such folder")
        raise OutputError(
            f"{store.url}: no {CONFIG_FILE} here, so it is no shard set; give the OUT folder of "
            f"ezsr-synth or ezsr-shards import"
        )
    return read_json(store, CONFIG_FILE)


def hash_config(facts: Mapping[str, Any]) -> str:
    """Return the hash of what decides the bytes: all of `config.json` but origins and the hash."""
    deciding = {k: v for k, v in facts.items() if k not in ("config_hash", *ORIGINS)}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def write_classes(place: Place, classes: Sequence[ShardClass], split: str | None) -> None:
    """Write `classes.json`: every class there is, present in the samples or not, and the split."""
    facts = {"split": split, "classes": [asdict(entry) for entry in classes]}
    write_json(place, CLASSES_FILE, facts)


def read_classes(place: Place) -> tuple[list[ShardClass], str | None]:
    """Return the classes and the split of a shard set."""
    facts = read_json(place, CLASSES_FILE)
    try:
        classes = [ShardClass(**entry) for entry in facts["classes"]]
        for entry in classes:
            if not isinstance(entry.index, int) or not isinstance(entry.name, str):
                raise TypeError(f"class {entry.index!r} is named {entry.name!r}")
        return classes, facts["split"]
    except (KeyError, TypeError) as error:
        raise ShardError(f"{CLASSES_FILE}: garbled ({error})") from error


def write_index(place: Place, records: Sequence[ShardRecord]) -> None:
    """Write `index.json` in the wids shard-index form; shards without samples are left out."""
    shards = [
        {
            "url": f"{record.name}.tar",
            "nsamples": record.samples,
            "filesize": record.size_bytes,
            "sha256": record.sha256,
        }
        for record in records
        if record.samples
    ]
    facts = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
    write_json(place, INDEX_FILE, facts)


def write_json(place: Place, name: str, facts: Mapping[str, Any]) -> None:
    """Write a JSON object, atomically, with sorted keys."""
    open_store(place).write(name, write_bytes(encode_json(facts)))


def encode_json(facts: Mapping[str, Any]) -> bytes:
    """Return the bytes of a JSON file of ours."""
    return (json.dumps(facts, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def read_json(place: Place, name: str) -> dict[str, Any]:
    """Read a JSON object; raise ShardError if it is missing or none."""
    try:
        facts = json.loads(open_store(place).read(name))
    except (OSError, ValueError, RecursionError) as error:
        raise ShardError(f"{name}: unreadable ({error})") from error
    if not isinstance(facts, dict):
        raise ShardError(f"{name}: not a JSON object")
    return facts
