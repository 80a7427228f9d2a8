"""The kernels that fire events: arrays in, arrays out; no configuration, no I/O.

Each has a slow twin in `tests/reference.py` that shares no code with it.

The work goes row by row, and in a row from time sample to time sample: look the row up in the
picture, let photoreceptor and leak pass, mark the pixels where something happens, bring these side
by side, and follow them alone. Nearly all of it takes many pixels in one instruction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ezsr_synth.jit import jit, jit_into
from ezsr_synth.rows import sample_row
from ezsr_synth.vector import (
    LANES,
    PACKS,
    count_lanes,
    list_marked,
    pack_lanes,
    peek_crossing,
    peek_pixel,
    peek_rest,
    poke_crossing,
    poke_event,
    poke_rest,
    read_lanes,
)

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]

COMPILED_IN = "c1645afe7063a691"
"""Of `jit.py`, `lookup.py`, `rows.py` and `vector.py`, compiled into these kernels: Numba's cache
sees changes of this file alone, and a test sees to it that this changes with them."""

T_SHIFT, Y_SHIFT, X_SHIFT = 27, 14, 1
"""An event is one word: t (us), y, x, p from the highest bit to the lowest, so that words in order
are events in order of (t, y, x), OFF before ON where all are equal. Sides have at most 2^13 px."""

_TAU = 2.0 * np.pi
_DARK = np.float32(20.0 / 255.0)
"""Light, as a share of white, at which a photoreceptor is at half of its lowest speed: its dark
current, in v2e's words the 20 of 255 digital numbers that are added to the intensity."""

_ZERO, _HALF, _ONE, _TWO = (np.float32(n) for n in (0.0, 0.5, 1.0, 2.0))
_STILL = np.float32(1e-3)

# What a draw of chance is for: part of its name, besides sample, pixel and number.
OFF, ON, _PHASE, _LEAK, _HOT, _HOT_RATE, _WAIT, _ACCEPT, _POLARITY = range(9)
_LEAK_DECADES = 0.1  # spread of leak rates over pixels, as in v2e
_LEAST_THRESHOLD = np.float32(0.01)


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
    """What pixels remember between two time samples, (H, W) each; an unused one may be empty.

    reference  float32, log intensity of the last event
    seen       float32, what was last compared with it
    light      float32, log intensity that last reached the photoreceptor
    filtered   float32, what the photoreceptor made of it
    release    float64, us: when the pixel rests no longer; negative before its first event
    arrival    float64, us: when its next noise event comes
    arrivals   int64, how many noise events were drawn
    """

    reference: F32
    seen: F32
    light: F32
    filtered: F32
    release: F64
    arrival: F64
    arrivals: I64


class Step(NamedTuple):
    """A time step of a row, in us; no event in it is later than `end_us`.

    k         its number in the block
    y, first  the row, and the place of its first pixel among all
    """

    k: int
    y: int
    first: int
    start_us: int
    stop_us: int
    end_us: int


class Columns(NamedTuple):
    """What firing needs of pixels: of a row one by one, or of some, side by side.

    x              int32
    before, now    float32, what is seen at a time step's start, and at its end
    reference      float32
    on, off        float32, thresholds
    """

    x: I32
    before: F32
    now: F32
    reference: F32
    on: F32
    off: F32


class Scratch(NamedTuple):
    """Room for the work on one row, made by `make_scratch`.

    places        int32, 0, 1, 2 and so on
    marks, again  uint8, 1 where a pixel fires, for the first time or anew; a multiple of LANES long
    listed        int32, the places of marks
    active        of the pixels that fire
    levels        float32, references after an event
    passed        float64, when it comes, us from the step's start
    ends          float64, us, when the rest after it ends
    rows          float32, three rows of values half done
    seen          float32, what is seen at the step's start, and at its end
    resting       int32, the places of the first `rest_count[0]` pixels that rest, in any order
    noisy         int32, the places of the first `noisy_count[0]` pixels where noise comes
    """

    places: I32
    marks: U8
    again: U8
    listed: I32
    active: Columns
    levels: F32
    passed: F64
    ends: F64
    rows: tuple[F32, F32, F32]
    seen: tuple[F32, F32]
    resting: I32
    rest_count: I64
    noisy: I32
    noisy_count: I64


