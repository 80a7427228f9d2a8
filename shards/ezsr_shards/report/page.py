"""Page: one self-contained HTML file of a shard set, for a browser without a network."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template

from ezsr_shards.errors import ConfigError, OutputError, check_number
from ezsr_shards.report import figures, sections
from ezsr_shards.report.gallery import class_choices, gallery
from ezsr_shards.report.markup import plural, text
from ezsr_shards.report.survey import Survey, survey
from ezsr_shards.store import Place, open_store, write_atomically, write_bytes

MARK = '<meta name="generator" content="ezsr-shards report">'
"""What tells our own page, which may be replaced, from anything else."""

_MARK_WITHIN_BYTES = 1000
_MOST_CONFIG = 200_000  # characters


@dataclass(frozen=True)
class ReportOptions:
    """What `ezsr-shards report` writes."""

    to: str | None = None
    """File to write, .html; by default OUT/report.html, or report.html here if OUT is a URL."""
    samples: int = 48
    """Samples shown with their picture and events, spread over all shards."""

    def __post_init__(self) -> None:
        """Refuse what cannot be written."""
        check_number("samples", self.samples, 0, 1000)


def write_report(place: Place, options: ReportOptions | None = None) -> tuple[Path, Survey]:
    """Write the page of a shard set; return where it is, and what was found.

    Raises ConfigError or OutputError where it cannot be written, or would replace another file.
    """
    options = options or ReportOptions()
    store = open_store(place)
    path = Path(options.to) if options.to else store.nearby / "report.html"
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"to {path}: the name must end in .html")
    found = survey(store)
    try:
        if path.exists() and MARK.encode() not in _beginning(path):
            raise OutputError(f"to {path}: is no report, so it is kept; give another name")
        page = build_page(found, options.samples).encode()
        write_atomically(path, write_bytes(page))
    except OSError as error:
        raise OutputError(f"to {path}: cannot be written ({error.strerror or error})") from error
    return path, found


def _beginning(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_MARK_WITHIN_BYTES)


def build_page(found: Survey, samples: int) -> str:
    """Return the whole page as HTML, with at most so many samples."""
    rows, shown = gallery(found, samples)
    style, script = (_asset(f"page.{kind}").strip() for kind in ("css", "js"))
    return Template(_asset("page.html")).substitute(
        mark=MARK,
        policy="default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'",
        style=style,
        script=script,
        title=text(found.title),
        subtitle=sections.subtitle(found),
        head=sections.head(found),
        made=sections.made(found),
        notices=sections.notices(found),
        measured=figures.measured(found),
        figures=figures.figures(found),
        rows=rows,
        shown=_shown(found, len(shown)),
        theta=" θ: the contrast thresholds drawn." if any(f.threshold_on for f in shown) else "",
        choices=class_choices(shown),
        classes=sections.classes(found),
        failures=sections.failures(found),
        runs=sections.runs(found),
        config=_config(found),
        versions=sections.versions(found),
        version=text(version("ezsr")),
    )


def _config(found: Survey) -> str:
    try:
        shown = json.dumps(found.config, indent=2, sort_keys=True, ensure_ascii=False)
    except RecursionError:
        return "nested too deeply to be shown"
    return text(shown, _MOST_CONFIG)


def _shown(found: Survey, shown: int) -> str:
    every = found.total("samples")
    if shown == every:
        return f"All {plural(every, 'sample')}"
    return f"{shown:,} of {plural(every, 'sample')}, {sections.where(found)}"


def _asset(file: str) -> str:
    return files("ezsr_shards.report").joinpath(file).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
