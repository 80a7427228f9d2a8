"""How fast the synthesis is, as ratios to work done in the same minute.

    python benchmarks/synth_speed.py [PICTURES] [--json FILE]

PICTURES is a folder of JPEGs; without it the real sample is used where it is at hand.

- kernel_vs_plain: `simulate` beside the yardstick of `plain.py`, on the same log pictures, motion
  (16 px, 3 degrees, 3%, 32 samples in 50 ms) and thresholds (0.2), at two sensor sizes
- pipeline_vs_decode: JPEG bytes to a finished tar, 224x224, default camera and motion, beside a
  bare `cv2.imdecode` of the same bytes
- camera_vs_ideal: all effects of a real camera beside none, thresholds and motion alike
- two_workers_vs_one, workers: pictures per second by number of workers, start left out
- first_image_s: from the command to a finished shard of one picture, cache of kernels warm, cold
- rss_mb_per_worker: most memory of a process that makes 640x480 samples, and its growth

The pipeline comes first, before other simulators put their libraries and hundreds of megabytes into
the process. Ratios are of one thread's CPU time on one core, taken in turns on every picture, and
the medians over pictures of the medians over rounds; what is said in seconds, and the workers, is
wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from machine import ROOT, one_core, real_pictures, write_result
from peers import PEERS
from plain import Plain

from ezsr_shards.process import available_cpus
from ezsr_synth.camera import Camera
from ezsr_synth.config import SensorSize, SynthConfig
from ezsr_synth.decode import decode_picture
from ezsr_synth.families import similarity
from ezsr_synth.files import FilePictures, list_folder
from ezsr_synth.motion import Motion
from ezsr_synth.records import ShardPlan, ShardTask
from ezsr_synth.scene import log_picture, place_picture
from ezsr_synth.simulate import simulate
from ezsr_synth.warm import work

SIZES = (SensorSize(224, 224), SensorSize(640, 480))
THRESHOLD, SAMPLES, DURATION_US = 0.2, 32, 50_000
IDEAL = Camera(THRESHOLD, THRESHOLD)
REAL = replace(
    IDEAL,
    threshold_mismatch=0.1,
    random_phase=True,
    refractory_us=500.0,
    bandwidth_hz=300.0,
    leak_hz=0.1,
    shot_noise_hz=1.0,
    hot_pixels=1e-4,
    hot_pixel_hz=(20.0, 500.0),
    seed=1,
)
GOALS = {
    "kernel_vs_plain": 0.5,
    "pipeline_vs_decode": 5.0,
    "camera_vs_ideal": 2.0,
    "two_workers_vs_one": 1.9,
    "first_image_s warm": 1.5,
    "first_image_s cold": 15.0,
    "rss_mb_per_worker": 350,
}


def draw_yardstick_motion(number: int, size: SensorSize) -> Motion:
    """Return the yardstick's motion in one of all directions."""
    share = np.linspace(0, 1, SAMPLES)
    shift = 16 * np.array([np.cos(number), np.sin(number)])
    warps = similarity(np.outer(share, shift), 3 * share, 3 * share, size)
    return Motion(warps, np.round(share * DURATION_US).astype(np.int64), {})