def make_scratch(width: int) -> Scratch:
    """Return room for the work on rows of a width."""
    whole = (width + LANES - 1) // LANES * LANES
    marks, again = np.zeros((2, whole), np.uint8)
    x, listed, resting, noisy = np.zeros((4, whole + LANES), np.int32)
    before, now, *rows = np.zeros((5, whole), np.float32)
    levels, *columns = np.zeros((6, whole + LANES), np.float32)
    passed, ends = np.zeros((2, whole))
    rest_count, noisy_count = np.zeros((2, 1), np.int64)
    return Scratch(
        places=np.arange(width, dtype=np.int32),
        marks=marks,
        again=again,
        listed=listed,
        active=Columns(x, *columns),
        levels=levels,
        passed=passed,
        ends=ends,
        rows=(rows[0], rows[1], rows[2]),
        seen=(before[:width], now[:width]),
        resting=resting,
        rest_count=rest_count,
        noisy=noisy,
        noisy_count=noisy_count,
    )


@jit_into
def _exp_parts(x: np.float32) -> tuple[np.float32, np.float32]:
    """Return s and q of e^x = s (1 + q), |x| < 87: s = 2^n, and q = 2^f - 1 with |f| <= 1/2.

    Without a branch, and without loss where e^x is near 1. The polynomial is Taylor's of 2^f, which
    ends below float32's rounding.
    """
    exponent = x * np.float32(1.44269504)
    n = np.floor(exponent + _HALF)
    f = exponent - n
    q = f * np.float32(1.54035304e-04) + np.float32(1.33335581e-03)
    q = q * f + np.float32(9.61812911e-03)
    q = q * f + np.float32(5.55041087e-02)
    q = q * f + np.float32(2.40226507e-01)
    q = q * f + np.float32(6.93147181e-01)
    scale = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return scale, q * f


@jit_into
def _exp(x: np.float32) -> np.float32:
    scale, rest = _exp_parts(x)
    return np.float32(scale + scale * rest)


