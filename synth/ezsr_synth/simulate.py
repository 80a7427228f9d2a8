"""Simulate: a picture, a motion and a camera become an event stream."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from ezsr_shards.events import EventStream
from ezsr_synth.camera import Camera
from ezsr_synth.config import SensorSize
from ezsr_synth.kernels import (
    T_SHIFT,
    U64,
    Effects,
    Scratch,
    State,
    compile_kernels,
    fire_events,
    make_scratch,
    start_pixels,
)
from ezsr_synth.lanes import LANES
from ezsr_synth.motion import Motion
from ezsr_synth.order import compile_order, order_steps
from ezsr_synth.readout import compile_readout, read_out, unpack

_STATE_TYPES: dict[str, type] = {
    **dict.fromkeys(("reference", "seen", "light", "filtered"), np.float32),
    **dict.fromkeys(("release", "arrival"), np.float64),
    "arrivals": np.int64,
}
_FIRST_BLOCK = 4
_LARGEST_BLOCK = 16
_SLACK_PX = 1e-3
_PIXELS_PER_EVENT = 2  # to begin with, in room for a time step
_MOST_KEPT = 1 << 23
_PAGE, _APART = 512, 40  # words: steps a whole page apart would meet in the same lines of a cache
_AMPLE = 1.5  # room for a time step, beside the events that the steps before lead to expect


class _Room(threading.local):
    """Memory of one thread that is used again: what is new costs a page fault every 4 kB."""

    def __init__(self) -> None:
        self._block: U64 = np.empty(0, np.uint64)
        self._words: U64 = np.empty(0, np.uint64)
        self._scratch: tuple[int, Scratch] | None = None
        self._size: SensorSize | None = None
        self._arrays: dict[tuple[str, int], npt.NDArray[Any]] = {}

    def block(self, rows: int, room: int) -> U64:
        """Return rows with room for so many words, LANES and more, of any content."""
        room = (room + LANES) // _PAGE * _PAGE + _PAGE + _APART
        if len(self._block) < rows * room:
            self._block = np.empty(rows * room, np.uint64)
        return self._block[: rows * room].reshape(rows, room)

    def scratch(self, width: int) -> Scratch:
        """Return room for the work on rows of a width."""
        if self._scratch is None or self._scratch[0] != width:
            self._scratch = width, make_scratch(width)
        return self._scratch[1]

    def words(self, filled: int, more: int) -> U64:
        """Return room for all words: the first `filled` as they are, and `more`."""
        if len(self._words) < filled + more:
            kept, self._words = self._words[:filled], np.empty(2 * (filled + more), np.uint64)
            self._words[:filled] = kept
        return self._words

    def shrink(self) -> None:
        """Give back more memory than most simulations need."""
        if len(self._block) + len(self._words) > _MOST_KEPT:
            self._block, self._words = np.empty(0, np.uint64), np.empty(0, np.uint64)

    def array(self, name: str, size: SensorSize, dtype: type, used: bool) -> npt.NDArray[Any]:
        """Return room for a value of every pixel, of any content; none where it is not used."""
        if size != self._size:
            self._size, self._arrays = size, {}
        key = name, size.width if used else 0
        if key not in self._arrays:
            self._arrays[key] = np.empty((size.height, key[1]), dtype)
        return self._arrays[key]


_ROOM = _Room()


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
    words = _fire_until(
        np.ascontiguousarray(log_picture, np.float32), motion, camera, size, max_events
    )
    duration_us = motion.duration_us
    words = read_out(words, camera, size, duration_us)
    if max_events is not None and len(words) > max_events:
        duration_us = int(words[max_events]) >> T_SHIFT
        words = words[: np.searchsorted(words, np.uint64(duration_us << T_SHIFT))]
    columns = unpack(words)
    _ROOM.shrink()
    return EventStream(*columns, size.width, size.height, duration_us)


def _fire_until(
    log_picture: npt.NDArray[np.float32],
    motion: Motion,
    camera: Camera,
    size: SensorSize,
    max_events: int | None,
) -> U64:
    """Return the words of all events in order, or of a beginning with more than `max_events`.

    The room for a step grows until all its words fit; but where a block has more than twice the
    cap, it is tried again with half its length, so that little is made only to be thrown away.
    """
    pixels, effects, scratch = camera.pixels(size), camera.effects, _ROOM.scratch(size.width)
    begun, ended = (_make_state(name, size, effects) for name in ("begun", "ended"))
    path = motion.warps, motion.t_us
    start_pixels(log_picture, path, pixels, camera.random_phase, effects, scratch, begun)
    words, room = _ROOM.words(0, 0), size.width * size.height // _PIXELS_PER_EVENT
    start, last, length, filled, ready = 0, len(motion.t_us) - 1, _FIRST_BLOCK, 0, 0
    last_us = motion.duration_us - 1
    while start < last and (max_events is None or ready <= max_events):
        stop = min(last, start + length)
        path = motion.warps[start : stop + 1], motion.t_us[start : stop + 1]
        block, counts = _ROOM.block(stop - start + 1, room), np.empty(stop - start, np.int64)
        states = begun, ended
        fire_events(log_picture, path, pixels, effects, states, scratch, last_us, block, counts)
        count, most = int(counts.sum()), int(counts.max())
        if most + LANES > block.shape[1]:
            if max_events is not None and count > 2 * max_events and stop > start + 1:
                length = (stop - start) // 2
            else:
                room = 2 * most
            continue
        words = _ROOM.words(filled, count)
        if not order_steps(block, counts, path[1], words, filled):
            words[: filled + count].sort()
        begun, ended = ended, begun
        start, filled, length = stop, filled + count, _LARGEST_BLOCK
        room = max(room, int(_AMPLE * most))
        if max_events is not None:
            ready = _count_ready(words[:filled], camera, size, int(motion.t_us[stop]))
            rate = max(int(counts[-1]), 1)  # pixels take a while to fire their first
            length = min(max((max_events - ready) // rate, 1), _LARGEST_BLOCK)
    return words[:filled]


def _make_state(name: str, size: SensorSize, effects: Effects) -> State:
    """Return room for what pixels remember; none for what no effect needs."""
    filters, noisy = effects.bandwidth_hz > 0, effects.shot_noise_hz > 0
    used = {
        "light": filters,
        "filtered": filters,
        "release": effects.refractory_us > 0,
        "arrival": noisy,
        "arrivals": noisy,
    }
    arrays = {
        field: _ROOM.array(f"{name} {field}", size, dtype, used.get(field, True))
        for field, dtype in _STATE_TYPES.items()
    }
    return State(**arrays)


def _count_ready(words: U64, camera: Camera, size: SensorSize, now_us: int) -> int:
    """Return how many events nothing that comes after `now_us` can precede any more."""
    if camera.row_readout_us == 0:
        return len(words)
    read = read_out(words, camera, size, now_us + 1)
    tick_us = now_us // camera.timestamp_us * camera.timestamp_us
    return int(np.searchsorted(read, np.uint64(tick_us << T_SHIFT)))


def _require_inside(log_picture: npt.NDArray[np.float32], motion: Motion, size: SensorSize) -> None:
    """The kernels do not check bounds: they rely on this. The corners bound every pixel."""
    corners = motion.corners(size)
    height, width = log_picture.shape
    inside = corners.min() >= _SLACK_PX and np.all(
        corners.max(axis=(0, 1)) <= (width - 1 - _SLACK_PX, height - 1 - _SLACK_PX)
    )
    if not inside:
        raise ValueError(f"motion: the sensor looks outside the {width}x{height} log picture")


def compile_simulation() -> None:
    """Compile every kernel, or load it from the cache."""
    compile_kernels()
    compile_order()
    compile_readout()
