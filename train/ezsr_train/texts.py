"""Texts: the class names of an evaluation, their embeddings, and the tower that makes these."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import Tensor

from ezsr_shards.classnames import read_classnames
from ezsr_shards.errors import InputError
from ezsr_shards.shardset import ShardClass
from ezsr_shards.store import write_atomically
from ezsr_train.encoder import EncoderFacts
from ezsr_train.teacher import Teacher, load_teacher
from ezsr_train.zeroshot import embed_classes

CACHE_VERSION = 1
"""Raised whenever the same texts give other embeddings."""


def load_partner(
    facts: EncoderFacts,
    device: torch.device,
    model: str | None = None,
    pretrained: str | None = None,
) -> Teacher:
    """Return the CLIP that an encoder was trained against, whose text tower names its classes.

    `model`, `pretrained` say where it lies now, if elsewhere than in training. Raises InputError
    where it is another one.
    """
    if model is not None and not facts.teacher_sha256 and model != facts.model:
        raise InputError(
            f"model {model}: this checkpoint belongs to {facts.model}, and does not tell its "
            f"weights; give --pretrained alone where they lie elsewhere"
        )
    if pretrained is not None and not facts.teacher_sha256:
        _check_tag(facts, pretrained)
    own = facts.pretrained if model is None else None
    found = load_teacher(model or facts.model, pretrained or own, device)
    if facts.teacher_sha256 and found.sha256 != facts.teacher_sha256:
        raise InputError(
            f"model {model or facts.model}: its weights are not those of the CLIP that the encoder "
            f"was trained against (sha256 {found.sha256[:12]}, not {facts.teacher_sha256[:12]}); "
            f"give that one with --model"
        )
    if found.spec.embed_dim != facts.spec.embed_dim:
        raise InputError(
            f"model {model or facts.model}: embeddings of {found.spec.embed_dim} dimensions, the "
            f"encoder's have {facts.spec.embed_dim}"
        )
    return found


def _check_tag(facts: EncoderFacts, pretrained: str) -> None:
    """Raise InputError where a tag of open_clip's is not that of the encoder's partner."""
    if is_file(pretrained) or not open_clip.pretrained.is_pretrained_cfg(facts.model, pretrained):
        return
    tag = pretrained.lower().replace("-", "_")  # as open_clip compares them
    if tag != facts.pretrained:
        raise InputError(
            f"pretrained {pretrained}: this checkpoint was trained against {facts.model}'s "
            f"{facts.pretrained}; leave it out, or give a local file of these weights"
        )


def is_file(pretrained: str | None) -> bool:
    """Return whether weights are a local file, and no tag."""
    return pretrained is not None and Path(pretrained).is_file()


def name_classes(classes: Sequence[ShardClass], choice: str | None) -> list[str]:
    """Return the words for each class: the set's own, OpenAI's for ImageNet, or those of a file.

    Raises InputError where the file lacks a class.
    """
    if choice is None:
        return [entry.name for entry in classes]
    if choice == "openai":
        if len(classes) != len(open_clip.IMAGENET_CLASSNAMES):
            raise InputError(
                f"classnames openai: these are the 1000 of ImageNet, the set has {len(classes)}"
            )
        return list(open_clip.IMAGENET_CLASSNAMES)
    names = read_classnames(Path(choice))
    found = [names.get(entry.folder or "", names.get(str(entry.index))) for entry in classes]
    for entry, name in zip(classes, found, strict=True):
        if name is None:
            raise InputError(
                f"classnames {choice}: lacks class {entry.index}, {entry.folder or entry.name!r}"
            )
    return [str(name) for name in found]


def embed_classes_once(teacher: Teacher, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return class embeddings, float32 (classes, D), kept in a folder for the next time.

    The folder is $EZSR_CACHE, or ~/.cache/ezsr; where it cannot be used, nothing is kept.
    """
    told = [CACHE_VERSION, teacher.sha256, teacher.config, list(names), list(templates)]
    facts = json.dumps(told, sort_keys=True, default=str)
    name = hashlib.sha256(facts.encode()).hexdigest()
    place = os.environ.get("EZSR_CACHE") or os.path.expanduser("~/.cache/ezsr")
    folder = Path(place) / "texts"
    path = folder / f"{name}.npy"
    with suppress(Exception):  # whatever lies there: it is made anew
        kept = torch.from_numpy(np.load(path, allow_pickle=False))
        fits = kept.shape == (len(names), teacher.spec.embed_dim)
        if kept.dtype == torch.float32 and fits and bool(kept.isfinite().all()):
            return kept
    made = embed_classes(teacher.clip, teacher.tokenizer, names, templates).cpu()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: np.save(file, made.numpy(), allow_pickle=False))
    return made
