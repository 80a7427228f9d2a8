"""Facts: what a sample's JSON and the log of runs say, as far as it can be believed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

from ezsr_shards.errors import ShardError
from ezsr_shards.events import MAX_DURATION_US, MAX_SIDE_PX
from ezsr_shards.report.stored import Stored
from ezsr_shards.sample import MAX_EVENTS
from ezsr_shards.shardset import RUNS_FILE

_MOST_COUNT, _MOST_SECONDS = 10**18, 2**36


@dataclass(frozen=True)
class Facts:
    """What `KEY.json` says of a sample; thresholds are None where none were drawn."""

    key: str
    width: int
    height: int
    duration_us: int
    events: int
    on_events: int
    label: int | None
    class_name: str | None
    caption: str | None
    kind: str | None
    capped: bool
    threshold_on: float | None
    threshold_off: float | None

    @property
    def on_share(self) -> float:
        """Share of ON events, 0..1; NaN without events."""
        return self.on_events / self.events if self.events else math.nan


@dataclass(frozen=True)
class Run:
    """One run that made shards; samples and events are of the whole set when it ended."""

    started: float
    seconds: float
    workers: int
    made: int
    shards: int
    samples: int
    events: int


def read_facts(stored: Stored) -> Facts:
    """Return a sample's facts; raise ShardError where they are missing or no such facts."""
    key = stored.place.key
    try:
        said = json.loads(stored.read(["json"])["json"])
        camera = said.get("camera")
        thresholds = camera if isinstance(camera, dict) else {}
        return Facts(
            key=key,
            width=_whole(said["width"], 1, MAX_SIDE_PX),
            height=_whole(said["height"], 1, MAX_SIDE_PX),
            duration_us=_whole(said["duration_us"], 0, MAX_DURATION_US),
            events=(events := _whole(said["events"], 0, MAX_EVENTS)),
            on_events=_whole(said["on_events"], 0, events),
            label=None if said.get("label") is None else _whole(said["label"], 0, 2**53),
            class_name=_text(said.get("class_name")),
            caption=_text(said.get("caption")),
            kind=_text(said.get("kind")),
            capped=said.get("capped") is True,
            threshold_on=_threshold(thresholds.get("threshold_on")),
            threshold_off=_threshold(thresholds.get("threshold_off")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ShardError(f"sample {key}: {key}.json lacks or garbles {error}") from error


def _whole(value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{value!r:.40} is no whole number from {least} to {most}")
    return value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _threshold(value: object) -> float | None:
    usable = type(value) in (int, float) and 0 < value < 1000  # type: ignore[operator]
    return float(value) if usable else None  # type: ignore[arg-type]


def read_runs(data: bytes, faults: list[str]) -> Iterator[Run]:
    """Yield the runs of `runs.jsonl`; add a sentence to `faults` for each line that is none."""
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        try:
            said = json.loads(line)
            run = Run(**{name: said[name] for name in Run.__dataclass_fields__})
            counts = (run.workers, run.made, run.shards, run.samples, run.events)
            for count in counts:
                _whole(count, 0, _MOST_COUNT)
            if not (0 <= run.started < _MOST_SECONDS and 0 <= run.seconds < _MOST_SECONDS):
                raise ValueError("a time is out of range")
            yield run
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            faults.append(f"{RUNS_FILE}, line {number}: garbled ({error})")
