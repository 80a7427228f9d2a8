"""The event encoders that the authors of EZSR released: image towers as torch state dicts.

Their names are those of the authors' package; here they become open_clip's. Nothing lands by
chance: the architecture is told from the weights' shapes, and every weight must be accounted for.
Whole models, as the largest file is, also hold `text.*` and `logit_scale`: these are recognised
and left, since training froze them and open_clip's weights of the partner CLIP are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

import open_clip
from torch import Tensor, nn

from ezsr_shards.errors import InputError
from ezsr_train.clip_file import read_weights
from ezsr_train.tower import TowerSpec, build_tower

Layout = Literal["openai", "eva"]


@dataclass(frozen=True)
class ReleasedTower:
    """An image tower in the authors' layout, as open_clip's module.

    layout      "openai" or "eva"
    model       open_clip's model that it is the image tower of, such as "ViT-B-16-quickgelu"
    pretrained  open_clip's tag of the CLIP it was trained against, whose text tower names classes
    tower       in evaluation mode, frozen, float32
    """

    layout: Layout
    model: str
    pretrained: str
    tower: nn.Module
    spec: TowerSpec


class _Keys(NamedTuple):
    """The weights that tell a layout, and its sizes."""

    patches: str
    positions: str
    projection: str
    block: str


class _Sizes(NamedTuple):
    """All that tells one released tower from another; positions include the class token's."""

    layout: Layout
    width: int
    patch_px: int
    positions: int
    layers: int
    embed_dim: int

    def __str__(self) -> str:
        return (
            f"{self.layout} of width {self.width}, patches of {self.patch_px} px, "
            f"{self.positions} positions, {self.layers} layers, {self.embed_dim} dimensions"
        )


class _Partner(NamedTuple):
    """The CLIP of open_clip's, by model and tag, and how its tower's names become the authors'.

    dropped  of the authors' names, the rotary tables, which open_clip computes itself
    """

    model: str
    pretrained: str
    renames: tuple[tuple[str, str], ...] = ()
    dropped: str = ""


_KEYS: Mapping[Layout, _Keys] = {
    "openai": _Keys("conv1.weight", "positional_embedding", "proj", "transformer.resblocks."),
    "eva": _Keys("patch_embed.proj.weight", "pos_embed", "head.weight", "blocks."),
}
_EVA_E = (("trunk.", ""),)
_EVA02 = (
    *_EVA_E,
    (".attn.q_proj.bias", ".attn.q_bias"),
    (".attn.v_proj.bias", ".attn.v_bias"),
    (".attn.norm.", ".attn.inner_attn_ln."),
    (".mlp.norm.", ".mlp.ffn_ln."),
    (".mlp.fc1_g.", ".mlp.w1."),
    (".mlp.fc1_x.", ".mlp.w2."),
    (".mlp.fc2.", ".mlp.w3."),
)
_ROPE = r"(blocks\.\d+\.attn\.)?rope\.freqs_(cos|sin)"
_TABLE_TOLERANCE = 5e-3  # bfloat16 rounds a cosine by up to 2e-3
_TEXT = r"text\..+|logit_scale"
_KNOWN: Mapping[_Sizes, _Partner] = {
    _Sizes("openai", 768, 32, 50, 12, 512): _Partner("ViT-B-32-quickgelu", "openai"),
    _Sizes("openai", 768, 16, 197, 12, 512): _Partner("ViT-B-16-quickgelu", "openai"),
    _Sizes("openai", 1024, 14, 257, 24, 768): _Partner("ViT-L-14-quickgelu", "openai"),
    _Sizes("openai", 1024, 14, 577, 24, 768): _Partner("ViT-L-14-336-quickgelu", "openai"),
    _Sizes("eva", 768, 16, 197, 12, 512): _Partner(
        "EVA02-B-16", "merged2b_s8b_b131k", _EVA02, _ROPE
    ),
    _Sizes("eva", 1024, 14, 257, 24, 768): _Partner(
        "EVA02-L-14", "merged2b_s4b_b131k", _EVA02, _ROPE
    ),
    _Sizes("eva", 1024, 14, 577, 24, 768): _Partner(
        "EVA02-L-14-336", "merged2b_s6b_b61k", _EVA02, _ROPE
    ),
    _Sizes("eva", 1792, 14, 257, 64, 1024): _Partner(
        "EVA02-E-14-plus", "laion2b_s9b_b144k", _EVA_E
    ),
}


def load_released(path: Path) -> ReleasedTower:
    """Read a file that the authors released, whatever it is called.

    Raises InputError where a weight is missing, unknown or of another shape, and names it as the
    file does.
    """
    source = f"encoder {path}"
    weights = read_weights(path, "encoder")
    found = _find_layout(weights)
    if found is None:
        keys = " nor ".join(f"'visual.{one.patches}'" for one in _KEYS.values())
        raise InputError(
            f"{source}: no image tower in the layout of EZSR's authors: it has neither {keys}"
        )
    layout, prefix = found
    sizes = _nearest(_measure(weights, layout, prefix, source), source)
    partner = _KNOWN[sizes]
    config = open_clip.get_model_config(partner.model)
    # OpenAI's towers want QuickGELU: with GELU the same weights load, and are wrong by a percent.
    spec = TowerSpec(sizes.embed_dim, dict(config["vision_cfg"]), quick_gelu=layout == "openai")
    tower = build_tower(spec, source)
    _fill(tower, weights, prefix, partner, source)
    tower.eval().requires_grad_(False)
    return ReleasedTower(layout, partner.model, partner.pretrained, tower, spec)


