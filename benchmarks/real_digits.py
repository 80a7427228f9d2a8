"""From pictures of digits to recordings of digits: the whole method, judged on a real camera.

    python benchmarks/real_digits.py DATA --work FOLDER [--steps N]

DATA holds `mnist-subset.zip` (pictures of MNIST as a class tree) and `n-mnist/` (recordings of
N-MNIST and `labels.txt`). A small CLIP is trained on the pictures, pseudo-motion events of the same
pictures are synthesised, an event encoder is aligned with the CLIP on them, and asked to name the
recordings, of which it has seen none. The synthesis is told what can be read off a recording: how
large digits are and how far they move. One choice was made by a score on the recordings: that noise
is added to the events in training.
Results go to benchmarks/results/real_digits.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from machine import ROOT, write_result

SYNTHESIS = (
    "--size 34x34 --fit contain --contain-scale [0.6,0.85] --motion.translation-px [3,9] "
    "--motion.rotation-deg 3 --motion.zoom-percent 3 --camera.threshold-on [0.2,0.6] "
    "--camera.threshold-off [0.2,0.6] --camera.log-floor 0.05 --max-events 6000 "
    "--max-failures 0.05 --overwrite"
)
TRAINING = (
    "--optim.batch 64 --augment.flip 0 --augment.noise 0.3 --input.slice-events 1200 "
    "--augment.slice-jitter 600 --log.every 250"
)
SACCADES = 3


def run(command: str, folder: Path) -> None:
    """Print a command and run it with this Python's programs."""
    print(f"$ {command}", flush=True)
    program, *arguments = command.split()
    where = Path(sys.executable).parent
    subprocess.run([where / program, *arguments], cwd=folder, check=True)


def prepare(data: Path, folder: Path) -> int:
    """Lay pictures and recordings out as class trees; return how many pictures were left out.

    Recording n shows MNIST's training picture n - 1; a picture of that number must be in no
    training, or the recording would not be unseen.
    """
    with zipfile.ZipFile(data / "mnist-subset.zip") as archive:
        archive.extractall(folder)
    for line in (data / "n-mnist" / "labels.txt").read_text().splitlines():
        number, label = line.split()[:2]
        target = folder / "recordings" / "Test" / label / f"{number}.bin"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data / "n-mnist" / f"{number}.bin", target)
    shown = {int(path.stem) - 1 for path in folder.glob("recordings/Test/*/*.bin")}
    recorded = [path for path in folder.glob("**/train/*/*.png") if int(path.stem) in shown]
    for path in recorded:
        path.unlink()
    return len(recorded)


def main() -> None:
    """Run the chain and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--clip-steps", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/real_digits.json")
    options = parser.parse_args()
    folder = options.work.resolve()
    shutil.rmtree(folder / "run", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    left_out = prepare(options.data.resolve(), folder)
    (train,) = folder.glob("**/train")
    pictures = train.relative_to(folder).parent
    small_clip = f"python {ROOT}/benchmarks/small_clip.py {pictures}/train --out clip.safetensors"
    run(f"{small_clip} --steps {options.clip_steps} --flip 0", folder)
    run(f"ezsr-synth {pictures}/train shards --views 2 {SYNTHESIS}", folder)
    run(f"ezsr-synth {pictures}/test unseen {SYNTHESIS}", folder)
    run("ezsr-embed shards --model clip.safetensors", folder)
    run(
        f"ezsr-train shards --val unseen --out run --model clip.safetensors {TRAINING} "
        f"--optim.steps {options.steps}",
        folder,
    )
    found = {}
    score = "ezsr-eval recordings --format n-mnist --checkpoint run/encoder.safetensors --overwrite"
    pool = "--knn 16 --pool shards"
    names = folder / "names.json"
    names.write_text(json.dumps([str(digit) for digit in range(10)]))
    for slices in (1, SACCADES):
        run(
            f"{score} --templates plain --classnames names.json --slices {slices} {pool} "
            f"--out recordings-{slices}",
            folder,
        )
        report = json.loads((folder / f"recordings-{slices}" / "report.json").read_text())
        for name, facts in (("events", report), ("knn", report["knn"])):
            found[f"{name}, {slices} slices"] = {
                key: facts[key] for key in ("top1", "top1_95", "top5", "recordings")
            }
    summary = json.loads((folder / "run" / "summary.json").read_text())
    kept = ("zero_shot_top1_events", "teacher_top1_rgb", "eval_samples", "steps")
    write_result(
        options.out,
        {
            "recordings": found,
            "synthetic test set": {name: summary[name] for name in kept},
            "pictures left out, as their recordings are scored": left_out,
            "synthesis": SYNTHESIS,
            "training": TRAINING,
        },
    )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
