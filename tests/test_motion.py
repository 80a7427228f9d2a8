"""Motions: reproducible, fine enough in time, and as large as configured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicHermiteSpline

from ezsr_shards.errors import ConfigError
from ezsr_synth.config import LEAST_NEARNESS, MotionConfig, SensorSize, SynthConfig
from ezsr_synth.families import FAMILIES, draw_homography, spline
from ezsr_synth.motion import Motion, draw_motion, sample_path
from ezsr_synth.presets import MOTION_SOURCES, MOTIONS, list_presets
from ezsr_synth.randomness import rng_for

SIZE = SensorSize(64, 48)


def motion(seed: int, config: MotionConfig | None = None) -> Motion:
    return draw_motion(rng_for(seed, "key", 0, "motion"), config or MotionConfig(), SIZE)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("max_step_px", [0.1, 0.5, 2.0])
def test_no_point_moves_further_than_a_step(seed: int, max_step_px: float) -> None:
    path = motion(seed, MotionConfig(max_step_px=max_step_px, rotation_deg=30, zoom_percent=30))
    rng = np.random.default_rng(seed)
    points = np.column_stack([rng.uniform(0, 63, 50), rng.uniform(0, 47, 50), np.ones(50)])
    seen = np.einsum("tij,nj->tni", path.warps, points)[..., :2]
    steps = np.linalg.norm(np.diff(seen, axis=0), axis=-1)
    assert steps.max() <= max_step_px * (1 + 1e-9)
    coarsest = 1 + 1.2 * np.linalg.norm(np.diff(path.corners(SIZE), axis=0), axis=-1).sum(0).max()
    assert len(path.t_us) <= 2 + coarsest / max_step_px, "far more time samples than needed"


@pytest.mark.parametrize("seed", range(30))
def test_the_middle_moves_by_the_translation_drawn(seed: int) -> None:
    path = motion(seed, MotionConfig(translation_px=(5.0, 9.0)))
    middle = np.array([(SIZE.width - 1) / 2, (SIZE.height - 1) / 2, 1.0])
    start, end = (path.warps[k] @ middle for k in (0, -1))
    assert np.allclose(start[:2], 0)
    assert np.allclose(end[:2], path.facts["translation_px"])
    assert 5.0 <= np.linalg.norm(end[:2]) <= 9.0


def test_a_path_too_fast_for_its_steps_says_how_large_they_became() -> None:
    fast = motion(1, MotionConfig(duration_us=100, translation_px=(40.0, 40.0), max_step_px=0.2))
    assert fast.t_us.tolist() == list(range(101))
    steps = np.linalg.norm(np.diff(fast.corners(SIZE), axis=0), axis=-1)
    assert fast.facts["largest_step_px"] == pytest.approx(steps.max())
    assert fast.facts["largest_step_px"] > 0.2
    for family in MOTIONS:
        assert "largest_step_px" not in motion(1, MotionConfig(family)).facts


def test_path_is_linear_in_time_and_ends_when_configured() -> None:
    path = motion(3, MotionConfig(duration_us=7001, rotation_deg=0))
    assert path.t_us[0] == 0
    assert path.t_us[-1] == 7001
    moved = path.warps[:, :2, 2] - path.warps[0, :2, 2]
    assert np.allclose(moved, np.outer(path.t_us / 7001, moved[-1]), atol=1e-9)


def test_draws_depend_on_seed_key_view_and_purpose_alone() -> None:
    def draw(seed: int, key: str, view: int, purpose: str) -> float:
        return float(rng_for(seed, key, view, purpose).random())

    base = draw(1, "a", 0, "motion")
    assert base == draw(1, "a", 0, "motion")
    others = [draw(2, "a", 0, "motion"), draw(1, "b", 0, "motion")]
    others += [draw(1, "a", 1, "motion"), draw(1, "a", 0, "camera")]
    assert len({base, *others}) == 5


def test_directions_and_turns_are_unbiased() -> None:
    facts = [motion(seed).facts for seed in range(2000)]
    mean_shift = np.mean([f["translation_px"] for f in facts], axis=0)
    assert np.abs(mean_shift).max() < 4 * 24 / np.sqrt(2 * 2000)
    assert abs(np.mean([f["rotation_deg"] for f in facts])) < 4 * 5 / np.sqrt(3 * 2000)


def test_times_between_samples_are_linear() -> None:
    path = motion(4)
    half = (path.t_us[3] + path.t_us[4]) / 2
    assert np.allclose(path.at(half), (path.warps[3] + path.warps[4]) / 2)
    assert np.allclose(path.at(path.t_us[-1]), path.warps[-1])
    assert np.allclose(path.at(0), path.warps[0])


@pytest.mark.parametrize("t_us", [[0], [0, 0], [1, 2], [0, 5, 4]])
def test_impossible_times_are_refused(t_us: list[int]) -> None:
    with pytest.raises(ValueError, match="motion"):
        Motion(np.repeat(np.eye(3)[None], len(t_us), axis=0), np.array(t_us), {})


MIDDLE = np.array([(SIZE.width - 1) / 2, (SIZE.height - 1) / 2, 1.0])


def middle_path(path: Motion) -> np.ndarray:
    """Where the sensor's middle looks, (T, 2)."""
    seen = path.warps @ MIDDLE
    return seen[:, :2] / seen[:, 2:]


