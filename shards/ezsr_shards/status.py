"""Status: what the runs on an OUT have done, are doing, and will need, from OUT alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ezsr_shards.beats import Beat, Lookout, find_beats
from ezsr_shards.claims import read_claims
from ezsr_shards.errors import ShardError
from ezsr_shards.shardset import (
    CONFIG_FILE,
    count_reasons,
    list_reasons,
    read_config,
    read_records,
    shard_name,
)
from ezsr_shards.store import Store

_MOST_LINES = 24


@dataclass(frozen=True)
class InFlight:
    """A shard that a run has claimed: how long it has been at it, and how far it is."""

    shard: str
    owner: str
    seconds: float
    inputs: int
    failures: int


@dataclass(frozen=True)
class RunStatus:
    """A run: who, its last beat, for how long by its own clock, and what it made of late.

    alive  None where only a later look can tell
    """

    who: str
    beat: int
    seconds: float
    alive: bool | None
    shards_made: int
    in_flight: int


@dataclass(frozen=True)
class Status:
    """A set in the making.

    shards, inputs  how many there are to be; inputs is None where only reading them can tell
    complete, inputs_done, samples, events, failures  of shards that are complete
    in_flight       claimed shards; abandoned ones will be taken over by other runs
    *_per_hour      of all runs that are not known to be dead, over their last ten minutes
    eta_s           seconds that the rest will take at this rate, None where nothing tells
    """

    out: str
    noun: str
    shards: int
    complete: int
    inputs: int | None
    inputs_done: int
    samples: int
    events: int
    failures: Mapping[str, int]
    in_flight: tuple[InFlight, ...]
    abandoned: tuple[str, ...]
    runs: tuple[RunStatus, ...]
    shards_per_hour: float
    samples_per_hour: float
    eta_s: float | None

    def facts(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        return asdict(self)


def look_at(store: Store, lookout: Lookout) -> Status:
    """Read a set's status; each look with the same `lookout` knows more of who is alive.

    Raises OutputError if there is no shard set, ShardError if a record is damaged.
    """
    config = read_config(store)
    name, shards = config.get("name"), config.get("shards")
    if not isinstance(name, str) or not isinstance(shards, int):
        raise ShardError(f"{store.url}: its {CONFIG_FILE} is damaged, or not of this program")
    sizes = store.sizes()
    names = list(sizes)
    records = [
        record
        for record in read_records(store, name)
        if sizes.get(f"{record.name}.tar") == record.size_bytes
    ]
    alive = {token: lookout.is_alive(token) for token in find_beats(names)}
    beats = {token: beat for token in alive if (beat := lookout.read(token))}
    complete = {record.name for record in records}
    claims = {
        shard_name(name, index): owner
        for index, owner in read_claims(store, name, names).items()
        if shard_name(name, index) not in complete
    }
    in_flight = [
        _in_flight(shard, beats[owner])
        for shard, owner in claims.items()
        if owner in beats and alive[owner] is not False
    ]
    rates = _rates([beats[token] for token in beats if alive[token] is not False])
    inputs = config.get("pictures", config.get("recordings"))
    done = sum(record.pictures for record in records)
    return Status(
        out=store.url,
        noun="recordings" if "import" in config else "pictures",
        shards=shards,
        complete=len(records),
        inputs=inputs,
        inputs_done=done,
        samples=sum(record.samples for record in records),
        events=sum(record.events for record in records),
        failures=count_reasons([failure for record in records for failure in record.failures]),
        in_flight=tuple(in_flight),
        abandoned=tuple(sorted(claims.keys() - {one.shard for one in in_flight})),
        runs=tuple(_run_status(beats[token], alive[token]) for token in beats),
        shards_per_hour=3600 * rates["shards"],
        samples_per_hour=3600 * rates["samples"],
        eta_s=_eta_s(
            rates,
            shards - len(records),
            None if inputs is None else inputs - done - sum(one.inputs for one in in_flight),
        ),
    )


def describe_status(status: Status) -> str:
    """Return a status as one screen of text."""
    done = f"{status.inputs_done} of {'?' if status.inputs is None else status.inputs}"
    flying = f"{len(status.in_flight)} in flight, " if status.in_flight else ""
    waiting = status.shards - status.complete - len(status.in_flight) - len(status.abandoned)
    lines = [
        f"{'shards':12}{status.complete} of {status.shards} complete, {flying}{waiting} to do",
        f"{status.noun:12}{done}; {status.samples} samples, {status.events / 1e6:.1f} M events",
        f"{'failed':12}{list_reasons(status.failures) or 'none'}",
        f"{'rate':12}{status.samples_per_hour:,.0f} samples/h, {status.shards_per_hour:,.0f} "
        f"shards/h",
        f"{'left':12}{_in_words(status)}",
    ]
    for run in status.runs:
        state = {True: "alive", False: "dead", None: "alive, if a later look finds another beat"}
        lines.append(
            f"{'run':12}{run.who}: beat {run.beat} after {run.seconds:.0f} s, "
            f"{run.shards_made} shards made, {run.in_flight} in flight; {state[run.alive]}"
        )
    for one in status.in_flight:
        lines.append(
            f"{one.shard:16}  {one.inputs} {status.noun}, {one.failures} failed, for "
            f"{one.seconds:.0f} s by {one.owner}"
        )
    lines += [f"{shard:16}  of a run that died; others take it over" for shard in status.abandoned]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES - 1 :] = [f"and {len(lines) - _MOST_LINES + 1} lines more; see --json"]
    return "\n".join(lines)


def _in_words(status: Status) -> str:
    if status.complete == status.shards:
        return "nothing: every shard is complete"
    if status.eta_s is None:
        return "not known: no run has made anything of late" if status.runs else "no run is at it"
    return f"{status.eta_s / 60:.0f} min at this rate"


def _in_flight(shard: str, beat: Beat) -> InFlight:
    making = _part(beat.work, "making")
    facts = _part(making, str(int(shard.rpartition("-")[2])))
    since_s = _number(facts, "since_s", beat.said_s)
    inputs, failures = (int(_number(facts, key)) for key in ("inputs", "failures"))
    return InFlight(shard, str(beat), max(0.0, beat.said_s - since_s), inputs, failures)


def _run_status(beat: Beat, alive: bool | None) -> RunStatus:
    return RunStatus(
        who=str(beat),
        beat=beat.count,
        seconds=max(0.0, beat.said_s - beat.started_s),
        alive=alive,
        shards_made=int(_number(_part(beat.work, "made"), "shards")),
        in_flight=len(_part(beat.work, "making")),
    )


def _rates(beats: list[Beat]) -> dict[str, float]:
    """Return shards, samples and inputs a second, of all runs together."""
    rates = dict.fromkeys(("shards", "samples", "inputs"), 0.0)
    for beat in beats:
        recent = _part(beat.work, "recent")
        for key in rates:
            rates[key] += _number(recent, key) / max(_number(recent, "seconds"), 1.0)
    return rates


def _eta_s(rates: Mapping[str, float], shards: int, inputs: int | None) -> float | None:
    if shards == 0:
        return 0.0
    left, rate = (shards, rates["shards"]) if inputs is None else (inputs, rates["inputs"])
    return max(0, left) / rate if rate else None


def _number(facts: Mapping[str, Any], name: str, otherwise: float = 0.0) -> float:
    value = facts.get(name)
    return float(value) if isinstance(value, int | float) else otherwise


def _part(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = facts.get(name)
    return part if isinstance(part, dict) else {}
