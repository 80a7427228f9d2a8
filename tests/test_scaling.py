"""Grids of trainings: killed, shared out and merged they give the same rows; tables add up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

torch = pytest.importorskip("torch", reason="training needs pip install 'ezsr[train]'")

from ezsr_shards.errors import ConfigError, RunError  # noqa: E402
from ezsr_shards.making import RunOptions  # noqa: E402
from ezsr_synth.config import SensorSize, SynthConfig  # noqa: E402
from ezsr_synth.run import synthesize  # noqa: E402
from ezsr_train.config import (  # noqa: E402
    AugmentConfig,
    DataConfig,
    InputConfig,
    LogConfig,
    OptimConfig,
    TrainConfig,
)
from ezsr_train.loop import train  # noqa: E402
from ezsr_train.monitor import count_flops  # noqa: E402

sys.path.insert(0, str(ROOT / "benchmarks"))

import ablation  # noqa: E402
import scaling_law  # noqa: E402
from ablation_table import CLAIMS, compare, estimate, write_table  # noqa: E402
from grid import Row, Spread, Training, append_row, gather_rows, read_rows, run_cells  # noqa: E402
from scaling_law import Grid, count_student, list_cells  # noqa: E402

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held") / "out"
    config = SynthConfig(size=SensorSize(48, 32), max_events=3000, seed=9)
    synthesize("toy:10:unseen", folder, config, run=RunOptions(1))
    return folder


def small_grid(world: Path, held_out: Path, **options: object) -> Grid:
    told = TrainConfig(
        model=str(world / "clip.safetensors"),
        teacher="online",
        input=InputConfig(slice_events=1000),
        augment=AugmentConfig(slice_jitter=100),
        optim=OptimConfig(steps=2, batch=4, warmup=1),
        data=DataConfig(workers=0),
        log=LogConfig(every=10**6, eval_every=10**6, save_every=10**6, tensorboard=False),
    )
    known = {"pairs": (4, 9), "sizes": ("x0.5", "x1"), "seeds": (0,), "train": told}
    sets = {"shards": str(world / "shards"), "val": str(held_out)}
    return Grid(**{**known, **sets, **options})  # type: ignore[arg-type]


def cells_of(world: Path, held_out: Path, **options: object) -> list[Training]:
    return list_cells(small_grid(world, held_out, **options), world / "shards", held_out)


def steady(rows: dict[str, Row]) -> dict[str, Row]:
    """Rows without what another run takes or names otherwise."""
    return {
        name: {key: value for key, value in row.items() if key not in ("seconds", "machine")}
        for name, row in sorted(rows.items())
    }


@pytest.fixture(scope="module")
def whole(
    world: Path, held_out: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Row]]:
    """A tiny grid, trained at a stretch."""
    out = tmp_path_factory.mktemp("whole")
    cells = cells_of(world, held_out)
    return out, run_cells(cells, scaling_law.measure, out, out / "work", Spread())


def test_a_row_tells_what_the_training_gave(
    whole: tuple[Path, dict[str, Row]], world: Path, held_out: Path, tmp_path: Path
) -> None:
    """Its figures are those of ezsr-train's own evaluation, its costs those of the towers."""
    out, rows = whole
    assert not list((out / "work" / "trainings").glob("*"))
    assert {(row["pairs"], row["size"]) for row in rows.values()} == {
        (pairs, size) for pairs in (4, 9) for size in ("x0.5", "x1")
    }
    for row, cell in zip(rows.values(), cells_of(world, held_out), strict=True):
        summary = train(cell.shards, tmp_path / cell.name, cell.train, cell.val)
        assert row["error"] == pytest.approx(1 - summary["zero_shot_top1_events"])
        assert row["teacher_error"] == pytest.approx(1 - summary["teacher_top1_rgb"])
        assert row["distance"] == pytest.approx(summary["distance_to_teacher"], abs=1e-6)
        assert (row["evaluated"], row["samples_seen"], row["seed"]) == (10, 8, 0)
        assert len(row["per_sample"]) == 10
        assert row["per_sample"].count("1") == row["correct"]
        assert row["error"] == 1 - row["correct"] / row["evaluated"]


