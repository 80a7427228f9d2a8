"""Motion: the path along which a still picture moves over the sensor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from ezsr_synth.config import MotionConfig, SensorSize
from ezsr_synth.families import BENDS, F64, FAMILIES, WarpAt

_AIM = 1.01  # a little under the largest step: rounded times rarely ask for another try


@dataclass(frozen=True, eq=False)
class Motion:
    """Where every sensor pixel looks, over time.

    warps  float64 (T, 3, 3), sensor px -> picture px, homogeneous; `corners` refuses those whose
           last row is not positive in the sensor
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
        if self.t_us[0] != 0 or not (self.t_us[1:] > self.t_us[:-1]).all():
            raise ValueError("motion: times must increase from 0")

    @property
    def duration_us(self) -> int:
        """Return how long the path is."""
        return int(self.t_us[-1])

    def shifted(self, dx_px: float, dy_px: float) -> Motion:
        """Return the same motion with the picture's origin moved by (dx, dy) picture pixels."""
        shift = np.array([[1.0, 0.0, dx_px], [0.0, 1.0, dy_px], [0.0, 0.0, 1.0]])
        return Motion(shift @ self.warps, self.t_us, self.facts)

    def at(self, t_us: float) -> F64:
        """Return the warp (3, 3) at any time inside the path, linear between samples."""
        k = min(max(int(self.t_us.searchsorted(t_us, "right")) - 1, 0), len(self.t_us) - 2)
        share = (t_us - self.t_us[k]) / (self.t_us[k + 1] - self.t_us[k])
        warp: F64 = (1.0 - share) * self.warps[k] + share * self.warps[k + 1]
        return warp

    def corners(self, size: SensorSize) -> F64:
        """Return where the sensor's corners look, float64 (T, 4, 2), picture px (x, y).

        The corners bound every pixel: a warp maps the sensor to a convex quadrilateral. Raises
        ValueError where a corner looks at the horizon of a tilted picture, or beyond.
        """
        return warp_points(self.warps, size, 2)


def warp_points(warps: F64, size: SensorSize, across: int) -> F64:
    """Apply warps (N, 3, 3) to a square grid of points that spans the sensor: (N, across^2, 2).

    Raises ValueError where a last row is not positive in the sensor.
    """
    seen = warps @ _grid(size, across)
    if not seen[:, 2].min() > 0:
        raise ValueError(f"motion: a {size} sensor looks past the picture's horizon")
    mapped: F64 = (seen[:, :2] / seen[:, 2:]).transpose(0, 2, 1)
    return mapped


@lru_cache(maxsize=16)
def _grid(size: SensorSize, across: int) -> F64:
    """Return the homogeneous points (3, across^2) of a square grid that spans the sensor."""
    shares = np.linspace(0, 1, across)
    points = np.ones((3, across * across))
    points[0] = np.tile(shares * (size.width - 1), across)
    points[1] = np.repeat(shares * (size.height - 1), across)
    points.flags.writeable = False
    return points


def draw_motion(rng: np.random.Generator, config: MotionConfig, size: SensorSize) -> Motion:
    """Draw a motion; its warps map sensor px to px from the picture's centre, at scale 1.

    Of a mixture, the family is drawn first.
    """
    weights = config.weights()
    family = next(iter(weights))
    if len(weights) > 1:
        family = str(rng.choice(list(weights), p=list(weights.values())))
        config = config.of(family)
    warp_at, facts = FAMILIES[family](rng, config, size)
    return sample_path(warp_at, config, size, {"family": family, **facts}, BENDS[family])


def sample_path(
    warp_at: WarpAt, config: MotionConfig, size: SensorSize, facts: dict[str, Any], bends: int = 0
) -> Motion:
    """Choose time samples so that no point of the sensor moves more than `max_step_px` between two.

    It is measured at the corners, the middles of the sides and the centre. Time samples are whole
    microseconds, at most one per microsecond; where that is too few, the `facts` tell the largest
    step as `largest_step_px`. A path that turns or changes its speed has at least 16 of them for
    each of its bends.
    """
    steps = min(1 + 16 * bends, config.duration_us)
    while True:
        t_us = np.round(np.linspace(0, config.duration_us, steps + 1)).astype(np.int64)
        warps = warp_at(t_us / config.duration_us)
        seen = warp_points(warps, size, 3)
        apart = seen[1:] - seen[:-1]
        largest = sqrt(np.einsum("ncd,ncd->nc", apart, apart).max())
        if largest <= config.max_step_px or steps == config.duration_us:
            if largest > config.max_step_px:
                facts = {**facts, "largest_step_px": largest}
            return Motion(warps, t_us, {**facts, "duration_us": config.duration_us})
        steps = min(
            config.duration_us, max(steps + 1, ceil(_AIM * steps * largest / config.max_step_px))
        )
