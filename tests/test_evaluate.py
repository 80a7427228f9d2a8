"""Evaluation: exact counts of planted answers, k-NN against brute force, reports, files."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_import import write_aer40, write_npz

torch = pytest.importorskip("torch", reason="training needs pip install 'ezsr[train]'")

import open_clip  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from ezsr_shards.datasets import known_classes, open_recording  # noqa: E402
from ezsr_shards.errors import ConfigError, InputError, OutputError, RunError  # noqa: E402
from ezsr_shards.formats.raw import Convention  # noqa: E402
from ezsr_shards.importer import import_recordings, list_recordings  # noqa: E402
from ezsr_shards.making import RunOptions  # noqa: E402
from ezsr_shards.shard import write_shard  # noqa: E402
from ezsr_shards.verify import iterate_samples  # noqa: E402
from ezsr_train.batches import Batch, ReadOptions  # noqa: E402
from ezsr_train.classify import EventClassifier  # noqa: E402
from ezsr_train.cli_evaluate import main  # noqa: E402
from ezsr_train.config import InputConfig  # noqa: E402
from ezsr_train.encoder import (  # noqa: E402
    EncoderFacts,
    make_student,
    open_encoder,
    save_encoder,
)
from ezsr_train.evaluate import accuracy, answer, embed_recordings  # noqa: E402
from ezsr_train.knn import KnnConfig, Pool, open_pool, translate  # noqa: E402
from ezsr_train.prepare import SliceRule  # noqa: E402
from ezsr_train.ranks import Ranks  # noqa: E402
from ezsr_train.recognition import EvalConfig, evaluate  # noqa: E402
from ezsr_train.recording_files import RecordingFiles  # noqa: E402
from ezsr_train.shard_files import open_shard_set  # noqa: E402
from ezsr_train.teacher import load_teacher  # noqa: E402
from ezsr_train.teacher_cache import embed_shards  # noqa: E402
from ezsr_train.templates import NAMES, read_templates, templates_for  # noqa: E402
from ezsr_train.texts import load_partner, name_classes  # noqa: E402
from ezsr_train.tower import normalize  # noqa: E402
from ezsr_train.zeroshot import Accuracy, embed_classes, rank_classes  # noqa: E402

ALONE = Ranks(0, 1, torch.device("cpu"))
TESTS = Path(__file__).parent
CLASSES = 60  # of the toy world


@pytest.fixture(scope="module")
def encoder_file(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An event encoder as a run leaves it: untrained, but whole."""
    clip = str(world / "clip.safetensors")
    teacher = load_teacher(clip, None, ALONE.device)
    told = InputConfig(slice_events=1000)
    student = make_student(teacher, told, None)
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    facts = EncoderFacts(student.spec, told, clip, None, teacher.sha256)
    save_encoder(path, student.visual.state_dict(), facts)
    return path


def planted(keys: tuple[str, ...], labels: torch.Tensor) -> torch.Tensor:
    """Embeddings whose nearest class is known: of every third key the label, else another."""
    rows = []
    for key, label in zip(keys, labels.tolist(), strict=True):
        answered = label if right(key) else (label + 1) % CLASSES
        row = torch.zeros(CLASSES)
        row[answered], row[label] = 2.0, max(1.0, float(row[label]))
        row[(label + 2) % CLASSES] = 0.5
        rows.append(
            row
            if answered != label
            else torch.nn.functional.one_hot(torch.tensor(label), CLASSES).float()
        )
    return torch.stack(rows)


def right(key: str) -> bool:
    return sum(key.encode()) % 3 == 0


def planted_answers(world: Path, ranks: Ranks, batch: int, slices: int = 1) -> list:
    shards = open_shard_set(world / "shards")
    options = ReadOptions(InputConfig(slice_events=500), 16, None, rule=SliceRule(slices))
    found = embed_recordings(
        shards, options, lambda one: planted(one.keys, one.labels), ranks, batch
    )
    return answer(found, torch.eye(CLASSES), ranks)


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("batch", [1, 5, 7, 24, 100])
def test_planted_answers_are_counted_exactly(batch: int, slices: int, world: Path) -> None:
    answers = planted_answers(world, ALONE, batch, slices)
    expected = {sample.key: sample.label for sample in iterate_samples(world / "shards")}
    assert {one.key: one.label for one in answers} == expected
    hits = sum(right(key) for key in expected)
    assert 0 < hits < 24
    assert accuracy(answers) == Accuracy(hits, 24)
    assert accuracy(answers, 5) == Accuracy(24, 24)


