"""Losses that pull the event embedding to the picture's embedding.

Both are float32 (B, D); the picture's side comes from the frozen teacher and has no gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ezsr_train.config import LossConfig


def scalar_loss(events: Tensor, pictures: Tensor, kind: str, normalized: bool) -> Tensor:
    """Compare every dimension with the same dimension of the picture (EZSR, eq. 3).

    The paper leaves the distance open. Unit-length embeddings are scaled by sqrt(D), so that a
    dimension is of order 1 and the kinds have comparable weight.
    """
    if normalized:
        scale = events.shape[1] ** 0.5
        events, pictures = (scale * F.normalize(side, dim=1) for side in (events, pictures))
    distance = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}[kind]
    return distance(events, pictures)


def infonce_loss(events: Tensor, pictures: Tensor, temperature: float) -> Tensor:
    """Contrast each pair with all others in the batch, both ways (EZSR, eq. 1)."""
    logits = F.normalize(events, dim=1) @ F.normalize(pictures, dim=1).T / temperature
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def alignment_loss(events: Tensor, pictures: Tensor, config: LossConfig) -> dict[str, Tensor]:
    """Return each weighted part by name, and their sum as `loss`."""
    events, pictures = events.float(), pictures.float()
    parts: dict[str, Tensor] = {}
    if config.scalar:
        distance = scalar_loss(events, pictures, config.scalar_kind, config.scalar_normalized)
        parts["scalar"] = config.scalar * distance
    if config.infonce:
        parts["infonce"] = config.infonce * infonce_loss(events, pictures, config.temperature)
    if config.cosine:
        similarity = F.cosine_similarity(events, pictures, dim=1)
        parts["cosine"] = config.cosine * (1 - similarity).mean()
    return {"loss": torch.stack(list(parts.values())).sum(), **parts}