def at_parts(path: Motion, parts: int) -> np.ndarray:
    """Where the sensor's middle looks at the ends of equal parts of the path, (parts + 1, 2)."""
    moments = np.linspace(0, path.duration_us, parts + 1)
    seen = middle_path(path)
    return np.column_stack([np.interp(moments, path.t_us, seen[:, axis]) for axis in (0, 1)])


@pytest.mark.parametrize("family", MOTIONS)
def test_every_family_keeps_to_its_numbers(family: str) -> None:
    config = MotionConfig(family)
    least, most = config.translation_px
    for seed in range(25):
        path = motion(seed, config)
        assert path.facts["family"] == family
        assert path.duration_us == config.duration_us
        assert np.allclose(middle_path(path)[0], 0, atol=1e-9), "it starts at the middle"
        reach = np.linalg.norm(middle_path(path), axis=1).max()
        assert (1 - 1e-9) * least * 0.98 <= reach <= most * np.sqrt(2) * (1 + 1e-9)
        points = np.array([[x, y, 1.0] for x in (0, 31, 63) for y in (0, 20, 47)])
        seen = np.einsum("tij,nj->tni", path.warps, points)
        assert np.all(seen[..., 2] > 0)
        steps = np.linalg.norm(np.diff(seen[..., :2] / seen[..., 2:], axis=0), axis=-1)
        perspective = 1.02 if family == "homography" else 1 + 1e-9
        assert steps.max() <= config.max_step_px * perspective


@pytest.mark.parametrize("family", ["saccade", "loop"])
def test_closed_paths_end_where_they_began(family: str) -> None:
    for seed in range(10):
        path = motion(seed, MotionConfig(family))
        assert np.allclose(path.warps[0], path.warps[-1], atol=1e-9)
        assert np.linalg.norm(middle_path(path), axis=1).max() > 3, "but they do move"


def test_saccades_go_as_those_of_n_mnist() -> None:
    """Digits move right and down, right and up, then left; slow at the ends of each saccade."""
    path = motion(1, MotionConfig("saccade", translation_px=(6.0, 6.0)))
    digit = -middle_path(path)
    ends = at_parts(path, 3)
    assert np.allclose(ends, [[0, 0], [-3, -5.1], [-6, 0], [0, 0]], atol=0.02)
    speed = np.linalg.norm(np.diff(digit, axis=0), axis=1) / np.diff(path.t_us)
    moments = (path.t_us[1:] + path.t_us[:-1]) / 2 % 100_000
    middle, edge = np.abs(moments - 50_000) < 10_000, np.minimum(moments, 1e5 - moments) < 5_000
    assert speed[middle].min() > 10 * speed[edge].max()


def test_a_loop_goes_around_a_square() -> None:
    seen = set()
    for seed in range(60):
        path = motion(seed, MotionConfig("loop", translation_px=(8.0, 8.0)))
        corners = at_parts(path, 4)  # cut by up to half a step
        assert np.allclose(np.linalg.norm(np.diff(corners, axis=0), axis=1), 8, atol=0.25)
        seen.add(tuple(np.round(corners[1:3]).ravel()))
    assert len(seen) == 8, "from every corner, both ways round"


