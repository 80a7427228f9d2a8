"""The whole way on the toy world: pictures, shards, training, zero-shot accuracy, heat map.

    python benchmarks/demo.py FOLDER [--pictures N] [--steps N]

Prints every command before it runs it, and writes FOLDER/summary.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

UNSEEN_SHARE = 8


def commands(folder: str, pictures: int, steps: int) -> list[str]:
    """Return the commands of the demo; each can be typed as it is printed."""
    unseen = max(pictures // UNSEEN_SHARE, 10)
    train = f"ezsr-train {folder}/shards --val {folder}/unseen --out {folder}/run"
    every = max(steps // 4, 1)
    encoder = f"--checkpoint {folder}/run/encoder.safetensors"
    return [
        f"ezsr-synth toy:{pictures} {folder}/shards --max-events 20000 --overwrite",
        f"ezsr-synth toy:{unseen}:unseen {folder}/unseen --max-events 20000 --overwrite",
        f"ezsr-shards verify {folder}/shards",
        f"ezsr-shards view {folder}/shards --to {folder}/sheet.png",
        f"ezsr-shards view {folder}/shards --to {folder}/sample.gif",
        f"ezsr-embed {folder}/shards",
        f"{train} --optim.steps {steps} --optim.batch 64 --log.every {every} "
        f"--log.eval-every {every} --log.save-every {every}",
        f"ezsr-eval {folder}/unseen {encoder} --ceiling --out {folder}/evaluation --overwrite",
        f"ezsr-synth toy:4:pairs {folder}/pairs --size 448x448 --max-events 40000 --overwrite",
        f"ezsr-heatmap {folder}/pairs {encoder} --sample 1 --slice-events 40000 "
        f"--text 'a dotted square' --text 'a zigzag heart' --out {folder}/heatmap.png",
    ]


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    started = time.perf_counter()
    shutil.rmtree(options.folder / "run", ignore_errors=True)
    for command in commands(str(options.folder), options.pictures, options.steps):
        print(f"$ {command}", flush=True)
        program, *arguments = shlex.split(command)
        done = subprocess.run([Path(sys.executable).parent / program, *arguments])
        if done.returncode:
            raise SystemExit(done.returncode)
    trained = json.loads((options.folder / "run" / "summary.json").read_text())
    scored = json.loads((options.folder / "evaluation" / "report.json").read_text())
    summary = {
        "zero_shot_top1_events_unseen": trained["zero_shot_top1_events"],
        "zero_shot_top1_events_unseen_95": [
            trained["zero_shot_top1_events_low"],
            trained["zero_shot_top1_events_high"],
        ],
        "teacher_top1_rgb_unseen": trained["teacher_top1_rgb"],
        "chance": trained["chance"],
        "samples_unseen": trained["eval_samples"],
        "zero_shot_top5_events_unseen": scored["top5"],
        "seconds": round(time.perf_counter() - started, 1),
    }
    (options.folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(f"wrote {options.folder}/summary.json after {summary['seconds']:.0f} s")


if __name__ == "__main__":
    main()
