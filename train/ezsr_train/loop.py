"""The loop: steps, evaluation, checkpoints, and a log of all of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ezsr_shards.errors import ConfigError, OutputError, RunError
from ezsr_shards.shardset import write_json
from ezsr_train.batches import Batch, ReadOptions, training_batches
from ezsr_train.checkpoint import (
    Origin,
    Progress,
    code_version,
    find_checkpoint,
    list_checkpoints,
    restore_checkpoint,
    save_best,
    save_checkpoint,
    step_path,
)
from ezsr_train.config import TrainConfig
from ezsr_train.encoder import EncoderFacts, EventEncoder, make_student, save_encoder
from ezsr_train.evaluate import Evaluation, Evaluator
from ezsr_train.monitor import CURVE_FILE, INPUT_FILE, Monitor, count_flops, draw_curve, draw_inputs
from ezsr_train.optimize import learning_rate
from ezsr_train.ranks import Ranks, join_ranks
from ezsr_train.shard_files import ShardSet, open_shard_set
from ezsr_train.step import Learner, make_learner, take_step, targets_of
from ezsr_train.subset import choose_subset
from ezsr_train.teacher import Teacher, load_teacher
from ezsr_train.teacher_cache import TeacherCache, open_cache

SUMMARY_FILE, CONFIG_FILE = "summary.json", "config.json"
ENCODER_FILE, BEST_ENCODER_FILE = "encoder.safetensors", "best.safetensors"
_LEAST_SEEN = 1000  # samples, before a share of broken ones says anything
Say = Callable[[str], None]


def train(
    shards: str | Path,
    out: str | Path,
    config: TrainConfig,
    validation: str | Path | None = None,
    resume: str | None = None,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Train an event encoder; return the summary that is also written to OUT.

    `resume`, latest or a checkpoint's path, goes on from there: on one machine's CPU with the same
    samples and the same losses to the last bit. Under torchrun the processes share every batch.
    """
    with join_ranks() as ranks:
        return _Run(shards, Path(out), config, validation, resume, ranks, say).train()


