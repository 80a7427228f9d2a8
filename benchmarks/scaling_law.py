"""The scaling law: how the error falls with pairs, views and the student's size.

    python benchmarks/scaling_law.py OUT                       the toy world
    python benchmarks/scaling_law.py OUT --shards DIR --val DIR --sizes '[x0.5,x1,ViT-L-14]' \
        --train.model ViT-B-16-quickgelu --train.pretrained openai   data and towers of your own
    python benchmarks/scaling_law.py OUT --predict 100000      what so many pairs would give
    python benchmarks/scaling_law.py OUT --hold '[MORE]'       do other runs lie within its bands?

Each cell of the grid trains a fresh student of one teacher on the first so many pictures of one
shard set, all cells on equally many samples, and scores it on a held-out set. Killed, the same
command goes on; --job-id and --num-jobs share the cells out, --merge takes in other folders' rows.
OUT gets runs.jsonl, fit.json, scaling.md, scaling.png and scaling.pdf.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch
from grid import (
    Row,
    Spread,
    Training,
    gather_rows,
    read_rows,
    run_cells,
    synthesis_seconds,
    toy_training,
    train_and_score,
)
from jsonargparse import ArgumentParser

from ezsr_shards.command import exit_code_of, parse_arguments, say, use_hyphens
from ezsr_shards.errors import ConfigError, EzsrError, check_number
from ezsr_shards.making import RunOptions, available_cpus
from ezsr_shards.shardset import write_json
from ezsr_synth.config import SensorSize, SynthConfig
from ezsr_synth.run import synthesize
from ezsr_train.config import (
    InputConfig,
    TrainConfig,
)
from ezsr_train.encoder import make_student
from ezsr_train.monitor import count_flops, counting_flops
from ezsr_train.ranks import join_ranks
from ezsr_train.shard_files import open_shard_set
from ezsr_train.teacher import Teacher, load_teacher
from ezsr_train.teacher_cache import embed_shards

_TOY_SENSOR, _TOY_EVENTS = SensorSize(128, 128), 10_000
_VAL_SEED = 1000
"""Of the held-out recordings; those of training have seed 0."""


@dataclass(frozen=True)
class Grid:
    """The cells: pairs x views x sizes x seeds, all with equally many samples seen."""

    pairs: tuple[int, ...] = (100, 300, 1000, 3000)
    """Pictures trained on, smaller sets inside larger ones."""
    views: tuple[int, ...] = (1,)
    """Recordings of each picture, each with its own motion and thresholds."""
    sizes: tuple[str, ...] = ("x0.25", "x0.5", "x1")
    """Students, as --student of ezsr-train: widths beside the teacher's tower, names or files."""
    seeds: tuple[int, ...] = (0, 1)
    """Each draws pictures, first weights, order and augmentation of its own."""
    shards: str | None = None
    """Shard set to train on; by default the toy world is made."""
    val: str | None = None
    """Held-out set with labels; by default unseen compositions of the toy world."""
    val_pictures: int = 1000
    """Held-out pictures of the toy world."""
    train: TrainConfig = field(default_factory=lambda: toy_training(steps=400, lr=3e-3, warmup=40))
    """What all cells have in common."""

    def __post_init__(self) -> None:
        """Refuse a grid without cells, and training data without what it is scored on."""
        for name in ("pairs", "views", "sizes", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name} {list(values)}: give one value or more, each once")
        for name, least in (("pairs", 1), ("views", 1), ("seeds", 0)):
            for value in getattr(self, name):
                check_number(name, value, least, 10**10)
        if (self.shards is None) != (self.val is None):
            raise ConfigError("shards, val: give both, or neither for the toy world")


def prepare(grid: Grid, work: Path) -> tuple[Path, Path]:
    """Return the sets to train and to score on, embedded by the teacher; make what is missing."""
    if grid.shards is not None and grid.val is not None:
        sets = Path(grid.shards), Path(grid.val)
    else:
        sets = work / "shards", work / "unseen"
        synth = SynthConfig(size=_TOY_SENSOR, max_events=_TOY_EVENTS)
        seen = replace(synth, views=max(grid.views))
        synthesize(f"toy:{max(grid.pairs)}", sets[0], seen, run=RunOptions())
        unseen = replace(synth, seed=_VAL_SEED)
        synthesize(f"toy:{grid.val_pictures}:unseen", sets[1], unseen, run=RunOptions())
    with join_ranks() as ranks:
        teacher = load_teacher(grid.train.model, grid.train.pretrained, ranks.device)
    if grid.train.teacher != "online":
        for folder in sets:
            shards = open_shard_set(folder)
            embed_shards(shards, teacher, grid.train.input.geometry, available_cpus() - 1)
    return sets


def list_cells(grid: Grid, shards: Path, val: Path) -> list[Training]:
    """Return the cells, those first that tell most: seed after seed, the grid's outer edges first.

    An edge is what the largest student makes of each number of pairs, or what each student makes
    of most pairs; a grid that was cut short has these.
    """
    found = []
    for seed in grid.seeds:
        points = [
            (pairs, views, size)
            for size in reversed(grid.sizes)
            for pairs in sorted(grid.pairs, reverse=True)
            for views in sorted(grid.views, reverse=True)
        ]
        points.sort(key=lambda one: one[0] != max(grid.pairs) and one[2] != grid.sizes[-1])
        found += [_make_cell(grid, shards, val, *point, seed) for point in points]
    return found


