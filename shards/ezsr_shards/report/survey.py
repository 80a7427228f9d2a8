"""Survey: what a shard set holds, finished or not, in the time that a look may take.

Counts come from the shards' records, so they are of the whole set. What only samples tell comes
from some: of local shards they are spread evenly, of others the first, as these are read from
their beginning. The survey says how many they were.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from ezsr_shards.errors import ShardError
from ezsr_shards.report.facts import Facts, Run, read_facts, read_runs
from ezsr_shards.report.stored import Stored, read_places
from ezsr_shards.sample import Sample
from ezsr_shards.shardset import (
    INDEX_FILE,
    RUNS_FILE,
    ShardClass,
    ShardRecord,
    read_classes,
    read_config,
    shard_name,
    sorted_shards,
)
from ezsr_shards.store import LocalStore, Place, Store, open_store

MOST_RECORDINGS = 500
"""Recordings whose events are counted pixel by pixel."""

_MOST_HEAT_PIXELS, _MOST_EXPECTED, _MOST_DIGITS = 1 << 22, 10**7, 18


@dataclass(frozen=True)
class Reach:
    """How far a look goes: shards opened, samples read of all of them, and which ones."""

    shards: int
    samples: int
    spread: bool


LOCAL, REMOTE = Reach(64, 5000, True), Reach(16, 320, False)


@dataclass(frozen=True)
class HeatMap:
    """Mean event count per pixel and recording, float64 (H, W), over so many recordings."""

    mean: npt.NDArray[np.float64]
    recordings: int


@dataclass(frozen=True)
class Measured:
    """Samples that were read: their facts, where they lie, and from how many shards they are.

    spread  whether they are evenly spread over these shards, and not the first of each
    """

    facts: Sequence[Facts]
    stored: Sequence[Stored] = field(repr=False)
    opened: int
    spread: bool

    def decode(self, numbers: Sequence[int], faults: list[str]) -> Iterator[tuple[Facts, Sample]]:
        """Yield samples by their numbers; add a sentence to `faults` for each that is broken."""
        for n in numbers:
            try:
                yield self.facts[n], self.stored[n].decode()
            except ShardError as error:
                fault = f"{self.stored[n].tar}: {error}"
                faults += [fault] if fault not in faults else []


@dataclass(frozen=True)
class Survey:
    """What a shard set holds.

    title      the folder's name
    config     `config.json`
    records    of the shards that are complete, in order; missing: names of those that are not
    closed     whether a run has ended well, so that the index is there
    classes    every class, or none where they are not written yet; split: its name
    runs       how it was made, in order
    measured   the samples that were read
    heat       of the recordings of the sensor size that most of them have
    faults     a sentence for whatever cannot be read; whoever reads on adds to it
    """

    title: str
    config: Mapping[str, Any]
    records: Sequence[ShardRecord]
    missing: Sequence[str]
    closed: bool
    classes: Sequence[ShardClass]
    split: str | None
    runs: Sequence[Run]
    measured: Measured
    heat: HeatMap | None
    faults: list[str]

    def total(self, count: str) -> int:
        """Return the sum of one of the records' counts, such as "samples"."""
        return sum(getattr(record, count) for record in self.records)

    def class_counts(self) -> list[tuple[ShardClass, int]]:
        """Return every class, in order of its label, and its samples in the complete shards."""
        counts: Counter[int] = Counter()
        for record in self.records:
            for label, count in record.labels.items():
                if label.isdecimal() and len(label) < _MOST_DIGITS:
                    counts[int(label)] += count
        named = {one.index: one for one in self.classes}
        unnamed = {label: ShardClass(label, str(label)) for label in counts.keys() - named.keys()}
        return [(one, counts[label]) for label, one in sorted((named | unnamed).items())]


def survey(place: Place) -> Survey:
    """Read what a shard set holds; raise OutputError if there is none.

    Whatever is missing or broken in it is told in the survey.
    """
    store, faults = open_store(place), list[str]()
    config = read_config(store)
    name, names = str(config.get("name")), store.names()
    closed = INDEX_FILE in names
    records = tuple(_read_records(store, sorted_shards(names, name, ".json"), faults))
    classes, split = _read_classes(store, closed, faults)
    measured = _measure(store, records, faults)
    return Survey(
        title=_title(store),
        config=config,
        records=records,
        missing=tuple(_find_missing(config, name, records)),
        closed=closed,
        classes=classes,
        split=split,
        runs=tuple(read_runs(store.read(RUNS_FILE), faults)) if RUNS_FILE in names else (),
        measured=measured,
        heat=_heat(measured, faults),
        faults=faults,
    )


