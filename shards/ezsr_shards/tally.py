"""Tally: the counts of a shard in the making, and what it ends with, its tar and its record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ezsr_shards.sample import Sample
from ezsr_shards.shard import TarFacts, write_samples
from ezsr_shards.shardset import Failure, ShardRecord
from ezsr_shards.store import Place, open_store


@dataclass
class Tally:
    """Counts of one shard while it is being made; inputs are pictures or recordings."""

    inputs: int = 0
    samples: int = 0
    events: int = 0
    on_events: int = 0
    failures: list[Failure] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        """Count a finished sample."""
        self.samples += 1
        self.events += len(sample.events)
        self.on_events += sample.events.on_count
        if sample.label is not None:
            self.labels[str(sample.label)] = self.labels.get(str(sample.label), 0) + 1


OnInput = Callable[[str, Tally], None]
"""Called with an input's source before it is worked on, and the counts so far."""


def finish_shard(
    place: Place,
    name: str,
    samples: Iterable[Sample],
    tally: Tally,
    config_hash: str,
    versions: Mapping[str, str],
) -> ShardRecord:
    """Write a shard's tar, then its record, both atomically; return the record.

    `samples` counts in `tally` as it is drawn from. Raises OSError where nothing can be written.
    """
    store, written = open_store(place), list[TarFacts]()
    store.write(f"{name}.tar", lambda file: written.append(write_samples(file, samples)))
    facts = written[0]
    record = ShardRecord(
        name=name,
        pictures=tally.inputs,
        samples=tally.samples,
        events=tally.events,
        on_events=tally.on_events,
        failures=tuple(tally.failures),
        labels=dict(sorted(tally.labels.items(), key=lambda item: int(item[0]))),
        sha256=facts.sha256,
        size_bytes=facts.size_bytes,
        config_hash=config_hash,
        versions=versions,
    )
    record.write(store)
    return record
