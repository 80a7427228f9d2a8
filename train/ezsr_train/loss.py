"""Losses that pull the event embeddings of a whole batch to the pictures' embeddings.

Both are float32 (B, D); the pictures' side comes from the frozen teacher and has no gradient.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ezsr_train.config import COLDEST, LossConfig

_HOTTEST = 10.0
_DISTANCES = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}


def scalar_loss(events: Tensor, pictures: Tensor, kind: str, space: str) -> Tensor:
    """Compare every dimension with the same dimension of the picture (EZSR, eq. 3).

    The paper leaves the distance open. Unit-length embeddings are scaled by sqrt(D), so that a
    dimension is of order 1 and the kinds have comparable weight; `standard` brings each dimension
    to mean 0 and deviation 1 over the pictures of the batch.
    """
    if space == "unit":
        scale = events.shape[1] ** 0.5
        events, pictures = (scale * F.normalize(side, dim=1) for side in (events, pictures))
    elif space == "standard":
        mean = pictures.mean(0)
        deviation = pictures.std(0, correction=0).clamp(min=1e-6)
        events, pictures = ((side - mean) / deviation for side in (events, pictures))
    return _DISTANCES[kind](events, pictures)


def infonce_loss(
    events: Tensor, pictures: Tensor, temperature: Tensor | float, queue: Tensor | None = None
) -> Tensor:
    """Contrast each pair with all others in the batch, both ways (EZSR, eq. 1).

    queue: unit-length embeddings (Q, D) of earlier pictures, further negatives for the events.
    """
    events, pictures = F.normalize(events, dim=1), F.normalize(pictures, dim=1)
    logits = events @ pictures.T / temperature
    own = torch.arange(len(logits), device=logits.device)
    to_pictures = logits
    if queue is not None:
        to_pictures = torch.cat([logits, events @ queue.T / temperature], dim=1)
    return (F.cross_entropy(to_pictures, own) + F.cross_entropy(logits.T, own)) / 2


class AlignmentLoss(nn.Module):
    """The weighted sum of all losses of a configuration, with what they remember.

    temperature_log  trained where the configuration says so
    queue            unit-length embeddings (Q, D) of the latest pictures; zeros are not used yet
    """

    temperature_log: Tensor
    queue: Tensor
    queued: Tensor

    def __init__(self, config: LossConfig, embed_dim: int) -> None:
        """Begin with the configured temperature and an empty queue."""
        super().__init__()
        self._config = config
        start = torch.tensor(math.log(config.temperature))
        if config.learn_temperature:
            self.temperature_log = nn.Parameter(start)
        else:
            self.register_buffer("temperature_log", start)
        self.register_buffer("queue", torch.zeros(config.queue, embed_dim))
        self.register_buffer("queued", torch.zeros((), dtype=torch.int64))

    @property
    def temperature(self) -> Tensor:
        """The temperature of InfoNCE."""
        return self.temperature_log.exp()

    @torch.no_grad()
    def keep_in_bounds(self) -> None:
        """Bring a trained temperature back to its bounds, where it can still learn."""
        if self._config.learn_temperature:
            self.temperature_log.clamp_(math.log(COLDEST), math.log(_HOTTEST))

    def forward(self, events: Tensor, pictures: Tensor) -> dict[str, Tensor]:
        """Return each weighted part by name, and their sum as `loss`."""
        config = self._config
        events, pictures = events.float(), pictures.float()
        parts: dict[str, Tensor] = {}
        if config.scalar:
            distance = scalar_loss(events, pictures, config.scalar_kind, config.scalar_space)
            parts["scalar"] = config.scalar * distance
        if config.infonce:
            known = self.queue[: int(self.queued)] if config.queue else None
            contrast = infonce_loss(events, pictures, self.temperature, known)
            parts["infonce"] = config.infonce * contrast
        if config.cosine:
            similarity = F.cosine_similarity(events, pictures, dim=1)
            parts["cosine"] = config.cosine * (1 - similarity).mean()
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    @torch.no_grad()
    def remember(self, pictures: Tensor) -> None:
        """Put the batch's pictures at the head of the queue; the oldest fall out."""
        if self._config.queue:
            fresh = F.normalize(pictures.float(), dim=1)
            self.queue.copy_(torch.cat([fresh, self.queue])[: len(self.queue)])
            self.queued.copy_((self.queued + len(fresh)).clamp(max=len(self.queue)))
