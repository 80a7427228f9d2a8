"""The authors' released towers: told by their weights' shapes, and checked to the last key."""

from __future__ import annotations

import copy
import json
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs pip install 'ezsr[train]'")
import open_clip  # noqa: E402
import timm  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from timm.models.eva import checkpoint_filter_fn  # noqa: E402

from ezsr_shards.errors import InputError  # noqa: E402
from ezsr_train import released  # noqa: E402
from ezsr_train.encoder import open_encoder  # noqa: E402
from ezsr_train.released import load_released  # noqa: E402
from ezsr_train.tower import TowerSpec, build_tower  # noqa: E402

Weights = dict[str, torch.Tensor]
LAYERS = 2
KNOWN = dict(released._KNOWN)
MODELS = [partner.model for partner in KNOWN.values()]
HUGE = "EVA02-E-14-plus"
OPENAI, EVA = "ViT-B-32-quickgelu", "EVA02-B-16"
# What the authors' package calls the weights of open_clip's EVA-02 towers, written from its keys.
EVA_NAMES = {
    "attn.q_proj.bias": "attn.q_bias",
    "attn.v_proj.bias": "attn.v_bias",
    "attn.norm.weight": "attn.inner_attn_ln.weight",
    "attn.norm.bias": "attn.inner_attn_ln.bias",
    "mlp.fc1_g.weight": "mlp.w1.weight",
    "mlp.fc1_g.bias": "mlp.w1.bias",
    "mlp.fc1_x.weight": "mlp.w2.weight",
    "mlp.fc1_x.bias": "mlp.w2.bias",
    "mlp.norm.weight": "mlp.ffn_ln.weight",
    "mlp.norm.bias": "mlp.ffn_ln.bias",
    "mlp.fc2.weight": "mlp.w3.weight",
    "mlp.fc2.bias": "mlp.w3.bias",
}


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every known tower at full width with few blocks, and with NaN where nothing is loaded."""

    def config(model: str) -> dict[str, Any]:
        facts = copy.deepcopy(real_config(model))
        if "layers" in facts["vision_cfg"]:
            facts["vision_cfg"]["layers"] = depth_of(model)
        return facts

    def create(name: str, **options: Any) -> torch.nn.Module:
        return real_create(name, depth=depth_of(name), **options)

    def leave_blank(weight: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        with torch.no_grad():
            return weight.fill_(float("nan"))

    real_config, real_create = open_clip.get_model_config, timm.create_model
    monkeypatch.setattr(open_clip, "get_model_config", config)
    monkeypatch.setattr(timm, "create_model", create)
    known = {
        sizes._replace(layers=depth_of(partner.model)): partner for sizes, partner in KNOWN.items()
    }
    for module, function in (
        (torch.nn.init, "kaiming_uniform_"),
        (torch.nn.init, "xavier_uniform_"),
        (timm.models.eva, "trunc_normal_"),
    ):
        monkeypatch.setattr(module, function, leave_blank)
    monkeypatch.setattr(released, "_KNOWN", known)


def depth_of(name: str) -> int:
    """Tell by open_clip's name or by timm's."""
    return LAYERS if "-B-" in name or "base" in name else 1


def source_tower(model: str) -> torch.nn.Module:
    """Return open_clip's tower with every weight drawn at random."""
    config = open_clip.get_model_config(model)
    spec = TowerSpec(config["embed_dim"], config["vision_cfg"], bool(config.get("quick_gelu")))
    tower = build_tower(spec, "test")
    with torch.no_grad():
        for weight in tower.parameters():
            spread = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.3
            weight.normal_(float(weight.ndim == 1), spread)
    return tower.eval()


