"""Sections: what the records, the configuration and the log of runs say, as HTML."""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime, timezone

from ezsr_shards.command import format_bytes
from ezsr_shards.report.facts import Run
from ezsr_shards.report.markup import NO_VALUE, name, number, plural, short, size, table, text
from ezsr_shards.report.survey import Survey
from ezsr_shards.shardset import Failure

_SOURCES_SHOWN, _FAULTS_SHOWN, _MISSING_SHOWN = 5, 20, 5
_CLASSES_SHOWN, _CLASSES_OPEN = 2000, 24
_REASONS_SHOWN, _RUNS_SHOWN = 100, 200


def noun(found: Survey) -> str:
    """Return what the set was made from: "picture" or "recording"."""
    return "recording" if "import" in found.config else "picture"


def where(found: Survey) -> str:
    """Return which samples of the set were read, where they were not all."""
    filled = sum(record.samples > 0 for record in found.records)
    shards = plural(filled, "shard")
    if found.measured.opened < filled:
        shards = f"{found.measured.opened:,} of {shards}"
    return (
        f"evenly spread over {shards}" if found.measured.spread else f"the first ones of {shards}"
    )


def subtitle(found: Survey) -> str:
    """Return in a line what kind of events these are."""
    kinds = Counter(fact.kind for fact in found.measured.facts if fact.kind)
    kind = kinds.most_common(1)[0][0] if kinds else ""
    synthesis, how = found.config.get("synthesis"), found.config.get("import")
    parts = [f"{text(kind, 20).capitalize()} events" if kind else "Events"]
    if isinstance(synthesis, dict):
        for section, key in (("motion", "family"), ("camera", "preset")):
            inner = synthesis.get(section)
            if isinstance(inner, dict) and inner.get(key):
                parts.append(f"{section} {text(inner[key], 60)}")
        parts.append(f"seed {text(synthesis.get('seed'), 30)}")
    if isinstance(how, dict):
        parts.append(f"imported from {text(how.get('format'), 40)}")
    return " · ".join(parts)


def head(found: Survey) -> str:
    """Return the set's own figures: each a name, a large value, and what belongs to it."""
    samples, events = found.total("samples"), found.total("events")
    inputs, size_bytes = found.total("pictures"), found.total("size_bytes")
    shards = len(found.records) + len(found.missing)
    per_sample = f"{number(events / samples)} per sample" if samples else ""
    split = f", split {name(found.split, 60)}" if found.split else ""
    on_percent = number(100 * found.total("on_events") / (events or math.nan), 1, "%")
    counts = found.class_counts()
    with_samples = sum(count > 0 for _, count in counts)
    cells = [
        ("Samples", number(samples), f"from {plural(inputs, noun(found))}{split}"),
        ("Events", short(events), per_sample),
        ("ON share", on_percent, "of all events"),
        ("Sensor", *_sensor(found)),
        ("Classes", number(len(counts)), f"{with_samples:,} with samples") if counts else None,
        ("Size", format_bytes(size_bytes), f"in {plural(len(found.records), 'tar')}"),
        ("Shards", f"{len(found.records):,}<small> of {shards:,}</small>", _state(found)),
    ]
    return "".join(
        f'<div><dt>{cell[0]}</dt><dd>{cell[1]}</dd><dd class="note">{cell[2]}</dd></div>\n'
        for cell in cells
        if cell
    )


def _sensor(found: Survey) -> tuple[str, str]:
    sizes = Counter((fact.width, fact.height) for fact in found.measured.facts)
    if not sizes:
        return NO_VALUE, ""
    (width, height), _ = sizes.most_common(1)[0]
    note = "width by height" if len(sizes) == 1 else f"mostly; {len(sizes):,} sizes in all"
    return f"{size(width, height)}<small> px</small>", note


def _state(found: Survey) -> str:
    if found.missing:
        return f'<span class="open">{len(found.missing):,} missing</span>'
    return "complete" if found.closed else '<span class="open">not closed</span>'


def made(found: Survey) -> str:
    """Return when the set was made, and the hash of what decided it."""
    parts = []
    if found.runs:
        first, last = _date(found.runs[0].started), _date(found.runs[-1].started)
        parts.append(f"made {first} UTC" if first == last else f"made {first} to {last} UTC")
    one = _version_sets(found)
    if one:
        versions = dict(one[0])
        parts.append(f"by ezsr {text(versions.get('ezsr', 'of unknown version'), 40)}")
    parts.append(f"configuration <code>{text(found.config.get('config_hash'), 12)}</code>")
    return " · ".join(parts)


def notices(found: Survey) -> str:
    """Return what a reader must know first: what is missing, and what cannot be read."""
    said = []
    shards = len(found.missing) + len(found.records)
    if found.missing:
        names = ", ".join(text(one) for one in found.missing[:_MISSING_SHOWN])
        more = ", …" if len(found.missing) > _MISSING_SHOWN else ""
        said.append(
            f"<b>Not complete:</b> {len(found.missing):,} of {plural(shards, 'shard')} missing "
            f"({names}{more}). All figures are of what is there. The same command again continues."
        )
    elif not found.closed:
        said.append(
            "<b>Not closed:</b> every shard is there, but no run has ended well. The same command "
            "again says why."
        )
    if found.faults:
        items = "".join(f"<li>{name(fault)}</li>" for fault in found.faults[:_FAULTS_SHOWN])
        hidden = len(found.faults) - _FAULTS_SHOWN
        items += f"<li>and {hidden:,} more</li>" if hidden > 0 else ""
        said.append(
            f"<b>{plural(len(found.faults), 'fault')}:</b> what is left out here could not be "
            f"read; <code>ezsr-shards verify</code> checks everything.<ul>{items}</ul>"
        )
    return "".join(f'<div class="notice">{one}</div>\n' for one in said)


