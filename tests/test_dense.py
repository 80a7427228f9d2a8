"""Patch embeddings: modified attention against slow twins, the unmodified one against towers."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs pip install 'ezsr[train]'")
import timm  # noqa: E402
from torch import nn  # noqa: E402

from ezsr_shards.errors import ConfigError  # noqa: E402
from ezsr_train.dense import Attention, embed_class_token, embed_patches  # noqa: E402
from ezsr_train.tower import TowerSpec, build_tower  # noqa: E402

D = 12
ATTENTIONS = get_args(Attention)
VIT = {"image_size": (32, 24), "patch_size": 8, "width": 32, "head_width": 8, "layers": 2}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 4, "head_width": 16}
EVA = {"timm_pool": "token", "timm_proj": None}
SMALL = {"embed_dim": 48, "num_heads": 3, "depth": 2}
# Those of EVA: rotations, SwiGLU and inner norms; the same as open_clip's adapter may extend it;
# post-norm and fused projections; fused ones alone, with layer-scale.
TOWERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vit": (VIT, {}),
    "vit-scaled": ({**VIT, "ls_init_value": 0.1}, {}),
    "eva02-base": (
        {**EVA, "timm_model_name": "eva02_base_patch16_clip_224"},
        {**SMALL, "img_size": (64, 48)},
    ),
    "eva02-linear": (
        {**EVA, "timm_model_name": "eva02_base_patch16_clip_224", "timm_proj": "linear"},
        {**SMALL, "img_size": (64, 48)},
    ),
    "eva02-enormous": (
        {**EVA, "timm_model_name": "eva02_enormous_patch14_clip_224"},
        {**SMALL, "img_size": (56, 42)},
    ),
    "eva-giant": (
        {**EVA, "timm_model_name": "eva_giant_patch14_clip_224"},
        {**SMALL, "img_size": (56, 42), "init_values": 0.1},
    ),
    "resnet": (RESNET, {}),
}
EVAS = [name for name in TOWERS if name.startswith("eva")]
VITS = [name for name in TOWERS if name.startswith("vit")]
SIZES = {"vit": (32, 24), "eva02-base": (64, 48), "eva02-linear": (64, 48), "resnet": (64, 64)}


def make_tower(name: str) -> nn.Module:
    """A small tower with nothing at 0 or 1 behind which a mistake could hide."""
    vision, smaller = TOWERS[name]
    with pytest.MonkeyPatch.context() as patch:  # open_clip hands timm no sizes of towers
        patch.setattr(timm, "create_model", partial(timm.create_model, **smaller))
        torch.manual_seed(0)
        tower = build_tower(TowerSpec(D, vision, quick_gelu=True), name)
    with torch.no_grad():
        for parameter in tower.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.5 * parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(0.5, 0.5)
        for buffer_name, buffer in tower.named_buffers():
            if "running" in buffer_name:
                buffer.uniform_(0.5, 1.5)
    return tower.eval()


@pytest.fixture(scope="module")
def towers() -> dict[str, nn.Module]:
    return {name: make_tower(name) for name in TOWERS}


def images_for(name: str, count: int = 2) -> torch.Tensor:
    size = SIZES.get(name, SIZES["vit"] if name in VITS else (56, 42))
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def difference(found: torch.Tensor, expected: Any) -> float:
    """Largest difference, relative to the largest value."""
    want = torch.as_tensor(expected, dtype=torch.float32)
    assert found.shape == want.shape
    assert found.dtype == torch.float32
    assert want.std() > 0.01
    return float((found - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("name", TOWERS)
def test_the_class_token_of_the_unmodified_path_is_the_towers_output(
    name: str, towers: dict[str, nn.Module]
) -> None:
    tower, images = towers[name], images_for(name)
    with torch.no_grad():
        expected = tower(images)
    assert difference(embed_class_token(tower, images), expected) < 1e-5


@pytest.mark.parametrize("name", [*VITS, *EVAS])
def test_unmodified_patches_are_those_of_open_clip(name: str, towers: dict[str, nn.Module]) -> None:
    tower, images = towers[name], images_for(name)
    with torch.no_grad():
        found = tower.forward_intermediates(images, indices=1, normalize_intermediates=True)
        tokens = found["image_intermediates"][-1].permute(0, 2, 3, 1)
        expected = tokens @ tower.proj if name in VITS else tower.head(tower.trunk.head(tokens))
    assert difference(embed_patches(tower, images, "qk"), expected) < 1e-5


# The twins: one query, one head at a time, in float64.


def array(value: torch.Tensor) -> np.ndarray:
    return value.detach().double().numpy()


def linear(x: np.ndarray, weight: torch.Tensor, bias: torch.Tensor | None) -> np.ndarray:
    return x @ array(weight).T + (0 if bias is None else array(bias))


def apply(x: np.ndarray, layer: nn.Module) -> np.ndarray:
    """A linear layer, a norm over the last axis, or nothing."""
    if isinstance(layer, nn.Identity):
        return x
    if isinstance(layer, nn.Linear):
        return linear(x, layer.weight, layer.bias)
    centered = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((centered**2).mean(-1, keepdims=True) + layer.eps)
    return centered / scale * array(layer.weight) + array(layer.bias)


def twin_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int, attention: str, angles: Any = None
) -> np.ndarray:
    """Mix tokens (N, C); pairs of channels of all but the first turn by angles (N - 1, d/2)."""
    out = np.zeros_like(v)
    d = q.shape[1] // heads
    for head in range(heads):
        part = slice(head * d, (head + 1) * d)
        own = {"q": q[:, part].copy(), "k": k[:, part].copy(), "v": v[:, part]}
        if angles is not None:
            for one in (own["q"], own["k"]):
                turned = (one[1:, 0::2] + 1j * one[1:, 1::2]) * np.exp(1j * angles)
                one[1:, 0::2], one[1:, 1::2] = turned.real, turned.imag
        for n in range(len(q)):
            weights = np.eye(len(q))[n]
            if attention != "v":
                asked, keys = own[attention[0]][n], own[attention[1]]
                weights = np.exp([asked @ key / d**0.5 for key in keys])
                weights /= weights.sum()
            for weight, value in zip(weights, own["v"], strict=True):
                out[n, part] += weight * value
    return out


@pytest.mark.parametrize("attention", ["kk", "vv", "v"])
@pytest.mark.parametrize("name", VITS)
def test_vit_equals_its_twin(name: str, attention: Any, towers: dict[str, nn.Module]) -> None:
    tower, images = towers[name], images_for(name)
    block = tower.transformer.resblocks[-1]
    with torch.no_grad():
        before = tower.forward_intermediates(
            images, indices=[0], output_fmt="NLC", output_extra_tokens=True
        )
    expected = []
    for parts in zip(
        before["image_intermediates_prefix"][0], before["image_intermediates"][0], strict=True
    ):
        x = apply(np.concatenate([array(part) for part in parts]), block.ln_1)
        bias = block.attn.in_proj_bias
        qkv = [
            linear(x, block.attn.in_proj_weight[i : i + 32], bias[i : i + 32]) for i in (0, 32, 64)
        ]
        out = apply(twin_attention(*qkv, 4, attention), block.attn.out_proj)
        out = out * (array(block.ls_1.gamma) if name == "vit-scaled" else 1)
        expected.append((apply(out, tower.ln_post) @ array(tower.proj))[1:].reshape(4, 3, D))
    assert difference(embed_patches(tower, images, attention), np.array(expected)) < 1e-5


def eva_angles(grid: tuple[int, int], d: int) -> np.ndarray:
    """The rotations of EVA-02: (h * w, d/2), rows first, as if the grid had 16 x 16 cells."""
    bands = 1 / 10000 ** (np.arange(d // 4) / (d // 4))
    rows, columns = (np.arange(n) / n * 16 for n in grid)
    return np.array([np.concatenate([y * bands, x * bands]) for y in rows for x in columns])


@pytest.mark.parametrize("attention", ["kk", "vv", "v"])
@pytest.mark.parametrize("name", EVAS)
def test_eva_equals_its_twin(name: str, attention: Any, towers: dict[str, nn.Module]) -> None:
    tower, images = towers[name], images_for(name)
    trunk, attn = tower.trunk, tower.trunk.blocks[-1].attn
    norm1 = tower.trunk.blocks[-1].norm1
    with torch.no_grad():
        ((patches, prefix),) = trunk.forward_intermediates(
            images,
            indices=[0],
            return_prefix_tokens=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
    expected = []
    for tokens in torch.cat([prefix, patches], dim=1):
        x = array(tokens)
        x = x if name == "eva02-enormous" else apply(x, norm1)
        if name.startswith("eva02-") and name != "eva02-enormous":
            q, k, v = apply(x, attn.q_proj), apply(x, attn.k_proj), apply(x, attn.v_proj)
            angles = eva_angles((4, 3), 16)
        else:
            weight = attn.qkv.weight
            q, k = linear(x, weight[:48], attn.q_bias), linear(x, weight[48:96], None)
            v, angles = linear(x, weight[96:], attn.v_bias), None
        out = apply(apply(twin_attention(q, k, v, 3, attention, angles), attn.norm), attn.proj)
        if name == "eva02-enormous":
            out = apply(out, norm1)
        elif name == "eva-giant":
            out = out * array(trunk.blocks[-1].gamma_1)
        out = apply(out, trunk.norm)
        out = apply(out, tower.head.proj if name == "eva02-linear" else trunk.head)
        expected.append(out[1:].reshape(4, 3, D))
    assert difference(embed_patches(tower, images, attention), np.array(expected)) < 1e-5


@pytest.mark.parametrize("size", [(64, 64), (96, 128), (160, 64)])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_resnet_equals_its_twin(
    attention: Any, size: tuple[int, int], towers: dict[str, nn.Module]
) -> None:
    """Every place asks in its turn; on other grids than the tower's, positions are interpolated."""
    tower = towers["resnet"]
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    height, width = size[0] // 32, size[1] // 32
    pool = tower.attnpool
    with torch.no_grad():
        places = tower.forward_intermediates(images, indices=1, intermediates_only=True)
    square = pool.positional_embedding[1:].detach().numpy().reshape(2, 2, -1)
    fitted = [
        cv2.resize(plane, (width, height), interpolation=cv2.INTER_CUBIC).reshape(-1)
        for plane in np.ascontiguousarray(square.transpose(2, 0, 1))
    ]
    expected = []
    for features in places["image_intermediates"][-1]:
        x = array(features).reshape(128, -1).T
        mean = x.mean(0) + array(pool.positional_embedding[0])
        x = np.concatenate([mean[None], x + np.array(fitted).T])
        qkv = [apply(x, one) for one in (pool.q_proj, pool.k_proj, pool.v_proj)]
        out = apply(twin_attention(*qkv, 8, attention), pool.c_proj)
        expected.append(out[1:].reshape(height, width, D))
    assert difference(embed_patches(tower, images, attention), np.array(expected)) < 1e-5


