"""How often the intervals of a scaling law hold what was planted.

    python benchmarks/fit_coverage.py [--trials 200]

Runs are made up from a known law, with noise of seeds and of counting, and go the way of real ones:
lines of `runs.jsonl`, cells, fits, the decision about the floor, a prediction for one more run.
Results go to benchmarks/results/fit_coverage.json.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from cells import read_cells, split_series
from laws import FLOOR, POWER, choose, fit_both, predict_largest, run_variance
from machine import ROOT, write_result
from power_law import HUBER_TURN, fit_law
from scipy.special import ndtri


@dataclass(frozen=True)
class Planted:
    """A law, error = factor * pairs^-exponent + floor, and the noise of its runs.

    seed_noise  standard deviation of ln(error) between seeds
    alike       whether a seed is as good or bad for all its runs
    shared      correlation between runs of whether a sample is hard
    kept        whether runs say of each sample whether it was named rightly
    """

    factor: float = 6.0
    exponent: float = 0.4
    floor: float = 0.0
    pairs: tuple[int, ...] = (300, 1000, 3000, 10_000, 30_000, 100_000)
    seeds: int = 3
    evaluated: int = 600
    seed_noise: float = 0.05
    alike: bool = False
    shared: float = 0.0
    kept: bool = True

    def error(self, pairs: int) -> float:
        """Return the true error."""
        return float(self.factor * pairs**-self.exponent + self.floor)

    def rows(self, rng: np.random.Generator, pairs: tuple[int, ...] = ()) -> list[dict[str, Any]]:
        """Return runs as `runs.jsonl` has them."""
        common, luck = rng.standard_normal(self.evaluated), rng.standard_normal(self.seeds)
        return [
            self._row(number, seed, (common, luck[seed]), rng)
            for number in pairs or self.pairs
            for seed in range(self.seeds)
        ]

    def _row(
        self, pairs: int, seed: int, shared: tuple[Any, float], rng: np.random.Generator
    ) -> dict[str, Any]:
        common, luck = shared
        luck = luck if self.alike else rng.standard_normal()
        error = min(self.error(pairs) * np.exp(self.seed_noise * luck), 1.0)
        own = rng.standard_normal(self.evaluated)
        hard = self.shared**0.5 * common + (1 - self.shared) ** 0.5 * own
        wrong = hard < ndtri(error)
        return {
            "cell": f"{pairs}",
            "pairs": pairs,
            "views": 1,
            "samples_seen": 100_000,
            "size": "one",
            "parameters": 1_000_000,
            "seed": seed,
            "error": float(wrong.mean()),
            "correct": int((~wrong).sum()),
            "evaluated": self.evaluated,
            "per_sample": "".join("01"[int(not one)] for one in wrong) if self.kept else None,
            "distance": error / 2,
            "teacher_error": 0.001,
            "chance": 0.01,
            "compute": {"student_flops": 1e15, "teacher_flops": 1e14, "synthesis_seconds": 1.0},
            "seconds": 1.0,
        }


CASES = {
    "pure, 61% to 6%": Planted(),
    "pure, 72% to 17%, 1,000 samples": Planted(3, 0.25, evaluated=1000, seed_noise=0.03),
    "pure, 2,000 samples": Planted(evaluated=2000),
    "pure, hard samples alike for all runs": Planted(shared=0.7),
    "pure, hard samples alike, answers not kept": Planted(shared=0.7, kept=False),
    "pure, one seed": Planted(seeds=1),
    "pure, seeds alike for all their runs": Planted(alike=True),
    "pure, two seeds of 10%, 2,000 samples": Planted(seeds=2, evaluated=2000, seed_noise=0.1),
    "pure, four numbers of pairs": Planted(pairs=(300, 1000, 3000, 10_000)),
    "floor of 5%, 66% to 11%, hard samples alike": Planted(floor=0.05, shared=0.7),
    "floor of 5%, 2,000 samples, seeds 2%": Planted(floor=0.05, evaluated=2000, seed_noise=0.02),
    "floor of 10%, 82% to 27%, 2,000 samples, seeds 2%": Planted(
        3, 0.25, 0.1, evaluated=2000, seed_noise=0.02
    ),
}


def try_power(
    planted: Planted, rng: np.random.Generator, turn: float = HUBER_TURN
) -> dict[str, Any]:
    """Fit a power law alone; return its exponent, and whether its interval holds the true one."""
    (series,) = split_series(read_cells(planted.rows(rng)))
    law = fit_law(series.points("error"), turn=turn)
    return {
        "exponent": law.exponents[0],
        "holds": holds(law.exponents_95[0], planted.exponent),
        "width": np.ptp([np.inf if end is None else end for end in law.exponents_95[0]]),
    }


def holds(ends: Any, true: float) -> bool:
    """Return whether an interval, of which an end may be open, holds a value."""
    low, high = ends
    return (low is None or low <= true) and (high is None or true <= high)


def try_both(planted: Planted, rng: np.random.Generator) -> dict[str, Any]:
    """Go the whole way; return what the intervals hold, and which law is reported."""
    (series,) = split_series(read_cells(planted.rows(rng)))
    points = series.points("error")
    laws = fit_both(points)
    reported, _ = choose(laws[FLOOR], predict_largest(series, points, 1.0))
    floor, law = laws[FLOOR], laws[reported]
    assert floor is not None
    assert law is not None
    found = {
        "power holds the exponent": holds(laws[POWER].exponents_95[0], planted.exponent),  # type: ignore[union-attr]
        "floor fit holds the exponent": holds(floor.exponents_95[0], planted.exponent),
        "floor fit holds the floor": holds(floor.floor_95, planted.floor),
        "floor's interval excludes 0": bool(floor.floor_95 and floor.floor_95[0]),
        "floor reported": reported == FLOOR,
    }
    for times in (1, 3, 10):
        pairs = times * max(planted.pairs)
        said = law.errors([float(pairs)])
        limits = law.intervals([float(pairs)], *run_variance(series.noise("error"), said))
        new = planted.rows(rng, (pairs,))[0]["error"]
        found[f"a run at {times}x is inside"] = bool(limits[0] <= new <= limits[1])
    return found


def compare_turns(planted: Planted, trials: int) -> dict[str, Any]:
    """Return the exponents' spread and coverage by where Huber's loss turns linear."""
    turns = {"least squares": 1e3, "1.345 sd": HUBER_TURN, "1e-3 (Hoffmann et al.)": 1e-3 / 0.05}
    found = {}
    for name, turn in turns.items():
        rng = np.random.default_rng(1)
        tried = [try_power(planted, rng, turn) for _ in range(trials)]
        exponents = [one["exponent"] for one in tried]
        found[name] = {
            "standard deviation": float(np.std(exponents)),
            "coverage": float(np.mean([one["holds"] for one in tried])),
        }
    return found


def main() -> None:
    """Try all cases, print shares of trials, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    trials = parser.parse_args().trials
    found: dict[str, Any] = {}
    for name, planted in CASES.items():
        rng = np.random.default_rng(0)
        tried = [try_both(planted, rng) for _ in range(trials)]
        shares = {key: float(np.mean([one[key] for one in tried])) for key in tried[0]}
        found[name] = {"planted": asdict(planted), "shares": shares}
        print(name, shares, flush=True)
    turns = compare_turns(Planted(), trials)
    print(turns)
    write_result(
        ROOT / "benchmarks/results/fit_coverage.json",
        {"trials": trials, "cases": found, "turns of Huber's loss": turns},
    )


if __name__ == "__main__":
    main()
