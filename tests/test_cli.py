"""The command lines: what they print, how they end, and one sentence for each mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, smooth_picture, write_picture
from PIL import Image

from ezsr_shards.cli import main as shards
from ezsr_synth.cli import main as synth

SMALL = ("--size", "48x32", "--workers", "2")


def test_the_whole_way(
    picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert synth([str(picture_folder), out, *SMALL]) == 0
    assert "12 samples" in capsys.readouterr().out
    assert synth([str(picture_folder), out, *SMALL]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert shards(["verify", out]) == 0
    assert "12 samples" in capsys.readouterr().out
    assert shards(["info", out]) == 0
    assert "ON share" in capsys.readouterr().out
    assert shards(["view", out]) == 0
    with Image.open(tmp_path / "out" / "view.png") as sheet:
        assert sheet.width > 400
    assert shards(["view", out, "--to", str(tmp_path / "a.gif")]) == 0
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames > 5  # type: ignore[attr-defined]


def test_dry_run_writes_nothing(
    picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synth([str(picture_folder), str(tmp_path / "out"), *SMALL, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "expect 12 samples from 12 pictures" in said
    assert "on disk" in said
    assert not (tmp_path / "out").exists()


def test_dry_run_on_tars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from test_sources import img2dataset_members, write_tar

    for n in range(3):
        write_tar(tmp_path / f"{n:05d}.tar", img2dataset_members(5))
    assert synth([str(tmp_path), str(tmp_path / "out"), *SMALL, "--dry-run"]) == 0
    assert "15 pictures" in capsys.readouterr().out


def test_config_file_and_dotted_overrides(picture_folder: Path, tmp_path: Path) -> None:
    from ezsr_shards.shardset import read_config

    (tmp_path / "c.yaml").write_text(
        "size: 48x32\nseed: 5\nmotion:\n  rotation_deg: 0\ncamera:\n  threshold_on: [0.2, 0.2]\n"
    )
    out = tmp_path / "out"
    options = ["--config", str(tmp_path / "c.yaml"), "--motion.zoom-percent", "1", "--seed", "6"]
    assert synth([str(picture_folder), str(out), *options]) == 0
    said = read_config(out)["synthesis"]
    assert said["size"] == "48x32"
    assert said["seed"] == 6
    assert said["motion"]["rotation_deg"] == 0
    assert said["motion"]["zoom_percent"] == 1
    assert said["camera"]["threshold_on"] == [0.2, 0.2]


def test_cameras_and_motions_by_name(picture_folder: Path, tmp_path: Path) -> None:
    """On the command line and in a file; what is said besides goes before what the name brings."""
    from ezsr_shards.shardset import read_config
    from ezsr_shards.verify import iterate_samples

    (tmp_path / "c.yaml").write_text("camera:\n  preset: gen3-vga\n  leak_hz: [0, 0]\n")
    saccade = ["--motion", "saccade", "--camera=atis", "--camera.refractory-us", "[7,7]"]
    mixture = ["--config", str(tmp_path / "c.yaml"), "--motion", "loop:2,drift", "--seed", "4"]
    for name, options in (("a", saccade), ("b", mixture)):
        assert synth([str(picture_folder), str(tmp_path / name), *options, *SMALL]) == 0
    said = read_config(tmp_path / "a")["synthesis"]
    assert said["camera"]["preset"] == "atis"
    assert said["camera"]["refractory_us"] == [7, 7]
    assert said["camera"]["log_floor"] == 0.1
    assert said["motion"]["duration_us"] == 300_000
    said = read_config(tmp_path / "b")["synthesis"]
    assert said["camera"]["timestamp_us"] == 197
    assert said["camera"]["leak_hz"] == [0, 0]
    samples = list(iterate_samples(tmp_path / "b"))
    assert {sample.meta["motion"]["family"] for sample in samples} == {"loop", "drift"}
    assert all(bool((sample.events.t % 197 == 0).all()) for sample in samples)
    drawn = samples[0].meta["camera"]
    assert drawn["preset"] == "gen3-vga"
    assert "leak_hz" not in drawn
    assert 1000 <= drawn["refractory_us"] <= 5000


@pytest.mark.parametrize(("kind", "name"), [("cameras", "gen3-vga"), ("motions", "homography")])
def test_what_can_be_named_is_listed(
    kind: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synth(["--list", kind]) == 0
    said = capsys.readouterr().out
    assert name in said.splitlines()[0]
    assert f"{name}: " in said
    assert synth(["--list", "lenses"]) == 2
    assert capsys.readouterr().err == "ezsr-synth: list 'lenses': give cameras or motions\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--camera", "dvs129"], "camera 'dvs129': give one of"),
        (["--motion", "jump"], "motion 'jump': give one of"),
        (["--motion", "saccade:1,loop:-1"], "weight"),
        (["--camera.hot-pixels", "[0,1]"], "camera.hot_pixels"),
        (["--motion.tilt-deg", "5"], "motion.tilt_deg 5.0: affine does not tilt"),
        (["--camera.threshold-on", "0.2"], "threshold_on 0.2: give two numbers, [least,most]"),
        (["--camera.threshold-on", "-1"], "threshold_on -1: give two numbers, [least,most]"),
        (["--camera.threshold-on", "[0.1]"], "threshold_on [0.1]: give two numbers"),
        (["--camera.threshold-on", "[a,1]"], "threshold_on ['a', 1]: give two numbers"),
        (["--camera.threshold-on", ""], "threshold_on '': give two numbers"),
        (["--contain-scale", "0.5"], "contain_scale 0.5: give two numbers"),
        (["--motion.rotation-deg", "x"], "motion.rotation_deg x: give a number"),
        (["--motion.max-step-px", "x"], "motion.max_step_px x: give a number"),
        (["--motion.duration-us", "1.5"], "motion.duration_us 1.5: give a whole number"),
        (["--views", "1.5"], "views 1.5: give a whole number"),
        (["--camera.random-phase", "maybe"], "camera.random_phase maybe: give true or false"),
        (["--fit", "Cover"], "fit Cover: give cover or contain"),
        (["--size", "224"], "224x224"),
        (["--size", "4x4"], "both sides"),
        (["--seed", "-1"], "seed"),
        (["--seed", "x"], "seed"),
        (["--fit", "stretch"], "fit"),
        (["--views", "0"], "views"),
        (["--max-events", "50"], "max_events 50: no sample would have min_events 100; raise"),
        (["--camera.threshold-on", "[0.3,0.1]"], "swap"),
        (["--camera.threshold-on", "[-0.3,0.1]"], "threshold_on"),
        (["--camera.log-floor", "1e-7"], "log_floor"),
        (["--camera.log-floor", "nan"], "log_floor"),
        (["--motion.translation-px", "[0,5000]"], "translation_px"),
        (["--motion.translation-px", "[0,300]"], "leave"),
        (["--motion.duration-us", "0"], "duration_us"),
        (["--max-failures", "2"], "max_failures"),
        (["--workers", "-1"], "workers"),
        (["--shard-size", "-5"], "shard_size"),
        (["--name", "../x"], "name"),
        (["--bogus", "1"], "bogus"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--classnames", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_options_get_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_picture(tmp_path / "p" / "a.png", smooth_picture(0))
    assert synth([str(tmp_path / "p"), str(tmp_path / "out"), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1, said
    assert said.startswith("ezsr-synth: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config: the file gives no option a value"),
        ("# nothing yet\n", "config: the file gives no option a value"),
        ("camera: atis\n", "camera 'atis': in a file, write 'preset: atis' on a line of its own"),
        (
            "motion: drift:2,loop\n",
            "motion 'drift:2,loop': in a file, write 'family: drift:2,loop'",
        ),
        ("size: 64\n", "size 64: give text, in quotes"),
        ("camera:\n  threshold_on: 0.2\n", "camera.threshold_on 0.2: give two numbers"),
        ("camera: [1, 2]\n", "no mapping of options"),
    ],
)
def test_files_that_miss_the_form_get_one_sentence(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    arguments = ["toy:2", str(tmp_path / "out"), "--config", str(tmp_path / "c.yaml")]
    assert synth(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1, said


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ((synth,), "IMAGES, OUT"),
        ((synth, "only-images"), "OUT"),
        ((shards, "info"), "OUT"),
    ],
)
def test_missing_arguments_are_named_as_they_are_written(
    arguments: tuple[Any, ...], missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *words = arguments
    assert command(words) == 2
    assert f"required: {missing} (see " in capsys.readouterr().err


@pytest.mark.parametrize("command", ["info", "verify", "view", "report"])
def test_folders_that_are_no_shard_sets(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shards([command, str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "config.json" in said
    assert said.count("\n") == 1


def test_view_mistakes(
    picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert synth([str(picture_folder), out, *SMALL]) == 0
    capsys.readouterr()
    for arguments, message in (
        (["--to", "a.bmp"], ".png or .gif"),
        (["--key", "nobody"], "nobody"),
        (["--samples", "0"], "1 or more"),
        (["--to", str(tmp_path / "nowhere" / "a.png")], "cannot be written"),
    ):
        assert shards(["view", out, *arguments]) == 2
        assert message in capsys.readouterr().err


def test_verify_fails_with_1(
    picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert synth([str(picture_folder), str(out), *SMALL]) == 0
    (out / "events-000000.tar").write_bytes(b"")
    assert shards(["verify", str(out)]) == 1
    assert "events-000000.tar" in capsys.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        synth(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for option in ("--camera.threshold-on", "--fit", "--max-failures", "--overwrite", "--dry-run"):
        assert option in said


def test_version_in_changelog() -> None:
    from importlib.metadata import version

    assert f"## {version('ezsr')}" in (ROOT / "CHANGELOG.md").read_text()
