"""Teachers and encoders: files are checked to the last key, and nothing in them is executed."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs pip install 'ezsr[train]'")
import open_clip  # noqa: E402
from huggingface_hub import constants as hub  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from ezsr_shards.errors import ConfigError, InputError  # noqa: E402
from ezsr_train.clip_file import load_clip  # noqa: E402
from ezsr_train.config import InputConfig  # noqa: E402
from ezsr_train.encoder import (  # noqa: E402
    EncoderFacts,
    load_encoder,
    make_student,
    save_encoder,
)
from ezsr_train.representation import PackedEvents  # noqa: E402
from ezsr_train.teacher import load_teacher  # noqa: E402

CPU = torch.device("cpu")
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 2, "head_width": 8}
EVA = {
    "image_size": 224,
    "timm_model_name": "eva02_tiny_patch14_224",
    "timm_pool": "token",
    "timm_proj": None,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models under open_clip's names, with and without QuickGELU, and one of timm's."""
    folder = tmp_path_factory.mktemp("configs")
    for name, facts in (
        ("tiny", {"embed_dim": 8, "vision_cfg": VIT, "text_cfg": TEXT}),
        (
            "tiny-quickgelu",
            {"embed_dim": 8, "vision_cfg": VIT, "text_cfg": TEXT, "quick_gelu": True},
        ),
        ("tiny-eva", {"embed_dim": 192, "vision_cfg": EVA, "text_cfg": TEXT, "custom_text": True}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(facts))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    for name in ("tiny", "tiny-quickgelu", "tiny-eva"):
        torch.save(open_clip.create_model(name).state_dict(), folder / f"{name}.pt")
    return folder


def pictures(size: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (3, 3, size, size), dtype=np.uint8))


@pytest.mark.parametrize("name", ["tiny", "tiny-quickgelu", "tiny-eva"])
def test_open_clip_models_load_with_local_weights(name: str, models: Path) -> None:
    """The same embeddings as open_clip's own preprocessing and tower give."""
    teacher = load_teacher(name, str(models / f"{name}.pt"), CPU)
    clip, _, preprocess = open_clip.create_model_and_transforms(name)
    clip.load_state_dict(torch.load(models / f"{name}.pt", weights_only=True))
    rgb = pictures(teacher.spec.size_px)
    from PIL import Image

    inputs = torch.stack([preprocess(Image.fromarray(p.permute(1, 2, 0).numpy())) for p in rgb])
    with torch.no_grad():
        expected = clip.eval().encode_image(inputs)
    assert torch.allclose(teacher.embed_pictures(rgb), expected, atol=1e-5)
    assert teacher.spec.quick_gelu == (name == "tiny-quickgelu")
    assert not any(parameter.requires_grad for parameter in teacher.clip.parameters())
    assert teacher.tokenizer(["a dog"]).shape == (1, 8)


@pytest.mark.parametrize("name", ["tiny", "tiny-quickgelu", "tiny-eva"])
def test_an_exported_encoder_comes_back_whole(name: str, models: Path, tmp_path: Path) -> None:
    teacher = load_teacher(name, str(models / f"{name}.pt"), CPU)
    student = make_student(teacher, InputConfig(representation="polarity"), None).eval()
    told = InputConfig(representation="polarity", slice_events=99, geometry="crop")
    facts = EncoderFacts(student.spec, told, name, "somewhere.pt", teacher.sha256)
    save_encoder(tmp_path / "e.safetensors", student.visual.state_dict(), facts)
    loaded, found = load_encoder(tmp_path / "e.safetensors")
    assert found.input == told
    assert (found.model, found.pretrained) == (name, "somewhere.pt")
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, top, 500, dtype=np.uint8) for top in (28, 28, 2)]
    x, y, p = (torch.from_numpy(column) for column in columns)
    events = PackedEvents(x, y, torch.empty(0), p, torch.tensor([0, 200, 500]))
    with torch.no_grad():
        assert torch.equal(loaded(events), student(events))


