"""From finished runs to laws, and from a law to what more pairs would bring.

Every series of cells (`cells.py`) gets a power law and one with a floor (`power_law.py`), on the
zero-shot error and on the teacher-student distance. The floor is reported only where two things
hold: its 95% interval excludes 0, and the largest cell, left out of the fit, is predicted better
with it. On the 29 ImageNet runs of Cherti et al. 2023, say, a floor can be neither told nor denied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
from cells import FEWEST, Measure, Series, list_cautions, near_guessing, read_cells, split_series
from power_law import Array, Law, Points, fit_law, resample_exponents

from ezsr_shards.errors import ConfigError

POWER, FLOOR = "power law", "power law + floor"
FARTHEST = 10  # times the most pairs of the runs
_BAND = 60
_DRAWS = 400
_MOST: dict[Measure, float] = {"error": 1.0, "distance": 2.0}


def fit_runs(rows: list[dict[str, Any]], draws: int = _DRAWS) -> dict[str, Any]:
    """Return all laws of runs, as JSON keeps them; ConfigError where none can be fitted.

    `draws` bootstraps stand beside the profile intervals, or none. Cells near guessing are left
    out.
    """
    cells = read_cells(rows)
    chance = rows[0].get("chance")
    learnt = [cell for cell in cells if not near_guessing(cell, chance)]
    series = split_series(learnt)
    if not series:
        raise ConfigError(
            f"runs: no law can be fitted to {len(learnt)} cells that do not guess; at least "
            f"{FEWEST} numbers of pairs or of parameters are needed, alike in views and in samples "
            "seen or passes"
        )
    flops, errors = (
        np.concatenate([getattr(c, name) for c in cells]) for name in ("flops", "errors")
    )
    counted = (flops > 0) & (errors > 0)
    return {
        "laws": [fit_series(one, m, draws) for one in series for m in ("error", "distance")],
        "frontier": fit_frontier(flops[counted], errors[counted]),
        "teacher_error": rows[0].get("teacher_error"),
        "chance": chance,
        "runs": len(errors),
        "cells": len(cells),
        "cautions": list_cautions(cells, chance),
    }


def fit_series(series: Series, measure: Measure, draws: int = _DRAWS) -> dict[str, Any]:
    """Return both laws of a series, which one is reported and why, its band and held-out cell."""
    points = series.points(measure)
    laws = fit_both(points)
    held_out = predict_largest(series, points, _MOST[measure])
    reported, why = choose(laws[FLOOR], held_out)
    law = laws[reported]
    noise = series.noise(measure)
    return {
        "measure": measure,
        "along": list(series.along),
        "at": series.at,
        "points": _list_points(series, points),
        "reported": reported,
        "why": why,
        "fits": {name: asdict(one) if one else None for name, one in laws.items()},
        "bootstrap": {
            name: bootstrap(series, measure, one, draws) if one and draws else None
            for name, one in laws.items()
        },
        "held out": held_out,
        "noise": noise,
        "band": _band(points, law, noise, _MOST[measure])
        if law and len(series.along) == 1
        else None,
    }


def fit_both(points: Points) -> dict[str, Law | None]:
    """Return the law without and with a floor; None where the points are too few for it."""
    found: dict[str, Law | None] = {}
    for name in (POWER, FLOOR):
        try:
            found[name] = fit_law(points, with_floor=name == FLOOR)
        except ValueError:
            found[name] = None
    return found


def choose(floor: Law | None, held_out: dict[str, Any]) -> tuple[str, str]:
    """Return which law is reported, and why."""
    if floor is None or not floor.floor_95:
        return POWER, "too few cells for a floor"
    if not floor.floor_95[0]:
        return POWER, "the floor's interval holds 0"
    if not held_out[FLOOR]:
        return POWER, "too few cells to leave the largest out"
    if abs(held_out[FLOOR]["miss"]) >= abs(held_out[POWER]["miss"]):
        return POWER, "the largest cell, left out, is not predicted better with a floor"
    return FLOOR, "the floor's interval excludes 0, and predicts the largest cell, left out, better"


def predict_largest(series: Series, points: Points, most: float) -> dict[str, Any]:
    """Return what laws of the other cells say of the largest, and how far off they are."""
    n = max(range(len(points)), key=lambda n: tuple(points.sizes[n]))
    size, measured = points.sizes[n], float(points.errors[n])
    found = {**_name_sizes(series, size), "measured": measured}
    for name, law in fit_both(points.keep(np.arange(len(points)) != n)).items():
        found[name] = None
        if law:
            variance, freedom = points.variances[n], np.inf
            if not points.known:  # a mere ratio, to what the cells show
                variance, freedom = law.dispersion * variance, law.freedom
            low, high = np.minimum(law.intervals(size, variance, freedom), most).tolist()
            found[name] = {
                "value": float(law.errors(size)),
                "value_95": [low, high],
                "miss": measured - float(law.errors(size)),
                "inside": low <= measured <= high,
            }
    return found


def bootstrap(series: Series, measure: Measure, law: Law, draws: int) -> dict[str, Any]:
    """Return percentile intervals from resampled cells, seeds within them, and samples.

    Where runs kept their answers one by one, all runs of a draw are scored on the same resampled
    samples, since their answers hang together; else answers are drawn from the binomial law.
    Percentiles of few cells are too narrow: the profile intervals are those to quote.
    """
    rng = np.random.default_rng(0)
    resample = _resampler(series, measure, draws, rng)
    values = np.stack([_mean_of_seeds(resample(n), rng) for n in range(len(series.cells))], 1)
    if measure == "error":  # a draw without any error has no logarithm
        values = np.maximum(values, [0.5 / cell.evaluated.sum() for cell in series.cells])
    counts = np.empty((0, len(series.cells)))
    needed = 2 * len(law.exponents) + (law.floor_95 is not None)
    while len(counts) < draws:
        more = rng.multinomial(
            len(series.cells), [1 / len(series.cells)] * len(series.cells), draws
        )
        counts = np.concatenate([counts, more[(more > 0).sum(1) >= needed]])
    exponents, floors = resample_exponents(series.points(measure), law, values, counts[:draws])
    found = {"draws": draws, "exponents_95": np.percentile(exponents, [2.5, 97.5], 0).T.tolist()}
    if law.floor_95:
        found["floor_95"] = np.percentile(floors, [2.5, 97.5]).tolist()
    return found


def _resampler(
    series: Series, measure: Measure, draws: int, rng: np.random.Generator
) -> Callable[[int], Array]:
    """Return a function from a cell's number to its runs in every draw, (draws, seeds)."""
    cells = series.cells
    samples = series.samples
    if measure == "distance":
        return lambda n: np.broadcast_to(cells[n].distances, (draws, len(cells[n].distances)))
    if samples is not None:
        shares = rng.multinomial(samples, [1 / samples] * samples, draws) / samples
        return lambda n: np.asarray(1 - shares @ cells[n].bits.T)  # type: ignore[union-attr]

    def count(n: int) -> Array:
        total, errors = cells[n].evaluated, cells[n].errors
        return np.asarray(rng.binomial(total.astype(int), errors, (draws, len(errors))) / total)

    return count


