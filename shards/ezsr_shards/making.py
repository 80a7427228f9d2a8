"""Making: a shard set from its tasks, whatever they are made of, resumable at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

from ezsr_shards.backends import Done, Lost, MakeShard, Task, run_local
from ezsr_shards.command import format_bytes
from ezsr_shards.errors import ConfigError, OutputError, RunError, ShardError, check_number
from ezsr_shards.progress import Counts, Progress
from ezsr_shards.shardset import (
    CLASSES_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    ORIGINS,
    ShardClass,
    ShardRecord,
    count_reasons,
    hash_config,
    list_reasons,
    read_json,
    shard_name,
    sorted_shards,
    write_classes,
    write_index,
    write_json,
)
from ezsr_shards.store import PART_SUFFIX, LocalStore, Place, Store, open_store

RUNS_FILE, LOCK_FILE = "runs.jsonl", ".lock"
_JUDGE_AFTER = 1000
_AUTO_SHARDS, _AUTO_LEAST, _AUTO_MOST = 64, 25, 1000


@dataclass(frozen=True)
class RunOptions:
    """How the work is done; nothing here changes a byte of the shards."""

    workers: int = 0
    """Worker processes; 0: as many as the CPUs that this process may use."""
    max_failures: float = 0.01
    """Share of pictures, or recordings, that may give no sample before the run counts as failed."""
    overwrite: bool = False
    """Delete the shard set in OUT and start anew."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        check_number("workers", self.workers, 0, 4096)
        check_number("max_failures", self.max_failures, 0.0, 1.0)


@dataclass(frozen=True)
class RunReport:
    """What a shard set holds after a run, and what this run did.

    shards, pictures, samples, events, size_bytes  of the whole set
    failures   reason -> count, of the whole set
    made       shards made by this run; the others were complete before
    seconds    wall time of this run
    """

    shards: int
    pictures: int
    samples: int
    events: int
    size_bytes: int
    failures: dict[str, int] = field(default_factory=dict)
    made: int = 0
    seconds: float = 0.0


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


def make_set(
    plan: SetPlan,
    tasks: Iterator[Task],
    make: MakeShard,
    run: RunOptions,
    preload: str | None = None,
) -> RunReport:
    """Make what shards are missing, and close the set; what is complete already is kept.

    preload  a module that makes workers ready when it is imported

    Raises OutputError before any work; RunError if too many inputs failed or a shard was lost.
    Whatever was complete stays, and the same call continues.
    """
    started = time.time()
    try:
        with _locked(plan.store):
            _prepare(plan, run.overwrite)
            _clear_parts(plan.store, plan.name)
            records = _complete_records(plan)
            made = plan.shards - len(records)
            missing = (task for task in tasks if task.index not in records)
            try:
                if made:
                    _make_missing(missing, records, plan, (make, preload), run)
            finally:
                _clear_parts(plan.store, plan.name)
            report = _close(plan, records, run)
            report = replace(report, made=made, seconds=time.time() - started)
            if made:
                _log_run(plan.store, started, report, run.workers or available_cpus())
    except OSError as error:
        raise RunError(
            f"OUT {plan.store.url}: cannot be written ({error.strerror or error}); mend this and "
            f"run the same command again to continue"
        ) from error
    return report


