"""How fast a training step is: precision x compile x batch, and what the event images cost.

    python benchmarks/train_speed.py [--tower ViT-B-16] [--batches 64 256 1024] [--json FILE]

Steps of the real loop on synthetic packed events (15,000 a sample) and random picture embeddings,
so that neither shards nor weights are needed: data loading is measured by loader_speed.py. On a
CUDA device the share of the bf16 peak (MFU) is printed too. Without one, a small tower is measured
and the figures say little about GPUs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from machine import ROOT, write_result

from ezsr_train.batches import Batch
from ezsr_train.config import InputConfig, OptimConfig, TrainConfig
from ezsr_train.encoder import EventEncoder
from ezsr_train.monitor import count_flops, peak_flops
from ezsr_train.ranks import Ranks, join_ranks
from ezsr_train.representation import PackedEvents
from ezsr_train.step import make_learner, take_step
from ezsr_train.tower import TowerSpec, build_tower, read_vision_cfg

EVENTS, WARM, ROUNDS = 15_000, 3, 10
SMALL = {"image_size": 64, "patch_size": 8, "width": 128, "layers": 4, "head_width": 32}


def make_batch(samples: int, size_px: int, device: torch.device) -> Batch:
    """Return random events, on the CPU as the loader gives them."""
    total = samples * EVENTS
    x, y = (torch.randint(0, size_px, (total,)).to(torch.uint8) for _ in "xy")
    p = torch.randint(0, 2, (total,)).to(torch.uint8)
    offsets = torch.arange(samples + 1) * EVENTS
    events = PackedEvents(x, y, torch.empty(0), p, offsets)
    return Batch(events, None, None, torch.zeros(samples), ("",) * samples)


def seconds(work: Any, device: torch.device) -> float:
    """Return the median duration of a piece of work, all of it done."""
    times = []
    for n in range(WARM + ROUNDS):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if n >= WARM:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def measure(spec: TowerSpec, config: TrainConfig, ranks: Ranks) -> dict[str, float]:
    """Return samples/s, the share of the event images, and on GPUs MFU and memory."""
    if ranks.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    student = EventEncoder(build_tower(spec, "tower"), spec, InputConfig())
    flops = 3 * count_flops(student.visual, spec)
    learner = make_learner(student, config, ranks)
    samples = config.optim.batch
    batch = make_batch(samples, spec.size_px, ranks.device)
    targets = torch.randn(samples, spec.embed_dim, device=ranks.device)
    step = seconds(lambda: take_step(learner, batch, targets, config, ranks, 0), ranks.device)
    with torch.no_grad():
        events = batch.events.to(ranks.device)
        draw = seconds(lambda: student.draw(events), ranks.device)
    facts = {"samples_per_s": round(samples / step, 1), "event_images": round(draw / step, 4)}
    if ranks.device.type == "cuda":
        facts["memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
        peak = peak_flops()
        if peak:
            facts["mfu"] = round(flops * samples / step / peak, 4)
    return facts


def main() -> None:
    """Measure every combination, print a table, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    cuda = torch.cuda.is_available()
    parser.add_argument("--tower", default="ViT-B-16" if cuda else None)
    batches = [64, 256, 1024] if cuda else [32, 64]
    parser.add_argument("--batches", type=int, nargs="+", default=batches)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/train_speed.json")
    options = parser.parse_args()
    vision = read_vision_cfg(options.tower, SMALL) if options.tower else SMALL
    spec = TowerSpec(512, vision)
    rows = []
    with join_ranks() as ranks:
        for precision, compiled, batch in product(("fp32", "bf16"), (False, True), options.batches):
            torch.manual_seed(0)
            torch._dynamo.reset()
            base = TrainConfig(precision=precision, compile=compiled)  # type: ignore[arg-type]
            config = replace(base, optim=OptimConfig(batch=batch))
            facts = measure(spec, config, ranks)
            row = {"precision": precision, "compile": compiled, "batch": batch, **facts}
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            rows.append(row)
    device = torch.cuda.get_device_name() if cuda else "cpu"
    tower = options.tower or "ViT of 4 layers, width 128, 64 px"
    write_result(options.json, {"device": device, "tower": tower, "rows": rows})
    print(f"wrote {options.json}")


if __name__ == "__main__":
    main()
