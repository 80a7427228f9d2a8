"""Presets: the cameras and motion families that can be named, with where their numbers come from.

Every range is drawn from uniformly, once per sample. Contrast thresholds are in log intensity:
a contrast of 12% is ln(1.12) = 0.11. A data sheet tells the least contrast that a sensor can be set
to, and cameras are run above it: the ranges begin there, that of gen3-vga a third higher. Where
they end is our choice, and so is every value that `VALUE_SOURCES` calls chosen.
"""

from __future__ import annotations

from typing import Any

from ezsr_shards.errors import ConfigError

Values = dict[str, Any]

_NEVER = (0.0, 0.0)
_IDEAL: Values = {
    "threshold_on": (0.1, 0.3),
    "threshold_off": (0.1, 0.3),
    "threshold_mismatch": _NEVER,
    "random_phase": False,
    "refractory_us": _NEVER,
    "bandwidth_hz": _NEVER,
    "leak_hz": _NEVER,
    "shot_noise_hz": _NEVER,
    "hot_pixels": _NEVER,
    "hot_pixel_hz": (20.0, 500.0),
    "timestamp_us": 1,
    "row_readout_us": 0.0,
    "lens_blur_px": 0.8,
    "log_floor": 1e-3,
}
LEAST_CONTRAST = {
    "dvs128": 0.17,
    "davis240": 0.11,
    "davis346": 0.143,
    "atis": 0.13,
    "gen3-vga": 0.12,
}
"""Gallego et al., Event-based Vision: A Survey (TPAMI 2022), table 1."""


def _real(**values: Any) -> Values:
    """Return a camera with all effects that pixels of every make have."""
    common = {
        "random_phase": True,
        "threshold_mismatch": (0.05, 0.2),
        "refractory_us": (100.0, 1000.0),
        "bandwidth_hz": (100.0, 1000.0),
        "leak_hz": (0.0, 0.2),
        "shot_noise_hz": (0.0, 2.0),
        "hot_pixels": (0.0, 2e-4),
    }
    return {**_IDEAL, **common, **values}


CAMERAS: dict[str, Values] = {
    "ideal": _IDEAL,
    "dvs128": _real(threshold_on=(0.16, 0.4), threshold_off=(0.16, 0.4)),
    "davis240": _real(threshold_on=(0.1, 0.35), threshold_off=(0.1, 0.35)),
    "davis346": _real(threshold_on=(0.13, 0.4), threshold_off=(0.13, 0.4)),
    "atis": _real(
        threshold_on=(0.12, 0.4),
        threshold_off=(0.12, 0.4),
        refractory_us=(500.0, 2000.0),
        shot_noise_hz=(0.1, 1.0),
        log_floor=0.1,
    ),
    "gen3-vga": _real(
        threshold_on=(0.15, 0.4),
        threshold_off=(0.15, 0.4),
        refractory_us=(1000.0, 5000.0),
        shot_noise_hz=(0.0, 0.5),
        hot_pixel_hz=(20.0, 1000.0),
        timestamp_us=197,
        log_floor=0.015,
    ),
}
CAMERA_SOURCES = {
    "ideal": "no effect but contrast thresholds drawn for each sample, as in EZSR (CVPR 2025)",
    "dvs128": "least contrast 17% (Gallego et al., TPAMI 2022, table 1)",
    "davis240": "least contrast 11% (the same)",
    "davis346": "least contrast 14.3 to 22.5% (the same)",
    "atis": "least contrast 13% (the same); rest, noise and floor fitted to N-MNIST (realism.py)",
    "gen3-vga": "least contrast 12% (the same); rest, noise, clock and floor fitted to a recording "
    "of N-ImageNet (realism.py)",
}
VALUE_SOURCES = {
    "threshold_on": "from the least contrast on, gen3-vga's from above it; the end chosen, that of "
    "atis and gen3-vga fitted; ideal's chosen",
    "threshold_off": "as threshold_on",
    "threshold_mismatch": "chosen; v2e (Hu et al. 2021) has .02 to .05 on .2, 0.1 to 0.25",
    "random_phase": "chosen: a real camera runs before it is recorded",
    "refractory_us": "chosen but where fitted; v2e has 0, on its command line 500",
    "bandwidth_hz": "chosen; v2e has none (clean), 30 (noisy), 300 (command line)",
    "leak_hz": "chosen around v2e's 0 (clean), 0.1 (noisy), 0.01 (command line)",
    "shot_noise_hz": "chosen but where fitted; v2e has 0 (clean), 5 (noisy), 0.001 (command line)",
    "hot_pixels": "chosen",
    "hot_pixel_hz": "chosen",
    "timestamp_us": "a microsecond but where fitted",
    "row_readout_us": "chosen: no arbiter",
    "lens_blur_px": "chosen",
    "log_floor": "chosen but where fitted",
}
"""Of cameras. v2e's presets and command line: Hu et al., v2e: From Video Frames to Realistic DVS
Events (CVPRW 2021)."""

MOTIONS: dict[str, Values] = {
    "affine": {
        "duration_us": 50_000,
        "translation_px": (8.0, 24.0),
        "rotation_deg": 5.0,
        "zoom_percent": 5.0,
        "tilt_deg": 0.0,
    },
    "homography": {
        "duration_us": 50_000,
        "translation_px": (8.0, 24.0),
        "rotation_deg": 5.0,
        "zoom_percent": 5.0,
        "tilt_deg": 10.0,
    },
    "saccade": {
        "duration_us": 300_000,
        "translation_px": (4.0, 7.0),
        "rotation_deg": 0.0,
        "zoom_percent": 0.0,
        "tilt_deg": 0.0,
    },
    "drift": {
        "duration_us": 100_000,
        "translation_px": (4.0, 16.0),
        "rotation_deg": 3.0,
        "zoom_percent": 3.0,
        "tilt_deg": 0.0,
    },
    "loop": {
        "duration_us": 200_000,
        "translation_px": (6.0, 12.0),
        "rotation_deg": 0.0,
        "zoom_percent": 0.0,
        "tilt_deg": 0.0,
    },
}
MOTION_SOURCES = {
    "affine": "one straight shift with a turn and a zoom, linear in time (EZSR, CVPR 2025)",
    "homography": "the picture as a plane that moves and tilts in 3-D; 53 degrees are seen",
    "saccade": "three saccades along a triangle of this side (Orchard et al. 2015; N-MNIST)",
    "drift": "a smooth random walk of shift, turn and zoom, as of a hand-held camera",
    "loop": "once around a square of this side, 50 ms each (Kim et al., N-ImageNet, ICCV 2021)",
}


def list_presets(kind: str) -> str:
    """Return a table of all cameras or all motions: values down, names across, then sources."""
    tables = {
        "cameras": (CAMERAS, {**CAMERA_SOURCES, **VALUE_SOURCES}),
        "motions": (MOTIONS, MOTION_SOURCES),
    }
    if kind not in tables:
        raise ConfigError(f"list {kind!r}: give cameras or motions")
    presets, sources = tables[kind]
    names = list(presets)
    rows = [["", *names]]
    for value in presets[names[0]]:
        rows.append([value, *(_cell(presets[name][value]) for name in names)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", *(f"{name}: {text}" for name, text in sources.items())])


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        low, high = value
        return f"{low:g}" if low == high else f"{low:g}..{high:g}"
    return f"{value:g}"
