"""Report: the figures of an evaluation, with all that decided them, for people and programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ezsr_shards.errors import OutputError
from ezsr_shards.shardset import write_json
from ezsr_shards.store import write_atomically
from ezsr_train.evaluate import Answer, accuracy
from ezsr_train.zeroshot import Accuracy

REPORT_FILE, MARKDOWN_FILE = "report.json", "report.md"
CONFUSION_FILE, ANSWERS_FILE = "confusion.png", "answers.csv"
REPORT_FILES = (REPORT_FILE, MARKDOWN_FILE, CONFUSION_FILE, ANSWERS_FILE)
BY_TRUST = "a local file's, by trust"
OWN_NAMES = "those of the set, which are not the authors' for ImageNet"
_NAMED_CLASSES = 40
_TOP = 5


@dataclass(frozen=True)
class Report:
    """An evaluation.

    names     words of every class, by label
    answers   of every recording that was scored, by events
    variants  answers by other embeddings: "knn", "ceiling"
    skipped   recordings left out, by reason
    facts     everything that decided the figures: protocol, checkpoint, data, texts, versions
    """

    names: tuple[str, ...]
    answers: tuple[Answer, ...]
    variants: dict[str, tuple[Answer, ...]]
    skipped: dict[str, int]
    facts: dict[str, Any]

    @property
    def top1(self) -> Accuracy:
        """Zero-shot top-1 on events."""
        return accuracy(list(self.answers))

    def lines(self) -> list[str]:
        """Return the figures as lines for people."""
        lines = [f"zero-shot on {len(self.answers)} recordings, {len(self.names)} classes"]
        for title, answers in self._titled():
            lines.append(
                f"{title}: top-1 {accuracy(answers)}"
                + (f", top-5 {accuracy(answers, _TOP)}" if len(self.names) > _TOP else "")
            )
        lines.append(f"chance: {1 / len(self.names):.2%}")
        if self.skipped:
            reasons = ", ".join(f"{n} {reason}" for reason, n in self.skipped.items())
            lines.append(f"left out: {reasons}")
        return lines + self._cautions()

    def _cautions(self) -> list[str]:
        """Return what a reader might otherwise take for a result."""
        found = []
        protocol = self.facts.get("protocol", {})
        if protocol.get("class_names") == OWN_NAMES:
            found.append(f"note: the official protocol, but the class names are {OWN_NAMES}")
        alike = protocol.get("recordings_with_all_slices_alike", 0)
        if alike:
            found.append(
                f"note: one slice holds all events of {alike} recordings, so --slices changes "
                f"nothing there; give a smaller --slice-events"
            )
        checkpoint = self.facts.get("checkpoint", {})
        if checkpoint.get("text_tower_is") == BY_TRUST:
            found.append(
                f"note: nothing proves that the text tower's file holds {checkpoint['model']}'s "
                f"{checkpoint['pretrained']}, against which the encoder was trained; it is trusted"
            )
        if "knn" in self.variants:
            translated = accuracy(list(self.variants["knn"]))
            if translated.interval()[1] < self.top1.interval()[0]:
                found.append("note: translation made it worse; does the pool show what is named?")
        return found

    def _titled(self) -> list[tuple[str, list[Answer]]]:
        titles = {"knn": "events, k-NN translated", "ceiling": "teacher on the RGB pictures"}
        titled = [("events", list(self.answers))]
        return titled + [(titles[name], list(found)) for name, found in self.variants.items()]

    def to_json(self) -> dict[str, Any]:
        """Return all figures and facts as a JSON object."""
        figures = {name: self._figures(answers) for name, answers in self.variants.items()}
        return {
            **self._figures(self.answers),
            **figures,
            "classes": len(self.names),
            "chance": 1 / len(self.names),
            "skipped": sum(self.skipped.values()),
            "skipped_by_reason": self.skipped,
            "per_class": [
                {"class": name, **self._figures(mine)}
                for name, mine in zip(self.names, self._by_class(), strict=True)
            ],
            **self.facts,
        }

    def to_markdown(self) -> str:
        """Return the figures, the protocol and the classes as Markdown."""
        rows = [
            f"| {title} | {_cell(answers, 1)} | {self._top5(answers)} | {len(answers)} |"
            for title, answers in self._titled()
        ]
        parts = [
            "# Zero-shot evaluation",
            "",
            "| embeddings of | top-1 (%) [95%] | top-5 (%) [95%] | recordings |",
            "|---|---|---|---|",
            *rows,
            "",
            f"{len(self.names)} classes, chance {1 / len(self.names):.2%}, "
            f"{sum(self.skipped.values())} recordings left out. Intervals are Wilson's.",
            "",
        ]
        for section, facts in self.facts.items():
            parts += [f"## {section.capitalize()}", "", "| | |", "|---|---|"]
            parts += [f"| {name} | {_text(value)} |" for name, value in facts.items()]
            parts.append("")
        parts += ["## Classes", "", "| class | top-1 (%) [95%] | recordings |", "|---|---|---|"]
        for name, mine in zip(self.names, self._by_class(), strict=True):
            parts.append(f"| {_text(name)} | {_cell(mine, 1)} | {len(mine)} |")
        return "\n".join([*parts, ""])

    def _by_class(self) -> list[list[Answer]]:
        found: list[list[Answer]] = [[] for _ in self.names]
        for one in self.answers:
            found[one.label].append(one)
        return found

    def _top5(self, answers: Sequence[Answer]) -> str:
        return _cell(answers, _TOP) if len(self.names) > _TOP else "-"

    def _figures(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return counts, shares and intervals; top-5 says nothing of five classes or fewer."""
        found: dict[str, Any] = {"recordings": len(answers)}
        for name, most in (("top1", 1), ("top5", _TOP)):
            if most < len(self.names):
                counted = accuracy(list(answers), most)
                found |= {name: counted.share, f"{name}_hits": counted.hits}
                found[f"{name}_95"] = list(counted.interval())
        return found

    def confusion(self) -> npt.NDArray[np.int64]:
        """Return how often each class (row) was taken for each (column), (classes, classes)."""
        size = len(self.names)
        cells = [one.label * size + one.nearest[0] for one in self.answers]
        return np.bincount(cells, minlength=size * size).reshape(size, size)

    def write(self, folder: Path) -> None:
        """Write `report.json`, `report.md`, `confusion.png` and `answers.csv`."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write_text(folder / MARKDOWN_FILE, self.to_markdown())
            _write_text(folder / ANSWERS_FILE, self._to_csv())
            draw_confusion(folder / CONFUSION_FILE, self.confusion(), self.names)
            write_json(folder, REPORT_FILE, self.to_json())
        except OSError as error:
            raise OutputError(
                f"out {folder}: cannot be written ({error.strerror or error})"
            ) from error

    def _to_csv(self) -> str:
        """Return a line per recording: its key, its class, and the nearest classes, as indices."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["embeddings", "key", "class", "nearest"])
        for name, answers in (("events", self.answers), *self.variants.items()):
            rows.writerows(
                [name, one.key, one.label, " ".join(map(str, one.nearest))] for one in answers
            )
        return text.getvalue()


