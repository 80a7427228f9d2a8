"""Simulate: a picture, a motion and a camera become an event stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ezsr_shards.events import EventStream
from ezsr_synth.camera import Camera
from ezsr_synth.config import SensorSize
from ezsr_synth.kernels import (
    Effects,
    Events,
    Pixels,
    State,
    fire_events,
    read_rows,
    sort_by_time,
    start_pixels,
)
from ezsr_synth.motion import Motion

_FIRST_BLOCK = 4
_LARGEST_BLOCK = 16
_SLACK_PX = 1e-3
_LEAST_CAPACITY = 1 << 16
_CAPACITY_PER_PIXEL = 2


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
    pixels, effects = camera.pixels(size), camera.effects
    state = _make_state(size, effects)
    start_pixels(log_picture, motion.warps[0], pixels, camera.random_phase, effects, state)

    blocks: list[Events] = []
    borders: list[int] = []
    start, last, length, total = 0, len(motion.t_us) - 1, _FIRST_BLOCK, 0
    while start < last and (max_events is None or total <= max_events):
        stop = min(last, start + length)
        most = None if max_events is None or stop == start + 1 else 2 * max_events
        block = _fire_block(log_picture, motion, (start, stop), (pixels, effects), state, most)
        if block is None:
            length = max(1, length // 2)
            continue
        blocks.append(block)
        borders.append(int(motion.t_us[start]))
        total = _count_ready(blocks, borders, camera, size, int(motion.t_us[stop]))
        if max_events is not None:
            missing = (max_events - total) * (stop / max(total, 1))
            length = int(min(max(missing + 1, 1), _LARGEST_BLOCK))
        start = stop
    duration_us = motion.duration_us
    x, y, t, p = read_out(_join(blocks, borders), camera, size, duration_us)
    if max_events is not None and len(t) > max_events:
        duration_us = int(t[max_events])
        keep = int(np.searchsorted(t, duration_us))
        x, y, t, p = x[:keep], y[:keep], t[:keep], p[:keep]
    return EventStream(x, y, t, p, size.width, size.height, duration_us)


def _fire_block(
    log_picture: npt.NDArray[np.float32],
    motion: Motion,
    block: tuple[int, int],
    sensor: tuple[Pixels, Effects],
    state: State,
    most: int | None,
) -> Events | None:
    """Fire the events between two time samples, sorted; `state` moves on.

    The room for events grows until all fit; but if they are more than fit and more than `most`,
    nothing is done and None returned, so that little is made only to be thrown away.
    """
    samples = slice(block[0], block[1] + 1)
    warps, t_us, last_us = motion.warps[samples], motion.t_us[samples], int(motion.t_us[-1]) - 1
    before = {name: remembered.copy() for name, remembered in state._asdict().items()}
    capacity = max(_LEAST_CAPACITY, _CAPACITY_PER_PIXEL * state.reference.size)
    while True:
        room = (
            np.empty(capacity, np.uint16),
            np.empty(capacity, np.uint16),
            np.empty(capacity, np.int64),
            np.empty(capacity, np.uint8),
        )
        count = fire_events(log_picture, (warps, t_us), *sensor, state, last_us, room)
        if count <= capacity:
            columns: Events = sort_by_time(room, count, int(t_us[0]), int(t_us[-1]) + 1)
            return columns
        for name, remembered in before.items():
            getattr(state, name)[:] = remembered
        if most is not None and count > most:
            return None
        capacity = count


def _make_state(size: SensorSize, effects: Effects) -> State:
    """Return room for what pixels remember; none for what no effect needs."""

    def room(dtype: type, used: bool) -> npt.NDArray[Any]:
        return np.empty((size.height, size.width) if used else (0, 0), dtype)

    noisy = effects.shot_noise_hz > 0
    return State(
        reference=room(np.float32, True),
        filtered=room(np.float32, effects.bandwidth_hz > 0),
        release=room(np.float64, effects.refractory_us > 0),
        arrival=room(np.float64, noisy),
        arrivals=room(np.int64, noisy),
    )


def _count_ready(
    blocks: list[Events], borders: list[int], camera: Camera, size: SensorSize, now_us: int
) -> int:
    """Return how many events nothing that comes after `now_us` can precede any more."""
    if camera.row_readout_us == 0:
        return sum(len(block[2]) for block in blocks)
    t = read_out(_join(blocks, borders), camera, size, now_us + 1)[2]
    return int(np.count_nonzero(t < now_us // camera.timestamp_us * camera.timestamp_us))


def read_out(events: Events, camera: Camera, size: SensorSize, duration_us: int) -> Events:
    """Return the events with the times at which the camera reports them, sorted by (t, y, x).

    Rows wait for their turn where the camera has a row arbiter; time stamps are rounded down to
    its clock. What would be read after the end of the recording is lost.
    """
    t = events[2]
    if camera.row_readout_us > 0:
        read_at = np.empty(len(t))
        read_rows(events, camera.row_readout_us, size.height, read_at)
        t = np.ceil(read_at).astype(np.int64)
    elif camera.timestamp_us == 1:
        return events
    t = t // camera.timestamp_us * camera.timestamp_us
    order = np.lexsort((events[0], events[1], t))
    order = order[: np.searchsorted(t[order], duration_us)]
    return events[0][order], events[1][order], t[order], events[3][order]


def _join(blocks: list[Events], borders: list[int]) -> Events:
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
