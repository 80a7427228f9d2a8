"""Verify: prove that a shard set keeps the contract, down to the order of the events."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator
from dataclasses import dataclass

from ezsr_shards.errors import EzsrError, ShardError, StoreError
from ezsr_shards.sample import Sample, decode_jpeg
from ezsr_shards.shard import read_samples
from ezsr_shards.shardset import (
    CLASSES_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    ShardRecord,
    find_shards,
    hash_config,
    read_classes,
    read_config,
    read_json,
    read_records,
    sorted_shards,
)
from ezsr_shards.store import Place, Store, open_store

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Verified:
    """What was checked: shards, samples and events."""

    shards: int
    samples: int
    events: int


def verify(place: Place) -> Verified:
    """Check a whole shard set; raise ShardError naming the first fault.

    Checked: every shard is there and has its record, its sha256 and size; every sample reads
    back, agrees with its JSON, is in bounds, sorted and unique; the picture has the sensor's
    size; labels are among the classes; records, index and configuration agree.
    """
    store = open_store(place)
    config = read_config(store)
    if hash_config(config) != config.get("config_hash"):
        raise ShardError(f"{CONFIG_FILE}: was changed after the run; its hash does not fit")
    records = read_records(store, str(config.get("name")))
    _check_whole(store, config, records)
    labels = {entry.index for entry in read_classes(store)[0]}
    keys: set[int] = set()
    for record in records:
        check_shard(store, record, labels, keys)
    return Verified(
        shards=len(records),
        samples=sum(record.samples for record in records),
        events=sum(record.events for record in records),
    )


def check_shard(store: Store, record: ShardRecord, labels: Container[int], keys: set[int]) -> None:
    """Check a shard's tar against its record, and every sample; raise ShardError.

    labels  that samples may have
    keys    hashes of the keys of other shards, to which this shard's are added
    """
    _check_tar(store, record)
    try:
        _check_samples(store, record, labels, keys)
    except StoreError:  # which says nothing of the shard
        raise
    except EzsrError as error:
        raise ShardError(f"{record.name}.tar: {error}") from error


def _check_whole(store: Store, config: dict[str, object], records: list[ShardRecord]) -> None:
    expected, there = config.get("shards"), set(store.names())
    if len(records) != expected:
        raise ShardError(
            f"{len(records)} of {expected} shards are complete; run the command that makes it again"
        )
    if INDEX_FILE not in there:
        raise ShardError(
            f"{INDEX_FILE} is missing: the run did not end well; run the same command again"
        )
    check_index(store, records)
    for record in records:
        if record.config_hash != config.get("config_hash"):
            raise ShardError(f"{record.name}.json: made with another configuration than the set's")
    if CLASSES_FILE not in there:
        raise ShardError(f"{CLASSES_FILE} is missing")
    known = {f"{record.name}.tar" for record in records}
    tars = set(sorted_shards(there, str(config.get("name")), ".tar"))
    if tars - known:
        raise ShardError(f"{min(tars - known)}: has no record, so it belongs to no finished run")


def check_index(store: Store, records: list[ShardRecord]) -> None:
    """Raise ShardError unless the index lists what the records say."""
    try:
        listed = {
            entry["url"]: (entry["nsamples"], entry["filesize"], entry["sha256"])
            for entry in read_json(store, INDEX_FILE)["shardlist"]
        }
    except (KeyError, TypeError) as error:
        raise ShardError(f"{INDEX_FILE}: garbled ({error})") from error
    recorded = {
        f"{record.name}.tar": (record.samples, record.size_bytes, record.sha256)
        for record in records
        if record.samples
    }
    if listed != recorded:
        differing = sorted(set(listed.items()) ^ set(recorded.items()))[0][0]
        raise ShardError(f"{INDEX_FILE} and the record of {differing} disagree")


def _check_tar(store: Store, record: ShardRecord) -> None:
    name, digest, size = f"{record.name}.tar", hashlib.sha256(), 0
    try:
        with store.open(name) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise ShardError(f"{name}: unreadable ({error.strerror})") from error
    if size != record.size_bytes:
        raise ShardError(f"{name}: {size} bytes, its record says {record.size_bytes}")
    if digest.hexdigest() != record.sha256:
        raise ShardError(f"{name}: its sha256 is not the recorded one; the file was changed")


def _check_samples(
    store: Store, record: ShardRecord, labels: Container[int], keys: set[int]
) -> None:
    samples = events = on_events = 0
    found_labels: dict[str, int] = {}
    for sample in _samples_of(store, f"{record.name}.tar"):
        sample_id = hash(sample.key)  # 8 bytes a key, for sets of many millions
        if sample_id in keys:
            raise ShardError(f"sample {sample.key}: the key appears twice in the set")
        keys.add(sample_id)
        _check_sample(sample, labels)
        samples += 1
        events += len(sample.events)
        on_events += sample.events.on_count
        if sample.label is not None:
            found_labels[str(sample.label)] = found_labels.get(str(sample.label), 0) + 1
    if found_labels != record.labels:
        raise ShardError(f"holds labels {found_labels}, its record says {dict(record.labels)}")
    found = (samples, events, on_events)
    said = (record.samples, record.events, record.on_events)
    if found != said:
        raise ShardError(f"holds (samples, events, ON events) {found}, its record says {said}")


def _check_sample(sample: Sample, labels: Container[int]) -> None:
    try:
        sample.events.check()
    except ShardError as error:
        raise ShardError(f"sample {sample.key}: {error}") from error
    if sample.label is not None and sample.label not in labels:
        raise ShardError(f"sample {sample.key}: label {sample.label} is not in {CLASSES_FILE}")
    kind = sample.meta.get("kind")
    if kind not in ("synthetic", "recorded"):
        raise ShardError(f"sample {sample.key}: kind {kind!r} is neither synthetic nor recorded")
    picture = decode_jpeg(sample)
    if picture is None:
        if kind == "synthetic":
            raise ShardError(f"sample {sample.key}: {sample.key}.jpg is missing")
        return
    if picture.size != (sample.events.width, sample.events.height):
        raise ShardError(
            f"sample {sample.key}: picture {picture.width}x{picture.height}, "
            f"sensor {sample.events.width}x{sample.events.height}"
        )


def iterate_samples(place: Place) -> Iterator[Sample]:
    """Yield every sample of the complete shards of a set, in order."""
    store = open_store(place)
    for file in find_shards(store, str(read_config(store).get("name")), ".json"):
        yield from _samples_of(store, file.removesuffix(".json") + ".tar")


def _samples_of(store: Store, name: str) -> Iterator[Sample]:
    with store.open(name) as file:
        yield from read_samples(file)
