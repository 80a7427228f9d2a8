"""One sample: what its JSON says is what was done to it."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from math import cos, radians, sin

import cv2
import numpy as np
import pytest
import reference
from conftest import smooth_picture
from PIL import Image

from ezsr_shards.sample import Sample
from ezsr_synth.camera import Camera, draw_camera
from ezsr_synth.config import CameraConfig, MotionConfig, SensorSize, SynthConfig
from ezsr_synth.decode import PictureError
from ezsr_synth.records import ImageRecord
from ezsr_synth.work import make_sample

SIZE = SensorSize(48, 36)
CONFIG = SynthConfig(
    size=SIZE,
    min_events=1,
    max_events=10**6,
    jpeg_quality=100,
    motion=MotionConfig(translation_px=(2, 9), rotation_deg=20, zoom_percent=20),
)


def sample_of(n: int, config: SynthConfig = CONFIG, rgb: np.ndarray | None = None) -> Sample:
    record = ImageRecord(f"key{n}", f"source {n}", lambda: b"")
    return make_sample(record, smooth_picture(n, 150, 200) if rgb is None else rgb, 0, config)


def warp_from(facts: dict, share: float) -> np.ndarray:
    """Sensor px -> px from the path's start, from the drawn numbers alone."""
    angle = radians(facts["rotation_deg"]) * share
    zoom = 1 + facts["zoom_percent"] / 100 * share
    dx, dy = (value * share for value in facts["translation_px"])
    x, y = (SIZE.width - 1) / 2, (SIZE.height - 1) / 2
    turn = zoom * np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    shift = np.array([dx, dy]) - turn @ [x, y]
    return np.vstack([np.column_stack([turn, shift]), [0, 0, 1]])


@pytest.mark.parametrize("n", range(6))
def test_the_jpeg_is_the_scene_in_the_middle_of_the_recording(n: int) -> None:
    """Two recordings with the same draws, one cut short: their pictures differ by the motion that
    the JSON states, from one middle to the other."""
    long, short = sample_of(n), sample_of(n, replace(CONFIG, max_events=400))
    assert long.meta["motion"] == short.meta["motion"]
    duration = CONFIG.motion.duration_us
    early, late = (
        warp_from(long.meta["motion"], s.events.duration_us / 2 / duration) for s in (short, long)
    )
    seen = [np.asarray(Image.open(io.BytesIO(s.jpeg or b"")), dtype=float) for s in (short, long)]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    predicted = cv2.warpPerspective(seen[0], np.linalg.inv(early) @ late, (48, 36), flags=flags)
    inner = (slice(12, -12), slice(14, -14))
    off = np.abs(predicted - seen[1])[inner].mean()
    still = np.abs(seen[0] - seen[1])[inner].mean()
    assert off < 0.5 * still or off < 4


@pytest.mark.parametrize("n", range(4))
def test_the_json_states_the_thresholds_that_fired(n: int) -> None:
    """Each lies in its own range, and the lower one fires more often."""
    config = replace(
        CONFIG,
        camera=CameraConfig(threshold_on=(0.1, 0.15), threshold_off=(0.25, 0.3), lens_blur_px=0.0),
    )
    s = sample_of(n, config)
    on, off = s.meta["camera"]["threshold_on"], s.meta["camera"]["threshold_off"]
    assert 0.1 <= on <= 0.15
    assert 0.25 <= off <= 0.3
    counts = s.events.count_image()
    assert counts[0].sum() > 0
    assert counts[1].sum() > 1.3 * counts[0].sum(), "the lower threshold fires more often"


def test_the_json_states_the_lens_and_the_floor_that_no_preset_tells() -> None:
    plain = sample_of(0, replace(CONFIG, camera=CameraConfig("atis", log_floor=0.1)))
    assert not {"lens_blur_px", "log_floor"} & plain.meta["camera"].keys()
    other = sample_of(
        0, replace(CONFIG, camera=CameraConfig("atis", log_floor=0.2, lens_blur_px=1.0))
    )
    assert other.meta["camera"]["log_floor"] == 0.2
    assert other.meta["camera"]["lens_blur_px"] == 1.0