def _find_layout(weights: Mapping[str, Tensor]) -> tuple[Layout, str] | None:
    """Return the layout and what its names begin with: "visual.", or nothing for a tower alone."""
    for prefix in ("visual.", ""):
        for layout, keys in _KEYS.items():
            if prefix + keys.patches in weights:
                return layout, prefix
    return None


def _measure(weights: Mapping[str, Tensor], layout: Layout, prefix: str, source: str) -> _Sizes:
    """Read a tower's sizes off the shapes of its weights."""

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        value = weights.get(prefix + name)
        if value is None:
            raise InputError(f"{source}: lacks weight {prefix + name!r}")
        if value.ndim != dimensions:
            raise InputError(
                f"{source}: weight {prefix + name!r} is {tuple(value.shape)}, which has not "
                f"{dimensions} dimensions"
            )
        return tuple(value.shape)

    keys, eva = _KEYS[layout], layout == "eva"
    width, _, _, patch_px = shape(keys.patches, 4)
    positions = shape(keys.positions, 3 if eva else 2)[-2]
    embed_dim = shape(keys.projection, 2)[0 if eva else 1]
    block = re.compile(re.escape(prefix + keys.block) + r"(\d{1,4})\.")
    blocks = {int(match[1]) for name in weights if (match := block.match(name))}
    layers = next(n for n in count() if n not in blocks)
    return _Sizes(layout, width, patch_px, positions, layers, embed_dim)


def _nearest(sizes: _Sizes, source: str) -> _Sizes:
    """Return the known tower of these sizes; raise InputError where there is none.

    One that differs in nothing but what a single weight tells is returned as well: loading it
    then names this weight, with the shape that it has and the one that it should have.
    """

    def rest(one: _Sizes) -> _Sizes:
        return one._replace(embed_dim=0, positions=0)

    near = [one for one in _KNOWN if rest(one) == rest(sizes)]
    if not near:
        known = "; ".join(f"{one} ({of.model})" for one, of in _KNOWN.items())
        raise InputError(f"{source}: no tower that is known, but {sizes}; known are {known}")
    return min(near, key=lambda one: abs(one.positions - sizes.positions))


def _fill(
    tower: nn.Module, weights: Mapping[str, Tensor], prefix: str, partner: _Partner, source: str
) -> None:
    """Load weights under the authors' names; raise InputError naming the first that is amiss."""
    expected = tower.state_dict()
    theirs = {name: prefix + _their_name(name, partner) for name in expected}
    dropped = f"{re.escape(prefix)}({partner.dropped})|{_TEXT}"
    given = {name for name in weights if not re.fullmatch(dropped, name)}
    for kind, names in (
        ("lacks", set(theirs.values()) - given),
        ("has an unknown", given - set(theirs.values())),
    ):
        if names:
            raise InputError(f"{source}: {kind} weight {min(names)!r} ({len(names)} in all)")
    for name, value in expected.items():
        it = weights[theirs[name]]
        if it.shape != value.shape or not it.is_floating_point():
            raise InputError(
                f"{source}: weight {theirs[name]!r} is {tuple(it.shape)} of {it.dtype}, "
                f"{partner.model} needs {tuple(value.shape)} of floating point"
            )
        if not bool(it.isfinite().all()):
            raise InputError(f"{source}: weight {theirs[name]!r} holds what is no number")
    if partner.dropped:
        tables = re.compile(re.escape(prefix) + partner.dropped)
        _check_tables(tower, {n: it for n, it in weights.items() if tables.fullmatch(n)}, source)
    # Copies into the float32 that is there: no second copy of a tower of billions of weights.
    tower.load_state_dict({name: weights[theirs[name]] for name in expected})


def _check_tables(tower: nn.Module, tables: Mapping[str, Tensor], source: str) -> None:
    """Raise InputError naming a rotary table (positions, 64) that is not the tower's own."""
    rope: Any = tower.get_submodule("trunk.rope")
    sin, cos = rope.get_embed().chunk(2, -1)
    for name, it in tables.items():
        own = cos if name.endswith("cos") else sin
        if it.shape != own.shape:
            raise InputError(
                f"{source}: weight {name!r} is {tuple(it.shape)}, the tower needs "
                f"{tuple(own.shape)}"
            )
        away = float((it.float() - own).abs().max())
        if not away <= _TABLE_TOLERANCE:  # NaN is refused, too
            raise InputError(
                f"{source}: weight {name!r} is up to {away:.2g} away from the tower's own rotary "
                f"table, so its attention is another's"
            )


def _their_name(name: str, partner: _Partner) -> str:
    for ours, theirs in partner.renames:
        name = name.replace(ours, theirs)
    return name