def take_turns(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median CPU milliseconds of each work; each is done once before."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work_once in works.items():
            started = time.thread_time()
            work_once()
            if number:
                spent[name].append(1e3 * (time.thread_time() - started))
    return {name: statistics.median(values) for name, values in spent.items()}


def time_kernels(paths: list[Path], size: SensorSize, rounds: int) -> dict[str, Any]:
    """Return milliseconds and ratios of the yardstick, our kernels and peers at one size."""
    config = SynthConfig(size=size)
    plain = Plain(size.width, size.height, SAMPLES, 40 * size.width * size.height)
    rows, counts = [], []
    for number, path in enumerate(paths):
        rgb = decode_picture(path.read_bytes(), config.max_pixels)
        motion = draw_yardstick_motion(number, size)
        placement = place_picture((rgb.shape[1], rgb.shape[0]), motion, config, 1.0)
        scene, path_ = log_picture(rgb, placement, config.camera), placement.motion
        works: dict[str, Callable[[], Any]] = {
            "warp": partial(plain.warp, scene, path_.warps),
            "fire": partial(plain.fire, path_.t_us, THRESHOLD, THRESHOLD),
            "ours": partial(simulate, scene, path_, IDEAL, size),
            "camera": partial(simulate, scene, path_, REAL, size),
        }
        plain.warp(scene, path_.warps)
        with tempfile.TemporaryDirectory() as folder:
            for name, peer in PEERS.items():
                if peer.available():
                    given = peer.prepare(plain.frames, Path(folder))
                    works[name] = partial(peer.events, given, path_.t_us, THRESHOLD)
            rows.append(take_turns(works, rounds))
            made = {name: works[name]() for name in works if name not in ("warp", "camera")}
        counts.append({name: n if isinstance(n, int) else len(n.t) for name, n in made.items()})
    middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    plains = [row["warp"] + row["fire"] for row in rows]
    peers = {
        name: statistics.median(
            (r["warp"] + r[name]) / p for r, p in zip(rows, plains, strict=True)
        )
        for name in rows[0]
        if name in PEERS
    }
    ours = [row["ours"] / p for row, p in zip(rows, plains, strict=True)]
    fired = sum(row["fire"] for row in rows)
    return {
        "ms": {name: round(value, 2) for name, value in middle.items()},
        "ratio": round(statistics.median(ours), 3),
        "peers_vs_plain, warping included": {n: round(v, 2) for n, v in peers.items()},
        "camera_vs_ideal": round(statistics.median(r["camera"] / r["ours"] for r in rows), 2),
        "plain_million_events_per_s": round(sum(c["fire"] for c in counts) / fired / 1e3, 1),
        "events": {name: statistics.median(c[name] for c in counts) for name in counts[0]},
        "largest difference in events": max(abs(c["fire"] - c["ours"]) for c in counts),
    }


def time_pipeline(folder: Path, names: list[str], rounds: int) -> dict[str, Any]:
    """Return CPU milliseconds a picture of decoding, and of JPEG bytes to a finished tar."""
    blobs = [np.frombuffer((folder / name).read_bytes(), np.uint8) for name in names]
    task = ShardTask(0, FilePictures(str(folder), tuple(names)))

    def decode() -> None:
        for blob in blobs:
            cv2.imdecode(blob, cv2.IMREAD_COLOR)

    with tempfile.TemporaryDirectory() as scratch:
        plan = ShardPlan(Path(scratch), "events", SynthConfig(), "")
        spent = take_turns(
            {"decode": decode, "pipeline": lambda: work.make_shard(task, plan=plan)}, rounds
        )
        record = work.make_shard(task, plan=plan)
    return {
        "ms": {name: round(value / len(names), 3) for name, value in spent.items()},
        "ratio": round(spent["pipeline"] / spent["decode"], 2),
        "events_per_sample": round(record.events / record.samples),
    }


def run_command(*arguments: str, cache: str | None = None) -> float:
    """Run `ezsr-synth` and return its wall seconds."""
    environment = os.environ | ({"NUMBA_CACHE_DIR": cache} if cache else {})
    started = time.perf_counter()
    subprocess.run(
        [Path(sys.executable).parent / "ezsr-synth", *arguments, "--overwrite"],
        env=environment, check=True, capture_output=True,
    )  # fmt: skip
    return time.perf_counter() - started


def time_workers(folder: Path, rounds: int) -> dict[str, float]:
    """Return pictures per second by the number of workers, of the work but not the start.

    Each number makes all pictures once and, under other names, nine times: eight times is the work.
    """
    counts = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= available_cpus()]
    spent: dict[int, list[float]] = {n: [] for n in counts}
    names = list_folder(str(folder))
    with tempfile.TemporaryDirectory() as scratch:
        once, often = Path(scratch, "once"), Path(scratch, "often")
        for copies, where in ((1, once), (9, often)):
            where.mkdir()
            for copy in range(copies):
                for number, name in enumerate(names):
                    target = where / f"{copy}-{number}{Path(name).suffix}"
                    target.symlink_to((folder / name).resolve())
        for _ in range(rounds):
            for n in counts:
                few, many = (
                    run_command(str(where), f"{scratch}/out", "--workers", str(n))
                    for where in (once, often)
                )
                spent[n].append(many - few)
    return {str(n): round(8 * len(names) / statistics.median(spent[n]), 1) for n in counts}


