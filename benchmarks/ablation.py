"""The ablation: what each choice is worth, one changed at a time, over several seeds.

    python benchmarks/ablation.py OUT                          the toy world
    python benchmarks/ablation.py OUT --images TREE --val-images TREE \
        --train.model ViT-B-16-quickgelu --train.pretrained openai

Every variant is scored on the same held-out recordings, of a camera with all effects and of all
five motions, without and with k-NN translation. Killed, the same command goes on; --job-id and
--num-jobs share the trainings out, --merge takes in other folders' rows. OUT gets runs.jsonl and
ablation.md, which stands beside the paper's own table.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grid import Row, Spread, Training, gather_rows, run_cells, toy_training, train_and_score
from jsonargparse import ArgumentParser

from ezsr_shards.command import exit_code_of, parse_arguments, say, use_hyphens
from ezsr_shards.errors import ConfigError, EzsrError, check_number
from ezsr_shards.process import available_cpus
from ezsr_synth.config import CameraConfig, MotionConfig, SensorSize, SynthConfig
from ezsr_synth.presets import CAMERAS, MOTIONS
from ezsr_synth.run import synthesize
from ezsr_train.config import (
    LossConfig,
    TrainConfig,
)
from ezsr_train.ranks import join_ranks
from ezsr_train.shard_files import open_shard_set
from ezsr_train.teacher import load_teacher
from ezsr_train.teacher_cache import embed_shards

DEFAULT = "default"
CAMERA = "davis346"
_KNN = 16
_VAL_SEED = 1000
_NO_NOISE = {"leak_hz": (0.0, 0.0), "shot_noise_hz": (0.0, 0.0), "hot_pixels": (0.0, 0.0)}


@dataclass(frozen=True)
class Ablation:
    """What is trained and scored."""

    images: str = "toy:1000"
    """Pictures of the training recordings, as ezsr-synth takes them."""
    val_images: str = "toy:1000:unseen"
    """Pictures of the held-out recordings, with labels."""
    size: str = "128x128"
    """Sensor, WxH in pixels."""
    max_events: int = 10_000
    """Most events in a recording."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of order and augmentation, the same for every variant."""
    variants: tuple[str, ...] = ()
    """Variants to train besides the default; by default all."""
    train: TrainConfig = field(default_factory=lambda: toy_training(steps=150, lr=1e-3, warmup=20))
    """How the default is trained; a variant changes one thing of it, or of its recordings."""

    def __post_init__(self) -> None:
        """Refuse seeds and variants that are none."""
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds {list(self.seeds)}: give one or more, each once")
        for seed in self.seeds:
            check_number("seeds", seed, 0, 2**63 - 1)
        for name in self.variants:
            if name not in list_variants():
                raise ConfigError(f"variants {name!r}: give some of {', '.join(list_variants())}")


@dataclass(frozen=True)
class Variant:
    """What differs from the default: options of training, or of its recordings."""

    train: Mapping[str, Any] = field(default_factory=dict)
    synth: Mapping[str, Any] = field(default_factory=dict)


def list_variants() -> dict[str, Variant]:
    """Return the variants by name, the default first."""
    middle = sum(CAMERAS[CAMERA]["threshold_on"]) / 2
    fixed = {"threshold_on": (middle, middle), "threshold_off": (middle, middle)}
    others = [family for family in MOTIONS if family != "affine"]
    return {
        DEFAULT: Variant(),
        "loss infonce": Variant({"loss": LossConfig(scalar=0.0)}),
        "loss scalar-wise": Variant({"loss": LossConfig(infonce=0.0)}),
        "views 4": Variant(synth={"views": 4}),
        "thresholds fixed": Variant(synth={"camera": CameraConfig(CAMERA, **fixed)}),
        **{f"motion {name}": Variant(synth={"motion": MotionConfig(name)}) for name in others},
        "motion all five": Variant(synth={"motion": MotionConfig(",".join(MOTIONS))}),
        **{
            f"representation {name}": Variant({"representation": name})
            for name in ("polarity", "voxel", "time-surface")
        },
        "camera without noise": Variant(synth={"camera": CameraConfig(CAMERA, **_NO_NOISE)}),
        "camera ideal": Variant(synth={"camera": CameraConfig()}),
    }


