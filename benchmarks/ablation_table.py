"""The ablation's table: means and intervals over seeds and recordings, beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from ezsr_shards.errors import ConfigError

Hits = npt.NDArray[np.float64]
"""(seeds, recordings), 1 where an answer was right."""

PAPER = {
    ("loss infonce", False): 9.57,
    ("loss infonce", True): 43.48,
    ("loss scalar-wise", False): 47.80,
    ("loss scalar-wise", True): 48.63,
    ("default", True): 48.86,
}
"""Top-1 on N-ImageNet, ViT-B/16, by loss and by k-NN translation (Yang et al., CVPR 2025, its
ablation of losses and of remark 1)."""
CLAIMS = (
    ("scalar-wise is better than InfoNCE", ("loss scalar-wise", False), ("loss infonce", False)),
    ("k-NN translation helps InfoNCE", ("loss infonce", True), ("loss infonce", False)),
    ("k-NN translation helps scalar-wise", ("loss scalar-wise", True), ("loss scalar-wise", False)),
    ("both losses, translated, are better than scalar-wise", ("default", True),
     ("loss scalar-wise", True)),
)  # fmt: skip
LOSSES = ("loss infonce", "loss scalar-wise", "default")


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95% interval, in percent."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Write it for a table."""
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"

    @property
    def signed(self) -> str:
        """Write it as a difference."""
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def estimate(values: Hits) -> Estimate:
    """Return the mean of (seeds, recordings), with its interval over both.

    Seeds and recordings are crossed random effects: the variance of the mean is that of the seeds'
    means plus that of the recordings' means, which counts what is left of both once too often and
    so errs to the wide side (Owen, Annals of Applied Statistics 2007); Student's t has
    Satterthwaite's degrees of freedom, few if it is the seeds that differ.
    """
    seeds, recordings = values.shape
    parts = {recordings: values.mean(0).var(ddof=1) / recordings}
    if seeds > 1:
        parts[seeds] = values.mean(1).var(ddof=1) / seeds
    variance = sum(parts.values())
    freedom = variance**2 / max(sum(v**2 / (n - 1) for n, v in parts.items()), 1e-300)
    half = float(stats.t.ppf(0.975, max(freedom, 1.0)) * variance**0.5)
    mean = float(values.mean())
    return Estimate(100 * mean, 100 * (mean - half), 100 * (mean + half))


def read_hits(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, bool], dict[int, Hits]]:
    """Return right and wrong answers by variant and translation, and by seed."""
    found: dict[tuple[str, bool], dict[int, Hits]] = {}
    for row in rows:
        for name, translated in (("per_sample", False), ("knn_per_sample", True)):
            bits = np.array([float(bit) for bit in row[name]])
            found.setdefault((row["variant"], translated), {})[row["seed"]] = bits
    return found


def _stack(by_seed: Mapping[int, Hits], seeds: Sequence[int]) -> Hits:
    return np.stack([by_seed[seed] for seed in seeds])


def compare(one: Mapping[int, Hits], other: Mapping[int, Hits]) -> Estimate:
    """Return one's top-1 less the other's, on the same recordings with the same seeds."""
    seeds = sorted(one.keys() & other.keys())
    return estimate(_stack(one, seeds) - _stack(other, seeds))


def write_table(rows: Sequence[Mapping[str, Any]], order: Sequence[str]) -> str:
    """Return the tables as Markdown; raise ConfigError where the default was never trained."""
    hits = read_hits(rows)
    if ("default", False) not in hits:
        raise ConfigError("rows: none of the default, beside which all else stands; run it first")
    return "\n".join([_write_losses(hits), _write_claims(hits), _write_rest(hits, rows, order)])


def _write_losses(hits: Mapping[tuple[str, bool], dict[int, Hits]]) -> str:
    lines = [
        "| loss | k-NN translation | top-1, % | paper: N-ImageNet, ViT-B/16 |",
        "|---|---|---|---|",
    ]
    for loss in LOSSES:
        for translated in (False, True):
            if (loss, translated) in hits:
                by_seed = hits[loss, translated]
                name = "both (default)" if loss == "default" else loss.removeprefix("loss ")
                theirs = PAPER.get((loss, translated))
                shown = "not told" if theirs is None else f"{theirs:.2f}"
                ours = estimate(_stack(by_seed, sorted(by_seed)))
                lines.append(f"| {name} | {'yes' if translated else 'no'} | {ours} | {shown} |")
    return "\n".join([*lines, ""])


def _write_claims(hits: Mapping[tuple[str, bool], dict[int, Hits]]) -> str:
    lines = [
        "| the paper finds | there | here, the same recordings | shown here? |",
        "|---|---|---|---|",
    ]
    for claim, one, other in CLAIMS:
        if one in hits and other in hits:
            found = compare(hits[one], hits[other])
            theirs = PAPER[one] - PAPER[other]
            lines.append(f"| {claim} | {theirs:+.2f} | {found.signed} | {judge(found)} |")
    return "\n".join([*lines, ""])


def judge(found: Estimate) -> str:
    """Return whether a difference that the paper has above 0 is above 0 here."""
    if found.low > 0:
        return "yes"
    return "no: it is the other way" if found.high < 0 else "no: it may be nothing"


def _write_rest(
    hits: Mapping[tuple[str, bool], dict[int, Hits]],
    rows: Sequence[Mapping[str, Any]],
    order: Sequence[str],
) -> str:
    lines = [
        "| changed | top-1, % | change [95%] | with k-NN, % | seeds |",
        "|---|---|---|---|---|",
    ]
    for name in order:
        if (name, False) in hits:
            plain, moved = hits[name, False], hits[name, True]
            stacked = [estimate(_stack(one, sorted(one))) for one in (plain, moved)]
            change = "" if name == "default" else compare(plain, hits["default", False]).signed
            lines.append(f"| {name} | {stacked[0]} | {change} | {stacked[1]} | {len(plain)} |")
    teacher, chance = (
        100 * np.mean([row[key] for row in rows]) for key in ("teacher_error", "chance")
    )
    lines += ["", f"Teacher on the pictures {100 - teacher:.1f}%, chance {chance:.1f}%; "
              f"{rows[0]['evaluated']} recordings."]  # fmt: skip
    return "\n".join([*lines, ""])
