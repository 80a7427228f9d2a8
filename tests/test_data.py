"""From shards to batches: an order without surprises, pairs that stay pairs, broken samples."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs pip install 'ezsr[train]'")

from ezsr_shards.errors import InputError, RunError, ShardError  # noqa: E402
from ezsr_shards.npz import NpzRows, encode_npz  # noqa: E402
from ezsr_shards.shard import read_shard  # noqa: E402
from ezsr_train.batches import (  # noqa: E402
    Batch,
    ReadOptions,
    evaluation_batches,
    training_batches,
)
from ezsr_train.config import (  # noqa: E402
    AugmentConfig,
    DataConfig,
    InputConfig,
    OptimConfig,
    TrainConfig,
)
from ezsr_train.order import stream_places  # noqa: E402
from ezsr_train.prepare import View, cut_slice, read_picture, scale_axis  # noqa: E402
from ezsr_train.ranks import Ranks  # noqa: E402
from ezsr_train.representation import count_events  # noqa: E402
from ezsr_train.shard_files import open_shard_set, read_recording  # noqa: E402

ALONE = Ranks(0, 1, torch.device("cpu"))
SIZE = 32


def config(**options: object) -> TrainConfig:
    known = {
        "optim": OptimConfig(batch=8),
        "input": InputConfig(slice_events=1000),
        "augment": AugmentConfig(slice_jitter=200),
        "data": DataConfig(workers=0),
    }
    return TrainConfig(**{**known, **options})  # type: ignore[arg-type]


def options(**changes: object) -> ReadOptions:
    return ReadOptions(InputConfig(slice_events=1000, **changes), SIZE, SIZE)  # type: ignore[arg-type]


def take(world: Path, count: int, told: TrainConfig, ranks: Ranks, start: int = 0) -> list[Batch]:
    shards = open_shard_set(world / "shards")
    return list(islice(training_batches(shards, options(), told, ranks, start), count))


def test_every_epoch_holds_every_sample_once() -> None:
    sizes = [5, 3, 9, 1]
    whole = list(islice(stream_places(sizes, 3), 200))
    assert [place.number for place in whole] == list(range(200))
    for start in (0, 7, 18, 50):
        assert list(islice(stream_places(sizes, 3, start), 100)) == whole[start : start + 100]
    epochs = [[(p.shard, p.index) for p in whole[n : n + 18]] for n in (0, 18)]
    assert len(set(epochs[0])) == len(set(epochs[1])) == 18
    assert epochs[0] != epochs[1]


def test_resampling_draws_each_sample_equally_often() -> None:
    sizes = [50, 30, 90, 10]
    whole = list(islice(stream_places(sizes, 3, resampled=True), 180 * 100))
    assert list(islice(stream_places(sizes, 3, 77, resampled=True), 300)) == whole[77:377]
    drawn = Counter(place.shard for place in whole)
    for shard, size in enumerate(sizes):
        assert drawn[shard] == pytest.approx(100 * size, rel=0.25)
        assert all(place.index < size for place in whole if place.shard == shard)
    assert len({(p.shard, p.index) for p in whole[:180]}) < 180  # some twice, so some not at all


def test_large_sets_are_mixed_in_pools() -> None:
    sizes = [10] * 1000
    first = list(islice(stream_places(sizes, 0), 640))
    assert len({place.shard for place in first}) == 64
    assert len({place.shard for place in first[:64]}) > 32


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on machines of few cores
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_change_the_batches(world: Path, workers: int) -> None:
    alone = take(world, 4, config(), ALONE, start=2)
    several = take(world, 4, config(data=DataConfig(workers=workers)), ALONE, start=2)
    for a, b in zip(alone, several, strict=True):
        assert a.keys == b.keys
        assert torch.equal(a.events.x, b.events.x)
        assert torch.equal(a.pictures, b.pictures)


@pytest.mark.parametrize("count", [2, 4, 8])  # eight ranks, five shards
def test_ranks_share_the_same_batches(world: Path, count: int) -> None:
    whole = take(world, 3, config(), ALONE)
    parts = [take(world, 3, config(), Ranks(n, count, ALONE.device)) for n in range(count)]
    for n, batch in enumerate(whole):
        assert batch.keys == tuple(key for part in parts for key in part[n].keys)
        assert torch.equal(batch.events.x, torch.cat([part[n].events.x for part in parts]))


def test_evaluation_sees_every_sample_once(world: Path) -> None:
    shards = open_shard_set(world / "shards")
    for count in (1, 2, 5):
        for batch in (5, 7, 24, 100):
            keys = [
                key
                for rank in range(count)
                for found in evaluation_batches(
                    shards, options(), Ranks(rank, count, ALONE.device), batch
                )
                for key in found.keys
            ]
            assert len(keys) == len(set(keys)) == 24


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("box", [(0.0, 0.0, 1.0, 1.0), (0.2, 0.1, 0.6, 0.6)])
@pytest.mark.parametrize("geometry", ["stretch", "crop"])
def test_events_and_picture_stay_aligned(
    geometry: str, box: tuple[float, float, float, float], mirrored: bool, world: Path
) -> None:
    """Where the picture has edges, events are: more than where it is shifted aside."""
    shards = open_shard_set(world / "shards").shards
    told = InputConfig(geometry=geometry)  # type: ignore[arg-type]
    view = View(3000, mirrored=mirrored, box=box)
    here, aside = 0.0, [0.0] * 4
    for recording in (read_recording(shard, n, True) for shard in shards for n in range(4)):
        events = cut_slice(recording, told, SIZE, view)
        grey = read_picture(recording, geometry, SIZE, view).astype(float).mean(2)
        edges = abs(np.gradient(grey)[0]) + abs(np.gradient(grey)[1])
        counts = np.zeros((SIZE, SIZE))
        np.add.at(counts, (events.y, events.x), 1)
        counts = counts.clip(max=5)
        here += (edges * counts).sum()
        for n, shift in enumerate(((0, 6), (0, -6), (6, 0), (-6, 0))):
            aside[n] += (edges * np.roll(counts, shift, (0, 1))).sum()
    assert here > 1.2 * max(aside)


def test_a_slice_holds_the_events_it_says(world: Path) -> None:
    """Against the whole sample as the contract's own reader gives it."""
    shards = open_shard_set(world / "shards").shards
    told = InputConfig(representation="voxel")
    for n, sample in enumerate(islice(read_shard(shards[0].path), 3)):
        recording = read_recording(shards[0], n, False)
        found = cut_slice(recording, told, 48, View(700, place=0.5))
        start = int(0.5 * (len(sample.events) - 700 + 1))
        part = slice(start, start + 700)
        assert np.array_equal(found.p, sample.events.p[part])
        assert np.array_equal(found.x, sample.events.x[part])  # 48 columns into 48
        assert np.array_equal(found.y, scale_axis(32, 0, 32, 48)[sample.events.y[part]])
        t = sample.events.t[part].astype(float)
        assert np.allclose(found.t, (t - t[0]) / (t[-1] - t[0]), atol=1e-6)
        back = cut_slice(recording, told, 48, View(700, place=0.5, reversed=True))
        assert np.array_equal(back.p, 1 - found.p)
        assert np.allclose(back.t, 1 - found.t, atol=1e-6)
        turned = cut_slice(recording, told, 48, View(700, place=0.5, mirrored=True))
        assert np.array_equal(turned.x, 47 - found.x)


