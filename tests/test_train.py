"""Training: representations against plain twins, an order without surprises, exact resumption."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import reference

torch = pytest.importorskip("torch", reason="training needs pip install 'ezsr[train]'")

from ezsr_shards.errors import ConfigError, InputError  # noqa: E402
from ezsr_synth.config import SensorSize, SynthConfig  # noqa: E402
from ezsr_synth.run import RunOptions, synthesize  # noqa: E402
from ezsr_synth.sources import SourceOptions  # noqa: E402
from ezsr_train.clip_file import ClipArchitecture, build_clip, load_clip, save_clip  # noqa: E402
from ezsr_train.config import InputConfig, LossConfig, OptimConfig, TrainConfig  # noqa: E402
from ezsr_train.data import (  # noqa: E402
    evaluation_batches,
    open_shard_set,
    stream_places,
    training_batches,
)
from ezsr_train.loop import train  # noqa: E402
from ezsr_train.loss import alignment_loss, infonce_loss, scalar_loss  # noqa: E402
from ezsr_train.representation import (  # noqa: E402
    PackedEvents,
    count_events,
    histogram,
    time_surface,
    voxel_grid,
)
from ezsr_train.zeroshot import Accuracy  # noqa: E402

SIZE = 16


def packed(seed: int, counts: tuple[int, ...] = (300, 0, 1, 2000)) -> PackedEvents:
    generator = torch.Generator().manual_seed(seed)

    def draw(top: int, total: int) -> torch.Tensor:
        return torch.randint(0, top, (total,), generator=generator)

    total = sum(counts)
    sample = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    x = (draw(SIZE, total) * draw(SIZE, total)) // SIZE  # uneven, so that some pixels are hot
    t = torch.rand(total, generator=generator)
    return PackedEvents(x, draw(SIZE, total), t, draw(2, total), sample, len(counts))


def of_sample(events: PackedEvents, n: int) -> list[tuple[int, int, float, int]]:
    keep = events.sample == n
    columns = (events.x[keep], events.y[keep], events.t[keep], events.p[keep])
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_histogram_is_the_authors_to_the_last_bit(seed: int) -> None:
    events = packed(seed)
    images = histogram(events, SIZE)
    for n in range(events.count):
        expected = reference.official_histogram(of_sample(events, n), SIZE)
        assert np.array_equal(images[n, 0].numpy(), expected)
        assert torch.equal(images[n, 0], images[n, 2])


def test_counts_are_exact() -> None:
    events = packed(1)
    counts = count_events(events, SIZE)
    assert counts.sum() == len(events.x)
    for x, y, _, p in of_sample(events, 2):
        assert counts[2, 1 - p, y, x] == 1


def test_voxel_grid_and_time_surface_agree_with_loops() -> None:
    events = packed(2)
    grid, surface = voxel_grid(events, SIZE, 5), time_surface(events, SIZE)
    for n in range(events.count):
        expected = reference.voxel_grid(of_sample(events, n), SIZE, 5)
        assert np.allclose(grid[n].numpy(), expected, atol=1e-5)
        latest = np.zeros((2, SIZE, SIZE))
        for x, y, t, p in of_sample(events, n):
            latest[1 - p, y, x] = max(latest[1 - p, y, x], t)
        assert np.allclose(surface[n, :2].numpy(), latest)


def test_losses_agree_with_their_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    events, pictures = (torch.randn(6, 8, generator=generator) for _ in range(2))
    e, p = events.numpy().astype(float), pictures.numpy().astype(float)
    assert scalar_loss(events, pictures, "l1", False).item() == pytest.approx(abs(e - p).mean())
    assert scalar_loss(events, pictures, "l2", False).item() == pytest.approx(((e - p) ** 2).mean())
    expected = reference.infonce(e, p, 0.1)
    assert infonce_loss(events, pictures, 0.1).item() == pytest.approx(expected, rel=1e-5)
    parts = alignment_loss(events, pictures, LossConfig(scalar=2, infonce=3, cosine=4))
    total = sum(float(part) for name, part in parts.items() if name != "loss")
    assert float(parts["loss"]) == pytest.approx(total)
    for kind in ("l1", "l2", "smooth_l1"):
        assert scalar_loss(events, 3 * events, kind, True).item() == pytest.approx(0, abs=1e-6)


def test_every_epoch_holds_every_sample_once() -> None:
    sizes = [5, 3, 9, 1]
    for start in (0, 7, 18, 50):
        places = list(islice(stream_places(sizes, 3, start), 100))
        assert [place.number for place in places] == list(range(start, start + 100))
        whole = list(islice(stream_places(sizes, 3, 0), start + 100))
        assert places == whole[start:]
    epochs = [whole[n : n + 18] for n in (0, 18)]
    for epoch in epochs:
        assert len({(place.shard, place.index) for place in epoch}) == 18
    assert [(p.shard, p.index) for p in epochs[0]] != [(p.shard, p.index) for p in epochs[1]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small toy shards and a small untrained CLIP."""
    folder = tmp_path_factory.mktemp("world")
    config = SynthConfig(size=SensorSize(48, 32), max_events=3000)
    synthesize("toy:24", folder / "shards", config, SourceOptions(shard_size=5), RunOptions(2))
    torch.manual_seed(0)
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    architecture = ClipArchitecture(8, vision, text)
    save_clip(folder / "clip.safetensors", build_clip(architecture)[0], architecture)
    return folder


