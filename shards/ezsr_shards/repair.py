"""Repair: take away what is broken in a shard set, so that a rerun makes exactly that again."""

from __future__ import annotations

from ezsr_shards.claims import Claims
from ezsr_shards.errors import ShardError
from ezsr_shards.shardset import (
    CLASSES_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    ShardRecord,
    find_shards,
    hash_config,
    read_classes,
    read_config,
    shard_name,
)
from ezsr_shards.store import Place, Store, open_store
from ezsr_shards.verify import check_index, check_shard

_EXPIRY_S = 60.0


class _AnyLabel:
    """Holds every label: a class list that lacks one is broken, the shard is not."""

    def __contains__(self, label: object) -> bool:
        return True


def repair(place: Place) -> list[str]:
    """Delete the tars, records and lists of a set that break the contract; say which, and why.

    Only files that a run of this set makes again are deleted, shards before the lists of them.
    Raises OutputError if this is no shard set, cannot be written, or runs are at work on it; and
    ShardError if its configuration was changed, as then nothing tells what the shards should be.
    """
    store = open_store(place)
    config = read_config(store)
    if hash_config(config) != config.get("config_hash"):
        raise ShardError(
            f"{CONFIG_FILE}: was changed after the run, so nothing tells what the shards should "
            f"be; undo the change, or make the set anew"
        )
    name = str(config["name"])
    store.make()
    with Claims(store, name, _EXPIRY_S) as claims, claims.alone():
        removed = _repair_shards(store, name, int(config["shards"]), str(config["config_hash"]))
        return removed + _repair_lists(store, name)


def _repair_shards(store: Store, name: str, shards: int, config_hash: str) -> list[str]:
    removed, keys, there = list[str](), set[int](), set(store.names())
    for stem in (shard_name(name, index) for index in range(shards)):
        if not {f"{stem}.json", f"{stem}.tar"} & there:
            continue
        try:
            if store.size(f"{stem}.json") is None:
                raise ShardError("has no record, so it was not finished")
            record = ShardRecord.read(store, f"{stem}.json")
            if record.config_hash != config_hash or record.name != stem:
                raise ShardError("its record is of another shard or another configuration")
            of_shard = set[int]()
            check_shard(store, record, _AnyLabel(), of_shard)
            if of_shard & keys:
                raise ShardError("keys of another shard are in it")
            keys |= of_shard
        except ShardError as error:
            _stop_if_unreadable(error)
            for suffix in (".json", ".tar"):  # the record first: without one, nothing is complete
                store.delete(stem + suffix)
            removed.append(f"{stem}, tar and record: {error}")
    return removed


def _stop_if_unreadable(error: ShardError) -> None:
    """Raise what only says that a file cannot be read now: it may be whole."""
    cause = error.__cause__
    if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        raise error


def _repair_lists(store: Store, name: str) -> list[str]:
    removed = []
    records = [ShardRecord.read(store, file) for file in find_shards(store, name, ".json")]
    try:
        classes, _ = read_classes(store)
        known = {str(entry.index) for entry in classes}
        if unknown := {label for record in records for label in record.labels} - known:
            raise ShardError(f"lacks label {min(unknown)}")
    except ShardError as error:
        _stop_if_unreadable(error)
        removed += _remove(store, CLASSES_FILE, error)
    try:
        check_index(store, records)
    except ShardError as error:
        _stop_if_unreadable(error)
        removed += _remove(store, INDEX_FILE, error)
    return removed


def _remove(store: Store, file: str, why: ShardError) -> list[str]:
    if store.size(file) is None:
        return []
    store.delete(file)
    return [f"{file}: {why}"]
