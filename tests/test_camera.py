"""The camera: every effect against its twin, or against its own formula."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import reference
from test_kernels import random_case

from ezsr_shards.errors import ConfigError
from ezsr_shards.events import EventStream
from ezsr_synth import chance, photoreceptor
from ezsr_synth.camera import Camera, draw_camera
from ezsr_synth.config import CameraConfig, MotionConfig, SensorSize, SynthConfig
from ezsr_synth.kernels import compile_kernels
from ezsr_synth.motion import Motion
from ezsr_synth.presets import CAMERA_SOURCES, CAMERAS, LEAST_CONTRAST, VALUE_SOURCES, list_presets
from ezsr_synth.randomness import seed_of
from ezsr_synth.readout import compile_readout, read_rows
from ezsr_synth.simulate import simulate

SIDE = 48
PIXELS = SIDE * SIDE
SECONDS = 4
STILL = Motion(np.repeat(np.eye(3)[None], 5, 0), np.arange(5) * 10**6, {})


def of_pixels(stream: EventStream) -> dict[tuple[int, int], np.ndarray]:
    order = np.lexsort((stream.t, stream.x, stream.y))
    place = stream.y[order].astype(int) * stream.width + stream.x[order]
    parts = np.split(order, np.flatnonzero(np.diff(place)) + 1)
    return {(int(stream.x[part[0]]), int(stream.y[part[0]])): part for part in parts if len(part)}


def still(camera: Camera, log_light: float = np.log(0.5)) -> EventStream:
    """What the camera reports of an even wall in four seconds."""
    wall = np.full((SIDE + 4, SIDE + 4), log_light, np.float32)
    return simulate(wall, STILL.shifted(1, 1), camera, SensorSize(SIDE, SIDE))


def test_a_camera_with_all_effects_agrees_with_its_twin() -> None:
    """Mismatch, phase, rest, leak and noise together; the twin goes from event to event."""
    same = pixels = events = 0
    for seed in range(60):
        log_picture, motion, camera, size = random_case(seed)
        rng = np.random.default_rng(seed)
        seconds = motion.duration_us * 1e-6
        camera = replace(
            camera,
            threshold_mismatch=0.2,
            random_phase=True,
            refractory_us=float(rng.uniform(0, 0.2) * motion.duration_us) * (seed % 3 > 0),
            leak_hz=float(rng.uniform(0, 8)) / seconds * (seed % 4 > 0),
            shot_noise_hz=float(rng.uniform(0, 8)) / seconds * (seed % 5 > 0),
            seed=seed_of(seed, "k", 0, "pixels"),
        )
        members = of_pixels(stream := simulate(log_picture, motion, camera, size))
        stream.check()
        made = camera.pixels(size)
        picture = log_picture.astype(float).tolist()
        for y in range(size.height):
            for x in range(size.width):
                pixel = y * size.width + x
                on, off = (float(made[n][y, x]) for n in (0, 1))
                phase = reference.uniform(camera.seed, 2, pixel, 0) * (on + off) - off
                twin = reference.camera_events(
                    [float(t) for t in motion.t_us],
                    [reference.look_up(picture, warp, x, y) for warp in motion.warps],
                    *(on, off, camera.refractory_us, camera.shot_noise_hz),
                    *(camera.seed, pixel, phase, float(made.leak[y, x])),
                )
                got = members.get((x, y), np.zeros(0, int))
                pixels += 1
                events += len(twin)
                same += stream.p[got].tolist() == [p for _, p in twin] and all(
                    abs(stream.t[n] - t) <= max(2, 2e-4 * motion.duration_us)
                    for n, (t, _) in zip(got, twin, strict=True)
                )
    assert events > 30_000
    assert same >= 0.995 * pixels, f"{pixels - same} of {pixels} pixels differ"


def test_pixels_agree_with_their_twin() -> None:
    camera = Camera(
        *(0.2, 0.3, 0.2),
        leak_hz=0.5,
        hot_pixels=0.05,
        hot_pixel_hz=(10.0, 100.0),
        seed=2**64 - 12345,
    )
    on, off, leak = camera.pixels(SensorSize(16, 12))
    for pixel in range(16 * 12):
        y, x = divmod(pixel, 16)
        own = [
            max(0.01, base * (1 + 0.2 * reference.normal(camera.seed, purpose, pixel)))
            for base, purpose in ((0.2, 1), (0.3, 0))
        ]
        hz = 0.5 * 10 ** (0.1 * reference.normal(camera.seed, 3, pixel))
        if reference.uniform(camera.seed, 4, pixel, 0) < 0.05:
            hz = 10 * 10 ** reference.uniform(camera.seed, 5, pixel, 0)
        assert np.allclose([on[y, x], off[y, x], leak[y, x]], [*own, hz * 1e-6 * own[0]], rtol=1e-5)


def test_draws_of_chance_are_even_and_apart() -> None:
    """Seeds, purposes, pixels and numbers that follow one another must not show."""
    draws = np.array(
        [
            [chance.uniform(np.uint64(seed), purpose, pixel, n) for n in range(4)]
            for seed in range(4)
            for purpose in range(9)
            for pixel in range(500)
        ]
    )
    assert len(np.unique(draws)) == draws.size
    counts = np.histogram(draws, 20, (0, 1))[0]
    expected = draws.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 50, "chi-square, 19 degrees of freedom"
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 4 / np.sqrt(len(draws))
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 4 / np.sqrt(len(draws))


def test_thresholds_spread_as_told() -> None:
    on, off, _ = Camera(0.2, 0.4, threshold_mismatch=0.1, seed=7).pixels(SensorSize(128, 128))
    for own, nominal in ((on, 0.2), (off, 0.4)):
        assert abs(own.mean() / nominal - 1) < 4 * 0.1 / 128
        assert abs(own.std() / nominal - 0.1) < 4 * 0.1 / np.sqrt(2) / 128
    assert abs(np.corrcoef(on.ravel(), off.ravel())[0, 1]) < 4 / 128


def test_a_wall_gives_nothing_but_leak_and_noise() -> None:
    assert len(still(Camera(0.2, 0.2, random_phase=True, refractory_us=500, bandwidth_hz=100))) == 0


def test_no_phase_lies_on_a_level() -> None:
    """Rounding puts one pixel in two million there, which would fire at once, with no cause."""
    for seed in range(8):
        for light in (1e-3, 0.3, 1.001):
            wall = np.full((484, 644), np.log(light), np.float32)
            camera = Camera(
                0.2, 0.2, random_phase=True, refractory_us=100.0 * (seed % 2), seed=seed
            )
            assert len(simulate(wall, STILL.shifted(1, 1), camera, SensorSize(640, 480))) == 0


@pytest.mark.parametrize("leak_hz", [2.0, 10.0])
def test_leak_events_are_on_and_as_frequent_as_told(leak_hz: float) -> None:
    """Peers that compare with the sample before, not with the reference, give none."""
    stream = still(Camera(0.2, 0.2, leak_hz=leak_hz, random_phase=True, seed=1))
    assert np.all(stream.p == 1)
    mean_hz = leak_hz * np.exp((0.1 * np.log(10)) ** 2 / 2)  # of a log-normal rate
    expected = (mean_hz * SECONDS - 0.5) * PIXELS  # pixels start half an event low in the mean
    assert abs(len(stream) / expected - 1) < 0.02


@pytest.mark.parametrize("light", [0.0, 0.5, 1.0])
def test_shot_noise_has_the_rate_that_the_light_asks_for(light: float) -> None:
    """R (1 - 0.75 light), ON as often as OFF, with waits as of a Poisson process."""
    camera = Camera(0.2, 0.2, shot_noise_hz=5.0, seed=2)
    stream = still(camera, float(np.log(light + 1e-3)))
    expected = 5.0 * (1 - 0.75 * (light + 1e-3)) * SECONDS * PIXELS
    assert abs(len(stream) - expected) < 4 * np.sqrt(expected)
    assert abs(stream.p.mean() - 0.5) < 4 * 0.5 / np.sqrt(expected)
    counts = np.zeros(PIXELS)
    for (x, y), part in of_pixels(stream).items():
        counts[y * SIDE + x] = len(part)
    dispersion = counts.var() / counts.mean()
    assert abs(dispersion - 1) < 4 * np.sqrt(2 / PIXELS), "variance is the mean"
    assert abs(np.corrcoef(counts[:-1], counts[1:])[0, 1]) < 4 / np.sqrt(PIXELS)


def test_noise_moves_the_reference() -> None:
    """After a noise event the pixel compares with what it saw then, so leaks begin anew."""
    noisy = still(Camera(0.2, 0.2, leak_hz=1.0, shot_noise_hz=20.0, seed=3))
    quiet = still(Camera(0.2, 0.2, leak_hz=1.0, seed=3))
    expected_noise = 20.0 * (1 - 0.75 * 0.5) * SECONDS * PIXELS
    assert abs(len(noisy) - expected_noise) < 0.1 * len(quiet)


def test_hot_pixels_are_as_many_and_as_hot_as_told() -> None:
    stream = still(Camera(0.2, 0.2, hot_pixels=0.05, hot_pixel_hz=(20.0, 200.0), seed=4))
    rates = [len(part) / SECONDS for part in of_pixels(stream).values()]
    assert np.all(stream.p == 1)
    assert abs(len(rates) - 0.05 * PIXELS) < 4 * np.sqrt(0.05 * PIXELS)
    assert min(rates) > 19
    assert max(rates) < 201
    assert abs(np.median(np.log(rates)) - np.log(np.sqrt(20 * 200))) < 0.5


@pytest.mark.parametrize("refractory_us", [1000.0, 20_000.0])
def test_hot_pixels_wait_for_their_rest(refractory_us: float) -> None:
    """1 / (1 / f + r), as told beside `CameraConfig.hot_pixel_hz`."""
    hot = {"hot_pixels": 0.05, "hot_pixel_hz": (100.0, 100.0)}
    camera = Camera(0.2, 0.2, refractory_us=refractory_us, seed=4, **hot)  # type: ignore[arg-type]
    rates = [len(part) / SECONDS for part in of_pixels(still(camera)).values()]
    assert np.median(rates) == pytest.approx(1 / (1 / 100 + refractory_us * 1e-6), rel=0.02)


@pytest.mark.parametrize("refractory_us", [1.0, 700.0, 40_000.0])
def test_no_pixel_fires_while_it_rests(refractory_us: float) -> None:
    for seed in range(10):
        log_picture, motion, camera, size = random_case(seed)
        camera = replace(camera, refractory_us=refractory_us, shot_noise_hz=30.0)
        stream = simulate(log_picture, motion, camera, size)
        for part in of_pixels(stream).values():
            assert np.all(np.diff(stream.t[part]) >= refractory_us - 1)


@pytest.mark.parametrize("block", [1, 3, 10_000])
@pytest.mark.parametrize("noise_hz", [0.0, 1e-6])
def test_a_rest_that_ends_at_a_time_sample_ends(
    block: int, noise_hz: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Levels are reached in the middle of steps, and rests last half a step: exact in binary."""
    monkeypatch.setattr("ezsr_synth.simulate._FIRST_BLOCK", block)
    monkeypatch.setattr("ezsr_synth.simulate._LARGEST_BLOCK", block)
    steps = 9
    ramp = np.tile(np.arange(40, dtype=np.float32) / 4, (16, 1))
    warps = np.repeat(np.eye(3)[None], steps + 1, axis=0)
    warps[:, :2, 2] = 2
    warps[:, 0, 2] += np.arange(steps + 1)
    motion = Motion(warps, np.arange(steps + 1) * 1000, {})
    camera = Camera(0.125, 0.125, refractory_us=500.0, shot_noise_hz=noise_hz)
    stream = simulate(ramp, motion, camera, SensorSize(8, 8))
    stream.check()
    for part in of_pixels(stream).values():
        assert stream.t[part].tolist() == [1000 * n + 500 for n in range(steps)]
    assert len(stream) == 64 * steps


