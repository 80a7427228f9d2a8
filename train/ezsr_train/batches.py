"""Batches: samples of a shard set, read by several processes, packed for the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ezsr_shards.errors import RunError, ShardError
from ezsr_train.config import AugmentConfig, InputConfig, TrainConfig
from ezsr_train.order import Place, stream_places
from ezsr_train.prepare import (
    MIDDLE_SLICE,
    EventSlice,
    SliceRule,
    View,
    cut_slice,
    draw_view,
    read_picture,
)
from ezsr_train.ranks import Ranks
from ezsr_train.recording import Recording, Recordings
from ezsr_train.representation import PackedEvents
from ezsr_train.shard_files import Shard, ShardSet, read_recording
from ezsr_train.teacher_cache import TeacherCache, start_reading

_ATTEMPTS = 100


@dataclass(frozen=True)
class Skipped:
    """A broken sample: the shard it was in, and what was wrong."""

    shard: str
    reason: str

    @staticmethod
    def of(shard: str, error: ShardError) -> Skipped:
        """Return what is counted: the fault without the sample's key and the details."""
        return Skipped(shard, str(error).split(": ", 1)[-1].split(" (")[0])


@dataclass(frozen=True)
class Batch:
    """What one step of one process takes.

    pictures    uint8 (B, 3, S, S), or None where embeddings are cached
    embeddings  the teacher's, float32 (B, D), raw, or None
    labels      int64 (B,), -1 where there is none
    skipped     broken samples that others stand in for
    """

    events: PackedEvents
    pictures: Tensor | None
    embeddings: Tensor | None
    labels: Tensor
    keys: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()

    def pin_memory(self) -> Batch:
        """Return the same batch in memory that a GPU can fetch by itself; the loader calls this."""
        pictures, embeddings = (
            None if rows is None else rows.pin_memory() for rows in (self.pictures, self.embeddings)
        )
        return replace(
            self, events=self.events.pin_memory(), pictures=pictures, embeddings=embeddings
        )


@dataclass(frozen=True)
class ReadOptions:
    """How samples are read: sizes of the inputs, and where picture embeddings come from."""

    input: InputConfig
    events_px: int
    picture_px: int | None
    """None leaves pictures unread."""
    cache: TeacherCache | None = None
    rule: SliceRule = MIDDLE_SLICE

    @property
    def with_picture(self) -> bool:
        """Whether the pictures are decoded."""
        return self.cache is None and self.picture_px is not None


@dataclass(frozen=True)
class Item:
    """One slice of a recording, prepared."""

    events: EventSlice
    picture: npt.NDArray[np.uint8] | None
    embedding: npt.NDArray[np.float32] | None
    label: int
    key: str
    skipped: tuple[Skipped, ...] = ()


def training_batches(
    shards: ShardSet, options: ReadOptions, config: TrainConfig, ranks: Ranks, start: int
) -> Iterator[Batch]:
    """Return this rank's part of every batch from step `start`, without end; reading begins now."""
    batch, part = config.optim.batch, config.optim.batch // ranks.count
    resampled = config.data.order == "resampled"
    places = stream_places(shards.sizes, config.seed, start * batch, resampled)

    def parts() -> Iterator[list[Place]]:
        while True:
            whole = list(islice(places, batch))
            yield whole[ranks.rank * part : (ranks.rank + 1) * part]

    dataset = TrainingSamples(shards, options, config.augment, config.seed)
    return _load(dataset, parts(), config.data.workers)


def evaluation_batches(
    recordings: Recordings, options: ReadOptions, ranks: Ranks, batch: int, workers: int = 0
) -> Iterator[Batch]:
    """Return this rank's share of all recordings, each once, `batch` of them at a time.

    `options.rule` says which slices of a recording; those of one follow each other. Broken
    recordings are left out, and named in `skipped`.
    """
    mine = range(ranks.rank, len(recordings), ranks.count)
    batches = iter([list(mine[n : n + batch]) for n in range(0, len(mine), batch)])
    return _load(EvaluationSamples(recordings, options), batches, workers)


def _load(dataset: Dataset[Any], batches: Iterator[list[Any]], workers: int) -> Iterator[Batch]:
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type, unused-ignore]
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=start_reading if workers else None,
        generator=torch.Generator(),  # else it would draw from the one that the towers draw from
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)


