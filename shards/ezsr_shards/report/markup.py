"""Markup: text from anywhere, and numbers, as they may stand in the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

_MOST_TEXT = 300
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_PREFIXES = ("", "\u00a0k", "\u00a0M", "\u00a0G", "\u00a0T", "\u00a0P")
NO_VALUE = '<span class="none">\u2013</span>'


def text(value: object, most: int = _MOST_TEXT) -> str:
    """Return text as HTML that shows it and does nothing, shortened with an ellipsis."""
    plain = _UNPRINTABLE.sub("\ufffd", str(value))
    return escape(plain if len(plain) <= most else f"{plain[: most - 1]}…")


def name(value: object, most: int = _MOST_TEXT) -> str:
    """Return a name as HTML that keeps its own direction of writing to itself."""
    return f"<bdi>{text(value, most)}</bdi>"


def short(value: float) -> str:
    """Return a number by its first three digits, such as '3.96 M'; small whole ones as they are."""
    if value < 1000 and value == int(value):
        return f"{value:.0f}"
    for prefix in _PREFIXES:
        if value < 999.5 or prefix == _PREFIXES[-1]:
            break
        value /= 1000
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:,.{decimals}f}{prefix}"


def number(value: float | None, decimals: int = 0, unit: str = "") -> str:
    """Return a number with its unit, or a dash where there is none."""
    if value is None or value != value:
        return NO_VALUE
    return f"{value:,.{decimals}f}" + (f"\u00a0{unit}" if unit else "")


def size(width: int, height: int) -> str:
    """Return a sensor's or a picture's size, such as '346 × 260'."""
    return f"{width}\u00a0\u00d7\u00a0{height}"


def plural(count: int, noun: str) -> str:
    """Return '1 shard' or '2 shards'."""
    form = noun if count == 1 else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count:,} {form}"


def table(heads: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of HTML cells; each column has a title and a class, such as "number"."""
    top = "".join(f'<th scope="col" class="{style}">{title}</th>' for title, style in heads)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{h[1]}">{c}</td>' for h, c in zip(heads, row, strict=True))
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def figure(title: str, drawing: str, *captions: str) -> str:
    """Return a titled figure with what it is of below, a line each."""
    lines = "".join(f"<div>{caption}</div>" for caption in captions if caption)
    return f"<figure><h3>{title}</h3>{drawing}<figcaption>{lines}</figcaption></figure>\n"
