"""Motions: reproducible, fine enough in time, and as large as configured."""

from __future__ import annotations

import numpy as np
import pytest

from ezsr_synth.config import MotionConfig, SensorSize
from ezsr_synth.motion import Motion, draw_motion
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
