"""Plan: what a shard set is to hold, before any of it is made."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

from ezsr_shards.engines.local import run_local
from ezsr_shards.engines.outcomes import Engine, MakeShard, Task
from ezsr_shards.engines.ray_cluster import run_ray
from ezsr_shards.errors import ConfigError, check_number
from ezsr_shards.shardset import ShardClass, hash_config
from ezsr_shards.store import Store

ENGINES: dict[str, Engine] = {"local": run_local, "ray": run_ray}
_AUTO_SHARDS, _AUTO_LEAST, _AUTO_MOST = 64, 25, 1000


@dataclass(frozen=True)
class RunOptions:
    """How the work is done; nothing here changes a byte of the shards."""

    workers: int = 0
    """Shards under way at a time; 0: as many as there are CPUs."""
    engine: Literal["local", "ray"] = "local"
    """local: processes on this machine; ray: a running Ray cluster whose machines all see OUT."""
    job_id: int = 0
    """Number of this job, from 0, among several that share OUT: it only begins elsewhere."""
    num_jobs: int = 1
    """How many jobs there are, about; some may never start, and others may join."""
    expiry_s: float = 60.0
    """Seconds without a sign of life after which other runs take over what this one was at."""
    max_failures: float = 0.01
    """Share of pictures, or recordings, that may give no sample before the run counts as failed."""
    overwrite: bool = False
    """Delete the shard set in OUT and start anew."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        check_number("workers", self.workers, 0, 4096)
        check_number("num_jobs", self.num_jobs, 1, 1_000_000)
        check_number("expiry_s", self.expiry_s, 0.5, 86_400.0)
        check_number("max_failures", self.max_failures, 0.0, 1.0)
        if self.engine not in ENGINES:
            raise ConfigError(f"engine {self.engine!r}: give {' or '.join(ENGINES)}")
        if self.job_id not in range(self.num_jobs):
            raise ConfigError(
                f"job_id {self.job_id!r}: give 0 to {self.num_jobs - 1}, below num_jobs "
                f"{self.num_jobs}; let the array count from 0"
            )
        if self.overwrite and self.num_jobs > 1:
            raise ConfigError(
                f"overwrite: each of {self.num_jobs} jobs would delete what the others made; "
                f"delete the set before the jobs start"
            )


@dataclass(frozen=True)
class SetPlan:
    """A shard set that is to be made.

    store, name     where its shards go, and the first part of their file names
    facts           `config.json`: what decides the bytes, with its hash, and where it came from
    shards, inputs  how many there are; inputs is None where only reading them can tell
    classes, split  of the set
    noun            what the inputs are called, in the plural
    views           samples that each input should give
    """

    store: Store
    name: str
    facts: Mapping[str, Any]
    shards: int
    inputs: int | None
    classes: tuple[ShardClass, ...]
    split: str | None
    noun: str = "pictures"
    views: int = 1

    @property
    def config_hash(self) -> str:
        """Hash of what decides the bytes."""
        return str(self.facts["config_hash"])


@dataclass(frozen=True)
class Work:
    """How the shards of a set are made.

    task_of  the task of a shard, by the shard's number
    make     makes a task's shard, in whatever process
    preload  a module that makes a worker ready when it is imported; without it, `make`'s own
    """

    task_of: Callable[[int], Task]
    make: MakeShard
    preload: str | None = None


def check_set_name(name: str) -> None:
    """Raise ConfigError unless `name` can begin the file names of shards."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
        raise ConfigError(f"name {name!r}: use 1 to 40 letters, digits, '_' or '-'")


def describe_set(deciding: Mapping[str, Any], origin_name: str, origin: str) -> dict[str, Any]:
    """Return `config.json`: what decides the bytes, its hash, and where the inputs are."""
    facts: dict[str, Any] = json.loads(json.dumps(deciding))
    where = os.path.abspath(origin) if os.path.exists(origin) else origin
    return {**facts, "config_hash": hash_config(facts), origin_name: where}


def choose_shard_size(inputs: int, asked: int) -> int:
    """Return the inputs per shard: as asked, or enough shards for loaders to share."""
    return asked or min(max(ceil(inputs / _AUTO_SHARDS), _AUTO_LEAST), _AUTO_MOST)


def fingerprint(sources: Iterable[str], classes: Sequence[ShardClass]) -> str:
    """Return the sha256 of what is listed, in order: equal listings make equal shards."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(os.fsencode(source) + b"\0")
    for entry in classes:
        digest.update(f"{entry.index}/{entry.folder}/{entry.name}\0".encode(errors="replace"))
    return digest.hexdigest()
