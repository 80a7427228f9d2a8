"""Making: a shard set from its tasks, whatever they are made of, resumable at any moment."""

from __future__ import annotations

import errno
import json
import time
from dataclasses import asdict, dataclass, field, replace

from ezsr_shards.claims import Claims
from ezsr_shards.command import format_bytes
from ezsr_shards.errors import RunError
from ezsr_shards.output import is_finished, prepare
from ezsr_shards.plan import RunOptions, SetPlan, Work
from ezsr_shards.process import available_cpus
from ezsr_shards.progress import Counts
from ezsr_shards.shardset import (
    RUNS_FILE,
    ShardClass,
    ShardRecord,
    count_reasons,
    list_mixed_versions,
    list_reasons,
    write_classes,
    write_index,
)
from ezsr_shards.sharing import Share
from ezsr_shards.store import Store

__all__ = ["RunOptions", "RunReport", "make_set", "summarize"]

_JUDGE_AFTER = 1000
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class RunReport:
    """What a shard set holds after a run, and what this run did.

    shards, pictures, samples, events, size_bytes  of the whole set
    failures   reason -> count, of the whole set
    made       shards made by this run; the others were complete before
    seconds    wall time of this run
    mixed      libraries of which several versions made the set, with these
    """

    shards: int
    pictures: int
    samples: int
    events: int
    size_bytes: int
    failures: dict[str, int] = field(default_factory=dict)
    made: int = 0
    seconds: float = 0.0
    mixed: tuple[str, ...] = ()


def make_set(plan: SetPlan, work: Work, run: RunOptions) -> RunReport:
    """Make what shards are missing, and close the set; what is complete already is kept.

    Any number of runs of one configuration share the work, each shard being made by one of them;
    every run returns when the set is complete. Raises OutputError before any work; RunError if
    too many inputs failed or a shard was lost. Whatever was complete stays, and the same call
    continues.
    """
    started, clock = time.time(), time.monotonic()
    store = plan.store
    try:
        with Claims(store, plan.name, run.expiry_s) as claims:
            prepare(plan, claims, run.overwrite)
            share = Share(plan, claims)
            claims.sweep(share.records)
            if share.missing:
                share.make_missing(work, run, _Judge(plan, run))
            report = _report(plan, share.records, run)
            _close(plan, share.records)
            report = replace(report, made=share.made, seconds=time.monotonic() - clock)
            if share.made:
                _log_run(store, started, report, run)
            claims.sweep(share.records)
    except OSError as error:
        finished = _report_finished(plan, run) if error.errno in _READ_ONLY else None
        if finished is not None:
            return finished
        raise RunError(
            f"OUT {store.url}: cannot be written ({error.strerror or error}); mend this and "
            f"run the same command again to continue"
        ) from error
    return report


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
    if report.mixed:
        lines.append(
            f"made by several versions of {', '.join(report.mixed)}, which may give other bytes; "
            f"make it anew with --overwrite if bytes matter"
        )
    lines.append(f"check them: ezsr-shards verify {out}    look: ezsr-shards view {out}")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Judge:
    """Raises RunError as soon as a large run cannot stay under its limit of failures any more.

    Small sets are finished first, so that all their failures are listed at once.
    """

    plan: SetPlan
    run: RunOptions

    def __call__(self, counts: Counts) -> None:
        plan, most = self.plan, self.run.max_failures
        if plan.inputs is None or counts.inputs < _JUDGE_AFTER:
            return
        missing = counts.inputs * plan.views - counts.samples
        if missing > most * plan.inputs * plan.views:
            raise RunError(
                f"stopped after {counts.inputs} of {plan.inputs} {plan.noun}: {missing} samples "
                f"could not be made, over --max-failures {most:.1%}; see 'failures' in the "
                f"shards' .json, then run again with a larger --max-failures to continue"
            )


def _report_finished(plan: SetPlan, run: RunOptions) -> RunReport | None:
    """Return what a finished set holds, where a run cannot even say that it is there."""
    try:
        records = Share(plan, Claims(plan.store, plan.name, run.expiry_s)).records
        finished = not run.overwrite and is_finished(plan, len(records))
        return _report(plan, records, run) if finished else None
    except OSError:
        return None


def _report(plan: SetPlan, records: dict[int, ShardRecord], run: RunOptions) -> RunReport:
    """Judge the failures; return the whole set's counts."""
    ordered = [records[index] for index in sorted(records)]
    sizes = plan.store.sizes()
    astray = [one.name for one in ordered if sizes.get(f"{one.name}.tar") != one.size_bytes]
    if astray:
        raise RunError(
            f"OUT {plan.store.url}: {astray[0]}.tar and {len(astray) - 1} more are not there as "
            f"they were made; let every machine see the same OUT, and run the same command again"
        )
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
    return RunReport(
        shards=len(ordered),
        pictures=inputs,
        samples=samples,
        events=sum(record.events for record in ordered),
        size_bytes=sum(record.size_bytes for record in ordered),
        failures=failures,
        mixed=tuple(list_mixed_versions(ordered)),
    )


def _close(plan: SetPlan, records: dict[int, ShardRecord]) -> None:
    """Write classes and index, which say that the set is whole."""
    ordered = [records[index] for index in sorted(records)]
    write_classes(plan.store, _all_classes(plan, ordered), plan.split)
    write_index(plan.store, ordered)


def _round_up(share: float) -> float:
    return min(1.0, int(share * 100 + 1) / 100)


def _all_classes(plan: SetPlan, records: list[ShardRecord]) -> list[ShardClass]:
    """Return the classes of the plan, and the labels that came in tars without a name."""
    named = {entry.index: entry for entry in plan.classes}
    seen = {int(label) for record in records for label in record.labels}
    unnamed = {label: ShardClass(label, str(label)) for label in seen - named.keys()}
    return [entry for _, entry in sorted((named | unnamed).items())]


def _log_run(store: Store, started: float, report: RunReport, run: RunOptions) -> None:
    workers = run.workers or (available_cpus() if run.engine == "local" else 0)  # 0: of a cluster
    facts = {"started": round(started), "engine": run.engine, "workers": workers}
    facts |= asdict(report)
    store.append(RUNS_FILE, json.dumps(facts, sort_keys=True).encode() + b"\n")
