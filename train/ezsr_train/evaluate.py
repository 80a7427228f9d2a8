"""Evaluation: zero-shot top-1 on events, beside the teacher's on the pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ezsr_shards.errors import InputError
from ezsr_train.batches import ReadOptions, evaluation_batches
from ezsr_train.encoder import EventEncoder
from ezsr_train.ranks import Ranks
from ezsr_train.shard_files import ShardSet
from ezsr_train.step import targets_of
from ezsr_train.teacher import Teacher
from ezsr_train.zeroshot import Accuracy, count_hits, embed_classes

_BATCH = 128


@dataclass(frozen=True)
class Evaluation:
    """Zero-shot top-1 over all class names: events by the student, pictures by the teacher."""

    events: Accuracy
    pictures: Accuracy
    classes: int
    skipped: int

    def facts(self) -> dict[str, float]:
        """Return what is logged."""
        low, high = self.events.interval()
        return {
            "zero_shot_top1_events": self.events.top1,
            "zero_shot_top1_events_low": low,
            "zero_shot_top1_events_high": high,
            "teacher_top1_rgb": self.pictures.top1,
            "chance": 1 / self.classes,
            "eval_samples": self.events.total,
            "eval_skipped": self.skipped,
        }


class Evaluator:
    """Scores students on a labelled shard set; the teacher's part is computed once."""

    def __init__(
        self, shards: ShardSet, options: ReadOptions, teacher: Teacher, workers: int
    ) -> None:
        """Embed the class names."""
        if not shards.classes:
            raise InputError("VAL: this shard set has no classes, so there is nothing to name")
        self._shards, self._options, self._teacher = shards, options, teacher
        self._workers = workers
        names = [entry.name for entry in shards.classes]
        self._texts = embed_classes(teacher.clip, teacher.tokenizer, names)
        self._pictures: Accuracy | None = None

    @torch.no_grad()
    def score(self, student: EventEncoder, ranks: Ranks) -> Evaluation:
        """Score every labelled sample exactly once, over all ranks."""
        hits = total = seen_hits = seen = skipped = 0
        options = self._options
        if self._pictures is not None:
            options = replace(options, picture_px=None, cache=None)
        for batch in evaluation_batches(self._shards, options, ranks, _BATCH, self._workers):
            skipped += len(batch.skipped)
            if not len(batch.labels):
                continue
            labels = batch.labels.to(ranks.device)
            named = labels >= 0
            events = count_hits(student(batch.events.to(ranks.device)), labels, self._texts)
            hits, total = hits + events.hits, total + int(named.sum())
            if batch.pictures is not None or batch.embeddings is not None:
                targets = targets_of(batch, self._teacher.embed_pictures, ranks.device)
                pictures = count_hits(targets, labels, self._texts)
                seen_hits, seen = seen_hits + pictures.hits, seen + int(named.sum())
        sums = [int(n) for n in ranks.total([hits, total, seen_hits, seen, skipped])]
        if not sums[1]:
            raise InputError("VAL: holds no labelled sample")
        if self._pictures is None:
            self._pictures = Accuracy(sums[2], sums[3])
        return Evaluation(Accuracy(sums[0], sums[1]), self._pictures, len(self._texts), sums[4])
