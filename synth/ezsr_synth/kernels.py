"""The kernels that fire events: arrays in, arrays out; no configuration, no I/O.

Each has a slow twin in `tests/reference.py` that shares no code with it.

The work goes row by row, and in a row from time sample to time sample: look the row up in the
picture, let photoreceptor and leak pass, mark the pixels where something happens, bring these side
by side, and follow them alone. Nearly all of it takes many pixels in one instruction.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ezsr_synth.chance import normal, uniform
from ezsr_synth.jit import jit, jit_into
from ezsr_synth.lanes import (
    LANES,
    choose,
    count_bits,
    least,
    list_marked,
    load,
    most,
    number_lanes,
    spread,
    store,
    store_marked,
    to_bits,
    to_doubles,
    to_floats,
    to_longs,
    to_words,
)
from ezsr_synth.photoreceptor import exp, filter_row
from ezsr_synth.rows import sample_row

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]

COMPILED_IN = "55cebc5219bd856a"
"""Of the files that are compiled in, `chance.py`, `jit.py`, `lanes.py`, `lookup.py`,
`photoreceptor.py`, `rows.py` and `vector.py`: Numba's cache sees changes of this file alone, and a
test sees to it that this changes with them."""

T_SHIFT, Y_SHIFT, X_SHIFT = 27, 14, 1
"""An event is one word: t (us), y, x, p from the highest bit to the lowest, so that words in order
are events in order of (t, y, x), OFF before ON where all are equal. Sides have at most 2^13 px."""

_TAU, _ZERO = 2.0 * np.pi, np.float32(0.0)

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

    k  its number in the block
    y  the row
    """

    k: int
    y: int
    start_us: int
    stop_us: int
    end_us: int


class Row(NamedTuple):
    """A row while it is followed: what `State` and `Pixels` say of it, and room beyond its end.

    Beyond, thresholds are infinite and all else is 0, so that nothing fires there.
    """

    reference: F32
    on: F32
    off: F32
    leak: F32
    light: F32
    filtered: F32
    release: F64
    arrival: F64
    arrivals: I64


class Active(NamedTuple):
    """Pixels that fire, side by side, and what firing needs of them.

    x              uint32
    before, now    float32, what is seen at a time step's start, and at its end
    reference      float32
    toward         float32, how far from the reference the next level is: ON, or OFF below 0
    """

    x: U32
    before: F32
    now: F32
    reference: F32
    toward: F32


class Scratch(NamedTuple):
    """Room for the work on one row, made by `make_scratch`.

    row       the row
    seen      float32, what it sees at a time step's start, and at its end
    held      int64, of LANES pixels each, the bits of those that rest or are followed one by one
    active    the pixels that fire
    levels    float32, references after an event, of LANES of them
    ends      float64, us, when the rest after it ends, likewise
    marks     uint8, 1 where something is so; 0 beyond the row
    listed    uint32, the places of marks
    noisy     uint32, the places of the first `noisy_count[0]` pixels where noise comes
    rows      float32, three rows of values half done
    """

    row: Row
    seen: tuple[F32, F32]
    held: I64
    active: Active
    levels: F32
    ends: F64
    marks: U8
    listed: U32
    noisy: U32
    noisy_count: I64
    rows: tuple[F32, F32, F32]


