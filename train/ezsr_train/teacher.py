"""The teacher: a frozen CLIP that sees the pictures and reads the class names."""

from __future__ import annotations

import hashlib
import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import open_clip
import torch
from huggingface_hub import constants as hub
from torch import Tensor, nn

from ezsr_shards.errors import ConfigError, InputError
from ezsr_train.clip_file import Tokenizer, load_clip, load_strictly, read_weights
from ezsr_train.tower import TowerSpec, normalize

TOY_FILE = Path(__file__).parent / "toy_clip.safetensors"
_PATIENCE_S = 5.0
_OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")


@dataclass(frozen=True)
class Teacher:
    """A frozen CLIP with what belongs to it.

    name    for people and file names, such as "ViT-B-16-quickgelu.openai"
    sha256  of all its weights
    config  its architecture, as open_clip's model configurations spell it
    """

    name: str
    clip: nn.Module
    tokenizer: Tokenizer
    spec: TowerSpec
    sha256: str
    config: Mapping[str, Any]

    @torch.no_grad()
    def embed_pictures(self, rgb: Tensor) -> Tensor:
        """Return raw embeddings, float32 (B, D), of pictures uint8 (B, 3, S, S)."""
        device = next(self.clip.parameters()).device
        pictures = rgb.to(device, non_blocking=True).float() / 255
        embeddings: Tensor = self.clip.encode_image(normalize(pictures, self.spec))  # type: ignore[operator]
        return embeddings.float()


def load_teacher(model: str, pretrained: str | None, device: torch.device) -> Teacher:
    """Load the toy CLIP, a file of ours, or a model of open_clip's with its weights; frozen.

    Raises InputError where weights and architecture do not fit to the last key, and where their
    activations differ: OpenAI's models want QuickGELU, others load and are silently wrong.
    """
    if ":" in model:
        raise InputError(f"model {model!r}: names something to be downloaded; give a plain name")
    path = TOY_FILE if model == "toy" else Path(model)
    ours = model == "toy" or path.suffix == ".safetensors"
    if ours and pretrained is not None:
        raise ConfigError(f"pretrained {pretrained!r}: {model!r} brings its weights; leave it out")
    if ours and not path.is_file():
        raise InputError(f"model {model!r}: no such file")
    clip: nn.Module
    if ours:
        clip, tokenizer, architecture = load_clip(path)
        name, spec = path.stem.removesuffix("_clip"), architecture.tower
        config: Mapping[str, Any] = {
            part: getattr(architecture, part) for part in ("embed_dim", "vision_cfg", "text_cfg")
        }
    else:
        clip, tokenizer, spec = _load_open_clip(model, pretrained)
        config = open_clip.get_model_config(model)
        name = f"{model}.{Path(str(pretrained)).stem}"
    clip.eval().requires_grad_(False).to(device)
    return Teacher(name, clip, tokenizer, spec, hash_weights(clip), config)


def hash_weights(module: nn.Module) -> str:
    """Return the sha256 of a module's weights, by name."""
    hashing = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        hashing.update(name.encode())
        hashing.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return hashing.hexdigest()


def _load_open_clip(model: str, pretrained: str | None) -> tuple[nn.Module, Tokenizer, TowerSpec]:
    config = open_clip.get_model_config(model)
    if config is None:
        raise InputError(
            f"model {model!r}: neither toy, nor a .safetensors file, nor one of "
            f"open_clip.list_models()"
        )
    if pretrained is None:
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise ConfigError(
            f"pretrained: {model} needs weights; give a local file"
            + (f", or one of {', '.join(tags)}" if tags else "")
        )
    quick_gelu = bool(config.get("quick_gelu", False))
    if Path(pretrained).is_file():
        clip = _create_quietly(model)
        weights = read_weights(Path(pretrained))
        extras = [name for name in _OPENAI_EXTRAS if weights.pop(name, None) is not None]
        openai = bool(extras) or "openai" in Path(pretrained).name.lower()
        wants_quick = True if openai else _agreed(model, "quick_gelu", False, quick_gelu)
        _check_activation(model, pretrained, quick_gelu, wants_quick)
        load_strictly(clip, weights, f"pretrained {pretrained}")
        open_clip.set_model_preprocess_cfg(
            clip,
            {
                **open_clip.get_model_preprocess_cfg(clip),
                "mean": _agreed(model, "mean", open_clip.OPENAI_DATASET_MEAN, None),
                "std": _agreed(model, "std", open_clip.OPENAI_DATASET_STD, None),
            },
        )
    else:
        if not open_clip.pretrained.is_pretrained_cfg(model, pretrained):
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
            raise InputError(
                f"pretrained {pretrained!r}: no such file, and no weights of open_clip's for "
                f"{model}, which has: {tags}"
            )
        facts = open_clip.pretrained.get_pretrained_cfg(model, pretrained)
        _check_activation(model, pretrained, quick_gelu, bool(facts.get("quick_gelu", False)))
        clip = _download(model, pretrained)
    spec = _describe_tower(clip, config, quick_gelu)
    return clip, open_clip.get_tokenizer(model), spec