def as_released(tower: torch.nn.Module) -> Weights:
    """Return a tower's weights as the authors' files have them, rotary tables and all."""
    weights, state = {}, tower.state_dict()
    for name, value in state.items():
        name = name.removeprefix("trunk.")
        if name.startswith("blocks.") and "trunk.blocks.0.mlp.fc1_g.weight" in state:
            _, number, inner = name.split(".", 2)
            name = f"blocks.{number}.{EVA_NAMES.get(inner, inner)}"
        weights[f"visual.{name}"] = value
    if getattr(getattr(tower, "trunk", None), "rope", None) is not None:
        sin, cos = tower.trunk.rope.get_embed().chunk(2, -1)
        for owner in ("", *(f"blocks.{n}.attn." for n in range(len(tower.trunk.blocks)))):
            weights[f"visual.{owner}rope.freqs_cos"] = cos
            weights[f"visual.{owner}rope.freqs_sin"] = sin
    return weights


@cache
def example(model: str) -> Weights:
    """Return the file's content of a small tower in half precision, to be spoiled by tests."""
    torch.manual_seed(0)
    weights = as_released(source_tower(model))
    return {name: value.half() for name, value in weights.items()}


def write(path: Path, weights: Any) -> Path:
    torch.save(weights, path)
    return path


@pytest.mark.parametrize("model", MODELS)
def test_a_released_tower_embeds_as_the_one_it_was_saved_from(model: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tower = source_tower(model)
    weights = as_released(tower)
    if model == HUGE:  # the one file that is a whole CLIP
        weights |= {"text.ln_final.bias": torch.zeros(4), "logit_scale": torch.tensor(4.6)}
    found = load_released(write(tmp_path / "any-name.pt", weights))
    pictures = torch.randn(2, 3, found.spec.size_px, found.spec.size_px)
    with torch.no_grad():
        expected, embeddings = tower(pictures), found.tower(pictures)
    assert torch.allclose(embeddings, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert float((expected[0] - expected[1]).abs().max()) > 0.1
    assert found.model == model
    assert found.layout == ("eva" if model.startswith("EVA") else "openai")
    assert found.spec.quick_gelu == (found.layout == "openai")
    assert found.spec.size_px == (336 if "336" in model else 224)
    assert not found.tower.training
    assert not any(weight.requires_grad for weight in found.tower.parameters())
    assert {weight.dtype for weight in found.tower.parameters()} == {torch.float32}
    rebuilt = build_tower(TowerSpec(**json.loads(json.dumps(vars(found.spec)))), "test")
    rebuilt.load_state_dict(found.tower.state_dict())


@pytest.mark.parametrize("model", ["EVA02-B-16", "EVA02-L-14-336"])
def test_our_names_are_those_that_timm_gives(model: str, tmp_path: Path) -> None:
    weights = example(model)
    trunk = load_released(write(tmp_path / "tower.pt", weights)).tower.get_submodule("trunk")
    theirs, ours = checkpoint_filter_fn(dict(weights), trunk), trunk.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name].float(), value) for name, value in ours.items())


