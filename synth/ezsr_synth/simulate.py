"""Simulate: a picture, a motion and a camera become an event stream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ezsr_shards.events import EventStream
from ezsr_synth.config import CameraConfig, SensorSize
from ezsr_synth.kernels import fire_events, sort_by_time, start_reference
from ezsr_synth.motion import Motion

Columns = tuple[
    npt.NDArray[np.uint16], npt.NDArray[np.uint16], npt.NDArray[np.int64], npt.NDArray[np.uint8]
]
_FIRST_BLOCK = 4
_LARGEST_BLOCK = 16
_SLACK_PX = 1e-3
_LEAST_CAPACITY = 1 << 16
_CAPACITY_PER_PIXEL = 2


@dataclass(frozen=True)
class Camera:
    """One drawn camera: contrast thresholds in log intensity, both positive."""

    threshold_on: float
    threshold_off: float

    def __post_init__(self) -> None:
        """Refuse thresholds that would fire without end."""
        if not (self.threshold_on > 0 and self.threshold_off > 0):
            raise ValueError(f"camera: contrast thresholds must be positive, not {self}")


def draw_camera(rng: np.random.Generator, config: CameraConfig) -> Camera:
    """Draw a camera: both thresholds uniformly from their own ranges."""
    on = float(np.float32(rng.uniform(*config.threshold_on)))
    return Camera(on, float(np.float32(rng.uniform(*config.threshold_off))))


def simulate(
    log_picture: npt.NDArray[np.float32],
    motion: Motion,
    camera: Camera,
    size: SensorSize,
    max_events: int | None = None,
) -> EventStream:
    """Return the events that the camera fires while the log picture moves under it.

    log_picture  float32 (H, W); the motion's warps map sensor px into it
    max_events   keep the first events only: the recording is cut at the whole microsecond before
                 the first event that is too many, so that what is kept is a whole time span

    Work goes on in blocks of time samples and stops at the cap; the blocks do not change the
    result. Raises ValueError if the sensor would look outside the picture.
    """
    _require_inside(log_picture, motion, size)
    log_picture = np.ascontiguousarray(log_picture, np.float32)
    reference = np.empty((size.height, size.width), np.float32)
    start_reference(log_picture, motion.warps[0], reference)

    blocks: list[Columns] = []
    borders: list[int] = []
    start, last, length, total = 0, len(motion.t_us) - 1, _FIRST_BLOCK, 0
    while start < last and (max_events is None or total <= max_events):
        stop = min(last, start + length)
        most = None if max_events is None or stop == start + 1 else 2 * max_events
        block = _fire_block(log_picture, motion, (start, stop), camera, reference, most)
        if block is None:
            length = max(1, length // 2)
            continue
        blocks.append(block)
        borders.append(int(motion.t_us[start]))
        total += len(blocks[-1][2])
        if max_events is not None:
            missing = (max_events - total) * (stop / max(total, 1))
            length = int(min(max(missing + 1, 1), _LARGEST_BLOCK))
        start = stop
    x, y, t, p = _join(blocks, borders)
    duration_us = int(motion.t_us[-1])
    if max_events is not None and len(t) > max_events:
        duration_us = int(t[max_events])
        keep = int(np.searchsorted(t, duration_us))
        x, y, t, p = x[:keep], y[:keep], t[:keep], p[:keep]
    return EventStream(x, y, t, p, size.width, size.height, duration_us)


def _fire_block(
    log_picture: npt.NDArray[np.float32],
    motion: Motion,
    block: tuple[int, int],
    camera: Camera,
    reference: npt.NDArray[np.float32],
    most: int | None,
) -> Columns | None:
    """Fire the events between two time samples, sorted; `reference` moves on.

    The room for events grows until all fit; but if they are more than fit and more than `most`,
    nothing is done and None returned, so that little is made only to be thrown away.
    """
    samples = slice(block[0], block[1] + 1)
    warps, t_us, last_us = motion.warps[samples], motion.t_us[samples], int(motion.t_us[-1]) - 1
    thresholds = np.array([camera.threshold_off, camera.threshold_on], np.float32)
    before = reference.copy()
    capacity = max(_LEAST_CAPACITY, _CAPACITY_PER_PIXEL * reference.size)
    while True:
        room = (
            np.empty(capacity, np.uint16),
            np.empty(capacity, np.uint16),
            np.empty(capacity, np.int64),
            np.empty(capacity, np.uint8),
        )
        count = fire_events(log_picture, warps, t_us, thresholds, reference, last_us, room)
        if count <= capacity:
            columns: Columns = sort_by_time(room, count, int(t_us[0]), int(t_us[-1]) + 1)
            return columns
        reference[:] = before
        if most is not None and count > most:
            return None
        capacity = count


def _join(blocks: list[Columns], borders: list[int]) -> Columns:
    """Put sorted blocks one after another; where two meet, sort that microsecond anew."""
    x, y, t, p = (np.concatenate(column) for column in zip(*blocks, strict=True))
    for border_us in borders[1:]:
        meeting = slice(*np.searchsorted(t, (border_us, border_us + 1)))
        order = np.lexsort((x[meeting], y[meeting]))
        for column in (x, y, p):
            column[meeting] = column[meeting][order]
    return x, y, t, p


def _require_inside(log_picture: npt.NDArray[np.float32], motion: Motion, size: SensorSize) -> None:
    """The kernels do not check bounds: they rely on this. The corners bound every pixel."""
    corners = motion.corners(size)
    height, width = log_picture.shape
    inside = corners.min() >= _SLACK_PX and np.all(
        corners.max(axis=(0, 1)) <= (width - 1 - _SLACK_PX, height - 1 - _SLACK_PX)
    )
    if not inside:
        raise ValueError(f"motion: the sensor looks outside the {width}x{height} log picture")
