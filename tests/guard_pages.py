"""Arrays between pages that nobody may touch: a look outside of one ends the process.

Kernels do not check bounds, and their vector code loads more than it needs. `run_guarded` is run in
a process of its own.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from ezsr_synth import simulate as simulation
from ezsr_synth.camera import Camera
from ezsr_synth.config import SensorSize
from ezsr_synth.families import similarity
from ezsr_synth.kernels import fire_events, make_scratch, start_pixels
from ezsr_synth.lanes import LANES
from ezsr_synth.motion import Motion

_PAGE, _NOTHING = mmap.PAGESIZE, 0  # PROT_NONE
_KEPT: list[mmap.mmap] = []


def guard(array: npt.NDArray[Any], flush_right: bool) -> npt.NDArray[Any]:
    """Return a copy that begins right after a forbidden page, or ends right before one."""
    whole = -(-max(array.nbytes, 1) // _PAGE) * _PAGE
    pages = mmap.mmap(-1, whole + 2 * _PAGE)
    _KEPT.append(pages)
    first = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    for page in (first, first + _PAGE + whole):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), _PAGE, _NOTHING) == 0
    start = _PAGE + (whole - array.nbytes if flush_right else 0)
    copy = np.frombuffer(pages, array.dtype, array.size, start).reshape(array.shape)
    copy[...] = array
    return copy


def guard_all(value: Any, flush_right: bool) -> Any:
    """Return a tuple of arrays, tuples and plain values with all its arrays guarded."""
    if isinstance(value, np.ndarray):
        return guard(value, flush_right)
    if isinstance(value, tuple):
        parts = [guard_all(part, flush_right) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def tight_case(seed: int) -> tuple[npt.NDArray[np.float32], Motion, Camera, SensorSize]:
    """Return a picture no larger than the path needs, small turns, and every effect of cameras."""
    rng = np.random.default_rng(seed)
    size = SensorSize(int(rng.integers(8, 80)), int(rng.integers(8, 24)))
    share, (right, down) = np.linspace(0, 1, 6), rng.uniform(-3, 3, 2)
    turn_deg, zoom_percent = rng.uniform(-6, 6), rng.uniform(-8, 8)
    shifts = np.outer(share, (right, down))
    warps = similarity(shifts, turn_deg * share, zoom_percent * share, size)
    motion = Motion(warps, np.arange(6) * 500, {})
    corners = motion.corners(size).reshape(-1, 2)
    motion = motion.shifted(*(1.001e-3 - corners.min(axis=0)))
    width, height = np.ceil(np.ptp(corners, axis=0) + 2.1e-3).astype(int) + 1
    effects = {"random_phase": True, "threshold_mismatch": 0.1, "refractory_us": 300.0}
    effects |= {"bandwidth_hz": 300.0, "leak_hz": 1.0, "shot_noise_hz": 20.0}
    camera = Camera(0.2, 0.2, **(effects if seed % 2 else {}), seed=seed)
    return rng.normal(-1, 1, (height, width)).astype(np.float32), motion, camera, size


def count_events(seed: int, flush_right: bool | None, room: int = 10**5) -> list[int]:
    """Return the number of events of each time step of a case, by kernels on guarded arrays.

    room  words for each time step, more than there are or not
    """
    log_picture, motion, camera, size = tight_case(seed)
    simulation._require_inside(log_picture, motion, size)
    effects, steps = camera.effects, len(motion.t_us) - 1
    pixels, path = camera.pixels(size), (motion.warps, motion.t_us)
    states = tuple(simulation._make_state(name, size, effects) for name in ("a", "b"))
    words = np.zeros((steps, room), np.uint64)
    counts = np.zeros(steps, np.int64)
    given = (log_picture, path, pixels, states, make_scratch(size.width), words, counts)
    if flush_right is not None:
        given = guard_all(given, flush_right)
    log_picture, path, pixels, states, scratch, words, counts = given
    start_pixels(log_picture, path, pixels, camera.random_phase, effects, scratch, states[0])
    last_us = motion.duration_us - 1
    fire_events(log_picture, path, pixels, effects, states, scratch, last_us, words, counts)
    return counts.tolist()


def run_guarded(cases: int) -> int:
    """Run cases with every array flush left and flush right; return how many events they made.

    With room for all events of a step, and for fewer, when they are counted only.
    """
    made = 0
    for seed in range(cases):
        expected = count_events(seed, None)
        most = max(expected)
        for room in (1, LANES, most + LANES - 1, most + LANES, 10**5):
            assert [count_events(seed, side, room) for side in (False, True)] == 2 * [expected]
        made += sum(expected)
        _KEPT.clear()
    return made