def test_open_clip_knows_every_partner() -> None:
    """The text towers' tags exist, and their pictures are normalised as ours."""
    for sizes, partner in KNOWN.items():
        facts = open_clip.pretrained.get_pretrained_cfg(partner.model, partner.pretrained)
        assert facts["mean"] == open_clip.OPENAI_DATASET_MEAN
        assert facts["std"] == open_clip.OPENAI_DATASET_STD
        assert bool(facts.get("quick_gelu")) == (sizes.layout == "openai")
        config = open_clip.get_model_config(partner.model)
        assert bool(config.get("quick_gelu")) == (sizes.layout == "openai")
        assert config["embed_dim"] == sizes.embed_dim
        side = config["vision_cfg"]["image_size"]
        assert sizes.positions == 1 + (side // sizes.patch_px) ** 2


def test_full_depth_is_that_of_open_clip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    path = write(tmp_path / "shallow.pt", example(EVA))
    with pytest.raises(InputError, match=r"eva of width 768.* 2 layers.*known.*ViT-B-32-quickgelu"):
        load_released(path)
    for model, layers in (("ViT-L-14-336-quickgelu", 24), (OPENAI, 12)):
        sizes = next(one for one, partner in KNOWN.items() if partner.model == model)
        assert open_clip.get_model_config(model)["vision_cfg"]["layers"] == layers == sizes.layers
    for model in (EVA, "EVA02-L-14", "EVA02-L-14-336", HUGE):
        sizes = next(one for one, partner in KNOWN.items() if partner.model == model)
        name = open_clip.get_model_config(model)["vision_cfg"]["timm_model_name"]
        with torch.device("meta"):
            trunk = timm.create_model(name)
        assert len(trunk.blocks) == sizes.layers


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"state_dict": weights, "epoch": 3},
        lambda weights: {"model": weights},
        lambda weights: {"module": weights},
        lambda weights: {f"module.{name}": value for name, value in weights.items()},
        lambda weights: {name.removeprefix("visual."): value for name, value in weights.items()},
        lambda weights: {name: value.double() for name, value in weights.items()},
        lambda weights: {n: v for n, v in weights.items() if ".rope." not in n},
    ],
)
def test_wrappings_make_no_difference(wrap: Any, tmp_path: Path) -> None:
    weights = example(EVA)
    state = load_released(write(tmp_path / "wrapped.pt", wrap(weights))).tower.state_dict()
    for name, theirs in (
        ("trunk.blocks.1.mlp.fc2.weight", "visual.blocks.1.mlp.w3.weight"),
        ("trunk.head.weight", "visual.head.weight"),
    ):
        assert torch.equal(state[name], weights[theirs].float())
    assert not any(value.isnan().any() for value in state.values())


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    weights = example(OPENAI)
    tower = load_released(write(tmp_path / "half.pt", weights)).tower
    for name, value in tower.state_dict().items():
        assert value.dtype == torch.float32
        assert weights[f"visual.{name}"].dtype == torch.float16
        assert torch.equal(value, weights[f"visual.{name}"].float())


def changed(weights: Weights, name: str, how: str) -> Weights:
    value = weights[name]
    rest = {other: it for other, it in weights.items() if other != name}
    return {
        "missing": rest,
        "renamed": {**rest, f"{name}_": value},
        "extra": {**weights, f"{name}.more": value},
        "shape": {**weights, name: value[..., :-1]},
        "whole numbers": {**weights, name: value.long()},
        "no number": {**weights, name: spoil_one(value, float("nan"))},
        "infinite": {**weights, name: spoil_one(value, float("-inf"))},
    }[how]


def spoil_one(value: torch.Tensor, to: float) -> torch.Tensor:
    """Return a copy in which the last number is another."""
    spoiled = value.clone()
    spoiled.view(-1)[-1] = to
    return spoiled


@pytest.mark.parametrize(
    "how", ["missing", "renamed", "extra", "shape", "whole numbers", "no number", "infinite"]
)
@pytest.mark.parametrize(
    ("model", "name"),
    [
        (OPENAI, "visual.transformer.resblocks.1.attn.in_proj_weight"),
        (EVA, "visual.blocks.0.attn.inner_attn_ln.weight"),
        (EVA, "visual.blocks.1.mlp.w3.weight"),
        (EVA, "visual.blocks.1.attn.q_bias"),
    ],
)
def test_every_weight_is_accounted_for(model: str, name: str, how: str, tmp_path: Path) -> None:
    """The message has the file, and the weight as the file spells it."""
    path = write(tmp_path / "spoiled.pt", changed(example(model), name, how))
    message = {
        "missing": f"lacks weight '{name}'",
        "renamed": f"lacks weight '{name}'",
        "extra": f"unknown weight '{name}.more'",
        "shape": f"weight '{name}' is ",
        "whole numbers": f"weight '{name}' is .* of torch.int64",
        "no number": f"weight '{name}' holds what is no number",
        "infinite": f"weight '{name}' holds what is no number",
    }[how]
    with pytest.raises(InputError, match=f"encoder .*spoiled.pt: .*{message}"):
        load_released(path)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (OPENAI, "visual.positional_embedding"),
        (OPENAI, "visual.proj"),
        (EVA, "visual.pos_embed"),
        (EVA, "visual.head.weight"),
    ],
)
def test_weights_that_tell_the_sizes_are_needed(model: str, name: str, tmp_path: Path) -> None:
    weights = example(model)
    for how, message in (
        ("missing", f"lacks weight '{name}'"),
        ("renamed", f"lacks weight '{name}'"),
        ("shape", f"weight '{name}' is "),
    ):
        with pytest.raises(InputError, match=message):
            load_released(write(tmp_path / "bad.pt", changed(weights, name, how)))
    with pytest.raises(InputError, match=f"weight '{name}' is .*which has not"):
        load_released(write(tmp_path / "bad.pt", {**weights, name: torch.zeros(5)}))


