"""Heat maps: what is named is lit, and the picture is what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="training needs pip install 'ezsr[train]'")

import torch.nn.functional as F  # noqa: E402

from ezsr_shards.draw import accumulation_image  # noqa: E402
from ezsr_shards.errors import ConfigError  # noqa: E402
from ezsr_shards.verify import iterate_samples  # noqa: E402
from ezsr_synth.toy import CLASS_NAMES, draw_pair  # noqa: E402
from ezsr_train import heatmap as heatmap_module  # noqa: E402
from ezsr_train.batches import ReadOptions, collate, prepare_item  # noqa: E402
from ezsr_train.cli_evaluate import heatmap  # noqa: E402
from ezsr_train.config import InputConfig  # noqa: E402
from ezsr_train.dense import embed_patches  # noqa: E402
from ezsr_train.encoder import EncoderFacts, EventEncoder, make_student, save_encoder  # noqa: E402
from ezsr_train.heatmap import HeatmapOptions, map_texts  # noqa: E402
from ezsr_train.prepare import View  # noqa: E402
from ezsr_train.recording import StreamRecording  # noqa: E402
from ezsr_train.teacher import Teacher, load_teacher  # noqa: E402
from ezsr_train.tower import normalize  # noqa: E402

CPU = torch.device("cpu")
TOLD = InputConfig(slice_events=800)


@pytest.fixture(scope="module")
def teacher(world: Path) -> Teacher:
    return load_teacher(str(world / "clip.safetensors"), None, CPU)


@pytest.fixture(scope="module")
def encoder(teacher: Teacher) -> EventEncoder:
    return make_student(teacher, TOLD, None).eval()


@pytest.fixture(scope="module")
def encoder_file(
    world: Path, teacher: Teacher, encoder: EventEncoder, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("heat") / "encoder.safetensors"
    clip = str(world / "clip.safetensors")
    facts = EncoderFacts(encoder.spec, TOLD, clip, None, teacher.sha256)
    save_encoder(path, encoder.visual.state_dict(), facts)
    return path


@pytest.mark.parametrize("method", ["surgery", "raw"])
def test_maps_are_likeness_less_what_all_texts_share(
    method: str, world: Path, teacher: Teacher, encoder: EventEncoder
) -> None:
    events = next(iterate_samples(world / "shards")).events
    texts, others = ["a dog", "a cat"], ["a cat", "a bird"]
    how = HeatmapOptions(method=method)  # type: ignore[arg-type]
    maps = map_texts(encoder, teacher, events, texts, TOLD, how, others)
    assert maps.shape == (2, 4, 4)
    read = ReadOptions(TOLD, 32, None)
    item = prepare_item(StreamRecording(events), None, read, View(800, 0.5))
    images = normalize(encoder.draw(collate([item]).events), encoder.spec)
    patches = embed_patches(encoder.visual, images, "kk" if method == "surgery" else "qk")
    with torch.no_grad():
        tokens = teacher.tokenizer(["a dog", "a cat", "a bird"])
        rows = F.normalize(teacher.clip.encode_text(tokens), dim=1)
    likeness = (F.normalize(patches[0], dim=-1) @ rows.T).permute(2, 0, 1)
    expected = (likeness - likeness.mean(0))[:2]
    assert np.allclose(maps, expected.numpy(), atol=1e-6)
    alone = map_texts(encoder, teacher, events, ["a dog"], TOLD, how)
    assert np.ptp(alone) > 0  # one text is compared with what says nothing


def test_the_toy_clip_lights_the_named_shape_of_two() -> None:
    """On pictures; benchmarks/heatmap_toy.py measures it on events."""
    teacher = load_teacher("toy", None, CPU)
    rows = heatmap_module.embed_classes(teacher.clip, teacher.tokenizer, list(CLASS_NAMES), ("{}",))
    lit = []
    for index in range(12):
        pair = draw_pair(index, 128)
        images = torch.from_numpy(pair.rgb).permute(2, 0, 1)[None].float() / 255
        patches = heatmap_module._embed_between(
            teacher.clip.visual, normalize(images, teacher.spec), "v"
        )
        likeness = (F.normalize(patches, dim=-1) @ rows.T).permute(2, 0, 1)
        maps = likeness - likeness.mean(0)
        for label, (left, top, right, bottom) in zip(pair.labels, pair.boxes, strict=True):
            heat = maps[label] - maps[label].min()
            large = F.interpolate(heat[None, None], 128, mode="bilinear")[0, 0]
            inside = torch.zeros(128, 128, dtype=torch.bool)
            inside[int(top * 128) : int(bottom * 128), int(left * 128) : int(right * 128)] = True
            lit.append(float(large[inside].mean() / large[~inside].mean()))
    assert np.mean(np.array(lit) >= 1.5) >= 0.8
    assert np.median(lit) > 1.9


def test_patches_between_lie_where_they_should() -> None:
    """A bright spot moves the patch at half the stride that lies over it."""
    teacher = load_teacher("toy", None, CPU)
    tower = teacher.clip.visual
    plain = torch.zeros(1, 3, 128, 192)
    before = heatmap_module._embed_between(tower, plain, "v")
    assert before.shape == (8, 12, 64)
    for row, column in ((2, 3), (5, 8), (4, 4)):
        spotted = plain.clone()
        spotted[:, :, row * 16 + 4 : row * 16 + 12, column * 16 + 4 : column * 16 + 12] = 3.0
        change = (heatmap_module._embed_between(tower, spotted, "v") - before).norm(dim=-1)
        found = np.unravel_index(int(change.argmax()), change.shape)
        assert abs(found[0] - row) <= 1
        assert abs(found[1] - column) <= 1


def test_the_command_draws_a_panel_per_text(
    world: Path, encoder_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(world / "shards"), "--checkpoint", str(encoder_file)]
    words += [
        "--text",
        "a dog",
        "--text",
        "a very long text " * 9,
        "--out",
        str(tmp_path / "a.png"),
    ]
    assert heatmap(words) == 0
    assert "wrote" in capsys.readouterr().out
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (4 * 308 + 8, 200 + 8 + 26)
        pixels = np.asarray(sheet)
    events = next(iterate_samples(world / "shards")).events
    start = int(0.5 * (len(events) - 800 + 1))
    middle = {name: getattr(events, name)[start : start + 800] for name in "xytp"}
    drawn = accumulation_image(replace(events, **middle))
    panel = pixels[8:208, 8 + 308 : 308 + 308]
    shown = np.asarray(Image.fromarray(drawn).resize((300, 200), Image.Resampling.NEAREST))
    assert np.array_equal(panel, shown)


def test_a_recording_of_ones_own_has_no_picture(
    world: Path, encoder_file: Path, tmp_path: Path
) -> None:
    events = next(iterate_samples(world / "shards")).events
    np.save(tmp_path / "mine.npy", events.to_structured())
    words = [str(tmp_path / "mine.npy"), "--checkpoint", str(encoder_file), "--size", "48x32"]
    assert heatmap([*words, "--text", "a dog", "--out", str(tmp_path / "b.png")]) == 0
    with Image.open(tmp_path / "b.png") as sheet:
        assert sheet.size == (2 * 308 + 8, 200 + 8 + 26)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["EVENTS", "--text", "a", "--out", "map.jpg"], "must end in .png"),
        (["nowhere.npz", "--text", "a", "--out", "OUT"], "no such file"),
        (["EVENTS", "--text", "a", "--out", "OUT", "--key", "none"], "holds no sample none"),
        (["EVENTS", "--out", "OUT"], "text"),
        (["EVENTS", "--text", "a", "--out", "OUT", "--input-px", "64"], "only ResNets"),
        (["EVENTS", "--text", "a", "--out", "nowhere/map.png"], "cannot be written"),
        (["EVENTS", "--text", "a", "--text", " ", "--out", "OUT"], "none of them empty"),
        (["EVENTS", "--text", "a", "--text", "a", "--out", "OUT"], "give different texts"),
        (["EVENTS", "--text", "a", "--out", "OUT", "--format", "npz"], "leave --format out"),
        (["EVENTS", "--text", "a", "--out", "OUT", "--size", "48x32"], "leave --size out"),
        (["FILE", "--text", "a", "--out", "OUT", "--sample", "1"], "leave --sample out"),
        (["FILE", "--text", "a", "--out", "OUT", "--key", "a"], "leave --key out"),
        (["EVENTS", "--text", "a", "--out", "OUT", "--key", "a", "--sample", "1"], "sample 1"),
        (
            ["EVENTS", "--text", "a", "--out", "OUT", "--method", "raw", "--attention", "vv"],
            "attention vv: --method raw shows the tower's own",
        ),
    ],
)
def test_mistakes_end_in_a_sentence(
    arguments: list[str],
    message: str,
    world: Path,
    encoder_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.save(tmp_path / "mine.npy", next(iterate_samples(world / "shards")).events.to_structured())
    places = {
        "EVENTS": str(world / "shards"),
        "FILE": str(tmp_path / "mine.npy"),
        "OUT": str(tmp_path / "map.png"),
    }
    words = [places.get(word, word) for word in arguments]
    assert heatmap([*words, "--checkpoint", str(encoder_file)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said
    assert not (tmp_path / "map.png").exists()


def test_other_sizes_of_a_resnet_are_multiples_of_its_stride(world: Path) -> None:
    teacher = load_teacher("toy", None, CPU)
    encoder = make_student(teacher, TOLD, None).eval()
    events = next(iterate_samples(world / "shards")).events
    for side, expected in ((0, 8), (64, 4), (96, 6)):
        how = HeatmapOptions(input_px=side)
        assert map_texts(encoder, teacher, events, ["a", "b"], TOLD, how).shape == (
            2,
            expected,
            expected,
        )
    with pytest.raises(ConfigError, match="give a multiple of 32"):
        map_texts(encoder, teacher, events, ["a", "b"], TOLD, HeatmapOptions(input_px=50))
