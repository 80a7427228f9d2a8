"""Cache of the teacher's embeddings: computed once, so that training decodes no picture.

Beside the shards lies

    embeddings/TEACHER/cache.json         whose embeddings, of pictures seen how
    embeddings/TEACHER/NAME-000042.json   the sha256 of the shard they belong to, counts
    embeddings/TEACHER/NAME-000042.tar    KEY.teacher.npy, float16 (2, D), raw: as is, mirrored

A cache of another teacher, of other preprocessing or of other shards is refused.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from ezsr_shards.errors import InputError, ShardError
from ezsr_shards.lookup import MemberPlaces, locate_samples, read_members_at
from ezsr_shards.process import follow_parent
from ezsr_shards.shard import add_member, forget_members
from ezsr_shards.shardset import read_json, write_json
from ezsr_shards.store import write_atomically
from ezsr_train.prepare import View, read_picture
from ezsr_train.shard_files import ShardSet, read_recording
from ezsr_train.teacher import Teacher

FOLDER, CACHE_FILE = "embeddings", "cache.json"
_EXTENSION = "teacher.npy"
_LOCATED = 160
_BATCH = 128


@dataclass(frozen=True)
class CacheFacts:
    """What decides the embeddings of a picture."""

    teacher_sha256: str
    size_px: int
    geometry: str
    format: int = 2

    @staticmethod
    def of(teacher: Teacher, geometry: str) -> CacheFacts:
        """Return what a cache for this teacher must say."""
        return CacheFacts(teacher.sha256, teacher.spec.size_px, geometry)


@dataclass(frozen=True)
class TeacherCache:
    """A whole cache of a shard set."""

    folder: Path

    def read(self, shard: str, key: str, mirrored: bool) -> npt.NDArray[np.float32]:
        """Return the embedding of a sample's picture, float32 (D,); raise ShardError without."""
        path = self.folder / f"{shard}.tar"
        place = _locate(path).get(key)
        if place is None:
            raise ShardError(f"sample {key}: no cached embedding")
        data = read_members_at(path, place, [_EXTENSION])
        try:
            both = np.load(io.BytesIO(data[_EXTENSION]), allow_pickle=False)
            row: npt.NDArray[np.float32] = both[int(mirrored)].astype(np.float32)
        except (KeyError, ValueError, IndexError, EOFError) as error:
            raise ShardError(f"sample {key}: its cached embedding is garbled ({error})") from error
        return row


@lru_cache(maxsize=_LOCATED)
def _locate(path: Path) -> Mapping[str, MemberPlaces]:
    return {sample.key: sample for sample in locate_samples(path)}


def cache_folder(shards: ShardSet, teacher: Teacher) -> Path:
    """Return where a teacher's cache lies."""
    return shards.folder / FOLDER / _slug(teacher.name)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-").lower()


def open_cache(shards: ShardSet, teacher: Teacher, geometry: str) -> TeacherCache | None:
    """Return the cache of a shard set, or None where none was begun.

    Raises InputError where it is of another teacher, geometry or shards, or not whole.
    """
    folder = cache_folder(shards, teacher)
    if not (folder / CACHE_FILE).is_file():
        return None
    found, expected = _read(folder, CACHE_FILE), asdict(CacheFacts.of(teacher, geometry))
    online = "or train with --teacher online"
    for name, value in expected.items():
        if found.get(name) != value:
            raise InputError(
                f"cache {folder}: its {name} is {found.get(name)}, this run's is {value}; run "
                f"ezsr-embed again with --overwrite, {online}"
            )
    for shard in shards.shards:
        state = _state_of(folder, shard.path.stem, shard.sha256)
        if state != "whole":
            raise InputError(
                f"cache {folder}: {shard.path.stem} is {state}; run ezsr-embed again, {online}"
            )
    return TeacherCache(folder)


def _state_of(folder: Path, stem: str, sha256: str) -> str:
    record = f"{stem}.json"
    if not (folder / record).is_file() or not (folder / f"{stem}.tar").is_file():
        return "missing"
    same = _read(folder, record).get("shard_sha256") == sha256
    return "whole" if same else "of another shard"


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        return read_json(folder, name)
    except ShardError as error:
        raise InputError(
            f"cache {folder}: {error}; run ezsr-embed again with --overwrite"
        ) from error


@dataclass(frozen=True)
class EmbedReport:
    """What `embed_shards` did: shards and pictures embedded now, samples left out, and why.

    unreadable  shards without one whole picture, which have no part in the cache
    """

    folder: Path
    shards: int
    pictures: int
    skipped: tuple[str, ...]
    unreadable: tuple[str, ...] = ()