def test_start_phases_are_even_within_the_thresholds() -> None:
    """A ramp of less than ON + OFF fires in the share of pixels that its height is of ON + OFF."""
    steps, rise = 11, 0.25
    ramp = np.tile(np.arange(120, dtype=np.float32) * np.float32(rise / (steps - 1)), (104, 1))
    warps = np.repeat(np.eye(3)[None], steps, axis=0)
    warps[:, :2, 2] = 2
    warps[:, 0, 2] += np.arange(steps)
    size = SensorSize(100, 100)
    motion = Motion(warps, np.arange(steps) * 1000, {})
    camera = Camera(0.2, 0.3, random_phase=True, seed=5)
    stream = simulate(ramp, motion, camera, size)
    fired = (np.bincount(stream.y.astype(int) * 100 + stream.x, minlength=10**4) > 0).mean()
    assert abs(fired - rise / 0.5) < 4 * 0.5 / 100
    none = simulate(ramp, motion, replace(camera, random_phase=False), size)
    assert len(none) == 10**4, "0.25 passes one threshold of 0.2 everywhere"


def test_a_pixel_whose_rest_ends_with_a_step_rests_in_all_of_it() -> None:
    """On slopes without rounding: fires after 500 us, rests for 1500, and begins anew."""
    size, steps = SensorSize(16, 16), np.arange(6)
    ramp = np.tile(np.arange(24, dtype=np.float32) * 0.5 - 12, (20, 1))
    warps = np.tile(np.eye(3), (6, 1, 1))
    warps[:, 0, 2] = 1 + steps
    warps[:, 1, 2] = 1
    stream = simulate(
        ramp, Motion(warps, 1000 * steps, {}), Camera(0.25, 0.25, refractory_us=1500.0), size
    )
    assert np.unique(stream.t).tolist() == [500, 2500, 4500]
    assert len(stream) == 3 * 256


