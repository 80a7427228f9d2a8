"""The scene: linear light, areas, lens, logarithm, and no border where none should be."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import smooth_picture

from ezsr_synth.camera import Camera
from ezsr_synth.config import CameraConfig, MotionConfig, SensorSize, SynthConfig
from ezsr_synth.motion import Motion, draw_motion
from ezsr_synth.randomness import rng_for
from ezsr_synth.scene import Placement, log_picture, place_picture, snapshot
from ezsr_synth.simulate import simulate

SHAPES = [(90, 120), (120, 90), (500, 333), (40, 40), (7, 400), (400, 7), (1, 1), (3, 5)]


def placed(height: int, width: int, config: SynthConfig, seed: int = 0) -> Placement:
    motion = draw_motion(rng_for(seed, "k", 0, "motion"), config.motion, config.size)
    return place_picture((width, height), motion, config, contain_scale=0.8)


def still_motion(size: SensorSize) -> Motion:
    """A motion that stays in the middle, for pictures laid exactly on the sensor."""
    warps = np.repeat(np.eye(3)[None], 2, axis=0)
    warps[:, 0, 2], warps[:, 1, 2] = -(size.width - 1) / 2, -(size.height - 1) / 2
    return Motion(warps, np.array([0, 1000]), {})


def test_log_picture_agrees_with_the_twin() -> None:
    """Halving a picture exactly: linearise, average 2x2, blur, log, each spelled out."""
    rgb = smooth_picture(3, 40, 48)
    camera = CameraConfig(lens_blur_px=0.8, log_floor=2e-3)
    placement = Placement(
        (0, 0, 48, 40), (24, 20), (24, 20), (0, 0), still_motion(SensorSize(8, 8))
    )
    linear = reference.luminance(rgb)
    halved = linear.reshape(20, 2, 24, 2).mean(axis=(1, 3))
    expected = np.log(reference.blur(halved, 0.8) + 2e-3)
    # OpenCV cuts the Gaussian at 4 sigma, the twin at 6: a few 1e-4 on the steepest edges.
    assert np.abs(log_picture(rgb, placement, camera) - expected).max() < 2e-3


def test_luminance_is_that_of_linear_light() -> None:
    """Half the light is sRGB code 188, not 128: a chequerboard seen from afar is 188 grey."""
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    rgb = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    camera = CameraConfig(lens_blur_px=0)
    size = SensorSize(8, 8)
    placement = Placement((0, 0, 64, 64), (32, 32), (32, 32), (0, 0), still_motion(size))
    seen = np.exp(log_picture(rgb, placement, camera)) - camera.log_floor
    assert np.allclose(seen, 0.5, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize("fit", ["cover", "contain"])
def test_any_shape_can_be_placed_and_simulated(height: int, width: int, fit: str) -> None:
    config = SynthConfig(size=SensorSize(48, 32), fit=fit)  # type: ignore[arg-type]
    rgb = smooth_picture(1, height, width)
    for seed in range(5):
        placement = placed(height, width, config, seed)
        log = log_picture(rgb, placement, config.camera)
        assert log.shape == (placement.screen[1], placement.screen[0])
        assert max(log.shape) < 200, "a scene must not grow with the picture's aspect"
        simulate(log, placement.motion, Camera(0.2, 0.2), config.size).check()
        assert snapshot(rgb, placement, 100.0, config.size).shape == (32, 48, 3)


@pytest.mark.parametrize("seed", range(25))
def test_cover_never_shows_a_border(seed: int) -> None:
    """A bright even picture has no edges at all, so any event would come from a border."""
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(20, 400, 2))
    motion = MotionConfig(translation_px=(0, 30), rotation_deg=180, zoom_percent=50)
    config = SynthConfig(size=SensorSize(48, 36), motion=motion)
    rgb = np.full((height, width, 3), 200, np.uint8)
    placement = placed(height, width, config, seed)
    log = log_picture(rgb, placement, config.camera)
    assert len(simulate(log, placement.motion, Camera(0.01, 0.01), config.size)) == 0
    for t_us in (0, 25_000, 50_000):
        assert np.all(snapshot(rgb, placement, t_us, config.size) == 200)


@pytest.mark.parametrize("sizes", [(28, 34), (32, 128), (64, 224), (375, 224), (20, 224)])
def test_cover_keeps_the_aspect(sizes: tuple[int, int]) -> None:
    picture, sensor = sizes
    config = SynthConfig(size=SensorSize(sensor, sensor))
    for seed in range(20):
        placement = placed(picture, picture * 4 // 3, config, seed)
        x0, y0, x1, y1 = placement.crop
        across, down = placement.scaled[0] / (x1 - x0), placement.scaled[1] / (y1 - y0)
        assert abs(across / down - 1) < 0.02


@pytest.mark.parametrize("lens_blur_px", [0.0, 0.8, 5.0])
def test_the_sensor_stays_clear_of_the_mirrored_edge(lens_blur_px: float) -> None:
    """The blur mirrors the scene at its edge, which is not always the picture's edge."""
    camera = CameraConfig(lens_blur_px=lens_blur_px)
    config = SynthConfig(size=SensorSize(64, 48), camera=camera)
    for seed in range(10):
        placement = placed(600, 800, config, seed)
        corners = placement.motion.corners(config.size)
        assert corners.min() >= 1 + 3 * lens_blur_px
        inset = np.array(placement.screen) - 1 - corners.max(axis=(0, 1))
        assert inset.min() >= 1 + 3 * lens_blur_px


@pytest.mark.parametrize("seed", range(10))
def test_contain_shows_the_whole_picture_on_black(seed: int) -> None:
    motion = MotionConfig(translation_px=(0, 8))
    config = SynthConfig(size=SensorSize(64, 64), fit="contain", motion=motion)
    rgb = np.full((50, 80, 3), 255, np.uint8)
    placement = placed(50, 80, config, seed)
    seen = snapshot(rgb, placement, 0, config.size)
    assert set(np.unique(seen[[0, -1]])) == {0}, "the sensor's edge is black"
    white = np.count_nonzero(seen[..., 0] > 128)
    scale = 0.8 * 64 / 80
    assert white == pytest.approx(50 * 80 * scale**2, rel=0.08)
    log = log_picture(rgb, placement, config.camera)
    assert log.min() == pytest.approx(np.log(config.camera.log_floor), abs=1e-3)
    events = simulate(log, placement.motion, Camera(0.2, 0.2), config.size)
    assert len(events) > 100, "the picture's edge against the black screen fires"


@pytest.mark.parametrize("seed", range(8))
def test_snapshot_and_log_picture_show_the_same_place(seed: int) -> None:
    """The picture in the shard and the events must be aligned to the pixel."""
    config = SynthConfig(size=SensorSize(64, 48), camera=CameraConfig(lens_blur_px=0))
    rgb = smooth_picture(seed, 300, 400)
    placement = placed(300, 400, config, seed)
    t_us = 20_000.0
    from_rgb = np.log(reference.luminance(snapshot(rgb, placement, t_us, config.size)) + 1e-3)
    log, warp = log_picture(rgb, placement, config.camera), placement.motion.at(t_us)
    from_log = np.array(
        [[reference.look_up(log, warp, x, y) for x in range(64)] for y in range(48)]
    )
    inner = (slice(2, -2), slice(2, -2))
    here = np.abs(from_rgb - from_log)[inner].mean()
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        beside = np.roll(from_log, (dy, dx), axis=(0, 1))
        assert here < np.abs(from_rgb - beside)[inner].mean()
