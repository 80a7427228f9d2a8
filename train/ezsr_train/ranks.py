"""Ranks: the processes of one run, under torchrun or alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

_T = TypeVar("_T")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is, and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all ranks in order, (count * B, D); no gradient."""
        if self.count == 1:
            return rows.detach()
        parts = [torch.empty_like(rows) for _ in range(self.count)]
        dist.all_gather(parts, rows.detach().contiguous())
        return torch.cat(parts)

    def mine(self, rows: Tensor) -> Tensor:
        """Return this rank's rows of what `gather` returned."""
        size = len(rows) // self.count
        return rows[self.rank * size : (self.rank + 1) * size]

    def total(self, values: list[float]) -> list[float]:
        """Return the sums over all ranks."""
        if self.count == 1:
            return values
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return [float(value) for value in sums]

    def collect(self, values: Sequence[_T]) -> list[_T]:
        """Return the values of all ranks, in the order of the ranks, on every rank."""
        (count,) = self.total([float(len(values))])
        if self.count == 1 or not count:
            return list(values)
        parts: list[Sequence[_T]] = [()] * self.count
        dist.all_gather_object(parts, list(values))
        return [value for part in parts for value in part]

    def wait(self) -> None:
        """Return when all ranks have come here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Join the other processes that torchrun has started, by nccl on GPUs and gloo elsewhere."""
    cuda = torch.cuda.is_available()
    count, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if count == 1:
        yield Ranks(0, 1, device)
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Ranks(dist.get_rank(), count, device)
    finally:
        dist.destroy_process_group()