def test_dropping_keeps_about_that_share(world: Path) -> None:
    recording = read_recording(open_shard_set(world / "shards").shards[0], 0, False)
    rng = np.random.default_rng(0)
    kept = cut_slice(recording, InputConfig(), SIZE, View(2000, keep=0.6), rng)
    assert len(kept.x) == pytest.approx(1200, rel=0.1)


def test_scaling_is_the_authors_up_to_float16() -> None:
    for sensor, size in ((640, 224), (480, 224), (224, 64), (34, 224)):
        exact = np.floor(np.arange(sensor) * size / sensor)
        scaled = scale_axis(sensor, 0, sensor, size)
        assert abs(scaled - exact).max() <= 1
        assert (scaled != exact).mean() < 0.03
        assert scaled.max() == exact.max()


def test_rows_are_read_from_any_archive() -> None:
    columns = {"x": np.arange(9000, dtype="<u2"), "t": np.arange(9000, dtype="<u4") * 7}
    plain, packed = io.BytesIO(), io.BytesIO()
    np.savez(plain, **columns)
    np.savez_compressed(packed, **columns)
    for data in (encode_npz(columns), plain.getvalue(), packed.getvalue()):
        for name, column in columns.items():
            for part in (slice(0, 9000), slice(8000, 9500), slice(5, 6), slice(3, 3)):
                found = NpzRows(data).read(name, part.start, part.stop)
                assert np.array_equal(found, column[part])
    for bad in (b"", b"PK", data[:200], data[:-30]):
        with pytest.raises(ShardError):
            NpzRows(bad).read("x", 0, 10)
    with pytest.raises(ShardError, match="column y"):
        NpzRows(data).read("y", 0, 10)
    with pytest.raises(ShardError, match="column p"):
        NpzRows(encode_npz({"p": np.array([-1], "i1")})).read("p", 0, 1)