@pytest.mark.parametrize("name", TOWERS)
def test_every_attention_gives_its_own_map(name: str, towers: dict[str, nn.Module]) -> None:
    """Of the grid's shape, finite, the same for a picture alone; the tower is left as it was."""
    tower, images = towers[name], images_for(name)
    maps = [embed_patches(tower, images, attention) for attention in ATTENTIONS]
    for n, found in enumerate(maps):
        assert found.shape == (2, *((2, 2) if name == "resnet" else (4, 3)), D)
        assert found.isfinite().all()
        assert not found.requires_grad
        alone = embed_patches(tower, images[1:], ATTENTIONS[n])
        assert difference(alone, found[1:]) < 1e-5
        assert all(difference(found, other) > 1e-3 for other in maps[:n])
    assert not any(module._forward_pre_hooks for module in tower.modules())


@pytest.mark.parametrize(
    "vision",
    [
        None,
        {**VIT, "pool_type": "avg"},
        {**VIT, "attentional_pool": True, "attn_pooler_heads": 2},
        {**VIT, "qk_norm": True},
        {"timm_model_name": "test_vit", **EVA},
        {"timm_model_name": "eva02_tiny_patch14_224", "timm_proj": None},
        {"timm_model_name": "vit_tiny_patch16_dinov3_qkvb", **EVA},
    ],
    ids=["no tower", "mean", "queries", "other blocks", "other trunk", "EVA mean", "DINO"],
)
def test_other_towers_are_refused(vision: dict[str, Any] | None) -> None:
    tower = build_tower(TowerSpec(D, vision), "other") if vision else nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="such as ViT-B-16-quickgelu"):
        embed_patches(tower, torch.zeros(1, 3, 32, 24), "kk")
    with pytest.raises(ConfigError, match=type(tower).__name__):
        embed_class_token(tower, torch.zeros(1, 3, 32, 24))


@pytest.mark.parametrize(("name", "value"), [("gate", nn.Linear(48, 48)), ("rotate_half", True)])
def test_what_timm_added_to_its_attention_is_refused(
    name: str, value: object, towers: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = towers["eva02-base"]
    monkeypatch.setattr(tower.trunk.blocks[-1].attn, name, value)
    with pytest.raises(ConfigError, match="TimmModel of Eva"):
        embed_patches(tower, images_for("eva02-base"), "kk")
