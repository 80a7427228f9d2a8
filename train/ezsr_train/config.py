"""What a training run can be told, as typed values that check themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ezsr_shards.errors import ConfigError, check_number


@dataclass(frozen=True)
class InputConfig:
    """How a recording becomes the encoder's input."""

    representation: Literal["histogram", "polarity", "voxel", "time-surface"] = "histogram"
    """Event image; histogram is the authors'."""
    slice_events: int = 15_000
    """Events in the contiguous slice that the encoder sees."""
    slice_jitter: int = 2_000
    """In training the slice is longer or shorter by up to this many events."""
    geometry: Literal["stretch", "crop"] = "stretch"
    """How sensor and picture meet the square input: stretched, or their middle square."""

    def __post_init__(self) -> None:
        """Refuse empty slices."""
        check_number("input.slice_events", self.slice_events, 1, 10_000_000)
        check_number("input.slice_jitter", self.slice_jitter, 0, self.slice_events - 1)


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses between event and picture embeddings; 0 leaves a loss out."""

    scalar: float = 1.0
    """Weight of the scalar-wise loss (EZSR, eq. 3)."""
    scalar_kind: Literal["l1", "l2", "smooth_l1"] = "l1"
    """Distance of each dimension."""
    scalar_normalized: bool = True
    """Compare unit-length embeddings, scaled by sqrt(D); otherwise raw ones."""
    infonce: float = 1.0
    """Weight of the symmetric InfoNCE loss (EZSR, eq. 1)."""
    temperature: float = 0.07
    """Temperature of InfoNCE."""
    cosine: float = 0.0
    """Weight of 1 - cosine similarity."""

    def __post_init__(self) -> None:
        """Refuse a run without a loss."""
        for name in ("scalar", "infonce", "cosine"):
            check_number(f"loss.{name}", getattr(self, name), 0.0, 1e6)
        check_number("loss.temperature", self.temperature, 1e-3, 10.0)
        if self.scalar + self.infonce + self.cosine == 0:
            raise ConfigError("loss: every weight is 0; give scalar, infonce or cosine one")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a linear warm-up and a cosine to zero."""

    steps: int = 1000
    """Optimiser steps of the whole run."""
    batch: int = 128
    """Samples in a step, over all processes."""
    lr: float = 3e-4
    """Largest learning rate."""
    weight_decay: float = 0.05
    """Decay of weight matrices; biases and gains have none."""
    warmup: int = 50
    """Steps of linear warm-up."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""

    def __post_init__(self) -> None:
        """Refuse schedules that cannot be followed."""
        check_number("optim.steps", self.steps, 1, 10**9)
        check_number("optim.batch", self.batch, 2, 10**6)
        check_number("optim.lr", self.lr, 0.0, 10.0)
        check_number("optim.weight_decay", self.weight_decay, 0.0, 10.0)
        check_number("optim.warmup", self.warmup, 0, 10**9)
        check_number("optim.clip_norm", self.clip_norm, 1e-6, 1e6)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run."""

    model: str = "toy"
    """The teacher: toy, or a .safetensors file of benchmarks/small_clip.py."""
    seed: int = 0
    """Seed of the order of samples and of augmentation."""
    workers: int = 1
    """Processes that read shards; the order of samples does not depend on it."""
    eval_every: int = 250
    """Steps between two evaluations on the validation shards."""
    save_every: int = 250
    """Steps between two checkpoints."""
    keep: int = 2
    """Checkpoints kept besides the best."""
    input: InputConfig = field(default_factory=InputConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        check_number("seed", self.seed, 0, 2**63 - 1)
        check_number("workers", self.workers, 0, 1024)
        check_number("eval_every", self.eval_every, 1, 10**9)
        check_number("save_every", self.save_every, 1, 10**9)
        check_number("keep", self.keep, 1, 1000)
