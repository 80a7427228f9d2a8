"""Subsets of a shard set: nested, whole pictures, and what training makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs pip install 'ezsr[train]'")
import torch.nn.functional as F  # noqa: E402

from ezsr_shards.errors import ConfigError, InputError  # noqa: E402
from ezsr_shards.making import RunOptions  # noqa: E402
from ezsr_synth.config import SensorSize, SynthConfig  # noqa: E402
from ezsr_synth.run import synthesize  # noqa: E402
from ezsr_synth.sources import SourceOptions  # noqa: E402
from ezsr_train.batches import ReadOptions, evaluation_batches  # noqa: E402
from ezsr_train.config import (  # noqa: E402
    AugmentConfig,
    DataConfig,
    InputConfig,
    LogConfig,
    OptimConfig,
    TrainConfig,
)
from ezsr_train.encoder import EncoderFacts, make_student, open_encoder  # noqa: E402
from ezsr_train.evaluate import Evaluator  # noqa: E402
from ezsr_train.loop import train  # noqa: E402
from ezsr_train.ranks import Ranks  # noqa: E402
from ezsr_train.shard_files import ShardSet, open_shard_set  # noqa: E402
from ezsr_train.subset import choose_subset, split_key  # noqa: E402
from ezsr_train.teacher import load_teacher  # noqa: E402
from ezsr_train.teacher_cache import embed_shards  # noqa: E402
from ezsr_train.tower import build_tower, read_vision_cfg  # noqa: E402

ALONE = Ranks(0, 1, torch.device("cpu"))
PICTURES, VIEWS = 14, 3


@pytest.fixture(scope="module")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy shards with three views of each picture."""
    folder = tmp_path_factory.mktemp("viewed") / "shards"
    config = SynthConfig(size=SensorSize(32, 32), max_events=800, views=VIEWS)
    synthesize(f"toy:{PICTURES}", folder, config, SourceOptions(shard_size=4), RunOptions(2))
    return folder


def keys_of(shards: ShardSet) -> set[tuple[str, int]]:
    return {split_key(shards.read(n, False).key) for n in range(len(shards))}


def choose(folder: Path, seed: int = 0, **options: int) -> set[tuple[str, int]]:
    return keys_of(choose_subset(open_shard_set(folder), DataConfig(**options), seed))


def test_smaller_subsets_lie_inside_larger_ones(viewed: Path) -> None:
    whole = keys_of(open_shard_set(viewed))
    assert len(whole) == PICTURES * VIEWS
    inner: set[tuple[str, int]] = set()
    for pairs in range(1, PICTURES + 1):
        outer = choose(viewed, pairs=pairs)
        assert inner < outer
        assert len(outer) == pairs * VIEWS
        assert {picture for picture, _ in outer - inner} == {picture for picture, _ in outer} - {
            picture for picture, _ in inner
        }
        inner = outer
    assert inner == whole
    for views in (1, 2, 3):
        found = choose(viewed, pairs=5, views=views)
        assert found == {one for one in choose(viewed, pairs=5) if one[1] < views}
        assert len(found) == 5 * views
    assert choose(viewed, views=VIEWS) == whole


def test_another_seed_draws_other_pictures(viewed: Path) -> None:
    drawn = {frozenset(choose(viewed, seed, pairs=5, views=1)) for seed in range(20)}
    assert len(drawn) == 20
    assert frozenset.union(*drawn) == choose(viewed, views=1)


def test_what_a_set_does_not_have_is_refused(viewed: Path) -> None:
    for told, message in (
        (DataConfig(pairs=PICTURES + 1), f"has {PICTURES} pictures"),
        (DataConfig(views=VIEWS + 1), r"make the set with ezsr-synth --views 4"),
    ):
        with pytest.raises(ConfigError, match=message):
            choose_subset(open_shard_set(viewed), told, 0)
    for name in ("pairs", "views"):
        with pytest.raises(ConfigError, match=f"data.{name}"):
            DataConfig(**{name: 0})


def test_a_subset_is_read_as_the_set_itself(viewed: Path) -> None:
    """Every sample of the subset comes once, with its own events, and has another identity."""
    whole = open_shard_set(viewed)
    part = choose_subset(whole, DataConfig(pairs=6, views=2), 1)
    events = {whole.read(n, False).key: whole.read(n, False).events for n in range(len(whole))}
    options = ReadOptions(InputConfig(slice_events=800), 32, None)
    seen = [key for batch in evaluation_batches(part, options, ALONE, 5) for key in batch.keys]
    assert len(seen) == len(set(seen)) == 12
    assert {split_key(key) for key in seen} == keys_of(part)
    found = {part.read(n, False).key: part.read(n, False).events for n in range(len(part))}
    assert found == {key: events[key] for key in seen}
    assert part.identity != whole.identity
    other = choose_subset(whole, DataConfig(pairs=6, views=2), 2)
    assert other.identity != part.identity


