"""Stored: samples of a shard, read one by one where they lie: at their places, or as they come."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from ezsr_shards.errors import ShardError
from ezsr_shards.lookup import MemberPlaces, locate_samples, read_members_at
from ezsr_shards.sample import Sample, decode_sample
from ezsr_shards.shard import read_members
from ezsr_shards.store import LocalStore, Store

_MOST_BYTES = {"json": 1 << 20}
_MOST_OTHER_BYTES = 1 << 28


@dataclass(frozen=True)
class Stored:
    """One sample of the tar `tar`; its members are at their places in a file, or in memory."""

    tar: str
    place: MemberPlaces
    path: Path | None = None
    members: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def read(self, extensions: Iterable[str]) -> Mapping[str, bytes]:
        """Return those members that there are; raise ShardError where one is cut or absurd."""
        wanted = [extension for extension in extensions if extension in self.place.places]
        for extension in wanted:
            _, size = self.place.places[extension]
            if size > _MOST_BYTES.get(extension, _MOST_OTHER_BYTES):
                raise ShardError(f"sample {self.place.key}: its {extension} has {size} bytes")
        if self.path is None:
            return {extension: self.members[extension] for extension in wanted}
        return read_members_at(self.path, self.place, wanted)

    def decode(self) -> Sample:
        """Return the whole sample; raise ShardError if it breaks the contract."""
        sample = decode_sample(self.place.key, self.read(self.place.places))
        sample.events.check()
        return sample


def read_places(store: Store, tar: str, numbers: Sequence[int]) -> tuple[list[Stored], int]:
    """Return samples of a shard by their numbers, in order, as far as they are there.

    And how many samples were found: all of a local tar, of others only what had to be read.
    Raises ShardError where there is no tar.
    """
    if isinstance(store, LocalStore):
        path = store.folder / tar
        there = locate_samples(path)
        return [Stored(tar, there[n], path) for n in numbers if n < len(there)], len(there)
    try:
        with closing(_stream(store, tar)) as stream:
            first = [one for _, one in zip(range(max(numbers) + 1), stream, strict=False)]
    except FileNotFoundError as error:
        raise ShardError(f"{tar}: the shard is missing") from error
    return [first[n] for n in numbers if n < len(first)], len(first)


def _stream(store: Store, tar: str) -> Generator[Stored, None, None]:
    with store.open(tar) as file:
        for key, members in read_members(file):
            places = {extension: (0, len(data)) for extension, data in members.items()}
            yield Stored(tar, MemberPlaces(key, places), None, members)