RANK = """
import sys
from pathlib import Path
import test_evaluate
from ezsr_train.ranks import join_ranks
with join_ranks() as ranks:
    found = test_evaluate.planted_answers(Path(sys.argv[1]), ranks, int(sys.argv[3]))
    Path(sys.argv[2] + str(ranks.rank)).write_text(repr(found))
"""


@pytest.mark.parametrize("batch", [5, 100])
def test_two_processes_answer_as_one(batch: int, world: Path, tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(tmp_path / "rank.py"), str(world), str(tmp_path / "said"), str(batch)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = repr(planted_answers(world, ALONE, 24))
    assert [(tmp_path / f"said{rank}").read_text() for rank in (0, 1)] == [expected] * 2


def test_slices_are_averaged_in_unit_length(world: Path, encoder_file: Path) -> None:
    encoder, facts = open_encoder(encoder_file)
    shards = open_shard_set(world / "shards")

    def embed(batch: Batch) -> torch.Tensor:
        return encoder(batch.events)

    rule = SliceRule(3)
    options = ReadOptions(facts.input, encoder.events_px, None, rule=rule)
    found = embed_recordings(shards, options, embed, ALONE, 7)
    recording = shards.read(3, False)
    rows = []
    for view in rule.views(facts.input.slice_events, recording.events):
        start = int(view.place * (recording.events - view.length + 1))
        columns = {c: recording.read(c, start, start + view.length) for c in "xytp"}
        classifier = EventClassifier.from_checkpoint(encoder_file)
        rows.append(classifier.embed(columns, size=(recording.width, recording.height)))
    mean = F.normalize(torch.stack(rows).mean(0), dim=0)
    row = found.embeddings[found.keys.index(recording.key)]
    assert torch.allclose(row, mean, atol=1e-6)
    assert not torch.allclose(row, rows[1], atol=1e-4)


def test_official_slices_are_random_but_repeatable() -> None:
    rule = SliceRule(1, True, 2000, 0)
    views = [rule.views(15_000, n)[0] for n in range(400)]
    assert views == [rule.views(15_000, n)[0] for n in range(400)]
    assert views != [replace(rule, seed=1).views(15_000, n)[0] for n in range(400)]
    lengths = [view.length for view in views]
    assert min(lengths) >= 13_000
    assert max(lengths) <= 17_000
    assert np.ptp(lengths) > 3900
    assert 0.4 < np.mean([view.place for view in views]) < 0.6


def brute_force(queries: np.ndarray, pool: np.ndarray, k: int, temperature: float) -> np.ndarray:
    """Remark 1 as it is written: sort everything, weigh, add."""
    unit = pool / np.linalg.norm(pool, axis=1, keepdims=True)
    rows = []
    for query in queries:
        nearness = unit @ query
        best = np.argsort(-nearness)[:k]
        weight = np.exp(nearness[best] / temperature)
        mean = (weight[:, None] / weight.sum() * unit[best]).sum(0)
        rows.append(mean / np.linalg.norm(mean))
    return np.array(rows)


@pytest.mark.parametrize("k", [1, 4, 50])
@pytest.mark.parametrize("blocks", [[50], [1, 2, 47], [25, 25]])
def test_translation_is_the_mean_of_the_nearest(k: int, blocks: list[int]) -> None:
    rng = np.random.default_rng(k)
    pool, queries = rng.normal(size=(50, 8)), rng.normal(size=(9, 8))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)

    def read() -> Iterator[torch.Tensor]:
        for rows in np.split(pool, np.cumsum(blocks)[:-1]):
            yield torch.from_numpy(rows).float()

    found = translate(torch.from_numpy(queries).float(), Pool(read), KnnConfig(k, 0.1))
    assert np.allclose(found.numpy(), brute_force(queries, pool, k, 0.1), atol=1e-5)


def test_translation_in_blocks_of_the_queries_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ezsr_train.knn._QUERIES", 3)
    monkeypatch.setattr("ezsr_train.knn._POOLED", 7)
    test_translation_is_the_mean_of_the_nearest(4, [50])


