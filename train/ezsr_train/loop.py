"""The loop: steps, evaluation, checkpoints, and a log of all of it."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ezsr_shards.errors import InputError, RunError
from ezsr_shards.shard import write_atomically
from ezsr_train.config import OptimConfig, TrainConfig
from ezsr_train.data import (
    Batch,
    ShardSet,
    evaluation_batches,
    open_shard_set,
    training_batches,
)
from ezsr_train.loss import alignment_loss
from ezsr_train.model import EventEncoder, Teacher, load_teacher
from ezsr_train.zeroshot import Accuracy, count_hits, embed_classes

METRICS_FILE, SUMMARY_FILE = "metrics.jsonl", "summary.json"
_LOG_EVERY = 25
_EVALUATION_BATCH = 128


@dataclass(frozen=True)
class Evaluation:
    """Zero-shot top-1 over all class names: events by the student, pictures by the teacher."""

    events: Accuracy
    pictures: Accuracy
    classes: int

    def facts(self) -> dict[str, float]:
        """Return what is logged."""
        low, high = self.events.interval()
        return {
            "zero_shot_top1_events": self.events.top1,
            "zero_shot_top1_events_low": low,
            "zero_shot_top1_events_high": high,
            "teacher_top1_rgb": self.pictures.top1,
            "chance": 1 / self.classes,
            "samples": self.events.total,
        }


def learning_rate(step: int, config: OptimConfig) -> float:
    """Return the rate of a step: linear warm-up, then a cosine to zero."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    share = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def make_optimizer(student: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW that decays matrices only."""
    matrices = [p for p in student.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in student.parameters() if p.requires_grad and p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))


@torch.no_grad()
def evaluate(
    student: EventEncoder, teacher: Teacher, shards: ShardSet, config: TrainConfig
) -> Evaluation:
    """Score student and teacher on every labelled sample of a shard set, exactly once."""
    if not shards.classes:
        raise InputError("VAL: this shard set has no classes, so there is nothing to name")
    names = [entry.name for entry in shards.classes]
    texts = embed_classes(teacher.clip, teacher.tokenizer, names)
    student.eval()
    hits = {"events": 0, "rgb": 0}
    total = pictures = 0
    for batch in evaluation_batches(shards, config.input, teacher.size_px, _EVALUATION_BATCH):
        labels = batch.labels.to(texts.device)
        events = count_hits(student(batch.events.to(texts.device)), labels, texts)
        hits["events"] += events.hits
        total += events.total
        if batch.rgb is not None:
            seen = count_hits(teacher.embed_pictures(batch.rgb), labels, texts)
            hits["rgb"] += seen.hits
            pictures += seen.total
    student.train()
    return Evaluation(Accuracy(hits["events"], total), Accuracy(hits["rgb"], pictures), len(names))


def train(
    shards: Path,
    out: Path,
    config: TrainConfig,
    validation: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Train an event encoder; return the summary that is also written to OUT.

    A run that was stopped at any step continues with `resume` from its last checkpoint, with the
    same samples and the same losses to the last bit on one machine's CPU.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = load_teacher(config.model, device)
    sets = open_shard_set(shards), open_shard_set(validation) if validation else None
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    student = EventEncoder(teacher, config.input.representation).to(device).train()
    optimizer = make_optimizer(student, config.optim)
    start = restore(out, student, optimizer, config, teacher) if resume else 0
    started, waited = time.perf_counter(), 0.0
    batches = training_batches(sets[0], config, teacher.size_px, start)
    evaluation: Evaluation | None = None
    for step in range(start, config.optim.steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        losses = take_step(student, teacher, batch, optimizer, config, step)
        done = step + 1
        if done % _LOG_EVERY == 0 or done == config.optim.steps:
            elapsed = time.perf_counter() - started
            rate = (done - start) * config.optim.batch / elapsed
            facts = {"step": done, **losses, "samples_per_s": rate, "waiting": waited / elapsed}
            _log(out, facts)
            print(
                f"step {done}/{config.optim.steps}  loss {losses['loss']:.4f}  "
                f"{rate:.0f} samples/s  waiting {waited / elapsed:.0%}",
                flush=True,
            )
        last = done == config.optim.steps
        if sets[1] is not None and (done % config.eval_every == 0 or last):
            evaluation = evaluate(student, teacher, sets[1], config)
            _log(out, {"step": done, **evaluation.facts()})
            print(
                f"step {done}: zero-shot top-1 {evaluation.events.top1:.1%} on events, "
                f"teacher {evaluation.pictures.top1:.1%} on the pictures",
                flush=True,
            )
        if done % config.save_every == 0 or last:
            save(out, done, student, optimizer, config, teacher)
    summary = {
        "steps": config.optim.steps,
        "seconds": time.perf_counter() - started,
        "teacher_sha256": teacher.sha256,
        **(evaluation.facts() if evaluation else {}),
    }
    text = json.dumps(summary, indent=1, sort_keys=True) + "\n"
    (out / SUMMARY_FILE).write_text(text)
    return summary


def take_step(
    student: EventEncoder,
    teacher: Teacher,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    step: int,
) -> dict[str, float]:
    """Make one optimiser step; return the losses. Raises RunError where the loss is no number."""
    if batch.rgb is None:
        raise InputError("SHARDS: a sample has no picture; training needs synthetic shards")
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config.optim)
    pictures = teacher.embed_pictures(batch.rgb)
    parts = alignment_loss(student(batch.events.to(pictures.device)), pictures, config.loss)
    loss = parts["loss"]
    if not torch.isfinite(loss):
        raise RunError(f"step {step}: the loss is {loss.item()}; resume with a smaller --optim.lr")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(student.parameters(), config.optim.clip_norm)
    optimizer.step()
    return {name: float(part.detach()) for name, part in parts.items()}


def save(
    out: Path,
    step: int,
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    teacher: Teacher,
) -> None:
    """Write a checkpoint atomically, then drop the oldest ones."""
    state = {
        "step": step,
        "student": student.state_dict(),
        "optimizer": optimizer.state_dict(),
        "config": json.dumps(asdict(config), sort_keys=True),
        "teacher_sha256": teacher.sha256,
    }
    write_atomically(_checkpoint(out, step), lambda file: torch.save(state, file))
    for old in _checkpoints(out)[: -config.keep]:
        old.unlink()


def restore(
    out: Path,
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    teacher: Teacher,
) -> int:
    """Load the last checkpoint and return its step, or 0 where there is none."""
    found = _checkpoints(out)
    if not found:
        return 0
    state = torch.load(found[-1], weights_only=True, map_location="cpu")
    if state["teacher_sha256"] != teacher.sha256:
        raise InputError(f"resume {found[-1]}: trained with another teacher; give the same --model")
    if state["config"] != json.dumps(asdict(config), sort_keys=True):
        raise InputError(
            f"resume {found[-1]}: made with other options; give the same ones, or another --out"
        )
    student.load_state_dict(state["student"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _checkpoint(out: Path, step: int) -> Path:
    return out / f"step-{step:09d}.pt"


def _checkpoints(out: Path) -> list[Path]:
    return sorted(out.glob("step-*.pt"))


def _log(out: Path, facts: dict[str, Any]) -> None:
    with open(out / METRICS_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(facts, sort_keys=True) + os.linesep)