def _make_cell(
    grid: Grid, shards: Path, val: Path, pairs: int, views: int, size: str, seed: int
) -> Training:
    data = replace(grid.train.data, pairs=pairs, views=views)
    told = replace(grid.train, student=size, seed=seed, data=data)
    facts = {"pairs": pairs, "views": views, "size": size}
    return Training(
        f"pairs={pairs} views={views} size={size} seed={seed}", shards, val, told, facts
    )


def measure(cell: Training, folder: Path) -> Row:
    """Train a cell; return its row, with its parameters and what it has cost."""
    row = train_and_score(cell, folder)
    told = cell.train
    parameters, student = count_student(told.model, told.pretrained, told.student)
    samples = row["pairs"] * row["views"]
    per_sample = synthesis_seconds(cell.shards)
    return {
        **row,
        "parameters": parameters,
        "compute": {
            "student_flops": student * row["samples_seen"],
            "teacher_flops": _teacher_flops(told.model, told.pretrained) * samples,
            "synthesis_seconds": None if per_sample is None else per_sample * samples,
        },
    }


@cache
def count_student(model: str, pretrained: str | None, size: str | None) -> tuple[int, float]:
    """Return a student's trainable parameters, and the operations of one sample's training step.

    Counted by torch in a forward and a backward pass, twice for each multiplication and addition;
    what the optimiser does is left out.
    """
    student = make_student(_load(model, pretrained), InputConfig(), size)
    parameters = sum(one.numel() for one in student.visual.parameters() if one.requires_grad)
    images = torch.zeros(2, 3, student.spec.size_px, student.spec.size_px)
    with counting_flops() as counter:
        student.visual.train()(images).sum().backward()
    return parameters, counter.get_total_flops() / 2


@cache
def _teacher_flops(model: str, pretrained: str | None) -> float:
    """Return the operations of embedding a picture and its mirror image, as ezsr-embed does."""
    teacher = _load(model, pretrained)
    return 2 * count_flops(teacher.clip.get_submodule("visual"), teacher.spec)


@cache
def _load(model: str, pretrained: str | None) -> Teacher:
    return load_teacher(model, pretrained, torch.device("cpu"))


def report(rows: Sequence[Row], out: Path) -> None:
    """Fit the laws, and write the fit, the table and the figure."""
    from laws import fit_runs
    from scaling_figure import draw, write_table

    fit = fit_runs(rows)
    write_json(out, "fit.json", fit)
    table = write_table(rows, fit)
    (out / "scaling.md").write_text(table, encoding="utf-8")
    for kind in ("png", "pdf"):
        draw(rows, fit, out / f"scaling.{kind}")
    say(table)


def hold(rows: Sequence[Row], folders: Sequence[Path]) -> None:
    """Print whether the runs of other folders lie within the bands of the laws of `rows`."""
    from further_runs import hold_against, write_held_table
    from laws import fit_runs

    further = list(read_rows(folders).values())
    say(write_held_table(hold_against(fit_runs(rows, draws=0), rows, further)))


def predict_error(rows: Sequence[Row], pairs: int) -> None:
    """Print what accuracy so many pairs would give; raise ConfigError beyond 10x the data."""
    from laws import fit_runs, predict

    found = predict(fit_runs(rows, draws=0), pairs)
    say(str(found["sentence"]))


def build_parser() -> ArgumentParser:
    """Return the parser; every field of the grid is an option, nested ones with dots."""
    about = str(__doc__).partition("\n")[0]
    parser = ArgumentParser(prog="scaling_law.py", description=about, exit_on_error=False)
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for rows, fit and figure")
    parser.add_argument(
        "--work", type=Path | None, help="folder for shards and trainings: OUT/work"
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_class_arguments(Grid, None)
    parser.add_class_arguments(Spread, None)
    parser.add_argument("--merge", type=list[Path], default=[], help="further folders with rows")
    parser.add_argument("--report", action="store_true", help="run nothing; fit what is there")
    parser.add_argument(
        "--hold",
        type=list[Path],
        default=[],
        help="folders with further runs: are they within the laws' bands? Run nothing",
    )
    parser.add_argument("--predict", type=int | None, help="accuracy at so many pairs; run nothing")
    return use_hyphens(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the grid and report; return 0, 1 (cells failed) or 2 (bad usage)."""
    try:
        options = parse_arguments(build_parser(), argv)
        grid = Grid(**{name: getattr(options, name) for name in Grid.__dataclass_fields__})
        spread = Spread(**{name: getattr(options, name) for name in Spread.__dataclass_fields__})
        work = options.work or options.out / "work"
        if options.report or options.hold or options.predict is not None:
            rows = list(gather_rows(options.out, options.merge).values())
            if options.hold:
                hold(rows, options.hold)
            elif options.predict is not None:
                predict_error(rows, options.predict)
            else:
                report(rows, options.out)
            return 0
        cells = list_cells(grid, *prepare(grid, work))
        gather_rows(options.out, options.merge)
        rows = list(run_cells(cells, measure, options.out, work, spread).values())
        if len(rows) < len(cells) and spread.num_jobs > 1:
            say(f"{len(cells) - len(rows)} cells are left to others; then say --report")
        else:
            report(rows, options.out)
        return 0
    except EzsrError as error:
        print(f"scaling_law.py: {error}", file=sys.stderr)
        return exit_code_of(error)


if __name__ == "__main__":
    sys.exit(main())
