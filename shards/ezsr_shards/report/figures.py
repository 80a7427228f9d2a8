"""Figures: how the measured samples are distributed, and where on the sensor they fire."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ezsr_shards.report.charts import Series, histogram
from ezsr_shards.report.markup import figure, number, plural, size
from ezsr_shards.report.pictures import heat_uri, ramp_uri
from ezsr_shards.report.sections import where
from ezsr_shards.report.survey import HeatMap, Survey

_HEAT_PERCENTILE = 99.5
_PIXELATED_PX = 120

Values = npt.NDArray[np.float64]


def measured(found: Survey) -> str:
    """Return over how many samples the figures are."""
    count, every = len(found.measured.facts), found.total("samples")
    if not count:
        return "No samples yet."
    if count == every:
        return f"Histograms are over all {plural(count, 'sample')}."
    return f"Histograms are over {count:,} of {plural(every, 'sample')}, {where(found)}."


def figures(found: Survey) -> str:
    """Return the histograms and the heat map as figures."""
    if not found.measured.facts:
        return ""
    events = np.array([fact.events for fact in found.measured.facts], float)
    duration_ms = np.array([fact.duration_us / 1000 for fact in found.measured.facts])
    on_percent = np.array([100 * fact.on_share for fact in found.measured.facts if fact.events])
    capped = sum(fact.capped for fact in found.measured.facts)
    parts = [
        _one("Events per sample", events, "events", 0, _capped(found, capped)),
        _one("Duration", duration_ms, "ms", 1),
        _one("ON share", on_percent, "%", 1),
        _thresholds(found),
        _heat(found.heat, len(found.measured.facts)),
        _per_class(found),
    ]
    return "".join(parts)


def _capped(found: Survey, capped: int) -> str:
    if not capped:
        return ""
    synthesis = found.config.get("synthesis")
    most = synthesis.get("max_events") if isinstance(synthesis, dict) else None
    at = f" at {most:,} events" if isinstance(most, int) else ""
    return f"{capped:,} of {plural(len(found.measured.facts), 'sample')} cut{at}"


def _one(title: str, values: Values, unit: str, decimals: int, more: str = "") -> str:
    if not len(values):
        return ""
    axis = title if unit == "events" else f"{title} ({unit})"
    drawing = histogram([Series("", values)], axis, whole=unit == "events")
    return figure(title, drawing, _spread([("", values)], unit, decimals), more)


def _spread(rows: Sequence[tuple[str, Values]], unit: str, decimals: int) -> str:
    """Return a table of the least, median, mean and most of values, a named row for each."""
    heads = "".join(f"<th>{title}</th>" for title in ("", "min", "median", "mean", "max"))
    body = ""
    for title, values in rows:
        said = (values.min(), np.median(values), values.mean(), values.max())
        small = decimals == 0 and values.max() < 100  # the mean of small counts is no whole number
        cells = "".join(
            f"<td>{number(float(value), 1 if small and n in (1, 2) else decimals)}</td>"
            for n, value in enumerate(said)
        )
        body += f"<tr><th>{title or unit}</th>{cells}</tr>"
    return f'<table class="spread"><tr>{heads}</tr>{body}</table>'


def _thresholds(found: Survey) -> str:
    """Return the contrast thresholds that were drawn, ON and OFF on one pair of axes."""
    pairs = (
        ("ON", "on", [fact.threshold_on for fact in found.measured.facts]),
        ("OFF", "off", [fact.threshold_off for fact in found.measured.facts]),
    )
    series, rows = [], []
    for polarity, style, drawn in pairs:
        values = np.array([value for value in drawn if value is not None])
        if len(values):
            series.append(Series(polarity, values, style))
            rows.append((f'<span class="key {style}"></span>{polarity}', values))
    if not series:
        return ""
    drawing = histogram(series, "Contrast threshold (difference of natural logarithms)")
    return figure("Thresholds drawn", drawing, _spread(rows, "", 3))


def _per_class(found: Survey) -> str:
    """Return how many samples the classes have, counted in all shards that are complete."""
    counts = found.class_counts()
    if len(counts) < 2:
        return ""
    values = np.array([count for _, count in counts], float)
    drawing = histogram([Series("", values)], "Samples per class", whole=True, counted="classes")
    empty = int((values == 0).sum())
    more = f"{empty:,} of {len(counts):,} classes have no sample" if empty else ""
    return figure("Samples per class", drawing, _spread([("", values)], "samples", 0), more)


def _heat(heat: HeatMap | None, measured_samples: int) -> str:
    """Return where on the sensor events come from, with the scale of its colours."""
    if heat is None:
        return ""
    height, width = heat.mean.shape
    fired = heat.mean[heat.mean > 0]
    most = float(np.percentile(fired, _HEAT_PERCENTILE)) if fired.size else 0.0
    row, column = (int(at[0]) for at in np.nonzero(heat.mean == heat.mean.max()))
    style = "pixels" if max(width, height) <= _PIXELATED_PX else ""
    drawing = (
        f'<img class="heat {style}" src="{heat_uri(heat.mean, most)}" width="{width}" '
        f'height="{height}" alt="heat map of {width} x {height} pixels">'
        f'<div class="ramp"><span>0</span><img src="{ramp_uri()}" width="256" height="1" '
        f'alt="colours from 0 to {most:.3g}"><span>≥ {number(most, _decimals(most))}</span></div>'
    )
    silent = int((heat.mean == 0).sum())
    which = "all " if heat.recordings == measured_samples else ""
    caption = (
        f"Mean events per pixel and sample, over {which}{plural(heat.recordings, 'sample')} of "
        f"{size(width, height)}\u00a0px. Most: "
        f"<b>{number(float(heat.mean.max()), _decimals(most))}</b> at column\u00a0{column}, "
        f"row\u00a0{row}. <b>{number(100 * silent / heat.mean.size, 1, '%')}</b> of the pixels "
        "have none."
    )
    return figure("Active pixels", drawing, caption)


def _decimals(value: float) -> int:
    return 2 if value < 10 else 1 if value < 100 else 0
