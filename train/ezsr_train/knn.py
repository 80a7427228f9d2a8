"""k-NN translation: an event embedding becomes the mean of the picture embeddings nearest to it.

Event embeddings leave the cone that picture embeddings fill, and the text tower was only ever
matched with that cone; a weighted mean of real picture embeddings lies in it again (EZSR,
remark 1).
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ezsr_shards.errors import ConfigError, InputError, check_number
from ezsr_train.shard_files import open_shard_set
from ezsr_train.teacher import Teacher
from ezsr_train.teacher_cache import open_cache

_QUERIES, _POOLED = 4096, 32_768
"""Rows of the two sides of a matrix product: at most 512 MB of float32 at a time."""
_SUMMED = 1 << 26
"""Numbers that are weighted at a time: 256 MB of float32."""


@dataclass(frozen=True)
class KnnConfig:
    """k-NN translation."""

    k: int
    temperature: float = 0.05
    """Weights are softmax(cosine similarity / temperature) over the k nearest."""

    def __post_init__(self) -> None:
        """Refuse what makes no mean."""
        check_number("knn", self.k, 1, 4096)
        check_number("knn_temperature", self.temperature, 1e-4, 1e4)


@dataclass(frozen=True)
class Pool:
    """Picture embeddings.

    read      gives them from the beginning, float (n, D) at a time, any n
    identity  a hash of where they come from: the file, or the shards
    """

    read: Callable[[], Iterator[Tensor]]
    identity: str = ""


def translate(embeddings: Tensor, pool: Pool, config: KnnConfig) -> Tensor:
    """Return the similarity-weighted mean of each row's k nearest pool rows, unit length.

    embeddings float32 (B, D), unit length, on the device to compute on. The nearest are exact; the
    pool, of any size, is read twice in blocks, and only k numbers a row are kept between. Raises
    InputError where the pool has fewer than k rows, or of another width.
    """
    best, index = _find_nearest(embeddings, pool, config.k)
    best, index = best.cpu(), index.cpu()
    weights = F.softmax(best / config.temperature, dim=1)
    mean = torch.zeros_like(embeddings, device="cpu")  # where sums have an order
    first, at_once = 0, max(_SUMMED // embeddings.shape[1], 1)
    for block in _blocks(pool, mean):
        hits = torch.nonzero((index >= first) & (index < first + len(block)))
        for start in range(0, len(hits), at_once):
            row, column = hits[start : start + at_once].T
            chosen = block[index[row, column] - first] * weights[row, column, None]
            mean.index_add_(0, row, chosen)
        first += len(block)
    return F.normalize(mean, dim=1).to(embeddings.device)


def _find_nearest(embeddings: Tensor, pool: Pool, k: int) -> tuple[Tensor, Tensor]:
    """Return the similarities of the k nearest pool rows, float32 (B, k), and their places."""
    device = embeddings.device
    best = torch.full((len(embeddings), k), -torch.inf, device=device)
    index = torch.full((len(embeddings), k), -1, dtype=torch.int64, device=device)
    first = 0
    for block in _blocks(pool, embeddings):
        for start in range(0, len(embeddings), _QUERIES):
            part = slice(start, start + _QUERIES)
            nearness, place = (embeddings[part] @ block.T).topk(min(k, len(block)), dim=1)
            both = torch.cat([best[part], nearness], dim=1)
            where = torch.cat([index[part], place + first], dim=1)
            best[part], chosen = both.topk(k, dim=1)
            index[part] = where.gather(1, chosen)
        first += len(block)
    if first < k:
        raise InputError(f"pool: {first} embeddings, fewer than --knn {k}")
    return best, index


def _blocks(pool: Pool, embeddings: Tensor) -> Iterator[Tensor]:
    """Yield the pool's rows in unit length, float32, in blocks of bounded size, on the device."""
    width = embeddings.shape[1]
    for rows in pool.read():
        if rows.shape[1] != width:
            raise InputError(f"pool: embeddings of {rows.shape[1]} dimensions, not {width}")
        for start in range(0, len(rows), _POOLED):
            block = rows[start : start + _POOLED].to(embeddings.device).float()
            norm = block.norm(dim=1, keepdim=True)
            if not bool(((norm > 0) & norm.isfinite()).all()):
                raise InputError("pool: an embedding is zero or no number")
            yield block / norm


def open_pool(source: str, teacher: Teacher, geometry: str) -> Pool:
    """Return the pool in a .npy file (N, D), or the teacher's cached embeddings of a shard set.

    Raises InputError where it is neither, ConfigError where ezsr-embed has not been run.
    """
    if Path(source).suffix == ".npy":
        return _open_file(Path(source))
    if "://" in source:
        raise ConfigError(f"pool {source}: give a folder, or a .npy file")
    shards = open_shard_set(source)
    cache = open_cache(shards, teacher, geometry)
    if cache is None:
        raise ConfigError(
            f"pool {source}: has no embeddings of {teacher.name}; run ezsr-embed on it first"
        )
    tars = [cache.folder / f"{shard.path.stem}.tar" for shard in shards.shards]

    def read() -> Iterator[Tensor]:
        for tar in tars:
            yield torch.from_numpy(_read_tar(tar))

    return Pool(read, shards.identity)


def _open_file(path: Path) -> Pool:
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises almost anything on hostile bytes
        raise InputError(f"pool {path}: cannot be read ({error})") from error
    if not isinstance(rows, np.ndarray):
        raise InputError(f"pool {path}: an archive; save one array (N, D) with numpy.save")
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise InputError(f"pool {path}: {rows.dtype} {rows.shape}, give floats (N, D)")

    def read() -> Iterator[Tensor]:
        for start in range(0, len(rows), _POOLED):
            yield torch.from_numpy(np.array(rows[start : start + _POOLED], np.float32))

    return Pool(read, hash_file(path))


def hash_file(path: Path) -> str:
    """Return the sha256 of a file."""
    hashing = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hashing.update(block)
    return hashing.hexdigest()


def _read_tar(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return the embeddings of a shard's pictures, unmirrored, float32 (n, D)."""
    found = []
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                content = tar.extractfile(info)
                both = np.load(io.BytesIO(content.read() if content else b""), allow_pickle=False)
                found.append(both[0].astype(np.float32))
        return np.stack(found)
    except (OSError, ValueError, EOFError, IndexError, tarfile.TarError) as error:
        raise InputError(f"pool {path}: unreadable ({error}); run ezsr-embed again") from error