def test_a_pool_may_be_a_file_or_a_shard_set(world: Path, tmp_path: Path) -> None:
    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    shutil.copytree(world / "shards", tmp_path / "shards")
    with pytest.raises(ConfigError, match="run ezsr-embed"):
        open_pool(str(tmp_path / "shards"), teacher, "stretch")
    embed_shards(open_shard_set(tmp_path / "shards"), teacher, "stretch", 0)
    of_shards = torch.cat(list(open_pool(str(tmp_path / "shards"), teacher, "stretch").read()))
    assert of_shards.shape == (24, 8)
    np.save(tmp_path / "pool.npy", of_shards.numpy())
    of_file = torch.cat(list(open_pool(str(tmp_path / "pool.npy"), teacher, "stretch").read()))
    assert torch.equal(of_file, of_shards)
    queries = F.normalize(of_shards[:5], dim=1)
    with pytest.raises(InputError, match="24 embeddings, fewer than --knn 25"):
        translate(queries, open_pool(str(tmp_path / "pool.npy"), teacher, "stretch"), KnnConfig(25))
    hole, nothing = np.ones((30, 8), "f4"), np.ones((30, 8), "f4")
    hole[7, 3], nothing[9] = np.nan, 0
    shapes = (np.zeros(3, "f4"), np.zeros((3, 2), "i4"), np.zeros((30, 3), "f4"))
    for wrong in (*shapes, hole, nothing):
        np.save(tmp_path / "wrong.npy", wrong)
        with pytest.raises(InputError, match="pool"):
            translate(queries, open_pool(str(tmp_path / "wrong.npy"), teacher, ""), KnnConfig(2))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        open_pool(str(tmp_path / "objects.npy"), teacher, "stretch")


