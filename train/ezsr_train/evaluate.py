"""Evaluation: every recording is embedded once, over all ranks, and its nearest class counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ezsr_shards.errors import InputError
from ezsr_shards.shardset import ShardClass
from ezsr_train.batches import Batch, ReadOptions, Skipped, evaluation_batches
from ezsr_train.encoder import EventEncoder
from ezsr_train.prepare import MIDDLE_SLICE
from ezsr_train.ranks import Ranks
from ezsr_train.recording import Recordings
from ezsr_train.shard_files import ShardSet
from ezsr_train.step import targets_of
from ezsr_train.teacher import Teacher
from ezsr_train.zeroshot import Accuracy, embed_classes, rank_classes

_BATCH = 128
_RANKED = 5
Embed = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Embedded:
    """This rank's labelled recordings.

    labels      int64 (N,), on the CPU
    embeddings  float32 (N, D), unit length, on the CPU
    skipped     broken recordings, which are left out
    alike       recordings of which all slices are the same, as a slice holds all their events
    """

    keys: tuple[str, ...]
    labels: Tensor
    embeddings: Tensor
    skipped: tuple[Skipped, ...]
    alike: int = 0


@dataclass(frozen=True)
class Answer:
    """A recording's name, its class, and the nearest classes, best first."""

    key: str
    label: int
    nearest: tuple[int, ...]


@torch.no_grad()
def embed_recordings(
    recordings: Recordings,
    options: ReadOptions,
    embed: Embed,
    ranks: Ranks,
    batch: int = _BATCH,
    workers: int = 0,
) -> Embedded:
    """Embed this rank's share of all recordings, each once.

    `embed` gives raw embeddings (B * slices, D); those of a recording's slices are scaled to unit
    length, averaged, and scaled again.
    """
    slices = options.rule.slices
    keys, skipped = list[str](), list[Skipped]()
    labels, rows, alike = [torch.empty(0, dtype=torch.int64)], list[Tensor](), 0
    for one in evaluation_batches(recordings, options, ranks, batch, workers):
        skipped += one.skipped
        known = one.labels[::slices] >= 0
        if not known.any():
            continue
        unit = F.normalize(embed(one).float(), dim=-1)
        unit = unit.view(len(known), slices, -1)
        if slices > 1:
            alike += int((unit == unit[:, :1]).all(2).all(1)[known.to(unit.device)].sum())
        mean = F.normalize(unit.mean(1), dim=-1).cpu()
        keys += [key for key, labelled in zip(one.keys[::slices], known, strict=True) if labelled]
        labels.append(one.labels[::slices][known])
        rows.append(mean[known])
    embeddings = torch.cat(rows) if rows else torch.empty(0, 1)
    return Embedded(tuple(keys), torch.cat(labels), embeddings, tuple(skipped), alike)


def answer(embedded: Embedded, classes: Tensor, ranks: Ranks) -> list[Answer]:
    """Return the answers of all ranks, by key; `classes` float32 (classes, D), unit length."""
    mine: list[Answer] = []
    if len(embedded.keys):
        nearest = rank_classes(embedded.embeddings, classes.cpu(), _RANKED).tolist()
        rows = zip(embedded.keys, embedded.labels.tolist(), nearest, strict=True)
        mine = [Answer(key, label, tuple(found)) for key, label, found in rows]
    return sorted(ranks.collect(mine), key=lambda one: one.key)


def check_classes(classes: Sequence[ShardClass]) -> None:
    """Raise InputError unless there are classes, and labels are their places in the list."""
    if not classes:
        raise InputError("no classes, so there is nothing to name; give a labelled set")
    if [entry.index for entry in classes] != list(range(len(classes))):
        raise InputError(
            f"classes.json: {len(classes)} classes, but not numbered from 0 without a gap, so that "
            f"some have no name; make the set with --classnames that names all"
        )


