"""The kernels against their slow twins, and against what must hold whatever the input."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numba
import numpy as np
import pytest
import reference

from ezsr_synth import lanes
from ezsr_synth.camera import Camera
from ezsr_synth.config import MotionConfig, SensorSize
from ezsr_synth.kernels import T_SHIFT, X_SHIFT, Y_SHIFT
from ezsr_synth.lanes import list_marked
from ezsr_synth.motion import Motion, draw_motion
from ezsr_synth.photoreceptor import exp_parts
from ezsr_synth.readout import unpack
from ezsr_synth.rows import sample_row
from ezsr_synth.simulate import _Room, simulate

CASES = 220
UNCLEAR_WITHIN = 1e-5  # log units; the issue is whether float32 can tell, and it errs by ~3e-6
PICTURE_PX = 64


def random_log_picture(rng: np.random.Generator) -> np.ndarray:
    """Smooth or blocky luminance over three decades, as a log picture."""
    cells = int(rng.integers(4, 24))
    coarse = rng.random((cells, cells)).astype(np.float32) ** 2
    way = cv2.INTER_NEAREST if rng.random() < 0.3 else cv2.INTER_LINEAR
    luminance = cv2.resize(coarse, (PICTURE_PX, PICTURE_PX), interpolation=way)
    blurred = cv2.GaussianBlur(luminance, (0, 0), 0.8)
    return np.log(blurred + np.float32(1e-3)).astype(np.float32)


def random_motion(rng: np.random.Generator, size: SensorSize) -> Motion:
    """An affine path around the picture's middle, in every third case with perspective."""
    config = MotionConfig(
        duration_us=int(rng.integers(500, 60_000)),
        translation_px=(0.0, 8.0),
        rotation_deg=20.0,
        zoom_percent=20.0,
        max_step_px=float(rng.uniform(0.2, 1.5)),
    )
    drawn = draw_motion(rng, config, size)
    middle = (PICTURE_PX - 1) / 2
    if rng.random() < 1 / 3:
        warps = drawn.warps.copy()
        share = drawn.t_us / drawn.t_us[-1]
        warps[:, 2, 0] = rng.uniform(-2e-3, 2e-3) * share
        warps[:, 2, 1] = rng.uniform(-2e-3, 2e-3) * share
        drawn = Motion(warps, drawn.t_us, {})
    return drawn.shifted(middle, middle)


def random_case(seed: int) -> tuple[np.ndarray, Motion, Camera, SensorSize]:
    rng = np.random.default_rng(seed)
    size = SensorSize(int(rng.integers(8, 24)), int(rng.integers(8, 24)))
    camera = Camera(
        float(np.float32(rng.uniform(0.05, 0.5))), float(np.float32(rng.uniform(0.05, 0.5)))
    )
    return random_log_picture(rng), random_motion(rng, size), camera, size


