"""Models: a frozen teacher that sees pictures, and a trainable copy of it that sees events."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from ezsr_shards.errors import InputError
from ezsr_train.clip_file import ClipArchitecture, Tokenizer, load_clip
from ezsr_train.representation import REPRESENTATIONS, PackedEvents

TOY_FILE = Path(__file__).parent / "toy_clip.safetensors"


@dataclass(frozen=True)
class Teacher:
    """A frozen CLIP with what belongs to it; `sha256` names its weights."""

    clip: open_clip.CLIP
    tokenizer: Tokenizer
    architecture: ClipArchitecture
    sha256: str

    @property
    def size_px(self) -> int:
        """Side of the square input."""
        return int(self.architecture.vision_cfg["image_size"])

    @torch.no_grad()
    def embed_pictures(self, rgb: Tensor) -> Tensor:
        """Return raw embeddings (B, D) of pictures uint8 (B, 3, S, S)."""
        device = next(self.clip.parameters()).device
        pictures = rgb.to(device).float() / 255
        embeddings: Tensor = self.clip.encode_image(normalize(pictures, self.architecture))
        return embeddings


def normalize(pictures: Tensor, architecture: ClipArchitecture) -> Tensor:
    """Apply the model's mean and standard deviation to (B, 3, S, S) in [0, 1]."""
    mean, std = (
        torch.tensor(values, device=pictures.device)[:, None, None]
        for values in (architecture.mean, architecture.std)
    )
    return (pictures - mean) / std


def load_teacher(model: str, device: torch.device) -> Teacher:
    """Load the toy CLIP or a file, frozen; raise InputError where it is no CLIP of ours."""
    path = TOY_FILE if model == "toy" else Path(model)
    if not path.is_file():
        raise InputError(f"model {model!r}: no such file; give toy, or a .safetensors file")
    clip, tokenizer, architecture = load_clip(path)
    clip.requires_grad_(False).to(device)
    return Teacher(clip, tokenizer, architecture, hashlib.sha256(path.read_bytes()).hexdigest())


class EventEncoder(nn.Module):
    """The student: the teacher's image tower, fed with event images."""

    def __init__(self, teacher: Teacher, representation: str) -> None:
        """Start from the teacher's weights."""
        super().__init__()
        self.visual = copy.deepcopy(teacher.clip.visual).requires_grad_(True)
        self._architecture = teacher.architecture
        self._represent = REPRESENTATIONS[representation]
        self._size_px = teacher.size_px

    def forward(self, events: PackedEvents) -> Tensor:
        """Return raw embeddings (B, D)."""
        images = self._represent(events, self._size_px)
        embeddings: Tensor = self.visual(normalize(images, self._architecture))
        return embeddings