def small_run(world: Path, **options: object) -> TrainConfig:
    known = TrainConfig(
        model=str(world / "clip.safetensors"),
        input=InputConfig(slice_events=600),
        augment=AugmentConfig(slice_jitter=100),
        optim=OptimConfig(steps=2, batch=4, warmup=1),
        data=DataConfig(workers=0, pairs=3, views=2),
        log=LogConfig(every=1, eval_every=2, save_every=2, tensorboard=False),
    )
    return replace(known, **options)  # type: ignore[arg-type]


def test_training_sees_the_subset_alone(
    viewed: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ezsr_train import loop

    seen, taken = set[str](), loop.take_step

    def take_step(learner, batch, *rest):  # type: ignore[no-untyped-def]
        seen.update(batch.keys)
        return taken(learner, batch, *rest)

    monkeypatch.setattr(loop, "take_step", take_step)
    optim = OptimConfig(steps=9, batch=4, warmup=1)
    train(viewed, tmp_path / "run", small_run(world, optim=optim))
    assert {split_key(key) for key in seen} == choose(viewed, pairs=3, views=2)


@pytest.mark.parametrize("cached", [False, True])
def test_the_distance_to_the_teacher_is_told(cached: bool, viewed: Path, world: Path) -> None:
    """Against embeddings of both, one sample after another."""
    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    shards = open_shard_set(viewed)
    options = ReadOptions(InputConfig(slice_events=600), 32, 32)
    if cached:
        from ezsr_train.teacher_cache import open_cache

        embed_shards(shards, teacher, "stretch", 0)
        options = replace(options, cache=open_cache(shards, teacher, "stretch"))
    student = make_student(teacher, options.input, "x2").eval()
    found = Evaluator(shards, options, teacher, ALONE, 0).score(student)
    distances = []
    plain = replace(options, cache=None)
    for batch in evaluation_batches(shards, plain, ALONE, 1):
        with torch.no_grad():
            events = F.normalize(student(batch.events), dim=1)
        picture = F.normalize(teacher.embed_pictures(batch.pictures), dim=1)
        distances.append(1 - float((events * picture).sum()))
    assert found.distance == pytest.approx(sum(distances) / len(distances), abs=2e-3)
    assert found.facts()["distance_to_teacher"] == found.distance


def test_a_student_of_another_width(viewed: Path, world: Path, tmp_path: Path) -> None:
    """x2 has twice the width, random weights that the seed draws, and exports as any other."""
    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    sizes = []
    for name in ("x0.5", "x1", "x2"):
        student = make_student(teacher, InputConfig(), name)
        sizes.append(sum(one.numel() for one in student.visual.parameters()))
        own = teacher.spec.vision_cfg
        assert student.spec.vision_cfg == {**own, "width": int(own["width"] * float(name[1:]))}
        by_hand = build_tower(student.spec, "a tower")
        assert sizes[-1] == sum(one.numel() for one in by_hand.parameters())
    own_tower = teacher.clip.get_submodule("visual")
    assert sizes[1] == sum(one.numel() for one in own_tower.parameters())
    assert sizes[0] < sizes[1] < sizes[2]
    train(viewed, tmp_path / "run", small_run(world, student="x0.5"))
    encoder, facts = open_encoder(tmp_path / "run" / "encoder.safetensors")
    assert isinstance(facts, EncoderFacts)
    assert sum(one.numel() for one in encoder.visual.parameters()) == sizes[0]


def test_widths_that_no_tower_has_are_refused() -> None:
    resnet = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16}
    assert read_vision_cfg("x0.3", resnet)["width"] == 4
    assert read_vision_cfg("x0.5", {"layers": 12, "width": 768})["width"] == 384
    for name in ("x0", "x0.01", "x99999"):
        with pytest.raises(InputError, match="give another factor"):
            read_vision_cfg(name, resnet)
    with pytest.raises(InputError, match="timm's towers have fixed widths"):
        read_vision_cfg("x2", {"timm_model_name": "eva02_tiny_patch14_224"})
    with pytest.raises(InputError, match=r"a width such as x0\.5"):
        read_vision_cfg("x2y", resnet)