@pytest.mark.parametrize("bandwidth_hz", [3.0, 50.0, 500.0])
def test_the_photoreceptor_agrees_with_small_steps(bandwidth_hz: float) -> None:
    rng = np.random.default_rng(int(bandwidth_hz))
    t_us = np.concatenate([[0], np.cumsum(rng.integers(100, 2000, 40))])
    values = np.cumsum(rng.normal(0, 0.1, (41, 16)), axis=0).clip(-3, 0.2) - 0.2
    seen = values.astype(np.float32)
    light, filtered = seen[0].copy(), seen[0].copy()
    room = tuple(np.empty(16, np.float32) for _ in range(3))
    for row, step_us in zip(seen[1:], np.diff(t_us), strict=True):
        photoreceptor.filter_row(2e-6 * np.pi * bandwidth_hz * step_us, light, filtered, row, room)
        assert np.array_equal(filtered, row)
    for x in range(16):
        twin = reference.photoreceptor(t_us, values[:, x], bandwidth_hz, 300)
        assert np.abs(seen[:, x] - twin).max() < 5e-4  # of 3 log units: the speed's curvature
    assert np.array_equal(light, values[-1].astype(np.float32))


def test_a_photoreceptor_takes_its_time_constant() -> None:
    """It has gone 1 - 1/e of a step of light after 1 / (2 pi f), and is slower in the dark."""
    for light, slower in ((1.0, 1.0), (1e-6, (1 + 20 / 255) / (20 / 255))):
        constant_us = 1e6 / (2 * np.pi * 100) * slower
        before, now = (np.full(16, np.log(light) + off, np.float32) for off in (-1e-3, 0))
        filtered = before.copy()
        for step_us in (1, round(constant_us)):
            seen = now.copy()
            room = tuple(np.empty(16, np.float32) for _ in range(3))
            photoreceptor.filter_row(2e-4 * np.pi * step_us, before, filtered, seen, room)
        assert abs((seen[0] - np.log(light)) / -1e-3 - np.exp(-1)) < 0.01