def test_events_agree_with_the_twin_pixel_by_pixel() -> None:
    pixels = unclear = events = 0
    for seed in range(CASES):
        log_picture, motion, camera, size = random_case(seed)
        stream = simulate(log_picture, motion, camera, size)
        stream.check()
        twin = reference.sensor_events(
            log_picture,
            motion.warps,
            motion.t_us,
            camera.threshold_on,
            camera.threshold_off,
            size.width,
            size.height,
            UNCLEAR_WITHIN,
        )
        of_pixel = stream.y.astype(int) * size.width + stream.x
        order = np.argsort(of_pixel, kind="stable")
        splits = np.searchsorted(of_pixel[order], np.arange(1, size.width * size.height))
        for pixel, members in enumerate(np.split(order, splits)):
            expected = twin[pixel % size.width, pixel // size.width]
            pixels += 1
            if expected.unclear:
                unclear += 1
                continue
            where = f"case {seed}, pixel {pixel}"
            assert stream.p[members].tolist() == expected.polarities, where
            for t, moment, slope in zip(
                stream.t[members], expected.times, expected.slopes, strict=True
            ):
                assert abs(t - moment) <= max(1.0, 1e-4 / slope), where
            events += len(members)
    assert events > 100_000
    assert unclear < 1e-3 * pixels, f"{unclear} of {pixels} pixels excluded"


def test_time_is_the_crossing_to_the_nearest_microsecond() -> None:
    """On slopes that float32 resolves, not merely within a microsecond."""
    exact = total = 0
    for seed in range(40):
        log_picture, motion, camera, size = random_case(seed)
        stream = simulate(log_picture, motion, camera, size)
        twin = reference.sensor_events(
            log_picture, motion.warps, motion.t_us, camera.threshold_on, camera.threshold_off,
            size.width, size.height, UNCLEAR_WITHIN,
        )  # fmt: skip
        for (x, y), expected in twin.items():
            got = stream.t[(stream.x == x) & (stream.y == y)]
            if len(got) == len(expected.times) and not expected.unclear:
                total += len(got)
                exact += int(np.sum(got == np.floor(np.add(expected.times, 0.5))))
    assert exact > 0.99 * total


@pytest.mark.parametrize("seed", range(20))
def test_blocks_do_not_change_the_events(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    log_picture, motion, camera, size = random_case(seed)
    results = []
    for block in (1, 3, 10_000):
        monkeypatch.setattr("ezsr_synth.simulate._FIRST_BLOCK", block)
        monkeypatch.setattr("ezsr_synth.simulate._LARGEST_BLOCK", block)
        results.append(simulate(log_picture, motion, camera, size))
    for other in results[1:]:
        for column in ("x", "y", "t", "p"):
            assert np.array_equal(getattr(results[0], column), getattr(other, column))


@pytest.mark.parametrize("seed", range(20))
def test_small_buffers_do_not_change_the_events(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    log_picture, motion, camera, size = random_case(seed)
    roomy = simulate(log_picture, motion, camera, size)
    none = {"_PIXELS_PER_EVENT": 10**9, "_AMPLE": 0, "_PAGE": 1, "_APART": 0}
    for name, value in none.items():  # a word for each time step, until it turns out too few
        monkeypatch.setattr(f"ezsr_synth.simulate.{name}", value)
    monkeypatch.setattr("ezsr_synth.simulate._ROOM", _Room())
    tight = simulate(log_picture, motion, camera, size)
    assert np.array_equal(roomy.t, tight.t)
    assert np.array_equal(roomy.x, tight.x)


def test_nothing_is_left_of_the_camera_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room that is used again may hold anything, but for what lies beyond a row."""
    for seed in range(60):
        log_picture, motion, camera, size = random_case(seed)
        effects = {"refractory_us": 3000.0 * (seed % 2), "shot_noise_hz": 50.0 * (seed // 2 % 2)}
        effects |= {"leak_hz": 5.0 * (seed // 4 % 2), "bandwidth_hz": 200.0 * (seed // 8 % 2)}
        camera = replace(camera, **effects, seed=seed)
        room, width = _Room(), size.width
        monkeypatch.setattr("ezsr_synth.simulate._ROOM", room)
        fresh, scratch = simulate(log_picture, motion, camera, size), room.scratch(width)
        for values in (*scratch.row, *scratch.seen):
            values[:width] = -7 if values.dtype == np.int64 else np.nan
        scratch.held[:], scratch.marks[:width] = -1, 1
        scratch.listed[:], scratch.noisy[:], scratch.noisy_count[:] = 2**31, 2**31, 99
        scratch.levels[:], scratch.ends[:], scratch.row.release[-1] = np.nan, np.nan, 1e300
        again = simulate(log_picture, motion, camera, size)
        for name in "xytp":
            assert np.array_equal(getattr(fresh, name), getattr(again, name))


def test_a_capped_simulation_keeps_its_memory_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise at tiny thresholds fires hundreds of events a pixel; the cap is 1000."""
    import tracemalloc

    monkeypatch.setattr("ezsr_synth.simulate._ROOM", _Room())
    rng = np.random.default_rng(0)
    noise = rng.choice(np.array([-6.9, 0.0], np.float32), (140, 140))
    size = SensorSize(128, 128)
    motion = draw_motion(rng, MotionConfig(translation_px=(4, 5), rotation_deg=0), size)
    tracemalloc.start()
    path = motion.shifted(69.5, 69.5)
    capped = simulate(noise, path, Camera(0.01, 0.01), size, max_events=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < len(capped) <= 1000
    assert peak < 250 * 128 * 128 * 13 * 2, "the events of about one time step, and their columns"


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_cap_keeps_a_whole_time_span(seed: int, share: float) -> None:
    log_picture, motion, camera, size = random_case(seed)
    whole = simulate(log_picture, motion, camera, size)
    cap = max(1, int(share * len(whole)))
    capped = simulate(log_picture, motion, camera, size, max_events=cap)
    capped.check()
    assert len(capped) <= cap
    kept = whole.t < capped.duration_us
    for column in ("x", "y", "t", "p"):
        assert np.array_equal(getattr(whole, column)[kept], getattr(capped, column))
    if len(whole) > cap:
        assert np.count_nonzero(whole.t <= capped.duration_us) > cap
    else:
        assert capped.duration_us == whole.duration_us


def test_no_motion_gives_no_events() -> None:
    log_picture, motion, camera, size = random_case(1)
    still = Motion(np.repeat(motion.warps[:1], 5, axis=0), np.arange(5) * 1000, {})
    assert len(simulate(log_picture, still, camera, size)) == 0


def test_a_ramp_fires_at_the_predicted_times() -> None:
    """Log intensity rising by `slope` per px, moved at 1 px per 1000 us: C/slope px per event."""
    slope, threshold, steps = 0.03, 0.1, 21
    ramp = np.tile(np.arange(80, dtype=np.float32) * np.float32(slope), (16, 1))
    warps = np.repeat(np.eye(3)[None], steps + 1, axis=0)
    warps[:, 0, 2] = 2 + np.arange(steps + 1)
    warps[:, 1, 2] = 2
    motion = Motion(warps, np.arange(steps + 1) * 1000, {})
    size = SensorSize(8, 8)
    stream = simulate(ramp, motion, Camera(threshold, 10.0), size)
    expected = [n * threshold / slope * 1000 for n in range(1, 7)]  # 0.63 log units are passed
    for x in range(8):
        times = stream.t[(stream.x == x) & (stream.y == 3)]
        assert np.abs(times - expected).max() <= 1
    assert len(stream) == 6 * 8 * 8
    assert np.all(stream.p == 1)


def test_looking_outside_the_picture_is_refused() -> None:
    log_picture, motion, camera, size = random_case(2)
    with pytest.raises(ValueError, match="outside"):
        simulate(log_picture, motion.shifted(PICTURE_PX, 0), camera, size)
    with pytest.raises(ValueError, match="outside"):
        simulate(log_picture, motion.shifted(-PICTURE_PX, 0), camera, size)


def test_words_in_order_are_events_in_the_twins_order() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        count, latest = int(rng.integers(0, 400)), int(rng.integers(1, 2**26))
        x, y = rng.integers(0, 4096, (2, count))
        t, p = rng.integers(latest, latest + 30, count), rng.integers(0, 2, count)
        words = (t << T_SHIFT | y << Y_SHIFT | x << X_SHIFT | p).astype(np.uint64)
        ordered = reference.sort_by_time(x, y, t, p)
        columns = unpack(np.sort(words))
        assert [event[:3] for event in zip(*columns, strict=True)] == [e[:3] for e in ordered]
        assert sorted(zip(*columns, strict=True)) == sorted(ordered)


@numba.njit
def sample(log_picture: np.ndarray, warp: np.ndarray, y: int, row: np.ndarray) -> None:
    sample_row(log_picture, warp, y, row.shape[0], row)


@pytest.mark.parametrize("zoom", [0.05, 0.9, 1.9, 3.95])
@pytest.mark.parametrize("perspective", [0.0, 1e-5])
def test_long_rows_are_looked_up_as_the_twin_does(zoom: float, perspective: float) -> None:
    """Several stretches of fixed point, steps too long for it, and neither."""
    rng = np.random.default_rng(int(100 * zoom))
    picture = rng.normal(size=(1200, 1200)).astype(np.float32)
    for width in (63, 64, 65, 200, 290):
        turn = rng.uniform(-0.4, 0.4)
        c, s = zoom * np.cos(turn), zoom * np.sin(turn)
        warp = np.array([[c, -s, 0], [s, c, 0], [perspective, 0, 1]])
        warp[:2, 2] = 600 - warp[:2, :2] @ (width / 2, 7) + rng.random(2)
        row = np.empty(width, np.float32)
        sample(picture, warp, 7, row)
        twin = [reference.look_up(picture, warp, x, 7) for x in range(width)]
        assert np.abs(row - twin).max() < 3e-5


def test_threads_do_not_meet_and_streams_stay_as_they_are() -> None:
    cases = [random_case(seed) for seed in range(40)]
    alone = [simulate(*case) for case in cases]
    before = [stream.t.copy() for stream in alone]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda case: simulate(*case), cases))
    for one, other, t in zip(alone, together, before, strict=True):
        assert np.array_equal(one.t, t)
        for column in ("x", "y", "t", "p"):
            assert np.array_equal(getattr(one, column), getattr(other, column))


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_marked_places_are_listed_in_order(density: float) -> None:
    rng = np.random.default_rng(7)
    for length in (16, 48, 640):
        marks = (rng.random(length) < density).astype(np.uint8)
        listed = np.full(length + 16, 99999, np.uint32)
        count = compiled_lister(marks, listed)
        assert listed[:count].tolist() == np.flatnonzero(marks).tolist()


@numba.njit
def compiled_lister(marks: np.ndarray, listed: np.ndarray) -> int:
    return list_marked(marks, listed)


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("kind", [np.uint32, np.int32, np.float32])
def test_marked_lanes_are_packed_in_order(density: float, kind: type) -> None:
    """Into another array, and into the one they come from."""
    rng = np.random.default_rng(8)
    for _ in range(20):
        marks = (rng.random(10 * lanes.LANES) < density).astype(np.uint8)
        drawn = rng.normal(0, 1e6, len(marks))
        values = (abs(drawn) if kind == np.uint32 else drawn).astype(kind)
        for source, packed in ((values, np.zeros_like(values)), 2 * (values.copy(),)):
            count = compiled_packer(marks, source, packed)
            assert packed[:count].tolist() == values[marks > 0].tolist()


@numba.njit
def compiled_packer(marks: np.ndarray, source: np.ndarray, packed: np.ndarray) -> int:
    count = 0
    for first in range(0, len(marks), lanes.LANES):
        bits = lanes.load_bits(marks, first)
        lanes.store_marked(packed, count, lanes.load(source, first), bits)
        count += lanes.count_bits(bits)
    return count


def test_the_exponential_is_that_of_numpy() -> None:
    """To float32's rounding of the exponent, and q without loss near 0."""
    x = np.concatenate([np.linspace(-80, 8, 4001), np.geomspace(1e-7, 1e-2, 200)]).astype(
        np.float32
    )
    scale, rest = np.array([parts(value) for value in x], np.float64).T
    exact = np.exp(x.astype(np.float64))
    assert np.abs(scale * (1 + rest) / exact - 1).max() < 1e-5
    near = np.abs(x) < 1e-2
    assert np.abs(rest[near] / np.expm1(x[near].astype(np.float64)) - 1).max() < 1e-6


@numba.njit
def parts(x: np.float32) -> tuple[float, float]:
    return exp_parts(x)