class _Run:
    """One run of one process, from the opened files to the summary."""

    def __init__(
        self,
        shards: str | Path,
        out: Path,
        config: TrainConfig,
        validation: str | Path | None,
        resume: str | None,
        ranks: Ranks,
        say: Say,
    ) -> None:
        _check(config, ranks)
        self.out, self.config, self.ranks = out, config, ranks
        self.say: Say = say if ranks.first else lambda line: None
        whole = open_shard_set(shards, config.data.cache)
        self.shards = choose_subset(whole, config.data, config.seed)
        if config.loss.queue > max(len(self.shards) - config.optim.batch, 0):
            raise ConfigError(
                f"loss.queue {config.loss.queue}: with {len(self.shards)} samples a picture would "
                f"be its own negative; give {max(len(self.shards) - config.optim.batch, 0)} at most"
            )
        self.teacher = load_teacher(config.model, config.pretrained, ranks.device)
        torch.manual_seed(config.seed)
        student = make_student(self.teacher, config.input, config.student, config.init)
        flops = count_flops(student.visual, student.spec) if ranks.device.type == "cuda" else 0.0
        self.options = self._read_options(self.shards, student)
        self.learner: Learner = make_learner(student, config, ranks)
        val = open_shard_set(validation, config.data.cache) if validation is not None else None
        self.origin = Origin(
            self.teacher.sha256, self.shards.identity, val.identity if val is not None else None
        )
        self.progress = self._start(resume)
        self.evaluator = self._make_evaluator(val) if val is not None else None
        self.monitor = Monitor(out, config, flops, config.optim.accumulate) if ranks.first else None

    def _read_options(self, shards: ShardSet, student: EventEncoder) -> ReadOptions:
        cache = _choose_cache(shards, self.teacher, self.config, self.say)
        sizes = student.events_px, self.teacher.spec.size_px
        return ReadOptions(self.config.input, *sizes, cache)

    def _make_evaluator(self, shards: ShardSet) -> Evaluator:
        online, geometry = self.config.teacher == "online", self.config.input.geometry
        cache = None if online else open_cache(shards, self.teacher, geometry)
        options = replace(self.options, cache=cache)
        return Evaluator(shards, options, self.teacher, self.ranks, self.config.data.workers)

    def _start(self, resume: str | None) -> Progress:
        if not str(self.out).strip("."):
            raise ConfigError("out: give a folder of its own for the run")
        found = find_checkpoint(self.out, resume) if resume else None
        if resume is None and self.ranks.first and list_checkpoints(self.out):
            raise OutputError(
                f"out {self.out}: holds a run's checkpoints; say --resume latest, or another --out"
            )
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"out {self.out}: cannot be made ({error.strerror})") from error
        self.ranks.wait()
        if found is None:
            return Progress(0)
        progress = restore_checkpoint(found, self.learner, self.config, self.origin)
        if self.ranks.first and list_checkpoints(self.out)[-1:] > [
            step_path(self.out, progress.step)
        ]:
            raise OutputError(
                f"out {self.out}: holds checkpoints after step {progress.step}, where {found} "
                f"stands; delete them, or give another --out"
            )
        self.say(f"resumed from {found} at step {progress.step}")
        return progress

    def train(self) -> dict[str, Any]:
        started = time.perf_counter()
        if self.ranks.first:
            facts = {**asdict(self.config), "code_version": code_version()}
            write_json(self.out, CONFIG_FILE, facts)
        batches = training_batches(
            self.shards, self.options, self.config, self.ranks, self.progress.step
        )
        evaluation = self._evaluate() if self.progress.step == 0 else None
        for step in range(self.progress.step, self.config.optim.steps):
            asked = time.perf_counter()
            batch = _next_batch(batches)
            waited = time.perf_counter() - asked
            if step == 0 and self.ranks.first:
                images = self.learner.student.draw(batch.events.to(self.ranks.device))
                draw_inputs(self.out / INPUT_FILE, images)
            self._take(batch, waited, step)
            evaluation = self._after(step + 1) or evaluation
        if evaluation is None:  # resumed at its end
            evaluation = self._evaluate()
        return self._finish(evaluation, time.perf_counter() - started)

    def _take(self, batch: Batch, waited_s: float, step: int) -> None:
        began = time.perf_counter()
        targets = targets_of(batch, self.teacher.embed_pictures, self.ranks.device)
        losses = take_step(self.learner, batch, targets, self.config, self.ranks, step)
        lost = self.ranks.collect(batch.skipped)
        self.progress = replace(self.progress, step=step + 1).skip(lost)
        if self.monitor is not None:
            self.monitor.add(losses, waited_s, waited_s + time.perf_counter() - began)
        skipped = self.progress.skipped_samples
        seen = max((step + 1) * self.config.optim.batch, _LEAST_SEEN)
        if skipped > self.config.data.max_skipped * seen:
            raise RunError(
                f"step {step}: {skipped} broken samples are over data.max_skipped "
                f"{self.config.data.max_skipped:g}: {json.dumps(self.progress.skipped)}"
            )

    def _after(self, done: int) -> Evaluation | None:
        """Log, evaluate and save where it is due."""
        log, last = self.config.log, done == self.config.optim.steps
        evaluation = None
        if self.monitor is not None and (done % log.every == 0 or last):
            rate = learning_rate(done - 1, self.config.optim)
            self.say(self.monitor.report(done, self.progress.skipped_samples, rate))
        if done % log.eval_every == 0 or last:
            evaluation = self._evaluate()
        better = evaluation is not None and evaluation.events.share > self.progress.best_top1
        if evaluation is not None and better:
            self.progress = replace(self.progress, best_top1=evaluation.events.share)
        if self.ranks.first and (done % log.save_every == 0 or last or better):
            path = save_checkpoint(self.out, self.learner, self.config, self.origin, self.progress)
            self._export(ENCODER_FILE)
            if better:
                save_best(self.out, path)
                self._export(BEST_ENCODER_FILE)
        return evaluation

    def _export(self, name: str) -> None:
        facts = EncoderFacts(
            self.learner.student.spec,
            self.config.input,
            self.config.model,
            self.config.pretrained,
            self.teacher.sha256,
        )
        try:
            save_encoder(self.out / name, self.learner.tower().state_dict(), facts)
        except OSError as error:
            raise RunError(
                f"{self.out / name}: cannot be written ({error.strerror}); make room and say "
                f"--resume latest"
            ) from error

    def _evaluate(self) -> Evaluation | None:
        if self.evaluator is None:
            return None
        with self.learner.evaluating() as student:
            found = self.evaluator.score(student)
        if self.monitor is not None:
            samples = self.progress.step * self.config.optim.batch
            self.monitor.log({"step": self.progress.step, "samples": samples, **found.facts()})
            self.say(f"step {self.progress.step}: {found.line()}")
        return found

    def _finish(self, evaluation: Evaluation | None, seconds: float) -> dict[str, Any]:
        summary = {
            "steps": self.config.optim.steps,
            "samples": self.config.optim.steps * self.config.optim.batch,
            "seconds": seconds,
            "skipped": self.progress.skipped_samples,
            "skipped_by_shard": self.progress.skipped,
            "teacher": self.teacher.name,
            "teacher_sha256": self.teacher.sha256,
            **(evaluation.facts() if evaluation else {}),
        }
        if self.monitor is None:
            return summary
        write_json(self.out, SUMMARY_FILE, summary)
        self.monitor.close()
        draw_curve(self.out)
        self.say(f"wrote {self.out / ENCODER_FILE} and {self.out / CURVE_FILE}")
        return summary


def _next_batch(batches: Iterator[Batch]) -> Batch:
    try:
        return next(batches)
    except RunError as error:  # a reading process wraps its own in a traceback
        said = str(error).strip().splitlines()[-1].rpartition("RunError: ")[2]
        raise RunError(said) from error


def _check(config: TrainConfig, ranks: Ranks) -> None:
    """Raise ConfigError where this machine, or these processes, cannot do what is asked."""
    parts = ranks.count * config.optim.accumulate
    if config.optim.batch % parts:
        raise ConfigError(
            f"optim.batch {config.optim.batch}: give a multiple of {parts}, the processes times "
            f"optim.accumulate"
        )
    if config.precision == "fp16" and ranks.device.type == "cpu":
        raise ConfigError("precision fp16: needs a CUDA device; give fp32 or bf16")


def _choose_cache(
    shards: ShardSet, teacher: Teacher, config: TrainConfig, say: Say
) -> TeacherCache | None:
    if config.teacher == "online":
        return None
    cache = open_cache(shards, teacher, config.input.geometry)
    if cache is None and config.teacher == "cached":
        raise ConfigError(
            f"teacher cached: no embeddings of {teacher.name} beside the shards; run ezsr-embed"
        )
    if cache is None:
        say(f"no cached embeddings of {teacher.name}; ezsr-embed would spare decoding pictures")
    return cache
