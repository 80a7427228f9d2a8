"""Export: an event encoder with its text tower, in a folder that open_clip loads by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save

from ezsr_shards.errors import OutputError
from ezsr_shards.shardset import write_json
from ezsr_shards.store import write_atomically
from ezsr_train.encoder import EventEncoder
from ezsr_train.teacher import Teacher

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"


def check_export(folder: Path, overwrite: bool) -> None:
    """Raise OutputError where a folder holds anything that would be mixed with or overwritten."""
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise OutputError(f"out {folder}: is not empty; give another folder, or --overwrite")


def export_open_clip(encoder: EventEncoder, teacher: Teacher, folder: Path) -> None:
    """Write a CLIP whose image tower is the encoder's, as `open_clip.create_model` reads it.

    `open_clip.create_model("local-dir:FOLDER")` then takes event images, normalised as the
    configuration says, where CLIP takes pictures; `EventEncoder.draw` makes them. The weights
    stay float32. Raises OutputError where nothing can be written.
    """
    spec = encoder.spec
    weights = {
        name: value
        for name, value in teacher.clip.state_dict().items()
        if not name.startswith("visual.")
    }
    weights |= {f"visual.{name}": value for name, value in encoder.visual.state_dict().items()}
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    config: dict[str, Any] = {
        "model_cfg": {**teacher.config, "vision_cfg": dict(spec.vision_cfg)},
        "preprocess_cfg": {"mean": list(spec.mean), "std": list(spec.std)},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = save(plain, metadata={"made_by": "ezsr"})
        write_atomically(folder / WEIGHTS_FILE, lambda file: _write(file, content))
        write_json(folder, CONFIG_FILE, json.loads(json.dumps(config)))
    except OSError as error:
        raise OutputError(f"out {folder}: cannot be written ({error.strerror or error})") from error


def _write(file: Any, content: bytes) -> None:
    file.write(content)
