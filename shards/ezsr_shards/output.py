"""Output: OUT made ready for a run, or refused, so that nothing of anybody else's is touched."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ezsr_shards.claims import Claims, find_traces
from ezsr_shards.errors import ConfigError, OutputError, ShardError
from ezsr_shards.plan import SetPlan
from ezsr_shards.shardset import (
    CLASSES_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    ORIGINS,
    RUNS_FILE,
    encode_json,
    read_json,
    sorted_shards,
)
from ezsr_shards.store import LocalStore, Place, Store, open_store


def open_output(out: Place) -> Store:
    """Return the store of a shard set, made if missing; refuse what cannot be written to.

    But for finished sets, on which a run may find nothing to do.
    """
    if not str(out):
        raise ConfigError("OUT is empty: name a folder for the shards")
    store = open_store(out)
    if store.url.startswith("memory://"):
        raise OutputError(f"OUT {store.url}: is lost with this process; give s3:// or a folder")
    try:
        store.make()
    except OutputError:
        with suppress(OSError):
            if isinstance(store, LocalStore) and store.size(INDEX_FILE) is not None:
                return store
        raise
    return store


def is_finished(plan: SetPlan, complete: int) -> bool:
    """Tell whether OUT holds all of the plan's set; raise OutputError if it holds another one."""
    there = _read_own_config(plan.store)
    if there is None or plan.store.size(INDEX_FILE) is None:
        return False
    _check_same(plan, there)
    return complete == plan.shards


def prepare(plan: SetPlan, claims: Claims, overwrite: bool) -> None:
    """Make OUT ready; raise OutputError where what lies there is not this run's.

    Runs of one configuration may share OUT; one that would delete the set must be alone.
    """
    store = plan.store
    if not overwrite:
        claims.join()
        _check_same(plan, _read_own_config(store) or _begin(plan))
        return
    with claims.alone():
        if there := _read_own_config(store):
            _delete_set(store, str(there["name"]))
        _begin(plan)


def _begin(plan: SetPlan) -> Mapping[str, Any]:
    """Write the configuration; return it, or the one of another run that was faster."""
    store, names = plan.store, plan.store.names()
    foreign = sorted_shards(names, plan.name, ".tar")
    foreign += [name for name in (INDEX_FILE, CLASSES_FILE) if name in names]
    if foreign and CONFIG_FILE not in names:
        raise OutputError(
            f"OUT {store.url}: holds {foreign[0]} but no {CONFIG_FILE} of this program, so it is "
            f"not ours to replace; give another folder"
        )
    if store.create(CONFIG_FILE, encode_json(plan.facts)):
        return plan.facts
    return _read_own_config(store) or {}


def _check_same(plan: SetPlan, there: Mapping[str, Any]) -> None:
    """Raise OutputError unless OUT is of the plan's configuration and inputs."""
    url, facts = plan.store.url, plan.facts
    if there.get("config_hash") != facts["config_hash"]:
        raise OutputError(
            f"OUT {url}: holds shards of another configuration "
            f"({_difference(there, facts)}); give another folder, or --overwrite to start anew"
        )
    for name in ORIGINS:
        if there.get(name) != facts.get(name):
            raise OutputError(
                f"OUT {url}: was made from {there.get(name)}, now {name.upper()} is "
                f"{facts.get(name)}; give another folder, or correct {name!r} in its "
                f"{CONFIG_FILE} if the {plan.noun} were moved"
            )


def _read_own_config(store: Store) -> dict[str, Any] | None:
    """Return the set's configuration, None where there is none; refuse what is not ours."""
    if store.size(CONFIG_FILE) is None:
        return None
    try:
        facts = read_json(store, CONFIG_FILE)
    except ShardError:
        facts = {}
    if not isinstance(facts.get("config_hash"), str) or not isinstance(facts.get("name"), str):
        raise OutputError(
            f"OUT {store.url}: its {CONFIG_FILE} is damaged or another program's; give another "
            f"folder, or delete that file and the shards beside it"
        )
    return facts


def _delete_set(store: Store, name: str) -> None:
    """Delete exactly the files of a shard set, what says it is whole first, what it is last."""
    names = store.names()
    for whole in (INDEX_FILE, CLASSES_FILE):
        store.delete(whole)
    shards = *sorted_shards(names, name, ".json"), *sorted_shards(names, name, ".tar")
    for file in (*shards, *find_traces(names, name)):
        store.delete(file)
    for other in (RUNS_FILE, CONFIG_FILE):
        store.delete(other)


def _difference(there: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """Name the first setting that differs, with both values."""
    for key in sorted(set(there) | set(now)):
        before, after = there.get(key), now.get(key)
        if before == after or key in ("config_hash", "listing", *ORIGINS):
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            return _difference(
                before, after, "" if key in ("synthesis", "import") else f"{prefix}{key}."
            )
        return f"{prefix}{key} was {before}, now {after}"
    return "as many inputs, but others, or other classes"