def test_a_report_says_what_was_done_and_found(
    world: Path, encoder_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(world / "shards", tmp_path / "shards")
    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    embed_shards(open_shard_set(tmp_path / "shards"), teacher, "stretch", 0)
    out, shards = tmp_path / "report", str(tmp_path / "shards")
    arguments = [shards, "--checkpoint", str(encoder_file), "--out", str(out), "--workers", "0"]
    assert main([*arguments, "--knn", "3", "--pool", shards, "--ceiling"]) == 0
    said = capsys.readouterr().out
    facts = json.loads((out / "report.json").read_text())
    with open(out / "answers.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["embeddings"] == "events"]
    assert len(rows) == facts["recordings"] == 24
    hits = sum(row["nearest"].split()[0] == row["class"] for row in rows)
    within = sum(row["class"] in row["nearest"].split()[:5] for row in rows)
    assert (facts["top1_hits"], facts["top5_hits"]) == (hits, within)
    assert facts["top1"] == hits / 24
    assert facts["top1_95"] == pytest.approx(Accuracy(hits, 24).interval())
    assert sum(one["top1_hits"] for one in facts["per_class"]) == hits
    assert sum(one["recordings"] for one in facts["per_class"]) == 24
    assert facts["knn"]["recordings"] == facts["ceiling"]["recordings"] == 24
    assert facts["protocol"]["slice_events"] == 1000
    assert facts["protocol"]["knn"] == 3
    assert facts["protocol"]["knn_pool_is"] == "the evaluated pictures themselves"
    assert facts["checkpoint"]["text_tower_sha256"] == teacher.sha256
    assert facts["data"]["shards_sha256"] == open_shard_set(shards).identity
    text = (out / "report.md").read_text()
    assert f"| events | {100 * hits / 24:.2f} [" in text
    assert "slices_averaged | 1 |" in text
    assert (out / "confusion.png").stat().st_size > 5000
    assert f"top-1 {hits / 24:.1%}" in said
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    again = json.loads((out / "report.json").read_text())
    assert again["top1_hits"] == hits  # nothing random is left


def test_the_official_protocol_is_fixed_and_said(world: Path, encoder_file: Path) -> None:
    config = EvalConfig(protocol="official", workers=0)
    report = evaluate(encoder_file, open_shard_set(world / "shards"), config, ALONE)
    told = report.facts["protocol"]
    assert (told["slice_events"], told["slice_jitter"], told["geometry"]) == (
        15000,
        2000,
        "stretch",
    )
    assert told["event_image_px"] == 32
    assert told["protocol"] == "official, adapted to this encoder"
    assert told["templates"] == "imagenet"
    assert len(told["prompts"]) == 80
    assert told["class_names"].startswith("those of the set, which are not the authors'")
    assert report.lines()[-1].startswith(
        "note: the official protocol, but the class names are those"
    )
    for options in ({"slices": 2}, {"slice_events": 10}, {"templates": "a"}, {"classnames": "b"}):
        with pytest.raises(ConfigError, match="the official protocol fixes it"):
            EvalConfig(protocol="official", **options)  # type: ignore[arg-type]


def test_the_official_class_names_are_imagenets(encoder_file: Path, tmp_path: Path) -> None:
    for n, one in enumerate(known_classes("n-imagenet")[:3]):
        write_npz(tmp_path / "extracted_val" / one.shown.folder / f"{n}.npz", n)
    listed = list_recordings("n-imagenet", tmp_path)
    for official, names in ((True, "the authors' for ImageNet"), (False, "those of the set")):
        config = EvalConfig(protocol="official" if official else "fixed", workers=0)
        report = evaluate(encoder_file, RecordingFiles(listed), config, ALONE)
        assert report.facts["protocol"]["class_names"] == names
        assert not any("class names" in line for line in report.lines())


def test_broken_recordings_are_left_out_and_too_many_end_it(
    world: Path, encoder_file: Path, tmp_path: Path
) -> None:
    shutil.copytree(world / "shards", tmp_path / "shards")
    sorted((tmp_path / "shards").glob("*.tar"))[0].unlink()
    shards = open_shard_set(tmp_path / "shards")
    report = evaluate(encoder_file, shards, EvalConfig(max_skipped=0.5, workers=0), ALONE)
    assert len(report.answers) == 19
    assert report.skipped == {"the shard is missing": 5}
    with pytest.raises(RunError, match=r"5 of 24 recordings are broken, over --max-skipped 0\.01"):
        evaluate(encoder_file, shards, EvalConfig(workers=0), ALONE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "FILE"], "give a shard set"),
        (["SHARDS", "--checkpoint", "nowhere.pt"], "no such file"),
        (["nowhere", "--checkpoint", "FILE"], "no index.json"),
        (["SHARDS", "--checkpoint", "FILE", "--split", "val"], "split val: needs --format"),
        (["SHARDS", "--checkpoint", "FILE", "--flip-x"], "needs --format"),
        (["SHARDS", "--checkpoint", "FILE", "--model", "toy"], "not those of the CLIP"),
        (["SHARDS", "--checkpoint", "FILE", "--templates", "haiku"], "templates 'haiku'"),
        (["SHARDS", "--checkpoint", "FILE", "--classnames", "no.txt"], "classnames no.txt"),
        (["SHARDS", "--checkpoint", "FILE", "--classnames", "openai"], "1000 of ImageNet"),
        (["SHARDS", "--checkpoint", "FILE", "--knn", "3"], "give both, or neither"),
        (["SHARDS", "--checkpoint", "FILE", "--slices", "0"], "slices 0"),
        (["SHARDS", "--checkpoint", "FILE", "--format", "mp4"], "format 'mp4'"),
        (["SHARDS", "--checkpoint", "FILE", "--export", "onnx"], "export 'onnx'"),
    ],
)
def test_mistakes_end_in_a_sentence(
    arguments: list[str],
    message: str,
    world: Path,
    encoder_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"SHARDS": str(world / "shards"), "FILE": str(encoder_file)}
    words = [places.get(word, word) for word in arguments]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said
    assert not (tmp_path / "out").exists()


def test_class_names_and_templates_of_ones_own(world: Path, tmp_path: Path) -> None:
    classes = open_shard_set(world / "shards").classes
    names = tmp_path / "names.json"
    names.write_text(json.dumps([f"thing {n}" for n in range(CLASSES)]))
    assert name_classes(classes, str(names))[7] == "thing 7"
    names.write_text(json.dumps(["too few"]))
    with pytest.raises(InputError, match="lacks class 1"):
        name_classes(classes, str(names))
    own = tmp_path / "templates.txt"
    own.write_text("a drawing of {}\n\n{}, moving\n")
    assert read_templates(str(own)) == ("a drawing of {}", "{}, moving")
    own.write_text("no place\n")
    with pytest.raises(InputError, match="line 1"):
        read_templates(str(own))
    for name in NAMES:
        assert all(template.count("{}") == 1 for template in read_templates(name))
    assert templates_for("n-imagenet") == "imagenet"
    assert templates_for("my own") == templates_for(None) == "plain"