def config(world: Path, **options: object) -> TrainConfig:
    known = {"model": str(world / "clip.safetensors"), "workers": 0}
    known |= {"eval_every": 3, "save_every": 2}
    optim = OptimConfig(steps=6, batch=8, warmup=2)
    slices = InputConfig(slice_events=1000, slice_jitter=200)
    return TrainConfig(**{**known, "optim": optim, "input": slices, **options})  # type: ignore[arg-type]


def test_workers_do_not_change_the_batches(world: Path) -> None:
    shards = open_shard_set(world / "shards")
    results = []
    for workers in (0, 2):
        batches = training_batches(shards, config(world, workers=workers), 32, 2)
        results.append([next(batches) for _ in range(4)])
        batches.close()  # type: ignore[attr-defined]
    for a, b in zip(*results, strict=True):
        assert a.keys == b.keys
        assert torch.equal(a.events.x, b.events.x)
        assert torch.equal(a.rgb, b.rgb)


def test_evaluation_sees_every_sample_once(world: Path) -> None:
    shards = open_shard_set(world / "shards")
    for batch in (5, 7, 24, 100):
        keys = [k for b in evaluation_batches(shards, InputConfig(), 32, batch) for k in b.keys]
        assert len(keys) == len(set(keys)) == 24


@pytest.mark.parametrize("geometry", ["stretch", "crop"])
def test_events_and_picture_stay_aligned(geometry: str, world: Path) -> None:
    """Where the picture has edges, events are: more than where it is rolled aside."""
    shards = open_shard_set(world / "shards")
    slices = InputConfig(geometry=geometry, slice_events=3000)  # type: ignore[arg-type]
    (batch,) = evaluation_batches(shards, slices, 32, 24)
    grey = batch.rgb.float().mean(1)
    down, across = torch.zeros_like(grey), torch.zeros_like(grey)
    down[:, 1:], across[:, :, 1:] = grey.diff(dim=1).abs(), grey.diff(dim=2).abs()
    edges = down + across
    counts = count_events(batch.events, 32).sum(1).clamp(max=5)
    here = (edges * counts).sum()
    for dx, dy in ((6, 0), (-6, 0), (0, 6), (0, -6)):
        assert here > 1.2 * (edges * counts.roll((dy, dx), (1, 2))).sum()


def test_training_logs_saves_and_lowers_its_loss(world: Path, tmp_path: Path) -> None:
    longer = config(world, optim=OptimConfig(steps=30, batch=8, warmup=2, lr=3e-3), eval_every=30)
    summary = train(world / "shards", tmp_path / "run", longer, world / "shards")
    assert 0 <= summary["zero_shot_top1_events"] <= 1
    assert summary["chance"] == pytest.approx(1 / 60)
    assert summary["samples"] == 24
    first = config(world, optim=OptimConfig(steps=1, batch=8, warmup=2, lr=3e-3))
    train(world / "shards", tmp_path / "first", first)
    losses = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])["loss"]
        for name in ("first", "run")
    ]
    assert losses[1] < losses[0]
    assert len(list((tmp_path / "run").glob("step-*.pt"))) == 2


KILLED = """
import os, sys
from pathlib import Path
import test_train
from ezsr_train import loop
world, out, at, resume = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1"
taken = loop.take_step
def take_step(*arguments):
    losses = taken(*arguments)
    with open(out / "losses.txt", "a") as file:
        file.write(f"{arguments[-1]} {losses['loss']!r}\\n")
    if arguments[-1] == at:
        os.kill(os.getpid(), 9)
    return losses
loop.take_step = take_step
out.mkdir(exist_ok=True)
loop.train(world / "shards", out, test_train.config(world), None, resume)
"""