def embed_shards(
    shards: ShardSet,
    teacher: Teacher,
    geometry: str,
    workers: int = 1,
    overwrite: bool = False,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> EmbedReport:
    """Write the cache of a shard set, or what is missing of it.

    `tell` is called with the shards done and their number. Samples without a whole picture are
    left out and named. Raises InputError where there is a cache of another teacher or geometry.
    """
    folder, facts = cache_folder(shards, teacher), CacheFacts.of(teacher, geometry)
    folder.mkdir(parents=True, exist_ok=True)
    if overwrite or not (folder / CACHE_FILE).is_file():
        for old in [*folder.glob("*.tar"), *folder.glob("*.json")]:
            old.unlink()
        write_json(folder, CACHE_FILE, {**asdict(facts), "teacher": teacher.name})
    elif not asdict(facts).items() <= _read(folder, CACHE_FILE).items():
        raise InputError(
            f"cache {folder}: of another teacher or geometry; say --overwrite to replace it"
        )
    todo = [
        n
        for n, shard in enumerate(shards.shards)
        if _state_of(folder, shard.path.stem, shard.sha256) != "whole"
    ]
    skipped, unreadable = list[str](), list[str]()
    pictures = 0
    for done, (n, rows, lost) in enumerate(_embed(shards, todo, teacher, geometry, workers), 1):
        shard = shards.shards[n]
        skipped += lost
        tell(done, len(todo))
        if not rows:
            unreadable.append(shard.path.name)
            continue
        _write_rows(folder / f"{shard.path.stem}.tar", rows)
        record = {"shard_sha256": shard.sha256, "samples": len(rows), "skipped": lost}
        write_json(folder, f"{shard.path.stem}.json", record)
        pictures += len(rows)
    whole = len(todo) - len(unreadable)
    return EmbedReport(folder, whole, pictures, tuple(skipped), tuple(unreadable))


_Rows = dict[str, npt.NDArray[np.float16]]


def _embed(
    shards: ShardSet, todo: Sequence[int], teacher: Teacher, geometry: str, workers: int
) -> Iterator[tuple[int, _Rows, list[str]]]:
    """Yield for each shard its number, the embeddings by key, and why samples were left out."""
    chunks = [
        [(n, i) for i in range(first, min(first + _BATCH, shards.sizes[n]))]
        for n in todo
        for first in range(0, shards.sizes[n], _BATCH)
    ]
    loader: DataLoader[Any] = DataLoader(
        _Pictures(shards, geometry, teacher.spec.size_px),
        batch_sampler=chunks,
        collate_fn=list,
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=start_reading if workers else None,
    )
    rows, lost = _Rows(), list[str]()
    for chunk, pictures in zip(chunks, loader, strict=True):
        n = chunk[0][0]
        whole = [picture for picture in pictures if picture.rgb is not None]
        lost += [picture.fault for picture in pictures if picture.rgb is None]
        if whole:
            rgb = torch.from_numpy(np.stack([np.asarray(picture.rgb) for picture in whole]))
            rgb = rgb.permute(0, 3, 1, 2)
            both = [teacher.embed_pictures(side) for side in (rgb, rgb.flip(3))]
            raw = torch.stack(both, dim=1).cpu().half().numpy()
            if not np.isfinite(raw).all():
                raise ShardError(f"shard {shards.shards[n].path.name}: an embedding is no number")
            rows.update(zip([picture.key for picture in whole], raw, strict=True))
        if chunk[-1][1] == shards.sizes[n] - 1:
            yield n, rows, lost
            rows, lost = _Rows(), []


def start_reading(worker: int) -> None:
    """Begin in a reading process.

    torch's own watch looks for another parent, which behind a fork server is never the trainer;
    spawned workers, which it would serve, abort now and then when they are stopped (torch 2.15).
    """
    follow_parent()


@dataclass(frozen=True)
class _Picture:
    key: str
    rgb: npt.NDArray[np.uint8] | None
    fault: str = ""


class _Pictures(Dataset[_Picture]):
    def __init__(self, shards: ShardSet, geometry: str, size_px: int) -> None:
        self._shards, self._geometry, self._size_px = shards, geometry, size_px

    def __getitem__(self, place: tuple[int, int]) -> _Picture:
        try:
            recording = read_recording(self._shards.shards[place[0]], place[1], True)
            view = View(length=1)
            return _Picture(
                recording.key, read_picture(recording, self._geometry, self._size_px, view)
            )
        except ShardError as error:
            return _Picture("", None, str(error))


def _write_rows(path: Path, rows: _Rows) -> None:
    def write(file: IO[bytes]) -> None:
        with tarfile.TarFile(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for key, row in rows.items():
                buffer = io.BytesIO()
                np.save(buffer, row, allow_pickle=False)
                add_member(tar, f"{key}.{_EXTENSION}", buffer.getvalue())
                forget_members(tar)

    write_atomically(path, write)
