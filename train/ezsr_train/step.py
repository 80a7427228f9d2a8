"""One optimiser step, exact for every loss whatever the number of parts and processes.

The losses compare the embeddings of the whole batch, so they are computed once, on all of them;
their gradient is then carried back through the tower part by part (Gao et al., Scaling Deep
Contrastive Learning Batch Size under Memory Limited Setup, 2021). With one part nothing is
computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from open_clip.modified_resnet import ModifiedResNet
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ezsr_shards.errors import ConfigError, InputError, RunError
from ezsr_train.batches import Batch
from ezsr_train.config import TrainConfig
from ezsr_train.encoder import EventEncoder
from ezsr_train.loss import AlignmentLoss
from ezsr_train.optimize import (
    MovingAverage,
    learning_rate,
    make_optimizer,
    set_learning_rate,
)
from ezsr_train.ranks import Ranks
from ezsr_train.representation import PackedEvents

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Learner:
    """What a step changes: the student, its moving average, the loss's memory, the optimiser."""

    student: EventEncoder
    loss: AlignmentLoss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage | None
    forward: Callable[[PackedEvents], Tensor]

    def tower(self) -> nn.Module:
        """Return the weights to evaluate and export: the moving average where there is one."""
        return self.student.visual if self.average is None else self.average.tower

    @contextmanager
    def evaluating(self) -> Iterator[EventEncoder]:
        """Lend the encoder that is to be evaluated, in evaluation mode."""
        trained = self.student.visual
        self.student.visual = self.tower()
        self.student.eval()
        try:
            yield self.student
        finally:
            self.student.visual = trained
            self.student.train()


def make_learner(student: EventEncoder, config: TrainConfig, ranks: Ranks) -> Learner:
    """Put a student on its device, ready to learn."""
    student = student.to(ranks.device).train()
    if config.activation_checkpointing:
        _checkpoint_activations(student.visual)
    loss = AlignmentLoss(config.loss, student.spec.embed_dim).to(ranks.device)
    optimizer = make_optimizer(student.visual, config.optim)
    if config.loss.learn_temperature:
        alone = {"params": [loss.temperature_log], "weight_decay": 0.0, "lr_share": 1.0}
        optimizer.add_param_group(alone)
    average = MovingAverage(student.visual, config.optim.ema) if config.optim.ema else None
    if config.compile:
        student.visual.compile()
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=config.precision == "fp16")
    forward: nn.Module = student
    if ranks.count > 1:
        if ranks.device.type == "cuda":
            # torch's own conversion loses the activations of timm's fused layers
            forward = convert_sync_batchnorm(forward)  # type: ignore[no-untyped-call]
        forward = DistributedDataParallel(forward)
    return Learner(student, loss, optimizer, scaler, average, forward)


def _checkpoint_activations(tower: nn.Module) -> None:
    """Raise ConfigError where the tower cannot compute its activations twice."""
    try:
        if isinstance(tower, ModifiedResNet):
            raise NotImplementedError
        tower.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"activation_checkpointing: {type(tower).__name__} cannot do it; leave it out"
        ) from error


def take_step(
    learner: Learner, batch: Batch, targets: Tensor, config: TrainConfig, ranks: Ranks, step: int
) -> dict[str, float]:
    """Make one optimiser step; return the losses, the gradient's norm and the temperature.

    targets: the teacher's embeddings of this rank's samples, float32 (B, D).
    Raises RunError where loss or gradient is no number; the weights are then as before.
    """
    parts = [part.to(ranks.device) for part in batch.events.split(config.optim.accumulate)]
    seeds = [_seed(config.seed, step, ranks.rank, n) for n in range(len(parts))]
    learner.optimizer.zero_grad(set_to_none=True)
    if len(parts) == 1:
        kept = _embed(learner, parts[0], config, ranks, seeds[0])
        own = kept
    else:
        with torch.no_grad(), _same_buffers(learner.student):
            own = torch.cat(
                [
                    _embed(learner, part, config, ranks, seed)
                    for part, seed in zip(parts, seeds, strict=True)
                ]
            )
    whole = ranks.gather(own.float()).requires_grad_()
    pictures = ranks.gather(targets)
    losses = learner.loss(whole, pictures)
    if not torch.isfinite(losses["loss"]):
        raise RunError(
            f"step {step}: the loss is {losses['loss'].item()}; start again with a smaller "
            f"--optim.lr"
        )
    learner.scaler.scale(losses["loss"]).backward()
    gradients = ranks.mine(_gradient_of(whole)) * ranks.count  # DDP takes the mean over ranks
    for part, seed, gradient in zip(parts, seeds, gradients.chunk(len(parts)), strict=True):
        with _synchronized(learner, part is parts[-1]):
            embedding = kept if len(parts) == 1 else _embed(learner, part, config, ranks, seed)
            embedding.backward(gradient.to(embedding.dtype))  # type: ignore[no-untyped-call]
    norm = _update(learner, config, step)
    learner.loss.remember(pictures)
    facts = {name: float(part.detach()) for name, part in losses.items()}
    temperature = float(learner.loss.temperature.detach())
    return {**facts, "gradient_norm": norm, "temperature": temperature}


def _gradient_of(rows: Tensor) -> Tensor:
    return torch.zeros_like(rows) if rows.grad is None else rows.grad


@contextmanager
def _same_buffers(module: nn.Module) -> Iterator[None]:
    """Leave the statistics of batch normalisation as they were: this pass does not count."""
    before = [buffer.clone() for buffer in module.buffers()]
    yield
    for buffer, value in zip(module.buffers(), before, strict=True):
        buffer.copy_(value)


def _seed(*numbers: int) -> int:
    """Return the seed of one part's dropout: both passes through a part must drop the same."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _embed(
    learner: Learner, events: PackedEvents, config: TrainConfig, ranks: Ranks, seed: int
) -> Tensor:
    torch.manual_seed(seed)
    dtype = _DTYPES.get(config.precision)
    with torch.autocast(ranks.device.type, dtype, enabled=dtype is not None):
        return learner.forward(events)


def _synchronized(learner: Learner, last: bool) -> AbstractContextManager[None]:
    """Let ranks exchange gradients after the last part only."""
    if last or not isinstance(learner.forward, DistributedDataParallel):
        return nullcontext()
    return learner.forward.no_sync()


def _update(learner: Learner, config: TrainConfig, step: int) -> float:
    """Change the weights; return the norm that the gradient had before it was clipped."""
    set_learning_rate(learner.optimizer, learning_rate(step, config.optim))
    learner.scaler.unscale_(learner.optimizer)
    weights = list(learner.student.visual.parameters())
    norm = nn.utils.clip_grad_norm_(weights, config.optim.clip_norm)
    if not torch.isfinite(norm) and not learner.scaler.is_enabled():
        raise RunError(
            f"step {step}: the gradient's norm is {float(norm)}; start again with a smaller "
            f"--optim.lr"
        )
    learner.scaler.step(learner.optimizer)  # fp16: skips the step where the norm is no number
    learner.scaler.update()
    learner.loss.keep_in_bounds()
    if learner.average is not None:
        learner.average.update(learner.student.visual, step)
    return float(norm)


def targets_of(batch: Batch, teach: Callable[[Tensor], Tensor], device: torch.device) -> Tensor:
    """Return the picture embeddings of a batch: cached ones, or the teacher's."""
    if batch.embeddings is not None:
        return batch.embeddings.to(device, non_blocking=True)
    if batch.pictures is None:
        raise InputError("SHARDS: a sample has no picture; training needs synthetic shards")
    return teach(batch.pictures)