def _agreed(model: str, name: str, usual: Any, otherwise: Any) -> Any:
    """Return what all of open_clip's own weights for a model agree on; a local file is like them.

    Where they differ it is `otherwise`, and an InputError if that is None.
    """
    tags = open_clip.list_pretrained_tags_by_model(model)
    facts = [open_clip.pretrained.get_pretrained_cfg(model, tag) for tag in tags]
    found = [usual if one.get(name) is None else one[name] for one in facts]
    if not found:
        return usual if otherwise is None else otherwise
    if all(one == found[0] for one in found):
        return found[0]
    if otherwise is None:
        raise InputError(
            f"model {model}: its known weights differ in {name}, so that of a local file cannot "
            f"be told; give one of open_clip's tags: {', '.join(tags)}"
        )
    return otherwise


def _create_quietly(model: str) -> nn.Module:
    """Return a model without weights, and without open_clip's warning that it has none."""
    with _unlogged():
        created: nn.Module = open_clip.create_model(model, load_weights=False)
    return created


def _download(model: str, pretrained: str) -> nn.Module:
    """Return a model with weights of open_clip's, from the Hub or its cache; or InputError."""
    away, before = not _reaches(hub.ENDPOINT), hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = before or away  # else it tries for a minute before it fails
    try:
        with _unlogged():
            created: nn.Module = open_clip.create_model(model, pretrained=pretrained)
    except Exception as error:  # downloads fail in many ways
        why = f"{hub.ENDPOINT} cannot be reached" if away else " ".join(str(error).split())
        raise InputError(
            f"pretrained {pretrained!r}: not to be had ({why}); give a local file with --pretrained"
        ) from error
    finally:
        hub.HF_HUB_OFFLINE = before
    return created


def _reaches(url: str) -> bool:
    """Return whether a server answers, which is not known where a proxy stands before it."""
    if getproxies():
        return True
    place = urlsplit(url)
    port = place.port or (80 if place.scheme == "http" else 443)
    with suppress(OSError), socket.create_connection((place.hostname, port), _PATIENCE_S):
        return True
    return False


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep other libraries' logs off the screen: what matters in them we say ourselves."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _check_activation(model: str, pretrained: str, has_quick: bool, wants_quick: bool) -> None:
    """Raise InputError where a tower has another activation than its weights were trained with."""
    if has_quick == wants_quick:
        return
    other = f"{model}-quickgelu" if wants_quick else model.removesuffix("-quickgelu")
    raise InputError(
        f"pretrained {pretrained}: these weights want {'QuickGELU' if wants_quick else 'GELU'} and "
        f"would load silently into {model}, which is wrong; say --model {other}"
    )


def _describe_tower(clip: nn.Module, config: Mapping[str, Any], quick_gelu: bool) -> TowerSpec:
    preprocess = open_clip.get_model_preprocess_cfg(clip)
    mean = tuple(preprocess.get("mean", open_clip.OPENAI_DATASET_MEAN))
    std = tuple(preprocess.get("std", open_clip.OPENAI_DATASET_STD))
    return TowerSpec(int(config["embed_dim"]), dict(config["vision_cfg"]), quick_gelu, mean, std)
