"""The loop: the same result in parts, on several processes, and after any interruption."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs pip install 'ezsr[train]'")

from ezsr_shards.errors import ConfigError, InputError, OutputError, RunError  # noqa: E402
from ezsr_train import checkpoint  # noqa: E402
from ezsr_train import step as step_module  # noqa: E402
from ezsr_train.batches import ReadOptions, Skipped, training_batches  # noqa: E402
from ezsr_train.checkpoint import list_checkpoints, save_checkpoint  # noqa: E402
from ezsr_train.config import (  # noqa: E402
    AugmentConfig,
    DataConfig,
    InputConfig,
    LogConfig,
    LossConfig,
    OptimConfig,
    TrainConfig,
)
from ezsr_train.encoder import load_encoder, make_student, open_encoder  # noqa: E402
from ezsr_train.loop import train  # noqa: E402
from ezsr_train.optimize import depths_of, learning_rate, make_optimizer  # noqa: E402
from ezsr_train.ranks import Ranks  # noqa: E402
from ezsr_train.shard_files import open_shard_set  # noqa: E402
from ezsr_train.step import make_learner, take_step  # noqa: E402
from ezsr_train.teacher import load_teacher  # noqa: E402
from ezsr_train.zeroshot import Accuracy  # noqa: E402

ALONE = Ranks(0, 1, torch.device("cpu"))
TESTS = Path(__file__).parent

LOSSES = {
    "l1": LossConfig(infonce=0),
    "l2 raw": LossConfig(infonce=0, scalar_kind="l2", scalar_space="raw"),
    "standard": LossConfig(infonce=0, scalar_kind="smooth_l1", scalar_space="standard"),
    "infonce": LossConfig(scalar=0),
    "temperature": LossConfig(learn_temperature=True),
    "queue": LossConfig(queue=16),
    "cosine": LossConfig(scalar=0, infonce=0, cosine=1),
}


def config(world: Path, **options: object) -> TrainConfig:
    known = {
        "model": str(world / "clip.safetensors"),
        "optim": OptimConfig(steps=6, batch=8, warmup=2),
        "input": InputConfig(slice_events=1000),
        "augment": AugmentConfig(slice_jitter=200),
        "data": DataConfig(workers=0),
        "log": LogConfig(every=1, eval_every=3, save_every=2, tensorboard=False),
    }
    return TrainConfig(**{**known, **options})  # type: ignore[arg-type]


def metrics(out: Path, name: str = "loss") -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The student's weights, but the bias of attention keys.

    That adds the same to all scores of a query, which softmax does not see: its gradient is zero
    but for rounding, and Adam makes steps of any size of that.
    """
    found = dict(torch.load(list_checkpoints(out)[-1], weights_only=True)["student"])
    for name in found:
        if name.endswith("attn.in_proj_bias"):
            found[name] = found[name].view(3, -1)[[0, 2]]
    return found


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("name", LOSSES)
def test_accumulation_equals_the_big_batch(name: str, world: Path, tmp_path: Path) -> None:
    for parts in (1, 4):
        optim = OptimConfig(steps=6, batch=8, warmup=1, lr=1e-3, accumulate=parts)
        told = config(world, optim=optim, loss=LOSSES[name])
        train(world / "shards", tmp_path / str(parts), told)
    whole, parted = metrics(tmp_path / "1"), metrics(tmp_path / "4")
    assert parted == pytest.approx(whole, abs=1e-5)
    assert largest_difference(weights(tmp_path / "1"), weights(tmp_path / "4")) < 1e-4


def test_accumulation_gives_the_same_gradient(world: Path) -> None:
    """AdamW hides the gradient's scale; here it is compared itself."""
    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    gradients = []
    for parts in (1, 2, 8):
        optim = OptimConfig(batch=8, accumulate=parts, lr=0.0, clip_norm=1e6)
        told = config(world, optim=optim)
        learner = make_learner(make_student(teacher, InputConfig(), None), told, ALONE)
        shards = open_shard_set(world / "shards")
        options = ReadOptions(told.input, 32, 32)
        batch = next(training_batches(shards, options, told, ALONE, 0))
        targets = teacher.embed_pictures(batch.pictures)
        take_step(learner, batch, targets, told, ALONE, 0)
        gradients.append(torch.cat([p.grad.flatten() for p in learner.student.visual.parameters()]))
    assert gradients[0].abs().max() > 1e-4
    for other in gradients[1:]:
        assert torch.allclose(other, gradients[0], atol=1e-6, rtol=1e-4)


