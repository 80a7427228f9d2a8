"""Further runs, of other seeds or from elsewhere, held against laws fitted without them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from cells import check_row, is_guessing
from laws import law_limits

from ezsr_shards.errors import ConfigError

Row = dict[str, Any]


def belongs(row: Row, law: dict[str, Any]) -> bool:
    """Tell whether a run is one of those that a law speaks of, at any size."""
    equal = [name for name in ("size", "parameters", "pairs", "views") if name in law["at"]]
    seen = {point["samples_seen"] for point in law["points"]}
    return row["samples_seen"] in seen and all(row[name] == law["at"][name] for name in equal)


def hold_against(fit: dict[str, Any], fitted: Sequence[Row], rows: Iterable[Row]) -> list[Row]:
    """Return whether each run lies within the 95% that each law leaves one more run.

    fitted  the rows that the laws were fitted to, none of which is held against them
    rows    all others; those near guessing are left out, as their cells are from laws

    A run is held against the laws along pairs and along parameters, within the sizes that were
    fitted. Raises ConfigError where none is left, or where one was trained with other options.
    """
    known = {row["cell"] for row in fitted}
    further = [row for row in rows if row["cell"] not in known]
    for row in further:
        check_row(row)
    _check_alike([*fitted, *further])
    learnt = [row for row in further if not is_guessing(row["error"], fit["chance"])]
    held = [_hold(row, law) for law in fit["laws"] for row in learnt if _is_within(row, law)]
    if not held:
        raise ConfigError(
            f"hold: of {len(further)} further runs none has a law to be held against; give folders "
            "with runs of other seeds than the laws were fitted to"
        )
    return held


def _check_alike(rows: Sequence[Row]) -> None:
    """Refuse runs that differ in more than what a grid varies."""

    def common(row: Row) -> Row:
        config = row.get("config") or {}
        data = {k: v for k, v in config.get("data", {}).items() if k not in ("pairs", "views")}
        return {**{k: v for k, v in config.items() if k not in ("seed", "student")}, "data": data}

    for row in rows:
        if common(row) != common(rows[0]):
            raise ConfigError(
                f"hold: run {row['cell']!r} was trained with other options than the laws' runs"
            )


def _is_within(row: Row, law: dict[str, Any]) -> bool:
    if len(law["along"]) > 1 or not law["band"] or not belongs(row, law):
        return False
    sizes = [point[law["along"][0]] for point in law["points"]]
    return bool(min(sizes) <= row[law["along"][0]] <= max(sizes))


def _hold(row: Row, law: dict[str, Any]) -> Row:
    along, measure = law["along"][0], law["measure"]
    value, low, high = law_limits(law, float(row[along]))
    measured = row[measure]
    told = {"measured": measured, "value": value, "value_95": [low, high]}
    facts = {name: row[name] for name in ("cell", "size", "pairs", "seed")}
    return {**facts, "measure": measure, "along": along, **told, "inside": low <= measured <= high}


def write_held_table(held: Sequence[Row]) -> str:
    """Return Markdown: every run beside what was said of it, and how many lie inside."""
    lines = [
        "| measure | along | model | pairs | seed | measured, % | the law said, % [95%] | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in held:
        low, high = one["value_95"]
        said = f"{100 * one['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        lines.append(
            f"| {one['measure']} | {one['along']} | {one['size']} | {one['pairs']:,} | "
            f"{one['seed']} | {100 * one['measured']:.1f} | {said} | "
            f"{'inside' if one['inside'] else 'outside'} |"
        )
    for measure in dict.fromkeys(one["measure"] for one in held):
        inside = np.array([one["inside"] for one in held if one["measure"] == measure])
        lines += ["", f"{measure}: {inside.sum()} of {len(inside)} inside."]
    return "\n".join([*lines, ""])
