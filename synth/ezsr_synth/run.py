"""Run: list the pictures, make what shards are missing, and close the shard set."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ezsr_shards.errors import ConfigError, OutputError, RunError
from ezsr_shards.shard import PART_SUFFIX
from ezsr_shards.shardset import (
    CLASSES_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    ShardClass,
    ShardRecord,
    count_reasons,
    find_shards,
    read_json,
    shard_name,
    write_classes,
    write_index,
    write_json,
)
from ezsr_synth.backends import Done, Lost, run_local
from ezsr_synth.config import SynthConfig, check_number
from ezsr_synth.kernels import compile_kernels
from ezsr_synth.progress import Counts, Progress
from ezsr_synth.records import ShardTask
from ezsr_synth.sources import Listing, SourceOptions, list_pictures
from ezsr_synth.work import ShardPlan

SYNTHESIS_VERSION = 1
"""Raised whenever the same configuration gives other bytes, so that no set is a mixture."""

RUNS_FILE, LOCK_FILE = "runs.jsonl", ".lock"
_JUDGE_AFTER = 1000


@dataclass(frozen=True)
class RunOptions:
    """How the work is done; nothing here changes a byte of the shards."""

    workers: int = 0
    """Worker processes; 0: as many as the CPUs that this process may use."""
    max_failures: float = 0.01
    """Share of pictures that may give no sample before the run ends with an error."""
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


def synthesize(
    images: str,
    out: str | Path,
    config: SynthConfig | None = None,
    source: SourceOptions | None = None,
    run: RunOptions | None = None,
    name: str = "events",
) -> RunReport:
    """Turn pictures into event shards; what is complete in OUT already is kept.

    images  a picture, a folder, a class tree, a `.txt` list, tars, or `toy:N`
    out     the folder of the shard set; made if missing
    name    first part of the shards' file names

    Raises ConfigError, InputError or OutputError before any work; RunError if too many pictures
    failed or a shard was lost. Whatever was complete stays, and the same call continues.
    """
    config, source, run = config or SynthConfig(), source or SourceOptions(), run or RunOptions()
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
        raise ConfigError(f"name {name!r}: use 1 to 40 letters, digits, '_' or '-'")
    started = time.time()
    listing = list_pictures(images, source)
    folder = _output_folder(out)
    facts = _configuration(listing, config, name)
    plan = ShardPlan(folder, name, config, facts["config_hash"])
    with _locked(folder):
        _prepare(folder, name, {**facts, "images": images}, run.overwrite)
        records = _complete_records(plan)
        kept = len(records)
        missing = (task for task in listing.tasks() if task.index not in records)
        _make_missing(missing, records, listing, plan, run)
        report = _close(folder, listing, records, run)
    seconds = time.time() - started
    made = report.shards - kept
    report = RunReport(**{**asdict(report), "made": made, "seconds": seconds})
    if made:
        _log_run(folder, started, report, available_cpus() if run.workers == 0 else run.workers)
    return report


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
    missing: Iterator[ShardTask],
    records: dict[int, ShardRecord],
    listing: Listing,
    plan: ShardPlan,
    run: RunOptions,
) -> None:
    """Make the missing shards into `records`; raise RunError if some were lost."""
    first = next(missing, None)
    if first is None:
        return
    stop = False

    def until_stopped() -> Iterator[ShardTask]:
        yield first
        for task in missing:
            if stop:
                return
            yield task

    lost: list[Lost] = []
    compile_kernels()  # once, into the cache, before any worker needs them
    left = listing.shards - len(records)
    workers = min(run.workers or available_cpus(), left)
    with (
        Progress(listing, records) as progress,
        closing(run_local(until_stopped(), plan, workers)) as outcomes,
    ):
        for outcome in outcomes:
            progress.show(outcome)
            if isinstance(outcome, Done):
                records[outcome.index] = outcome.record
            elif isinstance(outcome, Lost):
                lost.append(outcome)
            stop = stop or _too_many(progress.counts, listing, run)
    if lost:
        names = ", ".join(shard_name(plan.name, loss.index) for loss in lost[:5])
        raise RunError(
            f"{len(lost)} of {listing.shards} shards could not be made ({names}): {lost[0].why}; "
            f"the others are complete, run the same command again to retry"
        )


def _too_many(counts: Counts, listing: Listing, run: RunOptions) -> bool:
    """Tell early that the run cannot stay under its limit of failures."""
    if counts.pictures < _JUDGE_AFTER:
        return False  # small sets are finished, so that every failure is listed at once
    return counts.failures > run.max_failures * (listing.pictures or counts.pictures)


def _close(
    folder: Path, listing: Listing, records: dict[int, ShardRecord], run: RunOptions
) -> RunReport:
    """Judge the failures, then write classes and index; return the whole set's counts."""
    ordered = [records[index] for index in sorted(records)]
    failures = count_reasons([failure for record in ordered for failure in record.failures])
    pictures = sum(record.pictures for record in ordered)
    failed = sum(failures.values())
    if failed > run.max_failures * pictures:
        reasons = ", ".join(f"{count} {reason}" for reason, count in failures.items())
        share = failed / pictures
        raise RunError(
            f"{failed} of {pictures} pictures ({share:.1%}) gave no sample, over --max-failures "
            f"{run.max_failures:.1%}: {reasons}; see 'failures' in {folder}/*.json, then mend them "
            f"and use --overwrite, or accept them with --max-failures {_round_up(share)}"
        )
    if sum(record.samples for record in ordered) == 0:
        raise RunError(f"IMAGES: none of the {pictures} pictures gave a sample")
    write_classes(folder, listing.classes or _classes_seen(ordered), listing.split)
    write_index(folder, ordered)
    return RunReport(
        shards=len(ordered),
        pictures=pictures,
        samples=sum(record.samples for record in ordered),
        events=sum(record.events for record in ordered),
        size_bytes=sum(record.size_bytes for record in ordered),
        failures=failures,
    )