RANK = """
import sys
from dataclasses import replace
from pathlib import Path
import test_training as t
world, out, loss, parts = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
optim = t.OptimConfig(steps=20, batch=8, warmup=2, lr=1e-3, accumulate=parts)
t.train(world / "shards", out, t.config(world, optim=optim, loss=t.LOSSES[loss]), world / "shards")
"""


def run_ranks(count: int, world: Path, out: Path, loss: str, parts: int) -> None:
    script = out.parent / "rank.py"
    script.write_text(RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={count}", str(script), str(world), str(out), loss, str(parts)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(("loss", "parts"), [("queue", 1), ("temperature", 2), ("standard", 1)])
def test_two_processes_equal_one(loss: str, parts: int, world: Path, tmp_path: Path) -> None:
    for count in (1, 2):
        run_ranks(count, world, tmp_path / str(count), loss, parts)
    one, two = tmp_path / "1", tmp_path / "2"
    assert len(metrics(one)) == 20
    assert metrics(two) == pytest.approx(metrics(one), abs=1e-5)
    assert largest_difference(weights(one), weights(two)) < 1e-4
    name = "zero_shot_top1_events"
    assert metrics(two, name) == pytest.approx(metrics(one, name), abs=0.05)
    assert metrics(two, "eval_samples") == metrics(one, "eval_samples")


KILLED = """
import os, sys
from pathlib import Path
import test_training
from ezsr_train import loop
world, out, at, resume = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
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
told = test_training.config(world, loss=test_training.LossConfig(queue=12, learn_temperature=True))
loop.train(world / "shards", out, told, None, resume or None)
"""


def losses_of_run(world: Path, out: Path, kills: list[int]) -> dict[int, str]:
    for n, at in enumerate([*kills, -1]):
        resume = "latest" if n else ""
        command = [sys.executable, "-c", KILLED, str(world), str(out), str(at), resume]
        done = subprocess.run(command, cwd=TESTS, timeout=120)
        assert done.returncode == (0 if at == -1 else -9)
    lines = (out / "losses.txt").read_text().splitlines()
    return {int(line.split()[0]): line.split()[1] for line in lines}


def test_killed_and_resumed_gives_the_same_losses_to_the_last_bit(
    world: Path, tmp_path: Path
) -> None:
    whole = losses_of_run(world, tmp_path / "whole", [])
    assert sorted(whole) == list(range(6))
    assert losses_of_run(world, tmp_path / "killed", [1, 2, 5]) == whole


def test_training_lowers_its_loss_and_leaves_what_it_promises(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    told = config(
        world,
        optim=OptimConfig(steps=30, batch=8, warmup=2, lr=3e-3, ema=0.9),
        log=LogConfig(every=1, eval_every=10, save_every=10),
    )
    said: list[str] = []
    summary = train(world / "shards", out, told, world / "shards", say=said.append)
    loss = list(metrics(out).values())
    assert np.mean(loss[-5:]) < np.mean(loss[:5])
    assert summary["chance"] == pytest.approx(1 / 60)
    assert summary["eval_samples"] == 24
    assert metrics(out, "eval_samples").keys() == {0, 10, 20, 30}
    assert len(list_checkpoints(out)) == 2
    names = {
        "best.pt",
        "best.safetensors",
        "config.json",
        "curve.png",
        "encoder.safetensors",
        "input.png",
    }
    assert {*names, "encoder.safetensors", "metrics.jsonl", "summary.json", "tensorboard"} <= {
        path.name for path in out.iterdir()
    }
    assert any("zero-shot top-1" in line for line in said)
    best = torch.load(out / "best.pt", weights_only=True)
    found = metrics(out, "zero_shot_top1_events")
    trained = {step: top1 for step, top1 in found.items() if step}
    assert best["progress"]["best_top1"] == max(trained.values())
    exported, facts = load_encoder(out / "encoder.safetensors")
    average = torch.load(list_checkpoints(out)[-1], weights_only=True)["average"]
    assert largest_difference(exported.visual.state_dict(), average) == 0
    assert facts.input == told.input
    assert facts.teacher_sha256 == summary["teacher_sha256"]
    for path in (out / "best.pt", list_checkpoints(out)[-1]):
        with pytest.raises(InputError, match=r"a training checkpoint, .*encoder\.safetensors"):
            open_encoder(path)


def test_metrics_go_to_tensorboard_and_wandb(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged: list[tuple[int, float]] = []

    class Wandb:
        @staticmethod
        def init(project: str) -> type[Wandb]:
            assert project == "events"
            return Wandb

        @staticmethod
        def log(facts: dict[str, float], step: int) -> None:
            logged.append((step, facts.get("loss", -1.0)))

        @staticmethod
        def finish() -> None:
            logged.append((-1, 0.0))

    told = config(world, log=LogConfig(every=2, wandb="events"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'ezsr\[wandb\]'"):
        train(world / "shards", tmp_path / "without", told)
    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    train(world / "shards", tmp_path / "with", told)
    loss = metrics(tmp_path / "with")
    assert logged == [*loss.items(), (-1, 0.0)]
    board = EventAccumulator(str(tmp_path / "with" / "tensorboard")).Reload()
    assert {one.step: one.value for one in board.Scalars("loss")} == pytest.approx(loss)


def test_resuming_with_other_options_is_refused_by_name(world: Path, tmp_path: Path) -> None:
    train(world / "shards", tmp_path, config(world))
    for change, message in (
        ({"seed": 1}, "seed 0, now it is 1"),
        ({"loss": LossConfig(scalar=2.0)}, r"loss.scalar 1.0, now it is 2.0"),
        ({"optim": OptimConfig(steps=9, batch=8, warmup=2)}, "optim.steps 6, now it is 9"),
    ):
        with pytest.raises(InputError, match=message):
            train(world / "shards", tmp_path, config(world, **change), resume="latest")
    with pytest.raises(OutputError, match="--resume latest"):
        train(world / "shards", tmp_path, config(world))
    with pytest.raises(InputError, match="no such file"):
        train(world / "shards", tmp_path, config(world), resume="nowhere.pt")
    list_checkpoints(tmp_path)[-1].write_bytes(b"nonsense")
    with pytest.raises(InputError, match="go on from the one before"):
        train(world / "shards", tmp_path, config(world), resume="latest")
    list_checkpoints(tmp_path)[-1].unlink()
    train(world / "shards", tmp_path, config(world, log=LogConfig(every=2)), resume="latest")


def test_a_constant_run_can_be_prolonged_and_cooled_down(world: Path, tmp_path: Path) -> None:
    def told(steps: int, cooldown: int) -> TrainConfig:
        optim = OptimConfig(steps=steps, batch=8, warmup=2, schedule="constant", cooldown=cooldown)
        return config(world, optim=optim)

    train(world / "shards", tmp_path / "trunk", told(4, 0))
    trunk = str(list_checkpoints(tmp_path / "trunk")[-1])
    train(world / "shards", tmp_path / "branch", told(8, 4), resume=trunk)
    train(world / "shards", tmp_path / "whole", told(8, 4))
    branch, whole = metrics(tmp_path / "branch"), metrics(tmp_path / "whole")
    assert branch == {step: whole[step] for step in range(5, 9)}
    with pytest.raises(OutputError, match="holds checkpoints after step 4"):
        train(world / "shards", tmp_path / "whole", told(8, 4), resume=trunk)


def test_batch_statistics_count_every_sample_once(world: Path) -> None:
    teacher = load_teacher("toy", None, ALONE.device)
    told = config(world, model="toy", optim=OptimConfig(batch=8, accumulate=4))
    learner = make_learner(make_student(teacher, InputConfig(), None), told, ALONE)
    norm = learner.student.visual.bn1
    tracked, mean = int(norm.num_batches_tracked), norm.running_mean.clone()
    shards = open_shard_set(world / "shards")
    batch = next(training_batches(shards, ReadOptions(told.input, 64, 64), told, ALONE, 0))
    take_step(learner, batch, teacher.embed_pictures(batch.pictures), told, ALONE, 0)
    assert int(norm.num_batches_tracked) == tracked + 4
    assert not torch.equal(norm.running_mean, mean)


def test_evaluation_is_of_the_same_samples_every_time(world: Path, tmp_path: Path) -> None:
    """A picture that cannot be read concerns the teacher alone."""
    shutil.copytree(world / "shards", tmp_path / "val")
    tar = sorted((tmp_path / "val").glob("*.tar"))[2]
    content = bytearray(tar.read_bytes())
    start = content.index(b"\xff\xd8\xff")
    content[start : start + 3] = b"\x00\x00\x00"
    tar.write_bytes(content)
    train(world / "shards", tmp_path / "run", config(world), tmp_path / "val")
    assert metrics(tmp_path / "run", "eval_samples") == {0: 24, 3: 24, 6: 24}
    assert metrics(tmp_path / "run", "eval_skipped") == {0: 0, 3: 0, 6: 0}


def test_a_cut_line_of_metrics_does_no_harm(world: Path, tmp_path: Path) -> None:
    train(world / "shards", tmp_path, config(world))
    list_checkpoints(tmp_path)[-1].unlink()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "lo')
    train(world / "shards", tmp_path, config(world), resume="latest")
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 6
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_a_reading_process_fails_in_one_sentence(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "shards", tmp_path / "shards")
    for tar in (tmp_path / "shards").glob("*.tar"):
        tar.write_bytes(b"no tar at all")
    with pytest.raises(RunError, match=r"^data: 100 samples in a row are broken") as caught:
        train(tmp_path / "shards", tmp_path / "run", config(world, data=DataConfig(workers=1)))
    assert "\n" not in str(caught.value)


def test_nan_ends_the_run_and_the_last_checkpoint_is_good(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ezsr_train import loop

    def poisoned(batch, teach, device):  # type: ignore[no-untyped-def]
        targets = clean(batch, teach, device)
        poisoned.calls += 1  # type: ignore[attr-defined]
        return targets * float("nan") if poisoned.calls == 4 else targets  # type: ignore[attr-defined]

    clean, poisoned.calls = loop.targets_of, 0  # type: ignore[attr-defined]
    monkeypatch.setattr(loop, "targets_of", poisoned)
    with pytest.raises(RunError, match="step 3: the loss is nan"):
        train(world / "shards", tmp_path / "run", config(world))
    monkeypatch.setattr(loop, "targets_of", clean)
    train(world / "shards", tmp_path / "run", config(world), resume="latest")
    train(world / "shards", tmp_path / "whole", config(world))
    assert largest_difference(weights(tmp_path / "run"), weights(tmp_path / "whole")) == 0


@pytest.mark.parametrize("fails_after", [0, 5000])
def test_a_full_disk_leaves_the_checkpoint_before(
    fails_after: int, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk:
        def __init__(self, file) -> None:  # type: ignore[no-untyped-def]
            self.file, self.left = file, fails_after

        def write(self, data) -> int:  # type: ignore[no-untyped-def]
            self.left -= len(data)
            if self.left < 0:
                raise OSError(28, "No space left on device")
            return int(self.file.write(data))

        def flush(self) -> None:
            self.file.flush()

    save = torch.save

    def saves(state, file) -> None:  # type: ignore[no-untyped-def]
        save(state, FullDisk(file) if state["progress"]["step"] == 4 else file)

    monkeypatch.setattr(checkpoint.torch, "save", saves)
    with pytest.raises(RunError, match=r"step-000000002\.pt is whole"):
        train(world / "shards", tmp_path, config(world))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000000002.pt"]
    assert not list(tmp_path.glob("*.part*"))
    assert not list(tmp_path.glob(".*.part"))
    monkeypatch.undo()
    train(world / "shards", tmp_path, config(world), resume="latest")


def test_too_many_broken_samples_end_the_run(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "shards", tmp_path / "shards")
    sorted((tmp_path / "shards").glob("*.tar"))[2].unlink()
    with pytest.raises(RunError, match=r"broken samples are over data.max_skipped 0.001.*missing"):
        train(
            tmp_path / "shards",
            tmp_path / "out",
            config(world, data=DataConfig(workers=0, max_skipped=0.001)),
        )
    told = config(world, data=DataConfig(workers=0, max_skipped=1.0))
    summary = train(tmp_path / "shards", tmp_path / "run", told)
    assert summary["skipped"] == sum(
        count for shard in summary["skipped_by_shard"].values() for count in shard.values()
    )
    assert summary["skipped"] > 0


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"activation_checkpointing": True},
        {"augment": AugmentConfig(slice_jitter=10, drop=0.3, crop=0.2), "teacher": "online"},
        {"data": DataConfig(workers=1, order="resampled")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_way_of_training_trains(
    change: dict[str, object], world: Path, tmp_path: Path
) -> None:
    optim = OptimConfig(steps=20, batch=8, warmup=2, lr=3e-3)
    train(world / "shards", tmp_path, config(world, optim=optim, **change))
    loss = list(metrics(tmp_path).values())
    assert np.mean(loss[-5:]) < np.mean(loss[:5])


def test_activation_checkpointing_computes_twice_and_changes_nothing(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from open_clip.transformer import ResidualAttentionBlock

    calls = [0]
    forward = ResidualAttentionBlock.forward

    def counted(self, *arguments, **named):  # type: ignore[no-untyped-def]
        calls[0] += self.training
        return forward(self, *arguments, **named)

    monkeypatch.setattr(ResidualAttentionBlock, "forward", counted)
    counts = []
    for name, on in (("kept", False), ("computed", True)):
        calls[0] = 0
        train(world / "shards", tmp_path / name, config(world, activation_checkpointing=on))
        counts.append(calls[0])
    assert counts[1] == 2 * counts[0] > 0
    assert metrics(tmp_path / "kept") == pytest.approx(metrics(tmp_path / "computed"), abs=1e-6)
    with pytest.raises(ConfigError, match="ModifiedResNet cannot do it"):
        train(
            world / "shards",
            tmp_path / "r",
            config(world, model="toy", activation_checkpointing=True),
        )


def dropping(world: Path, folder: Path, **options: object) -> TrainConfig:
    """A student that drops patches at random: what is dropped must be the same again."""
    cfg = {"image_size": 32, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8}
    (folder / "dropping.json").write_text(json.dumps({**cfg, "patch_dropout": 0.5}))
    return config(world, student=str(folder / "dropping.json"), **options)


def test_a_tower_with_dropout_resumes_and_accumulates_exactly(world: Path, tmp_path: Path) -> None:
    told = dropping(world, tmp_path)
    train(world / "shards", tmp_path / "whole", told)
    stopped = replace(told, log=replace(told.log, save_every=3))
    train(world / "shards", tmp_path / "stopped", stopped)
    list_checkpoints(tmp_path / "stopped")[-1].unlink()
    (tmp_path / "stopped" / "metrics.jsonl").unlink()
    train(world / "shards", tmp_path / "stopped", stopped, resume="latest")
    whole = metrics(tmp_path / "whole")
    assert metrics(tmp_path / "stopped") == {step: whole[step] for step in range(4, 7)}

    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    shards = open_shard_set(world / "shards")
    optim = OptimConfig(batch=8, accumulate=2, lr=0.0, clip_norm=1e6)
    told = dropping(world, tmp_path, optim=optim, loss=LossConfig(scalar=0, infonce=0, cosine=1))
    student = make_student(teacher, InputConfig(), told.student)
    learner = make_learner(student, told, ALONE)
    batch = next(training_batches(shards, ReadOptions(told.input, 32, 32), told, ALONE, 0))
    targets = teacher.embed_pictures(batch.pictures)
    found = take_step(learner, batch, targets, told, ALONE, 0)
    by_hand = []
    for n, part in enumerate(batch.events.split(2)):
        torch.manual_seed(step_module._seed(told.seed, 0, 0, n))
        by_hand.append(student(part))
    own = torch.cat(by_hand)
    loss = (1 - torch.nn.functional.cosine_similarity(own, targets)).mean()
    assert found["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    kept = [p.grad.clone() for p in student.visual.parameters()]
    learner.optimizer.zero_grad()
    loss.backward()
    for gradient, p in zip(kept, student.visual.parameters(), strict=True):
        assert torch.allclose(gradient, p.grad, atol=1e-6, rtol=1e-4)


def test_a_student_of_another_size_learns_the_same_embedding(world: Path, tmp_path: Path) -> None:
    cfg = {"image_size": 24, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8}
    (tmp_path / "tiny.json").write_text(json.dumps(cfg))
    told = config(
        world,
        student=str(tmp_path / "tiny.json"),
        optim=OptimConfig(steps=30, batch=8, warmup=2, lr=3e-3),
    )
    train(world / "shards", tmp_path / "run", told)
    _, facts = load_encoder(tmp_path / "run" / "encoder.safetensors")
    assert facts.spec.size_px == 24
    assert facts.spec.embed_dim == 8
    loss = list(metrics(tmp_path / "run").values())
    assert np.mean(loss[-5:]) < np.mean(loss[:5])
    for content, message in (("[]", "no JSON object"), ("{", "unreadable")):
        (tmp_path / "tiny.json").write_text(content)
        with pytest.raises(InputError, match=message):
            train(world / "shards", tmp_path / "bad", told)
    with pytest.raises(InputError, match="no model of open_clip"):
        train(world / "shards", tmp_path / "bad", replace(told, student="ViT-nonsense"))


def test_schedules() -> None:
    cosine = OptimConfig(steps=100, warmup=10, lr=1.0)
    rates = [learning_rate(step, cosine) for step in range(100)]
    assert rates[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert rates[55] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    constant = OptimConfig(steps=100, warmup=10, lr=1.0, schedule="constant", cooldown=19)
    rates = [learning_rate(step, constant) for step in range(100)]
    assert set(rates[10:81]) == {1.0}
    assert rates[81:] == pytest.approx([1 - n / 20 for n in range(1, 20)])


def test_lower_layers_learn_more_slowly(world: Path) -> None:
    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    tower = make_student(teacher, InputConfig(), None).visual
    optimizer = make_optimizer(tower, OptimConfig(layer_decay=0.5, weight_decay=0.1))
    shares = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = next(n for n, p in tower.named_parameters() if p is parameter)
            shares[name] = group["lr_share"]
            assert group["weight_decay"] == (0.1 if parameter.ndim >= 2 else 0.0)
    assert shares.keys() == dict(tower.named_parameters()).keys()
    assert shares["conv1.weight"] == shares["class_embedding"] == 0.125
    assert shares["transformer.resblocks.0.mlp.c_fc.weight"] == 0.25
    assert shares["transformer.resblocks.1.mlp.c_fc.weight"] == 0.5
    assert shares["ln_post.weight"] == shares["proj"] == 1.0


def test_depths_in_other_towers() -> None:
    import timm

    resnet = load_teacher("toy", None, ALONE.device).clip.visual
    found = depths_of(name for name, _ in resnet.named_parameters())
    for name, depth in (
        ("conv1.weight", 0),
        ("bn3.weight", 0),
        ("layer1.0.conv1.weight", 1),
        ("layer4.0.bn3.bias", 4),
        ("attnpool.positional_embedding", 5),
        ("attnpool.c_proj.weight", 5),
    ):
        assert found[name] == depth, name
    eva = timm.create_model("eva02_tiny_patch14_224", num_classes=8)
    found = depths_of(f"trunk.{name}" for name, _ in eva.named_parameters())
    assert found["trunk.patch_embed.proj.weight"] == found["trunk.pos_embed"] == 0
    assert found["trunk.blocks.7.attn.proj.weight"] == 8
    assert found["trunk.head.weight"] == 13
    convnext = timm.create_model("test_convnext")
    found = depths_of(f"trunk.{name}" for name, _ in convnext.named_parameters())
    assert found["trunk.stem.0.weight"] == 0
    assert found["trunk.stages.3.blocks.0.conv_dw.weight"] == 4


def test_wilson_interval() -> None:
    low, high = Accuracy(8, 10).interval()  # Newcombe 1998, table I, method 3: 0.4901 to 0.9433
    assert (low, high) == pytest.approx((0.4901, 0.9433), abs=2e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LossConfig(scalar=0, infonce=0), "every weight is 0"),
        (lambda: LossConfig(temperature=0), "temperature"),
        (lambda: LossConfig(infonce=0, queue=5), "need loss.infonce"),
        (lambda: LossConfig(temperature=0.005, learn_temperature=True), "temperature"),
        (lambda: TrainConfig(input=InputConfig(slice_events=10)), "slice_jitter"),
        (lambda: TrainConfig(augment=AugmentConfig(crop=0.1)), "teacher online"),
        (lambda: OptimConfig(batch=1), "batch"),
        (lambda: OptimConfig(cooldown=5), "schedule constant"),
        (lambda: LogConfig(keep=0), "keep"),
        (lambda: AugmentConfig(flip=float("nan")), "flip"),
    ],
)
def test_bad_configurations_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_the_command_line(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ezsr_train.cli import embed, main

    shards, out = str(world / "shards"), str(tmp_path / "run")
    small = ["--model", str(world / "clip.safetensors"), "--data.workers", "0"]
    steps = ["--optim.steps", "2", "--optim.batch", "4", "--val", shards]
    assert main([shards, "--out", out, *small, *steps]) == 0
    assert "zero-shot top-1" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["eval_samples"] == 24
    for arguments, message in (
        (["nowhere", "--out", out], "ezsr-synth first"),
        ([shards, "--out", out, "--model", "nowhere"], "neither toy"),
        ([shards, "--out", out, "--model", "nowhere.safetensors"], "no such file"),
        ([shards, "--out", out, "--pretrained", "openai"], "brings its weights"),
        ([shards, "--out", out, "--optim.batch", "1"], "optim.batch"),
        ([shards, "--out", out, *small, "--optim.accumulate", "3"], "multiple of 3"),
        ([shards, "--out", out, *small, "--precision", "fp16"], "CUDA"),
        ([shards, "--out", out, *small, *steps, "--loss.queue", "21"], "give 20 at most"),
        ([shards, "--out", out, *small, "--teacher", "cached"], "run ezsr-embed"),
        ([shards, "--out", out, *small, *steps], "--resume latest"),
        ([shards, "--out", out, "--optim.bogus", "1"], "bogus"),
        ([shards], "out"),
    ):
        assert main(arguments) == 2, arguments
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    assert embed(["nowhere", *small[:2]]) == 2
    assert "ezsr-synth first" in capsys.readouterr().err


def test_checkpoints_survive_a_round_trip(world: Path, tmp_path: Path) -> None:
    """Every state that a step changes comes back, told apart from a fresh one."""
    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    told = config(
        world,
        optim=OptimConfig(batch=8, ema=0.9),
        loss=LossConfig(queue=20, learn_temperature=True),
    )
    shards = open_shard_set(world / "shards")
    options = ReadOptions(told.input, 32, 32)
    learners = [make_learner(make_student(teacher, InputConfig(), None), told, ALONE) for _ in "ab"]
    for step, batch in enumerate(islice(training_batches(shards, options, told, ALONE, 0), 3)):
        take_step(learners[0], batch, teacher.embed_pictures(batch.pictures), told, ALONE, step)
    skipped = [Skipped("a.tar", "cut"), Skipped("a.tar", "cut"), Skipped("b.tar", "empty")]
    progress = checkpoint.Progress(3, 0.5).skip(skipped)
    origin = checkpoint.Origin(teacher.sha256, shards.identity, "val")
    path = save_checkpoint(tmp_path, learners[0], told, origin, progress)
    restored = checkpoint.restore_checkpoint(path, learners[1], told, origin)
    assert restored == progress
    assert restored.skipped_samples == 3
    other = replace(origin, validation="another")
    assert checkpoint.restore_checkpoint(path, learners[1], told, other).best_top1 == -1
    with pytest.raises(InputError, match="give the same SHARDS"):
        checkpoint.restore_checkpoint(path, learners[1], told, replace(origin, shards="other"))
    assert int(learners[1].loss.queued) == 20
    for a, b in zip(
        *(
            [
                *one.student.state_dict().values(),
                *one.average.tower.state_dict().values(),
                *one.loss.state_dict().values(),
                *(v for s in one.optimizer.state.values() for v in s.values()),
            ]
            for one in learners
        ),
        strict=True,
    ):
        assert torch.equal(a, b)