def test_time_stamps_keep_to_the_clock() -> None:
    log_picture, motion, camera, size = random_case(3)
    plain = simulate(log_picture, motion, camera, size)
    ticked = simulate(log_picture, motion, replace(camera, timestamp_us=197), size)
    ticked.check()
    assert np.all(ticked.t % 197 == 0)
    assert len(plain) == len(ticked)
    whole = sorted(zip(plain.t // 197 * 197, plain.y, plain.x, strict=True))
    assert whole == sorted(zip(ticked.t, ticked.y, ticked.x, strict=True))


def test_rows_are_read_as_the_twin_says() -> None:
    rng = np.random.default_rng(8)
    for row_us in (0.5, 3.0, 40.0):
        for _ in range(20):
            count = int(rng.integers(1, 150))
            t, y = np.sort(rng.integers(0, 300, count)), rng.integers(0, 9, count)
            order = np.lexsort((y, t))
            t, y = t[order], y[order].astype(np.uint16)
            read_at = np.empty(count)
            read_rows((y, y, t, np.zeros(count, np.uint8)), row_us, 9, read_at)
            assert np.allclose(read_at, reference.read_rows(t.tolist(), y.tolist(), row_us))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("preset", [name for name in CAMERAS if name != "ideal"])
def test_caps_and_blocks_cut_real_cameras_as_they_cut_the_ideal(
    seed: int, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the blocks, and with a row arbiter too, a cap keeps the beginning of the whole."""
    log_picture, motion, _, size = random_case(seed)
    rng = np.random.default_rng(seed)
    config = CameraConfig(preset, row_readout_us=float(seed % 3))
    camera = draw_camera(rng, config, seed=seed_of(seed, "k", 0, "pixels"))
    whole = simulate(log_picture, motion, camera, size)
    whole.check()
    cap = max(1, len(whole) // 3)
    for block in (1, 3, 10_000):
        monkeypatch.setattr("ezsr_synth.simulate._FIRST_BLOCK", block)
        monkeypatch.setattr("ezsr_synth.simulate._LARGEST_BLOCK", max(block, 2))
        for limit in (None, cap):
            cut = simulate(log_picture, motion, camera, size, max_events=limit)
            kept = whole.t < cut.duration_us
            assert limit is None or len(cut) <= limit
            for column in ("x", "y", "t", "p"):
                assert np.array_equal(getattr(whole, column)[kept], getattr(cut, column))


RANGES = {
    "threshold_on": (0.11, 0.19),
    "threshold_off": (0.31, 0.39),
    "threshold_mismatch": (0.01, 0.05),
    "refractory_us": (110.0, 190.0),
    "bandwidth_hz": (210.0, 290.0),
    "leak_hz": (0.2, 0.28),
    "shot_noise_hz": (1.0, 1.8),
    "hot_pixels": (0.06, 0.09),
}
SETTINGS = {
    "random_phase": True,
    "hot_pixel_hz": (31.0, 37.0),
    "timestamp_us": 7,
    "row_readout_us": 2.5,
}
OF_THE_SCENE = {"preset", "lens_blur_px", "log_floor"}  # which no pixel decides


def test_every_field_of_a_camera_is_drawn_or_passed_on() -> None:
    assert {f.name for f in fields(CameraConfig)} == RANGES.keys() | SETTINGS.keys() | OF_THE_SCENE
    assert {f.name for f in fields(Camera)} == {*RANGES, *SETTINGS, "seed"}
    camera = draw_camera(np.random.default_rng(0), CameraConfig(**SETTINGS), seed=99)
    assert {name: getattr(camera, name) for name in SETTINGS} == SETTINGS
    assert camera.seed == 99


@pytest.mark.parametrize("name", RANGES)
def test_draws_fill_the_field_s_own_range(name: str) -> None:
    low, high = RANGES[name]
    config = CameraConfig(**RANGES)
    drawn = [getattr(draw_camera(np.random.default_rng(n), config), name) for n in range(100)]
    share = (np.array(drawn) - low) / (high - low)
    assert -1e-5 <= share.min() < 0.1
    assert 0.9 < share.max() <= 1 + 1e-5
    assert abs(share.mean() - 0.5) < 4 / np.sqrt(12 * 100)


def test_draws_are_apart() -> None:
    """No field is another one's share of its range."""
    config = CameraConfig(**RANGES)
    cameras = [draw_camera(np.random.default_rng(n), config) for n in range(400)]
    drawn = np.array([[getattr(camera, name) for name in RANGES] for camera in cameras])
    off = np.corrcoef(drawn.T) - np.eye(len(RANGES))
    assert np.abs(off).max() < 4 / np.sqrt(400)


def test_every_preset_says_where_it_comes_from() -> None:
    assert CAMERA_SOURCES.keys() == CAMERAS.keys() == {"ideal", *LEAST_CONTRAST}
    assert all(VALUE_SOURCES.keys() == values.keys() for values in CAMERAS.values())
    for text in (*CAMERA_SOURCES.values(), *VALUE_SOURCES.values()):
        assert text in list_presets("cameras")
    ideal = CameraConfig("ideal")
    assert not ideal.random_phase
    for name in CAMERAS:
        assert name in list_presets("cameras").splitlines()[0]
        assert CameraConfig(name).log_floor >= 1e-3
        assert name == "ideal" or CameraConfig(name).random_phase
    assert CameraConfig("atis", leak_hz=(0.0, 0.0)).leak_hz == (0.0, 0.0)


def test_thresholds_begin_at_the_least_contrast_of_the_data_sheet() -> None:
    """As the presets say: to a hundredth of log intensity, and gen3-vga's a third above."""
    for name, contrast in LEAST_CONTRAST.items():
        least = np.log1p(contrast) * (4 / 3 if name == "gen3-vga" else 1)
        assert f"least contrast {100 * contrast:g}" in CAMERA_SOURCES[name]
        for threshold in ("threshold_on", "threshold_off"):
            assert abs(CAMERAS[name][threshold][0] - least) < 0.005


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "dvs129"}, "camera 'dvs129': give one of ideal, dvs128"),
        ({"threshold_on": (-0.1, 0.2)}, "camera.threshold_on"),
        ({"threshold_off": (0.3, 0.2)}, "the first value is the larger"),
        ({"threshold_mismatch": (0.0, 0.9)}, "camera.threshold_mismatch"),
        ({"timestamp_us": 0}, "camera.timestamp_us"),
        ({"log_floor": 1e-7}, "camera.log_floor"),
        ({"hot_pixel_hz": (0.0, 10.0)}, "camera.hot_pixel_hz"),
        ({"threshold_on": 0.2}, "camera.threshold_on 0.2: give two numbers"),
        ({"threshold_on": (0.1,)}, r"camera.threshold_on \(0.1,\): give two numbers"),
        ({"threshold_on": (0.1, "a")}, "camera.threshold_on 'a': give a number from 0.01 to 10"),
        ({"threshold_on": "ab"}, "camera.threshold_on 'ab': give two numbers"),
        ({"timestamp_us": 7.5}, "camera.timestamp_us 7.5: give a whole number"),
        ({"timestamp_us": True}, "camera.timestamp_us True: give a whole number"),
        ({"random_phase": "no"}, "camera.random_phase 'no': give true or false"),
        ({"preset": ["ideal"]}, r"camera.preset \['ideal'\]: give a name"),
        ({"threshold_on": (7.0, 8.0)}, r"threshold_on \(7.0, 8.0\): .* 6.91 apart .* below that"),
        ({"threshold_off": (2.5, 8.0), "log_floor": 0.1}, "threshold_off .* 2.4 apart"),
    ],
)
def test_impossible_cameras_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CameraConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fit": "Contain"}, "fit 'Contain': give cover or contain"),
        ({"views": 1.5}, "views 1.5: give a whole number"),
        ({"size": (224, 224)}, r"size \(224, 224\): give a SensorSize"),
        ({"motion": "drift"}, "motion 'drift': give a MotionConfig"),
        ({"contain_scale": 0.5}, "contain_scale 0.5: give two numbers"),
    ],
)
def test_configurations_of_other_kinds_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SynthConfig(**values)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"size 224.5x224: .* whole pixels"):
        SensorSize(224.5, 224)  # type: ignore[arg-type]


def test_a_clock_slower_than_a_path_is_refused_whatever_its_share() -> None:
    camera = CameraConfig(timestamp_us=50_000)
    SynthConfig(motion=MotionConfig("saccade,loop"), camera=camera)
    with pytest.raises(ConfigError, match=r"timestamp_us 50000: .*duration_us 50000 \(affine\)"):
        SynthConfig(motion=MotionConfig("saccade:9,affine"), camera=camera)


def test_kernels_compile_before_the_work() -> None:
    compile_kernels()
    compile_readout()
