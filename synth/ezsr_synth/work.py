"""Work: the unit of work, one shard from its pictures, the same on every engine."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ezsr_shards.sample import Sample
from ezsr_shards.shardset import Failure, ShardRecord, shard_name
from ezsr_shards.tally import OnInput, Tally, finish_shard
from ezsr_synth.camera import draw_camera
from ezsr_synth.config import SynthConfig
from ezsr_synth.decode import PictureError
from ezsr_synth.motion import draw_motion
from ezsr_synth.randomness import rng_for, seed_of
from ezsr_synth.records import ImageRecord, ShardPlan, ShardTask
from ezsr_synth.scene import log_picture, place_picture, snapshot
from ezsr_synth.simulate import simulate

LIBRARIES = ("ezsr", "numpy", "numba", "pillow", "isal")


def make_shard(
    task: ShardTask, on_picture: OnInput | None = None, *, plan: ShardPlan
) -> ShardRecord:
    """Make one shard: write its tar, then its record, both atomically; return the record.

    Pictures that cannot be used are counted and listed, and the work goes on. The bytes depend
    on the task and the configuration alone. Raises OSError where the output cannot be written
    and InputError where a tar cannot be reached.
    """
    cv2.setNumThreads(1)  # one process per CPU is all the parallelism there is
    tally = Tally()
    samples = make_samples(task.pictures, plan.config, tally, on_picture)
    name = shard_name(plan.name, task.index)
    versions = library_versions()
    return finish_shard(plan.place, name, samples, tally, plan.config_hash, versions)


def make_samples(
    pictures: Iterable[ImageRecord],
    config: SynthConfig,
    tally: Tally,
    on_picture: OnInput | None = None,
) -> Iterator[Sample]:
    """Yield the samples of pictures one by one; count them, and what cannot be used, in `tally`."""
    for record in pictures:
        if on_picture:
            on_picture(record.source, tally)
        tally.inputs += 1
        try:
            rgb = record.decode(config.max_pixels)
        except PictureError as error:
            tally.failures.append(Failure(record.source, error.reason, error.detail))
            continue
        for view in range(config.views):
            try:
                sample = make_sample(record, rgb, view, config)
            except PictureError as error:
                tally.failures.append(Failure(record.source, error.reason, error.detail))
            else:
                tally.add(sample)
                yield sample


def make_sample(
    record: ImageRecord, rgb: npt.NDArray[np.uint8], view: int, config: SynthConfig
) -> Sample:
    """Return one view of a picture as a sample; raise PictureError if it gives too few events."""

    def rng(purpose: str) -> np.random.Generator:
        return rng_for(config.seed, record.key, view, purpose)

    pixels = seed_of(config.seed, record.key, view, "pixels")
    camera = draw_camera(rng("camera"), config.camera, pixels)
    motion = draw_motion(rng("motion"), config.motion, config.size)
    contains = config.fit == "contain"
    contain_scale = float(rng("scale").uniform(*config.contain_scale)) if contains else 1.0
    placement = place_picture((rgb.shape[1], rgb.shape[0]), motion, config, contain_scale)
    events = simulate(
        log_picture(rgb, placement, config.camera),
        placement.motion,
        camera,
        config.size,
        config.max_events,
    )
    if len(events) < max(config.min_events, 1):
        capped = events.duration_us < motion.duration_us
        raise PictureError("too-few-events", f"view {view}: {_few(len(events), capped, config)}")
    seen = snapshot(rgb, placement, events.duration_us / 2, config.size)
    meta: dict[str, Any] = {
        "kind": "synthetic",
        "source": record.source,
        "class_name": record.class_name,
        "seed": config.seed,
        "view": view,
        "camera": {
            "preset": config.camera.preset,
            **camera.facts(),
            **config.camera.scene_facts(),
        },
        "motion": motion.facts,
        "fit": config.fit,
        "capped": events.duration_us < motion.duration_us,
    }
    if contains:
        meta["contain_scale"] = contain_scale
    if record.url:
        meta["url"] = record.url
    jpeg = encode_jpeg(seen, config.jpeg_quality)
    key = f"{record.key}_v{view:02d}"
    return Sample(key, events, jpeg, record.caption, record.label, meta)


def _few(count: int, capped: bool, config: SynthConfig) -> str:
    """Say why a sample has too few events: the picture gave no more, or the cap left no more."""
    if not capped:
        return f"{count} events, min_events is {config.min_events}"
    return (
        f"max_events {config.max_events} leaves {count} events, as more than fit come at one time "
        f"of the clock (camera.timestamp_us {config.camera.timestamp_us}); raise max_events"
    )


def encode_jpeg(rgb: npt.NDArray[np.uint8], quality: int) -> bytes:
    """Return a JPEG of an RGB picture uint8 (H, W, 3)."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"jpeg: OpenCV could not encode a picture of shape {rgb.shape}")
    return bytes(data)


def library_versions() -> dict[str, str]:
    """Return the versions of what decides the bytes: Python and our libraries."""
    versions = {name: _version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), "opencv": cv2.__version__, **versions}


def _version(name: str) -> str:
    """Return a library's version, or that it is used without being installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
