"""What a training run can be told, as typed values that check themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ezsr_shards.errors import ConfigError, check_number

COLDEST = 0.01
"""Lowest temperature that is learnt, as in CLIP."""


@dataclass(frozen=True)
class InputConfig:
    """How a recording becomes the encoder's input."""

    representation: Literal["histogram", "polarity", "voxel", "time-surface"] = "histogram"
    """Event image; histogram is the authors'."""
    slice_events: int = 15_000
    """Events in the contiguous slice that the encoder sees."""
    geometry: Literal["stretch", "crop"] = "stretch"
    """How sensor and picture meet the square input: stretched, or their middle square."""
    events_px: int = 0
    """Side of the event image in pixels, enlarged to the tower's input; 0: as large as that."""

    def __post_init__(self) -> None:
        """Refuse empty slices and images."""
        for name, known in (
            ("representation", ("histogram", "polarity", "voxel", "time-surface")),
            ("geometry", ("stretch", "crop")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(f"input.{name} {getattr(self, name)!r}: give one of {known}")
        for name in ("slice_events", "events_px"):
            if type(getattr(self, name)) is not int:
                raise ConfigError(f"input.{name} {getattr(self, name)!r}: give a whole number")
        check_number("input.events_px", self.events_px, 0, 4096)
        check_number("input.slice_events", self.slice_events, 1, 10_000_000)


@dataclass(frozen=True)
class AugmentConfig:
    """Changes made to a training sample; the picture, or its embedding, changes with the events."""

    slice_jitter: int = 2_000
    """The slice is longer or shorter by up to this many events."""
    flip: float = 0.5
    """Chance of a mirror image, left to right, of events and picture."""
    reverse: float = 0.5
    """Chance of time running backwards, so that ON becomes OFF."""
    drop: float = 0.0
    """Up to this share of the events is dropped at random."""
    noise: float = 0.0
    """Up to this many events of chance are added for each of the slice, as sensors add them."""
    crop: float = 0.0
    """Up to this share of the input's area is cut away; needs --teacher online."""

    def __post_init__(self) -> None:
        """Refuse chances beyond [0, 1]."""
        check_number("augment.slice_jitter", self.slice_jitter, 0, 10_000_000)
        for name in ("flip", "reverse"):
            check_number(f"augment.{name}", getattr(self, name), 0.0, 1.0)
        for name in ("drop", "noise", "crop"):
            check_number(f"augment.{name}", getattr(self, name), 0.0, 0.9)


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses between event and picture embeddings; 0 leaves a loss out."""

    scalar: float = 1.0
    """Weight of the scalar-wise loss (EZSR, eq. 3)."""
    scalar_kind: Literal["l1", "l2", "smooth_l1"] = "l1"
    """Distance of each dimension."""
    scalar_space: Literal["unit", "raw", "standard"] = "unit"
    """Compare unit-length embeddings times sqrt(D), raw ones, or raw ones standardised by the mean
    and deviation of each dimension over the pictures of the batch."""
    infonce: float = 1.0
    """Weight of the symmetric InfoNCE loss (EZSR, eq. 1)."""
    temperature: float = 0.07
    """Temperature of InfoNCE."""
    learn_temperature: bool = False
    """Train the temperature, from that value on."""
    queue: int = 0
    """Embeddings of earlier pictures that InfoNCE has as further negatives."""
    cosine: float = 0.0
    """Weight of 1 - cosine similarity."""

    def __post_init__(self) -> None:
        """Refuse a run without a loss."""
        for name in ("scalar", "infonce", "cosine"):
            check_number(f"loss.{name}", getattr(self, name), 0.0, 1e6)
        coldest = COLDEST if self.learn_temperature else 1e-3
        check_number("loss.temperature", self.temperature, coldest, 10.0)
        check_number("loss.queue", self.queue, 0, 10**7)
        if self.scalar + self.infonce + self.cosine == 0:
            raise ConfigError("loss: every weight is 0; give scalar, infonce or cosine one")
        if self.infonce == 0 and (self.queue or self.learn_temperature):
            raise ConfigError("loss.queue, loss.learn_temperature: these need loss.infonce above 0")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its schedule, and how a step is made."""

    steps: int = 1000
    """Optimiser steps of the whole run."""
    batch: int = 128
    """Samples in a step, over all processes."""
    accumulate: int = 1
    """Parts in which each process takes its share of the batch; the result is the same."""
    lr: float = 3e-4
    """Largest learning rate."""
    warmup: int = 50
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: a cosine to zero, or constant until the cooldown."""
    cooldown: int = 0
    """Last steps of the constant schedule, in which the rate falls linearly to zero."""
    weight_decay: float = 0.05
    """Decay of weight matrices; biases and gains have none."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each layer to the one below; 0.75 for pretrained towers."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.0
    """Decay of the moving average of the weights that is evaluated and exported; 0 is none."""

    def __post_init__(self) -> None:
        """Refuse schedules that cannot be followed."""
        check_number("optim.steps", self.steps, 1, 10**9)
        check_number("optim.batch", self.batch, 2, 10**6)
        check_number("optim.accumulate", self.accumulate, 1, 10**4)
        check_number("optim.lr", self.lr, 0.0, 10.0)
        check_number("optim.warmup", self.warmup, 0, 10**9)
        check_number("optim.cooldown", self.cooldown, 0, self.steps)
        check_number("optim.weight_decay", self.weight_decay, 0.0, 10.0)
        check_number("optim.layer_decay", self.layer_decay, 0.01, 1.0)
        check_number("optim.clip_norm", self.clip_norm, 1e-6, 1e6)
        check_number("optim.ema", self.ema, 0.0, 0.999999)
        if self.cooldown and self.schedule == "cosine":
            raise ConfigError("optim.cooldown: the cosine has none; say --optim.schedule constant")


@dataclass(frozen=True)
class DataConfig:
    """Which samples come in which order, and how they are read."""

    pairs: int | None = None
    """Train on this many pictures alone, drawn by the seed, fewer of them inside more; by default
    on all."""
    views: int | None = None
    """Train on this many views of each picture alone, the first; by default on all."""
    order: Literal["epochs", "resampled"] = "epochs"
    """Each sample once an epoch, or samples drawn anew each time."""
    workers: int = 1
    """Reading processes of each rank; the samples do not depend on it."""
    max_skipped: float = 0.01
    """Share of samples that may be broken before the run stops."""
    cache: str | None = None
    """Folder for copies of remote shards."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        for name in ("pairs", "views"):
            if getattr(self, name) is not None:
                check_number(f"data.{name}", getattr(self, name), 1, 10**10)
        check_number("data.workers", self.workers, 0, 1024)
        check_number("data.max_skipped", self.max_skipped, 0.0, 1.0)


@dataclass(frozen=True)
class LogConfig:
    """What is written, and how often."""

    every: int = 25
    """Steps between two lines of metrics."""
    eval_every: int = 250
    """Steps between two evaluations on the validation shards."""
    save_every: int = 250
    """Steps between two checkpoints."""
    keep: int = 2
    """Checkpoints kept besides the best."""
    tensorboard: bool = True
    """Write event files for TensorBoard."""
    wandb: str | None = None
    """Project at Weights & Biases to log to; needs pip install 'ezsr[wandb]'."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        for name in ("every", "eval_every", "save_every"):
            check_number(f"log.{name}", getattr(self, name), 1, 10**9)
        check_number("log.keep", self.keep, 1, 1000)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run."""

    model: str = "toy"
    """The CLIP: toy, a .safetensors file of benchmarks/small_clip.py, or a name of open_clip's."""
    pretrained: str | None = None
    """Weights for a model of open_clip's: a tag such as openai, or a local file."""
    student: str | None = None
    """A tower of another size, trained from nothing: x0.5 for the CLIP's own at half its width,
    open_clip's name, or a JSON file of its vision_cfg; by default a copy of the CLIP's tower."""
    init: str | None = None
    """An encoder's file to begin with, of ours or of the authors', instead of the CLIP's tower."""
    teacher: Literal["auto", "cached", "online"] = "auto"
    """Picture embeddings: those of ezsr-embed, or computed in training; auto prefers the former."""
    seed: int = 0
    """Seed of the order of samples and of augmentation."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the student's tower; weights, losses and the teacher stay float32."""
    compile: bool = False
    """Compile the student's tower with torch.compile."""
    activation_checkpointing: bool = False
    """Compute activations twice instead of keeping them."""
    input: InputConfig = field(default_factory=InputConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        """Refuse combinations that contradict each other."""
        check_number("seed", self.seed, 0, 2**63 - 1)
        if self.init is not None and self.student is not None:
            raise ConfigError(f"student {self.student}: the file of --init brings its own tower")
        if self.augment.slice_jitter >= self.input.slice_events:
            raise ConfigError(
                f"augment.slice_jitter {self.augment.slice_jitter}: give less than the "
                f"{self.input.slice_events} events of input.slice_events"
            )
        if self.augment.crop and self.teacher != "online":
            raise ConfigError(
                f"augment.crop {self.augment.crop}: cached embeddings are of whole pictures; say "
                f"--teacher online, or --augment.crop 0"
            )
