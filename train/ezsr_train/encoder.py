"""The student: an image tower that is fed with event images, and the file it becomes."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from safetensors.torch import save
from torch import Tensor, nn

from ezsr_shards.errors import InputError
from ezsr_shards.shard import write_atomically
from ezsr_train.clip_file import load_strictly, read_safetensors
from ezsr_train.config import InputConfig
from ezsr_train.representation import REPRESENTATIONS, PackedEvents
from ezsr_train.teacher import Teacher
from ezsr_train.tower import TowerSpec, build_tower, normalize, read_vision_cfg

METADATA_KEY = "ezsr_encoder"
FORMAT_VERSION = 1


class EventEncoder(nn.Module):
    """A tower behind an event representation."""

    def __init__(self, tower: nn.Module, spec: TowerSpec, representation: str) -> None:
        """Take a tower as it is."""
        super().__init__()
        self.visual = tower
        self.spec = spec
        self._represent = REPRESENTATIONS[representation]

    def forward(self, events: PackedEvents) -> Tensor:
        """Return raw embeddings (B, D)."""
        embeddings: Tensor = self.visual(normalize(self.draw(events), self.spec))
        return embeddings

    def draw(self, events: PackedEvents) -> Tensor:
        """Return the event images, float32 (B, 3, S, S), before normalisation."""
        return self._represent(events, self.spec.size_px)


def make_student(teacher: Teacher, representation: str, student: str | None) -> EventEncoder:
    """Return a trainable copy of the teacher's image tower, or a fresh tower of another size."""
    if student is None:
        spec = teacher.spec
        tower = copy.deepcopy(teacher.clip.get_submodule("visual"))
    else:
        spec = teacher.spec.resize(read_vision_cfg(student))
        tower = build_tower(spec, f"student {student}")
    return EventEncoder(tower.requires_grad_(True), spec, representation)


@dataclass(frozen=True)
class EncoderFacts:
    """What an encoder's file says beside the weights.

    model, pretrained  the CLIP whose text tower belongs to it
    teacher_sha256     of that CLIP's weights
    """

    spec: TowerSpec
    input: InputConfig
    model: str
    pretrained: str | None
    teacher_sha256: str


def save_encoder(path: Path, weights: Mapping[str, Tensor], facts: EncoderFacts) -> None:
    """Write a tower's weights as safetensors, atomically, with all that is needed to use them."""
    text = json.dumps({"format": FORMAT_VERSION, **asdict(facts)}, sort_keys=True)
    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    content = save(plain, metadata={METADATA_KEY: text})

    def write(file: IO[bytes]) -> None:
        file.write(content)

    write_atomically(path, write)


def load_encoder(path: Path) -> tuple[EventEncoder, EncoderFacts]:
    """Read what `save_encoder` wrote: an encoder in evaluation mode, and its facts.

    Raises InputError unless every weight of the architecture is there, and no other.
    """
    weights, metadata = read_safetensors(path)
    try:
        facts = json.loads(metadata[METADATA_KEY])
        if facts.pop("format") != FORMAT_VERSION:
            raise InputError(f"encoder {path}: written by another version of this program")
        facts["spec"] = TowerSpec(**facts["spec"])
        facts["input"] = InputConfig(**facts["input"])
        encoder_facts = EncoderFacts(**facts)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"encoder {path}: not a file of ezsr-train's ({error})") from error
    tower = build_tower(encoder_facts.spec, f"encoder {path}")
    load_strictly(tower, weights, f"encoder {path}")
    encoder = EventEncoder(tower, encoder_facts.spec, encoder_facts.input.representation)
    return encoder.eval().requires_grad_(False), encoder_facts
