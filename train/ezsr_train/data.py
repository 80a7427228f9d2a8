"""Data: shard sets become batches, in an order that is a function of (seed, sample number).

The stream of samples has no end: epoch after epoch, each sample once in each. A position in it is
one number, so a run continues exactly where it stopped, and neither the number of reading
processes nor that of ranks changes which samples make up a step.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ezsr_shards.errors import InputError
from ezsr_shards.process import follow_parent
from ezsr_shards.sample import Sample, decode_jpeg, decode_sample
from ezsr_shards.shardset import INDEX_FILE, ShardClass, read_classes, read_json
from ezsr_train.config import InputConfig, TrainConfig
from ezsr_train.representation import PackedEvents

_OPEN_SHARDS = 16
_POOLED_SHARDS = 64


@dataclass(frozen=True)
class ShardSet:
    """A finished shard set: its tars, how many samples each holds, and its classes."""

    tars: tuple[Path, ...]
    sizes: tuple[int, ...]
    classes: tuple[ShardClass, ...]

    def __len__(self) -> int:
        """Return the number of samples."""
        return sum(self.sizes)


def open_shard_set(folder: Path) -> ShardSet:
    """Read the index of a shard set; raise InputError where there is none."""
    if not (folder / INDEX_FILE).is_file():
        raise InputError(
            f"SHARDS {folder}: no {INDEX_FILE}, so no finished shard set; run ezsr-synth first"
        )
    shards = read_json(folder / INDEX_FILE)["shardlist"]
    classes, _ = read_classes(folder)
    tars = tuple(folder / str(shard["url"]) for shard in shards)
    return ShardSet(tars, tuple(int(shard["nsamples"]) for shard in shards), tuple(classes))


@dataclass(frozen=True)
class Place:
    """Where one sample of the stream lies: its number, shard and place in the shard."""

    number: int
    shard: int
    index: int


def stream_places(sizes: Sequence[int], seed: int, start: int) -> Iterator[Place]:
    """Yield the endless stream of places from sample number `start`.

    In each epoch the shards are put in a random order, and samples are mixed within pools of 64
    shards, so that reading stays local on large sets while small ones are mixed wholly.
    """
    total = sum(sizes)
    epoch, skip = divmod(start, total)
    number = epoch * total
    while True:
        rng = np.random.Generator(np.random.PCG64([seed, epoch]))
        shards = rng.permutation(len(sizes))
        for first in range(0, len(shards), _POOLED_SHARDS):
            pool = [(s, i) for s in shards[first : first + _POOLED_SHARDS] for i in range(sizes[s])]
            for k in rng.permutation(len(pool)):
                if skip:
                    skip -= 1
                else:
                    yield Place(number, int(pool[k][0]), pool[k][1])
                number += 1
        epoch += 1


@dataclass(frozen=True)
class Item:
    """One sample as the encoder takes it.

    x, y  int64 (n,), input pixels; t float32 (n,), share of the slice; p int64 (n,)
    rgb   uint8 (S, S, 3), or None for recordings without a picture
    """

    x: npt.NDArray[np.int64]
    y: npt.NDArray[np.int64]
    t: npt.NDArray[np.float32]
    p: npt.NDArray[np.int64]
    rgb: npt.NDArray[np.uint8] | None
    label: int
    key: str


@dataclass(frozen=True)
class Batch:
    """Packed events, pictures uint8 (B, 3, S, S) or None, labels int64 (B,) (-1: none), keys."""

    events: PackedEvents
    rgb: Tensor | None
    labels: Tensor
    keys: tuple[str, ...]


def prepare(
    sample: Sample, config: InputConfig, size_px: int, rng: np.random.Generator | None
) -> Item:
    """Cut a slice of the events and scale it, with its picture, to the encoder's square input.

    With a generator the slice's place and length are random, as in training; without, it is the
    middle one of the configured length.
    """
    events = sample.events
    length = config.slice_events
    if rng is not None:
        length += int(rng.integers(-config.slice_jitter, config.slice_jitter + 1))
    spare = max(len(events) - length, 0)
    start = int(rng.integers(0, spare + 1)) if rng is not None else spare // 2
    part = slice(start, start + length)
    left, top, width, height = _seen_square(events.width, events.height, config.geometry)
    x = np.floor((events.x[part].astype(np.int64) - left) * size_px / width).astype(np.int64)
    y = np.floor((events.y[part].astype(np.int64) - top) * size_px / height).astype(np.int64)
    inside = (x >= 0) & (x < size_px) & (y >= 0) & (y < size_px)
    t = events.t[part].astype(np.float64)
    t = (t - t[:1]) / max(float(t[-1] - t[0]) if len(t) else 1.0, 1.0)
    rgb, picture = None, decode_jpeg(sample)
    if picture is not None:
        box = (left, top, left + width, top + height)
        resized = picture.resize((size_px, size_px), Image.Resampling.BICUBIC, box=box)
        rgb = np.asarray(resized)
    p = events.p[part].astype(np.int64)
    label = -1 if sample.label is None else sample.label
    shares = t.astype(np.float32)
    return Item(x[inside], y[inside], shares[inside], p[inside], rgb, label, sample.key)


def _seen_square(width: int, height: int, geometry: str) -> tuple[int, int, int, int]:
    """Return (left, top, width, height) of the part of the sensor that the encoder sees."""
    if geometry == "stretch":
        return 0, 0, width, height
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def collate(items: Sequence[Item]) -> Batch:
    """Pack items one after another."""
    lengths = [len(item.t) for item in items]

    def pack(column: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(item, column) for item in items]))

    sample = torch.repeat_interleave(torch.arange(len(items)), torch.tensor(lengths))
    events = PackedEvents(pack("x"), pack("y"), pack("t"), pack("p"), sample, len(items))
    pictures = [item.rgb for item in items if item.rgb is not None]
    rgb = None
    if len(pictures) == len(items):
        rgb = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    labels = torch.tensor([item.label for item in items])
    return Batch(events, rgb, labels, tuple(item.key for item in items))


class ShardDataset(Dataset[Item]):
    """Samples of a shard set by place; `seed` None means no randomness, for evaluation."""

    def __init__(
        self, shards: ShardSet, config: InputConfig, size_px: int, seed: int | None
    ) -> None:
        """Keep what is needed; files are opened when read, in the reading process."""
        self._shards, self._config = shards, config
        self._size_px, self._seed = size_px, seed

    def __getitem__(self, place: Place) -> Item:
        """Return the sample at a place; its randomness depends on (seed, number) alone."""
        sample = read_member_sample(self._shards.tars[place.shard], place.index)
        rng = None
        if self._seed is not None:
            rng = np.random.Generator(np.random.PCG64([self._seed, place.number, 1]))
        return prepare(sample, self._config, self._size_px, rng)


@lru_cache(maxsize=_OPEN_SHARDS)
def _scan_tar(path: Path) -> tuple[tuple[str, dict[str, tuple[int, int]]], ...]:
    """Return for each sample its key and where its members' bytes lie: (offset, size)."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            key, _, extension = info.name.partition(".")
            found.setdefault(key, {})[extension] = (info.offset_data, info.size)
    return tuple(found.items())


