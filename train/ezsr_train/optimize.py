"""Optimisation: which weights learn how fast, when, and their moving average."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ezsr_train.config import OptimConfig

_BLOCK = re.compile(r"(?:resblocks|blocks|stages|layers|layer)\.?(\d+)\.")
_BELOW_BLOCKS = re.compile(
    r"(?:trunk\.)?(?:conv\w*|bn\d+|class_embedding|positional_embedding|ln_pre|patch_embed|"
    r"cls_token|pos_embed|stem)(?:\.|$)"
)


def learning_rate(step: int, config: OptimConfig) -> float:
    """Return the rate of a step: linear warm-up, then the schedule."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        left = config.steps - step
        return config.lr * min(1.0, left / (config.cooldown + 1))
    share = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def depths_of(names: Iterable[str]) -> dict[str, int]:
    """Return how high in its tower each weight lies: 0 below the blocks, the most above them."""
    found = {name: _BLOCK.search(name) for name in names}
    numbers = sorted({int(match[1]) for match in found.values() if match})
    height = {number: depth for depth, number in enumerate(numbers, 1)}
    return {
        name: height[int(match[1])]
        if match
        else (0 if _BELOW_BLOCKS.match(name) else len(numbers) + 1)
        for name, match in found.items()
    }


def make_optimizer(tower: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW that decays matrices only, with lower layers learning more slowly.

    Source of the layer-wise decay: Clark et al., ELECTRA, 2020; Bao et al., BEiT, 2021.
    """
    named = [(name, p) for name, p in tower.named_parameters() if p.requires_grad]
    depths = depths_of(name for name, _ in named)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in named:
        depth, decays = depths[name], parameter.ndim >= 2
        group = groups.setdefault(
            (depth, decays),
            {
                "params": [],
                "weight_decay": config.weight_decay if decays else 0.0,
                "lr_share": config.layer_decay ** (max(depths.values()) - depth),
            },
        )
        group["params"].append(parameter)
    return torch.optim.AdamW([groups[k] for k in sorted(groups)], lr=config.lr, betas=(0.9, 0.98))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of a rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_share"]


class MovingAverage:
    """The exponential moving average of a tower's weights (Polyak and Juditsky, 1992).

    In the first steps the decay is smaller, (1 + n) / (10 + n), so that the start is forgotten.
    """

    def __init__(self, tower: nn.Module, decay: float) -> None:
        """Begin at the tower's present weights."""
        self.tower = copy.deepcopy(tower).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, tower: nn.Module, step: int) -> None:
        """Move towards the weights after a step."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for mean, value in zip(
            self.tower.state_dict().values(), tower.state_dict().values(), strict=True
        ):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)