def test_on_is_brighter() -> None:
    """A bright square that enters a dark scene from one side fires ON there, and OFF behind."""
    rgb = np.full((150, 200, 3), 10, np.uint8)
    rgb[50:100, 75:125] = 250
    motion = MotionConfig(translation_px=(6, 6), rotation_deg=0, zoom_percent=0)
    for n in range(5):
        s = sample_of(n, replace(CONFIG, motion=motion), rgb)
        dx, dy = s.meta["motion"]["translation_px"]
        on, off = (s.events.p == p for p in (1, 0))
        towards = [
            (s.events.x[mask].mean() * dx + s.events.y[mask].mean() * dy) for mask in (on, off)
        ]
        # The sensor moves by (dx, dy) over the scene, so the square moves the other way.
        assert towards[0] < towards[1]


def test_draws_fill_their_ranges_and_are_separate() -> None:
    on, off, scales, families = [], [], [], set()
    config = replace(CONFIG, fit="contain", contain_scale=(0.5, 0.9), max_events=50)
    for n in range(120):
        s = sample_of(n, config, smooth_picture(0, 60, 80))
        on.append(s.meta["camera"]["threshold_on"])
        off.append(s.meta["camera"]["threshold_off"])
        scales.append(s.meta["contain_scale"])
        families.add(s.meta["motion"]["family"])
    for values, low, high in ((on, 0.1, 0.3), (off, 0.1, 0.3), (scales, 0.5, 0.9)):
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    assert abs(np.corrcoef(on, off)[0, 1]) < 0.3
    assert families == {"affine"}


def test_every_view_of_every_picture_has_its_own_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same ones when it is made again."""
    seeds: list[int] = []

    def draw(rng: np.random.Generator, config: CameraConfig, seed: int = 0) -> Camera:
        seeds.append(seed)
        return draw_camera(rng, config, seed)

    monkeypatch.setattr("ezsr_synth.work.draw_camera", draw)
    rgb = smooth_picture(0, 60, 80)
    for _ in range(2):
        for seed in (0, 1):
            for key in ("a", "b"):
                for view in (0, 1):
                    record = ImageRecord(key, "source", lambda: b"")
                    make_sample(record, rgb, view, replace(CONFIG, seed=seed))
    assert len(set(seeds[:8])) == 8
    assert seeds[8:] == seeds[:8]


@pytest.mark.parametrize(
    ("most", "clock_us", "reason"),
    [
        (50, 20_000, r"max_events 50 leaves 0 events, .* \(camera.timestamp_us 20000\); raise max"),
        (10**6, 1, r"view 0: \d+ events, min_events is 50000$"),
    ],
)
def test_too_few_events_say_whether_the_cap_or_the_picture_is_to_blame(
    most: int, clock_us: int, reason: str
) -> None:
    least = min(most, 50_000)
    config = replace(CONFIG, max_events=most, min_events=least)
    config = replace(config, camera=CameraConfig(timestamp_us=clock_us))
    with pytest.raises(PictureError) as failed:
        sample_of(1, config)
    assert re.search(reason, failed.value.detail)


def test_capped_says_whether_the_cap_was_reached() -> None:
    whole = sample_of(1)
    assert whole.meta["capped"] is False
    assert whole.events.duration_us == CONFIG.motion.duration_us
    capped = sample_of(1, replace(CONFIG, max_events=len(whole.events) // 2))
    assert capped.meta["capped"] is True
    assert capped.events.duration_us < CONFIG.motion.duration_us


def test_events_follow_the_picture_in_the_file() -> None:
    """From the stored picture alone: most events lie where its log luminance has an edge."""
    for n in range(4):
        s = sample_of(n, replace(CONFIG, max_events=1500))
        rgb = np.asarray(Image.open(io.BytesIO(s.jpeg or b"")))
        log = np.log(reference.luminance(rgb) + 1e-3)
        steepness = np.hypot(*np.gradient(log))
        counts = s.events.count_image().sum(axis=0)
        assert np.corrcoef(counts.ravel(), steepness.ravel())[0, 1] > 0.4
