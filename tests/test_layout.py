"""The arrows of the architecture: who may import whom, and what must never be loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

FORBIDDEN = {
    "shards/ezsr_shards": {"ezsr_synth", "ezsr_train", "torch", "numba", "webdataset"},
    "synth/ezsr_synth": {"ezsr_train", "torch", "webdataset"},
    "train/ezsr_train": {"ezsr_synth", "numba"},
}
INSIDE_SHARDS = [
    *("cli", "report.page", "report.figures", "report.sections", "report.gallery"),
    *(
        "report.survey",
        "report.stored",
        "repair",
        "status",
        "export",
        "encodings",
        "importer",
        "datasets",
        "making",
    ),
    *("sharing", "progress", "output", "claims", "beats", "plan"),
    *("engines.ray_cluster", "engines.local", "engines.outcomes", "engines.forks", "tally"),
    *("verify", "draw", "shardset", "shard", "store", "sample", "events"),
    *("connect", "patience", "urls", "errors"),
]
INSIDE_SYNTH = ["start", "cli", "estimate", "run", "work", "simulate", "kernels"]
INSIDE_TRAIN = [
    *("cli_evaluate", "cli", "loop", "heatmap", "recognition", "report", "export", "classify"),
    *("texts", "knn", "checkpoint", "evaluate", "zeroshot", "templates", "step", "monitor"),
    *("encoder", "released", "dense", "batches", "teacher_cache", "teacher", "clip_file", "tower"),
    *("prepare", "representation", "recording_files", "shard_files", "recording", "order"),
    "config",
]


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_point_one_way(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        tops = {name.partition(".")[0] for name in imports_of(path)}
        assert not tops & FORBIDDEN[folder], path
        assert not tops & {"tests", "benchmarks", "conftest"}, path


@pytest.mark.parametrize(
    ("part", "order"),
    [("shards", INSIDE_SHARDS), ("synth", INSIDE_SYNTH), ("train", INSIDE_TRAIN)],
)
def test_the_command_line_is_on_top_and_the_kernels_below(part: str, order: list[str]) -> None:
    for n, name in enumerate(order):
        above = {f"ezsr_{part}.{other}" for other in order[:n]}
        assert not imports_of(ROOT / f"{part}/ezsr_{part}/{name.replace('.', '/')}.py") & above, (
            name
        )


def test_only_kernels_are_compiled() -> None:
    for path in (ROOT / "synth").rglob("*.py"):
        uses_numba = "numba" in {name.partition(".")[0] for name in imports_of(path)}
        assert uses_numba == (path.name in ("jit.py", "lanes.py", "vector.py")), path


def test_the_reference_imports_nothing_of_ours() -> None:
    tops = {name.partition(".")[0] for name in imports_of(ROOT / "tests/reference.py")}
    assert tops <= {"__future__", "math", "dataclasses", "numpy"}


def test_no_drawer_for_odds_and_ends() -> None:
    names = {path.name for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    assert not names & {"utils.py", "helpers.py", "common.py", "misc.py"}


def test_synthesis_loads_no_torch(tmp_path: Path) -> None:
    """In the process that does the work, whatever is installed."""
    code = (
        "import sys; from pathlib import Path; import ezsr_synth.cli; "
        "from ezsr_synth.sources import SourceOptions, list_pictures; "
        "from ezsr_synth.records import ShardPlan; from ezsr_synth.work import make_shard; "
        "from ezsr_synth.config import SynthConfig; "
        f"plan = ShardPlan(Path({str(tmp_path)!r}), 'events', SynthConfig(), 'hash'); "
        "tasks = list_pictures('toy:4', SourceOptions()).tasks(); "
        "assert make_shard(next(tasks), plan=plan).samples == 4; "
        "bad = {'torch', 'webdataset', 'ezsr_train'} & set(sys.modules); "
        "sys.exit(f'loaded {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
