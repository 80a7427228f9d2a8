"""Progress: one bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from tqdm import tqdm

from ezsr_shards.backends import Done, Outcome, Working
from ezsr_shards.shardset import ShardRecord

_SECONDS_BETWEEN_LINES = 30.0


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

    def __init__(self, total: int | None, noun: str, done: Mapping[int, ShardRecord]) -> None:
        """Start from the shards that were complete before; `noun` is what the inputs are called."""
        self._finished = sum((_counts_of(record) for record in done.values()), Counts())
        self._before = self._finished
        self._under_way: dict[int, Counts] = {}
        self._started = self._said = time.monotonic()
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
        """Everything done so far."""
        return sum(self._under_way.values(), self._finished)

    def show(self, outcome: Outcome) -> None:
        """Take in what an engine reported."""
        if isinstance(outcome, Working):
            counts = Counts(outcome.inputs, outcome.samples, outcome.events, outcome.failures)
            self._under_way[outcome.index] = counts
        else:
            self._under_way.pop(outcome.index, None)
        if isinstance(outcome, Done):
            self._finished += _counts_of(outcome.record)
        now = time.monotonic()
        if not self._quiet:
            self._bar.n = self.counts.inputs
            self._bar.set_postfix_str(self._rates(now), refresh=False)
            self._bar.update(0)
            if isinstance(outcome, Done):
                self._bar.refresh()
        elif now - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = now
            done = f"{self.counts.inputs} of {self._total or '?'} {self._noun}"
            print(f"{done}, {self._rates(now)}", file=sys.stderr)

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
