"""Motion families: each a small pure function from a generator to a path of warps.

A path maps shares u (N,) of its duration to warps (N, 3, 3) from sensor px to px from the picture's
centre. All numbers are physical: px on the sensor, degrees, percent of the picture's size.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, radians, sin
from typing import Any

import numpy as np
import numpy.typing as npt

from ezsr_synth.config import MotionConfig, SensorSize

F64 = npt.NDArray[np.float64]
WarpAt = Callable[[F64], F64]
Drawn = tuple[WarpAt, dict[str, Any]]

_TRIANGLE = ((0.0, 0.0), (-0.5, -0.85), (-1.0, 0.0), (0.0, 0.0))
"""Where the sensor looks at the ends of N-MNIST's saccades, in sides of the triangle, (x, y); read
off 200 of its recordings, whose digits move right and down, right and up, and left."""

_SQUARE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.0, 0.0))
_WALK_STEPS = 6


def draw_affine(rng: np.random.Generator, config: MotionConfig, size: SensorSize) -> Drawn:
    """Draw the paper's motion: shift, turn and zoom about the sensor's centre, linear in time."""
    shift, facts = _draw_straight(rng, config)

    def warp_at(u: F64) -> F64:
        return similarity(
            np.outer(u, shift), facts["rotation_deg"] * u, facts["zoom_percent"] * u, size
        )

    return warp_at, facts


def draw_homography(rng: np.random.Generator, config: MotionConfig, size: SensorSize) -> Drawn:
    """Draw a picture plane that shifts, comes nearer and tilts before a camera, linear in time.

    The camera's focal length is the sensor's longer side, over which it sees 53 degrees.
    """
    shift, facts = _draw_straight(rng, config)
    tilts_deg = rng.uniform(-config.tilt_deg, config.tilt_deg, 2)
    facts["tilt_deg"] = tilts_deg.tolist()
    focal_px = float(size.longer_px)

    def warp_at(u: F64) -> F64:
        pan, nod = (np.radians(angle) * u for angle in tilts_deg)
        plane = np.zeros((len(u), 3, 3))  # picture px from the centre -> px from the sensor's
        plane[:, 0, 0], plane[:, 1, 1] = np.cos(pan), np.cos(nod)
        plane[:, 1, 0] = np.sin(nod) * np.sin(pan)
        plane[:, 2, 0] = -np.cos(nod) * np.sin(pan) / focal_px
        plane[:, 2, 1] = np.sin(nod) / focal_px
        plane[:, 2, 2] = 1.0
        centred = similarity(
            np.zeros((len(u), 2)), facts["rotation_deg"] * u, facts["zoom_percent"] * u, size
        )
        warps = np.linalg.inv(plane) @ centred
        warps[:, :2] += np.outer(u, shift)[:, :, None] * warps[:, 2:]
        return warps / warps[:, 2:, 2:]

    return warp_at, facts


def draw_saccade(rng: np.random.Generator, config: MotionConfig, size: SensorSize) -> Drawn:
    """Draw three saccades along a triangle, each as long in time and with a bell of speed.

    Orchard et al. 2015, section 3; the speed is that of the smoothest reach (Flash and Hogan 1985),
    as the rate of events in N-MNIST rises and falls in each of its three parts.
    """
    return _draw_polygon(rng, config, size, _TRIANGLE, smooth=True)


def draw_loop(rng: np.random.Generator, config: MotionConfig, size: SensorSize) -> Drawn:
    """Draw one way around a square at constant speed, from any corner, either way round.

    The facts tell the corners in the order of the way, in sides of the square.
    """
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    path = np.roll(np.array(_SQUARE[:4]), turns, axis=0)[:: -1 if mirrored else 1]
    corners = [(float(x), float(y)) for x, y in path - path[0]]
    warp_at, facts = _draw_polygon(rng, config, size, (*corners, (0.0, 0.0)), smooth=False)
    return warp_at, {**facts, "corners": corners}


def draw_drift(rng: np.random.Generator, config: MotionConfig, size: SensorSize) -> Drawn:
    """Draw a smooth random walk: splines through steps of chance in shift, turn and zoom.

    The farthest from the start is the shift drawn, and turn and zoom reach what was drawn for them.
    The facts tell the knots of the splines: x and y in px, turn in degrees, zoom in percent.
    """
    shift_px = rng.uniform(*config.translation_px)
    reached = (shift_px, rng.uniform(0, config.rotation_deg), rng.uniform(0, config.zoom_percent))
    walks = np.cumsum(rng.normal(size=(4, _WALK_STEPS)), axis=1)
    knots = np.concatenate([np.zeros((4, 1)), walks], axis=1)
    dense = np.linspace(0, 1, 50 * _WALK_STEPS + 1)

    def scaled(part: slice, most: float) -> F64:
        farthest = np.linalg.norm([spline(row, dense) for row in knots[part]], axis=0).max()
        return knots[part] * (most / max(float(farthest), 1e-12))

    parts = (slice(0, 2), slice(2, 3), slice(3, 4))
    shift, turn, zoom = (scaled(part, most) for part, most in zip(parts, reached, strict=True))

    def warp_at(u: F64) -> F64:
        shifts = np.column_stack([spline(row, u) for row in shift])
        return similarity(shifts, spline(turn[0], u), spline(zoom[0], u), size)

    facts = dict(zip(("translation_px", "rotation_deg", "zoom_percent"), reached, strict=True))
    return warp_at, {**facts, "knots": np.concatenate([shift, turn, zoom]).round(4).tolist()}


FAMILIES: dict[str, Callable[[np.random.Generator, MotionConfig, SensorSize], Drawn]] = {
    "affine": draw_affine,
    "homography": draw_homography,
    "saccade": draw_saccade,
    "drift": draw_drift,
    "loop": draw_loop,
}

BENDS = {"affine": 0, "homography": 0, "saccade": 6, "drift": _WALK_STEPS, "loop": 4}
"""How often a path turns or changes its speed."""


def similarity(shift_px: F64, turn_deg: F64, zoom_percent: F64, size: SensorSize) -> F64:
    """Return warps (N, 3, 3) that shift (N, 2), turn (N,) and zoom (N,) about the centre."""
    angle, scale = np.radians(turn_deg), 1.0 + zoom_percent / 100.0
    center_x, center_y = (size.width - 1) / 2, (size.height - 1) / 2
    warps = np.zeros((len(shift_px), 3, 3))
    warps[:, 0, 0] = warps[:, 1, 1] = scale * np.cos(angle)
    warps[:, 1, 0] = scale * np.sin(angle)
    warps[:, 0, 1] = -warps[:, 1, 0]
    warps[:, 0, 2] = shift_px[:, 0] - warps[:, 0, 0] * center_x - warps[:, 0, 1] * center_y
    warps[:, 1, 2] = shift_px[:, 1] - warps[:, 1, 0] * center_x - warps[:, 1, 1] * center_y
    warps[:, 2, 2] = 1.0
    return warps


def spline(knots: F64, u: F64) -> F64:
    """Return a smooth curve through evenly spaced knots (K,) at shares u (Catmull and Rom 1974)."""
    padded = np.concatenate([[2 * knots[0] - knots[1]], knots, [2 * knots[-1] - knots[-2]]])
    place = np.clip(u, 0, 1) * (len(knots) - 1)
    k = np.minimum(place.astype(np.int64), len(knots) - 2)
    s = place - k
    before, left, right, after = (padded[k + n] for n in range(4))
    curve: F64 = left + 0.5 * s * (
        right - before
        + s * (2 * before - 5 * left + 4 * right - after)
        + s * s * (3 * (left - right) + after - before)
    )  # fmt: skip
    return curve


def _draw_straight(
    rng: np.random.Generator, config: MotionConfig
) -> tuple[tuple[float, float], dict[str, Any]]:
    shift_px = rng.uniform(*config.translation_px)
    direction = rng.uniform(0.0, 2.0 * pi)
    turn_deg = rng.uniform(-config.rotation_deg, config.rotation_deg)
    zoom_percent = rng.uniform(-config.zoom_percent, config.zoom_percent)
    shift = shift_px * cos(direction), shift_px * sin(direction)
    facts = {"translation_px": list(shift), "rotation_deg": turn_deg, "zoom_percent": zoom_percent}
    return shift, facts


def _draw_polygon(
    rng: np.random.Generator,
    config: MotionConfig,
    size: SensorSize,
    corners: tuple[tuple[float, float], ...],
    *,
    smooth: bool,
) -> Drawn:
    """Draw a path along straight sides, each in the same time; turn and zoom are linear in time.

    The polygon itself is turned by up to `rotation_deg`, as a camera is never quite upright.
    """
    side_px = rng.uniform(*config.translation_px)
    aslant_deg = rng.uniform(-config.rotation_deg, config.rotation_deg)
    turn_deg = rng.uniform(-config.rotation_deg, config.rotation_deg)
    zoom_percent = rng.uniform(-config.zoom_percent, config.zoom_percent)
    c, s = cos(radians(aslant_deg)), sin(radians(aslant_deg))
    points = side_px * np.array(corners) @ np.array([[c, s], [-s, c]])
    sides = len(points) - 1

    def warp_at(u: F64) -> F64:
        side = np.minimum((u * sides).astype(np.int64), sides - 1)
        share = u * sides - side
        if smooth:
            share = share**3 * (10 - 15 * share + 6 * share**2)
        shift = points[side] + share[:, None] * (points[side + 1] - points[side])
        return similarity(shift, turn_deg * u, zoom_percent * u, size)

    facts = {
        "translation_px": side_px,
        "aslant_deg": aslant_deg,
        "rotation_deg": turn_deg,
        "zoom_percent": zoom_percent,
    }
    return warp_at, facts