@pytest.mark.parametrize(
    ("model", "name", "change", "shapes"),
    [
        (OPENAI, "visual.proj", lambda it: it.T, r"\(512, 768\) .*needs \(768, 512\)"),
        (OPENAI, "visual.positional_embedding", lambda it: it[1:], r"\(49, .*needs \(50, 768\)"),
        (EVA, "visual.head.weight", lambda it: it.T, r"\(768, 512\) .*needs \(512, 768\)"),
        (EVA, "visual.pos_embed", lambda it: it[:, 1:], r"\(1, 196, .*needs \(1, 197, 768\)"),
        (EVA, "visual.pos_embed", lambda it: it.new_zeros(1, 226, 768), r"\(1, 226, .*\(1, 197, "),
        (
            "ViT-L-14-336-quickgelu",
            "visual.positional_embedding",
            lambda it: it[:-1],
            r"\(576, 1024\) .*ViT-L-14-336-quickgelu needs \(577, 1024\)",
        ),
    ],
)
def test_a_weight_of_another_size_is_named_with_both_shapes(
    model: str, name: str, change: Any, shapes: str, tmp_path: Path
) -> None:
    """Neither turned nor resampled, and not told as a tower that nobody knows."""
    weights = example(model)
    path = write(tmp_path / "bad.pt", {**weights, name: change(weights[name])})
    with pytest.raises(InputError, match=f"weight '{name}' is {shapes}"):
        load_released(path)


@pytest.mark.parametrize("model", [OPENAI, EVA])
def test_another_depth_is_refused(model: str, tmp_path: Path) -> None:
    weights = example(model)
    block = released._KEYS["openai" if model == OPENAI else "eva"].block
    first, last = f"visual.{block}0.", f"visual.{block}{LAYERS - 1}."
    deeper = {
        name.replace(first, f"visual.{block}{LAYERS}."): value for name, value in weights.items()
    }
    for change, layers in (
        ({n: v for n, v in weights.items() if not n.startswith(last)}, LAYERS - 1),
        ({**weights, **deeper}, LAYERS + 1),
    ):
        with pytest.raises(InputError, match=f"{layers} layers, 512 dimensions; known are"):
            load_released(write(tmp_path / "bad.pt", change))


def test_files_in_other_layouts_are_refused(tmp_path: Path) -> None:
    """Open_clip's own EVA, a layout under another's names, a whole CLIP of another's."""
    openai, eva = example(OPENAI), example(EVA)
    trunk = {n.replace("visual.", "visual.trunk."): v for n, v in eva.items()}
    for weights, message in (
        (trunk, "neither 'visual.conv1.weight' nor 'visual.patch_embed.proj.weight'"),
        ({"w": torch.zeros(1)}, "no image tower in the layout"),
        ({}, "no image tower in the layout"),
        ({**openai, **eva}, "has an unknown weight 'visual.blocks.0"),
        ({**openai, "token_embedding.weight": torch.zeros(1)}, "unknown weight 'token_embedding"),
        ({**openai, "visual.rope.freqs_cos": torch.zeros(1)}, "unknown weight 'visual.rope"),
        ({**eva, "rope.freqs_cos": torch.zeros(1)}, "unknown weight 'rope"),
    ):
        with pytest.raises(InputError, match=message):
            load_released(write(tmp_path / "bad.pt", weights))


