"""Motion: the path along which a still picture moves over the sensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, cos, pi, radians, sin
from typing import Any

import numpy as np
import numpy.typing as npt

from ezsr_synth.config import MotionConfig, SensorSize

F64 = npt.NDArray[np.float64]
WarpAt = Callable[[F64], F64]
"""Maps shares of the path u (N,) in [0, 1] to warps (N, 3, 3)."""


@dataclass(frozen=True, eq=False)
class Motion:
    """Where every sensor pixel looks, over time.

    warps  float64 (T, 3, 3), sensor px -> picture px, homogeneous, last row positive in the sensor
    t_us   int64 (T,), microseconds, increasing, from 0; T >= 2
    facts  what was drawn, for the sample's JSON
    """

    warps: F64
    t_us: npt.NDArray[np.int64]
    facts: dict[str, Any]

    def __post_init__(self) -> None:
        """Raise ValueError unless the shapes and times are as promised."""
        if self.warps.shape != (len(self.t_us), 3, 3) or len(self.t_us) < 2:
            raise ValueError(f"motion: {self.warps.shape} warps for {len(self.t_us)} times (>= 2)")
        if self.t_us[0] != 0 or np.any(np.diff(self.t_us) <= 0):
            raise ValueError("motion: times must increase from 0")

    def shifted(self, dx_px: float, dy_px: float) -> Motion:
        """Return the same motion with the picture's origin moved by (dx, dy) picture pixels."""
        shift = np.array([[1.0, 0.0, dx_px], [0.0, 1.0, dy_px], [0.0, 0.0, 1.0]])
        return Motion(shift @ self.warps, self.t_us, self.facts)

    def at(self, t_us: float) -> F64:
        """Return the warp (3, 3) at any time inside the path, linear between samples."""
        k = int(np.clip(np.searchsorted(self.t_us, t_us, "right") - 1, 0, len(self.t_us) - 2))
        share = (t_us - self.t_us[k]) / (self.t_us[k + 1] - self.t_us[k])
        warp: F64 = (1.0 - share) * self.warps[k] + share * self.warps[k + 1]
        return warp

    def corners(self, size: SensorSize) -> F64:
        """Return where the sensor's corners look, float64 (T, 4, 2), picture px (x, y).

        The corners bound every pixel: a warp maps the sensor to a convex quadrilateral.
        """
        return warp_corners(self.warps, size)


def warp_corners(warps: F64, size: SensorSize) -> F64:
    """Apply warps (N, 3, 3) to the four corner pixels of the sensor: float64 (N, 4, 2)."""
    x, y = size.width - 1.0, size.height - 1.0
    corners = np.array([[0, 0, 1], [x, 0, 1], [0, y, 1], [x, y, 1]], dtype=np.float64)
    seen = np.einsum("nij,cj->nci", warps, corners)
    mapped: F64 = seen[..., :2] / seen[..., 2:]
    return mapped


def draw_motion(rng: np.random.Generator, config: MotionConfig, size: SensorSize) -> Motion:
    """Draw a motion; its warps map sensor px to px from the picture's centre, at scale 1."""
    warp_at, facts = draw_affine(rng, config, size)
    return sample_path(warp_at, config, size, {"family": "affine", **facts})


def draw_affine(
    rng: np.random.Generator, config: MotionConfig, size: SensorSize
) -> tuple[WarpAt, dict[str, Any]]:
    """Draw the paper's motion: shift, turn and zoom about the sensor's centre, linear in time."""
    shift_px = rng.uniform(*config.translation_px)
    direction = rng.uniform(0.0, 2.0 * pi)
    turn_deg = rng.uniform(-config.rotation_deg, config.rotation_deg)
    zoom_percent = rng.uniform(-config.zoom_percent, config.zoom_percent)
    dx, dy = shift_px * cos(direction), shift_px * sin(direction)
    center_x, center_y = (size.width - 1) / 2, (size.height - 1) / 2

    def warp_at(u: F64) -> F64:
        angle = radians(turn_deg) * u
        scale = 1.0 + zoom_percent / 100.0 * u
        warps = np.zeros((len(u), 3, 3))
        warps[:, 0, 0] = warps[:, 1, 1] = scale * np.cos(angle)
        warps[:, 1, 0] = scale * np.sin(angle)
        warps[:, 0, 1] = -warps[:, 1, 0]
        warps[:, 0, 2] = dx * u - warps[:, 0, 0] * center_x - warps[:, 0, 1] * center_y
        warps[:, 1, 2] = dy * u - warps[:, 1, 0] * center_x - warps[:, 1, 1] * center_y
        warps[:, 2, 2] = 1.0
        return warps

    facts = {
        "translation_px": [dx, dy],
        "rotation_deg": turn_deg,
        "zoom_percent": zoom_percent,
    }
    return warp_at, facts


def sample_path(
    warp_at: WarpAt, config: MotionConfig, size: SensorSize, facts: dict[str, Any]
) -> Motion:
    """Choose time samples so that no point of the sensor moves more than `max_step_px` between two.

    Time samples are whole microseconds, at most one per microsecond.
    """
    steps = 1
    while True:
        t_us = np.round(np.linspace(0, config.duration_us, steps + 1)).astype(np.int64)
        warps = warp_at(t_us / config.duration_us)
        seen = warp_corners(warps, size)
        largest = float(np.hypot(*np.moveaxis(np.diff(seen, axis=0), -1, 0)).max())
        if largest <= config.max_step_px or steps == config.duration_us:
            return Motion(warps, t_us, {**facts, "duration_us": config.duration_us})
        steps = min(config.duration_us, max(steps + 1, ceil(steps * largest / config.max_step_px)))