def test_texts_are_embedded_once(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ezsr_train import texts

    monkeypatch.setenv("EZSR_CACHE", str(tmp_path))
    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    made = texts.embed_classes_once(teacher, ["a cat", "a dog"], ("{}", "one {}"))
    plain = embed_classes(teacher.clip, teacher.tokenizer, ["a cat", "a dog"], ("{}", "one {}"))
    assert torch.equal(made, plain)
    (kept,) = (tmp_path / "texts").glob("*.npy")
    monkeypatch.setattr(texts, "embed_classes", None)
    assert torch.equal(
        texts.embed_classes_once(teacher, ["a cat", "a dog"], ("{}", "one {}")), made
    )
    monkeypatch.undo()
    monkeypatch.setenv("EZSR_CACHE", str(tmp_path))
    for garbled in (b"", b"\x93NUMPY", kept.read_bytes()[:-4]):
        kept.write_bytes(garbled)
        again = texts.embed_classes_once(teacher, ["a cat", "a dog"], ("{}", "one {}"))
        assert torch.equal(again, made)


def test_open_clip_loads_what_is_exported(world: Path, encoder_file: Path, tmp_path: Path) -> None:
    words = ["--checkpoint", str(encoder_file), "--export", "open_clip"]
    assert main([*words, "--out", str(tmp_path / "exported")]) == 0
    clip = open_clip.create_model(f"local-dir:{tmp_path / 'exported'}").eval()
    encoder, _ = open_encoder(encoder_file)
    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    images = torch.rand(3, 3, encoder.spec.size_px, encoder.spec.size_px)
    with torch.no_grad():
        assert torch.allclose(clip.encode_image(images), encoder.visual(images), atol=1e-6)
        tokens = teacher.tokenizer(["a striped star"])
        assert torch.allclose(clip.encode_text(tokens), teacher.clip.encode_text(tokens), atol=1e-6)
    assert clip.logit_scale == teacher.clip.logit_scale
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'exported'}")
    assert torch.equal(tokenizer(["a striped star"]), teacher.tokenizer(["a striped star"]))


