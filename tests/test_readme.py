"""The README: every command and every program in it is run, and says what the README says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, smooth_picture, write_picture
from test_import import write_aer40
from test_sources import img2dataset_members, write_tar

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if line.strip()
]
TABLE_COMMANDS = re.findall(r"`(ezsr-synth [^`]*OUT[^`]*)` \|$", README, flags=re.MULTILINE)
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the README's examples name."""
    folder = tmp_path_factory.mktemp("readme")
    for n in range(6):
        for place in (f"pictures/class_{n % 2}", "photos", "imagenet/train/n01440764"):
            write_picture(folder / place / f"{n}.jpg", smooth_picture(n, 200, 300))
    (folder / "wnids.txt").write_text("n01440764 tench\n")
    (folder / "subset.txt").write_text("photos/3.jpg\nphotos/1.jpg\n")
    (folder / "cc12m").mkdir()
    for name in ("cc12m/00000", "cc12m/00001", "more"):
        write_tar(folder / f"{name}.tar", img2dataset_members(2))
    for n in range(4):
        write_aer40(folder / "N-MNIST" / "Test" / str(n) / f"{n:05d}.bin", n)
    (folder / "config.yaml").write_text(next(text for kind, text in BLOCKS if kind == "yaml"))
    return folder


def test_commands_in_their_order(workplace: Path) -> None:
    assert len(COMMANDS) >= 8
    for command in COMMANDS:
        if command == "pip install .":
            continue  # what `make` did to get here
        assert command.startswith("ezsr-"), command
        run(shlex.split(command), workplace)
    assert (workplace / "sheet.png").stat().st_size > 10_000
    assert (workplace / "sample.gif").stat().st_size > 10_000
    assert (workplace / "my-shards" / "report.html").stat().st_size > 50_000


@pytest.mark.parametrize("command", TABLE_COMMANDS)
def test_commands_in_tables(command: str, workplace: Path) -> None:
    words = shlex.split(command.replace("{00000..01242}", "{00000..00001}"))
    out = f"out-{TABLE_COMMANDS.index(command)}"
    words = [out if word == "OUT" else word.replace("toy:1000", "toy:10") for word in words]
    run([*words, "--size", "64x64"], workplace)
    assert "keep the contract" in run(["ezsr-shards", "verify", out], workplace)


def test_table_has_a_command_for_every_source() -> None:
    assert len(TABLE_COMMANDS) == 5


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_programs(number: int, workplace: Path) -> None:
    if not (workplace / "my-shards").exists():
        run(["ezsr-synth", "pictures", "my-shards", "--seed", "7"], workplace)
    if not (workplace / "my-records").exists():
        run(shlex.split("ezsr-shards export my-shards my-records --format tonic"), workplace)
    (workplace / "program.py").write_text(PROGRAMS[number])
    assert run([sys.executable, "-W", "ignore", "program.py"], workplace).strip()


def test_make_demo_does_what_the_readme_prints(tmp_path: Path) -> None:
    if not (ROOT / ".venv" / ".installed").exists():
        pytest.skip("not set up by make; run `make test`")
    variables = [f"DEMO={tmp_path / 'demo'}", "PICTURES=120", "STEPS=4"]
    said = run(["make", "-C", str(ROOT), "--no-print-directory", "demo", *variables], tmp_path)
    expected = README.partition("$ make demo\n")[2].partition("$ make test")[0]
    assert pattern(said, tmp_path) == pattern(expected, tmp_path)
    for name in ("sheet.png", "sample.gif", "heatmap.png", "evaluation/confusion.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 10_000
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary["samples_unseen"] == 15
    assert summary["chance"] == pytest.approx(1 / 60)
    assert 0 <= summary["zero_shot_top1_events_unseen"] <= 1
    assert summary["teacher_top1_rgb_unseen"] > 0.8
    assert summary["seconds"] > 0


def pattern(text: str, tmp_path: Path) -> str:
    """What is printed, less its numbers, their units, and places."""
    bare = re.sub(r"[\d.]+", "#", text.replace(f"{tmp_path}/", "")).strip()
    return re.sub(r"# [kMG]?B", "# B", bare)


def test_links_and_pictures_exist() -> None:
    for page in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md"):
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


def test_named_files_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for path in re.findall(r"`((?:synth|shards|train|tests|benchmarks)/[\w./]+\.\w+)`", text):
        assert (ROOT / path).exists(), path


def test_options_of_commands_that_need_a_gpu_are_known() -> None:
    pytest.importorskip("torch", reason="training needs pip install 'ezsr[train]'")
    from ezsr_train.cli import build_embed_parser, build_parser
    from ezsr_train.cli_evaluate import build_eval_parser

    text, score = (text for kind, text in BLOCKS if kind == "text" and "ezsr" in text)
    build_eval_parser().parse_args(shlex.split(score)[1:])
    embed, train = text.replace("\\\n", " ").splitlines()
    build_embed_parser().parse_args(shlex.split(embed)[1:])
    words = shlex.split(train)
    build_parser().parse_args(words[words.index("ezsr_train.cli") + 1 :])
