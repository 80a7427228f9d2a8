"""Every Numba kernel: arrays in, arrays out; no configuration, no I/O, no randomness.

Each has a slow twin in `tests/reference.py` that shares no code with it. One policy for all:
compiled once and cached on disk, without the interpreter lock, and without `fastmath`, so that
neither vector width nor block size can change a result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
Events = tuple[U16, U16, I64, U8]
"""Columns x, y, t (us), p."""

_ONE = 2.0**32
_FRACTION = 2**32 - 1
_UNIT = np.float32(2.0**-32)
_TAU = 2.0 * np.pi
_DARK = 20.0 / 255.0
"""Light, as a share of white, at which a photoreceptor is at half of its lowest speed: its dark
current, in v2e's words the 20 of 255 digital numbers that are added to the intensity."""

# What a draw of chance is for: part of its name, besides sample, pixel and number.
OFF, ON, _PHASE, _LEAK, _HOT, _HOT_RATE, _WAIT, _ACCEPT, _POLARITY = range(9)
_LEAK_DECADES = 0.1  # spread of leak rates over pixels, as in v2e
_LEAST_THRESHOLD = 0.01


class Pixels(NamedTuple):
    """What makes pixels differ: float32 (H, W) each.

    on, off      contrast thresholds, log intensity
    leak         fall of the reference, log intensity per us
    """

    on: F32
    off: F32
    leak: F32


class Effects(NamedTuple):
    """What all pixels share. 0 switches an effect off."""

    refractory_us: float
    bandwidth_hz: float
    shot_noise_hz: float
    leaks: bool
    seed: np.uint64


class State(NamedTuple):
    """What pixels remember between two calls, (H, W) each; an unused one may be empty.

    reference  float32, log intensity of the last event
    filtered   float32, what the photoreceptor gives
    release    float64, us: when the pixel rests no longer
    arrival    float64, us: when its next noise event comes
    arrivals   int64, how many noise events were drawn
    """

    reference: F32
    filtered: F32
    release: F64
    arrival: F64
    arrivals: I64


_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


_POLICY: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def _jit(kernel: _Kernel) -> _Kernel:
    try:
        return cast(_Kernel, numba.njit(cache=True, **_POLICY)(kernel))
    except RuntimeError:  # no folder for the cache can be written: compile in every process
        return cast(_Kernel, numba.njit(**_POLICY)(kernel))


def _jit_into(kernel: _Kernel) -> _Kernel:
    """Compile into the caller: a call for each pixel would cost as much as its events."""
    return cast(_Kernel, numba.njit(inline="always", **_POLICY)(kernel))


