"""Camera: one drawn event camera, and the pixels that it has."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ezsr_synth.config import CameraConfig, SensorSize
from ezsr_synth.kernels import (
    OFF,
    ON,
    Effects,
    Pixels,
    make_scratch,
    spread_leaks,
    spread_thresholds,
)


@dataclass(frozen=True)
class Camera:
    """One drawn camera; 0 switches an effect off. Units and meanings as in `CameraConfig`.

    `seed` names its pixels' draws of chance: thresholds, phases, leaks, noise.
    """

    threshold_on: float
    threshold_off: float
    threshold_mismatch: float = 0.0
    random_phase: bool = False
    refractory_us: float = 0.0
    bandwidth_hz: float = 0.0
    leak_hz: float = 0.0
    shot_noise_hz: float = 0.0
    hot_pixels: float = 0.0
    hot_pixel_hz: tuple[float, float] = (1.0, 1.0)
    timestamp_us: int = 1
    row_readout_us: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse thresholds that would fire without end."""
        if not (self.threshold_on > 0 and self.threshold_off > 0):
            raise ValueError(f"camera: contrast thresholds must be positive, not {self}")

    @property
    def effects(self) -> Effects:
        """Return what the kernels need to know that all pixels share."""
        seed = np.uint64(self.seed)
        return Effects(self.refractory_us, self.bandwidth_hz, self.shot_noise_hz, self.leaks, seed)

    def pixels(self, size: SensorSize) -> Pixels:
        """Return every pixel's own thresholds and leak."""
        on, off, leak = (np.zeros((size.height, size.width), np.float32) for _ in range(3))
        seed = np.uint64(self.seed)
        spread_thresholds(self.threshold_on, self.threshold_mismatch, ON, seed, on)
        spread_thresholds(self.threshold_off, self.threshold_mismatch, OFF, seed, off)
        if self.leaks:
            hot = (self.hot_pixels, *self.hot_pixel_hz)
            spread_leaks(self.leak_hz, hot, seed, on, make_scratch(size.width), leak)
        return Pixels(on, off, leak)

    @property
    def leaks(self) -> bool:
        """Tell whether any pixel's reference falls."""
        return self.leak_hz > 0 or self.hot_pixels > 0

    def facts(self) -> dict[str, Any]:
        """Return what was drawn, for the sample's JSON; what is switched off is left out."""
        off = Camera(self.threshold_on, self.threshold_off)
        drawn = {field.name: getattr(self, field.name) for field in fields(self)}
        del drawn["seed"]  # follows from those of the sample
        if not self.hot_pixels:
            del drawn["hot_pixel_hz"]
        named = ("threshold_on", "threshold_off")
        return {k: v for k, v in drawn.items() if k in named or v != getattr(off, k)}


def draw_camera(rng: np.random.Generator, config: CameraConfig, seed: int = 0) -> Camera:
    """Draw a camera: every range uniformly; `seed` is for its pixels."""
    drawn: dict[str, float] = {}
    for name in (
        *("threshold_on", "threshold_off", "threshold_mismatch", "refractory_us"),
        *("bandwidth_hz", "leak_hz", "shot_noise_hz", "hot_pixels"),
    ):
        drawn[name] = float(np.float32(rng.uniform(*getattr(config, name))))
    return Camera(
        **drawn,
        random_phase=config.random_phase,
        hot_pixel_hz=config.hot_pixel_hz,
        timestamp_us=config.timestamp_us,
        row_readout_us=config.row_readout_us,
        seed=seed,
    )