def test_a_tilted_plane_is_seen_in_perspective() -> None:
    """Straight lines stay straight; what comes nearer grows; no tilt is the affine motion."""
    flat = motion(5, MotionConfig("homography", tilt_deg=0.0))
    assert np.allclose(flat.warps, motion(5, MotionConfig("affine")).warps)
    path = motion(5, MotionConfig("homography", tilt_deg=30.0, rotation_deg=0.0, zoom_percent=0.0))
    pan, nod = np.radians(path.facts["tilt_deg"])
    # the plane's point (X, Y) in 3-D, turned and seen by a pinhole at its width's distance
    turn_y = np.array([[np.cos(pan), 0, np.sin(pan)], [0, 1, 0], [-np.sin(pan), 0, np.cos(pan)]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(nod), -np.sin(nod)], [0, np.sin(nod), np.cos(nod)]])
    for point in ([10.0, 4.0, 0.0], [-20.0, 7.0, 0.0]):
        x, y, z = turn_x @ turn_y @ np.array(point)
        pixel = np.array([x, y]) * SIZE.width / (SIZE.width + z) + MIDDLE[:2]
        seen = path.warps[-1] @ [*pixel, 1.0]
        shift = path.facts["translation_px"]
        assert np.allclose(seen[:2] / seen[2] - shift, point[:2], atol=1e-9)


def corner_nearness(path: Motion, size: SensorSize) -> np.ndarray:
    """1 over the distance of what each corner sees, in those of what the middle saw (T, 4)."""
    middle = [(size.width - 1) / 2, (size.height - 1) / 2, 1.0]
    sides = np.array([[x, y, 1] for y in (0, size.height - 1) for x in (0, size.width - 1)])
    nearness = path.warps[:, 2] @ sides.T / (path.warps[:, 2] @ middle)[:, None]
    return np.asarray(nearness)


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.integers(8, 4096), st.integers(8, 4096)),
    st.floats(0, 1),
    st.floats(0, 180),
    st.floats(0, 90),
    st.integers(0, 2**32 - 1),
)
def test_no_tilt_that_is_accepted_brings_the_horizon_into_sight(
    sides: tuple[int, int], share: float, turn_deg: float, zoom_percent: float, seed: int
) -> None:
    """And the picture that the path needs stays a few sensors large."""
    size = SensorSize(*sides)
    config = MotionConfig(
        "homography",
        **{"translation_px": (0.0, 8.0), "rotation_deg": turn_deg, "zoom_percent": zoom_percent},
        tilt_deg=share
        * MotionConfig(
            "homography", rotation_deg=turn_deg, zoom_percent=zoom_percent
        ).largest_tilt_deg(size),
        max_step_px=4.0,
    )
    assert SynthConfig(size=size, motion=config).motion == config
    path = draw_motion(rng_for(seed, "key", 0, "motion"), config, size)
    assert corner_nearness(path, size).min() >= LEAST_NEARNESS - 1e-9
    corners = path.corners(size).reshape(-1, 2)
    assert (corners.max(axis=0) - corners.min(axis=0)).max() < 8 * max(sides)


class Ends(np.random.Generator):
    """Draws turns of 20 degrees or more from within their range, all else at an end of its own."""

    def uniform(self, low=0.0, high=1.0, size=None):  # type: ignore[no-untyped-def,override]
        return super().uniform(low, high) if high >= 20 else self.choice([low, high], size)


@pytest.mark.parametrize("sides", [(64, 64), (640, 240), (8, 4096), (4096, 8)])
@pytest.mark.parametrize("turn_deg", [0.0, 20.0, 180.0])
def test_the_nearness_foretold_is_the_least_of_all_tilts_and_turns(
    sides: tuple[int, int], turn_deg: float
) -> None:
    """At the ends of the ranges, which chance hardly ever draws all at once."""
    size = SensorSize(*sides)
    config = MotionConfig("homography", rotation_deg=turn_deg, zoom_percent=10.0, tilt_deg=12.0)
    least = 1.0
    for seed in range(400):
        warp_at, _ = draw_homography(Ends(np.random.PCG64(seed)), config, size)
        end = Motion(warp_at(np.array([0.0, 1.0])), np.array([0, 1]), {})
        least = min(least, float(corner_nearness(end, size).min()))
    assert least == pytest.approx(config.nearness(size, 12.0), abs=2e-3)


