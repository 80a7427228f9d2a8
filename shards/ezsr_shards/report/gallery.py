"""Gallery: samples with their picture, their events and their numbers, as rows of a table."""

from __future__ import annotations

from collections.abc import Sequence

from ezsr_shards.errors import ShardError
from ezsr_shards.report.facts import Facts
from ezsr_shards.report.markup import name, number, text
from ezsr_shards.report.pictures import events_uri, picture_uri
from ezsr_shards.report.survey import Survey, evenly
from ezsr_shards.sample import Sample, decode_jpeg

_SMALL_PX = 120
"""Sensors up to this size are shown pixel by pixel, as enlarging would smear them."""

_COLUMNS = (
    ("Events", "events"),
    ("Duration", "duration"),
    ("ON share", "on"),
    ("Threshold ON", "threshold-on"),
    ("Threshold OFF", "threshold-off"),
)


def gallery(found: Survey, samples: int) -> tuple[str, Sequence[Facts]]:
    """Return the table of at most so many samples, spread evenly, and what it shows."""
    shown: list[Facts] = []
    rows: list[str] = []
    numbers = evenly(len(found.measured.facts), samples)
    for facts, sample in found.measured.decode(numbers, found.faults):
        try:
            rows.append(_row(len(rows), facts, sample))
            shown.append(facts)
        except ShardError as error:
            found.faults.append(str(error))
    drawn = any(fact.threshold_on or fact.threshold_off for fact in shown)
    heads = "".join(
        f'<th scope="col" class="number" data-sort="{key}">{title}</th>'
        for title, key in _COLUMNS[: None if drawn else 3]
    )
    pictured = any("picture of" in row for row in rows)
    style = f"{'' if pictured else 'alone'} {'' if drawn else 'bare'}".strip()
    table = (
        f'<table id="samples" class="{style}"><thead><tr>'
        '<th scope="col" class="pair">Picture, events</th>'
        '<th scope="col" data-sort="class">Sample</th>'
        f"{heads}</tr></thead>\n<tbody>{''.join(rows)}</tbody></table>"
    )
    return table, shown


def class_choices(shown: Sequence[Facts]) -> str:
    """Return the classes of the samples that are shown, as options to choose from."""
    names = sorted({fact.class_name for fact in shown if fact.class_name})
    return "".join(f'<option value="{text(one)}">{text(one, 60)}</option>' for one in names)


def _row(place: int, facts: Facts, sample: Sample) -> str:
    picture = decode_jpeg(sample)
    style = "pixels" if max(facts.width, facts.height) <= _SMALL_PX else ""
    what = text(facts.class_name or facts.caption or facts.key, 80)
    shape = f'width="{facts.width}" height="{facts.height}" class="{style}"'
    images = f'<img src="{events_uri(sample.events)}" {shape} alt="events of {what}">'
    if picture is not None:
        images = f'<img src="{picture_uri(picture)}" {shape} alt="picture of {what}">{images}'
    return (
        f'<tr data-place="{place}" data-class="{text(facts.class_name or "")}" {_sortable(facts)}>'
        f'<td class="pair">{images}</td><td class="about">{_about(facts)}</td>{_numbers(facts)}'
        "</tr>\n"
    )


def _about(facts: Facts) -> str:
    """Return a sample's names; a caption that only repeats the class is said once."""
    lines = []
    if facts.class_name:
        label = "" if facts.label is None else f' <span class="label">{facts.label}</span>'
        lines.append(f'<b class="class">{name(facts.class_name, 80)}</b>{label}')
    if facts.caption and facts.caption != facts.class_name:
        lines.append(f'<span class="caption">{name(facts.caption)}</span>')
    lines.append(f"<code>{text(facts.key)}</code>")
    return "".join(f"<div>{line}</div>" for line in lines)


def _sortable(facts: Facts) -> str:
    values = {
        "events": facts.events,
        "duration": facts.duration_us,
        "on": facts.on_share if facts.events else "",
        "threshold-on": facts.threshold_on or "",
        "threshold-off": facts.threshold_off or "",
    }
    return " ".join(f'data-{key}="{value}"' for key, value in values.items())


def _numbers(facts: Facts) -> str:
    cells = [
        ("Events", number(facts.events)),
        ("Duration", number(facts.duration_us / 1000, 1, "ms")),
        ("ON", number(facts.on_share * 100, 1, "%")),
    ]
    if facts.threshold_on or facts.threshold_off:
        cells.append(("θ ON", number(facts.threshold_on, 3)))
        cells.append(("θ OFF", number(facts.threshold_off, 3)))
    return "".join(f'<td class="number" data-name="{title}">{value}</td>' for title, value in cells)
