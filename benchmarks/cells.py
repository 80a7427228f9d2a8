"""From finished runs to cells, and to the series of cells along which a law can be fitted.

A run is a line of `runs.jsonl`. Runs that differ in their seed alone are one cell, which is the
unit of every fit, interval and bootstrap: seeds of a cell share what it is off the law. A series
goes along pairs, parameters, or both, over cells equal in all else. "Pairs" are unique pictures;
views of a picture and repeated passes are something else. So a series holds either the samples
seen or the passes over pictures and views fixed, and says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np
from power_law import Array, Points

from ezsr_shards.errors import ConfigError

Measure = Literal["error", "distance"]
FEWEST = 3
_GUESSING = 0.75  # of the error of guessing
_SHRUNK = 0.95  # correlations are estimates; none is taken for certain
_FIELDS = ("pairs", "views", "samples_seen", "size", "parameters", "seed", "error", "distance")


@dataclass(frozen=True, eq=False)
class Cell:
    """Runs that differ in their seed alone.

    Arrays are float64 (seeds,); `bits` are float64 (seeds, evaluated), 1 where an answer was right,
    or None where the runs did not keep them.
    """

    pairs: int
    views: int
    samples_seen: int
    size: str
    parameters: int
    errors: Array
    distances: Array
    evaluated: Array
    flops: Array
    bits: Array | None

    @property
    def passes(self) -> float:
        """Mean number of times that a view was seen."""
        return self.samples_seen / (self.pairs * self.views)

    def values(self, measure: Measure) -> Array:
        """Return what was measured, float64 (seeds,)."""
        return self.errors if measure == "error" else self.distances

    def __str__(self) -> str:
        """Name it as a sentence does."""
        return f"cell of {self.pairs:,} pairs x {self.views}, model {self.size}"


def read_cells(rows: Iterable[dict[str, Any]]) -> list[Cell]:
    """Return the cells of runs, by size and pairs; ConfigError where a run cannot be used."""
    found: dict[tuple[Any, ...], dict[Any, dict[str, Any]]] = {}
    for row in rows:
        check_row(row)
        cell = tuple(row[name] for name in ("parameters", "size", "views", "samples_seen", "pairs"))
        known = found.setdefault(cell, {}).setdefault(row["seed"], row)
        if known["error"] != row["error"]:
            raise ConfigError(
                f"runs: {_name(row)} stands there twice, with error {known['error']:g} and "
                f"{row['error']:g}; remove one of the lines"
            )
    if not found:
        raise ConfigError("runs: there are none; finish some cells of the grid first")
    return [_gather(list(found[cell].values())) for cell in sorted(found)]


def _name(row: dict[str, Any]) -> str:
    return f"run {row.get('cell', '?')}, seed {row.get('seed', '?')}"


def check_row(row: dict[str, Any]) -> None:
    """Raise ConfigError where a run lacks a figure, or has one that cannot be."""
    missing = [name for name in _FIELDS if row.get(name) is None]
    if missing:
        raise ConfigError(f"runs: {_name(row)} has no {missing[0]}; run it again")
    for name in ("pairs", "views", "samples_seen", "parameters", "error", "distance"):
        value = row[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise ConfigError(
                f"runs: {_name(row)}: {name} is {value!r}, not a number; run it again"
            )
        if value <= 0 and name not in ("error", "distance"):
            raise ConfigError(f"runs: {_name(row)}: {name} is {value:g}; it must be more than 0")
    evaluated, correct = row.get("evaluated", 0), row.get("correct", 0)
    if evaluated < 1 or abs(1 - correct / evaluated - row["error"]) > 1e-3:
        raise ConfigError(
            f"runs: {_name(row)}: error {row['error']:g} is not that of {correct} right answers of "
            f"{evaluated}; run it again"
        )
    bits = row.get("per_sample")
    if bits is not None and (len(bits), bits.count("1")) != (evaluated, correct):
        raise ConfigError(
            f"runs: {_name(row)}: per_sample has {bits.count('1')} right of {len(bits)}, not "
            f"{correct} of {evaluated}; run it again"
        )


def _gather(rows: list[dict[str, Any]]) -> Cell:
    first = rows[0]
    cell = Cell(
        pairs=first["pairs"],
        views=first["views"],
        samples_seen=first["samples_seen"],
        size=first["size"],
        parameters=first["parameters"],
        errors=np.array([row["error"] for row in rows], float),
        distances=np.array([row["distance"] for row in rows], float),
        evaluated=np.array([row["evaluated"] for row in rows], float),
        flops=np.array([(row.get("compute") or {}).get("student_flops", 0) for row in rows], float),
        bits=_read_bits(rows),
    )
    for measure, most in (("error", 1.0), ("distance", np.inf)):
        mean = cell.values(measure).mean()  # type: ignore[arg-type]
        if not 0 < mean < most:
            raise ConfigError(
                f"runs: {cell}: {measure} {mean:g} has no place on a power law; evaluate on more "
                "samples, or leave the cell out"
            )
    return cell


def _read_bits(rows: list[dict[str, Any]]) -> Array | None:
    texts = [row.get("per_sample") or "" for row in rows]
    if not texts[0] or len({len(text) for text in texts}) > 1:
        return None
    return np.array([[float(bit) for bit in text] for text in texts])


@dataclass(frozen=True)
class Series:
    """Cells of one law: `along` names what differs, `at` what is equal."""

    along: tuple[str, ...]
    at: dict[str, Any]
    cells: list[Cell]

    def points(self, measure: Measure) -> Points:
        """Return the cells' means, and the covariance of their logarithms.

        Noise is that of counting right answers on so many samples, and that of seeds beyond it,
        which is pooled over the cells.
        """
        means = np.array([cell.values(measure).mean() for cell in self.cells])
        seeds = np.array([len(cell.errors) for cell in self.cells])
        covariance = np.diag(self.seed_variance(measure) / seeds)
        if measure == "error":
            covariance = covariance + self._counting(means)
        known = bool(np.all(np.diagonal(covariance) > 0))
        sizes = [[float(getattr(cell, name)) for name in self.along] for cell in self.cells]
        return Points(np.array(sizes), means, covariance if known else np.diag(1 / seeds), known)

    @property
    def samples(self) -> int | None:
        """Number of samples on which all runs were scored, if their answers were kept."""
        counts = {None if cell.bits is None else cell.bits.shape[1] for cell in self.cells}
        return counts.pop() if len(counts) == 1 else None

    def _counting(self, means: Array) -> Array:
        """Return the covariance of ln(error) from having counted on these samples and no others.

        Where answers were kept, what is hard for one run is seen to be hard for others: cells go
        up and down together, and a smooth deviation must not be taken for a law's.
        """
        if self.samples is None:
            counted = np.array([cell.evaluated.sum() for cell in self.cells])
            return np.diag((1 - means) / (means * counted))
        wrong = np.stack([1 - cell.bits.mean(0) for cell in self.cells if cell.bits is not None])
        shared = np.cov(wrong) / self.samples / np.outer(means, means)
        return np.asarray(_SHRUNK * shared + (1 - _SHRUNK) * np.diag(np.diagonal(shared)))

    def seed_variance(self, measure: Measure) -> float:
        """Return the variance of ln(measure) between seeds that counting does not explain."""
        excess = 0.0
        for cell in self.cells:
            values, more = cell.values(measure), len(cell.errors) - 1
            if more:
                counting = _flips(cell) if measure == "error" else 0.0
                excess += more * (values.var(ddof=1) - counting) / values.mean() ** 2
        return max(excess / self.seed_freedom, 0.0) if self.seed_freedom else 0.0

    @property
    def seed_freedom(self) -> int:
        """Return the degrees of freedom that the variance between seeds is known by."""
        return sum(len(cell.errors) - 1 for cell in self.cells)

    def noise(self, measure: Measure) -> dict[str, float | None]:
        """Return what makes one more run differ from its law."""
        samples = np.mean([cell.evaluated.mean() for cell in self.cells])
        return {
            "seeds": self.seed_variance(measure),
            "freedom": self.seed_freedom,
            "evaluated": float(samples) if measure == "error" else None,
        }


def _flips(cell: Cell) -> float:
    """Return the variance of a run's error, given which samples are hard for all seeds."""
    mean, seeds = cell.errors.mean(), len(cell.errors)
    if cell.bits is None:
        return float(mean * (1 - mean) / cell.evaluated.mean())
    right = cell.bits.mean(0)
    return float((right * (1 - right)).mean() * seeds / (seeds - 1) / cell.bits.shape[1])


