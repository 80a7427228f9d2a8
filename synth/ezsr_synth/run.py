"""Run: list the pictures and make their shard set."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from ezsr_shards.making import RunReport, make_set
from ezsr_shards.output import open_output
from ezsr_shards.plan import RunOptions, SetPlan, Work, check_set_name, describe_set
from ezsr_shards.shardset import ShardRecord
from ezsr_shards.store import Place
from ezsr_shards.tally import OnInput
from ezsr_synth.config import SynthConfig
from ezsr_synth.records import ShardPlan, ShardTask
from ezsr_synth.sources import SourceOptions, list_pictures
from ezsr_synth.tars import show_images

SYNTHESIS_VERSION = 3
"""Raised whenever the same configuration gives other bytes, so that no set is a mixture."""


def synthesize(
    images: str,
    out: Place,
    config: SynthConfig | None = None,
    source: SourceOptions | None = None,
    run: RunOptions | None = None,
    name: str = "events",
) -> RunReport:
    """Turn pictures into event shards; what is complete in OUT already is kept.

    images  a picture, a folder, a class tree, a `.txt` list, tars, URLs of these, or `toy:N`
    out     the folder or URL of the shard set; made if missing
    name    first part of the shards' file names

    Raises ConfigError, InputError or OutputError before any work; RunError if too many pictures
    failed or a shard was lost. Whatever was complete stays, and the same call continues.
    """
    config, source, run = config or SynthConfig(), source or SourceOptions(), run or RunOptions()
    check_set_name(name)
    listing = list_pictures(images, source, str(out))
    deciding = {
        "synthesis_version": SYNTHESIS_VERSION,
        "name": name,
        "pictures": listing.pictures,
        "shards": listing.shards,
        "shard_size": listing.shard_size,
        "split": listing.split,
        "listing": listing.fingerprint,
        "synthesis": {**asdict(config), "size": str(config.size)},
    }
    plan = SetPlan(
        store=open_output(out),
        name=name,
        facts=describe_set(deciding, "images", show_images(images)),
        shards=listing.shards,
        inputs=listing.pictures,
        classes=listing.classes,
        split=listing.split,
        views=config.views,
    )
    make = partial(_make_shard, plan=ShardPlan(plan.store, name, config, plan.config_hash))
    return make_set(plan, Work(listing.task, make, preload="ezsr_synth.warm"), run)


def _make_shard(
    task: ShardTask, on_picture: OnInput | None = None, *, plan: ShardPlan
) -> ShardRecord:
    """Make a shard where kernels are loaded; this process needs none and starts sooner."""
    from ezsr_synth.work import make_shard

    return make_shard(task, on_picture, plan=plan)