def test_parameters_and_operations_are_counted(
    whole: tuple[Path, dict[str, Row]], world: Path
) -> None:
    model = str(world / "clip.safetensors")
    teacher = scaling_law._load(model, None)
    own = teacher.clip.get_submodule("visual")
    forward = count_flops(own, teacher.spec)
    parameters, step = count_student(model, None, "x1")
    assert parameters == sum(one.numel() for one in own.parameters())
    width, layers, patches = 32, 2, 16
    patching = 2 * patches * 3 * 8 * 8 * width
    attention = 4 * (patches + 1) ** 2 * width
    by_hand = patching + layers * (24 * width**2 * (patches + 1) + attention) + 2 * width * 8
    assert forward == by_hand
    assert step == pytest.approx(3 * forward - patching)  # pictures have no gradient
    for row in whole[1].values():
        parameters, step = count_student(model, None, row["size"])
        assert row["parameters"] == parameters
        assert row["compute"]["student_flops"] == step * row["samples_seen"]
        assert row["compute"]["teacher_flops"] == 2 * forward * row["pairs"]
        assert row["compute"]["synthesis_seconds"] > 0
    by_pairs = {row["pairs"]: row["compute"]["synthesis_seconds"] for row in whole[1].values()}
    assert by_pairs[9] == pytest.approx(by_pairs[4] * 9 / 4)


KILLED = """
import os, sys
from pathlib import Path
import test_scaling as t
world, held_out, out = map(Path, sys.argv[1:])
left = [2]
def append_row(path, row):
    left[0] -= 1
    if left[0] == 0:  # in the middle of a line
        with open(path, "a") as file:
            file.write('{"cell": "pairs=')
        os.kill(os.getpid(), 9)
    written(path, row)
import grid
written, grid.append_row = grid.append_row, append_row
cells = t.cells_of(world, held_out)
t.run_cells(cells, t.scaling_law.measure, out, out / "work", t.Spread())
"""


def test_a_killed_grid_goes_on_to_the_same_rows(
    whole: tuple[Path, dict[str, Row]], world: Path, held_out: Path, tmp_path: Path
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(world), str(held_out), str(tmp_path / "out")]
    paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    before = (tmp_path / "out" / "runs.jsonl").read_text()
    assert len(read_rows([tmp_path / "out"])) == 1
    cells, trained = cells_of(world, held_out), []

    def measure(cell: Training, folder: Path) -> Row:
        trained.append(cell.name)
        return scaling_law.measure(cell, folder)

    rows = run_cells(cells, measure, tmp_path / "out", tmp_path / "out" / "work", Spread())
    assert trained == [cell.name for cell in cells[1:]]
    assert steady(rows) == steady(whole[1])
    assert (tmp_path / "out" / "runs.jsonl").read_text().startswith(before)
    assert steady(read_rows([tmp_path / "out"])) == steady(whole[1])


def name_cell(cell: Training, folder: Path) -> Row:
    """Train nothing."""
    return {"error": 0.5, "evaluated": 2, "name": cell.name, "seed": cell.train.seed}


