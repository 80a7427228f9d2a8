"""The cache of picture embeddings: the same as computed in training, and never another's."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs pip install 'ezsr[train]'")
import webdataset as wds  # noqa: E402

from ezsr_shards.errors import InputError  # noqa: E402
from ezsr_train.batches import ReadOptions, training_batches  # noqa: E402
from ezsr_train.config import AugmentConfig, DataConfig, InputConfig, OptimConfig, TrainConfig  # noqa: E402
from ezsr_train.ranks import Ranks  # noqa: E402
from ezsr_train.shard_files import open_shard_set  # noqa: E402
from ezsr_train.teacher import load_teacher  # noqa: E402
from ezsr_train.teacher_cache import cache_folder, embed_shards, open_cache  # noqa: E402

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture
def shards(world: Path, tmp_path: Path) -> Path:
    shutil.copytree(world / "shards", tmp_path / "shards")
    return tmp_path / "shards"


@pytest.mark.parametrize("geometry", ["stretch", "crop"])
def test_cached_embeddings_are_those_computed_in_training(
    geometry: str, world: Path, shards: Path
) -> None:
    """Mirrored samples included: about half of these."""
    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    found = open_shard_set(shards)
    assert open_cache(found, teacher, geometry) is None
    report = embed_shards(found, teacher, geometry)
    assert (report.shards, report.pictures, report.skipped) == (5, 24, ())
    told = TrainConfig(
        optim=OptimConfig(batch=24),
        input=InputConfig(slice_events=1000, geometry=geometry),  # type: ignore[arg-type]
        augment=AugmentConfig(slice_jitter=200),
        data=DataConfig(workers=0),
    )
    cache = open_cache(found, teacher, geometry)
    read = [ReadOptions(told.input, 32, 32, one) for one in (None, cache)]
    online, cached = (next(training_batches(found, one, told, ALONE, 0)) for one in read)
    assert cached.pictures is None
    assert online.keys == cached.keys
    expected = teacher.embed_pictures(online.pictures)
    assert torch.allclose(cached.embeddings, expected, rtol=2e-3, atol=1e-3)
    assert embed_shards(found, teacher, geometry).shards == 0  # nothing is left to do


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
def test_the_cache_is_read_by_webdataset_alone(world: Path, shards: Path) -> None:
    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    folder = embed_shards(open_shard_set(shards), teacher, "stretch").folder
    tars = sorted(str(path) for path in folder.glob("*.tar"))
    rows = list(wds.WebDataset(tars, shardshuffle=False).decode())
    keys = [
        row["__key__"]
        for tar in sorted(shards.glob("*.tar"))
        for row in wds.WebDataset(str(tar), shardshuffle=False)
    ]
    assert [row["__key__"] for row in rows] == keys
    assert all(row["teacher.npy"].shape == (2, 8) for row in rows)
    assert all(row["teacher.npy"].dtype == np.float16 for row in rows)


def test_a_cache_of_anything_else_is_refused(world: Path, shards: Path) -> None:
    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    found = open_shard_set(shards)
    embed_shards(found, teacher, "stretch")
    with pytest.raises(InputError, match=r"its geometry is stretch, this run's is crop"):
        open_cache(found, teacher, "crop")
    with pytest.raises(InputError, match="say --overwrite"):
        embed_shards(found, teacher, "crop")
    manifest = cache_folder(found, teacher) / "cache.json"
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**facts, "teacher_sha256": "0" * 64}))
    with pytest.raises(InputError, match="its teacher_sha256 is 000"):
        open_cache(found, teacher, "stretch")
    assert embed_shards(found, teacher, "stretch", overwrite=True).shards == 5
    index = shards / "index.json"
    shards_facts = json.loads(index.read_text())
    shards_facts["shardlist"][1]["sha256"] = "f" * 64
    index.write_text(json.dumps(shards_facts))
    with pytest.raises(InputError, match="events-000001 is of another shard"):
        open_cache(open_shard_set(shards), teacher, "stretch")
    (cache_folder(found, teacher) / "events-000000.tar").unlink()
    with pytest.raises(InputError, match="events-000000 is missing"):
        open_cache(found, teacher, "stretch")


def test_what_cannot_be_embedded_is_named_and_skipped(world: Path, shards: Path) -> None:
    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    found = open_shard_set(shards)
    tar = sorted(shards.glob("*.tar"))[2]
    content = bytearray(tar.read_bytes())
    start = content.index(b"\xff\xd8\xff")  # the first picture of the shard
    content[start : start + 3] = b"\x00\x00\x00"
    tar.write_bytes(content)
    report = embed_shards(found, teacher, "stretch")
    assert report.pictures == 23
    assert len(report.skipped) == 1
    assert ".jpg is unreadable" in report.skipped[0]
    told = TrainConfig(
        optim=OptimConfig(batch=24),
        input=InputConfig(slice_events=1000),
        augment=AugmentConfig(slice_jitter=200),
        data=DataConfig(workers=0),
    )
    read = ReadOptions(told.input, 32, 32, open_cache(found, teacher, "stretch"))
    (batch,) = islice(training_batches(found, read, told, ALONE, 0), 1)
    assert [one.reason for one in batch.skipped] == ["no cached embedding"]
    assert len(batch.keys) == 24


def test_a_shard_without_one_picture_is_no_part_of_the_cache(world: Path, shards: Path) -> None:
    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    tar = sorted(shards.glob("*.tar"))[1]
    content = tar.read_bytes()
    tar.unlink()
    report = embed_shards(open_shard_set(shards), teacher, "stretch")
    assert report.unreadable == (tar.name,)
    with pytest.raises(InputError, match="events-000001 is missing; run ezsr-embed again"):
        open_cache(open_shard_set(shards), teacher, "stretch")
    tar.write_bytes(content)
    assert embed_shards(open_shard_set(shards), teacher, "stretch").pictures == 5
    assert open_cache(open_shard_set(shards), teacher, "stretch") is not None


def test_verify_and_view_do_not_mind_a_cache(world: Path, shards: Path) -> None:
    from ezsr_shards.verify import verify

    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    embed_shards(open_shard_set(shards), teacher, "stretch")
    assert verify(shards).samples == 24