def classes(found: Survey) -> str:
    """Return all classes with their counts; folded where they are many."""
    counts = found.class_counts()
    if not counts:
        return f"<p>{'The samples have no classes.' if found.closed else 'None known yet.'}</p>"
    most = max(1, *(count for _, count in counts)) if counts else 1
    rows = [
        (f"{one.index}", name(one.name, 80), text(one.folder, 80), f"{count:,}", _bar(count / most))
        for one, count in counts[:_CLASSES_SHOWN]
    ]
    heads = [
        ("Label", "number"),
        ("Class", "words"),
        ("Folder", "words"),
        ("Samples", "number"),
        ("", "bar"),
    ]
    if not any(row[2] for row in rows):
        heads, rows = [*heads[:2], *heads[3:]], [(*row[:2], *row[3:]) for row in rows]  # type: ignore[misc]
    body = table(heads, rows)
    if len(counts) > _CLASSES_SHOWN:
        body += f"<p>and {len(counts) - _CLASSES_SHOWN:,} more, see classes.json</p>"
    if len(counts) <= _CLASSES_OPEN:
        return body
    return f"<details><summary>All {len(counts):,} classes</summary>{body}</details>"


def _bar(share: float) -> str:
    return (
        '<svg class="meter" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="bar" width="{100 * share:.1f}" height="8"/></svg>'
    )


def failures(found: Survey) -> str:
    """Return what gave no sample, by reason, with the first few sources of each."""
    by_reason: dict[str, list[Failure]] = {}
    for record in found.records:
        for failure in record.failures:
            by_reason.setdefault(failure.reason, []).append(failure)
    inputs = found.total("pictures")
    if not by_reason:
        return f"<p>None of {plural(inputs, noun(found))}.</p>"
    ordered = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    rows = [
        (
            text(reason, 60),
            f"{len(every):,}",
            number(100 * len(every) / (inputs or math.nan), 2, "%"),
            _sources(every),
        )
        for reason, every in ordered[:_REASONS_SHOWN]
    ]
    heads = [
        ("Reason", "words"),
        ("Count", "number"),
        (f"of {noun(found)}s", "number"),
        ("For example", "words sources"),
    ]
    return table(heads, rows)


def _sources(every: list[Failure]) -> str:
    lines = [
        f"<li><code>{name(one.source, 120)}</code> {name(one.detail, 160)}</li>"
        for one in every[:_SOURCES_SHOWN]
    ]
    if len(every) > _SOURCES_SHOWN:
        lines.append(f"<li>and {len(every) - _SOURCES_SHOWN:,} more</li>")
    return f"<ul>{''.join(lines)}</ul>"


def runs(found: Survey) -> str:
    """Return how fast the set was made, a line for each run."""
    if not found.runs:
        return "<p>No run has ended yet.</p>"
    shown = found.runs[-_RUNS_SHOWN:]
    rows = [
        (
            _date(run.started),
            f"{run.workers:,}" if run.workers else "a cluster's",
            f"{run.made:,} of {run.shards:,}",
            number(run.seconds, 1, "s"),
            _rate(run, run.samples, "samples/s"),
            _rate(run, run.events, "events/s"),
        )
        for run in shown
    ]
    heads = [
        ("Started (UTC)", "date"),
        *(
            (title, "number")
            for title in ("Workers", "Shards made", "Wall time", "Samples", "Events")
        ),
    ]
    note = ""
    if any(run.made < run.shards for run in shown):
        note = (
            "<p>≈ by its share of the shards, as the log counts samples of the whole set only.</p>"
        )
    return table(heads, rows) + note


def _rate(run: Run, count: int, unit: str) -> str:
    if not run.seconds or not run.shards:
        return NO_VALUE
    about = "≈\u00a0" if run.made < run.shards else ""
    return f"{about}{short(count * run.made / run.shards / run.seconds)}\u00a0{unit}"


def _date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d\u00a0%H:%M}"


def versions(found: Survey) -> str:
    """Return the versions of the libraries that made the shards, a line for each combination."""
    every = _version_sets(found)
    lines = [", ".join(f"{text(k, 40)}\u00a0{text(v, 40)}" for k, v in one) for one in every[:5]]
    if len(every) > 1:
        lines.insert(0, "<b>The shards were made with different versions:</b>")
    return "<br>".join(lines) or "unknown"


def _version_sets(found: Survey) -> list[tuple[tuple[str, str], ...]]:
    """Return the different combinations of versions, the most frequent first."""
    counts = Counter(
        tuple(sorted((str(k), str(v)) for k, v in dict(record.versions).items()))
        for record in found.records
    )
    return [one for one, _ in counts.most_common()]
