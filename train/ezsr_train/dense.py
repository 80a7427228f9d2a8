"""An embedding for every patch of a picture, in the space of the texts: what heatmaps are made of.

The last attention of a tower gathers for the class token, and what it leaves in the patches says
little of where things are. So it is computed anew, with other weights: a patch listens to those
like it by their values (Li et al. 2023, CLIP Surgery, arXiv:2304.05653) or by their keys
(Hajimiri et al. 2025, NACLIP, arXiv:2404.08181, without its Gaussian window; near it is Wang et al.
2024, SCLIP, arXiv:2312.01597), or to itself only (Zhou et al. 2022, MaskCLIP, arXiv:2112.01071).
Residual and feed-forward part of that block are left out, as MaskCLIP and NACLIP do.

Each family of towers has one path that serves both modified and unmodified attention, and the
class token goes along as the first token. It must arrive as the tower's own output: the proof that
heads, biases, rotations and norms are where the tower has them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn

from ezsr_shards.errors import ConfigError

Attention = Literal["kk", "vv", "v", "qk"]
"""What the last attention's weights come from.

kk, vv  the keys, or the values, alone
v       nothing: every patch keeps its own value
qk      queries and keys: the block as it is, residual and feed-forward part included
"""
_Grid = tuple[int, int]


@torch.no_grad()
def embed_patches(tower: nn.Module, images: Tensor, attention: Attention) -> Tensor:
    """Return an embedding per patch, float32 (B, h, w, D), comparable with texts, not normalised.

    images  (B, 3, S, S) as the tower takes them; a ResNet takes any (B, 3, H, W) of 32 px or more
    The tower is one of open_clip's, in evaluation mode. Raises ConfigError for a tower other than
    OpenAI's vision transformers, EVA's, and OpenAI's ResNets.
    """
    tokens, grid = _embed_tokens(tower, images, attention)
    return tokens[:, 1:].reshape(len(tokens), *grid, -1).float()


@torch.no_grad()
def embed_class_token(tower: nn.Module, images: Tensor) -> Tensor:
    """Return the embeddings (B, D) that the path of `embed_patches` gives the class token.

    The attention is unmodified, so they are tower(images). Raises ConfigError as it does.
    """
    tokens, _ = _embed_tokens(tower, images, "qk")
    return tokens[:, 0].float()


def _embed_tokens(tower: nn.Module, images: Tensor, attention: Attention) -> tuple[Tensor, _Grid]:
    """Return (B, 1 + h * w, D), the class token first, and (h, w)."""
    if isinstance(tower, VisionTransformer) and _is_openai(tower):
        return _embed_vit(tower, images, attention)
    if isinstance(tower, TimmModel) and _is_eva(tower.trunk):
        return _embed_eva(tower, images, attention)
    if isinstance(tower, ModifiedResNet) and isinstance(tower.attnpool, AttentionPool2d):
        return _embed_resnet(tower, images, attention)
    inner = getattr(tower, "trunk", None)
    kind = type(tower).__name__ + (f" of {type(inner).__name__}" if inner is not None else "")
    raise ConfigError(
        f"tower {kind}: its patches cannot be embedded as texts are; use a model such as "
        f"ViT-B-16-quickgelu, EVA02-B-16 or RN50"
    )


def _attend(q: Tensor, k: Tensor, v: Tensor, attention: Attention) -> Tensor:
    """Mix values (B, heads, N, d) and return them side by side, (B, N, heads * d)."""
    if attention == "v":
        mixed = v
    else:
        query, key = {"kk": (k, k), "vv": (v, v), "qk": (q, k)}[attention]
        mixed = F.scaled_dot_product_attention(query, key, v)
    return mixed.transpose(1, 2).flatten(2)


def _split(x: Tensor, heads: int) -> Tensor:
    """Return (B, N, heads * d) as (B, heads, N, d)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _catch_input(tower: nn.Module, block: nn.Module, images: Tensor) -> tuple[Tensor, Any]:
    """Run a tower; return the tokens (B, N, C) that a block is given, and its rotations if any."""
    caught: list[tuple[Tensor, Any]] = []

    def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append((args[0], kwargs.get("rope")))

    hook = block.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        tower(images)
    finally:
        hook.remove()
    return caught[0]


# OpenAI's vision transformers.


def _is_openai(tower: VisionTransformer) -> bool:
    block = tower.transformer.resblocks[-1]
    return (
        isinstance(block, ResidualAttentionBlock)
        and tower.attn_pool is None
        and tower.pool_type == "tok"
    )


