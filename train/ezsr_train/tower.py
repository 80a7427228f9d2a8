"""Towers: what an image tower is built from, and the pictures it takes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from ezsr_shards.errors import InputError

_MOST = 65_536  # dimensions of an embedding, or pixels across
_FACTOR = re.compile(r"x\d+(\.\d+)?")
_NO_TEXT = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}


@dataclass(frozen=True)
class TowerSpec:
    """All that decides an image tower but its weights.

    embed_dim   width D of the embedding
    vision_cfg  as open_clip's model configurations spell it, timm's towers included
    quick_gelu  the activation of OpenAI's models; a tower with the other one loads, and is wrong
    mean, std   of the RGB channels, for pictures in [0, 1]
    """

    embed_dim: int
    vision_cfg: Mapping[str, Any]
    quick_gelu: bool = False
    mean: tuple[float, ...] = field(default=open_clip.OPENAI_DATASET_MEAN)
    std: tuple[float, ...] = field(default=open_clip.OPENAI_DATASET_STD)

    def __post_init__(self) -> None:
        """Take lists, as JSON has them, for tuples; raise ValueError for what is no tower."""
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3 or not all(isfinite(value) for value in values):
                raise ValueError(f"{name} {values} is not three numbers")
            object.__setattr__(self, name, values)
        if min(self.std) <= 0 or not isinstance(self.vision_cfg, Mapping):
            raise ValueError("a deviation of 0, or a vision_cfg that is no object")
        if not (0 < int(self.embed_dim) <= _MOST and 0 < self.size_px <= _MOST):
            raise ValueError(f"a width of {self.embed_dim}, or a size of {self.size_px} px")

    @property
    def size_px(self) -> int:
        """Side of the square input."""
        size = self.vision_cfg.get("image_size", 224)
        return int(size if isinstance(size, int) else max(size))

    def resize(self, vision_cfg: Mapping[str, Any]) -> TowerSpec:
        """Return a tower of another size with the same embedding width."""
        return replace(self, vision_cfg=dict(vision_cfg))


def build_tower(spec: TowerSpec, source: str) -> nn.Module:
    """Return a freshly initialised tower; raise InputError where open_clip cannot build it."""
    vision = {**spec.vision_cfg, "timm_model_pretrained": False}
    if ":" in str(vision.get("timm_model_name", "")):
        raise InputError(f"{source}: its timm_model_name would be downloaded; give a plain name")
    try:
        clip = open_clip.CLIP(
            spec.embed_dim, vision_cfg=vision, text_cfg=_NO_TEXT, quick_gelu=spec.quick_gelu
        )
    except Exception as error:  # open_clip and timm raise almost anything
        raise InputError(f"{source}: open_clip cannot build this tower ({error})") from error
    tower: nn.Module = clip.visual
    return tower


def read_vision_cfg(student: str, own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the vision_cfg of an open_clip model's name, or of a JSON file, or `own` times x2."""
    if _FACTOR.fullmatch(student):
        return _widen(own, float(student[1:]), student)
    path = Path(student)
    if path.suffix != ".json":
        config = open_clip.get_model_config(student)
        if config is None:
            raise InputError(
                f"student {student!r}: no model of open_clip's; give one of "
                f"open_clip.list_models(), a .json file, or a width such as x0.5"
            )
        return dict(config["vision_cfg"])
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"student {student}: unreadable ({error})") from error
    if not isinstance(facts, dict):
        raise InputError(f"student {student}: no JSON object; give open_clip's vision_cfg")
    return dict(facts.get("vision_cfg", facts))


def _widen(own: Mapping[str, Any], factor: float, student: str) -> Mapping[str, Any]:
    """Return a tower's vision_cfg with its width times a factor, in whole attention heads."""
    if "timm_model_name" in own:
        raise InputError(
            f"student {student}: timm's towers have fixed widths; give another one's name, or its "
            f"vision_cfg in a .json file"
        )
    resnet = isinstance(own.get("layers"), list)
    whole = 2 if resnet else int(own.get("head_width", 64))  # a ResNet's stem has half its width
    width = whole * round(factor * int(own.get("width", 64 if resnet else 768)) / whole)
    if not 0 < width <= _MOST:
        raise InputError(f"student {student}: a width of {width}; give another factor")
    return {**own, "width": width}


def normalize(pictures: Tensor, spec: TowerSpec) -> Tensor:
    """Apply the tower's mean and standard deviation to (B, 3, S, S) in [0, 1]."""
    mean, std = (
        torch.tensor(values, device=pictures.device)[:, None, None]
        for values in (spec.mean, spec.std)
    )
    return (pictures - mean) / std