def test_two_half_grids_merge_into_the_whole(
    whole: tuple[Path, dict[str, Row]], world: Path, held_out: Path, tmp_path: Path
) -> None:
    cells = cells_of(world, held_out)
    for n in (0, 1):
        spread = Spread(job_id=n, num_jobs=2)
        half = run_cells(cells, scaling_law.measure, tmp_path / f"{n}", tmp_path / "work", spread)
        assert list(half) == [cell.name for cell in cells[n::2]]
    merged = gather_rows(tmp_path / "both", [tmp_path / "0", tmp_path / "1"])
    assert steady(merged) == steady(whole[1])
    assert steady(read_rows([tmp_path / "both"])) == steady(whole[1])
    assert gather_rows(tmp_path / "both", [tmp_path / "1"]) == merged
    lines = (tmp_path / "both" / "runs.jsonl").read_text().splitlines()
    assert len(lines) == len(cells)  # nothing is written twice
    again = run_cells(cells, name_cell, tmp_path / "both", tmp_path / "work", Spread())
    assert steady(again) == steady(whole[1])


def test_rows_of_other_options_are_refused(world: Path, held_out: Path, tmp_path: Path) -> None:
    cells = cells_of(world, held_out)
    run_cells(cells, name_cell, tmp_path / "a", tmp_path, Spread())
    longer = replace(cells[0].train, optim=replace(cells[0].train.optim, steps=3))
    others = [replace(cells[0], train=longer), *cells[1:]]
    with pytest.raises(ConfigError, match="trained with other options"):
        run_cells(others, name_cell, tmp_path / "a", tmp_path, Spread())
    run_cells(others, name_cell, tmp_path / "b", tmp_path, Spread())
    with pytest.raises(ConfigError, match="trained with other options"):
        read_rows([tmp_path / "a", tmp_path / "b"])
    fast = replace(cells[0].train, data=replace(cells[0].train.data, workers=3))
    assert replace(cells[0], train=fast).fingerprint == cells[0].fingerprint