def test_a_classifier_takes_events_in_any_form(
    world: Path, encoder_file: Path, tmp_path: Path
) -> None:
    sample = next(iterate_samples(world / "shards"))
    stream, size = sample.events, (sample.events.width, sample.events.height)
    records = stream.to_structured()
    columns = {name: getattr(stream, name) for name in "xytp"}
    np.save(tmp_path / "recording.npy", records)
    np.savez(tmp_path / "recording.npz", **columns)
    table = np.stack([columns[name].astype("i8") for name in "xytp"], axis=1)
    classifier = EventClassifier.from_checkpoint(encoder_file)
    row = classifier.embed(stream)
    assert row.shape == (8,)
    assert float(row.norm()) == pytest.approx(1, abs=1e-6)
    paths = (tmp_path / "recording.npy", str(tmp_path / "recording.npz"))
    for events in (records, columns, table, *paths):
        assert torch.equal(classifier.embed(events, size=size), row)
    both = classifier.embed_all([records, columns] * 40, size=size)
    assert both.shape == (80, 8)
    assert torch.allclose(both, row, atol=1e-6)
    texts = ["a dog", "a cat", "a striped star"]
    shares = classifier.classify(stream, texts)
    assert list(shares) == texts
    assert sum(shares.values()) == pytest.approx(1)
    clip, tokenizer = classifier.teacher.clip, classifier.teacher.tokenizer
    with torch.no_grad():
        rows = F.normalize(clip.encode_text(tokenizer(texts)), dim=1)
        expected = (clip.logit_scale.exp() * rows @ row).softmax(0)
    assert list(shares.values()) == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_classifier_equals_the_evaluation(world: Path, encoder_file: Path) -> None:
    encoder, facts = open_encoder(encoder_file)
    options = ReadOptions(facts.input, encoder.events_px, None)
    shards = open_shard_set(world / "shards")
    found = embed_recordings(shards, options, lambda one: encoder(one.events), ALONE, 24)
    samples = list(iterate_samples(world / "shards"))
    assert [sample.key for sample in samples] == list(found.keys)
    classifier = EventClassifier.from_checkpoint(encoder_file)
    rows = classifier.embed_all(sample.events for sample in samples)
    assert torch.allclose(rows, found.embeddings, atol=1e-6)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (3, "give an EventStream"),
        ({"x": [1], "y": [1], "t": [0], "p": [1]}, "size: columns do not tell"),
        ("nowhere.npz", "no such file"),
        ("events.mp4", "suffix"),
        ("empty.bin", r"recording empty\.bin: no-events; give a whole recording, and its own size"),
        (Path("bad.npz"), r"recording bad\.npz: unreadable .*give a whole recording"),
    ],
)
def test_a_classifier_says_what_is_wrong(
    events: object,
    message: str,
    encoder_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.bin").touch()
    Path("bad.npz").write_bytes(b"PK no archive")
    classifier = EventClassifier.from_checkpoint(encoder_file)
    size = (8, 8) if events == "empty.bin" else None
    with pytest.raises((ConfigError, InputError), match=message):
        classifier.embed(events, size=size)  # type: ignore[arg-type]
    for texts in ("a dog", None, 3, [], [1, 2], ["a dog", "a dog"]):
        with pytest.raises(ConfigError, match="give a list of different texts"):
            classifier.classify(np.zeros((1, 4)), texts)  # type: ignore[arg-type]


def test_one_recording_is_not_taken_for_several(world: Path, encoder_file: Path) -> None:
    classifier = EventClassifier.from_checkpoint(encoder_file)
    stream = next(iterate_samples(world / "shards")).events
    columns = {name: getattr(stream, name) for name in "xytp"}
    table = np.zeros((5, 4))
    for one in (stream, stream.to_structured(), columns, table, "a.npz", Path("a.npz"), None, 3):
        with pytest.raises(ConfigError, match=f"recordings: {type(one).__name__}, not several"):
            classifier.classify_all(one, ["a dog", "a cat"])  # type: ignore[arg-type]


def test_a_sensor_is_any_two_whole_numbers_and_never_idle(
    world: Path, encoder_file: Path, tmp_path: Path
) -> None:
    classifier = EventClassifier.from_checkpoint(encoder_file)
    stream = next(iterate_samples(world / "shards")).events
    records, row = stream.to_structured(), classifier.embed(stream)
    for size in ([48, 32], np.array([48, 32]), (np.int32(48), np.int64(32)), (48, 32)):
        assert torch.equal(classifier.embed(records, size=size), row)
        assert torch.equal(classifier.embed(stream, size=size), row)
    for size in ((48,), (48, 32, 2), "48x32", (48.0, 32.0), 48, (0, 32), (-1, 2), (48, 40_000)):
        with pytest.raises(ConfigError, match=r"size .*: give the sensor's \(width, height\)"):
            classifier.embed(records, size=size)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"own is \(48, 32\); leave size out"):
        classifier.embed(stream, size=(32, 48))
    for events in (stream, records):
        with pytest.raises(ConfigError, match="format 'npy': only files have one"):
            classifier.embed(events, size=(48, 32), format="npy")
    with pytest.raises(InputError, match=r"events: off-sensor .*give a whole recording, and"):
        classifier.embed(records, size=(8, 8))


def test_a_classifier_takes_recordings_with_other_axes(
    world: Path, encoder_file: Path, tmp_path: Path
) -> None:
    classifier = EventClassifier.from_checkpoint(encoder_file)
    records = next(iterate_samples(world / "shards")).events.to_structured()
    np.save(tmp_path / "recording.npy", records)
    turned = open_recording(tmp_path / "recording.npy", None, (48, 32), Convention(flip_x=True))
    records["x"] = 47 - records["x"]
    assert torch.equal(classifier.embed(turned), classifier.embed(records, size=(48, 32)))


def test_larger_towers_see_the_image_enlarged_by_nearest(world: Path) -> None:
    """As the authors feed towers of 336 px: counted at 224, then enlarged."""
    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    encoder = make_student(teacher, InputConfig(slice_events=800, events_px=16), None).eval()
    shards = open_shard_set(world / "shards")
    options = ReadOptions(InputConfig(slice_events=800), encoder.events_px, None)
    caught: list[torch.Tensor] = []

    def embed(batch: Batch) -> torch.Tensor:
        drawn = encoder.draw(batch.events)
        assert torch.equal(drawn[:, :, ::2, ::2], encoder.represent(batch.events, 16))
        assert torch.equal(drawn[:, :, ::2, ::2], drawn[:, :, 1::2, 1::2])
        caught.append(drawn)
        return encoder(batch.events)

    found = embed_recordings(shards, options, embed, ALONE, 24)
    expected = encoder.visual(normalize(caught[0], encoder.spec))
    assert torch.allclose(found.embeddings, F.normalize(expected, dim=1), atol=1e-6)