def test_the_activation_mismatch_is_refused(models: Path, tmp_path: Path) -> None:
    weights = torch.load(models / "tiny-quickgelu.pt", weights_only=True)
    torch.save({**weights, "input_resolution": torch.tensor(32)}, tmp_path / "RN.pt")
    torch.save(weights, tmp_path / "my-openai-copy.pt")
    for file in ("RN.pt", "my-openai-copy.pt"):
        with pytest.raises(InputError, match="say --model tiny-quickgelu"):
            load_teacher("tiny", str(tmp_path / file), CPU)
        load_teacher("tiny-quickgelu", str(tmp_path / file), CPU)
    for model, tag, remedy in (
        ("ViT-B-32", "openai", "--model ViT-B-32-quickgelu"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", None),
    ):
        with pytest.raises(InputError, match=remedy or "no weights of open_clip"):
            load_teacher(model, tag, CPU)


def test_a_local_file_is_normalised_as_the_models_known_weights() -> None:
    from ezsr_train.teacher import _agreed

    mean = open_clip.OPENAI_DATASET_MEAN
    assert tuple(_agreed("ViT-B-16-SigLIP", "mean", mean, None)) == (0.5, 0.5, 0.5)
    assert tuple(_agreed("ViT-B-16", "mean", mean, None)) == mean
    assert tuple(_agreed("no-such-model", "mean", mean, None)) == mean
    assert _agreed("ViT-B-16-quickgelu", "quick_gelu", False, False) is True


def test_weights_must_land_to_the_last_key(models: Path, tmp_path: Path) -> None:
    weights = torch.load(models / "tiny.pt", weights_only=True)
    name = "visual.conv1.weight"
    renamed = {("visual.conv9.weight" if k == name else k): v for k, v in weights.items()}
    for change, message in (
        ({k: v for k, v in weights.items() if k != name}, f"lacks weight '{name}'"),
        ({**weights, "extra": weights[name]}, "unknown weight 'extra'"),
        ({**weights, name: weights[name][:, :1]}, "the architecture needs"),
        (renamed, f"lacks weight '{name}'"),
    ):
        torch.save(change, tmp_path / "bad.pt")
        with pytest.raises(InputError, match=message):
            load_teacher("tiny", str(tmp_path / "bad.pt"), CPU)
    wrapped = {"state_dict": {f"module.{k}": v for k, v in weights.items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "wrapped.pt")
    one, other = (
        load_teacher("tiny", str(path), CPU).sha256
        for path in (models / "tiny.pt", tmp_path / "wrapped.pt")
    )
    assert one == other


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


def test_a_pickled_object_is_not_executed(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    for content in (pickle.dumps({"w": Bomb()}, protocol=2), b"nonsense", b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a file of plain weights"):
            load_teacher("tiny", str(path), CPU)


def test_models_that_are_none_are_refused(models: Path) -> None:
    with pytest.raises(InputError, match="neither toy"):
        load_teacher("ViT-nonsense", None, CPU)
    with pytest.raises(ConfigError, match=r"needs weights.*openai"):
        load_teacher("ViT-B-32-quickgelu", None, CPU)
    with pytest.raises(InputError, match="no such file"):
        load_teacher("tiny", "nowhere.pt", CPU)


def test_without_a_network_one_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """At once, and without the log of a client that goes on trying."""

    def refuse(*_: object) -> None:
        raise OSError("no network")

    def give_up(_: float) -> None:
        raise AssertionError("waited to try again")

    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("ezsr_train.teacher.getproxies", dict)
    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("time.sleep", give_up)
    for model, tag in (("ViT-B-16-quickgelu", "openai"), ("EVA02-B-16", "merged2b_s8b_b131k")):
        with pytest.raises(InputError, match=f"'{tag}': .* reached.* local file with --pretrained"):
            load_teacher(model, tag, CPU)
    assert capfd.readouterr().err == ""
    assert not hub.HF_HUB_OFFLINE


def test_a_download_that_fails_otherwise_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        logging.getLogger("huggingface_hub").error("Retrying in 1s [Retry 1/5].")
        raise RuntimeError("401\n\n  unauthorized")

    monkeypatch.setattr("ezsr_train.teacher._reaches", lambda url: True)
    monkeypatch.setattr(open_clip, "create_model", fail)
    with pytest.raises(InputError, match=r"not to be had \(401 unauthorized\); give a local file"):
        load_teacher("ViT-B-16-quickgelu", "openai", CPU)
    assert capfd.readouterr().err == ""


def test_clip_files_are_checked(world: Path, tmp_path: Path) -> None:
    path = world / "clip.safetensors"
    _, _, architecture = load_clip(path)
    assert architecture.embed_dim == 8
    weights = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    bad = tmp_path / "bad.safetensors"
    name = "visual.proj"
    facts = json.loads(metadata["ezsr_clip"])
    for part, evil in (
        ("text_cfg", {"hf_model_name": "someone/something"}),
        ("vision_cfg", {"timm_model_name": "hf-hub:someone/something"}),
        ("vision_cfg", {"width": -3}),
    ):
        text = json.dumps({**facts, part: {**facts[part], **evil}})
        save_file(weights, bad, metadata={"ezsr_clip": text})
        with pytest.raises(InputError, match="no CLIP architecture"):
            load_clip(bad)
    for change, message in (
        ({k: v for k, v in weights.items() if k != name}, f"lacks weight '{name}'"),
        ({**weights, "extra": weights[name].clone()}, "unknown weight 'extra'"),
        ({**weights, name: weights[name][:1].contiguous()}, "the architecture needs"),
    ):
        save_file(change, bad, metadata=metadata)
        with pytest.raises(InputError, match=message):
            load_clip(bad)
    save_file(weights, bad)
    with pytest.raises(InputError, match="no CLIP architecture"):
        load_clip(bad)
    with pytest.raises(InputError, match=r"not a file of ezsr-train"):
        load_encoder(bad)
    bad.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="unreadable"):
        load_clip(bad)


def test_the_toy_clip_names_what_it_sees() -> None:
    """The file that the project brings knows the toy world's pictures, the unseen ones too."""
    from ezsr_synth.toy import CLASS_NAMES, draw_toy, toy_label
    from ezsr_train.zeroshot import count_hits, embed_classes

    teacher = load_teacher("toy", None, CPU)
    size = teacher.spec.size_px
    drawn = np.stack([draw_toy(n, "unseen", size) for n in range(150)])
    embeddings = teacher.embed_pictures(torch.from_numpy(drawn).permute(0, 3, 1, 2))
    labels = torch.tensor([toy_label(n, "unseen") for n in range(150)])
    texts = embed_classes(teacher.clip, teacher.tokenizer, CLASS_NAMES)
    assert count_hits(embeddings, labels, texts).share > 0.9