def refuse_one(cell: Training, folder: Path) -> Row:
    """Fail on one cell, and tell of the others which process they had."""
    if cell.name == "pairs=4 views=1 size=x1 seed=0":
        raise ValueError("this one fails")
    return {**name_cell(cell, folder), "process": os.getpid(), "threads": torch.get_num_threads()}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cell_that_fails_does_not_end_the_others(
    jobs: int, world: Path, held_out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cells = cells_of(world, held_out)
    with pytest.raises(RunError, match="1 cells failed"):
        run_cells(cells, refuse_one, tmp_path, tmp_path, Spread(jobs=jobs))
    rows = read_rows([tmp_path])
    assert len(rows) == len(cells) - 1
    assert "this one fails" in capfd.readouterr().err
    assert (os.getpid() in {row["process"] for row in rows.values()}) == (jobs == 1)
    done = run_cells(cells, name_cell, tmp_path, tmp_path, Spread())
    assert list(done) == [cell.name for cell in cells]


def test_no_cell_starts_after_the_limit(world: Path, held_out: Path, tmp_path: Path) -> None:
    cells = cells_of(world, held_out)
    assert run_cells(cells, name_cell, tmp_path, tmp_path, Spread(seconds_limit=0)) == {}
    with pytest.raises(ConfigError, match="job_id 2"):
        Spread(job_id=2, num_jobs=2)


def test_what_tells_most_comes_first(world: Path, held_out: Path) -> None:
    """A seed's outer edges, then the rest of it; the next seed after that."""
    cells = cells_of(world, held_out, pairs=(2, 4, 8), sizes=("x0.5", "x1", "x2"), seeds=(0, 1))
    places = [(cell.train.seed, cell.facts["pairs"], cell.facts["size"]) for cell in cells]
    assert len(set(places)) == 18
    assert [seed for seed, *_ in places] == [0] * 9 + [1] * 9
    edge = {(8, "x0.5"), (8, "x1"), (8, "x2"), (4, "x2"), (2, "x2")}
    assert {place[1:] for place in places[:5]} == edge
    for bad in ({"pairs": ()}, {"seeds": (1, 1)}, {"pairs": (0,)}, {"val": None}):
        with pytest.raises(ConfigError):
            small_grid(world, held_out, **bad)


def plant_law(cell: Training, folder: Path) -> Row:
    """Train nothing: the error is a power law of the pairs."""
    correct = round(2000 * (1 - 0.9 * (cell.facts["pairs"] / 5) ** -0.3)) + cell.train.seed
    return {
        **cell.facts,
        "seed": cell.train.seed,
        "samples_seen": 8,
        "parameters": 100,
        "error": 1 - correct / 2000,
        "correct": correct,
        "evaluated": 2000,
        "distance": 0.5 * (cell.facts["pairs"] / 5) ** -0.2 + cell.train.seed / 1000,
        "teacher_error": 0.0,
        "chance": 1 / 60,
        "compute": {"student_flops": 1e6 * cell.facts["pairs"]},
    }


def test_the_command_runs_the_grid_and_reports(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the toy world to the fit, the table and the figure; then only what is asked for."""
    monkeypatch.setattr(scaling_law, "measure", plant_law)
    out = str(tmp_path / "out")
    words = [out, "--pairs", "[5,10,20,40]", "--sizes", "[x0.5]", "--val-pictures", "20"]
    words += ["--train.model", str(world / "clip.safetensors"), "--num-jobs", "2"]
    words += ["--work", str(tmp_path / "work")]
    assert scaling_law.main([*words, "--job-id", "0"]) == 0
    assert "4 cells are left to others" in capsys.readouterr().out
    assert scaling_law.main([str(tmp_path / "other"), *words[1:], "--job-id", "1"]) == 0
    assert scaling_law.main([out, "--merge", f"[{tmp_path / 'other'}]", "--report"]) == 0
    assert len(read_rows([tmp_path / "out"])) == 8
    for name in ("runs.jsonl", "fit.json", "scaling.md", "scaling.png", "scaling.pdf"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert "0.3" in (tmp_path / "out" / "scaling.md").read_text()
    capsys.readouterr()
    assert scaling_law.main([out, "--predict", "100"]) == 0
    assert "top-1" in capsys.readouterr().out
    assert scaling_law.main([out, "--predict", "1000"]) == 2
    assert "predict 1,000" in capsys.readouterr().err
    more = str(tmp_path / "more")
    sets = tmp_path / "work"
    shards = ["--shards", str(sets / "shards"), "--val", str(sets / "unseen")]
    assert scaling_law.main([more, *words[1:5], *words[7:9], *shards, "--seeds", "[2]"]) == 0
    capsys.readouterr()
    assert scaling_law.main([out, "--hold", f"[{more}]"]) == 0
    assert "error: 3 of 3 inside." in capsys.readouterr().out
    assert scaling_law.main([out, "--hold", f"[{out}]"]) == 2
    assert "give folders with runs of other seeds" in capsys.readouterr().err


def test_a_cut_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    append_row(path, {"cell": "a", "fingerprint": "1"})
    with open(path, "a") as file:
        file.write('{"cell": "b", "finger')
    append_row(path, {"cell": "c", "fingerprint": "2"})
    assert list(read_rows([tmp_path])) == ["a", "c"]
    assert len(path.read_text().splitlines()) == 3


def test_intervals_count_seeds_and_recordings() -> None:
    """Planted crossed effects: the interval holds the true mean in about 95% of 400 trials."""
    rng = np.random.default_rng(0)
    for seed_sd, sample_sd in ((0.05, 0.3), (0.0, 0.5), (0.2, 0.1)):
        held, trials = 0, 400
        for _ in range(trials):
            of_seed = rng.normal(0, seed_sd, (4, 1))
            of_sample = rng.normal(0, sample_sd, (1, 200))
            found = estimate(of_seed + of_sample + rng.normal(0, 0.2, (4, 200)))
            held += found.low <= 0 <= found.high
        assert 0.92 <= held / trials <= 0.995
    one = estimate(np.array([[1.0, 0.0, 1.0, 1.0] * 25]))
    assert one.mean == 75
    assert one.high - one.mean == pytest.approx(100 * 1.9842 * (0.75 * 0.25 / 99) ** 0.5, rel=1e-3)


def made_up(top1: dict[tuple[str, bool], float], seeds: Sequence[int] = (0, 1, 2)) -> list[Row]:
    rows = []
    for variant in sorted({name for name, _ in top1}):
        for seed in seeds:
            luck = np.random.default_rng(seed).permutation(1000) / 1000
            bits = [
                "".join(str(int(one)) for one in luck < top1[variant, moved])
                for moved in (False, True)
            ]
            facts = {"per_sample": bits[0], "knn_per_sample": bits[1], "evaluated": 1000}
            chances = {"teacher_error": 0.0, "chance": 1 / 60}
            rows.append({"variant": variant, "seed": seed, **facts, **chances})
    return rows


def test_the_table_says_what_the_small_world_does_not_show() -> None:
    top1 = {
        ("default", False): 0.80, ("default", True): 0.80,
        ("loss infonce", False): 0.90, ("loss infonce", True): 0.93,
        ("loss scalar-wise", False): 0.80, ("loss scalar-wise", True): 0.80,
        ("views 4", False): 0.85, ("views 4", True): 0.85,
    }  # fmt: skip
    rows = made_up(top1)
    table = write_table(rows, ["default", "loss infonce", "views 4"])
    verdicts = {
        line.split("|")[1].strip(): line.split("|")[4].strip()
        for line in table.splitlines()
        if line.split("|")[1:2] and line.split("|")[1].strip() in {claim for claim, *_ in CLAIMS}
    }
    assert list(verdicts.values()) == [
        "no: it is the other way",
        "yes",
        "no: it may be nothing",
        "no: it may be nothing",
    ]
    assert "| both (default) | no | 80.0 [" in table
    assert "| 43.48 |" in table
    only = {row["seed"]: np.array([float(b) for b in row["per_sample"]]) for row in rows[:3]}
    assert compare(only, only).signed == "+0.0 [+0.0, +0.0]"
    with pytest.raises(ConfigError, match="none of the default"):
        write_table(made_up({key: 0.5 for key in top1 if key[0] != "default"}), [])


def test_each_variant_changes_one_thing() -> None:
    variants = ablation.list_variants()
    assert variants.pop("default") == ablation.Variant()
    for name, variant in variants.items():
        assert len(variant.train) + len(variant.synth) == 1, name
        SynthConfig(size=SensorSize(128, 128), **variant.synth)
    assert {name.split()[0] for name in variants} == {
        "loss", "views", "thresholds", "motion", "representation", "camera",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="variants 'nonsense'"):
        ablation.Ablation(variants=("nonsense",))


def test_a_tiny_ablation_end_to_end(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(tmp_path / "out"), "--images", "toy:20", "--val-images", "toy:6:unseen"]
    words += ["--size", "48x48", "--max-events", "2000", "--seeds", "[0,1]"]
    words += ["--variants", "['representation voxel','motion drift']"]
    words += ["--train.model", str(world / "clip.safetensors"), "--train.optim.steps", "2"]
    words += ["--train.optim.batch", "4", "--train.optim.warmup", "1"]
    words += ["--train.input.slice-events", "1000", "--train.augment.slice-jitter", "100"]
    assert ablation.main(words) == 0, capsys.readouterr().err
    rows = read_rows([tmp_path / "out"])
    assert len(rows) == 6
    configs = {row["variant"]: row["config"] for row in rows.values()}
    assert configs["representation voxel"]["input"]["representation"] == "voxel"
    table = (tmp_path / "out" / "ablation.md").read_text()
    assert "| motion drift |" in table
    assert json.dumps(configs["motion drift"]) == json.dumps(configs["default"])
    prints = {row["fingerprint"] for row in rows.values()}
    assert len(prints) == 6
    assert ablation.main([words[0], "--report"]) == 0
    assert (tmp_path / "out" / "ablation.md").read_text() == table
