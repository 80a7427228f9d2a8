"""The student: an image tower that is fed with event images, and the file it becomes."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from ezsr_shards.errors import ConfigError, InputError
from ezsr_shards.store import write_atomically
from ezsr_train.clip_file import METADATA_KEY as CLIP_KEY
from ezsr_train.clip_file import load_strictly, read_metadata, read_safetensors
from ezsr_train.config import InputConfig
from ezsr_train.released import load_released
from ezsr_train.representation import REPRESENTATIONS, PackedEvents
from ezsr_train.teacher import Teacher
from ezsr_train.tower import TowerSpec, build_tower, normalize, read_vision_cfg

METADATA_KEY = "ezsr_encoder"
FORMAT_VERSION = 1
AUTHORS_PX = 224
"""The authors count events in a square of 224 px, and enlarge it for towers of 336."""


class EventEncoder(nn.Module):
    """A tower behind an event representation.

    events_px  side of the square that events are scaled to and counted in
    represent  makes event images (B, 3, S, S) of events scaled to any S
    """

    def __init__(self, tower: nn.Module, spec: TowerSpec, input: InputConfig) -> None:
        """Take a tower as it is."""
        super().__init__()
        self.visual = tower
        self.spec = spec
        self.events_px = input.events_px or spec.size_px
        self.represent = REPRESENTATIONS[input.representation]

    def forward(self, events: PackedEvents) -> Tensor:
        """Return raw embeddings (B, D)."""
        embeddings: Tensor = self.visual(normalize(self.draw(events), self.spec))
        return embeddings

    def draw(self, events: PackedEvents) -> Tensor:
        """Return the event images, float32 (B, 3, S, S), before normalisation."""
        images = self.represent(events, self.events_px)
        if self.events_px == self.spec.size_px:
            return images
        return F.interpolate(images, self.spec.size_px, mode="nearest")


def make_student(
    teacher: Teacher, input: InputConfig, student: str | None, init: str | None = None
) -> EventEncoder:
    """Return a trainable copy of the teacher's image tower, or a fresh tower of another size.

    `init` is an encoder's file, of ours or of the authors', to begin with instead.
    """
    if init is not None:
        begun, facts = open_encoder(Path(init))
        _check_init(init, facts, teacher, input)
        spec, tower = begun.spec, begun.visual
    elif student is None:
        spec = teacher.spec
        tower = copy.deepcopy(teacher.clip.get_submodule("visual"))
    else:
        spec = teacher.spec.resize(read_vision_cfg(student, teacher.spec.vision_cfg))
        tower = build_tower(spec, f"student {student}")
    return EventEncoder(tower.requires_grad_(True), spec, input)


def _check_init(init: str, facts: EncoderFacts, teacher: Teacher, input: InputConfig) -> None:
    """Raise unless a file belongs to the teacher, and was fed as this training will feed it."""
    known = facts.teacher_sha256
    same = known == teacher.sha256 if known else teacher.name.startswith(f"{facts.model}.")
    if not same or facts.spec.embed_dim != teacher.spec.embed_dim:
        raise InputError(
            f"init {init}: was trained against {facts.model}, not this {teacher.name}; give that "
            f"CLIP with --model and --pretrained"
        )
    for name in ("representation", "geometry", "events_px"):
        before, now = getattr(facts.input, name), getattr(input, name)
        if before != now:
            raise ConfigError(
                f"input.{name} {now}: {init} was fed with {before}; say --input.{name} {before}"
            )


@dataclass(frozen=True)
class EncoderFacts:
    """What an encoder's file says beside the weights.

    model, pretrained  the CLIP whose text tower belongs to it
    teacher_sha256     of that CLIP's weights; empty where the file does not tell
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


def open_encoder(path: Path) -> tuple[EventEncoder, EncoderFacts]:
    """Read an event encoder's file, of ours or of the authors', in evaluation mode.

    Raises InputError where it is neither, or not whole.
    """
    if path.is_dir():
        raise InputError(f"encoder {path}: a folder; give the file in it, encoder.safetensors say")
    if not path.is_file():
        raise InputError(f"encoder {path}: no such file")
    if path.suffix == ".safetensors":
        told = read_metadata(path, "encoder")
        if METADATA_KEY in told or CLIP_KEY in told:
            return load_encoder(path)
    found = load_released(path)
    input_ = InputConfig(events_px=0 if found.spec.size_px == AUTHORS_PX else AUTHORS_PX)
    facts = EncoderFacts(found.spec, input_, found.model, found.pretrained, "")
    encoder = EventEncoder(found.tower, found.spec, input_)
    return encoder.eval().requires_grad_(False), facts


def load_encoder(path: Path) -> tuple[EventEncoder, EncoderFacts]:
    """Read what `save_encoder` wrote: an encoder in evaluation mode, and its facts.

    Raises InputError unless every weight of the architecture is there, and no other.
    """
    weights, metadata = read_safetensors(path, "encoder")
    if CLIP_KEY in metadata:
        raise InputError(
            f"encoder {path}: a whole CLIP, which --model takes; give a run's encoder.safetensors"
        )
    try:
        facts = json.loads(metadata[METADATA_KEY])
        if facts.pop("format") != FORMAT_VERSION:
            raise InputError(f"encoder {path}: written by another version of this program")
        facts["spec"] = TowerSpec(**facts["spec"])
        facts["input"] = InputConfig(**facts["input"])
        encoder_facts = EncoderFacts(**facts)
        texts = (encoder_facts.model, encoder_facts.pretrained or "", encoder_facts.teacher_sha256)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"model {texts}")
    except InputError:
        raise
    except Exception as error:  # whatever another program's metadata lead to
        reason = str(error) or type(error).__name__
        raise InputError(f"encoder {path}: not a file of ezsr-train's ({reason})") from error
    tower = build_tower(encoder_facts.spec, f"encoder {path}")
    load_strictly(tower, weights, f"encoder {path}")
    encoder = EventEncoder(tower, encoder_facts.spec, encoder_facts.input)
    return encoder.eval().requires_grad_(False), encoder_facts
