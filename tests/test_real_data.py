"""Real photographs, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ezsr_shards.making import RunOptions
from ezsr_shards.verify import iterate_samples, verify
from ezsr_synth.camera import Camera
from ezsr_synth.config import SynthConfig
from ezsr_synth.decode import decode_picture
from ezsr_synth.motion import draw_motion
from ezsr_synth.randomness import rng_for
from ezsr_synth.run import synthesize
from ezsr_synth.scene import log_picture, place_picture
from ezsr_synth.simulate import simulate


@pytest.fixture(scope="module")
def photographs(real_data: Path) -> list[Path]:
    return sorted((real_data / "imagenet-sample").glob("*.JPEG"))


def test_photographs_to_shards(photographs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(str(path) for path in photographs[::5]))
    report = synthesize(
        str(tmp_path / "list.txt"), tmp_path / "out", SynthConfig(seed=7), run=RunOptions(workers=2)
    )
    assert report.failures == {}
    assert verify(tmp_path / "out").samples == len(photographs[::5])
    for sample in iterate_samples(tmp_path / "out"):
        assert len(sample.events) <= 50_000
        share = sample.events.on_count / len(sample.events)
        assert 0.05 < share < 0.95, "both polarities"


def test_halving_the_time_step_hardly_changes_the_event_count(photographs: list[Path]) -> None:
    """The scene model converges: at most 0.5 px between samples is fine enough."""
    changes = []
    for path in photographs[::10]:
        rgb = decode_picture(path.read_bytes(), 10**8)
        counts = []
        for max_step_px in (0.5, 0.25):
            config = SynthConfig()
            motion = draw_motion(
                rng_for(0, path.name, 0, "motion"),
                type(config.motion)(max_step_px=max_step_px, duration_us=20_000),
                config.size,
            )
            placement = place_picture((rgb.shape[1], rgb.shape[0]), motion, config, 1.0)
            log = log_picture(rgb, placement, config.camera)
            counts.append(len(simulate(log, placement.motion, Camera(0.2, 0.2), config.size)))
        changes.append(counts[1] / counts[0] - 1)
    assert np.median(np.abs(changes)) < 0.02