def _title(store: Store) -> str:
    """Return the name of the set's own folder."""
    where = str(store.folder.resolve()) if isinstance(store, LocalStore) else store.url
    return where.rstrip("/").rpartition("/")[2] or "shards"


def evenly(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, in order and evenly spread."""
    if count <= most:
        return list(range(count))
    return [(2 * n + 1) * count // (2 * most) for n in range(most)]


def _read_records(store: Store, names: Sequence[str], faults: list[str]) -> Iterator[ShardRecord]:
    def read(name: str) -> ShardRecord | ShardError:
        try:
            record = ShardRecord.read(store, name)
            _check_record(record, name)
            return record
        except ShardError as error:
            return error

    for found in store.read_each(read, names):
        if isinstance(found, ShardRecord):
            yield found
        else:
            faults.append(str(found))


def _check_record(record: ShardRecord, file: str) -> None:
    """Raise ShardError for what no run writes: another file's name, absurd counts."""
    if f"{record.name}.json" != file:
        raise ShardError(f"{file}: is the record of {record.name!r:.60}")
    counts = [record.pictures, record.samples, record.events, record.on_events, record.size_bytes]
    if not all(0 <= count < 10**_MOST_DIGITS for count in (*counts, *record.labels.values())):
        raise ShardError(f"{file}: a count is out of range")


def _find_missing(
    config: Mapping[str, Any], name: str, records: Sequence[ShardRecord]
) -> Iterator[str]:
    expected = config.get("shards")
    if isinstance(expected, int) and expected <= _MOST_EXPECTED:
        there = {record.name for record in records}
        wanted = (shard_name(name, n) for n in range(expected))
        yield from (one for one in wanted if one not in there)


def _read_classes(
    store: Store, closed: bool, faults: list[str]
) -> tuple[Sequence[ShardClass], str | None]:
    try:
        return read_classes(store)
    except ShardError as error:
        if closed:  # before, there are none yet
            faults.append(str(error))
        return (), None


def _measure(store: Store, records: Sequence[ShardRecord], faults: list[str]) -> Measured:
    """Read the facts of some samples of evenly spread shards."""
    reach = LOCAL if isinstance(store, LocalStore) else REMOTE
    filled = [record for record in records if record.samples > 0]
    chosen = [filled[n] for n in evenly(len(filled), reach.shards)]
    facts, stored, opened = list[Facts](), list[Stored](), 0
    for record, numbers in zip(chosen, choose_samples(chosen, reach), strict=True):
        tar = f"{record.name}.tar"
        try:
            samples, count = read_places(store, tar, numbers)
        except ShardError as error:
            faults.append(f"{tar}: {error}")
            continue
        opened += 1
        if count != record.samples and (reach.spread or len(samples) < len(numbers)):
            faults.append(f"{tar}: holds {count} samples, its record says {record.samples}")
        for sample in samples:
            try:
                facts.append(read_facts(sample))
                stored.append(sample)
            except ShardError as error:
                faults.append(f"{tar}: {error}")
    return Measured(facts, stored, opened, reach.spread)


def choose_samples(records: Sequence[ShardRecord], reach: Reach) -> list[list[int]]:
    """Return the numbers of the samples to read of each shard, in order."""
    if not reach.spread:
        most = max(1, reach.samples // max(1, len(records)))
        return [list(range(min(most, record.samples))) for record in records]
    ends = list(accumulate(record.samples for record in records))
    chosen: list[list[int]] = [[] for _ in records]
    for number in evenly(ends[-1] if ends else 0, reach.samples):
        n = bisect_right(ends, number)
        chosen[n].append(number - ends[n] + records[n].samples)
    return chosen


def _heat(measured: Measured, faults: list[str]) -> HeatMap | None:
    """Return the mean count of events at each pixel of the most common sensor size."""
    sizes = [(facts.width, facts.height) for facts in measured.facts]
    if not sizes:
        return None
    width, height = size = Counter(sizes).most_common(1)[0][0]
    if width * height > _MOST_HEAT_PIXELS:
        return None
    counts, recordings = np.zeros((height, width), np.int64), 0
    alike = [n for n, one in enumerate(sizes) if one == size]
    numbers = [alike[n] for n in evenly(len(alike), MOST_RECORDINGS)]
    for _, sample in measured.decode(numbers, faults):
        counts += sample.events.count_image().sum(axis=0)
        recordings += 1
    return HeatMap(counts / recordings, recordings) if recordings else None
