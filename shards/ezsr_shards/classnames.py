"""Class names: from folder names (wnids, say) or labels to words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from ezsr_shards.errors import InputError


def read_classnames(path: Path) -> Mapping[str, str]:
    """Read a map from folder name, or label, to words.

    A `.json` file holds an object, or a list whose position is the label; any other file holds
    one class a line: the folder name or label, white space or a comma, then the words.
    Raises InputError naming the first line that is neither.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        facts = json.loads(text) if path.suffix == ".json" else None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"classnames {path}: cannot be read ({error})") from error
    if isinstance(facts, list):
        facts = {str(index): name for index, name in enumerate(facts)}
    if facts is None:
        facts = dict(
            _split_line(path, n, line)
            for n, line in enumerate(text.splitlines(), 1)
            if line.strip()
        )
    if not isinstance(facts, dict) or not all(isinstance(name, str) for name in facts.values()):
        raise InputError(f"classnames {path}: give a JSON object or list of strings")
    return facts


def _split_line(path: Path, number: int, line: str) -> tuple[str, str]:
    parts = re.split(r"[\s,]+", line.strip(), maxsplit=1)
    if len(parts) != 2:
        raise InputError(
            f"classnames {path}, line {number}: {line!r} has no words after the folder name; "
            f"write 'n01440764 tench'"
        )
    return parts[0], parts[1]


def words_of(folder: str, names: Mapping[str, str]) -> str:
    """Return the words for a class folder: from the map, or the folder name without underscores."""
    return names.get(folder, folder.replace("_", " ").strip() or folder)