def prepare(ablation: Ablation, work: Path) -> tuple[dict[str, Path], Path]:
    """Return each variant's shards, and those held out, embedded; make what is missing."""
    base = SynthConfig(
        size=SensorSize.parse(ablation.size),
        max_events=ablation.max_events,
        camera=CameraConfig(CAMERA),
    )
    val = work / "held-out"
    every = MotionConfig(",".join(MOTIONS))
    synthesize(ablation.val_images, val, replace(base, seed=_VAL_SEED, motion=every))
    variants = list_variants()
    sets = {}
    for name in [DEFAULT, *(ablation.variants or list(variants)[1:])]:
        changed = variants[name].synth
        sets[name] = work / (name.replace(" ", "-") if changed else DEFAULT)
        synthesize(ablation.images, sets[name], replace(base, **changed))
    with join_ranks() as ranks:
        told = ablation.train
        teacher = load_teacher(told.model, told.pretrained, ranks.device)
    for folder in {*sets.values(), val}:
        embed_shards(open_shard_set(folder), teacher, told.input.geometry, available_cpus() - 1)
    return sets, val


def list_cells(ablation: Ablation, sets: Mapping[str, Path], val: Path) -> list[Training]:
    """Return the trainings, seed after seed, the default first."""
    variants = list_variants()
    found = []
    for seed in ablation.seeds:
        for name, shards in sets.items():
            changed = dict(variants[name].train)
            representation = changed.pop("representation", ablation.train.input.representation)
            seen = replace(ablation.train.input, representation=representation)
            told = replace(ablation.train, seed=seed, input=seen, **changed)
            found.append(Training(f"{name}, seed {seed}", shards, val, told, {"variant": name}))
    return found


def measure(cell: Training, folder: Path) -> Row:
    """Train and score one variant with one seed."""
    return train_and_score(cell, folder, knn=_KNN)


def report(rows: Sequence[Row], out: Path) -> None:
    """Write the table."""
    from ablation_table import write_table  # scipy is needed for the table alone

    table = write_table(rows, list(list_variants()))
    (out / "ablation.md").write_text(table, encoding="utf-8")
    say(table)


def build_parser() -> ArgumentParser:
    """Return the parser; every field of the ablation is an option, nested ones with dots."""
    about = str(__doc__).partition("\n")[0]
    parser = ArgumentParser(prog="ablation.py", description=about, exit_on_error=False)
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for rows and table")
    parser.add_argument("--work", type=Path | None, help="folder for shards and trainings")
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_class_arguments(Ablation, None)
    parser.add_class_arguments(Spread, None)
    parser.add_argument("--merge", type=list[Path], default=[], help="further folders with rows")
    parser.add_argument("--report", action="store_true", help="run nothing; tell what is there")
    return use_hyphens(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the variants and report; return 0, 1 (trainings failed) or 2 (bad usage)."""
    try:
        options = parse_arguments(build_parser(), argv)
        names = Ablation.__dataclass_fields__
        ablation = Ablation(**{name: getattr(options, name) for name in names})
        spread = Spread(**{name: getattr(options, name) for name in Spread.__dataclass_fields__})
        rows = gather_rows(options.out, options.merge)
        if not options.report:
            work = options.work or options.out / "work"
            cells = list_cells(ablation, *prepare(ablation, work))
            rows = run_cells(cells, measure, options.out, work, spread)
            if len(rows) < len(cells) and spread.num_jobs > 1:
                say(f"{len(cells) - len(rows)} trainings are left to others; then say --report")
                return 0
        report(list(rows.values()), options.out)
        return 0
    except EzsrError as error:
        print(f"ablation.py: {error}", file=sys.stderr)
        return exit_code_of(error)


if __name__ == "__main__":
    sys.exit(main())