def losses_of_run(world: Path, out: Path, kills: list[int]) -> dict[int, str]:
    for n, at in enumerate([*kills, -1]):
        command = [sys.executable, "-c", KILLED, str(world), str(out), str(at), str(int(n > 0))]
        done = subprocess.run(command, cwd=Path(__file__).parent, timeout=120)
        assert done.returncode == (0 if at == -1 else -9)
    lines = (out / "losses.txt").read_text().splitlines()
    return {int(line.split()[0]): line.split()[1] for line in lines}


def test_killed_and_resumed_gives_the_same_losses_to_the_last_bit(
    world: Path, tmp_path: Path
) -> None:
    whole = losses_of_run(world, tmp_path / "whole", [])
    assert sorted(whole) == list(range(6))
    assert losses_of_run(world, tmp_path / "killed", [1, 2, 5]) == whole


def test_resuming_with_other_options_is_refused(world: Path, tmp_path: Path) -> None:
    train(world / "shards", tmp_path, config(world))
    with pytest.raises(InputError, match="other options"):
        train(world / "shards", tmp_path, config(world, seed=1), resume=True)


def test_clip_files_are_checked(world: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = world / "clip.safetensors"
    _, _, architecture = load_clip(path)
    assert architecture.embed_dim == 8
    weights = load_file(path)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    name = "visual.proj"
    for change, message in (
        ({k: v for k, v in weights.items() if k != name}, f"lacks weight '{name}'"),
        ({**weights, "extra": weights[name].clone()}, "unknown weight 'extra'"),
        ({**weights, name: weights[name][:1].contiguous()}, "the architecture needs"),
    ):
        save_file(change, tmp_path / "bad.safetensors", metadata=metadata)
        with pytest.raises(InputError, match=message):
            load_clip(tmp_path / "bad.safetensors")
    save_file(weights, tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match="no CLIP architecture"):
        load_clip(tmp_path / "bad.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="unreadable"):
        load_clip(tmp_path / "bad.safetensors")


def test_bad_configurations_are_refused() -> None:
    for make, message in (
        (lambda: LossConfig(scalar=0, infonce=0), "every weight is 0"),
        (lambda: LossConfig(temperature=0), "temperature"),
        (lambda: InputConfig(slice_events=10, slice_jitter=10), "slice_jitter"),
        (lambda: OptimConfig(batch=1), "batch"),
        (lambda: TrainConfig(keep=0), "keep"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()


def test_wilson_interval() -> None:
    low, high = Accuracy(8, 10).interval()  # Newcombe 1998, table I, method 3: 0.4901 to 0.9433
    assert (low, high) == pytest.approx((0.4901, 0.9433), abs=2e-4)


def test_the_command_line(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ezsr_train.cli import main

    shards, out = str(world / "shards"), str(tmp_path / "run")
    small = ["--model", str(world / "clip.safetensors"), "--workers", "0"]
    steps = ["--optim.steps", "2", "--optim.batch", "4", "--val", shards]
    assert main([shards, "--out", out, *small, *steps]) == 0
    assert "zero-shot top-1" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["samples"] == 24
    for arguments, message in (
        (["nowhere", "--out", out], "ezsr-synth first"),
        ([shards, "--out", out, "--model", "nowhere"], "no such file"),
        ([shards, "--out", out, "--optim.batch", "1"], "optim.batch"),
        ([shards, "--out", out, "--optim.bogus", "1"], "bogus"),
        ([shards], "out"),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


def test_the_toy_clip_names_what_it_sees() -> None:
    """The file that the project brings knows the toy world's pictures, the unseen ones too."""
    from ezsr_synth.toy import CLASS_NAMES, draw_toy, toy_label
    from ezsr_train.model import load_teacher
    from ezsr_train.zeroshot import count_hits, embed_classes

    teacher = load_teacher("toy", torch.device("cpu"))
    pictures = np.stack([draw_toy(n, "unseen", teacher.size_px) for n in range(150)])
    embeddings = teacher.embed_pictures(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    labels = torch.tensor([toy_label(n, "unseen") for n in range(150)])
    texts = embed_classes(teacher.clip, teacher.tokenizer, CLASS_NAMES)
    assert count_hits(embeddings, labels, texts).top1 > 0.6
    assert not any(parameter.requires_grad for parameter in teacher.clip.parameters())