@pytest.fixture
def copied(world: Path, tmp_path: Path) -> Path:
    shutil.copytree(world / "shards", tmp_path / "shards")
    return tmp_path


def reasons(batches: list[Batch]) -> Counter[tuple[str, str]]:
    return Counter((one.shard, one.reason) for batch in batches for one in batch.skipped)


def shards_of(counted: Counter[tuple[str, str]]) -> Counter[str]:
    return Counter(shard for shard, _ in counted.elements())


def test_broken_samples_are_replaced_and_counted(copied: Path) -> None:
    healthy = take(copied, 6, config(), ALONE)
    tars = sorted((copied / "shards").glob("*.tar"))
    tars[0].write_bytes(tars[0].read_bytes()[: tars[0].stat().st_size // 2])
    tars[1].unlink()
    broken = take(copied, 6, config(), ALONE)
    assert [len(batch.keys) for batch in broken] == [8] * 6
    counted = reasons(broken)
    assert counted[(tars[1].name, "the shard is missing")] >= 5
    assert any(shard == tars[0].name for shard, _ in counted)
    lost = {key for batch in healthy for key in batch.keys} - {
        key for batch in broken for key in batch.keys
    }
    assert len(lost) >= 5  # none of the deleted shard's samples came
    again = take(copied, 6, config(data=DataConfig(workers=2)), ALONE)
    assert [batch.keys for batch in again] == [batch.keys for batch in broken]
    # Whether a cut shows in the tar's list or in a member depends on when it happened.
    assert shards_of(reasons(again)) == shards_of(counted)


def test_evaluation_leaves_out_broken_samples_and_says_so(copied: Path) -> None:
    sorted((copied / "shards").glob("*.tar"))[1].unlink()
    found = list(evaluation_batches(open_shard_set(copied / "shards"), options(), ALONE, 5))
    assert sum(len(batch.keys) for batch in found) == 19
    assert sum(len(batch.skipped) for batch in found) == 5


def test_nothing_but_broken_samples_ends_in_a_sentence(copied: Path) -> None:
    shards = open_shard_set(copied / "shards")
    for tar in (copied / "shards").glob("*.tar"):
        tar.write_bytes(b"no tar at all")
    with pytest.raises(RunError, match="in a row are broken"):
        next(training_batches(shards, options(), config(), ALONE, 0))


def test_what_is_no_shard_set_is_refused(tmp_path: Path, copied: Path) -> None:
    with pytest.raises(InputError, match="ezsr-synth first"):
        open_shard_set(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"data\.cache"):
        open_shard_set("http://127.0.0.1:9/shards")
    index = copied / "shards" / "index.json"
    facts = json.loads(index.read_text())
    facts["shardlist"][0]["url"] = "../elsewhere.tar"
    index.write_text(json.dumps(facts))
    with pytest.raises(InputError, match="outside"):
        open_shard_set(copied / "shards")


def test_remote_shards_are_copied_when_needed(world: Path, tmp_path: Path) -> None:
    url = (world / "shards").as_uri()
    near, far = open_shard_set(world / "shards"), open_shard_set(url, str(tmp_path))
    assert not list(far.folder.glob("*.tar"))
    told = config()
    here, there = (
        list(islice(training_batches(one, options(), told, ALONE, 0), 3)) for one in (near, far)
    )
    assert [batch.keys for batch in here] == [batch.keys for batch in there]
    assert len(list(far.folder.glob("*.tar"))) == 5
    assert far.identity == near.identity


def test_a_remote_shard_that_is_not_the_indexed_one_is_broken(copied: Path) -> None:
    far = open_shard_set((copied / "shards").as_uri(), str(copied / "cache"))
    tar = sorted((copied / "shards").glob("*.tar"))[0]
    tar.write_bytes(tar.read_bytes() + b"more")
    with pytest.raises(ShardError, match="another sha256"):
        far.shards[0].locate()
    tar.unlink()
    with pytest.raises(ShardError, match="no such file"):
        far.shards[0].locate()
    assert not list(far.folder.glob("*.tar"))


def test_counts_do_not_depend_on_what_else_is_in_the_batch(world: Path) -> None:
    shards = open_shard_set(world / "shards")
    (whole,) = evaluation_batches(shards, options(), ALONE, 24)
    single = list(evaluation_batches(shards, options(), ALONE, 1))
    counts = torch.cat([count_events(batch.events, SIZE) for batch in single])
    assert torch.equal(count_events(whole.events, SIZE), counts)