def check_set_name(name: str) -> None:
    """Raise ConfigError unless `name` can begin the file names of shards."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
        raise ConfigError(f"name {name!r}: use 1 to 40 letters, digits, '_' or '-'")


def describe_set(deciding: Mapping[str, Any], origin_name: str, origin: str) -> dict[str, Any]:
    """Return `config.json`: what decides the bytes, its hash, and where the inputs are."""
    facts: dict[str, Any] = json.loads(json.dumps(deciding))
    where = os.path.abspath(origin) if os.path.exists(origin) else origin
    return {**facts, "config_hash": hash_config(facts), origin_name: where}


def summarize(report: RunReport, out: str, noun: str = "pictures") -> str:
    """Return what a run did, in a few lines."""
    failed = sum(report.failures.values())
    lines = [
        f"{report.samples} samples with {report.events / 1e6:.1f} M events from {report.pictures} "
        f"{noun}, in {report.shards} shards ({format_bytes(report.size_bytes)})"
    ]
    if report.made:
        lines.append(f"{report.made} shards made in {report.seconds:.1f} s")
    else:
        lines.append("nothing to do: every shard was complete")
    if failed:
        reasons = list_reasons(report.failures)
        lines.append(f"{failed} gave no sample ({reasons}); see 'failures' in {out}/*.json")
    lines.append(f"check them: ezsr-shards verify {out}    look: ezsr-shards view {out}")
    return "\n".join(lines)


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


def available_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, and its cgroup's share."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        allowed = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):
        return allowed


def _make_missing(
    missing: Iterator[Task],
    records: dict[int, ShardRecord],
    plan: SetPlan,
    work: tuple[MakeShard, str | None],
    run: RunOptions,
) -> None:
    """Make the missing shards into `records`; raise RunError if some were lost."""
    lost: list[Lost] = []
    workers = min(run.workers or available_cpus(), plan.shards - len(records))
    with (
        Progress(plan.inputs, plan.noun, records) as progress,
        closing(run_local(missing, work[0], workers, work[1])) as outcomes,
    ):
        for outcome in outcomes:
            progress.show(outcome)
            if isinstance(outcome, Done):
                records[outcome.index] = outcome.record
            elif isinstance(outcome, Lost):
                lost.append(outcome)
            _stop_if_hopeless(progress.counts, plan, run)
    if lost:
        names = ", ".join(shard_name(plan.name, loss.index) for loss in lost[:5])
        raise RunError(
            f"{len(lost)} of {plan.shards} shards could not be made ({names}): {lost[0].why}; "
            f"the others are complete, run the same command again to retry"
        )


def _stop_if_hopeless(counts: Counts, plan: SetPlan, run: RunOptions) -> None:
    """Raise RunError as soon as a large run cannot stay under its limit of failures any more.

    Small sets are finished first, so that all their failures are listed at once.
    """
    if plan.inputs is None or counts.inputs < _JUDGE_AFTER:
        return
    missing = counts.inputs * plan.views - counts.samples
    if missing > run.max_failures * plan.inputs * plan.views:
        raise RunError(
            f"stopped after {counts.inputs} of {plan.inputs} {plan.noun}: {missing} samples "
            f"could not be made, over --max-failures {run.max_failures:.1%}; see 'failures' in the "
            f"shards' .json, then run again with a larger --max-failures to continue"
        )


def _close(plan: SetPlan, records: dict[int, ShardRecord], run: RunOptions) -> RunReport:
    """Judge the failures, then write classes and index; return the whole set's counts."""
    if len(records) != plan.shards:
        raise RunError(
            f"{plan.shards - len(records)} of {plan.shards} shards are missing; run the same "
            f"command again to continue"
        )
    ordered = [records[index] for index in sorted(records)]
    failures = count_reasons([failure for record in ordered for failure in record.failures])
    inputs = sum(record.pictures for record in ordered)
    samples = sum(record.samples for record in ordered)
    reasons = list_reasons(failures)
    if samples == 0:
        raise RunError(f"none of the {inputs} {plan.noun} gave a sample ({reasons})")
    wanted = inputs * plan.views
    share = 1 - samples / wanted
    if share > run.max_failures:
        raise RunError(
            f"{wanted - samples} of {wanted} samples ({share:.1%}) could not "
            f"be made, over --max-failures {run.max_failures:.1%}: {reasons}; see 'failures' in "
            f"{plan.store.url}/*.json, then mend the {plan.noun} and use --overwrite, or accept "
            f"the loss with --max-failures {_round_up(share)}"
        )
    write_classes(plan.store, _all_classes(plan, ordered), plan.split)
    write_index(plan.store, ordered)
    return RunReport(
        shards=len(ordered),
        pictures=inputs,
        samples=samples,
        events=sum(record.events for record in ordered),
        size_bytes=sum(record.size_bytes for record in ordered),
        failures=failures,
    )


def _round_up(share: float) -> float:
    return min(1.0, int(share * 100 + 1) / 100)