class TrainingSamples(Dataset["Item | Skipped"]):
    """Samples by place, with augmentation that depends on (seed, sample number) alone."""

    def __init__(
        self, shards: ShardSet, options: ReadOptions, augment: AugmentConfig, seed: int
    ) -> None:
        """Keep what is needed; files are opened when read, in the reading process."""
        self._shards, self._options = shards, options
        self._augment, self._seed = augment, seed

    def __getitem__(self, place: Place) -> Item:
        """Return the sample at a place; for a broken one another is drawn by its number."""
        skipped: list[Skipped] = []
        stand_in = np.random.Generator(np.random.PCG64([self._seed, place.number, 2]))
        for _ in range(_ATTEMPTS):
            rng = np.random.Generator(np.random.PCG64([self._seed, place.number, 1]))
            view = draw_view(self._options.input, self._augment, rng)
            shard = self._shards.shards[place.shard]
            try:
                recording = read_recording(shard, place.index, self._options.with_picture)
                item = prepare_item(recording, shard, self._options, view, rng)
                return replace(item, skipped=tuple(skipped))
            except ShardError as error:
                skipped.append(Skipped.of(shard.path.name, error))
            other = int(stand_in.integers(len(self._shards.sizes)))
            index = int(stand_in.integers(self._shards.sizes[other]))
            place = Place(place.number, other, index)
        raise RunError(f"data: {_ATTEMPTS} samples in a row are broken; last: {skipped[-1].reason}")


class EvaluationSamples(Dataset["Slices | Skipped"]):
    """Recordings by number, the slices of each that a rule tells."""

    def __init__(self, recordings: Recordings, options: ReadOptions) -> None:
        """Keep what is needed."""
        self._recordings, self._options = recordings, options

    def __getitem__(self, number: int) -> Slices | Skipped:
        """Return the slices of a recording, or why it is left out."""
        options, source = self._options, self._recordings
        try:
            recording = source.read(number, options.with_picture)
            if recording.label >= len(source.classes) > 0:
                raise ShardError(f"sample {recording.key}: label {recording.label} names no class")
            views = options.rule.views(options.input.slice_events, recording.events)
            shard = source.place_of(number)[0] if isinstance(source, ShardSet) else None
            return tuple(prepare_item(recording, shard, options, view) for view in views)
        except ShardError as error:
            return Skipped.of(source.origin(number), error)


def prepare_item(
    recording: Recording,
    shard: Shard | None,
    options: ReadOptions,
    view: View,
    rng: np.random.Generator | None = None,
) -> Item:
    """Prepare one view of a recording; raise ShardError where it is broken.

    `shard` is the one that it lies in, which tells where its cached embedding is.
    """
    events = cut_slice(recording, options.input, options.events_px, view, rng)
    picture = embedding = None
    if options.cache is not None and shard is not None:
        embedding = options.cache.read(shard.path.stem, recording.key, view.mirrored)
    elif options.picture_px is not None:
        picture = read_picture(recording, options.input.geometry, options.picture_px, view)
    return Item(events, picture, embedding, recording.label, recording.key)


Slices = tuple[Item, ...]
"""The slices of one recording."""


def collate(found: Sequence[Item | Slices | Skipped]) -> Batch:
    """Pack items one after another."""
    items = [item for item in found if isinstance(item, Item)]
    items += [item for one in found if isinstance(one, tuple) for item in one]
    skipped = [item for item in found if isinstance(item, Skipped)]
    skipped += [one for item in items for one in item.skipped]
    slices = [item.events for item in items] or [_NO_EVENTS]
    lengths = [len(part.x) for part in slices][: len(items)]

    def pack(column: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(part, column) for part in slices]))

    offsets = torch.tensor([0, *lengths]).cumsum(0)
    events = PackedEvents(pack("x"), pack("y"), pack("t"), pack("p"), offsets)
    pictures = [item.picture for item in items if item.picture is not None]
    embeddings = [item.embedding for item in items if item.embedding is not None]
    rgb = teacher = None
    if items and len(pictures) == len(items):
        rgb = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    if items and len(embeddings) == len(items):
        teacher = torch.from_numpy(np.stack(embeddings))
    labels = torch.tensor([item.label for item in items], dtype=torch.int64)
    return Batch(events, rgb, teacher, labels, tuple(item.key for item in items), tuple(skipped))


_NO_EVENTS = EventSlice(*(np.empty(0, dtype) for dtype in ("u1", "u1", "f4", "u1")))