def test_a_tilt_up_to_the_horizon_is_refused_with_the_most_that_is_possible() -> None:
    size = SensorSize(480, 640)
    with pytest.raises(
        ConfigError, match=r"motion.tilt_deg 40.0 .*480x640.* at or under 3"
    ) as said:
        SynthConfig(size=size, motion=MotionConfig("affine,homography", tilt_deg=40.0))
    most = float(str(said.value).split("at or under ")[1].split()[0])
    SynthConfig(size=size, motion=MotionConfig("homography", tilt_deg=most))
    with pytest.raises(ConfigError, match=r"motion.tilt_deg"):
        SynthConfig(size=size, motion=MotionConfig("homography", tilt_deg=most + 0.1))
    for sides in ((8, 4096), (4096, 8), (224, 224)):
        SynthConfig(
            size=SensorSize(*sides), motion=MotionConfig("homography", translation_px=(0.0, 8.0))
        )


def test_a_path_past_the_horizon_is_refused() -> None:
    def warp_at(u: np.ndarray) -> np.ndarray:
        warps = np.repeat(np.eye(3)[None], len(u), axis=0)
        warps[:, 2, 0] = -u / 50  # the horizon crosses a sensor of 64 px at its 50th column
        return warps

    with pytest.raises(ValueError, match="64x48 sensor looks past the picture's horizon"):
        sample_path(warp_at, MotionConfig(), SIZE, {})
    path = Motion(warp_at(np.array([0.0, 1.0])), np.array([0, 10]), {})
    with pytest.raises(ValueError, match="horizon"):
        path.corners(SIZE)


def test_a_drift_is_smooth_and_reaches_what_was_drawn() -> None:
    for seed in range(20):
        path = motion(seed, MotionConfig("drift", translation_px=(10.0, 10.0)))
        shifts = middle_path(path)
        assert np.linalg.norm(shifts, axis=1).max() == pytest.approx(10.0, rel=0.02)
        assert np.abs(np.diff(shifts, 2, axis=0)).max() < 0.15, "no corner in px per step"


def turns_and_zooms(path: Motion) -> tuple[np.ndarray, np.ndarray]:
    """Degrees and percent at every time sample, read off the warps (T, 3, 3)."""
    a, b = path.warps[:, 0, 0], path.warps[:, 1, 0]
    assert np.allclose(path.warps[:, :2, :2], np.array([[a, -b], [b, a]]).transpose(2, 0, 1))
    return np.degrees(np.arctan2(b, a)), 100 * (np.hypot(a, b) - 1)


@pytest.mark.parametrize("family", ["affine", "saccade", "loop"])
@pytest.mark.parametrize("seed", range(10))
def test_turn_and_zoom_are_linear_and_as_the_facts_say(family: str, seed: int) -> None:
    path = motion(seed, MotionConfig(family, rotation_deg=40.0, zoom_percent=30.0))
    turn, zoom = turns_and_zooms(path)
    share = path.t_us / path.duration_us
    assert np.allclose(turn, share * path.facts["rotation_deg"], atol=1e-9)
    assert np.allclose(zoom, share * path.facts["zoom_percent"], atol=1e-9)
    assert min(abs(turn[-1]), abs(zoom[-1])) > 0.01


@pytest.mark.parametrize("seed", range(20))
def test_a_drift_turns_and_zooms_as_far_as_the_facts_say(seed: int) -> None:
    path = motion(seed, MotionConfig("drift", rotation_deg=40.0, zoom_percent=30.0))
    turn, zoom = turns_and_zooms(path)
    assert np.abs(turn).max() == pytest.approx(path.facts["rotation_deg"], rel=0.02)
    assert np.abs(zoom).max() == pytest.approx(path.facts["zoom_percent"], rel=0.02)
    assert turn[0] == zoom[0] == 0
    assert abs(np.corrcoef(turn, zoom)[0, 1]) < 0.999, "each walks for itself"


@pytest.mark.parametrize("seed", range(10))
def test_the_facts_of_a_drift_tell_its_whole_path(seed: int) -> None:
    """Through another library's splines: the slope at a knot is that between its neighbours."""
    path = motion(seed, MotionConfig("drift", rotation_deg=40.0, zoom_percent=30.0))
    knots = np.array(path.facts["knots"])
    assert knots.shape == (4, 7)
    at = np.linspace(0, path.duration_us, knots.shape[1])
    slopes = np.gradient(knots, at[1], axis=1)
    told = CubicHermiteSpline(at, knots, slopes, axis=1)(path.t_us)
    turn, zoom = turns_and_zooms(path)
    assert np.allclose(told, [*middle_path(path).T, turn, zoom], atol=2e-4)


