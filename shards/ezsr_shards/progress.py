"""Progress: one bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from types import TracebackType
from typing import Any

from tqdm import tqdm

from ezsr_shards.engines.outcomes import Done, Outcome, Working
from ezsr_shards.shardset import ShardRecord

_SECONDS_BETWEEN_LINES = 30.0
_RECENT_S = 600.0


@dataclass(frozen=True)
class Counts:
    """What has been done, over all shards, complete or not."""

    inputs: int = 0
    samples: int = 0
    events: int = 0
    failures: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Add field by field."""
        return Counts(
            self.inputs + other.inputs,
            self.samples + other.samples,
            self.events + other.events,
            self.failures + other.failures,
        )


class Progress:
    """Shows rate, events per second, failures and time left, and keeps the counts."""

    def __init__(
        self,
        total: int | None,
        noun: str,
        records: Mapping[int, ShardRecord],
        held: Callable[[], Mapping[int, float]] = dict,
    ) -> None:
        """Start from the shards that are complete.

        noun     what the inputs are called
        records  of complete shards, whoever made them; it grows
        held     gives the shards that this run has claimed, and since when
        """
        self._records, self._known = records, 0
        self._under_way: dict[int, Counts] = {}
        self._finished, self._own, self._made = Counts(), Counts(), 0
        self._before = self.counts
        self._held = held
        self._started = self._said = time.monotonic()
        self._history = deque([(self._started, Counts(), 0)])
        self._total, self._noun = total, noun
        self._quiet = not sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=self._before.inputs,
            bar_format=f"{{n_fmt}}/{{total_fmt}} {noun} |{{bar}}| {{remaining}} left{{postfix}}",
            disable=self._quiet,
            dynamic_ncols=True,
        )

    def __enter__(self) -> Progress:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Leave the bar as it stands."""
        self._bar.close()

    @property
    def counts(self) -> Counts:
        """Everything done so far, by whatever run."""
        for record in islice(self._records.values(), self._known, None):
            self._finished += _counts_of(record)
        self._known = len(self._records)
        under_way = dict(self._under_way).items()  # a shard may be complete before it is said so
        return sum((c for index, c in under_way if index not in self._records), self._finished)

    def show(self, outcome: Outcome) -> None:
        """Take in what an engine reported; the record of a shard is among the records already."""
        if isinstance(outcome, Working):
            counts = Counts(outcome.inputs, outcome.samples, outcome.events, outcome.failures)
            self._under_way[outcome.index] = counts
        else:
            self._under_way.pop(outcome.index, None)
        if isinstance(outcome, Done):
            self._own += _counts_of(outcome.record)
            self._made += 1
        now = time.monotonic()
        if not self._quiet:
            self._bar.n = self.counts.inputs
            self._bar.set_postfix_str(self._rates(now), refresh=False)
            self._bar.update(0)
            if isinstance(outcome, Done):
                self._bar.refresh()
        else:
            counts = self.counts
            done = f"{counts.inputs} of {self._total or '?'} {self._noun}"
            self._say_at_times(f"{done}, {self._rates(now)}")

    def wait(self, others: Sequence[object], shards: int) -> None:
        """Say that only shards are left that other runs make."""
        of = ", ".join(map(str, others[:3])) or "other runs"
        text = f"waiting for {shards} shards of {of}"
        if self._quiet:
            self._say_at_times(text)
        else:
            self._bar.n = self.counts.inputs
            self._bar.set_postfix_str(text)

    def facts(self) -> dict[str, Any]:
        """Return what this run makes and has made, and how fast of late, for its beat."""
        under_way = dict(self._under_way)
        own = sum(under_way.values(), self._own)
        now = time.monotonic()
        while len(self._history) > 1 and now - self._history[0][0] > _RECENT_S:
            self._history.popleft()
        then, before, made = self._history[0]
        self._history.append((now, own, self._made))
        recent = {key: value - getattr(before, key) for key, value in asdict(own).items()}
        return {
            "making": {
                str(index): {"since_s": since_s, **asdict(under_way.get(index, Counts()))}
                for index, since_s in self._held().items()
            },
            "made": {"shards": self._made, **asdict(own)},
            "recent": {"seconds": now - then, "shards": self._made - made, **recent},
        }

    def _say_at_times(self, text: str) -> None:
        now = time.monotonic()
        if now - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = now
            print(text, file=sys.stderr)

    def _rates(self, now: float) -> str:
        counts = self.counts
        seconds = max(now - self._started, 1e-3)
        inputs = (counts.inputs - self._before.inputs) / seconds
        events = (counts.events - self._before.events) / seconds
        text = (
            f"{inputs:.0f} {self._noun}/s, {events / 1e6:.1f} M events/s, {counts.failures} failed"
        )
        if self._quiet and self._total and inputs:
            text += f", {(self._total - counts.inputs) / inputs / 60:.0f} min left"
        return text


def _counts_of(record: ShardRecord) -> Counts:
    return Counts(record.pictures, record.samples, record.events, len(record.failures))