def _embed_vit(
    tower: VisionTransformer, images: Tensor, attention: Attention
) -> tuple[Tensor, _Grid]:
    block = tower.transformer.resblocks[-1]
    x, _ = _catch_input(tower, block, images)
    branch = block.ls_1(_attend_vit(block.attn, block.ln_1(x), attention))
    if attention == "qk":
        x = x + branch
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    else:
        x = branch
    return tower.ln_post(x) @ tower.proj, tower.grid_size


def _attend_vit(attn: nn.MultiheadAttention, x: Tensor, attention: Attention) -> Tensor:
    qkv = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
    q, k, v = (_split(part, attn.num_heads) for part in qkv)
    out: Tensor = attn.out_proj(_attend(q, k, v, attention))
    return out


# EVA's vision transformers, as timm builds them (Sun et al. 2023, EVA-CLIP, arXiv:2303.15389).


def _is_eva(trunk: nn.Module) -> bool:
    if not isinstance(trunk, Eva) or trunk.global_pool != "token" or trunk.num_prefix_tokens != 1:
        return False
    block = trunk.blocks[-1]
    if not isinstance(block, EvaBlock | EvaBlockPostNorm):
        return False
    # The class in timm serves other families too, such as DINOv3; what they added is not here.
    added = getattr(block.attn, "gate", None) is not None or getattr(
        block.attn, "rotate_half", False
    )
    return isinstance(block.attn, EvaAttention) and not added


def _embed_eva(tower: TimmModel, images: Tensor, attention: Attention) -> tuple[Tensor, _Grid]:
    trunk = tower.trunk
    block = trunk.blocks[-1]
    x, rope = _catch_input(tower, block, images)
    post_norm = isinstance(block, EvaBlockPostNorm)
    if post_norm:  # what joins the residual is normalised last, and not first
        branch = block.norm1(_attend_eva(block.attn, x, rope, attention))
    else:
        branch = _scale(_attend_eva(block.attn, block.norm1(x), rope, attention), block.gamma_1)
    if attention == "qk":
        x = x + branch
        x = x + (
            block.norm2(block.mlp(x))
            if post_norm
            else _scale(block.mlp(block.norm2(x)), block.gamma_2)
        )
    else:
        x = branch
    # All that the trunk does to the token it pools, and the adapter's projection if it has one.
    tokens: Tensor = tower.head(trunk.head(trunk.fc_norm(trunk.norm(x))))
    return tokens, trunk.patch_embed.grid_size


def _scale(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else gamma * x


def _attend_eva(attn: EvaAttention, x: Tensor, rope: Tensor | None, attention: Attention) -> Tensor:
    if attn.qkv is None:
        parts = (attn.q_proj(x), attn.k_proj(x), attn.v_proj(x))
    else:
        bias = None
        if attn.q_bias is not None:  # keys have no bias
            bias = torch.cat((attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias))
        parts = F.linear(x, attn.qkv.weight, bias).chunk(3, dim=-1)
    q, k, v = (_split(part, attn.num_heads) for part in parts)
    q, k = (_rotate(part, rope) for part in (attn.q_norm(q), attn.k_norm(k)))
    out: Tensor = attn.proj(attn.norm(_attend(q, k, v, attention)))
    return out


def _rotate(x: Tensor, rope: Tensor | None) -> Tensor:
    """Rotate queries or keys (B, heads, N, d) by their positions; the class token has none."""
    if rope is None:
        return x
    return torch.cat([x[:, :, :1], apply_rot_embed_cat(x[:, :, 1:], rope)], dim=2)


# OpenAI's ResNets: the only attention is the pooling, whose query is the mean of all places.


def _embed_resnet(
    tower: ModifiedResNet, images: Tensor, attention: Attention
) -> tuple[Tensor, _Grid]:
    x = tower.stem(images)
    for layer in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
        x = layer(x)
    height, width = x.shape[-2:]
    x = x.flatten(2).transpose(1, 2)
    pool = tower.attnpool
    x = torch.cat([x.mean(1, keepdim=True), x], dim=1)
    x = x + _fit_positions(pool.positional_embedding, (height, width)).to(x.dtype)
    q, k, v = (_split(proj(x), pool.num_heads) for proj in (pool.q_proj, pool.k_proj, pool.v_proj))
    return pool.c_proj(_attend(q, k, v, attention)), (height, width)


def _fit_positions(positions: Tensor, grid: _Grid) -> Tensor:
    """Return position embeddings (1 + h * w, C) for a grid, from those of a square (1 + g * g, C).

    The first one is the mean's, and stays.
    """
    side = round((len(positions) - 1) ** 0.5)
    if grid == (side, side):
        return positions
    square = positions[1:].T.reshape(1, -1, side, side)
    fitted = F.interpolate(square.float(), size=grid, mode="bicubic")
    return torch.cat([positions[:1], fitted[0].flatten(1).T.to(positions.dtype)])