def _all_classes(plan: SetPlan, records: list[ShardRecord]) -> list[ShardClass]:
    """Return the classes of the plan, and the labels that came in tars without a name."""
    named = {entry.index: entry for entry in plan.classes}
    seen = {int(label) for record in records for label in record.labels}
    unnamed = {label: ShardClass(label, str(label)) for label in seen - named.keys()}
    return [entry for _, entry in sorted((named | unnamed).items())]


def open_output(out: Place) -> Store:
    """Return the store of a shard set, made if missing; refuse what cannot be written to."""
    if not str(out):
        raise ConfigError("OUT is empty: name a folder for the shards")
    store = open_store(out)
    store.make()
    return store


def _prepare(plan: SetPlan, overwrite: bool) -> None:
    """Make the folder ready; raise OutputError where what lies there is not this run's."""
    store, facts = plan.store, plan.facts
    there = _read_own_config(store)
    if there and overwrite:
        _delete_set(store, str(there["name"]))
    elif there and there["config_hash"] != facts["config_hash"]:
        raise OutputError(
            f"OUT {store.url}: holds shards of another configuration "
            f"({_difference(there, facts)}); give another folder, or --overwrite to start anew"
        )
    elif there and (moved := [name for name in ORIGINS if there.get(name) != facts.get(name)]):
        name = moved[0]
        raise OutputError(
            f"OUT {store.url}: was made from {there.get(name)}, now {name.upper()} is "
            f"{facts.get(name)}; give another folder, or correct {name!r} in its {CONFIG_FILE} if "
            f"the {plan.noun} were moved"
        )
    elif there:
        return
    names = store.names()
    foreign = sorted_shards(names, plan.name, ".tar")
    foreign += [name for name in (INDEX_FILE, CLASSES_FILE) if name in names]
    if foreign:
        raise OutputError(
            f"OUT {store.url}: holds {foreign[0]} but no {CONFIG_FILE} of this program, so it is "
            f"not ours to replace; give another folder"
        )
    write_json(store, CONFIG_FILE, facts)


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
    """Delete exactly the files of a shard set, its configuration last."""
    names = store.names()
    for file in (*sorted_shards(names, name, ".json"), *sorted_shards(names, name, ".tar")):
        store.delete(file)
    for other in (INDEX_FILE, CLASSES_FILE, RUNS_FILE, CONFIG_FILE):
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


def _complete_records(plan: SetPlan) -> dict[int, ShardRecord]:
    """Return the records of shards that need not be made: same configuration, tar in place."""
    sizes, records = plan.store.sizes(), {}
    for file in sorted_shards(sizes, plan.name, ".json"):
        try:
            record = ShardRecord.read(plan.store, file)
        except ShardError:  # a damaged record: the shard is made again
            continue
        stem = file.removesuffix(".json")
        whole = sizes.get(f"{stem}.tar") == record.size_bytes
        if whole and record.config_hash == plan.config_hash:
            records[int(stem[len(plan.name) + 1 :])] = record
    return records


def _log_run(store: Store, started: float, report: RunReport, workers: int) -> None:
    facts = {"started": round(started), "workers": workers, **asdict(report)}
    store.append(RUNS_FILE, json.dumps(facts, sort_keys=True).encode() + b"\n")


@contextmanager
def _locked(store: Store) -> Iterator[None]:
    """Hold the folder for one run; the lock goes when the process does, however it ends."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        yield
        return
    if not isinstance(store, LocalStore):
        yield
        return
    with open(store.folder / LOCK_FILE, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"OUT {store.url}: another run is writing here; wait for it, or give another folder"
            ) from error
        except OSError:
            pass  # a file system without locks
        yield


def _clear_parts(store: Store, name: str) -> None:
    """Delete what killed workers left unfinished, and nothing of anybody else's."""
    ours = re.compile(
        rf"\.({re.escape(name)}-\d{{6,}}|config|index|classes)\.(tar|json)\.\d+-[0-9a-f]+"
        + re.escape(PART_SUFFIX)
    )
    for part in store.names():
        if ours.fullmatch(part):
            store.delete(part)