def _round_up(share: float) -> float:
    return min(1.0, int(share * 100 + 1) / 100)


def _classes_seen(records: list[ShardRecord]) -> list[ShardClass]:
    """Return classes for labels that came without words: all up to the largest seen."""
    labels = [int(label) for record in records for label in record.labels]
    return [ShardClass(index, str(index)) for index in range(max(labels, default=-1) + 1)]


def _output_folder(out: str | Path) -> Path:
    if "://" in str(out):
        raise ConfigError(f"OUT {out}: object stores are not supported yet; give a local folder")
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"OUT {folder}: cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"OUT {folder}: not writable; give a folder that you own")
    return folder


def _configuration(listing: Listing, config: SynthConfig, name: str) -> dict[str, Any]:
    """Return what decides the bytes, and its hash."""
    facts = {
        "synthesis_version": SYNTHESIS_VERSION,
        "name": name,
        "pictures": listing.pictures,
        "shards": listing.shards,
        "split": listing.split,
        "listing": listing.fingerprint,
        "synthesis": {**asdict(config), "size": str(config.size)},
    }
    text = json.dumps(facts, sort_keys=True)
    return {**json.loads(text), "config_hash": hashlib.sha256(text.encode()).hexdigest()}


def _prepare(folder: Path, name: str, facts: dict[str, Any], overwrite: bool) -> None:
    """Make the folder ready: refuse another configuration's, clear what a killed run left."""
    path = folder / CONFIG_FILE
    if overwrite:
        _delete_set(folder)
    if path.is_file():
        there = read_json(path)
        if there.get("config_hash") != facts["config_hash"]:
            raise OutputError(
                f"OUT {folder}: holds shards of another configuration "
                f"({_difference(there, facts)}); give another folder, or --overwrite to start anew"
            )
        return
    if find_shards(folder, name, ".tar"):
        raise OutputError(
            f"OUT {folder}: holds {name}-*.tar but no {CONFIG_FILE}, so they are not this "
            f"program's; give another folder, or another --name"
        )
    write_json(path, facts)


def _delete_set(folder: Path) -> None:
    """Delete exactly the files of the shard set that `config.json` declares, that one last."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return
    name = str(read_json(path).get("name"))
    for file in (*find_shards(folder, name, ".json"), *find_shards(folder, name, ".tar")):
        file.unlink()
    for other in (INDEX_FILE, CLASSES_FILE, RUNS_FILE):
        (folder / other).unlink(missing_ok=True)
    path.unlink()


def _difference(there: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str:
    """Name the first setting that differs, with both values."""
    for key in sorted(set(there) | set(now)):
        before, after = there.get(key), now.get(key)
        if before == after or key in ("config_hash", "images", "listing"):
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            return _difference(before, after, "" if key == "synthesis" else f"{prefix}{key}.")
        return f"{prefix}{key} was {before}, now {after}"
    return "as many pictures, but others, or other classes"


def _complete_records(plan: ShardPlan) -> dict[int, ShardRecord]:
    """Return the records of shards that need not be made: same configuration, tar in place."""
    records = {}
    for path in find_shards(plan.folder, plan.name, ".json"):
        record = ShardRecord.read(path)
        tar = path.with_suffix(".tar")
        whole = tar.is_file() and tar.stat().st_size == record.size_bytes
        if whole and record.config_hash == plan.config_hash:
            records[int(path.stem[len(plan.name) + 1 :])] = record
    return records


def _log_run(folder: Path, started: float, report: RunReport, workers: int) -> None:
    facts = {"started": round(started), "workers": workers, **asdict(report)}
    with open(folder / RUNS_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(facts, sort_keys=True) + "\n")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder for one run; the lock goes when the process does, however it ends."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        yield
        return
    with open(folder / LOCK_FILE, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"OUT {folder}: another ezsr-synth is writing here; wait for it, or give another "
                f"folder"
            ) from error
        except OSError:
            pass  # a file system without locks
        try:
            _clear_parts(folder)
            yield
        finally:
            _clear_parts(folder)


def _clear_parts(folder: Path) -> None:
    """Delete what killed workers left unfinished."""
    for part in folder.glob(f".*{PART_SUFFIX}"):
        part.unlink(missing_ok=True)
