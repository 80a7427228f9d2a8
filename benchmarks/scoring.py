"""Scores of an encoder on a held-out set, sample by sample, so that two encoders can be compared.

Zero-shot top-1 over all class names, by the public parts that ezsr-eval is made of, and how far the
student's embeddings of events are from the teacher's of the pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ezsr_shards.errors import InputError
from ezsr_train.batches import ReadOptions
from ezsr_train.config import TrainConfig
from ezsr_train.encoder import open_encoder
from ezsr_train.evaluate import Embedded, check_classes, embed_recordings, encode, teach
from ezsr_train.knn import KnnConfig, open_pool, translate
from ezsr_train.ranks import Ranks, join_ranks
from ezsr_train.shard_files import open_shard_set
from ezsr_train.teacher import Teacher, load_teacher
from ezsr_train.teacher_cache import open_cache
from ezsr_train.zeroshot import embed_classes, rank_classes


def score_encoder(
    path: Path, val: Path, config: TrainConfig, pool: Path | None = None, knn: int = 0
) -> dict[str, Any]:
    """Score an encoder's file on a labelled shard set, in its middle slices.

    per_sample  "1" for each sample, in the order of their keys, that was named rightly, else "0"
    distance    mean of 1 - cosine similarity between student (events) and teacher (pictures)

    With a `pool`, shards that the teacher has embedded, the same after k-NN translation: knn_error,
    knn_per_sample.
    """
    with join_ranks() as ranks:
        teacher = load_teacher(config.model, config.pretrained, ranks.device)
        events, pictures = _embed(path, val, teacher, config, ranks)
        shards = open_shard_set(val)
        check_classes(shards.classes)
        names = [entry.name for entry in shards.classes]
        texts = embed_classes(teacher.clip, teacher.tokenizer, names).cpu()
        hits = _hit(events.embeddings, events, texts)
        seen = _hit(pictures.embeddings, pictures, texts)
        row = {
            "error": 1 - sum(hits) / len(hits),
            "correct": sum(hits),
            "evaluated": len(hits),
            "per_sample": _write_bits(events, hits),
            "distance": _measure_distance(events, pictures),
            "teacher_error": 1 - sum(seen) / len(seen),
            "chance": 1 / len(names),
        }
        if pool is not None:
            found = open_pool(str(pool), teacher, config.input.geometry)
            rows = translate(events.embeddings.to(ranks.device), found, KnnConfig(knn)).cpu()
            moved = _hit(rows, events, texts)
            row |= {"knn_error": 1 - sum(moved) / len(moved)}
            row |= {"knn_per_sample": _write_bits(events, moved)}
        return row


def _embed(
    path: Path, val: Path, teacher: Teacher, config: TrainConfig, ranks: Ranks
) -> tuple[Embedded, Embedded]:
    """Return the student's embeddings of the events, and the teacher's of the pictures."""
    encoder, facts = open_encoder(path)
    encoder = encoder.to(ranks.device)
    shards = open_shard_set(val)
    cache = open_cache(shards, teacher, config.input.geometry)
    options = ReadOptions(facts.input, encoder.events_px, None)
    events = embed_recordings(shards, options, encode(encoder, ranks), ranks)
    seen = ReadOptions(facts.input, encoder.events_px, teacher.spec.size_px, cache)
    pictures = embed_recordings(shards, seen, teach(teacher, ranks), ranks)
    if not events.keys or events.keys != pictures.keys:
        raise InputError(f"val {val}: needs labels and pictures, and no broken sample")
    return events, pictures


def _hit(rows: Tensor, of: Embedded, texts: Tensor) -> list[int]:
    """Return 1 for each row whose nearest class is its label, else 0."""
    return [int(hit) for hit in rank_classes(rows, texts)[:, 0].eq(of.labels).tolist()]


def _write_bits(of: Embedded, hits: list[int]) -> str:
    return "".join(str(hit) for _, hit in sorted(zip(of.keys, hits, strict=True)))


def _measure_distance(events: Embedded, pictures: Embedded) -> float:
    near = (events.embeddings * pictures.embeddings).sum(1)
    return float(1 - torch.mean(near, dtype=torch.float64))
