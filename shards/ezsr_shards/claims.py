"""Claims: who makes which shard, where any number of runs share one OUT.

A run claims a shard by creating `.NAME-000042.0.claim` with its token in it, which a store grants
to one caller only, and deletes it when the shard is complete. Where the owner is dead (see
`beats.py`), the claim is not touched but succeeded, by `.NAME-000042.1.claim` and so on, which
again only one can create; the highest number counts. So no shard is made twice, but for one case:
a run that slept, was taken for dead, and wakes. It then makes the same bytes, which replace equal
ones at once and whole.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from types import TracebackType

from ezsr_shards.beats import (
    BEATS_IN_EXPIRY,
    NOBODY,
    Beat,
    Heart,
    Lookout,
    beat_name,
    find_beats,
    is_token,
)
from ezsr_shards.errors import EzsrError, OutputError
from ezsr_shards.shardset import shard_name
from ezsr_shards.store import PART_SUFFIX, Store

_SECONDS_BETWEEN_LOOKS = 1.0
_LONGEST_PAUSE_S = 10.0
_MOST_LOOKS = 16  # at owners of claims in a round: in arrays of thousands, others look at others


class Claims:
    """This run's part in the work on a shard set; a context, in which it shows that it lives."""

    def __init__(
        self,
        store: Store,
        name: str,
        expiry_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """See `beats.Beat` for expiry_s, `beats.Lookout` for the clock."""
        self.heart = Heart(store, expiry_s)
        self.longest_pause_s = min(expiry_s / BEATS_IN_EXPIRY, _LONGEST_PAUSE_S)
        self._store, self._name = store, name
        self._lookout = Lookout(store, clock)
        self._held: dict[int, tuple[int, float]] = {}
        self._there: dict[int, int] = {}
        self._parts: dict[int, list[str]] = {}
        self._looks = 0
        self._claim, self._part = _claims_of(name), _parts_of(name)

    def __enter__(self) -> Claims:
        """Show that this run lives."""
        self.heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Give back what is not complete; no worker may be at it any more."""
        with suppress(OSError, EzsrError):
            self.look()
            for index in list(self._held):
                self._delete(self._parts.get(index, []))
                self.release(index)
        self.heart.stop()

    def look(self) -> Mapping[str, int]:
        """See which shards are claimed now; return the sizes of all files by name."""
        sizes = self._store.sizes()
        self._parts, self._looks = {}, 0
        self._there = _last_claims(self._name, sizes)
        for part in filter(None, map(self._part.fullmatch, sizes)):
            if part["index"]:
                self._parts.setdefault(int(part["index"]), []).append(part[0])
        return sizes

    def take(self, index: int) -> bool:
        """Claim a shard; tell whether it is this run's anew. It may be complete since `look`."""
        if index in self._held:
            return False
        number = 0
        if index in self._there:
            if not self._is_deserted(index):
                return False
            number = self._there[index] + 1
        if not self._store.create(_claim(self._name, index, number), self.heart.token.encode()):
            return False
        self._there[index] = number
        self._held[index] = number, time.time()
        self._delete(self._parts.pop(index, []))
        return True

    def release(self, index: int) -> None:
        """Give a claim back, and what it succeeded."""
        last, _ = self._held.pop(index)
        self._there.pop(index, None)
        self._delete([_claim(self._name, index, number) for number in range(last + 1)])

    def held(self) -> dict[int, float]:
        """Return the shards that this run has claimed, and since when, in seconds since 1970."""
        return {index: since_s for index, (_, since_s) in dict(self._held).items()}

    def others(self) -> list[Beat]:
        """Return some of the other runs that there are."""
        tokens = [token for token in find_beats(self._store.names()) if token != self.heart.token]
        return [beat for token in tokens[:_MOST_LOOKS] if (beat := self._lookout.read(token))]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs out; raise OutputError if one is at work, or about to delete the set.

        Each announces itself before it looks for the other, so that one of two finds out.
        """
        self._store.create(_deleter(self.heart.token), b"")
        try:
            if other := self._find_living(self._store.names()):
                raise OutputError(
                    f"OUT {self._store.url}: another run ({other}) is at work here; stop it, or "
                    f"wait for its end, and run the same command again"
                )
            yield
        finally:
            self._delete([_deleter(self.heart.token)])

    def join(self) -> None:
        """Raise OutputError if another run is about to delete the set that is here."""
        names = set(self._store.names())
        deleters = [beat_name(token) for token in find_beats(names) if _deleter(token) in names]
        if other := self._find_living(deleters):
            raise OutputError(
                f"OUT {self._store.url}: another run ({other}) is deleting the set that was here; "
                f"run the same command again in a moment"
            )

    def _find_living(self, names: Iterable[str]) -> Beat | None:
        """Return one of other runs as soon as it is known to live; None once all are dead.

        Which may take as long as they expire in.
        """
        unsure = {token for token in find_beats(names) if token != self.heart.token}
        while unsure:
            for token in list(unsure):
                beat = self._lookout.read(token)
                if beat and self._lookout.is_alive(token):
                    return beat
                if beat is None or self._bury(token):
                    unsure.discard(token)
            if unsure:
                time.sleep(min(self.longest_pause_s, _SECONDS_BETWEEN_LOOKS))
        return None

    def sweep(self, complete: Container[int]) -> None:
        """Delete what ended runs left about complete shards, and, if alone, everything they left.

        A run writes nothing but its beat before that is there: so whatever else is in the first
        listing, and not of a run in the second, is nobody's.
        """
        names = self.look()
        dead = {token for token in islice(find_beats(names), _MOST_LOOKS) if self._bury(token)}
        alone = set(find_beats(self._store.names())) <= {self.heart.token}
        for name in names:
            if claim := self._claim.fullmatch(name):
                leftover = int(claim["index"]) in complete
            elif part := self._part.fullmatch(name):
                leftover = alone if part["token"] is None else part["token"] in dead
                if part["index"]:
                    leftover = int(part["index"]) in complete
            else:
                continue
            if leftover:
                self._delete([name])

    def _is_deserted(self, index: int) -> bool:
        """Tell whether the owner of a claim is dead; its beat then goes, for others to know."""
        if self._looks >= _MOST_LOOKS:
            return False
        self._looks += 1
        owner = _read_owner(self._store, _claim(self._name, index, self._there[index]))
        return bool(owner) and self._bury(owner)

    def _bury(self, token: str) -> bool:
        """Tell whether a run is known to be dead, and then delete its beat."""
        dead = self._lookout.is_alive(token) is False
        if dead:
            self._delete([beat_name(token), _deleter(token)])
        return dead

    def _delete(self, names: list[str]) -> None:
        for name in names:
            self._store.delete(name)


def _deleter(token: str) -> str:
    """Return the name of the file that says that a run is about to delete a set."""
    return f".{token}.deleting"


def read_claims(store: Store, name: str, names: Iterable[str]) -> dict[int, str]:
    """Return the token of the owner of every claimed shard, among a folder's names."""
    last = sorted(_last_claims(name, names).items())
    found = ((at[0], _read_owner(store, _claim(name, *at))) for at in last)
    return {index: owner for index, owner in found if owner}


def _last_claims(name: str, names: Iterable[str]) -> dict[int, int]:
    """Return the number of the claim that counts on every claimed shard."""
    last: dict[int, int] = {}
    for claim in filter(None, map(_claims_of(name).fullmatch, names)):
        index, number = int(claim["index"]), int(claim["number"])
        last[index] = max(number, last.get(index, 0))
    return last


def _read_owner(store: Store, file: str) -> str:
    """Return the token in a claim; NOBODY if it is damaged, "" if it is gone."""
    try:
        said = store.read(file).decode("ascii", "replace")
    except FileNotFoundError:
        return ""
    return said if is_token(said) else NOBODY


def _claim(name: str, index: int, number: int) -> str:
    return f".{shard_name(name, index)}.{number}.claim"


def find_traces(names: Iterable[str], name: str) -> list[str]:
    """Return, of a folder's names, the claims on a set's shards and what was never finished."""
    claim, part = _claims_of(name), _parts_of(name)
    found = ((file, claim.fullmatch(file) or part.fullmatch(file)) for file in names)
    return [file for file, match in found if match and not match.groupdict().get("token")]


def _claims_of(name: str) -> re.Pattern[str]:
    return re.compile(rf"\.{re.escape(name)}-(?P<index>\d{{6,}})\.(?P<number>\d+)\.claim")


def _parts_of(name: str) -> re.Pattern[str]:
    """Match temporary files: of a shard, which has an index, of the set, of beats and claims."""
    about = (
        rf"{re.escape(name)}-(?P<index>\d{{6,}})\.(?:tar|json)",
        r"(?:config|index|classes)\.json",
        r"\.(?P<token>[0-9a-f]{16})\.(?:beat|deleting)",
        rf"\.{re.escape(name)}-\d{{6,}}\.\d+\.claim",
    )
    return re.compile(rf"\.(?:{'|'.join(about)})\.\d+-[0-9a-f]+{re.escape(PART_SUFFIX)}")
