"""From pictures of digits to recordings of digits: the judge of realism.

    python benchmarks/transfer.py DATA --work FOLDER [--ablate] [--steps N]

DATA holds `mnist-subset.zip` (pictures of MNIST as a class tree) and `n-mnist/` (recordings of
N-MNIST and `labels.txt`). A small CLIP is trained on the pictures, events of the same pictures are
synthesised as N-MNIST was recorded, an event encoder is aligned with the CLIP on them, and names
the recordings, of which it has seen none and no label. `--ablate` does it again with one effect of
the camera switched off, another motion, another fit, and says what each is worth: the difference in
top-1 on the same recordings, with its interval for pairs and McNemar's exact p.
Results go to benchmarks/results/transfer.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import zipfile
from math import comb, sqrt
from pathlib import Path
from typing import Any

from machine import ROOT, write_result

SYNTHESIS = "--motion saccade --camera atis --size 34x34 --fit contain --max-failures 0.05"
TRAINING = (
    "--optim.batch 64 --augment.flip 0 --input.slice-events 4000 --augment.slice-jitter 1500 "
    "--log.every 250"
)
SLICES = 1
VARIANTS = {
    "every effect": "",
    "camera ideal": "--camera ideal",
    "no threshold mismatch": "--camera.threshold-mismatch [0,0]",
    "no random phase": "--camera.random-phase false",
    "no refractory period": "--camera.refractory-us [0,0]",
    "no photoreceptor low-pass": "--camera.bandwidth-hz [0,0]",
    "no leak, shot noise, hot pixels": "--camera.leak-hz [0,0] --camera.shot-noise-hz [0,0] "
    "--camera.hot-pixels [0,0]",
    "no veiling light (floor 0.001)": "--camera.log-floor 0.001",
    "motion affine": "--motion affine --motion.translation-px [4,7] --motion.duration-us 300000",
    "motion drift": "--motion drift --motion.translation-px [4,7] --motion.duration-us 300000",
    "motion loop": "--motion loop --motion.translation-px [4,7] --motion.duration-us 300000",
    "fit cover": "--fit cover",
}


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
    (folder / "names.json").write_text(json.dumps([str(digit) for digit in range(10)]))
    return len(recorded)


def transfer(folder: Path, name: str, options: str, steps: int) -> dict[str, Any]:
    """Synthesise with these options, train, and score the recordings; return the figures."""
    shards, unseen, out, scores = (f"{name}-{part}" for part in ("shards", "unseen", "run", "eval"))
    run(f"ezsr-synth train {shards} --views 2 --overwrite {SYNTHESIS} {options}", folder)
    run(f"ezsr-synth test {unseen} --overwrite {SYNTHESIS} {options}", folder)
    run(f"ezsr-embed {shards} --model clip.safetensors", folder)
    shutil.rmtree(folder / out, ignore_errors=True)
    run(
        f"ezsr-train {shards} --val {unseen} --out {out} --model clip.safetensors {TRAINING} "
        f"--optim.steps {steps}",
        folder,
    )
    run(
        f"ezsr-eval recordings --format n-mnist --checkpoint {out}/encoder.safetensors --overwrite "
        f"--templates plain --classnames names.json --slices {SLICES} --knn 16 --pool {shards} "
        f"--out {scores}",
        folder,
    )
    report = json.loads((folder / scores / "report.json").read_text())
    summary = json.loads((folder / out / "summary.json").read_text())
    kept = ("top1", "top1_95", "top5", "recordings")
    return {
        "recordings": {key: report[key] for key in kept},
        "recordings, k-NN translated": {key: report["knn"][key] for key in kept},
        "unseen synthetic": summary["zero_shot_top1_events"],
        "teacher on their pictures": summary["teacher_top1_rgb"],
        "share of the teacher": report["top1"] / summary["teacher_top1_rgb"],
        "options": f"{SYNTHESIS} {options}".strip(),
        "steps": steps,
    }


def read_hits(folder: Path, name: str) -> dict[str, bool]:
    """Return which recordings were named rightly."""
    with (folder / f"{name}-eval" / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    own = [row for row in rows if row["embeddings"] == "events"]  # not those translated
    return {row["key"]: row["class"] == row["nearest"].split()[0] for row in own}


def compare_pairs(base: dict[str, bool], other: dict[str, bool]) -> dict[str, Any]:
    """Return other's top-1 less base's on the same recordings, its 95% interval, McNemar's p."""
    assert base.keys() == other.keys()
    lost = sum(base[key] and not other[key] for key in base)
    won = sum(other[key] and not base[key] for key in base)
    n, change = len(base), won - lost
    spread = 1.96 * sqrt(max(lost + won - change * change / n, 0)) / n
    differing = lost + won
    tail = sum(comb(differing, k) for k in range(min(lost, won) + 1)) / 2**differing
    return {
        "top-1 change": change / n,
        "95%": [change / n - spread, change / n + spread],
        "won": won,
        "lost": lost,
        "McNemar p": min(1.0, 2 * tail),
    }


def main() -> None:
    """Run the chain, and with --ablate its variants, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--clip-steps", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--ablate", action="store_true")
    parser.add_argument("--ablation-steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/transfer.json")
    options = parser.parse_args()
    folder = options.work.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"pictures left out": prepare(options.data.resolve(), folder)}
    if options.out.exists() and (folder / "full-eval").exists():  # go on where it was stopped
        found |= json.loads(options.out.read_text())
    found["training"] = TRAINING
    small_clip = f"python {ROOT}/benchmarks/small_clip.py train --out clip.safetensors"
    if not (folder / "clip.safetensors").exists():
        run(f"{small_clip} --steps {options.clip_steps} --flip 0", folder)
    if "transfer" not in found:
        found["transfer"] = transfer(folder, "full", "", options.steps)
        write_result(options.out, found)
    ablation = found.setdefault("ablation", {})
    for n, (name, choices) in enumerate(VARIANTS.items() if options.ablate else ()):
        if name not in ablation:
            ablation[name] = transfer(folder, f"variant-{n}", choices, options.ablation_steps)
        base, other = (read_hits(folder, f"variant-{k}") for k in (0, n))
        ablation[name]["against every effect"] = compare_pairs(base, other)
        write_result(options.out, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
