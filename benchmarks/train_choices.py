"""Which loss and which event image: short trainings that differ in one thing each.

    python benchmarks/train_choices.py SHARDS VAL --model MODEL --name NAME [--steps N]

SHARDS and VAL have cached embeddings of MODEL (ezsr-embed). Every training sees the same samples
in the same order; the figures are zero-shot top-1 on the events of VAL, with 95% intervals, beside
the CLIP's own tower on event images (step 0) and the teacher on the pictures. One seed each:
differences within the intervals say nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import ROOT, write_result

from ezsr_train.config import InputConfig, LogConfig, LossConfig, OptimConfig, TrainConfig
from ezsr_train.loop import train
from ezsr_train.monitor import METRICS_FILE


def variants(base: TrainConfig) -> dict[str, TrainConfig]:
    """Return the configurations by name; the first is the default."""
    alone = LossConfig(infonce=0.0)
    losses = {
        "scalar l1 + infonce": LossConfig(),
        "scalar l1": alone,
        "scalar l1, raw": replace(alone, scalar_space="raw"),
        "scalar l1, standard": replace(alone, scalar_space="standard"),
        "scalar l2": replace(alone, scalar_kind="l2"),
        "scalar smooth_l1": replace(alone, scalar_kind="smooth_l1"),
        "infonce": LossConfig(scalar=0.0),
        "infonce, learnt temperature": LossConfig(scalar=0.0, learn_temperature=True),
        "infonce, queue of 2048": LossConfig(scalar=0.0, queue=2048),
        "cosine": LossConfig(scalar=0.0, infonce=0.0, cosine=1.0),
    }
    images = ("polarity", "voxel", "time-surface")
    return {
        **{name: replace(base, loss=loss) for name, loss in losses.items()},
        **{name: replace(base, input=InputConfig(representation=name)) for name in images},  # type: ignore[arg-type]
        "lr x 1/3": replace(base, optim=replace(base.optim, lr=base.optim.lr / 3)),
    }


def run(shards: Path, val: Path, config: TrainConfig) -> dict[str, Any]:
    """Train once; return the figures."""
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        summary = train(shards, scratch, config, val)
        lines = (Path(scratch) / METRICS_FILE).read_text().splitlines()
        first = next(line for line in map(json.loads, lines) if "zero_shot_top1_events" in line)
    names = ("", "_low", "_high")
    top1, low, high = (round(summary[f"zero_shot_top1_events{end}"], 4) for end in names)
    return {
        "top1_events": top1,
        "interval_95": [low, high],
        "top1_events_step_0": round(first["zero_shot_top1_events"], 4),
        "teacher_top1_rgb": round(summary["teacher_top1_rgb"], 4),
        "share_of_teacher": round(top1 / summary["teacher_top1_rgb"], 4),
        "samples": summary["eval_samples"],
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    """Train every variant, print a table, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path)
    parser.add_argument("val", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--name", required=True, help="of the result, such as toy")
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    optim = OptimConfig(steps=options.steps, batch=64, lr=1e-3)
    log = LogConfig(every=100, eval_every=options.steps, save_every=10**9, tensorboard=False)
    base = TrainConfig(model=options.model, precision="bf16", optim=optim, log=log)
    found = {}
    for name, config in variants(base).items():
        found[name] = run(options.shards, options.val, config)
        low, high = found[name]["interval_95"]
        print(f"{name:28}{found[name]['top1_events']:6.1%}  [{low:.1%}, {high:.1%}]", flush=True)
    one = next(iter(found.values()))
    print(f"teacher {one['teacher_top1_rgb']:.1%}, step 0 {one['top1_events_step_0']:.1%}")
    facts = {"steps": options.steps, "batch": 64, "lr": 1e-3, "variants": found}
    write_result(ROOT / f"benchmarks/results/train_choices_{options.name}.json", facts)


if __name__ == "__main__":
    main()