def _cell(answers: Sequence[Answer], most: int) -> str:
    counted = accuracy(list(answers), most)
    low, high = counted.interval()
    if not answers:
        return "-"
    return f"{100 * counted.share:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        shown = "; ".join(_text(one) for one in value[:10])
        return shown + (f"; ... ({len(value)} in all)" if len(value) > 10 else "")
    return str(value).replace("|", "\\|").replace("\n", " ")


def _write_text(path: Path, text: str) -> None:
    def write(file: IO[bytes]) -> None:
        file.write(text.encode(errors="backslashreplace"))

    write_atomically(path, write)


def draw_confusion(path: Path, counts: npt.NDArray[np.int64], names: Sequence[str]) -> None:
    """Draw which share of each class (row) was taken for which (column)."""
    from matplotlib.figure import Figure

    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    named = len(names) <= _NAMED_CLASSES
    side = max(5.0, 1.8 + 0.28 * len(names)) if named else 9.0
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    panel = figure.subplots()
    shown = panel.imshow(shares, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    panel.set(xlabel="taken for", ylabel="class")
    if named:
        names = [name.replace("$", r"\$") for name in names]  # else read as mathematics
        panel.set_xticks(range(len(names)), names, rotation=90)
        panel.set_yticks(range(len(names)), names)
    if len(names) <= 12:
        for row, column in np.argwhere(counts):
            ink = "white" if shares[row, column] > 0.5 else "black"
            panel.text(column, row, counts[row, column], ha="center", va="center", color=ink)
    figure.colorbar(shown, ax=panel, shrink=0.8, label="share of the class")
    figure.savefig(path, dpi=110)
