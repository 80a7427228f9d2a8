"""What tests share: seeded pictures, a folder of them, and the optional real data."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
REAL_DATA = Path(os.environ.get("EZSR_DATA", ROOT.parent / "shared" / "data"))


def smooth_picture(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    """A colourful picture with edges: smooth noise, thresholded here and there."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((height // 8 + 2, width // 8 + 2, 3)).astype(np.float32)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    picture[picture[..., 0] > 0.6] *= 0.3
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8)


def write_picture(path: Path, rgb: np.ndarray) -> None:
    """Write an RGB picture in the format that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), rgb[..., ::-1])


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """Twelve JPEGs in three class folders."""
    folder = tmp_path / "pictures"
    for n in range(12):
        write_picture(folder / f"class_{'abc'[n % 3]}" / f"image {n:02d}.jpg", smooth_picture(n))
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real pictures and recordings; tests that need them are skipped where there are none."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data at {REAL_DATA}; set EZSR_DATA to a folder that has it")
    return REAL_DATA


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small toy shards, `shards`, and an untrained CLIP of 32 px, `clip.safetensors`."""
    torch = pytest.importorskip("torch", reason="training needs pip install 'ezsr[train]'")
    from ezsr_shards.making import RunOptions
    from ezsr_synth.config import SensorSize, SynthConfig
    from ezsr_synth.run import synthesize
    from ezsr_synth.sources import SourceOptions
    from ezsr_train.clip_file import ClipArchitecture, build_clip, save_clip

    folder = tmp_path_factory.mktemp("world")
    config = SynthConfig(size=SensorSize(48, 32), max_events=3000)
    synthesize("toy:24", folder / "shards", config, SourceOptions(shard_size=5), RunOptions(2))
    torch.manual_seed(0)
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    architecture = ClipArchitecture(8, vision, text)
    save_clip(folder / "clip.safetensors", build_clip(architecture)[0], architecture)
    return folder


def set_bytes(out: Path) -> dict[str, str]:
    """Every file of the shard set and the hash of its bytes."""
    kept = [*out.glob("*.tar"), *out.glob("*.json")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}