def make_scratch(width: int) -> Scratch:
    """Return room for the work on rows of a width."""
    whole = (width + LANES - 1) // LANES * LANES + LANES
    before, now, reference, on, off, leak, light, filtered = np.zeros((8, whole), np.float32)
    on[:], off[:] = np.inf, np.inf  # pixels beyond the width never fire
    release, arrival = np.zeros((2, whole))
    arrivals = np.zeros(whole, np.int64)
    row = Row(reference, on, off, leak, light, filtered, release, arrival, arrivals)
    x, listed, noisy = np.zeros((3, whole), np.uint32)
    columns = np.zeros((4, whole), np.float32)
    rows = np.zeros((3, whole), np.float32)
    return Scratch(
        row=row,
        seen=(before, now),
        held=np.zeros(whole // LANES, np.int64),
        active=Active(x, *columns),
        levels=np.zeros(LANES, np.float32),
        ends=np.zeros(LANES),
        marks=np.zeros(whole, np.uint8),
        listed=listed,
        noisy=noisy,
        noisy_count=np.zeros(1, np.int64),
        rows=(rows[0], rows[1], rows[2]),
    )


@jit
def spread_thresholds(
    threshold: float, mismatch: float, polarity: int, seed: np.uint64, out: F32
) -> None:
    """Give every pixel its threshold, spread normally by `mismatch` times the threshold."""
    height, width = out.shape
    nominal, deviation = np.float32(threshold), np.float32(threshold * mismatch)
    for y in range(height):
        for x in range(width):
            own = nominal
            if mismatch > 0:
                own = nominal + deviation * normal(seed, polarity, y * width + x)
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
            own = exp(decades * normal(seed, _LEAK, y * width + x))
            out[y, x] = nominal * own * on[y, x]
        for x in range(width if share > 0 else 0):
            marks[x] = uniform(seed, _HOT, y * width + x, 0) < share
        for n in range(list_marked(marks, listed)):
            x = listed[n]
            chance = uniform(seed, _HOT_RATE, y * width + x, 0)
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
        sample_row(log_picture, warps[0], y, width, seen)
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
                marks[x] = uniform(effects.seed, _WAIT, y * width + x, 0) > never
            for n in range(list_marked(marks, listed)):
                pixel = y * width + listed[n]
                state.arrival[y, listed[n]] = _wait_us(pixel, 0, effects)
        for x in range(width if random_phase else 0):
            on, off, now = pixels.on[y, x], pixels.off[y, x], seen[x]
            share = np.float32(uniform(effects.seed, _PHASE, y * width + x, 0))
            reference = now + (off - share * (on + off))
            inside = (reference - off < now) & (now < reference + on)
            state.reference[y, x] = reference if inside else now  # rounded onto a level


@jit
def _wait_us(pixel: int, number: int, effects: Effects) -> float:
    """Draw the wait for the next event of a Poisson process at the rate of a black pixel."""
    chance = uniform(effects.seed, _WAIT, pixel, number)
    return float(-np.log(chance) / effects.shot_noise_hz * 1e6)


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
    words        (K, N + LANES), room for N events of each time step; t is the crossing time to the
                 nearest whole microsecond; in order of row, but in no order within
    counts       int64 (K,): how many events each step has; where they are more than N, the step's
                 words are of any content, and so is what follows the last
    """
    warps, t_us = path
    begun, ended = states
    height, width = ended.reference.shape
    rests, noisy = effects.refractory_us > 0, effects.shot_noise_hz > 0
    before, now = scratch.seen
    for k in range(len(counts)):
        counts[k] = 0
    for n in range(len(scratch.held)):
        scratch.held[n] = 0
    for y in range(height):
        _take_row(begun, pixels, effects, y, before, scratch.row)
        if noisy:
            _list_noisy(t_us[-1], width, scratch)
        for k in range(len(counts)):
            start_us, stop_us, count = t_us[k], t_us[k + 1], counts[k]
            step = Step(k, y, start_us, stop_us, min(stop_us, last_us))
            sample_row(log_picture, warps[k + 1], y, width, now)
            if effects.bandwidth_hz > 0:
                _filter_row(effects.bandwidth_hz, step, scratch, now)
            if effects.leaks:
                _leak_row(scratch.row.leak, step, now)
            if rests:
                _end_rests(before, now, width, step, scratch)
            came = _list_arrivals(step, scratch) if noisy else 0
            if came:
                count = _fire_noisy(
                    came, before, now, step, y * width, effects, scratch, words, count
                )
            active = _list_crossings(before, now, width, scratch)
            for n in range(came):
                scratch.held[scratch.listed[n] // LANES] = 0
            while active:  # each pixel's first event, then the next of those that fire again
                again = _fire_once(active, step, effects, scratch, words, count)
                count += active
                active = again
            counts[k] = count
            before, now = now, before
        _put_row(scratch.row, effects, y, before, ended)


@jit_into
def _take_row(begun: State, pixels: Pixels, effects: Effects, y: int, seen: F32, row: Row) -> None:
    for x in range(begun.seen.shape[1]):
        seen[x], row.reference[x] = begun.seen[y, x], begun.reference[y, x]
        row.on[x], row.off[x] = pixels.on[y, x], pixels.off[y, x]
        if effects.leaks or effects.shot_noise_hz > 0:
            row.leak[x] = pixels.leak[y, x]
        if effects.bandwidth_hz > 0:
            row.light[x], row.filtered[x] = begun.light[y, x], begun.filtered[y, x]
        if effects.refractory_us > 0:
            row.release[x] = begun.release[y, x]
        if effects.shot_noise_hz > 0:
            row.arrival[x], row.arrivals[x] = begun.arrival[y, x], begun.arrivals[y, x]


@jit_into
def _put_row(row: Row, effects: Effects, y: int, seen: F32, ended: State) -> None:
    for x in range(ended.seen.shape[1]):
        ended.seen[y, x], ended.reference[y, x] = seen[x], row.reference[x]
        if effects.bandwidth_hz > 0:
            ended.light[y, x], ended.filtered[y, x] = row.light[x], row.filtered[x]
        if effects.refractory_us > 0:
            ended.release[y, x] = row.release[x]
        if effects.shot_noise_hz > 0:
            ended.arrival[y, x], ended.arrivals[y, x] = row.arrival[x], row.arrivals[x]


@jit_into
def _filter_row(bandwidth_hz: float, step: Step, scratch: Scratch, now: F32) -> None:
    radians, row = _TAU * bandwidth_hz * 1e-6 * (step.stop_us - step.start_us), scratch.row
    filter_row(radians, row.light, row.filtered, now, scratch.rows)


@jit_into
def _leak_row(leak: F32, step: Step, now: F32) -> None:
    """Let the reference fall, by raising what is compared with it.

    In float32, which is 0.7% of the rate of a pixel that leaks 10,000 events a second for a minute.
    """
    passed = np.float32(step.stop_us)
    for first in range(0, len(now), LANES):
        store(now, first, load(now, first) + load(leak, first) * passed)


@jit_into
def _list_noisy(stop_us: int, width: int, scratch: Scratch) -> None:
    """List the pixels of a row where noise comes before the last time sample: mostly few."""
    for x in range(width):
        scratch.marks[x] = scratch.row.arrival[x] < stop_us
    scratch.noisy_count[0] = list_marked(scratch.marks, scratch.noisy)


@jit_into
def _end_rests(before: F32, now: F32, width: int, step: Step, scratch: Scratch) -> None:
    """Hold the pixels that rest throughout; where a rest ends, refer to what is seen then."""
    start, stop, row = float(step.start_us), float(step.stop_us), scratch.row
    per_us = 1.0 / (stop - start)
    for first in range(0, width, LANES):
        release = load(row.release, first)
        ended = (release >= start) & (release < stop)
        scratch.held[first // LANES] = to_bits(release >= stop)
        if to_bits(ended):
            then, passed = load(before, first), to_floats((release - start) * per_us)
            seen = then + (load(now, first) - then) * passed
            reference = choose(ended, seen, load(row.reference, first))
            store(row.reference, first, reference)


@jit_into
def _list_arrivals(step: Step, scratch: Scratch) -> int:
    """List and hold the pixels where noise comes before the end of this step."""
    listed, count = scratch.listed, 0
    for n in range(scratch.noisy_count[0]):
        x = scratch.noisy[n]
        if scratch.row.arrival[x] < step.stop_us:
            listed[count] = x
            scratch.held[x // LANES] |= 1 << (x % LANES)
            count += 1
    return count


@jit_into
def _list_crossings(before: F32, now: F32, width: int, scratch: Scratch) -> int:
    """Bring the pixels that see a level reached side by side; return how many there are.

    Side by side, they are read at once: to gather them one by one takes a CPU several times as
    long.
    """
    row, count = scratch.row, 0
    for first in range(0, width, LANES):
        seen, reference = load(now, first), load(row.reference, first)
        on, off = load(row.on, first), load(row.off, first)
        bits = to_bits((seen >= reference + on) | (seen <= reference - off))
        bits &= ~scratch.held[first // LANES]
        if bits:
            x = to_words(number_lanes() + np.int32(first))
            toward = choose(seen > reference, on, _ZERO - off)
            found = x, load(before, first), seen, reference, toward
            count = _append(found, bits, count, scratch.active)
    _end_list(count, scratch)
    return count


@jit_into
def _append(lanes: tuple[Any, ...], bits: int, count: int, active: Active) -> int:
    """Add the marked of LANES pixels to the first `count`; return how many there are then."""
    x, before, now, reference, toward = lanes
    store_marked(active.x, count, x, bits)
    store_marked(active.before, count, before, bits)
    store_marked(active.now, count, now, bits)
    store_marked(active.reference, count, reference, bits)
    store_marked(active.toward, count, toward, bits)
    return count + count_bits(bits)


@jit_into
def _end_list(count: int, scratch: Scratch) -> None:
    """Let LANES copies of a pixel beyond the row follow, which never fires again.

    Wherever LANES are taken at once, they are taken along: their words follow all others, and what
    they set is the last value of the row's arrays, which nobody reads.
    """
    store(scratch.active.x, count, spread(np.uint32(len(scratch.row.on) - 1)))
    store(scratch.active.toward, count, spread(np.float32(np.inf)))


@jit_into
def _fire_once(
    active: int, step: Step, effects: Effects, scratch: Scratch, words: U64, count: int
) -> int:
    """Write each active pixel's next event, after `count` of the step; keep those that fire again.

    Returns how many these are.

    A pixel fires ON when what it sees reaches reference + ON, and the reference becomes that;
    likewise OFF. The comparison is with the pixel's own reference alone. After the event it rests
    for the refractory period, at the end of which the reference is what it sees then.
    """
    pixels, length, again = scratch.active, float(step.stop_us - step.start_us), 0
    fits, free = count + active + LANES <= words.shape[1], step.k * words.shape[1] + count
    for first in range(0, active, LANES):
        x, toward = load(pixels.x, first), load(pixels.toward, first)
        before, now = load(pixels.before, first), load(pixels.now, first)
        level, up = load(pixels.reference, first) + toward, toward > _ZERO
        passed, awake = _time_crossings(before, now, level, length), spread(True)
        if effects.refractory_us > 0:
            passed = _rest_lanes(first, passed, step, effects.refractory_us, scratch)
            rested = passed + effects.refractory_us
            level = _see_between(before, now, least(rested, spread(length)) / length)
            awake = rested < length
        if fits:
            store(words, free + first, _make_words(x, up, passed, step))
        _set_references(first, level, scratch)
        reached = choose(up, now >= level + toward, now <= level + toward)
        bits = to_bits(reached & awake)
        if bits:
            again = _append((x, before, now, level, toward), bits, again, pixels)
    _end_list(again, scratch)
    return again


@jit_into
def _time_crossings(before: Any, now: Any, level: Any, length: float) -> Any:
    """Return when levels are reached, in us from the start of a step of that length."""
    then = to_doubles(before)
    change = to_doubles(now) - then
    share = (to_doubles(level) - then) / choose(change == 0.0, spread(1.0), change)
    return least(most(share * length, spread(0.0)), spread(length))


@jit_into
def _see_between(before: Any, now: Any, share: Any) -> Any:
    """Return what is seen when a share of the step has passed."""
    then = to_doubles(before)
    return to_floats(then + (to_doubles(now) - then) * share)


@jit_into
def _make_words(x: Any, up: Any, passed: Any, step: Step) -> Any:
    """Return the words of events so many us after the step's start."""
    latest = float(step.end_us - step.start_us)
    place = np.uint64(step.y << Y_SHIFT) + (np.uint64(step.start_us) << np.uint64(T_SHIFT))
    t = to_longs(to_words(least(passed + 0.5, spread(latest))))
    pixel = (to_longs(x) << np.uint64(X_SHIFT)) | to_longs(up)
    return ((t << np.uint64(T_SHIFT)) | pixel) + place


@jit_into
def _set_references(first: int, level: Any, scratch: Scratch) -> None:
    store(scratch.levels, 0, level)
    for n in range(LANES):
        scratch.row.reference[scratch.active.x[first + n]] = scratch.levels[n]


@jit_into
def _rest_lanes(first: int, passed: Any, step: Step, rest_us: float, scratch: Scratch) -> Any:
    """Let pixels fire no sooner than their rest ends, and rest from then on; return when they fire.

    In us from the step's start, as `passed` is.
    """
    start, release, ends = float(step.start_us), scratch.row.release, scratch.ends
    x = scratch.active.x
    for n in range(LANES):
        ends[n] = release[x[first + n]]
    passed = most(passed, load(ends, 0) - start)
    store(ends, 0, (passed + rest_us) + start)
    for n in range(LANES):
        release[x[first + n]] = ends[n]
    return passed


@jit
def _fire_noisy(
    active: int,
    before: F32,
    now: F32,
    step: Step,
    first: int,
    effects: Effects,
    scratch: Scratch,
    words: U64,
    count: int,
) -> int:
    """Write all events of each listed pixel, in which noise comes; return how many there are then.

    Noise events come as a Poisson process at the rate of a black pixel, and are thinned by the
    light; each sets the reference to what is seen.
    """
    y, row, listed = step.y, scratch.row, scratch.listed
    arrival, arrivals = row.arrival, row.arrivals
    start, stop, rests = float(step.start_us), float(step.stop_us), effects.refractory_us > 0
    for n in range(active):
        x = listed[n]
        pixel, on, off = first + x, row.on[x], row.off[x]
        ref, then, moment = row.reference[x], np.float64(before[x]), start
        change = np.float64(now[x]) - then
        if rests:
            moment = max(moment, row.release[x])
        while moment < stop:
            crossing, polarity, level = np.inf, -1, ref
            if now[x] >= ref + on:
                polarity, level = 1, ref + on
            elif now[x] <= ref - off:
                polarity, level = 0, ref - off
            if polarity >= 0:
                share = (np.float64(level) - then) / change if change != 0.0 else 0.0
                crossing = min(max(start + share * (stop - start), moment), stop)
            while arrival[x] < min(crossing, stop):
                came, number = arrival[x], arrivals[x] - 1
                arrival[x] = came + _wait_us(pixel, number + 1, effects)
                arrivals[x] = number + 2
                value = np.float32(then + change * ((came - start) / (stop - start)))
                light = min(np.exp(value - row.leak[x] * came), 1.0)
                chance = uniform(effects.seed, _ACCEPT, pixel, number)
                if came >= moment and chance < 1.0 - 0.75 * light:
                    coin = uniform(effects.seed, _POLARITY, pixel, number)
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
                row.release[x] = moment
                if moment < stop:
                    ref = np.float32(then + change * ((moment - start) / (stop - start)))
        row.reference[x] = ref
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
    words, counts = np.empty((1, 1 + LANES), np.uint64), np.empty(1, np.int64)
    states = _tiny_state(), _tiny_state()
    fire_events(scene, path, pixels, effects, states, make_scratch(2), 0, words, counts)


def compile_kernels() -> None:
    """Compile every kernel of this file, or load it from the cache."""
    compile_start()
    compile_firing()