def is_guessing(error: float, chance: float | None) -> bool:
    """Whether an error is near that of guessing."""
    return chance is not None and error > _GUESSING * (1 - chance)


def near_guessing(cell: Cell, chance: float | None) -> bool:
    """Whether a cell has learnt too little for a power law.

    Below some number of pairs the error stays near that of guessing, and falls the faster when it
    leaves it (the small data region of Hestness et al. 2017, figure 6).
    """
    return is_guessing(cell.errors.mean(), chance)


def list_cautions(cells: Sequence[Cell], chance: float | None) -> list[str]:
    """Return what would make a law say something else than it seems to."""
    found = []
    for cell in cells:
        if cell.passes < 1:
            found.append(
                f"{cell}: saw only {cell.samples_seen:,} of its samples, so it has fewer pairs "
                "than it says; train longer"
            )
        if near_guessing(cell, chance):
            found.append(
                f"{cell}: left out of all laws, as its error of {cell.errors.mean():.0%} is near "
                "guessing"
            )
    if any(cell.bits is None for cell in cells):
        found.append(
            "some runs do not say which samples were named rightly (per_sample): errors count as "
            "independent between runs, and intervals are too narrow"
        )
    return found


def split_series(cells: Sequence[Cell]) -> list[Series]:
    """Return all series of at least three sizes: in pairs, in parameters, in both.

    Cells are alike in samples seen, or else in passes over their views (to three digits).
    """
    found: list[Series] = []
    for along in (("pairs",), ("parameters",), ("pairs", "parameters")):
        groups: dict[tuple[Any, ...], list[Cell]] = {}
        for cell in cells:
            at: dict[str, Any] = {"views": cell.views}
            if "parameters" not in along:
                at |= {"size": cell.size, "parameters": cell.parameters}
            if "pairs" not in along:
                at |= {"pairs": cell.pairs}
            for training in (f"{cell.samples_seen:,} samples seen", f"{cell.passes:.3g} passes"):
                groups.setdefault((*at.items(), ("training", training)), []).append(cell)
        for key, members in groups.items():
            enough = all(len({getattr(one, name) for one in members}) >= FEWEST for name in along)
            if enough and all(members != other.cells for other in found if other.along == along):
                found.append(Series(along, dict(key), members))
    return found