def _mean_of_seeds(values: Array, rng: np.random.Generator) -> Array:
    """Return means (draws,) over seeds drawn with replacement from values (draws, seeds)."""
    chosen = rng.integers(values.shape[1], size=values.shape)
    return np.asarray(np.take_along_axis(values, chosen, 1).mean(1))


def _name_sizes(series: Series, sizes: Array) -> dict[str, Any]:
    return dict(zip(series.along, (int(size) for size in sizes), strict=True))


def _list_points(series: Series, points: Points) -> list[dict[str, Any]]:
    found = []
    for cell, sizes, value, variance in zip(
        series.cells, points.sizes, points.errors, points.variances, strict=True
    ):
        half = 1.96 * np.sqrt(variance)
        ends = (value * np.exp([-half, half])).tolist() if points.known else None
        sized = _name_sizes(series, sizes)
        facts = {"samples_seen": cell.samples_seen, "seeds": len(cell.errors)}
        found.append({**sized, **facts, "value": float(value), "value_95": ends})
    return found


def run_variance(noise: dict[str, Any], values: Array) -> tuple[Array, Array]:
    """Return the variance of ln(value) of one more run, scored on as many samples.

    And the degrees of freedom that it is known by: that of counting is known, that of seeds as well
    as there are seeds (Satterthwaite, Biometrics Bulletin 1946).
    """
    counting = (1 - values) / (values * noise["evaluated"]) if noise["evaluated"] else 0.0
    variance = np.asarray(noise["seeds"] + np.maximum(counting, 0.0))
    if not noise["seeds"]:
        return variance, np.full_like(variance, np.inf)
    return variance, noise["freedom"] * (variance / noise["seeds"]) ** 2


def _band(points: Points, law: Law, noise: dict[str, Any], most: float) -> dict[str, Any]:
    """Return the law with 95% limits of one more run, up to ten times the largest size."""
    sizes = points.sizes[:, 0]
    at = np.geomspace(sizes.min(), FARTHEST * sizes.max(), _BAND)
    columns = {"size": at, **_limits(law, noise, at, most)}
    return {name: column.tolist() for name, column in columns.items()}


def _limits(law: Law, noise: dict[str, Any], sizes: Array, most: float) -> dict[str, Array]:
    values = law.errors(sizes[:, None])
    low, high = np.minimum(law.intervals(sizes[:, None], *run_variance(noise, values)), most)
    return {"value": values, "low": low, "high": high}


