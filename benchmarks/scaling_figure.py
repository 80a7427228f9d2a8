"""The figure and the tables of a scaling law."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cells import read_cells
from further_runs import belongs
from laws import FLOOR, POWER
from power_law import Law

_INKS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe, Ito
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_BEYOND = 3  # times the largest size that the figure shows; fit.json has ten
_STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,  # text stays text, as journals ask
}
_LABEL_HEIGHT = 0.14  # in ln(%), of the panels' two decades
_BESIDE: dict[str, Any] = {
    "xytext": (6, 0),
    "textcoords": "offset points",
    "va": "center",
    "fontsize": 6.5,
}
_AXES = {
    "pairs": "unique pictures",
    "parameters": "parameters of the event encoder",
    "error": "zero-shot error (%)\non {scored_on}",
    "distance": "distance to the teacher (%)\n1 $-$ cosine of embeddings",
}


def draw(
    rows: list[dict[str, Any]],
    fit: dict[str, Any],
    path: Path,
    scored_on: str = "unseen compositions",
) -> None:
    """Write the figure in the format that the path's ending says: .pdf, or .png of 200 dpi.

    Columns are error over pairs, error over parameters, and distance over pairs, as far as there
    are laws; below each are the residuals. Of several numbers of views, or ways of training, it
    shows the one with most cells.
    """
    import matplotlib
    from matplotlib.figure import Figure

    wanted = (("error", ["pairs"]), ("error", ["parameters"]), ("distance", ["pairs"]))
    shown = [[law for law in fit["laws"] if (law["measure"], law["along"]) == w] for w in wanted]
    columns = [_most_cells(laws) for laws in shown if laws]
    with matplotlib.rc_context(_STYLE):
        width = (3.4, 5.4, 7.0)[len(columns) - 1]
        figure = Figure(figsize=(width, 3.5), layout="constrained")
        panels = figure.subplots(2, len(columns), squeeze=False, height_ratios=(3, 1))
        names = _name_models(rows)
        for laws, (upper, lower) in zip(columns, panels.T, strict=True):
            _draw_column(upper, lower, laws, rows, names)
            upper.set_ylabel(_AXES[laws[0]["measure"]].format(scored_on=scored_on))
            lower.set_xlabel(_AXES[laws[0]["along"][0]])
            if laws[0]["measure"] == "error" and fit["teacher_error"] is not None:
                _draw_ceiling(upper, 100 * fit["teacher_error"])
        panels[1, 0].set_ylabel("off the law (%)")
        _add_legend(figure, names, columns=2 * len(columns))
        facts = {"CreationDate": None} if path.suffix == ".pdf" else None  # the same bytes again
        figure.savefig(path, dpi=200, metadata=facts)


def _name_models(rows: Sequence[dict[str, Any]]) -> list[tuple[int, str]]:
    """Return parameters and name of every model, by parameters."""
    return sorted({(row["parameters"], row["size"]) for row in rows})


def _most_cells(laws: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the laws of that number of views and way of training which has most points."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for law in laws:
        groups.setdefault((law["at"]["views"], law["at"]["training"]), []).append(law)
    return max(groups.values(), key=lambda group: sum(len(law["points"]) for law in group))


def _look(names: list[tuple[int, str]], parameters: int) -> tuple[str, str]:
    n = [known for known, _ in names].index(parameters)
    return _INKS[n % len(_INKS)], _MARKS[n % len(_MARKS)]


def _draw_column(
    upper: Any,
    lower: Any,
    laws: list[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    names: list[tuple[int, str]],
) -> None:
    """Draw laws of one kind, and how far the cells are off them."""
    along, taken = laws[0]["along"][0], dict[float, list[float]]()
    for n, law in enumerate(laws):
        if along == "pairs":
            ink = _look(names, law["at"]["parameters"])[0]
            _draw_law(upper, law, ink, beyond=_BEYOND)
            _label_exponent(upper, law, ink, taken)
        else:  # a band for the most pairs only, since all would hide each other
            ink = "#666666"
            _draw_law(upper, law, ink, with_band=n == len(laws) - 1)
            _label_pairs(upper, law, n == 0, taken)
        aside = 1.06 ** (n - (len(laws) - 1) / 2)  # so that residuals do not hide each other
        for point in law["points"]:
            at = law["at"] | point
            look = _look(names, at["parameters"])
            _draw_cell(upper, lower, law, point, (*look, aside))
        for row in rows:  # those too near guessing for the law, too
            if belongs(row, law):
                colour = _look(names, row["parameters"])[0]
                value = 100 * row[law["measure"]]
                upper.plot(row[along], value, ".", color=colour, ms=2.5, alpha=0.5)
    _dress(upper, lower)
    values = [100 * point["value"] for law in laws for point in law["points"]]
    upper.set_ylim(min(values) / 2, 1.6 * max(values))  # wide bands must not make all else small
    for law in laws if along == "pairs" else laws[-1:]:
        ink = _look(names, law["at"]["parameters"])[0] if along == "pairs" else "#666666"
        _draw_held_out(upper, law, ink)


def _draw_cell(
    upper: Any, lower: Any, law: dict[str, Any], point: dict[str, Any], look: tuple[str, str, float]
) -> None:
    """Draw a cell with its interval, and below how far it is off the law."""
    colour, mark, aside = look
    size, value = point[law["along"][0]], 100 * point["value"]
    ends = np.array(point["value_95"] or [np.nan, np.nan]) * 100
    bars = np.array([[value - ends[0]], [ends[1] - value]])
    style = {"color": colour, "marker": mark, "ms": 3.5, "lw": 0.8, "zorder": 4}
    upper.errorbar([size], [value], bars, **style)
    said = 100 * _at(law, size)
    lower.errorbar([aside * size], [100 * (value / said - 1)], 100 * bars / said, **style)


def _at(law: dict[str, Any], size: float) -> float:
    """Return the reported law at a size."""
    return float(Law(**law["fits"][law["reported"]]).errors([size]))


def _draw_law(
    panel: Any, law: dict[str, Any], ink: str, beyond: float = 1, with_band: bool = True
) -> None:
    """Draw a law with its band: a full line where there are cells, dashes beyond."""
    band = {name: np.array(column) for name, column in law["band"].items()}
    at, value = band["size"], 100 * band["value"]
    most = max(point[law["along"][0]] for point in law["points"])
    near, inside = at <= 1.02 * beyond * most, at <= 1.02 * most
    if with_band:
        low, high = (100 * band[name][near] for name in ("low", "high"))
        panel.fill_between(at[near], low, high, color=ink, alpha=0.13, lw=0)
    panel.plot(at[inside], value[inside], color=ink, lw=1)
    further = near & (at >= at[inside].max())
    panel.plot(at[further], value[further], color=ink, lw=1, ls=(0, (3, 2)))


def _find_height(law: dict[str, Any], size: float, taken: dict[float, list[float]]) -> float:
    """Return where a law's label goes, at the law's end or below labels that are there."""
    height, others = 100 * _at(law, size), taken.setdefault(size, [])
    while any(abs(np.log(height / other)) < _LABEL_HEIGHT for other in others):
        height /= 1.01
    others.append(height)
    return height


def _label_exponent(
    panel: Any, law: dict[str, Any], ink: str, taken: dict[float, list[float]]
) -> None:
    most = _BEYOND * max(point["pairs"] for point in law["points"])
    text = f"$N^{{{-law['fits'][law['reported']]['exponents'][0]:.2f}}}$"
    if law["reported"] == FLOOR:
        text += f" + {100 * law['fits'][FLOOR]['floor']:.2g}"
    panel.annotate(text, (most, _find_height(law, most, taken)), color=ink, **_BESIDE)


def _label_pairs(
    panel: Any, law: dict[str, Any], is_first: bool, taken: dict[float, list[float]]
) -> None:
    most = max(point["parameters"] for point in law["points"])
    text = f"{law['at']['pairs']:,}" + (" pictures" if is_first else "")
    ground = {"facecolor": "white", "alpha": 0.8, "lw": 0, "pad": 0.6}  # other laws pass below it
    height = _find_height(law, most, taken)
    panel.annotate(text, (most, height), color="#444444", bbox=ground, **_BESIDE)


def _draw_held_out(panel: Any, law: dict[str, Any], ink: str) -> None:
    """Draw what the law of all other cells says of the largest, a little to its left."""
    held_out = law["held out"]
    said = held_out[law["reported"]] or held_out[POWER]
    if not said:
        return
    value, (low, high) = 100 * said["value"], (100 * end for end in said["value_95"])
    style = {"color": ink, "marker": "*", "mfc": "white", "ms": 6, "lw": 0.7, "zorder": 5}
    at = [held_out[law["along"][0]] / 1.22]
    panel.errorbar(at, [value], [[value - low], [high - value]], capsize=1.5, **style)


def _dress(upper: Any, lower: Any) -> None:
    """Set scales, ticks and grids."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    upper.margins(x=0.08)
    for panel in (upper, lower):
        panel.set_xscale("log")
        low, high = upper.get_xlim()
        panel.set_xlim(low, high)
        panel.xaxis.set_major_locator(LogLocator(subs=(1,) if high > 100 * low else (1, 2, 5)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(True, which="major", lw=0.3, alpha=0.5)
    upper.tick_params(labelbottom=False)
    upper.set_yscale("log")
    upper.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    upper.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    upper.yaxis.set_minor_formatter(NullFormatter())
    lower.axhline(0, color="#444444", lw=0.6)


def _draw_ceiling(panel: Any, percent: float) -> None:
    """Draw the teacher's error, or say it at the foot where it is far below all cells."""
    least = panel.get_ylim()[0]
    near = percent > least / 3
    if near:
        panel.set_ylim(bottom=min(least, percent / 1.2))
        panel.axhline(percent, color="black", lw=0.8, ls=(0, (1, 1.5)))
    panel.annotate(
        f"teacher on the pictures: {percent:.2g}%" + ("" if near else r" $\downarrow$"),
        (0.03, percent if near else least),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2.5),
        textcoords="offset points",
        fontsize=6.5,
    )


def _add_legend(figure: Any, names: list[tuple[int, str]], columns: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for parameters, name in names:
        ink, mark = _look(names, parameters)
        label = f"{name} ({_short(parameters)})"
        handles.append(Line2D([], [], color=ink, marker=mark, ms=3.5, lw=1, label=label))
    handles += [
        Patch(color="#777777", alpha=0.25, lw=0, label="95% of further runs"),
        Line2D(
            [],
            [],
            color="#444444",
            marker="*",
            mfc="white",
            ms=6,
            lw=0,
            label="predicted from the others",
        ),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False)


def _short(number: float) -> str:
    """Return 1.2M for 1,234,567."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.3g}"


def write_table(rows: Sequence[dict[str, Any]], fit: dict[str, Any]) -> str:
    """Return Markdown: tables of cells, of laws, and of what was said of the largest cells."""
    runs = f"{fit['runs']} runs in {fit['cells']} cells"
    if fit["teacher_error"] is not None:
        runs += f"; the teacher's error on the pictures is {fit['teacher_error']:.1%}"
    if fit["chance"] is not None:
        runs += f", that of guessing {1 - fit['chance']:.1%}"
    parts = [f"{runs}.", "", *_cell_table(rows), "", *_law_table(fit), "", *_held_out_table(fit)]
    if fit["frontier"]:
        found = fit["frontier"]
        law = f"error = {found['factor']:.3g} C^-{found['exponent']:.3g}"
        parts += ["", f"Compute frontier, LAION's rule: {law}, C in FLOPs of the student."]
    if fit["cautions"]:
        parts += ["", *(f"- {caution}" for caution in fit["cautions"])]
    return "\n".join([*parts, ""])


def _cell_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return means over seeds, with the least and greatest of them."""
    lines = [
        "| model | parameters | pairs | views | samples seen | seeds | error, % | distance, % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell in read_cells(rows):
        error, distance = (_mean_and_range(values) for values in (cell.errors, cell.distances))
        lines.append(
            f"| {cell.size} | {cell.parameters:,} | {cell.pairs:,} | {cell.views} | "
            f"{cell.samples_seen:,} | {len(cell.errors)} | {error} | {distance} |"
        )
    return lines


def _mean_and_range(values: Any) -> str:
    mean = f"{100 * values.mean():.1f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({100 * values.min():.1f} to {100 * values.max():.1f})"


def _law_table(fit: dict[str, Any]) -> list[str]:
    lines = [
        "| measure | along | at | exponent [95%] | bootstrap | floor, % [95%] | reported |",
        "|---|---|---|---|---|---|---|",
    ]
    for law in fit["laws"]:
        name = law["reported"]
        found, floor = law["fits"][name], law["fits"][FLOOR]
        ends = zip(found["exponents"], found["exponents_95"], strict=True)
        exponents = "; ".join(f"{one:.3f} {_interval(both, 1, 3)}" for one, both in ends)
        draws = "; ".join(_interval(both, 1, 3) for both in law["bootstrap"][name]["exponents_95"])
        floors = (
            f"{100 * floor['floor']:.2g} {_interval(floor['floor_95'], 100, 1)}" if floor else "-"
        )
        lines.append(
            f"| {law['measure']} | {' and '.join(law['along'])} | {_where(law)} | {exponents} | "
            f"{draws} | {floors} | {'with' if name == FLOOR else 'no'} floor: {law['why']} |"
        )
    return lines


def _held_out_table(fit: dict[str, Any]) -> list[str]:
    """Return how well the largest cells are predicted by laws of all others."""
    lines = [
        "| measure | along | at | largest cell | measured, % | power law said [95%] | with floor |",
        "|---|---|---|---|---|---|---|",
    ]
    for law in fit["laws"]:
        one = law["held out"]
        size = ", ".join(f"{one[name]:,}" for name in law["along"])
        said = " | ".join(_prediction(one[name]) for name in (POWER, FLOOR))
        lines.append(
            f"| {law['measure']} | {' and '.join(law['along'])} | {_where(law)} | {size} | "
            f"{100 * one['measured']:.1f} | {said} |"
        )
    return lines


def _prediction(said: dict[str, Any] | None) -> str:
    if not said:
        return "-"
    off = f"{100 * said['miss']:+.1f} off, {'inside' if said['inside'] else 'outside'}"
    return f"{100 * said['value']:.1f} {_interval(said['value_95'], 100, 1)} ({off})"


def _interval(ends: Sequence[float | None], unit: float, digits: int) -> str:
    low, high = ("open" if end is None else f"{unit * end:.{digits}f}" for end in ends)
    return f"[{low}, {high}]"


def _where(law: dict[str, Any]) -> str:
    at = law["at"]
    named = [at["size"]] if "size" in at else []
    named += [f"{at['pairs']:,} pairs"] if "pairs" in at else []
    return ", ".join([*named, f"{at['views']} view{'s' * (at['views'] != 1)}", at["training"]])
