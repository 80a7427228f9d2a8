"""Evaluation: zero-shot top-1 on events, beside the teacher's on the pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ezsr_shards.errors import InputError
from ezsr_train.batches import Batch, ReadOptions, evaluation_batches
from ezsr_train.encoder import EventEncoder
from ezsr_train.ranks import Ranks
from ezsr_train.shard_files import ShardSet
from ezsr_train.step import targets_of
from ezsr_train.teacher import Teacher
from ezsr_train.zeroshot import Accuracy, count_hits, embed_classes

_BATCH = 128


@dataclass(frozen=True)
class Evaluation:
    """Zero-shot top-1 over all class names: events by the student, pictures by the teacher.

    pictures  None where there are none
    skipped   broken samples, which are left out
    """

    events: Accuracy
    pictures: Accuracy | None
    classes: int
    skipped: int

    def facts(self) -> dict[str, float]:
        """Return what is logged."""
        low, high = self.events.interval()
        facts = {
            "zero_shot_top1_events": self.events.top1,
            "zero_shot_top1_events_low": low,
            "zero_shot_top1_events_high": high,
            "chance": 1 / self.classes,
            "eval_samples": self.events.total,
            "eval_skipped": self.skipped,
        }
        if self.pictures is not None:
            facts["teacher_top1_rgb"] = self.pictures.top1
        return facts

    def line(self) -> str:
        """Return the figures as a line for people."""
        line = f"zero-shot top-1 {self.events.top1:.1%} on events"
        if self.pictures is not None:
            line += f", teacher {self.pictures.top1:.1%} on the pictures"
        return line + (f", {self.skipped} samples left out" if self.skipped else "")


class Evaluator:
    """Scores students on a labelled shard set; the teacher is scored once, at the start."""

    def __init__(
        self,
        shards: ShardSet,
        options: ReadOptions,
        teacher: Teacher,
        ranks: Ranks,
        workers: int,
    ) -> None:
        """Embed the class names, and score the teacher."""
        if not shards.classes:
            raise InputError("VAL: this shard set has no classes, so there is nothing to name")
        self._shards, self._options, self._ranks = shards, options, ranks
        self._workers = workers
        names = [entry.name for entry in shards.classes]
        self._texts = embed_classes(teacher.clip, teacher.tokenizer, names)

        def teach(batch: Batch) -> Tensor:
            return targets_of(batch, teacher.embed_pictures, ranks.device)

        pictures, _ = self._score(teach, options)
        self._pictures = pictures if pictures.total else None

    def score(self, student: EventEncoder) -> Evaluation:
        """Score every labelled sample exactly once, over all ranks."""

        def embed(batch: Batch) -> Tensor:
            return student(batch.events.to(self._ranks.device))  # type: ignore[no-any-return]

        events, skipped = self._score(embed, replace(self._options, picture_px=None, cache=None))
        if not events.total:
            raise InputError("VAL: holds no labelled sample")
        return Evaluation(events, self._pictures, len(self._texts), skipped)

    @torch.no_grad()
    def _score(
        self, embed: Callable[[Batch], Tensor], options: ReadOptions
    ) -> tuple[Accuracy, int]:
        """Return the accuracy of embeddings over all ranks, and how many samples were broken."""
        hits = total = skipped = 0
        for batch in evaluation_batches(self._shards, options, self._ranks, _BATCH, self._workers):
            skipped += len(batch.skipped)
            if len(batch.labels):
                labels = batch.labels.to(self._ranks.device)
                hits += count_hits(embed(batch), labels, self._texts).hits
                total += int((labels >= 0).sum())
        hits, total, skipped = (int(n) for n in self._ranks.total([hits, total, skipped]))
        return Accuracy(hits, total), skipped