@pytest.mark.parametrize("seed", range(10))
def test_the_facts_of_a_loop_tell_its_whole_path(seed: int) -> None:
    path = motion(seed, MotionConfig("loop", rotation_deg=20.0))
    corners = np.array([*path.facts["corners"], path.facts["corners"][0]])
    moments = np.linspace(0, path.duration_us, 5)
    x, y = path.facts["translation_px"] * np.array(
        [np.interp(path.t_us, moments, row) for row in corners.T]
    )
    a = np.radians(path.facts["aslant_deg"])
    told = np.column_stack([x * np.cos(a) - y * np.sin(a), x * np.sin(a) + y * np.cos(a)])
    assert np.allclose(middle_path(path), told, atol=1e-9)


@pytest.mark.parametrize("family", ["saccade", "loop"])
def test_a_polygon_stands_aslant_as_the_facts_say(family: str) -> None:
    aslant = []
    for seed in range(40):
        config = MotionConfig(family, rotation_deg=20.0, translation_px=(6.0, 6.0))
        path = motion(seed, config)
        corner = at_parts(path, 3 if family == "saccade" else 4)[2]  # (-6, 0), or (+-6, +-6)
        upright = 180.0 if family == "saccade" else 45.0
        degrees = np.degrees(np.arctan2(corner[1], corner[0])) - upright
        off = (degrees - path.facts["aslant_deg"] + 45) % (360 if family == "saccade" else 90) - 45
        assert abs(off) < 3, "corners are cut by up to half a step"
        aslant.append(path.facts["aslant_deg"])
    assert min(aslant) < -15
    assert max(aslant) > 15


def test_splines_pass_their_knots() -> None:
    knots = np.random.default_rng(0).normal(size=7)
    assert np.allclose(spline(knots, np.linspace(0, 1, 7)), knots)
    assert np.allclose(spline(np.arange(7.0), np.linspace(0, 1, 50)), np.linspace(0, 6, 50))


def test_mixtures_come_by_their_weights() -> None:
    config = MotionConfig("affine:3,saccade:1", rotation_deg=1.0)
    paths = [motion(seed, config) for seed in range(400)]
    saccades = [path for path in paths if path.facts["family"] == "saccade"]
    assert abs(len(saccades) - 100) < 4 * np.sqrt(400 * 0.25 * 0.75)
    assert {path.duration_us for path in saccades} == {300_000}
    assert {path.duration_us for path in paths} == {50_000, 300_000}
    assert max(abs(path.facts["rotation_deg"]) for path in paths) <= 1.0


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("walk", "motion 'walk': give one of affine, homography"),
        ("affine:x", "the weight is no number"),
        ("affine:0", "weight"),
        ("affine,affine:2", "named twice"),
        ("", "motion ''"),
    ],
)
def test_impossible_families_are_refused(family: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MotionConfig(family)


def test_a_tilt_is_for_families_that_tilt() -> None:
    with pytest.raises(ConfigError, match=r"motion.tilt_deg 5.0: affine,drift does not tilt"):
        MotionConfig("affine,drift", tilt_deg=5.0)
    assert MotionConfig("affine", tilt_deg=0.0).tilt_deg == 0
    mixture = MotionConfig("affine,homography", tilt_deg=5.0)
    assert mixture.of("affine").tilt_deg == 0
    assert mixture.of("homography").tilt_deg == 5
    with pytest.raises(ConfigError, match=r"motion.family None: give a name"):
        MotionConfig(None)  # type: ignore[arg-type]


def test_a_motion_larger_than_the_sensor_is_refused_whatever_its_share() -> None:
    with pytest.raises(ConfigError, match=r"motion.translation_px .*affine.* 8x8"):
        SynthConfig(size=SensorSize(8, 8), motion=MotionConfig("saccade:9,affine:1"))


def test_every_family_is_listed_with_its_source() -> None:
    assert FAMILIES.keys() == MOTIONS.keys() == MOTION_SOURCES.keys()
    assert list_presets("motions").splitlines()[0].split() == list(MOTIONS)
    with pytest.raises(ConfigError, match="give cameras or motions"):
        list_presets("lenses")
