"""Zero-shot recognition: class names become embeddings, and the nearest one is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ezsr_train.clip_file import Tokenizer
from ezsr_train.templates import PLAIN

_PROMPTS_AT_ONCE = 256


@dataclass(frozen=True)
class Accuracy:
    """Right answers out of all."""

    hits: int
    total: int

    @property
    def share(self) -> float:
        """Share of right answers."""
        return self.hits / max(self.total, 1)

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """Return the Wilson score interval (Wilson, JASA 1927), 95% by default."""
        n, p = max(self.total, 1), self.share
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
        return max(middle - half, 0.0), min(middle + half, 1.0)

    def __str__(self) -> str:
        """Return it in percent, with its interval."""
        low, high = self.interval()
        return f"{self.share:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


@torch.no_grad()
def embed_prompts(clip: nn.Module, tokenizer: Tokenizer, prompts: Sequence[str]) -> Tensor:
    """Return text embeddings, float32 (prompts, D), unit length, on the model's device."""
    device = next(clip.parameters()).device
    rows = []
    for first in range(0, len(prompts), _PROMPTS_AT_ONCE):
        tokens = tokenizer(list(prompts[first : first + _PROMPTS_AT_ONCE])).to(device)
        rows.append(F.normalize(clip.encode_text(tokens).float(), dim=-1))  # type: ignore[operator]
    return torch.cat(rows)


def embed_classes(
    clip: nn.Module,
    tokenizer: Tokenizer,
    names: Sequence[str],
    templates: Sequence[str] = PLAIN,
) -> Tensor:
    """Return class embeddings, float32 (classes, D), unit length.

    Each is the normalised mean of the normalised embeddings of its prompts (Radford et al. 2021,
    section 3.1.4). A template holds the name's place as {}.
    """
    prompts = [template.replace("{}", name) for name in names for template in templates]
    rows = embed_prompts(clip, tokenizer, prompts)
    return F.normalize(rows.view(len(names), len(templates), -1).mean(1), dim=-1)


def rank_classes(embeddings: Tensor, classes: Tensor, most: int = 1) -> Tensor:
    """Return the nearest classes of embeddings (B, D), best first, int64 (B, min(most, classes)).

    `classes` are embeddings of unit length (classes, D).
    """
    nearness = F.normalize(embeddings.float(), dim=-1) @ classes.T
    return nearness.topk(min(most, len(classes)), dim=1).indices


def count_hits(embeddings: Tensor, labels: Tensor, classes: Tensor) -> Accuracy:
    """Count embeddings (B, D) whose nearest class embedding (classes, D) is their label (B,)."""
    nearest = rank_classes(embeddings, classes)[:, 0]
    return Accuracy(int(nearest.eq(labels).sum()), len(labels))
