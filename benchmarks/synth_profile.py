"""Where the time of a synthesis goes: one core, one picture after another, stage by stage.

    python benchmarks/synth_profile.py [PICTURES] [--json FILE]

PICTURES is a folder of JPEGs; without it the real sample is used where it is at hand. Every
stage is timed on every picture, in several rounds; the figure is the median round's mean.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from machine import ROOT, one_core, real_pictures, write_result

from ezsr_shards.sample import Sample, encode_events
from ezsr_shards.shard import write_shard
from ezsr_synth.camera import draw_camera
from ezsr_synth.config import SynthConfig
from ezsr_synth.decode import decode_picture
from ezsr_synth.files import list_folder, read_file
from ezsr_synth.motion import draw_motion
from ezsr_synth.randomness import rng_for
from ezsr_synth.scene import log_picture, place_picture, snapshot
from ezsr_synth.simulate import compile_simulation, simulate
from ezsr_synth.work import encode_jpeg

STAGES = ("decode", "motion", "scene", "events", "snapshot", "jpeg", "npz", "tar")


def time_stages(folder: Path, names: list[str], config: SynthConfig) -> dict[str, float]:
    """Return the mean milliseconds of each stage over the pictures, and of `cv2.imdecode`."""
    spent = dict.fromkeys(("imdecode", *STAGES, "events_made"), 0.0)

    def timed(stage: str, work: Callable[..., Any], *arguments: Any) -> Any:
        started = time.thread_time()
        result = work(*arguments)
        spent[stage] += time.thread_time() - started
        return result

    samples = []
    for name in names:
        data = read_file(str(folder / name))
        timed("imdecode", cv2.imdecode, np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        rgb = timed("decode", decode_picture, data, config.max_pixels)
        motion = timed("motion", draw_motion, rng_for(0, name, 0, "m"), config.motion, config.size)
        camera = timed("motion", draw_camera, rng_for(0, name, 0, "c"), config.camera)
        shape = rgb.shape[1], rgb.shape[0]
        placement = timed("motion", place_picture, shape, motion, config, 1.0)
        log = timed("scene", log_picture, rgb, placement, config.camera)
        path = placement.motion
        events = timed("events", simulate, log, path, camera, config.size, config.max_events)
        seen = timed("snapshot", snapshot, rgb, placement, events.duration_us / 2, config.size)
        jpeg = timed("jpeg", encode_jpeg, seen, config.jpeg_quality)
        timed("npz", encode_events, events)
        spent["events_made"] += len(events)
        samples.append(Sample(f"k{len(samples)}", events, jpeg, meta={"kind": "synthetic"}))
    with tempfile.TemporaryDirectory() as scratch:
        timed("tar", write_shard, Path(scratch) / "a.tar", samples)
    spent["tar"] -= spent["npz"]  # writing encodes the events once more
    means = {stage: 1e3 * spent[stage] / len(names) for stage in ("imdecode", *STAGES)}
    return {**means, "events_made": spent["events_made"] / len(names)}


def main() -> None:
    """Measure, print a table, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="?", type=Path, default=real_pictures())
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/synth_profile.json")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    names = list_folder(str(options.pictures)) if options.pictures.is_dir() else []
    if not names:
        parser.exit(0, f"skipped: no pictures in {options.pictures}; name a folder of JPEGs\n")
    cv2.setNumThreads(1)
    compile_simulation()
    config = SynthConfig()
    with one_core():
        time_stages(options.pictures, names[:10], config)
        rounds = [time_stages(options.pictures, names, config) for _ in range(options.rounds)]
    median = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    total = sum(median[stage] for stage in STAGES)
    print(f"{len(names)} pictures, {config.size}, {median['events_made']:.0f} events a sample")
    for stage in STAGES:
        print(f"  {stage:10}{median[stage]:6.2f} ms {median[stage] / total:6.1%}")
    print(f"  {'all':10}{total:6.2f} ms, {1e3 / total:.0f} pictures/s on one core")
    print(f"  {total / median['imdecode']:.2f} times cv2.imdecode ({median['imdecode']:.2f} ms)")
    facts = {
        "pictures": len(names),
        "size": str(config.size),
        "ms": {stage: round(median[stage], 3) for stage in ("imdecode", *STAGES)},
        "events_per_sample": round(median["events_made"]),
        "pictures_per_s_per_core": round(1e3 / total, 1),
        "decode_share": round(median["decode"] / total, 3),
        "pipeline_vs_imdecode": round(total / median["imdecode"], 2),
    }
    write_result(options.json, facts)
    print(f"wrote {options.json}")


if __name__ == "__main__":
    main()
