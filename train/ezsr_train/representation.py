"""Representations: packed events become event images, batched, on the training device.

Shapes are written with B samples, N events in all, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

HOT_PIXEL_QUANTILE = 0.75
_MAX_COUNT = 4096


@dataclass(frozen=True)
class PackedEvents:
    """Events of B samples, one after another.

    x, y     int64 (N,), input pixels, already in the encoder's H x W
    t        float32 (N,), share of the sample's window, 0 <= t <= 1
    p        int64 (N,), 1 = ON, 0 = OFF
    sample   int64 (N,), which of the B samples
    count    B
    """

    x: Tensor
    y: Tensor
    t: Tensor
    p: Tensor
    sample: Tensor
    count: int

    def to(self, device: torch.device) -> PackedEvents:
        """Return the same events on a device."""
        x, y, t, p, sample = (
            column.to(device, non_blocking=True)
            for column in (self.x, self.y, self.t, self.p, self.sample)
        )
        return PackedEvents(x, y, t, p, sample, self.count)


def count_events(events: PackedEvents, size_px: int) -> Tensor:
    """Return the event count images, float32 (B, 2, H, W): [:, 0] ON, [:, 1] OFF.

    Counts are whole numbers in float32, so the sum is exact in any order and reproducible.
    """
    channel = 1 - events.p
    cell = ((events.sample * 2 + channel) * size_px + events.y) * size_px + events.x
    flat = torch.zeros(events.count * 2 * size_px * size_px, device=cell.device)
    flat.index_add_(0, cell, torch.ones_like(cell, dtype=torch.float32))
    return flat.view(events.count, 2, size_px, size_px)


def clip_hot_pixels(counts: Tensor) -> Tensor:
    """Clip each sample at the 75th percentile of its non-zero counts, both polarities pooled.

    The percentile is interpolated as `torch.quantile` does, from a histogram of the counts
    instead of a sort. Source: the authors' evaluator (event_utlities.py).
    """
    flat = counts.flatten(1).clamp(max=_MAX_COUNT - 1).long()
    histogram = torch.zeros(len(flat), _MAX_COUNT, device=counts.device)
    histogram.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float32))
    histogram[:, 0] = 0
    below = histogram.cumsum(1)
    total = below[:, -1:]
    rank = HOT_PIXEL_QUANTILE * (total - 1).clamp(min=0)
    floor = rank.floor()
    low = torch.searchsorted(below, floor, right=True).float()
    high = torch.searchsorted(below, rank.ceil(), right=True).float()
    limit = torch.lerp(low, high, rank - floor)
    limit = limit / 10 * 10  # as the authors compute it, so that float32 rounds alike
    limit = torch.where(total > 0, limit, torch.ones_like(limit))
    return torch.minimum(counts, limit[:, :, None, None])


def histogram(events: PackedEvents, size_px: int) -> Tensor:
    """Return the authors' event image, float32 (B, 3, H, W), three equal channels in [0, 1).

    Counts, hot pixels clipped, each polarity divided by its maximum + 1, their mean.
    """
    counts = clip_hot_pixels(count_events(events, size_px))
    scaled = counts / (counts.amax((2, 3), keepdim=True) + 1)
    return scaled.mean(1, keepdim=True).expand(-1, 3, -1, -1)


def polarity_image(events: PackedEvents, size_px: int) -> Tensor:
    """Return ON, OFF and their mean as channels, float32 (B, 3, H, W) in [0, 1)."""
    counts = clip_hot_pixels(count_events(events, size_px))
    scaled = counts / (counts.amax((2, 3), keepdim=True) + 1)
    return torch.cat([scaled, scaled.mean(1, keepdim=True)], dim=1)


def voxel_grid(events: PackedEvents, size_px: int, bins: int = 3) -> Tensor:
    """Return signed events spread linearly over time bins, float32 (B, bins, H, W) in [-1, 1].

    Source: Zhu et al., Unsupervised Event-based Learning of Optical Flow, CVPR 2019, eq. 1-2.
    """
    place = events.t * (bins - 1)
    low = place.floor().clamp(0, bins - 2).long()
    share = place - low
    sign = events.p * 2.0 - 1.0
    flat = torch.zeros(events.count * bins * size_px * size_px, device=events.x.device)
    for bin_, weight in ((low, 1 - share), (low + 1, share)):
        cell = ((events.sample * bins + bin_) * size_px + events.y) * size_px + events.x
        flat.index_add_(0, cell, sign * weight)
    grid = flat.view(events.count, bins, size_px, size_px)
    return grid / grid.abs().amax((1, 2, 3), keepdim=True).clamp(min=1)


def time_surface(events: PackedEvents, size_px: int) -> Tensor:
    """Return the latest event time of ON, OFF and either, float32 (B, 3, H, W) in [0, 1]."""
    flat = torch.zeros(events.count * 2 * size_px * size_px, device=events.x.device)
    cell = ((events.sample * 2 + 1 - events.p) * size_px + events.y) * size_px + events.x
    flat.scatter_reduce_(0, cell, events.t, "amax")
    surface = flat.view(events.count, 2, size_px, size_px)
    return torch.cat([surface, surface.amax(1, keepdim=True)], dim=1)


REPRESENTATIONS: dict[str, Callable[[PackedEvents, int], Tensor]] = {
    "histogram": histogram,
    "polarity": polarity_image,
    "voxel": voxel_grid,
    "time-surface": time_surface,
}