def law_limits(fitted: dict[str, Any], size: float) -> tuple[float, float, float]:
    """Return what the reported law of a fit says at a size, and the 95% limits of one more run."""
    law, most = Law(**fitted["fits"][fitted["reported"]]), _MOST[fitted["measure"]]
    found = _limits(law, fitted["noise"], np.array([size]), most)
    return float(found["value"][0]), float(found["low"][0]), float(found["high"][0])


def fit_frontier(
    compute: npt.ArrayLike, errors: npt.ArrayLike, bins: int = 5
) -> dict[str, Any] | None:
    """Return the compute frontier, error = factor * C^-exponent, by LAION's rule.

    None where fewer than two bins hold runs.

    Cherti et al. 2023 (github.com/LAION-AI/scaling-laws-openclip, figures.ipynb, binned_line_fit):
    cut log10(C) into equal bins up to its maximum plus 0.1, take the least error in each at the
    bin's centre, and draw a line by least squares. It has no floor and no interval.
    """
    x, y = np.log10(np.asarray(compute, float)), np.log10(np.asarray(errors, float))
    if not len(x):
        return None
    edges = np.linspace(x.min(), x.max() + 0.1, bins + 1)
    which = np.digitize(x, edges) - 1
    filled = [n for n in range(bins) if np.any(which == n)]
    if len(filled) < 2:
        return None
    centres = (edges[filled] + edges[np.array(filled) + 1]) / 2
    least = [y[which == n].min() for n in filled]
    slope, offset = np.polyfit(centres, least, 1)
    return {"factor": float(10**offset), "exponent": float(-slope), "bins": len(filled)}


def predict(
    fit: dict[str, Any], pairs: int, size: str | None = None, views: int | None = None
) -> dict[str, Any]:
    """Return the top-1 to expect at a number of pairs, with the 95% interval of one more run.

    Without `size` it is the model of most parameters, without `views` the fewest of them. Raises
    ConfigError beyond ten times the most pairs that were run, below the fewest, and where no such
    law was fitted.
    """
    law = _find(fit, size, views)
    at, sizes = law["at"], [point["pairs"] for point in law["points"]]
    if not min(sizes) <= pairs <= FARTHEST * max(sizes):
        raise ConfigError(
            f"predict {pairs:,}: the runs of model {at['size']} had {min(sizes):,} to "
            f"{max(sizes):,} pairs; give a number from {min(sizes):,} to "
            f"{FARTHEST * max(sizes):,}, or run more cells"
        )
    expected = {name: _expect(one, law["noise"], pairs) for name, one in law["fits"].items() if one}
    top1, (low, high) = expected[law["reported"]]
    sentence = (
        f"{pairs:,} pairs x {at['views']}, model {at['size']}, {at['training']}: top-1 "
        f"{top1:.1%} [{100 * low:.1f}, {100 * high:.1f}], one run, 95%, by a {law['reported']}"
    )
    if pairs > max(sizes):
        sentence += f"; {pairs / max(sizes):.2g} times the most that was run"
        other = {POWER: FLOOR, FLOOR: POWER}[law["reported"]]
        if other in expected:
            sentence += f"; a {other} would say {expected[other][0]:.1%}"
    return {
        "pairs": pairs,
        **at,
        "law": law["reported"],
        "top1": top1,
        "top1_95": [low, high],
        "top1_by_law": {name: one[0] for name, one in expected.items()},
        "sentence": sentence,
    }


def _expect(fitted: dict[str, Any], noise: dict[str, Any], pairs: int) -> tuple[float, list[float]]:
    """Return top-1 and its interval."""
    found = _limits(Law(**fitted), noise, np.array([float(pairs)]), _MOST["error"])
    errors = (found[name][0] for name in ("value", "high", "low"))
    top1, *ends = (float(np.clip(1 - one, 0, 1)) for one in errors)
    return top1, ends


def _find(fit: dict[str, Any], size: str | None, views: int | None) -> dict[str, Any]:
    laws = [one for one in fit["laws"] if (one["measure"], one["along"]) == ("error", ["pairs"])]
    wanted = {"size": size, "views": views}
    found = [
        one
        for one in laws
        if all(value in (None, one["at"][name]) for name, value in wanted.items())
    ]
    if not found:
        known = "; ".join(f"size {one['at']['size']}, views {one['at']['views']}" for one in laws)
        asked = ", ".join(f"{name} {value}" for name, value in wanted.items() if value is not None)
        raise ConfigError(
            f"predict: no law in pairs was fitted{asked and ' for '}{asked}; give one of: "
            f"{known or 'none was; run three numbers of pairs'}"
        )
    return min(found, key=lambda one: (-one["at"]["parameters"], one["at"]["views"]))