def test_nearest_classes_come_in_order() -> None:
    rng = np.random.default_rng(0)
    rows, classes = (torch.from_numpy(rng.normal(size=(n, 6))).float() for n in (20, 9))
    classes = F.normalize(classes, dim=1)
    ranked = rank_classes(rows, classes, 5)
    expected = np.argsort(-(rows @ classes.T).numpy(), axis=1)[:, :5]
    assert np.array_equal(ranked.numpy(), expected)
    assert rank_classes(rows, classes[:3], 5).shape == (20, 3)


def test_a_report_of_another_place_cannot_be_lost(tmp_path: Path) -> None:
    from ezsr_train.recognition import check_out

    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(OutputError, match=r"holds report.json, an evaluation's report"):
        check_out(tmp_path, overwrite=False)
    check_out(tmp_path, overwrite=True)


def test_files_as_they_lie_are_scored_as_their_shards_are(
    world: Path, encoder_file: Path, tmp_path: Path
) -> None:
    for n in range(6):
        write_aer40(tmp_path / "N-MNIST" / "Test" / str(n % 3) / f"{n}.bin", n)
    listed = list_recordings("n-mnist", tmp_path / "N-MNIST")
    import_recordings("n-mnist", tmp_path / "N-MNIST", tmp_path / "shards", None, RunOptions(1))
    for config in (EvalConfig(workers=0, slices=2), EvalConfig(workers=0, slice_events=20)):
        near = evaluate(encoder_file, RecordingFiles(listed), config, ALONE)
        far = evaluate(encoder_file, open_shard_set(tmp_path / "shards"), config, ALONE)
        assert sorted(one.nearest for one in near.answers) == sorted(
            one.nearest for one in far.answers
        )
        assert near.facts["protocol"] == far.facts["protocol"]
        assert near.facts["protocol"]["templates"] == "digit"
        assert near.facts["data"]["split"] == far.facts["data"]["split"] == "test"
    broken = tmp_path / "N-MNIST" / "Test" / "0" / "0.bin"
    broken.write_bytes(b"abc")
    with pytest.raises(RunError, match=r"1 of 6 recordings are broken.*truncated"):
        evaluate(encoder_file, RecordingFiles(listed), EvalConfig(workers=0), ALONE)
    with pytest.raises(InputError, match="have no RGB pictures"):
        evaluate(encoder_file, RecordingFiles(listed), EvalConfig(ceiling=True), ALONE)


def test_labels_are_places_in_the_list_of_classes_or_refused(
    world: Path, encoder_file: Path, tmp_path: Path
) -> None:
    """Tars with .cls members and no names leave gaps; numbering them anew would name wrongly."""
    shutil.copytree(world / "shards", tmp_path / "shards")
    path = tmp_path / "shards" / "classes.json"
    facts = json.loads(path.read_text())
    facts["classes"] = [entry for entry in facts["classes"] if entry["index"] % 2]
    path.write_text(json.dumps(facts))
    shards = open_shard_set(tmp_path / "shards")
    with pytest.raises(InputError, match="not numbered from 0 without a gap"):
        evaluate(encoder_file, shards, EvalConfig(workers=0), ALONE)


def test_a_remote_set_is_scored_as_the_same_set_near(
    world: Path, encoder_file: Path, tmp_path: Path
) -> None:
    for n in range(3):
        write_aer40(tmp_path / "N-MNIST" / "Test" / str(n) / f"{n}.bin", n)
    import_recordings("n-mnist", tmp_path / "N-MNIST", tmp_path / "near", None, RunOptions(1))
    far = open_shard_set((tmp_path / "near").as_uri(), str(tmp_path / "cache"))
    told = EvalConfig(workers=0)
    there = evaluate(encoder_file, far, told, ALONE)
    here = evaluate(encoder_file, open_shard_set(tmp_path / "near"), told, ALONE)
    assert there.answers == here.answers
    assert there.facts["protocol"] == here.facts["protocol"]
    assert there.facts["data"] == here.facts["data"]


