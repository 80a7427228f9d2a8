"""Recognition: score an event encoder's file on recordings, by a protocol that is written down."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from ezsr_shards.datasets import known_classes
from ezsr_shards.errors import (
    ConfigError,
    InputError,
    OutputError,
    RunError,
    ShardError,
    check_number,
)
from ezsr_shards.plan import fingerprint
from ezsr_shards.shardset import CONFIG_FILE, read_classes, read_json
from ezsr_shards.urls import show_urls
from ezsr_train.batches import ReadOptions
from ezsr_train.checkpoint import code_version
from ezsr_train.encoder import AUTHORS_PX, EncoderFacts, EventEncoder, open_encoder
from ezsr_train.evaluate import (
    Answer,
    Embedded,
    answer,
    check_classes,
    embed_recordings,
    encode,
    teach,
)
from ezsr_train.knn import KnnConfig, hash_file, open_pool, translate
from ezsr_train.prepare import MIDDLE_SLICE, SliceRule
from ezsr_train.ranks import Ranks
from ezsr_train.recording import Recordings
from ezsr_train.recording_files import RecordingFiles
from ezsr_train.report import BY_TRUST, OWN_NAMES, REPORT_FILES, Report
from ezsr_train.shard_files import ShardSet
from ezsr_train.teacher import Teacher
from ezsr_train.teacher_cache import open_cache
from ezsr_train.templates import read_templates, templates_for
from ezsr_train.texts import embed_classes_once, is_file, load_partner, name_classes

_LIBRARIES = ("ezsr", "torch", "open_clip_torch", "numpy")
_OFFICIAL_SLICE, _OFFICIAL_JITTER = 15_000, 2_000


@dataclass(frozen=True)
class EvalConfig:
    """What decides an evaluation besides checkpoint and recordings."""

    model: str | None = None
    """The CLIP whose text tower names the classes, where it is not found as in training."""
    pretrained: str | None = None
    """Its weights, as in ezsr-train."""
    protocol: Literal["fixed", "official"] = "fixed"
    """fixed: slices of a fixed length, evenly placed; official: the authors' evaluator, one random
    slice of 15,000 +- 2,000 events, stretched to 224x224 and from there to the tower's input by
    nearest, OpenAI's templates for ImageNet."""
    slice_events: int = 0
    """Events in a slice; 0: as in training."""
    slices: int = 1
    """Slices of each recording whose embeddings are averaged."""
    seed: int = 0
    """Seed of the official protocol's slices."""
    classnames: str | None = None
    """Words for the classes: a file, or openai for ImageNet; by default those of the set."""
    templates: str | None = None
    """imagenet, object, digit, action, people, plain, or a file; by default as suits the set."""
    knn: int = 0
    """Translate by this many nearest picture embeddings as well; 0 does not."""
    pool: str | None = None
    """Their pool: a shard set with ezsr-embed's embeddings, or a .npy file (N, D)."""
    knn_temperature: float = 0.05
    """Their weights are softmax(similarity / temperature)."""
    ceiling: bool = False
    """Score the teacher on the RGB pictures of the same shards as well."""
    batch: int = 128
    """Slices embedded at a time."""
    workers: int = 1
    """Reading processes of each rank."""
    max_skipped: float = 0.01
    """Share of recordings that may be broken before the evaluation counts as failed."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        check_number("slice_events", self.slice_events, 0, 10_000_000)
        check_number("slices", self.slices, 1, 1000)
        check_number("seed", self.seed, 0, 2**63 - 1)
        check_number("knn", self.knn, 0, 4096)
        check_number("knn_temperature", self.knn_temperature, 1e-4, 1e4)
        check_number("batch", self.batch, 1, 65536)
        check_number("workers", self.workers, 0, 1024)
        check_number("max_skipped", self.max_skipped, 0.0, 1.0)
        if bool(self.knn) != (self.pool is not None):
            raise ConfigError(f"--knn {self.knn}, --pool {self.pool}: give both, or neither")
        if self.protocol == "official":
            fixed = {"slice_events": 0, "slices": 1, "templates": None, "classnames": None}
            for name, usual in fixed.items():
                if getattr(self, name) != usual:
                    raise ConfigError(
                        f"{name} {getattr(self, name)}: the official protocol fixes it; leave it "
                        f"out, or say --protocol fixed"
                    )


def evaluate(
    checkpoint: str | Path,
    recordings: Recordings,
    config: EvalConfig,
    ranks: Ranks,
    source: str = "",
) -> Report:
    """Score a checkpoint on recordings; every rank returns the same report.

    `source` is what the report calls the recordings. Raises InputError where they have no
    classes or labels, RunError where too many are broken.
    """
    check_classes(recordings.classes)
    if config.ceiling and not _has_pictures(recordings):
        raise InputError("ceiling: the recordings have no RGB pictures; leave --ceiling out")
    encoder, facts = open_encoder(Path(checkpoint))
    encoder = encoder.to(ranks.device)
    teacher = load_partner(facts, ranks.device, config.model, config.pretrained)
    names = name_classes(recordings.classes, config.classnames)
    chosen = _templates(config, recordings)
    texts = embed_classes_once(teacher, names, read_templates(chosen))
    pool = None
    if config.pool is not None:
        pool = open_pool(config.pool, teacher, facts.input.geometry)
    if config.protocol == "official" and encoder.spec.size_px >= AUTHORS_PX:
        encoder.events_px = AUTHORS_PX
    options = _read_options(config, encoder, facts)
    embed, batch = encode(encoder, ranks), max(config.batch // config.slices, 1)
    found = embed_recordings(recordings, options, embed, ranks, batch, config.workers)
    answers = answer(found, texts, ranks)
    skipped = _judge(found, answers, config, ranks)
    variants: dict[str, tuple[Answer, ...]] = {}
    protocol = _describe_protocol(config, options, encoder, chosen)
    protocol["class_names"] = _describe_names(config, names)
    if config.slices > 1:
        protocol["recordings_with_all_slices_alike"] = sum(ranks.collect([found.alike]))
    if pool is not None:
        protocol |= {"knn_pool": config.pool, "knn_pool_sha256": pool.identity}
        if isinstance(recordings, ShardSet) and pool.identity == recordings.identity:
            protocol["knn_pool_is"] = "the evaluated pictures themselves"
        how = KnnConfig(config.knn, config.knn_temperature)
        if found.keys:  # there may be more ranks than recordings
            rows = translate(found.embeddings.to(ranks.device), pool, how).cpu()
            found = replace(found, embeddings=rows)
        variants["knn"] = tuple(answer(found, texts, ranks))
    if config.ceiling:
        seen = _embed_pictures(recordings, options, teacher, config, ranks)
        variants["ceiling"] = tuple(answer(seen, texts, ranks))
        lost = _judge(seen, list(variants["ceiling"]), config, ranks)
        protocol["ceiling_left_out"] = lost.total()
    return Report(
        tuple(names),
        tuple(answers),
        variants,
        dict(skipped.most_common()),
        {
            "protocol": protocol,
            "checkpoint": _describe_checkpoint(checkpoint, facts, teacher, config.pretrained),
            "data": _describe_data(recordings, source),
            "versions": {name: version(name) for name in _LIBRARIES} | {"code": code_version()},
        },
    )


def _has_pictures(recordings: Recordings) -> bool:
    """Return whether the first whole recording has a picture, and so probably all."""
    for number in range(len(recordings)):
        with suppress(ShardError):
            return recordings.read(number, True).jpeg is not None
    return True  # all are broken, which will be said


def check_out(folder: Path, overwrite: bool) -> None:
    """Raise OutputError where a report cannot be written, or holds a place already."""
    if not str(folder).strip("."):
        raise ConfigError("out: give a folder of its own for the report")
    there = [name for name in REPORT_FILES if (folder / name).exists()]
    if there and not overwrite:
        raise OutputError(
            f"out {folder}: holds {there[0]}, an evaluation's report; give another folder, or "
            f"--overwrite"
        )
    above = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"out {folder}: {above} is no folder that can be written to")


def _judge(
    found: Embedded, answers: list[Answer], config: EvalConfig, ranks: Ranks
) -> Counter[str]:
    """Return why recordings were left out; raise where they are too many, or all."""
    skipped = Counter(one.reason for one in ranks.collect(found.skipped))
    scored, broken = len(answers), skipped.total()
    if not scored and not broken:
        raise InputError("SHARDS: no recording has a label, so there is nothing to count")
    if not scored or broken > config.max_skipped * (scored + broken):
        reasons = ", ".join(f"{n} {reason}" for reason, n in skipped.most_common(5))
        raise RunError(
            f"{broken} of {scored + broken} recordings are broken, over --max-skipped "
            f"{config.max_skipped:g}: {reasons}"
        )
    return skipped


def _templates(config: EvalConfig, recordings: Recordings) -> str:
    if config.protocol == "official":
        return "imagenet"
    return config.templates or templates_for(_format_of(recordings))


def _format_of(recordings: Recordings) -> str | None:
    """Return the data set that recordings come from, or None."""
    if isinstance(recordings, RecordingFiles):
        return recordings.listed.format
    if isinstance(recordings, ShardSet) and (recordings.folder / CONFIG_FILE).is_file():
        told = read_json(recordings.folder, CONFIG_FILE)
        how = told.get("import")
        if isinstance(how, dict) and "format" in how:
            return str(how["format"])
        return "synthetic" if "synthesis" in told else None
    return None


def _read_options(config: EvalConfig, encoder: EventEncoder, facts: EncoderFacts) -> ReadOptions:
    if config.protocol == "official":
        told = replace(facts.input, slice_events=_OFFICIAL_SLICE, geometry="stretch")
        rule = SliceRule(1, True, _OFFICIAL_JITTER, config.seed)
    else:
        told = replace(facts.input, slice_events=config.slice_events or facts.input.slice_events)
        rule = SliceRule(config.slices)
    return ReadOptions(told, encoder.events_px, None, rule=rule)


def _embed_pictures(
    recordings: Recordings,
    options: ReadOptions,
    teacher: Teacher,
    config: EvalConfig,
    ranks: Ranks,
) -> Embedded:
    cache = None
    if isinstance(recordings, ShardSet):
        with suppress(InputError):  # of another geometry, say: then the pictures are decoded
            cache = open_cache(recordings, teacher, options.input.geometry)
    seen = replace(options, picture_px=teacher.spec.size_px, cache=cache, rule=MIDDLE_SLICE)
    return embed_recordings(
        recordings, seen, teach(teacher, ranks), ranks, config.batch, config.workers
    )


def _describe_protocol(
    config: EvalConfig, options: ReadOptions, encoder: EventEncoder, templates: str
) -> dict[str, Any]:
    rule, size_px = options.rule, encoder.spec.size_px
    adapted = options.input.representation != "histogram" or size_px < AUTHORS_PX
    facts: dict[str, Any] = {
        "protocol": config.protocol
        + (", adapted to this encoder" if adapted and config.protocol == "official" else ""),
        "slice": "random contiguous" if rule.random else "contiguous, evenly placed",
        "slice_events": options.input.slice_events,
        "slice_jitter": rule.jitter,
        "slices_averaged": rule.slices,
        "seed": rule.seed if rule.random else "none needed",
        "representation": options.input.representation,
        "geometry": options.input.geometry,
        "event_image_px": options.events_px,
        "templates": _describe_file(templates),
        "prompts": list(read_templates(templates)),
        "precision": "fp32",
    }
    if config.pool is not None:
        facts |= {"knn": config.knn, "knn_temperature": config.knn_temperature}
    return facts


def _describe_names(config: EvalConfig, names: Sequence[str]) -> str:
    """Return whose words name the classes; the official protocol has those of ImageNet."""
    if config.protocol != "official":
        return _describe_file(config.classnames) or "those of the set"
    theirs = [one.shown.name for one in known_classes("n-imagenet")]
    return "the authors' for ImageNet" if list(names) == theirs else OWN_NAMES


def _describe_file(choice: str | None) -> str | None:
    """Return a choice as it is, and where it is a file its hash with it."""
    if choice is None or not Path(choice).is_file():
        return choice
    return f"{choice} (sha256 {hash_file(Path(choice))[:12]})"


def _describe_checkpoint(
    checkpoint: str | Path, facts: EncoderFacts, teacher: Teacher, pretrained: str | None
) -> dict[str, Any]:
    return {
        "file": Path(checkpoint).name,
        "sha256": hash_file(Path(checkpoint)),
        "model": facts.model,
        "pretrained": facts.pretrained,
        "text_tower": teacher.name,
        "text_tower_sha256": teacher.sha256,
        "text_tower_is": _describe_proof(facts, pretrained),
        "trained_with": asdict(facts.input),
    }


def _describe_proof(facts: EncoderFacts, pretrained: str | None) -> str:
    """Return how it is known that the text tower belongs to the encoder."""
    if facts.teacher_sha256:
        return "that of training, by its sha256"
    return BY_TRUST if is_file(pretrained) else "the one of model and tag"


def _describe_data(recordings: Recordings, source: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "source": show_urls(source),
        "format": _format_of(recordings) or "not told",
    }
    if isinstance(recordings, ShardSet):
        facts["shards_sha256"] = recordings.identity
        facts["split"] = read_classes(recordings.folder)[1] or "not named"
    elif isinstance(recordings, RecordingFiles):
        listed = recordings.listed
        facts["recordings_sha256"] = fingerprint(listed.paths, listed.classes)
        facts["split"] = listed.split or "not named"
        facts["sensor"] = "x".join(map(str, listed.size)) if listed.size else "as the files tell"
        facts["conventions"] = asdict(listed.convention)
    return facts
