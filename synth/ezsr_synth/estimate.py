"""Estimate: try a few pictures and say what a whole run would take."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import islice

from ezsr_shards.command import format_bytes
from ezsr_shards.errors import RunError
from ezsr_shards.making import RunOptions
from ezsr_shards.process import available_cpus
from ezsr_shards.sample import encode_sample
from ezsr_shards.shardset import count_reasons, list_reasons
from ezsr_shards.tally import Tally
from ezsr_shards.urls import is_url
from ezsr_synth.config import SynthConfig
from ezsr_synth.records import ImageRecord
from ezsr_synth.reduce import compile_reduction
from ezsr_synth.simulate import compile_simulation
from ezsr_synth.sources import Listing, SourceOptions, list_pictures
from ezsr_synth.tars import TarPictures, is_pipe
from ezsr_synth.work import make_samples

_TRIED = 16
_TAR_BLOCK = 512


def estimate(images: str, config: SynthConfig, source: SourceOptions, run: RunOptions) -> str:
    """Try up to 16 pictures and return a few lines: samples, size and hours to expect.

    Raises RunError if none of the pictures tried gives a sample.
    """
    listing = list_pictures(images, source)
    compile_reduction()
    compile_simulation()
    trial, size_bytes = Tally(), 0
    started = time.perf_counter()
    for sample in make_samples(islice(_spread(listing), _TRIED), config, trial):
        size_bytes += sum(_size_in_tar(data) for data in encode_sample(sample).values())
    seconds = time.perf_counter() - started
    reasons = list_reasons(count_reasons(trial.failures))
    if not trial.samples:
        raise RunError(
            f"IMAGES: none of the {trial.inputs} pictures tried gave a sample ({reasons})"
        )
    workers = run.workers or available_cpus()
    pictures, basis = _count_pictures(listing)
    share = pictures / trial.inputs
    hours = share * seconds / workers / 3600
    each_ms = seconds / trial.inputs * 1e3
    events, kilobytes = (n / trial.samples for n in (trial.events, size_bytes / 1e3))
    return "\n".join(
        [
            f"tried {trial.inputs} pictures: {each_ms:.1f} ms each, {events:.0f} events and "
            f"{kilobytes:.0f} kB a sample" + (f"; failed: {reasons}" if reasons else ""),
            f"expect {share * trial.samples:.0f} samples from {pictures} pictures {basis}".rstrip(),
            f"expect {format_bytes(share * size_bytes)} on disk in {listing.shards} shards",
            f"expect {_duration(hours)} with {workers} workers on a machine like this",
        ]
    )


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"


def _spread(listing: Listing) -> Iterator[ImageRecord]:
    """Yield a few records from shards spread over the whole listing."""
    shards = min(listing.shards, _TRIED)
    for n in range(shards):
        pictures = listing.pictures_of(n * listing.shards // shards)
        yield from islice(pictures, -(-_TRIED // shards))


def _size_in_tar(data: bytes) -> int:
    return _TAR_BLOCK + -(-len(data) // _TAR_BLOCK) * _TAR_BLOCK


def _count_pictures(listing: Listing) -> tuple[int, str]:
    """Return how many pictures there are; for tars, by the first one's content and all sizes."""
    if listing.pictures is not None:
        return listing.pictures, ""
    first = listing.pictures_of(0)
    all_pictures = map(listing.pictures_of, range(listing.shards))
    urls = [tar.url for tar in all_pictures if isinstance(tar, TarPictures)]
    in_first = sum(1 for _ in first)
    if any(is_url(url) or is_pipe(url) for url in urls):
        return in_first * len(urls), "(if every tar holds as many as the first)"
    sizes = [os.path.getsize(url) for url in urls]
    return round(in_first * sum(sizes) / max(sizes[0], 1)), "(by the sizes of the tars)"