def accuracy(answers: list[Answer], most: int = 1) -> Accuracy:
    """Count the answers whose class is among their `most` nearest."""
    return Accuracy(sum(one.label in one.nearest[:most] for one in answers), len(answers))


@dataclass(frozen=True)
class Evaluation:
    """Zero-shot top-1 over all class names: events by the student, pictures by the teacher.

    pictures  None where there are none
    skipped   broken samples, which are left out
    distance  mean of 1 - cosine similarity of student and teacher, None where there are no pictures
    """

    events: Accuracy
    pictures: Accuracy | None
    classes: int
    skipped: int
    distance: float | None = None

    def facts(self) -> dict[str, float]:
        """Return what is logged."""
        low, high = self.events.interval()
        facts = {
            "zero_shot_top1_events": self.events.share,
            "zero_shot_top1_events_low": low,
            "zero_shot_top1_events_high": high,
            "chance": 1 / self.classes,
            "eval_samples": self.events.total,
            "eval_skipped": self.skipped,
        }
        if self.pictures is not None:
            facts["teacher_top1_rgb"] = self.pictures.share
        if self.distance is not None:
            facts["distance_to_teacher"] = self.distance
        return facts

    def line(self) -> str:
        """Return the figures as a line for people."""
        line = f"zero-shot top-1 {self.events.share:.1%} on events"
        if self.pictures is not None:
            line += f", teacher {self.pictures.share:.1%} on the pictures"
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
        check_classes(shards.classes)
        self._shards, self._options, self._ranks = shards, options, ranks
        self._workers = workers
        names = [entry.name for entry in shards.classes]
        self._texts = embed_classes(teacher.clip, teacher.tokenizer, names)
        found = self._embed(teach(teacher, ranks), options)
        pictures, _ = self._count(found)
        self._pictures = pictures if pictures.total else None
        self._taught = dict(zip(found.keys, found.embeddings, strict=True))

    def score(self, student: EventEncoder) -> Evaluation:
        """Score every labelled sample exactly once, over all ranks."""
        options = replace(self._options, picture_px=None, cache=None)
        found = self._embed(encode(student, self._ranks), options)
        events, skipped = self._count(found)
        if not events.total:
            raise InputError("VAL: holds no labelled sample")
        distance = self._measure(found)
        return Evaluation(events, self._pictures, len(self._texts), skipped, distance)

    def _embed(self, embed: Embed, options: ReadOptions) -> Embedded:
        options = replace(options, rule=MIDDLE_SLICE)
        return embed_recordings(self._shards, options, embed, self._ranks, _BATCH, self._workers)

    def _measure(self, found: Embedded) -> float | None:
        """Return the mean distance to the teacher, over all ranks."""
        pairs = [
            float(row @ self._taught[key])
            for key, row in zip(found.keys, found.embeddings, strict=True)
            if key in self._taught
        ]
        near, total = self._ranks.total([sum(pairs), float(len(pairs))])
        return 1 - near / total if total else None

    def _count(self, found: Embedded) -> tuple[Accuracy, int]:
        """Return the accuracy of embeddings over all ranks, and how many samples were broken."""
        hits = 0
        if len(found.keys):
            nearest = rank_classes(found.embeddings, self._texts.cpu())[:, 0]
            hits = int(nearest.eq(found.labels).sum())
        counts = [hits, len(found.keys), len(found.skipped)]
        hits, total, skipped = (int(n) for n in self._ranks.total([float(n) for n in counts]))
        return Accuracy(hits, total), skipped


def encode(student: EventEncoder, ranks: Ranks) -> Embed:
    """Return what embeds the events of a batch."""

    def embed(batch: Batch) -> Tensor:
        return student(batch.events.to(ranks.device))  # type: ignore[no-any-return]

    return embed


def teach(teacher: Teacher, ranks: Ranks) -> Embed:
    """Return what embeds the pictures of a batch, or takes their cached embeddings."""

    def embed(batch: Batch) -> Tensor:
        return targets_of(batch, teacher.embed_pictures, ranks.device)

    return embed