def read_member_sample(path: Path, index: int) -> Sample:
    """Return sample number `index` of a tar, reading its own bytes only."""
    key, places = _scan_tar(path)[index]
    members = {}
    with open(path, "rb") as file:
        for extension, (offset, size) in places.items():
            file.seek(offset)
            members[extension] = file.read(size)
    return decode_sample(key, members)


def training_batches(
    shards: ShardSet, config: TrainConfig, size_px: int, start: int
) -> Iterator[Batch]:
    """Yield batches for ever, from step `start`."""
    batch = config.optim.batch
    places = stream_places(shards.sizes, config.seed, start * batch)
    batches = ([next(places) for _ in range(batch)] for _ in count())
    dataset = ShardDataset(shards, config.input, size_px, config.seed)
    yield from _load(dataset, batches, config.workers)


def evaluation_batches(
    shards: ShardSet, config: InputConfig, size_px: int, batch: int
) -> Iterator[Batch]:
    """Yield every sample once, in order, without randomness; the last batch may be smaller."""
    places = [Place(0, s, i) for s, size in enumerate(shards.sizes) for i in range(size)]
    batches = iter([places[n : n + batch] for n in range(0, len(places), batch)])
    yield from _load(ShardDataset(shards, config, size_px, None), batches, 0)


def _load(dataset: ShardDataset, batches: Iterator[list[Place]], workers: int) -> Iterator[Batch]:
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type, unused-ignore]
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=_start_reading if workers else None,
    )
    yield from loader


def _start_reading(worker: int) -> None:
    """Begin in a reading process.

    torch's own watch looks for another parent, which behind a fork server is never the trainer;
    spawned workers, which it would serve, abort now and then when they are stopped (torch 2.15).
    """
    follow_parent()
