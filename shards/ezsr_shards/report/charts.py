"""Charts: histograms as small SVG drawings that take their colours from the page around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

_WIDTH, _HEIGHT = 380, 208
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 10, 46
_LEAST_BINS, _MOST_BINS, _X_TICKS, _Y_TICKS = 8, 30, 5, 4
_BAR_GAP = 0.12  # of a bin


@dataclass(frozen=True)
class Series:
    """Values float64 (N,) that share the axes of a histogram; `style` is a class of the page's."""

    name: str
    values: npt.NDArray[np.float64]
    style: str = "bar"


def nice_step(span: float, parts: int) -> float:
    """Return the least of 1, 2, 5 times a power of ten that divides `span` into <= `parts`."""
    raw = span / parts
    power = 10.0 ** math.floor(math.log10(raw))
    return next((m * power for m in (1, 2, 5) if m * power >= raw * (1 - 1e-9)), 10 * power)


def choose_bins(values: npt.NDArray[np.float64], whole: bool = False) -> npt.NDArray[np.float64]:
    """Return the edges (K + 1,) of bins (a, b] of one nice width that hold all values.

    About as many as Rice's rule says, 2 N^(1/3); whole numbers one by one lie in mid-bin. No
    value may be negative.
    """
    least, most = float(values.min()), float(values.max())
    parts = min(max(round(2 * len(values) ** (1 / 3)), _LEAST_BINS), _MOST_BINS)
    step = nice_step(max(most - least, abs(most) * 0.02, 1e-6), parts)
    if whole and step <= 1:
        first, last, step = round(least), round(most) + 1, 1.0
    else:
        first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
    if last - first <= 1:  # one value: a bar with room around it
        first, last = max(last - 3, 0), max(last, 1) + 2
    edges = np.arange(first, last + 1, dtype=np.float64) * step
    return edges - 0.5 if whole and step == 1 else edges


def count_bins(
    values: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Return how many values lie in each bin (a, b], int64 (K,); the first has its lower end, too.

    So a limit that values are cut at, or all of 100 %, is the end of the last bin.
    """
    step = edges[1] - edges[0]
    bins = np.ceil((values - edges[0]) / step - 1e-9).astype(np.int64) - 1
    return np.bincount(np.clip(bins, 0, len(edges) - 2), minlength=len(edges) - 1)


def histogram(
    series: Sequence[Series], axis: str, whole: bool = False, counted: str = "samples"
) -> str:
    """Return an SVG histogram of one or several series over the same bins.

    axis     what the values are, with their unit; whole: they are whole numbers
    counted  what has the values
    """
    every = np.concatenate([one.values for one in series])
    edges = choose_bins(every, whole)
    counts = [count_bins(one.values, edges) for one in series]
    most = max(1, *(int(count.max()) for count in counts))
    y_step = max(1, round(nice_step(most, _Y_TICKS)))
    y_most = -(-most // y_step) * y_step
    x = _Scale(edges[0], edges[-1], _LEFT, _WIDTH - _RIGHT)
    y = _Scale(0, y_most, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_y_axis(y, range(0, y_most + 1, y_step), counted), *_x_axis(x, axis, whole)]
    for n, (one, count) in enumerate(zip(series, counts, strict=True)):
        parts += _bars(one, count, edges, (x, y), (n, len(series)))
    title = f"Histogram of {len(every):,} values: {axis}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


@dataclass(frozen=True)
class _Scale:
    """A straight map from values to pixels."""

    least: float
    most: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.least) / (self.most - self.least)
        return self.start + share * (self.end - self.start)


def _bars(
    one: Series,
    counts: npt.NDArray[np.int64],
    edges: npt.NDArray[np.float64],
    scales: tuple[_Scale, _Scale],
    place: tuple[int, int],
) -> list[str]:
    x, y = scales
    number, of = place
    whole_px = x(edges[1]) - x(edges[0])
    gap_px = min(whole_px * _BAR_GAP, 1.5)
    width = (whole_px - gap_px) / of
    decimals = _decimals(edges[1] - edges[0])
    bars = []
    for k in np.flatnonzero(counts):
        left, top = x(edges[k]) + gap_px / 2 + number * width, y(counts[k])
        what = f"{edges[k]:,.{decimals}f} to {edges[k + 1]:,.{decimals}f}"
        if edges[k] % 1 == 0.5:  # a whole number by itself
            what = f"{edges[k] + 0.5:,.0f}"
        name = f"{one.name} " if one.name else ""
        bars.append(
            f'<rect class="{one.style}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{y(0) - top:.1f}"><title>{escape(name + what)}: {counts[k]:,}</title></rect>'
        )
    return bars


def _y_axis(y: _Scale, ticks: Sequence[int], counted: str) -> list[str]:
    left, right = _LEFT, _WIDTH - _RIGHT
    parts = [
        f'<path class="grid" d="M{left} {y(tick):.1f}H{right}"/>'
        f'<text class="tick" x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:,}</text>'
        for tick in ticks
    ]
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    turned = f'transform="rotate(-90 11 {middle:.0f})"'
    parts.append(
        f'<text class="axis" x="11" y="{middle:.0f}" {turned} text-anchor="middle">'
        f"{escape(counted)}</text>"
    )
    return parts


def _x_axis(x: _Scale, axis: str, whole: bool) -> list[str]:
    bottom = _HEIGHT - _BOTTOM
    step = max(nice_step(x.most - x.least, _X_TICKS), 1.0 if whole else 0.0)
    decimals = _decimals(step)
    parts = [f'<path class="base" d="M{_LEFT} {bottom}H{_WIDTH - _RIGHT}"/>']
    for n in range(math.ceil(x.least / step - 1e-9), math.floor(x.most / step + 1e-9) + 1):
        at = x(n * step)
        parts.append(
            f'<path class="base" d="M{at:.1f} {bottom}v4"/>'
            f'<text class="tick" x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">'
            f"{n * step:,.{decimals}f}</text>"
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="axis" x="{middle:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">'
        f"{escape(axis)}</text>"
    )
    return parts


def _decimals(step: float) -> int:
    """Return the decimals that tell multiples of a step apart."""
    return max(0, -math.floor(math.log10(step) + 1e-9))