@_jit
def weigh_channels(rgb: U8, weights: F32) -> F32:
    """Return sum over c of weights[c, rgb[..., c]]: (H, W, 3) uint8 and (3, 256) -> (H, W)."""
    height, width = rgb.shape[:2]
    out = np.empty((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            out[y, x] = (
                weights[0, rgb[y, x, 0]] + weights[1, rgb[y, x, 1]] + weights[2, rgb[y, x, 2]]
            )
    return out


@_jit
def _sample_row(log_picture: F32, warp: F64, y: int, row: F32) -> None:
    """Look up sensor row y in the log picture, bilinearly; every point must lie inside.

    A warp without perspective steps through the picture in 32.32 fixed point: its error, under
    1e-6 px, is far below that of float32 coordinates (3e-5 px at 600 px, too much on steep
    edges), and it vectorises 2.4 times better than float64.
    """
    flat, stride = log_picture.ravel(), log_picture.shape[1]
    x0, y0 = warp[0, 1] * y + warp[0, 2], warp[1, 1] * y + warp[1, 2]
    if warp[2, 0] == 0.0 and warp[2, 1] == 0.0 and warp[2, 2] == 1.0:
        start_x, step_x = np.int64(x0 * _ONE), np.int64(warp[0, 0] * _ONE)
        start_y, step_y = np.int64(y0 * _ONE), np.int64(warp[1, 0] * _ONE)
        for x in range(row.shape[0]):
            px, py = start_x + step_x * x, start_y + step_y * x
            fx = np.float32(px & _FRACTION) * _UNIT
            fy = np.float32(py & _FRACTION) * _UNIT
            at = np.uint64((py >> 32) * stride + (px >> 32))
            row[x] = _bilinear(flat, at, np.uint64(stride), fx, fy)
        return
    w0 = warp[2, 1] * y + warp[2, 2]
    for x in range(row.shape[0]):
        w = warp[2, 0] * x + w0
        qx, qy = (warp[0, 0] * x + x0) / w, (warp[1, 0] * x + y0) / w
        i, j = np.int64(qx), np.int64(qy)
        at = np.uint64(j * stride + i)
        row[x] = _bilinear(flat, at, np.uint64(stride), np.float32(qx - i), np.float32(qy - j))


@_jit
def _bilinear(
    flat: F32, at: np.uint64, stride: np.uint64, fx: np.float32, fy: np.float32
) -> np.float32:
    one = np.uint64(1)
    top = flat[at] + fx * (flat[at + one] - flat[at])
    below = flat[at + stride] + fx * (flat[at + stride + one] - flat[at + stride])
    return np.float32(top + fy * (below - top))


@_jit
def _mix(h: np.uint64) -> np.uint64:
    """Scramble 64 bits (the finaliser of SplitMix64, Steele et al. 2014)."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@_jit
def _uniform(seed: np.uint64, purpose: int, pixel: int, n: int) -> float:
    """Return the n-th draw of a purpose and pixel, in (0, 1): a hash, so no order matters."""
    h = _mix(seed + np.uint64(purpose + 1) * np.uint64(0x9E3779B97F4A7C15))
    h = _mix(h + np.uint64(pixel) * np.uint64(0x9E3779B97F4A7C15))
    h = _mix(h + np.uint64(n) * np.uint64(0x9E3779B97F4A7C15))
    return (np.float64(h >> np.uint64(11)) + 0.5) * 2.0**-53


@_jit
def _normal(seed: np.uint64, purpose: int, pixel: int) -> float:
    """Return a standard normal draw (Box and Muller 1958)."""
    radius = np.sqrt(-2.0 * np.log(_uniform(seed, purpose, pixel, 0)))
    return float(radius * np.cos(_TAU * _uniform(seed, purpose, pixel, 1)))


@_jit
def spread_thresholds(
    threshold: float, mismatch: float, polarity: int, seed: np.uint64, out: F32
) -> None:
    """Give every pixel its threshold, spread normally by `mismatch` times the threshold."""
    height, width = out.shape
    for y in range(height):
        for x in range(width):
            own = threshold
            if mismatch > 0:
                own *= 1.0 + mismatch * _normal(seed, polarity, y * width + x)
            out[y, x] = max(own, _LEAST_THRESHOLD)


@_jit
def spread_leaks(
    leak_hz: float, hot: tuple[float, float, float], seed: np.uint64, on: F32, out: F32
) -> None:
    """Give every pixel the fall of its reference in log intensity per us.

    leak_hz  rate of ON events, spread log-normally by 0.1 decade
    hot      share of hot pixels, whose rates are log-uniform from the second to the third, in Hz
    on       the pixels' ON thresholds
    """
    share, least_hz, most_hz = hot
    height, width = out.shape
    for y in range(height):
        for x in range(width):
            pixel = y * width + x
            rate_hz = leak_hz * 10.0 ** (_LEAK_DECADES * _normal(seed, _LEAK, pixel))
            if _uniform(seed, _HOT, pixel, 0) < share:
                rate_hz = least_hz * (most_hz / least_hz) ** _uniform(seed, _HOT_RATE, pixel, 0)
            out[y, x] = rate_hz * 1e-6 * on[y, x]


@_jit
def start_pixels(
    log_picture: F32,
    warp: F64,
    pixels: Pixels,
    random_phase: bool,
    effects: Effects,
    state: State,
) -> None:
    """Set what every pixel remembers at the start.

    The reference is the log intensity that the pixel sees, or, with random phase, anywhere around
    it within the thresholds; the photoreceptor has settled; the first noise event is drawn.
    """
    height, width = state.reference.shape
    for y in range(height):
        _sample_row(log_picture, warp, y, state.reference[y])
        for x in range(width):
            pixel = y * width + x
            if effects.bandwidth_hz > 0:
                state.filtered[y, x] = state.reference[y, x]
            if effects.refractory_us > 0:
                state.release[y, x] = 0.0
            if effects.shot_noise_hz > 0:
                state.arrivals[y, x] = 0
                state.arrival[y, x] = 0.0
                _next_arrival(pixel, y, x, effects, state)
            if random_phase:
                band = pixels.on[y, x] + pixels.off[y, x]
                phase = _uniform(effects.seed, _PHASE, pixel, 0) * band
                state.reference[y, x] += pixels.off[y, x] - phase


@_jit
def _next_arrival(pixel: int, y: int, x: int, effects: Effects, state: State) -> None:
    """Draw the wait for the next event of a Poisson process at the rate of a black pixel."""
    n = state.arrivals[y, x]
    wait_s = -np.log(_uniform(effects.seed, _WAIT, pixel, n)) / effects.shot_noise_hz
    state.arrival[y, x] += wait_s * 1e6
    state.arrivals[y, x] = n + 1


@_jit
def _filter_row(seen: F32, t_us: I64, bandwidth_hz: float, filtered: F32) -> None:
    """Pass a row (samples, W) through each pixel's photoreceptor, a low-pass of first order.

    Its cut-off frequency is proportional to the light, dark current included. Solved for light
    whose logarithm is linear in time between samples: with S(t) the integral of the speed over a
    step and z the whole of it,

        out' = now - (now - before) lag - (before - out) exp(-z),  lag = mean of exp(S(t) - z),

    to the first order in how much the speed changes within the step.
    """
    for x in range(seen.shape[1]):
        before, out = np.float64(seen[0, x]), np.float64(filtered[x])
        seen[0, x] = out
        for k in range(1, seen.shape[0]):
            now = np.float64(seen[k, x])
            light = np.exp(0.5 * (before + now))
            z = (
                _TAU
                * bandwidth_hz
                * (light + _DARK)
                / (1.0 + _DARK)
                * (t_us[k] - t_us[k - 1])
                * 1e-6
            )
            kept = np.exp(-z)
            change = (now - before) * light / (light + _DARK)
            if z > 0.01:
                lag = (1.0 - kept) / z
                first = (lag - kept) / z
                second = (2.0 * first - kept) / z
                lag -= 0.5 * z * change * (first - second)
            else:
                lag = 1.0 - z / 2.0 + z * z / 6.0 - z * change / 12.0
            seen[k, x] = now - (now - before) * lag + (out - before) * kept
            out = np.float64(seen[k, x])  # rounded as between two calls
            before = now
        filtered[x] = out


@_jit
def fire_events(
    log_picture: F32,
    path: tuple[F64, I64],
    pixels: Pixels,
    effects: Effects,
    state: State,
    last_us: int,
    events: Events,
) -> int:
    """Move the sensor through K + 1 time samples and write the events in (y, x, t) order.

    log_picture  float32, seen bilinearly; log intensity is linear in time between samples
    path         warps float64 (K + 1, 3, 3) and times int64 (K + 1,), whole microseconds
    state        read and updated
    last_us      no event is later: the last whole microsecond of the path
    events       columns x, y, t, p; t is the crossing time to the nearest whole microsecond

    Returns how many events there are; those beyond the columns' length are counted, not written.
    """
    warps, t_us = path
    on, off, leak = pixels
    reference, _, release, arrival, _ = state
    height, width = reference.shape
    samples, count = len(t_us), 0
    rests, noisy = effects.refractory_us > 0, effects.shot_noise_hz > 0
    seen = np.empty((samples, width), np.float32)
    low, high = np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(height):
        for k in range(samples):
            _sample_row(log_picture, warps[k], y, seen[k])
        if effects.bandwidth_hz > 0:
            _filter_row(seen, t_us, effects.bandwidth_hz, state.filtered[y])
        for k in range(samples if effects.leaks else 0):
            for x in range(width):
                seen[k, x] += leak[y, x] * np.float32(t_us[k])
        low[:] = seen[1]
        high[:] = seen[1]
        for k in range(2, samples):
            for x in range(width):
                low[x] = min(low[x], seen[k, x])
                high[x] = max(high[x], seen[k, x])
        for x in range(width):
            ref = reference[y, x]
            calm = high[x] < ref + on[y, x] and low[x] > ref - off[y, x]
            if noisy:
                calm = calm and arrival[y, x] >= t_us[-1]
            if rests:
                calm = calm and release[y, x] <= t_us[0]
            if not calm:
                count = _fire_pixel(
                    seen[:, x], t_us, y, x, pixels, effects, state, last_us, events, count
                )
    return count


@_jit_into
def _fire_pixel(
    seen: F32,
    t_us: I64,
    y: int,
    x: int,
    pixels: Pixels,
    effects: Effects,
    state: State,
    last_us: int,
    events: Events,
    count: int,
) -> int:
    """Write one pixel's events; return how many there are with them.

    The pixel fires ON when what it sees reaches reference + ON, and the reference becomes that;
    likewise OFF. The comparison is with the pixel's own reference alone. After any event it rests
    for the refractory period, at the end of which the reference is what it sees then. Noise events
    come as a Poisson process, thinned by the light; each sets the reference to what is seen.
    """
    on, off, ref = pixels.on[y, x], pixels.off[y, x], state.reference[y, x]
    rests, noisy = effects.refractory_us > 0, effects.shot_noise_hz > 0
    pixel = y * state.reference.shape[1] + x
    for k in range(1, len(t_us)):
        before, now = seen[k - 1], seen[k]
        calm = ref - off < now < ref + on
        if noisy:
            calm = calm and state.arrival[y, x] >= t_us[k]
        if rests:
            calm = calm and state.release[y, x] <= t_us[k - 1]
        if calm:
            continue
        start, length = float(t_us[k - 1]), float(t_us[k] - t_us[k - 1])
        rise, moment = np.float64(now) - np.float64(before), start
        if rests and state.release[y, x] > start:
            moment = state.release[y, x]
            if moment >= start + length:
                continue
            ref = np.float32(before + rise * ((moment - start) / length))
        while True:
            crossing, polarity = np.inf, -1
            if now >= ref + on:
                polarity = 1
            elif now <= ref - off:
                polarity = 0
            if polarity >= 0:
                level = ref + on if polarity == 1 else ref - off
                share = (np.float64(level) - before) / rise if rise != 0.0 else 0.0
                crossing = max(start + float(share) * length, moment)
            if noisy:
                stop = min(crossing, start + length)
                while state.arrival[y, x] < stop:
                    came, n = state.arrival[y, x], state.arrivals[y, x] - 1
                    _next_arrival(pixel, y, x, effects, state)
                    value = np.float32(before + rise * ((came - start) / length))
                    light = min(np.exp(value - pixels.leak[y, x] * came), 1.0)
                    likely = 1.0 - 0.75 * light
                    if came >= moment and _uniform(effects.seed, _ACCEPT, pixel, n) < likely:
                        polarity = 1 if _uniform(effects.seed, _POLARITY, pixel, n) < 0.5 else 0
                        crossing, level = came, value
                        break
            if polarity < 0:
                break
            ref, moment = level, crossing
            if count < len(events[2]):
                events[0][count], events[1][count] = x, y
                events[2][count] = min(int(crossing + 0.5), last_us)
                events[3][count] = polarity
            count += 1
            if rests:
                moment = crossing + effects.refractory_us
                state.release[y, x] = moment
                if moment >= start + length:
                    break
                ref = np.float32(before + rise * ((moment - start) / length))
    state.reference[y, x] = ref
    return count


@_jit
def read_rows(events: Events, row_us: float, rows: int, read_at: F64) -> None:
    """Set when an arbiter reads each event, in us: rows one by one, all that wait in one at once.

    events  sorted by (t, y, x); rows are served in the order of their first waiting event, each
            for `row_us`, and what comes in a row while it is served waits for its next turn
    """
    _, y, t, _ = events
    count = len(t)
    waiting, queue = np.zeros(rows, np.bool_), np.empty(rows, np.int64)
    first, last = np.full(rows, -1, np.int64), np.full(rows, -1, np.int64)  # of each row's events
    follows = np.full(count, -1, np.int64)
    head, length, n, free = 0, 0, 0, 0.0
    while n < count or length > 0:
        if length == 0:
            free = max(free, np.float64(t[n]))
        while n < count and t[n] <= free:
            row = y[n]
            if waiting[row]:
                follows[last[row]] = n
            else:
                waiting[row], first[row] = True, n
                queue[(head + length) % rows] = row
                length += 1
            last[row] = n
            n += 1
        row = queue[head]
        head, length = (head + 1) % rows, length - 1
        free += row_us
        member = first[row]
        while member >= 0:
            read_at[member] = free
            member = follows[member]
        waiting[row] = False


@_jit
def sort_by_time(events: Events, count: int, start_us: int, stop_us: int) -> Events:
    """Return the first `count` events stably sorted by t, all in [start_us, stop_us) microseconds.

    A counting sort: events in (y, x, t) order come out in (t, y, x) order.
    """
    x, y, t, p = events
    place = np.zeros(stop_us - start_us + 1, np.int64)
    for n in range(count):
        place[t[n] - start_us + 1] += 1
    for m in range(1, len(place)):
        place[m] += place[m - 1]
    out_x, out_y = np.empty(count, np.uint16), np.empty(count, np.uint16)
    out_t, out_p = np.empty(count, np.int64), np.empty(count, np.uint8)
    for n in range(count):
        to = place[t[n] - start_us]
        place[t[n] - start_us] += 1
        out_x[to], out_y[to], out_t[to], out_p[to] = x[n], y[n], t[n], p[n]
    return out_x, out_y, out_t, out_p


def compile_kernels() -> None:
    """Compile every kernel, or load it from the cache, by running each on a tiny scene."""
    rgb, weights = np.zeros((4, 5, 3), np.uint8), np.zeros((3, 256), np.float32)
    weigh_channels(rgb[:, :4], weights)  # a crop is another type to the compiler
    scene = weigh_channels(rgb, weights)
    warps, t_us, seed = np.stack([np.eye(3), np.eye(3)]), np.array([0, 1]), np.uint64(0)
    on, off, leak, reference, filtered = (np.empty((2, 2), np.float32) for _ in range(5))
    release, arrival, arrivals = np.empty((2, 2)), np.empty((2, 2)), np.empty((2, 2), np.int64)
    pixels, state = Pixels(on, off, leak), State(reference, filtered, release, arrival, arrivals)
    effects = Effects(1.0, 1.0, 1.0, True, seed)
    spread_thresholds(1.0, 0.1, ON, seed, pixels.on)
    spread_leaks(1.0, (0.1, 1.0, 2.0), seed, pixels.on, pixels.leak)
    start_pixels(scene, warps[0], pixels, True, effects, state)
    coordinates, t, p = np.empty(1, np.uint16), np.empty(1, np.int64), np.empty(1, np.uint8)
    room = (coordinates, coordinates.copy(), t, p)
    fire_events(scene, (warps, t_us), pixels, effects, state, 0, room)
    columns = sort_by_time(room, 0, 0, 1)
    read_rows(columns, 1.0, 2, np.empty(0))
