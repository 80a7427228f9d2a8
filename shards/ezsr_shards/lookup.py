"""Random access to a finished shard: where the bytes of each sample lie."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ezsr_shards.errors import ShardError
from ezsr_shards.shard import StrictTarInfo


@dataclass(frozen=True)
class MemberPlaces:
    """One sample in a tar: its key, and (offset, size) in bytes of each member by extension."""

    key: str
    places: Mapping[str, tuple[int, int]]


def locate_samples(path: Path) -> tuple[MemberPlaces, ...]:
    """Return the samples of a tar in order, as far as it is whole.

    Raises ShardError where there is no tar; a cut or damaged one gives what comes before.
    """
    found: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:", tarinfo=StrictTarInfo) as tar:
            for info in tar:
                key, _, extension = info.name.partition(".")
                found.setdefault(key, {})[extension] = (info.offset_data, info.size)
    except FileNotFoundError as error:
        raise ShardError(f"{path.name}: the shard is missing") from error
    except (OSError, tarfile.TarError) as error:
        if not found:
            raise ShardError(f"{path.name}: not a whole tar ({error})") from error
    return tuple(MemberPlaces(key, places) for key, places in found.items())


def read_members_at(
    path: Path, sample: MemberPlaces, extensions: Sequence[str]
) -> dict[str, bytes]:
    """Return those of a sample's members that there are; raise ShardError where they are cut."""
    members = {}
    try:
        with open(path, "rb", buffering=0) as file:
            for extension in extensions:
                if extension in sample.places:
                    offset, size = sample.places[extension]
                    file.seek(offset)
                    members[extension] = file.read(size)
                    if len(members[extension]) != size:
                        raise ShardError(f"{path.name}: a member is cut ({sample.key})")
    except FileNotFoundError as error:
        raise ShardError(f"{path.name}: the shard is missing") from error
    except OSError as error:
        raise ShardError(f"{path.name}: unreadable ({error.strerror})") from error
    return members