def test_a_ceiling_of_broken_pictures_is_not_printed(
    world: Path, encoder_file: Path, tmp_path: Path
) -> None:
    samples = list(iterate_samples(world / "shards"))
    broken = [replace(s, jpeg=b"no picture") if n else s for n, s in enumerate(samples)]
    shutil.copytree(world / "shards", tmp_path / "shards")
    tars = sorted((tmp_path / "shards").glob("*.tar"))
    for n, tar in enumerate(tars):
        write_shard(tar, broken[n * 5 : n * 5 + 5])
    shards = open_shard_set(tmp_path / "shards")
    assert evaluate(encoder_file, shards, EvalConfig(workers=0), ALONE).top1.total == 24
    with pytest.raises(RunError, match="23 of 24 recordings are broken"):
        evaluate(encoder_file, shards, EvalConfig(workers=0, ceiling=True), ALONE)


def test_training_goes_on_from_a_file_only_as_it_was_fed(
    world: Path, encoder_file: Path, tmp_path: Path
) -> None:
    teacher = load_teacher(str(world / "clip.safetensors"), None, ALONE.device)
    told = InputConfig(slice_events=500)
    begun = make_student(teacher, told, None, str(encoder_file))
    expected = open_encoder(encoder_file)[0].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in begun.state_dict().items())
    assert all(weight.requires_grad for weight in begun.parameters())
    for name, value in (("representation", "voxel"), ("geometry", "crop"), ("events_px", 64)):
        with pytest.raises(ConfigError, match=rf"input\.{name} {value}: .* say --input\.{name}"):
            make_student(teacher, replace(told, **{name: value}), None, str(encoder_file))
    with pytest.raises(InputError, match="was trained against"):
        make_student(load_teacher("toy", None, ALONE.device), told, None, str(encoder_file))


def test_a_partner_that_cannot_be_proved_must_have_the_right_name(encoder_file: Path) -> None:
    _, facts = open_encoder(encoder_file)
    unproved = replace(facts, teacher_sha256="", model="ViT-B-16-quickgelu", pretrained="openai")
    with pytest.raises(InputError, match="belongs to ViT-B-16-quickgelu"):
        load_partner(unproved, ALONE.device, "ViT-B-32-quickgelu", "openai")
    with pytest.raises(InputError, match=r"nowhere\.pt"):
        load_partner(unproved, ALONE.device, None, "nowhere.pt")
    for tag in ("metaclip_400m", "dfn2b"):
        with pytest.raises(InputError, match=f"{tag}: .* against ViT-B-16-quickgelu's openai; le"):
            load_partner(unproved, ALONE.device, None, tag)


def test_a_file_in_the_place_of_a_tag_is_trusted_and_said(world: Path, tmp_path: Path) -> None:
    vision = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "trusted.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "trusted.json")
    torch.save(open_clip.create_model("trusted").state_dict(), tmp_path / "clip.pt")
    teacher = load_teacher("trusted", str(tmp_path / "clip.pt"), ALONE.device)
    student = make_student(teacher, InputConfig(slice_events=500), None)
    shards = open_shard_set(world / "shards")
    told = EvalConfig(workers=0, pretrained=str(tmp_path / "clip.pt"))
    for known, note in (("", "holds trusted's openai, against which"), (teacher.sha256, None)):
        facts = EncoderFacts(
            student.spec, InputConfig(slice_events=500), "trusted", "openai", known
        )
        save_encoder(tmp_path / "e.safetensors", student.visual.state_dict(), facts)
        report = evaluate(tmp_path / "e.safetensors", shards, told, ALONE)
        assert ("by trust" in report.to_markdown()) == bool(note)
        assert any("it is trusted" in line for line in report.lines()) == bool(note)
        assert note is None or note in report.lines()[-1]


def test_one_command_on_two_processes_with_readers_says_the_same(
    world: Path, encoder_file: Path, tmp_path: Path
) -> None:
    reports = []
    for count in (1, 2):
        out = tmp_path / str(count)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={count}", "-m", "ezsr_train.cli_evaluate"]
        command += [str(world / "shards"), "--checkpoint", str(encoder_file), "--out", str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, "--batch", "5", "--slices", "2"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        reports.append(((out / "answers.csv").read_text(), (out / "report.json").read_text()))
    assert reports[0] == reports[1]
