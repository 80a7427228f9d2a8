"""Zero-shot recognition: class names become embeddings, and the nearest one is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from ezsr_train.clip_file import Tokenizer

TEMPLATES = ("{}", "a photo of {}", "a picture of {}", "this is {}")


@dataclass(frozen=True)
class Accuracy:
    """Right answers out of all."""

    hits: int
    total: int

    @property
    def top1(self) -> float:
        """Share of right answers."""
        return self.hits / max(self.total, 1)

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """Return the Wilson score interval (Wilson, JASA 1927), 95% by default."""
        n, p = max(self.total, 1), self.top1
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
        return middle - half, middle + half


@torch.no_grad()
def embed_classes(
    clip: open_clip.CLIP,
    tokenizer: Tokenizer,
    names: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
) -> Tensor:
    """Return class embeddings, float32 (classes, D), unit length.

    Each is the normalised mean of the normalised embeddings of its prompts (Radford et al. 2021,
    section 3.1.4).
    """
    device = next(clip.parameters()).device
    means = []
    for name in names:
        tokens = tokenizer([template.format(name) for template in templates]).to(device)
        means.append(F.normalize(clip.encode_text(tokens).float(), dim=-1).mean(0))
    return F.normalize(torch.stack(means), dim=-1)


def count_hits(embeddings: Tensor, labels: Tensor, classes: Tensor) -> Accuracy:
    """Count embeddings (B, D) whose nearest class embedding (classes, D) is their label (B,)."""
    nearest = (F.normalize(embeddings.float(), dim=-1) @ classes.T).argmax(dim=1)
    return Accuracy(int(nearest.eq(labels).sum()), len(labels))
