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
    """Events of B samples, one after another, as small as they can be moved to a device.

    x, y     uint8 or int16 (N,), input pixels, already in the encoder's H x W
    t        float32 (N,), share of the sample's slice, 0 <= t <= 1; empty where it is not needed
    p        uint8 (N,), 1 = ON, 0 = OFF
    offsets  int64 (B + 1,), where each sample begins, and the end of the last
    """

    x: Tensor
    y: Tensor
    t: Tensor
    p: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        """Return the number of samples B."""
        return len(self.offsets) - 1

    def to(self, device: torch.device) -> PackedEvents:
        """Return the same events on a device."""
        x, y, t, p, offsets = (
            column.to(device, non_blocking=True)
            for column in (self.x, self.y, self.t, self.p, self.offsets)
        )
        return PackedEvents(x, y, t, p, offsets)

    def pin_memory(self) -> PackedEvents:
        """Return the same events in memory that a GPU can fetch by itself."""
        columns = (self.x, self.y, self.t, self.p, self.offsets)
        return PackedEvents(*(column.pin_memory() for column in columns))

    def split(self, parts: int) -> list[PackedEvents]:
        """Return the samples in equal parts, in order; B must be divisible."""
        size = len(self) // parts
        ends = self.offsets[::size].tolist()
        found = []
        for n in range(parts):
            events = slice(ends[n], ends[n + 1])
            offsets = self.offsets[n * size : (n + 1) * size + 1] - ends[n]
            columns = (self.x[events], self.y[events], self.t[events], self.p[events])
            found.append(PackedEvents(*columns, offsets))
        return found

    def cells(self, channel: Tensor | int, channels: int, size_px: int) -> Tensor:
        """Return the flat index, int64 (N,), of each event in (B, channels, H, W)."""
        sample = torch.repeat_interleave(
            torch.arange(len(self), device=self.x.device),
            self.offsets.diff(),
            output_size=len(self.x),
        )
        return ((sample * channels + channel) * size_px + self.y) * size_px + self.x


def count_events(events: PackedEvents, size_px: int) -> Tensor:
    """Return the event count images, float32 (B, 2, H, W): [:, 0] ON, [:, 1] OFF.

    Counts are whole numbers in float32, so the sum is exact in any order and reproducible.
    """
    cell = events.cells(1 - events.p.long(), 2, size_px)
    flat = torch.zeros(len(events) * 2 * size_px * size_px, device=cell.device)
    flat.index_add_(0, cell, torch.ones_like(cell, dtype=torch.float32))
    return flat.view(len(events), 2, size_px, size_px)


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
    flat = torch.zeros(len(events) * bins * size_px * size_px, device=events.x.device)
    for bin_, weight in ((low, 1 - share), (low + 1, share)):
        flat.index_add_(0, events.cells(bin_, bins, size_px), sign * weight)
    grid = flat.view(len(events), bins, size_px, size_px)
    return grid / grid.abs().amax((1, 2, 3), keepdim=True).clamp(min=1)


def time_surface(events: PackedEvents, size_px: int) -> Tensor:
    """Return the latest event time of ON, OFF and either, float32 (B, 3, H, W) in [0, 1]."""
    flat = torch.zeros(len(events) * 2 * size_px * size_px, device=events.x.device)
    cell = events.cells(1 - events.p.long(), 2, size_px)
    flat.scatter_reduce_(0, cell, events.t, "amax")
    surface = flat.view(len(events), 2, size_px, size_px)
    return torch.cat([surface, surface.amax(1, keepdim=True)], dim=1)


REPRESENTATIONS: dict[str, Callable[[PackedEvents, int], Tensor]] = {
    "histogram": histogram,
    "polarity": polarity_image,
    "voxel": voxel_grid,
    "time-surface": time_surface,
}
NEED_TIMES = frozenset({"voxel", "time-surface"})
"""Representations that look at event times; the others are spared reading them."""