def time_start(picture: Path, rounds: int) -> dict[str, float]:
    """Return wall seconds from the command to its end, for one picture."""
    with tempfile.TemporaryDirectory() as scratch:
        out, cache = f"{scratch}/out", f"{scratch}/cache"
        cold = run_command(str(picture), out, "--workers", "1", cache=cache)
        warm = [
            run_command(str(picture), out, "--workers", "1", cache=cache) for _ in range(rounds)
        ]
    return {"warm": round(statistics.median(warm), 2), "cold": round(cold, 1)}


def measure_memory(folder: Path) -> dict[str, float]:
    """Return the most memory of a process after 200 and after 1000 samples of 640x480, in MB."""
    code = (
        "import re, sys\n"
        "from itertools import islice\n"
        "from ezsr_shards.sample import encode_sample\n"
        "from ezsr_shards.tally import Tally\n"
        "from ezsr_synth.config import SensorSize, SynthConfig\n"
        "from ezsr_synth.sources import SourceOptions, list_pictures\n"
        "from ezsr_synth.warm import work\n"
        "config = SynthConfig(size=SensorSize(640, 480), views=100, max_events=300_000)\n"
        "task = next(list_pictures(sys.argv[1], SourceOptions()).tasks())\n"
        "samples = work.make_samples(task.pictures, config, Tally())\n"
        "for n, sample in enumerate(islice(samples, 1000), 1):\n"
        "    encode_sample(sample)\n"
        "    if n in (200, 1000):\n"
        "        status = open('/proc/self/status').read()\n"
        "        print(int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) / 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], check=True, capture_output=True)
    first, last = (round(float(line)) for line in done.stdout.split())
    return {"after 200 samples": first, "after 1000 samples": last}


def print_goals(found: dict[str, Any]) -> None:
    """Print what was measured with the goals beside it."""
    for name, goal in GOALS.items():
        section, _, key = name.partition(" ")
        value = found[section][key] if key else found[section]
        print(f"  {name:22} {json.dumps(value):44} goal {goal:g}")


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="?", type=Path, default=real_pictures())
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/synth_speed.json")
    parser.add_argument("--number", type=int, default=24, help="pictures for the kernels")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    names = list_folder(str(options.pictures)) if options.pictures.is_dir() else []
    if not names:
        parser.exit(0, f"skipped: no pictures in {options.pictures}; name a folder of JPEGs\n")
    cv2.setNumThreads(1)
    for name, peer in PEERS.items():
        if not peer.available():
            print(f"{name}: not measured, {peer.missing}")
    chosen = [options.pictures / name for name in names[:: max(1, len(names) // options.number)]]
    with one_core():
        pipeline = time_pipeline(options.pictures, names, options.rounds)
        kernels = {str(size): time_kernels(chosen, size, options.rounds) for size in SIZES}
    rates = time_workers(options.pictures, 3)
    memory = measure_memory(options.pictures)
    found: dict[str, Any] = {
        "kernel_vs_plain": {size: facts["ratio"] for size, facts in kernels.items()},
        "pipeline_vs_decode": pipeline["ratio"],
        "camera_vs_ideal": kernels[str(SIZES[0])]["camera_vs_ideal"],
        "two_workers_vs_one": round(rates["2"] / rates["1"], 2) if "2" in rates else None,
        "first_image_s": time_start(chosen[0], 5),
        "rss_mb_per_worker": max(memory.values()),
        "kernels": kernels,
        "pipeline": pipeline,
        "pictures_per_s_by_workers": rates,
        "rss_mb": memory,
        "pictures": len(names),
    }
    print_goals(found)
    write_result(options.json, found)
    print(f"wrote {options.json}")


if __name__ == "__main__":
    main()
