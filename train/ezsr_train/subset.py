"""Subsets: the first so many pictures of a shard set, in an order that a seed draws.

A smaller subset of the same seed lies inside a larger one, and a picture keeps all its views or the
first few: so runs on more and more pictures differ in nothing else.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ezsr_shards.errors import ConfigError
from ezsr_shards.keys import hash_text
from ezsr_train.config import DataConfig
from ezsr_train.shard_files import Shard, ShardSet

_VIEW = re.compile(r"_v(\d+)$")
Sample = tuple[str, int, int]
"""A sample's picture, its view, and its place in the tar."""


def choose_subset(shards: ShardSet, config: DataConfig, seed: int) -> ShardSet:
    """Return the set with `config.pairs` pictures in `config.views` views each; None takes all.

    The headers of all tars are read, remote ones fetched. Raises ConfigError where the set has
    fewer pictures, or where one of those chosen has fewer views.
    """
    if config.pairs is None and config.views is None:
        return shards
    listed = [_list_samples(shard) for shard in shards.shards]
    pictures = {picture for samples in listed for picture, _, _ in samples}
    pairs = len(pictures) if config.pairs is None else config.pairs
    if pairs > len(pictures):
        raise ConfigError(f"data.pairs {pairs}: the set has {len(pictures)} pictures")
    ordered = sorted(pictures, key=lambda picture: hash_text(f"{seed} {picture}"))
    chosen = set(ordered[:pairs])
    parts = []
    for shard, samples in zip(shards.shards, listed, strict=True):
        kept = tuple(
            place
            for picture, view, place in samples
            if picture in chosen and (config.views is None or view < config.views)
        )
        if kept:
            parts.append(replace(shard, samples=len(kept), kept=kept))
    subset = replace(shards, shards=tuple(parts))
    if config.views is not None and len(subset) < pairs * config.views:
        raise ConfigError(
            f"data.views {config.views}: {pairs} pictures have only {len(subset)} such views; make "
            f"the set with ezsr-synth --views {config.views}"
        )
    return subset


def count_pictures(shards: ShardSet) -> int:
    """Return the number of pictures of which a set holds views."""
    return len({picture for shard in shards.shards for picture, _, _ in _list_samples(shard)})


def _list_samples(shard: Shard) -> list[Sample]:
    keys = [sample.key for sample in shard.locate()]
    return [(*split_key(key), place) for place, key in enumerate(keys)]


def split_key(key: str) -> tuple[str, int]:
    """Return a sample's picture and the number of its view; a recording is a picture in one."""
    found = _VIEW.search(key)
    return (key[: found.start()], int(found[1])) if found else (key, 0)