def rotary_table(side: int) -> np.ndarray:
    """Angles (side * side, 64) of EVA-02's attention, one by one.

    Half of a head of 64 turns with the row, half with the column, in pairs, at 16 frequencies;
    places are stretched to the 16 of its first training.
    """
    angles = np.zeros((side, side, 64))
    for row, column, number in np.ndindex(side, side, 64):
        place = column if number >= 32 else row
        angles[row, column, number] = place * 16 / side / 10_000 ** (number % 32 // 2 / 16)
    return angles.reshape(-1, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("model", ["EVA02-B-16", "EVA02-L-14-336"])
def test_rotary_tables_are_compared(model: str, dtype: torch.dtype, tmp_path: Path) -> None:
    weights = dict(example(model))
    side = 24 if "336" in model else 14
    angles = torch.from_numpy(rotary_table(side))
    tables = {
        "rope.freqs_cos": angles.cos().to(dtype),
        "blocks.0.attn.rope.freqs_sin": angles.sin(),
    }
    weights |= {f"visual.{name}": value for name, value in tables.items()}
    load_released(write(tmp_path / "tower.pt", weights))
    for name, value in tables.items():
        for change, message in (
            (value[1:], rf"'visual.{name}' is \({side * side - 1}, 64\).*\({side * side}, 64\)"),
            (value.flip(0), f"'visual.{name}' is up to .* away from the tower's own rotary table"),
            (spoil_one(value, float("nan")), f"'visual.{name}' is up to nan away"),
        ):
            path = write(tmp_path / "bad.pt", {**weights, f"visual.{name}": change})
            with pytest.raises(InputError, match=f"bad.pt: weight {message}"):
                load_released(path)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


def test_a_pickled_object_is_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    inside = write(tmp_path / "inside.pt", {**example(OPENAI), "args": Bomb()}).read_bytes()
    for content in (pickle.dumps({"w": Bomb()}, protocol=2), inside, b"nonsense", b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"encoder .*bomb.pt: not a file of plain weights"):
            load_released(path)
    with pytest.raises(InputError, match="holds no weights by name"):
        load_released(write(path, torch.zeros(3)))


@pytest.mark.parametrize("model", [OPENAI, EVA])
def test_a_tower_kept_as_safetensors_is_the_same(model: str, tmp_path: Path) -> None:
    weights = {name: value.contiguous() for name, value in example(model).items()}
    save_file(weights, tmp_path / "tower.safetensors")
    kept, facts = open_encoder(tmp_path / "tower.safetensors")
    expected, others = open_encoder(write(tmp_path / "tower.pt", weights))
    assert facts == others
    state = expected.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in kept.state_dict().items())
    save_file({"w": torch.zeros(1)}, tmp_path / "tower.safetensors")
    with pytest.raises(InputError, match="no image tower in the layout of EZSR's authors"):
        open_encoder(tmp_path / "tower.safetensors")


def test_what_is_no_encoder_is_called_what_it_is(world: Path, tmp_path: Path) -> None:
    (tmp_path / "garbled.safetensors").write_bytes(b"nonsense")
    for path, message in (
        (tmp_path, f"encoder {tmp_path}: a folder; give .*encoder.safetensors"),
        (world / "clip.safetensors", "a whole CLIP, which --model takes"),
        (tmp_path / "garbled.safetensors", "encoder .*garbled.safetensors: unreadable"),
        (tmp_path / "nowhere.pt", "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            open_encoder(path)