@jit_into
def _mix(h: np.uint64) -> np.uint64:
    """Scramble 64 bits (the finaliser of SplitMix64, Steele et al. 2014)."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@jit_into
def _draw(seed: np.uint64, purpose: int, pixel: int, n: int) -> np.uint64:
    """Return 64 bits, the n-th draw of a purpose and pixel: a hash, so no order matters."""
    h = _mix(seed + np.uint64(purpose + 1) * np.uint64(0x9E3779B97F4A7C15))
    h = _mix(h + np.uint64(pixel) * np.uint64(0x9E3779B97F4A7C15))
    return _mix(h + np.uint64(n) * np.uint64(0x9E3779B97F4A7C15))


@jit_into
def _uniform(seed: np.uint64, purpose: int, pixel: int, n: int) -> float:
    """Return a draw as a number in (0, 1)."""
    return (np.float64(_draw(seed, purpose, pixel, n) >> np.uint64(11)) + 0.5) * 2.0**-53


@jit_into
def _normal(seed: np.uint64, purpose: int, pixel: int) -> np.float32:
    """Return a draw of mean 0 and variance 1, normal to within 0.2% of its distribution.

    The sum of twelve uniform draws less 6 (Irwin 1927, Hall 1927): unlike a logarithm it is
    made of whole numbers alone. Nothing is farther out than 6.
    """
    total = np.uint64(0)
    low = np.uint64(0xFFFF)
    for n in range(3):
        h = _draw(seed, purpose, pixel, n)
        total += (h & low) + ((h >> np.uint64(16)) & low)
        total += ((h >> np.uint64(32)) & low) + (h >> np.uint64(48))
    return np.float32(np.int32(np.int64(total)) - np.int32(6 * 65536 - 6)) * np.float32(2.0**-16)


@jit
def spread_thresholds(
    threshold: float, mismatch: float, polarity: int, seed: np.uint64, out: F32
) -> None:
    """Give every pixel its threshold, spread normally by `mismatch` times the threshold."""
    height, width = out.shape
    nominal, spread = np.float32(threshold), np.float32(threshold * mismatch)
    for y in range(height):
        for x in range(width):
            own = nominal
            if mismatch > 0:
                own = nominal + spread * _normal(seed, polarity, y * width + x)
            out[y, x] = max(own, _LEAST_THRESHOLD)


@jit
def spread_leaks(
    leak_hz: float,
    hot: tuple[float, float, float],
    seed: np.uint64,
    on: F32,
    scratch: Scratch,
    out: F32,
) -> None:
    """Give every pixel the fall of its reference in log intensity per us.

    leak_hz  rate of ON events, spread log-normally by 0.1 decade
    hot      share of hot pixels, whose rates are log-uniform from the second to the third, in Hz
    on       the pixels' ON thresholds
    """
    share, least_hz, most_hz = hot
    height, width = out.shape
    nominal, decades = np.float32(leak_hz * 1e-6), np.float32(_LEAK_DECADES * np.log(10.0))
    marks, listed = scratch.marks, scratch.listed
    for y in range(height):
        for x in range(width):
            spread = _exp(decades * _normal(seed, _LEAK, y * width + x))
            out[y, x] = nominal * spread * on[y, x]
        for x in range(width if share > 0 else 0):
            marks[x] = _uniform(seed, _HOT, y * width + x, 0) < share
        for n in range(list_marked(marks, listed)):
            x = listed[n]
            chance = _uniform(seed, _HOT_RATE, y * width + x, 0)
            rate_hz = least_hz * (most_hz / least_hz) ** chance
            out[y, x] = np.float32(rate_hz * 1e-6) * on[y, x]


@jit
def start_pixels(
    log_picture: F32,
    path: tuple[F64, I64],
    pixels: Pixels,
    random_phase: bool,
    effects: Effects,
    scratch: Scratch,
    state: State,
) -> None:
    """Set what every pixel remembers at the start of the path.

    The reference is the log intensity that the pixel sees, or, with random phase, anywhere around
    it within the thresholds; the photoreceptor has settled; the first noise event is drawn.
    """
    warps, t_us = path
    height, width = state.reference.shape
    filters, noisy = effects.bandwidth_hz > 0, effects.shot_noise_hz > 0
    never = np.exp(-effects.shot_noise_hz * 1e-6 * t_us[-1])
    marks, listed = scratch.marks, scratch.listed
    for y in range(height):
        seen = state.seen[y]
        sample_row(log_picture, warps[0], y, seen)
        for x in range(width):  # slices would take Numba a second to compile
            state.reference[y, x] = seen[x]
        for x in range(width if filters else 0):
            state.light[y, x] = seen[x]
            state.filtered[y, x] = seen[x]
        for x in range(width if effects.refractory_us > 0 else 0):
            state.release[y, x] = -1.0
        if noisy:
            for x in range(width):  # it comes when all is over, but where it comes in time
                state.arrival[y, x], state.arrivals[y, x] = np.inf, 1
                marks[x] = _uniform(effects.seed, _WAIT, y * width + x, 0) > never
            for n in range(list_marked(marks, listed)):
                pixel = y * width + listed[n]
                state.arrival[y, listed[n]] = _wait_us(pixel, 0, effects)
        for x in range(width if random_phase else 0):
            on, off, now = pixels.on[y, x], pixels.off[y, x], seen[x]
            share = np.float32(_uniform(effects.seed, _PHASE, y * width + x, 0))
            reference = now + (off - share * (on + off))
            inside = (reference - off < now) & (now < reference + on)
            state.reference[y, x] = reference if inside else now  # rounded onto a level


@jit
def _wait_us(pixel: int, number: int, effects: Effects) -> float:
    """Draw the wait for the next event of a Poisson process at the rate of a black pixel."""
    chance = _uniform(effects.seed, _WAIT, pixel, number)
    return float(-np.log(chance) / effects.shot_noise_hz * 1e6)


@jit_into
def filter_row(
    radians: float, light: F32, filtered: F32, y: int, row: F32, room: tuple[F32, F32, F32]
) -> None:
    """Pass a row through each pixel's photoreceptor, a low-pass of first order, for one time step.

    radians   how far a white pixel's cut-off frequency turns in the step: 2 pi f T
    light     log intensity before the step, in row y; becomes that of now
    filtered  what the photoreceptor gave before the step, in row y; becomes what it gives now
    row       log intensity now; becomes what the photoreceptor gives now
    room      three rows for what is half done: in one loop, each pixel would wait for itself

    The cut-off frequency is proportional to the light, dark current included. Solved for light
    whose logarithm is linear in time: with S(t) the integral of the speed and z the whole of it,

        out' = now - (now - before) lag - (before - out) exp(-z),  lag = mean of exp(S(t) - z),

    to the first order in how much the speed changes within the step.
    """
    white = np.float32(radians) / (_ONE + _DARK)
    turned, scales, rests = room
    for x in range(row.shape[0]):
        turned[x] = white * (_exp(_HALF * (light[y, x] + row[x])) + _DARK)
    for x in range(row.shape[0]):
        scales[x], rests[x] = _exp_parts(-min(turned[x], np.float32(80.0)))
    for x in range(row.shape[0]):
        before, out, now, z = light[y, x], filtered[y, x], row[x], turned[x]
        scale, rest = scales[x], rests[x]
        kept, inverse = scale + scale * rest, _ONE / z
        lag = ((_ONE - scale) - scale * rest) * inverse
        first = (lag - kept) * inverse
        second = (_TWO * first - kept) * inverse
        change = _HALF * (now - before) * (z - white * _DARK)
        change = change if z > _STILL else _ZERO  # too little to matter, and all rounding
        lag -= change * (first - second)
        row[x] = now - (now - before) * lag + (out - before) * kept
        filtered[y, x] = row[x]
        light[y, x] = now


@jit
def fire_events(
    log_picture: F32,
    path: tuple[F64, I64],
    pixels: Pixels,
    effects: Effects,
    states: tuple[State, State],
    scratch: Scratch,
    last_us: int,
    words: U64,
    counts: I64,
) -> None:
    """Move the sensor through K + 1 time samples and write the events, as words.

    log_picture  float32, seen bilinearly; log intensity is linear in time between samples
    path         warps float64 (K + 1, 3, 3) and times int64 (K + 1,), whole microseconds
    states       at the first time sample, which is read, and at the last, which is written
    last_us      no event is later: the last whole microsecond of the path
    words        (K, N), room for N events of each time step; t is the crossing time to the nearest
                 whole microsecond; in order of row, but in no order within
    counts       int64 (K,): how many events each step has; those beyond N are not written
    """
    warps, t_us = path
    begun, state = states
    height, width = state.reference.shape
    rests, noisy = effects.refractory_us > 0, effects.shot_noise_hz > 0
    before, now = scratch.seen
    marks = scratch.marks
    for k in range(len(counts)):
        counts[k] = 0
    for y in range(height):
        _copy_row(begun, state, effects, y, before)
        if rests:
            _list_resting(t_us[0], y, state.release, scratch)
        if noisy:
            _list_noisy(t_us[-1], y, state.arrival, scratch)
        for k in range(len(counts)):
            start_us, stop_us, count = t_us[k], t_us[k + 1], counts[k]
            step = Step(k, y, y * width, start_us, stop_us, min(stop_us, last_us))
            sample_row(log_picture, warps[k + 1], y, now)
            if effects.bandwidth_hz > 0:
                _filter_row(effects.bandwidth_hz, step, state, scratch, now)
            if effects.leaks:
                _leak_row(pixels.leak, step, now)
            if rests:
                _end_rests(before, now, step, state, scratch)
            _mark_crossings(now, step, pixels, state, marks)
            if rests:
                _unmark_resting(marks, scratch)
            if noisy:
                active = _list_arrivals(step, state, marks, scratch)
                if active:
                    count = _fire_noisy(
                        *(active, before, now, step, pixels, effects, state, scratch, words, count)
                    )
            columns = Columns(
                *(scratch.places, before, now, state.reference[y], pixels.on[y], pixels.off[y])
            )
            chosen, among = marks, width
            while True:  # each pixel's first event, then the next of those that fire again
                active = _pack_marked(chosen, among, columns, scratch)
                if not active:
                    break
                columns = _fire_once(active, step, effects, state, scratch, words, count)
                chosen, among = scratch.again, (active + LANES - 1) // LANES * LANES
                count += active
            counts[k] = count
            before, now = now, before
        for x in range(width):
            state.seen[y, x] = before[x]


@jit_into
def _copy_row(begun: State, state: State, effects: Effects, y: int, seen: F32) -> None:
    for x in range(seen.shape[0]):
        seen[x] = begun.seen[y, x]
        state.reference[y, x] = begun.reference[y, x]
        if effects.bandwidth_hz > 0:
            state.light[y, x] = begun.light[y, x]
            state.filtered[y, x] = begun.filtered[y, x]
        if effects.refractory_us > 0:
            state.release[y, x] = begun.release[y, x]
        if effects.shot_noise_hz > 0:
            state.arrival[y, x] = begun.arrival[y, x]
            state.arrivals[y, x] = begun.arrivals[y, x]


@jit_into
def _filter_row(bandwidth_hz: float, step: Step, state: State, scratch: Scratch, row: F32) -> None:
    radians = _TAU * bandwidth_hz * 1e-6 * (step.stop_us - step.start_us)
    filter_row(radians, state.light, state.filtered, step.y, row, scratch.rows)


@jit_into
def _leak_row(leak: F32, step: Step, row: F32) -> None:
    """Let the reference fall, by raising what is compared with it.

    In float32, which is 0.7% of the rate of a pixel that leaks 10,000 events a second for a minute.
    """
    passed = np.float32(step.stop_us)
    for x in range(row.shape[0]):
        row[x] += leak[step.y, x] * passed


@jit_into
def _list_resting(start_us: int, y: int, release: F64, scratch: Scratch) -> None:
    """List the pixels of a row that rest at a time sample."""
    for x in range(release.shape[1]):
        scratch.again[x] = release[y, x] >= start_us
    scratch.rest_count[0] = list_marked(scratch.again, scratch.resting)


@jit_into
def _list_noisy(stop_us: int, y: int, arrival: F64, scratch: Scratch) -> None:
    """List the pixels of a row where noise comes before the last time sample: mostly few."""
    for x in range(arrival.shape[1]):
        scratch.again[x] = arrival[y, x] < stop_us
    scratch.noisy_count[0] = list_marked(scratch.again, scratch.noisy)


@jit_into
def _end_rests(before: F32, now: F32, step: Step, state: State, scratch: Scratch) -> None:
    """Where a rest ends in this time step, let the reference be what is seen then."""
    start, stop, y = float(step.start_us), float(step.stop_us), step.y
    per_us, resting, left = 1.0 / (stop - start), scratch.resting, 0
    for n in range(scratch.rest_count[0]):
        x = resting[n]
        release = state.release[y, x]
        if release < stop:
            passed = np.float32((release - start) * per_us)
            state.reference[y, x] = before[x] + (now[x] - before[x]) * passed
        else:
            resting[left] = x
            left += 1
    scratch.rest_count[0] = left


@jit_into
def _mark_crossings(now: F32, step: Step, pixels: Pixels, state: State, marks: U8) -> None:
    """Mark with 1 the pixels that see a level reached, with 0 the others."""
    y = step.y
    for x in range(now.shape[0]):
        ref = state.reference[y, x]
        higher = now[x] >= ref + pixels.on[y, x]
        marks[x] = higher | (now[x] <= ref - pixels.off[y, x])


@jit_into
def _unmark_resting(marks: U8, scratch: Scratch) -> None:
    for n in range(scratch.rest_count[0]):
        marks[scratch.resting[n]] = 0


@jit_into
def _list_arrivals(step: Step, state: State, marks: U8, scratch: Scratch) -> int:
    """List the pixels where noise comes before the end of this step; take them off `marks`."""
    listed, count = scratch.listed, 0
    for n in range(scratch.noisy_count[0]):
        x = scratch.noisy[n]
        if state.arrival[step.y, x] < step.stop_us:
            listed[count], marks[x] = x, 0
            count += 1
    return count


@jit_into
def _pack_marked(marks: U8, width: int, source: Columns, scratch: Scratch) -> int:
    """Bring the marked of the first `width` pixels side by side; return how many there are.

    Side by side, they are read at once: to gather them one by one takes a CPU several times as
    long. `source` may be what is written.
    """
    count, packed, listed = 0, scratch.active, scratch.listed
    whole = width // LANES * LANES if PACKS else 0
    for first in range(0, whole, LANES):
        lanes = read_lanes(marks, first)
        if lanes == 0:
            continue
        pack_lanes(source.x, first, lanes, packed.x, count)
        pack_lanes(source.before, first, lanes, packed.before, count)
        pack_lanes(source.now, first, lanes, packed.now, count)
        pack_lanes(source.reference, first, lanes, packed.reference, count)
        pack_lanes(source.on, first, lanes, packed.on, count)
        pack_lanes(source.off, first, lanes, packed.off, count)
        count += count_lanes(lanes)
    active = count
    for n in range(whole, width):
        listed[active] = n
        active += int(marks[n])
    for n in range(count, active):
        at = listed[n]
        packed.x[n], packed.before[n], packed.now[n] = (
            source.x[at],
            source.before[at],
            source.now[at],
        )
        packed.reference[n] = source.reference[at]
        packed.on[n], packed.off[n] = source.on[at], source.off[at]
    return active


@jit_into
def _fire_once(
    active: int,
    step: Step,
    effects: Effects,
    state: State,
    scratch: Scratch,
    words: U64,
    count: int,
) -> Columns:
    """Write each active pixel's next event, after `count` of the step; tell which fire `again`.

    Returns what these need for it.

    A pixel fires ON when what it sees reaches reference + ON, and the reference becomes that;
    likewise OFF. The comparison is with the pixel's own reference alone. After the event it rests
    for the refractory period, at the end of which the reference is what it sees then.
    """
    length = float(step.stop_us - step.start_us)
    pixels, again, levels, passed = scratch.active, scratch.again, scratch.levels, scratch.passed
    whole = (active + LANES - 1) // LANES * LANES
    for n in range(whole):
        ref, seen = peek_pixel(pixels.reference, 0, n), peek_pixel(pixels.now, 0, n)
        then = np.float64(peek_pixel(pixels.before, 0, n))
        rise, fall = peek_pixel(pixels.on, 0, n), peek_pixel(pixels.off, 0, n)
        level = ref + rise if seen > ref else ref - fall
        change = np.float64(seen) - then
        share = (np.float64(level) - then) / (change if change != 0.0 else 1.0)
        poke_crossing(passed, 0, n, min(max(share * length, 0.0), length))
        poke_crossing(levels, 0, n, level)
    if effects.refractory_us > 0:
        _rest_all(active, step, effects.refractory_us, state.release, scratch)
    for n in range(whole):
        ref, seen = peek_crossing(pixels.reference, 0, n), peek_crossing(pixels.now, 0, n)
        level, up = peek_crossing(levels, 0, n), seen > ref
        higher = seen >= level + peek_crossing(pixels.on, 0, n)
        lower = seen <= level - peek_crossing(pixels.off, 0, n)
        crosses = (up & higher) | ((not up) & lower)
        poke_event(again, 0, n, np.uint8(crosses & (np.int32(n) < np.int32(active))))
    if effects.refractory_us > 0:
        for n in range(active):
            again[n] &= passed[n] + effects.refractory_us < length
    if count + active <= words.shape[1]:
        _write_words(active, step, scratch, words, step.k * words.shape[1] + count)
    for n in range(active):
        x = peek_crossing(pixels.x, 0, n)
        poke_event(state.reference, step.first, x, peek_crossing(levels, 0, n))
    return Columns(pixels.x, pixels.before, pixels.now, levels, pixels.on, pixels.off)


@jit_into
def _write_words(active: int, step: Step, scratch: Scratch, words: U64, free: int) -> None:
    """Write an event of each active pixel."""
    pixels, passed = scratch.active, scratch.passed
    place = np.uint64(step.y << Y_SHIFT) + (np.uint64(step.start_us) << np.uint64(T_SHIFT))
    latest = float(step.end_us - step.start_us)
    for n in range(active):
        x = peek_crossing(pixels.x, 0, n)
        up = peek_crossing(pixels.now, 0, n) > peek_crossing(pixels.reference, 0, n)
        t = np.uint64(np.int32(min(peek_crossing(passed, 0, n) + 0.5, latest)))
        word = t << np.uint64(T_SHIFT) | np.uint64(x) << np.uint64(X_SHIFT) | np.uint64(up)
        poke_event(words, free, n, place + word)


@jit_into
def _rest_all(active: int, step: Step, rest_us: float, release: F64, scratch: Scratch) -> None:
    """Let each active pixel fire no sooner than its rest ends, and rest from then on."""
    y, start, stop = step.y, float(step.start_us), float(step.stop_us)
    length, resting, count = stop - start, scratch.resting, scratch.rest_count[0]
    pixels, levels, passed, ends = scratch.active, scratch.levels, scratch.passed, scratch.ends
    for n in range(active):
        passed[n] = max(passed[n], release[y, pixels.x[n]] - start)
    for n in range(active):
        then = np.float64(peek_rest(pixels.before, 0, n))
        change = np.float64(peek_rest(pixels.now, 0, n)) - then
        rested = peek_rest(passed, 0, n) + rest_us
        poke_rest(levels, 0, n, np.float32(then + change * (min(rested, length) / length)))
        poke_rest(ends, 0, n, start + rested)
    for n in range(active):  # without a branch, as nobody can guess which rest for longer
        x = pixels.x[n]
        release[y, x] = ends[n]
        resting[count] = x
        count += int(ends[n] >= stop)
    scratch.rest_count[0] = count


@jit_into
def _rest(step: Step, x: int, until_us: float, release: F64, scratch: Scratch) -> None:
    release[step.y, x] = until_us
    if until_us >= step.stop_us:
        scratch.resting[scratch.rest_count[0]] = x
        scratch.rest_count[0] += 1


@jit
def _fire_noisy(
    active: int,
    before: F32,
    now: F32,
    step: Step,
    pixels: Pixels,
    effects: Effects,
    state: State,
    scratch: Scratch,
    words: U64,
    count: int,
) -> int:
    """Write all events of each listed pixel, in which noise comes; return how many there are then.

    Noise events come as a Poisson process at the rate of a black pixel, and are thinned by the
    light; each sets the reference to what is seen.
    """
    y, reference, release, listed = step.y, state.reference, state.release, scratch.listed
    arrival, arrivals = state.arrival, state.arrivals
    start, stop, rests = float(step.start_us), float(step.stop_us), effects.refractory_us > 0
    for n in range(active):
        x = listed[n]
        pixel, on, off = step.first + x, pixels.on[y, x], pixels.off[y, x]
        ref, then, moment = reference[y, x], np.float64(before[x]), start
        change = np.float64(now[x]) - then
        if rests:
            moment = max(moment, release[y, x])
        while moment < stop:
            crossing, polarity, level = np.inf, -1, ref
            if now[x] >= ref + on:
                polarity, level = 1, ref + on
            elif now[x] <= ref - off:
                polarity, level = 0, ref - off
            if polarity >= 0:
                share = (np.float64(level) - then) / change if change != 0.0 else 0.0
                crossing = min(max(start + share * (stop - start), moment), stop)
            while arrival[y, x] < min(crossing, stop):
                came, number = arrival[y, x], arrivals[y, x] - 1
                arrival[y, x] = came + _wait_us(pixel, number + 1, effects)
                arrivals[y, x] = number + 2
                value = np.float32(then + change * ((came - start) / (stop - start)))
                light = min(np.exp(value - pixels.leak[y, x] * came), 1.0)
                chance = _uniform(effects.seed, _ACCEPT, pixel, number)
                if came >= moment and chance < 1.0 - 0.75 * light:
                    coin = _uniform(effects.seed, _POLARITY, pixel, number)
                    polarity, crossing, level = int(coin < 0.5), came, value
                    break
            if polarity < 0:
                break
            ref, moment = level, crossing
            if count < words.shape[1]:
                t = np.uint64(min(int(crossing + 0.5), step.end_us))
                place = np.uint64(y << Y_SHIFT | x << X_SHIFT | polarity)
                words[step.k, count] = t << np.uint64(T_SHIFT) | place
            count += 1
            if rests:
                moment = crossing + effects.refractory_us
                _rest(step, x, moment, release, scratch)
                if moment < stop:
                    ref = np.float32(then + change * ((moment - start) / (stop - start)))
        reference[y, x] = ref
    return count


def _tiny_state() -> State:
    reference, seen, light, filtered, release = (np.zeros((2, 2), np.float32) for _ in range(5))
    never, none = np.full((2, 2), np.inf), np.zeros((2, 2), np.int64)
    return State(reference, seen, light, filtered, release.astype(np.float64), never, none)


def _tiny_work() -> tuple[F32, tuple[F64, I64], Pixels, Effects]:
    scene, path = np.zeros((4, 5), np.float32), (np.stack([np.eye(3), np.eye(3)]), np.array([0, 1]))
    pixels = Pixels(*(np.ones((2, 2), np.float32) for _ in range(3)))
    return scene, path, pixels, Effects(1.0, 1.0, 1.0, True, np.uint64(0))


def compile_start() -> None:
    """Compile, or load from the cache, the kernels that make pixels what they are at the start."""
    scene, path, pixels, effects = _tiny_work()
    spread_thresholds(1.0, 0.1, ON, effects.seed, pixels.on)
    spread_leaks(1.0, (0.1, 1.0, 2.0), effects.seed, pixels.on, make_scratch(2), pixels.leak)
    start_pixels(scene, path, pixels, True, effects, make_scratch(2), _tiny_state())


def compile_firing() -> None:
    """Compile, or load from the cache, the kernel that fires, as long a work as all the others."""
    scene, path, pixels, effects = _tiny_work()
    words, counts = np.empty((1, 1), np.uint64), np.empty(1, np.int64)
    states = _tiny_state(), _tiny_state()
    fire_events(scene, path, pixels, effects, states, make_scratch(2), 0, words, counts)


def compile_kernels() -> None:
    """Compile every kernel of this file, or load it from the cache."""
    compile_start()
    compile_firing()
