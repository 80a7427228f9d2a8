"""A CLIP in one file: safetensors weights, with architecture and tokenizer in the metadata.

No network and no registry are needed to load such a file, and nothing in it is executed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ezsr_shards.errors import InputError
from ezsr_train.tower import TowerSpec

METADATA_KEY = "ezsr_clip"
FORMAT_VERSION = 1
_WRAPPERS = ("state_dict", "model", "module")
_OF_TRAINING = {"student", "optimizer", "origin"}
Tokenizer = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class ClipArchitecture:
    """What open_clip needs to build the model, and what its pictures look like.

    embed_dim   width D of the embedding
    vision_cfg, text_cfg   as open_clip's model configurations spell them
    mean, std   of the RGB channels, for pictures in [0, 1]
    """

    embed_dim: int
    vision_cfg: dict[str, Any]
    text_cfg: dict[str, Any]
    mean: tuple[float, float, float] = open_clip.OPENAI_DATASET_MEAN
    std: tuple[float, float, float] = open_clip.OPENAI_DATASET_STD

    @staticmethod
    def small(size_px: int) -> ClipArchitecture:
        """Return a ResNet of 1.3 M parameters, as in OpenAI's CLIP, for pictures of 64 px or so.

        From 10,000 pictures it learns far more than a vision transformer of its size does.
        """
        vision = {"image_size": size_px, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16}
        text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
        return ClipArchitecture(64, vision, text)

    @property
    def tower(self) -> TowerSpec:
        """The image tower alone."""
        return TowerSpec(self.embed_dim, self.vision_cfg, False, self.mean, self.std)


def build_clip(architecture: ClipArchitecture) -> tuple[open_clip.CLIP, Tokenizer]:
    """Return a freshly initialised model, in training mode, and its tokenizer."""
    clip = open_clip.CLIP(
        embed_dim=architecture.embed_dim,
        vision_cfg=architecture.vision_cfg,
        text_cfg=architecture.text_cfg,
    )
    return clip, SimpleTokenizer(context_length=int(architecture.text_cfg["context_length"]))


def save_clip(path: Path, clip: open_clip.CLIP, architecture: ClipArchitecture) -> None:
    """Write weights in float16 and the architecture beside them."""
    weights = {name: value.half().contiguous() for name, value in clip.state_dict().items()}
    facts = {"format": FORMAT_VERSION, **asdict(architecture)}
    save_file(weights, path, metadata={METADATA_KEY: json.dumps(facts, sort_keys=True)})


def load_clip(path: Path) -> tuple[open_clip.CLIP, Tokenizer, ClipArchitecture]:
    """Read a file that `save_clip` wrote: float32, in evaluation mode.

    Raises InputError unless every weight of the architecture is there, and no other.
    """
    weights, metadata = read_safetensors(path, "model")
    try:
        facts = json.loads(metadata[METADATA_KEY])
        if facts.pop("format") != FORMAT_VERSION:
            raise InputError(f"model {path}: written by another version of this program")
        architecture = ClipArchitecture(**facts)
        _refuse_downloads(architecture)
        clip, tokenizer = build_clip(architecture)
    except InputError:
        raise
    except Exception as error:  # open_clip and torch raise almost anything on absurd sizes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"model {path}: no CLIP architecture in its metadata ({reason}); such files are "
            f"written by benchmarks/small_clip.py"
        ) from error
    load_strictly(clip, weights, f"model {path}")
    return clip.eval(), tokenizer, architecture


def _refuse_downloads(architecture: ClipArchitecture) -> None:
    """Raise ValueError where a file's metadata would make open_clip fetch something."""
    for name, value in {**architecture.vision_cfg, **architecture.text_cfg}.items():
        remote = isinstance(value, str) and ":" in value
        if name.startswith("hf_") or name == "timm_model_pretrained" or remote:
            raise ValueError(f"{name} names something to be downloaded")


@contextmanager
def _open_safetensors(path: Path, what: str) -> Iterator[Any]:
    """Open a file; raise InputError, which begins with `what`, if it is none of the kind."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise InputError(f"{what} {path}: unreadable safetensors file ({error})") from error


def read_safetensors(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file; raise InputError if it is none of the kind."""
    with _open_safetensors(path, what) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_metadata(path: Path, what: str) -> dict[str, str]:
    """Return the metadata alone; raise InputError as `read_safetensors`."""
    with _open_safetensors(path, what) as file:
        return file.metadata() or {}


def read_weights(path: Path, what: str = "pretrained") -> dict[str, Tensor]:
    """Return a local file's weights by name, whatever they are wrapped in, executing nothing.

    Raises InputError, which begins with `what` and the path, if it holds anything but weights.
    """
    if path.suffix == ".safetensors":
        return _unwrap(read_safetensors(path, what)[0], f"{what} {path}")
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{what} {path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # whatever torch and pickle make of other files
        raise InputError(
            f"{what} {path}: not a file of plain weights; a TorchScript archive or a pickled "
            f"object is not loaded: save its state_dict"
        ) from error
    return _unwrap(loaded, f"{what} {path}")


def _unwrap(loaded: Any, source: str) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name; raise InputError where there is none."""
    if isinstance(loaded, Mapping) and loaded.keys() >= _OF_TRAINING:
        raise InputError(
            f"{source}: a training checkpoint, to go on from with --resume; where an encoder is "
            f"wanted, give the encoder.safetensors or best.safetensors beside it"
        )
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping):
        raise InputError(f"{source}: holds no weights by name; save a state_dict")
    return {
        str(name).removeprefix("module."): value
        for name, value in loaded.items()
        if isinstance(value, Tensor)
    }


def load_strictly(module: torch.nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load weights into a module; raise InputError naming the first key that does not fit."""
    expected = module.state_dict()
    for kind, names in (
        ("lacks", expected.keys() - weights.keys()),
        ("has an unknown", weights.keys() - expected.keys()),
    ):
        if names:
            raise InputError(f"{source}: {kind} weight {min(names)!r} ({len(names)} in all)")
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            raise InputError(
                f"{source}: weight {name!r} is {tuple(value.shape)}, the architecture "
                f"needs {tuple(expected[name].shape)}"
            )
        if expected[name].is_floating_point() and not value.is_floating_point():
            raise InputError(f"{source}: weight {name!r} is of {value.dtype}")
        if not bool(value.isfinite().all()):
            raise InputError(f"{source}: weight {name!r} holds what is no number")
    module.load_state_dict({name: value.float() for name, value in weights.items()})
