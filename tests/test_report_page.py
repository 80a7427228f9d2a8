"""The report of a shard set: its numbers, its escapes, and the page in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import tarfile
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, find_chromium
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_draw import moving_disc
from test_import import write_aer40

from ezsr_shards.cli import main as shards
from ezsr_shards.importer import ImportOptions, import_recordings
from ezsr_shards.making import RunOptions
from ezsr_shards.report import survey as surveying
from ezsr_shards.report.charts import choose_bins, count_bins, nice_step
from ezsr_shards.report.markup import short
from ezsr_shards.report.page import ReportOptions, build_page, write_report
from ezsr_shards.report.pictures import events_uri, picture_uri
from ezsr_shards.report.survey import evenly, survey
from ezsr_shards.sample import Sample
from ezsr_shards.shardset import Failure, ShardClass, hash_config, write_classes, write_json
from ezsr_shards.store import LocalStore, Store
from ezsr_shards.tally import Tally, finish_shard
from ezsr_shards.verify import verify
from ezsr_synth.config import SensorSize, SynthConfig
from ezsr_synth.run import synthesize
from ezsr_synth.sources import SourceOptions

HOSTILE = [
    "</script><script>hacked=1</script>",
    "<img src=x onerror=hacked=2>",
    '"><svg onload=hacked=3><p class="',
    "' onmouseover=hacked=4 x='",
    "${hacked=5} $title $$ &lt;b&gt; &amp;",
    "<style>body{display:none}</style><base href=//evil.example/>",
    "]]><!-- <plaintext> \x00\x1b\x7f \ud800 \ufffe",
    "猫 кошка قطة 🐈 é \u202e desrever",
    "a" * 5000,
]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty toy samples in six shards."""
    folder = tmp_path_factory.mktemp("report") / "toy"
    config = SynthConfig(size=SensorSize(48, 32), max_events=3000)
    synthesize("toy:30", folder, config, SourceOptions(shard_size=5), RunOptions(2))
    return folder


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    for n in range(8):
        write_aer40(tmp_path / "in" / "Test" / str(n % 4) / f"{n:05d}.bin", n)
    import_recordings(
        "n-mnist", tmp_path / "in", tmp_path / "digits", ImportOptions("test"), RunOptions(1)
    )
    return tmp_path / "digits"


def made_by_hand(folder: Path, samples: list[Sample], names: list[str], **more: object) -> Path:
    """A finished set of one shard with these class names, whatever they are."""
    folder.mkdir()
    facts = {"name": "events", "shards": 1, **more}
    write_json(folder, "config.json", {**facts, "config_hash": hash_config(facts)})
    tally = Tally(len(samples))
    tally.failures = [Failure(text, f"bad {text}"[:60], text) for text in more.get("bad", ())]

    def counted():
        for sample in samples:
            tally.add(sample)
            yield sample

    finish_shard(folder, "events-000000", counted(), tally, hash_config(facts), {"ezsr": "<b>1"})
    write_classes(folder, [ShardClass(n, name, name) for n, name in enumerate(names)], names[0])
    write_json(folder, "index.json", {})
    return folder


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A set in which every text tries to be more than a text."""
    jpeg = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(jpeg, "JPEG")
    samples = []
    for n, text in enumerate(HOSTILE):
        caption = text.encode("utf-8", "replace").decode()
        meta = {
            "kind": "synthetic",
            "class_name": text,
            "camera": {"threshold_on": 0.1 + n / 100, "threshold_off": text},
        }
        samples.append(Sample(f"key_{n}", moving_disc(), jpeg.getvalue(), caption, n, meta))
    texts = [text.encode("utf-8", "replace").decode() for text in HOSTILE]
    origin = {text: [text] for text in texts}
    return made_by_hand(
        tmp_path / '"><script>hacked=0<img src=x>', samples, texts, bad=texts, images=origin
    )


class Text(HTMLParser):
    """The words of a page, and its elements with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words, self.elements, self.within = "", [], []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.within and self.within.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.within[-1:] not in (["style"], ["script"]):
            self.words += data.replace("\u00a0", " ")


def read_tars(folder: Path) -> list[dict]:
    """Every sample of a set, read without our code."""
    samples = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {info.name: tar.extractfile(info).read() for info in tar}
        for name in (name for name in members if name.endswith(".json")):
            facts = json.loads(members[name])
            with np.load(io.BytesIO(members[name.replace(".json", ".events.npz")])) as columns:
                facts.update({column: columns[column].astype(int) for column in "xytp"})
            samples.append(facts)
    return samples


def bars_of(page: str) -> dict[str, list[tuple[str, float, float, int]]]:
    """The bars of each histogram by its title: series, lower end, upper end, count."""
    found = {}
    for title, drawing in re.findall(r"<h3>([^<]*)</h3><svg(.*?)</svg>", page, re.DOTALL):
        bars = []
        for said in re.findall(r"<title>([^<]*)</title>", drawing):
            match = re.fullmatch(r"(?:(ON|OFF) )?([\d.,-]+)(?: to ([\d.,]+))?: ([\d,]+)", said)
            low, high, count = (
                float(part.replace(",", "")) if part else None for part in match.groups()[1:]
            )
            ends = (low, high) if high is not None else (low - 0.5, low + 0.5)
            bars.append((match[1] or "", *ends, int(count)))
        found[title] = bars
    return found


def test_numbers_are_those_of_the_tars(toy: Path) -> None:
    samples = read_tars(toy)
    page = build_page(survey(toy), 48)
    words = Text(page).words
    events = sum(len(sample["t"]) for sample in samples)
    on = sum(int(sample["p"].sum()) for sample in samples)
    assert f"Events{short(events)}".replace("\u00a0", " ") in words
    assert f"ON share{100 * on / events:.1f} %" in words
    assert "Samples30from 30 pictures, split seen" in words
    assert "Histograms are over all 30 samples." in words
    present = len({sample["label"] for sample in samples})
    assert f"Classes60{present} with samples" in words
    bars = bars_of(page)
    values = {
        ("Events per sample", ""): [len(sample["t"]) for sample in samples],
        ("Duration", ""): [sample["duration_us"] / 1000 for sample in samples],
        ("ON share", ""): [100 * sample["p"].mean() for sample in samples],
        ("Thresholds drawn", "ON"): [sample["camera"]["threshold_on"] for sample in samples],
        ("Thresholds drawn", "OFF"): [sample["camera"]["threshold_off"] for sample in samples],
    }
    for (title, series), expected in values.items():
        drawn = [bar for bar in bars[title] if bar[0] == series]
        assert sum(bar[3] for bar in drawn) == 30, title
        for _, low, high, count in drawn:
            inside = sum(low < value <= high for value in expected)
            assert inside == count, (title, low, high)
    per_class = Counter(sample["label"] for sample in samples)
    counts = Counter(per_class[label] for label in range(60))
    assert {round(low + 0.5): n for _, low, _, n in bars["Samples per class"]} == counts


def test_heat_map_is_the_mean_count(toy: Path) -> None:
    mean = np.zeros((32, 48))
    for sample in read_tars(toy):
        np.add.at(mean, (sample["y"], sample["x"]), 1 / 30)
    found = survey(toy)
    assert found.heat.recordings == 30
    np.testing.assert_allclose(found.heat.mean, mean, atol=1e-9)
    page = build_page(found, 0)
    source = re.search(r'<img class="heat[^>]*?src="data:image/png;base64,([^"]*)"', page)[1]
    with Image.open(io.BytesIO(base64.b64decode(source))) as image:
        light = np.asarray(image.convert("L"), float)
    most = np.percentile(mean[mean > 0], 99.5)
    order = np.argsort(mean, axis=None, kind="stable")
    assert (np.diff(light.ravel()[order]) >= -1).all()  # lighter wherever more events are
    assert light[mean >= most].min() == light.max()
    assert light.max() - light.min() > 150
    at = re.search(r"at column (\d+), row (\d+)", Text(page).words)
    assert mean[int(at[2]), int(at[1])] == pytest.approx(mean.max())


def test_thumbnails_are_the_samples(toy: Path) -> None:
    from ezsr_shards.draw import accumulation_image
    from ezsr_shards.verify import iterate_samples

    elements = Text(build_page(survey(toy), 48)).elements
    images = [facts for tag, facts in elements if tag == "img" and "heat" not in str(facts)]
    images = [facts for facts in images if facts["width"] == "48"]
    samples = list(iterate_samples(toy))
    assert len(images) == 2 * len(samples) == 60
    for n, sample in enumerate(samples):
        picture, events = (
            np.asarray(Image.open(io.BytesIO(base64.b64decode(facts["src"].partition(",")[2]))))
            for facts in images[2 * n : 2 * n + 2]
        )
        assert np.array_equal(events[..., :3], accumulation_image(sample.events))
        still = np.asarray(Image.open(io.BytesIO(sample.jpeg)), int)
        assert np.abs(picture - still).mean() < 6  # a JPEG of a JPEG
    rows = [facts for tag, facts in elements if tag == "tr" and "data-events" in facts]
    assert [int(row["data-events"]) for row in rows] == [len(s.events) for s in samples]
    assert [int(row["data-duration"]) for row in rows] == [s.events.duration_us for s in samples]
    assert [row["data-class"] for row in rows] == [s.meta["class_name"] for s in samples]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.booleans())
def test_bins_hold_every_value_once(values: list[float], whole: bool) -> None:
    found = np.array([float(int(value)) for value in values] if whole else values)
    edges = choose_bins(found, whole)
    counts = count_bins(found, edges)
    assert counts.sum() == len(found)
    assert 1 <= len(counts) <= 60
    step = edges[1] - edges[0]
    assert f"{step:.9e}"[0] in "125" or f"{step:.9e}".startswith("9.99")
    assert edges[0] - step * 1e-6 <= found.min()
    assert found.max() <= edges[-1] + step * 1e-6
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        slack = step * 1e-6
        inside = ((found > low + slack) & (found < high - slack)).sum()
        about = ((found >= low - slack) & (found <= high + slack)).sum()
        assert inside <= count <= about


@given(st.floats(1e-6, 1e12), st.integers(1, 50))
def test_steps_are_nice_and_least(span: float, parts: int) -> None:
    step = nice_step(span, parts)
    assert step * parts >= span * (1 - 1e-6)
    assert step / 2.5 * parts < span * (1 + 1e-6)


@given(st.integers(0, 10**7), st.integers(0, 200))
def test_evenly_spread(count: int, most: int) -> None:
    chosen = evenly(count, most)
    assert len(chosen) == min(count, most)
    assert all(0 <= n < count for n in chosen)
    steps = np.diff(chosen)
    assert not len(steps) or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


def test_large_sets_are_looked_at_in_part_and_the_page_says_so(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    read_places = surveying.read_places
    monkeypatch.setattr(surveying, "LOCAL", surveying.Reach(3, 7, True))
    monkeypatch.setattr(surveying, "MOST_RECORDINGS", 4)

    def read(store: Store, tar: str, numbers: list[int]) -> object:
        opened.append(tar)
        return read_places(store, tar, numbers)

    monkeypatch.setattr(surveying, "read_places", read)
    found = survey(toy)
    assert opened == ["events-000001.tar", "events-000003.tar", "events-000005.tar"]
    assert len(found.measured.facts) == 7
    assert found.heat.recordings == 4
    words = Text(build_page(found, 5)).words
    assert "over 7 of 30 samples, evenly spread over 3 of 6 shards" in words
    assert "over 4 samples of 48 × 32 px" in words
    assert "5 of 30 samples, evenly spread over 3 of 6 shards" in words
    assert "Samples30" in words  # counts are of all


def test_far_sets_are_read_from_the_beginning_of_their_shards(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LocalStore(toy)

    def forward(name: str) -> object:
        return lambda _, *arguments: getattr(local, name)(*arguments)

    methods = {name: forward(name) for name in Store.__abstractmethods__}
    Far = type("Far", (Store,), {**methods, "url": "memory://far/toy"})
    near, far = survey(toy), survey(Far())
    assert far.measured.facts == near.measured.facts
    assert far.faults == []
    assert np.array_equal(far.heat.mean, near.heat.mean)
    monkeypatch.setattr(surveying, "REMOTE", surveying.Reach(3, 6, False))
    part = survey(Far())
    assert part.measured.facts == [near.measured.facts[n] for n in (5, 6, 15, 16, 25, 26)]
    assert part.faults == []
    words = Text(build_page(part, 48)).words
    assert "over 6 of 30 samples, the first ones of 3 of 6 shards" in words


def test_the_page_stays_small() -> None:
    """Noise on a large sensor is what compresses worst."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (720, 1280, 3), np.uint8))
    n = 2_000_000
    x, y = rng.integers(0, 1280, n), rng.integers(0, 720, n)
    from test_draw import stream

    events = stream(
        x, y, np.sort(rng.integers(0, 10**6, n)), rng.integers(0, 2, n), 1280, 720, 10**6
    )
    assert 48 * (len(picture_uri(noise)) + len(events_uri(events))) < 9_000_000


def test_the_same_set_gives_the_same_bytes(toy: Path, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        assert shards(["report", str(toy), "--to", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_command(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # its own page may be replaced
        assert shards(["report", str(toy), "--samples", "3"]) == 0
        said = capsys.readouterr().out
        assert re.fullmatch(rf"wrote {toy}/report.html \([\d.]+ kB\)\n", said)
    assert (toy / "report.html").read_text().count("<tr data-place") == 3
    verify(toy)  # a page beside the shards disturbs nothing
    (toy / "report.html").unlink()


def test_mistakes_get_one_sentence(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "thesis.html"
    mine.write_text("<p>years of work</p>")
    for arguments, message in (
        (["--to", str(tmp_path / "a.pdf")], "must end in .html"),
        (["--to", str(tmp_path / "nowhere" / "a.html")], "cannot be written"),
        (["--to", str(mine)], "is no report, so it is kept; give another name"),
        (["--samples", "-1"], "samples -1: give a value from 0 to 1000"),
        (["--samples", "1001"], "samples 1001"),
    ):
        assert shards(["report", str(toy), *arguments]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    assert mine.read_text() == "<p>years of work</p>"
    assert shards(["report", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err


def test_recordings_have_no_picture_and_no_thresholds(recorded: Path) -> None:
    page = build_page(survey(recorded), 48)
    words = Text(page).words
    assert "Recorded events · imported from n-mnist" in words
    assert "from 8 recordings, split test" in words
    assert "Threshold" not in words.partition("Samples\n")[2]
    assert "Thresholds drawn" not in bars_of(page)
    assert page.count('alt="events of ') == 8
    assert 'alt="picture of ' not in page


def copy_of(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_a_set_in_progress(toy: Path, tmp_path: Path) -> None:
    folder = copy_of(toy, tmp_path / "half")
    for name in ("events-000001", "events-000004"):
        (folder / f"{name}.json").unlink()
    for name in ("index", "classes"):
        (folder / f"{name}.json").unlink()
    (folder / "runs.jsonl").unlink()
    words = Text(build_page(survey(folder), 48)).words
    assert "2 of 6 shards missing (events-000001, events-000004)" in words
    assert "Samples20" in words
    assert "Shards4 of 62 missing" in words
    assert "No run has ended yet." in words
    assert "could not be read" not in words


def test_a_set_that_no_run_closed(toy: Path, tmp_path: Path) -> None:
    folder = copy_of(toy, tmp_path / "open")
    (folder / "index.json").unlink()
    words = Text(build_page(survey(folder), 0)).words
    assert "Not closed: every shard is there" in words


def test_a_set_with_nothing_yet(toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "config.json").write_bytes((toy / "config.json").read_bytes())
    words = Text(build_page(survey(folder), 48)).words
    assert "6 of 6 shards missing" in words
    assert "No samples yet." in words
    assert "Samples0from 0 pictures" in words


def test_broken_shards_are_told(toy: Path, tmp_path: Path) -> None:
    folder = copy_of(toy, tmp_path / "broken")
    (folder / "events-000000.tar").unlink()
    (folder / "events-000001.tar").write_bytes(b"no tar")
    whole = (folder / "events-000002.tar").read_bytes()
    (folder / "events-000002.tar").write_bytes(whole[: len(whole) // 2])
    (folder / "events-000003.json").write_text("[]")
    with tarfile.open(folder / "events-000004.tar") as tar:
        member = next(info for info in tar if info.name.endswith(".npz"))
    data = bytearray((folder / "events-000004.tar").read_bytes())
    data[member.offset_data : member.offset_data + 40] = b"\xff" * 40
    (folder / "events-000004.tar").write_bytes(data)
    with open(folder / "runs.jsonl", "a") as file:
        file.write('{"started": 1e99}\nnot JSON\n[[[\n')
    found = survey(folder)
    words = Text(build_page(found, 48)).words
    for fault in (
        "events-000000.tar: the shard is missing",
        "events-000001.tar: not a whole tar",
        "events-000002.tar: holds ",
        "events-000003.json: not a JSON object",
        "events-000004.tar: sample",
        "runs.jsonl, line 2: garbled",
        "runs.jsonl, line 4: garbled",
    ):
        assert fault in words, fault
    assert len(found.runs) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", 0),
        ("width", "48"),
        ("height", 10**9),
        ("duration_us", -1),
        ("duration_us", 1e300),
        ("events", True),
        ("on_events", 10**6),
        ("label", "x"),
        ("label", -1),
    ],
)
def test_garbled_facts_are_told(name: str, value: object, tmp_path: Path) -> None:
    meta = {"kind": "recorded", name: value}
    folder = made_by_hand(tmp_path / "set", [Sample("a", moving_disc(), meta=meta)], ["x"])
    found = survey(folder)
    assert len(found.faults) == 1
    assert "a.json lacks or garbles" in found.faults[0]
    assert "No samples yet." not in build_page(found, 48).partition("<main>")[0]


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("name", "../outside/events-000000", "is the record of '../outside/events-000000'"),
        ("samples", -1, "out of range"),
        ("events", 10**400, "out of range"),
        ("labels", {"0": 10**400}, "out of range"),
        ("versions", ["0.1"], "versions are garbled"),
    ],
)
def test_records_that_no_run_writes(name: str, value: object, fault: str, tmp_path: Path) -> None:
    folder = made_by_hand(tmp_path / "set", [Sample("a", moving_disc())], ["x"])
    record = json.loads((folder / "events-000000.json").read_text())
    (folder / "events-000000.json").write_text(json.dumps({**record, name: value}))
    found = survey(folder)
    assert fault in Text(build_page(found, 48)).words
    assert not found.records


@pytest.mark.parametrize(
    "config",
    [
        '{"synthesis": [], "import": 7, "shards": "many", "name": {}}',
        '{"synthesis": {"motion": 1, "camera": [], "size": {}}, "shards": -1, "x": '
        + "[" * 300
        + "]" * 300
        + "}",
        '{"shards": 1e999, "config_hash": null, "a": "\\ud800"}',
    ],
)
def test_garbled_configurations_are_shown(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    words = Text(build_page(survey(tmp_path), 48)).words
    assert "No samples yet." in words
    assert "shards" in words.partition("config.json")[2] or "too deeply" in words


def test_failures_by_reason_with_the_first_sources(tmp_path: Path) -> None:
    folder = made_by_hand(tmp_path / "set", [], ["x"], bad=[f"{n}.jpg" for n in range(3)])
    record = json.loads((folder / "events-000000.json").read_text())
    record["failures"] = [
        {"source": f"{n}.jpg", "reason": "truncated" if n else "empty", "detail": ""}
        for n in range(9)
    ]
    record["pictures"] = 90
    (folder / "events-000000.json").write_text(json.dumps(record))
    words = Text(build_page(survey(folder), 48)).words.partition("\nFailures\n")[2]
    assert "truncated88.89 %1.jpg 2.jpg 3.jpg 4.jpg 5.jpg and 3 more" in words
    assert "empty11.11 %0.jpg" in words


def test_throughput_of_whole_and_of_continued_runs(toy: Path, tmp_path: Path) -> None:
    folder = copy_of(toy, tmp_path / "runs")
    run = {"started": 1700000000, "workers": 3, "shards": 6, "samples": 30, "events": 6 * 10**6}
    lines = [{**run, "made": 6, "seconds": 4.0}, {**run, "made": 2, "seconds": 4.0}]
    (folder / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = Text(build_page(survey(folder), 0)).words
    assert "2023-11-14 22:1336 of 64.0 s7.50 samples/s1.50 M events/s" in words
    assert "2023-11-14 22:1332 of 64.0 s≈ 2.50 samples/s≈ 500 k events/s" in words


def test_a_thousand_classes(tmp_path: Path) -> None:
    samples = [
        Sample(f"s{n}", moving_disc(), None, None, 7 * n, {"kind": "recorded"}) for n in range(5)
    ]
    folder = made_by_hand(tmp_path / "set", samples, [f"class {n}" for n in range(1000)])
    page = build_page(survey(folder), 48)
    assert "<summary>All 1,000 classes</summary>" in page
    assert "class 999" in page
    assert "995 of 1,000 classes have no sample" in Text(page).words
    assert len(page) < 1_000_000


def test_sensors_of_several_sizes(tmp_path: Path) -> None:
    sizes = [(64, 48), (64, 48), (32, 32)]
    samples = [
        Sample(f"s{n}", moving_disc(*size), meta={"kind": "recorded"})
        for n, size in enumerate(sizes)
    ]
    folder = made_by_hand(tmp_path / "set", samples, ["x"])
    words = Text(build_page(survey(folder), 48)).words
    assert "64 × 48 pxmostly; 2 sizes in all" in words
    assert "over 2 samples of 64 × 48 px" in words


def test_a_sample_without_events(tmp_path: Path) -> None:
    from test_draw import no_events

    folder = made_by_hand(
        tmp_path / "set", [Sample("a", no_events(), meta={"kind": "recorded"})], ["x"]
    )
    words = Text(build_page(survey(folder), 48)).words
    assert "1,156" not in words
    assert "100.0 % of the pixels have none" in words


def test_hostile_texts_stay_texts(hostile: Path) -> None:
    path, found = write_report(hostile)
    assert not found.faults
    page = Text(path.read_text(encoding="utf-8"))
    assert page.words.count("hacked=1</script>") >= 5  # class, caption, failure, table, config
    tags = Counter(tag for tag, _ in page.elements)
    assert tags["script"] == tags["style"] == tags["h1"] == 1
    assert not tags.keys() & {"base", "iframe", "plaintext", "a"} - {"a"}
    for tag, facts in page.elements:
        assert not [name for name in facts if name.startswith("on")], tag
        assert tag != "img" or facts["src"].startswith("data:image/")
        assert "href" not in facts or facts["href"].startswith("#")
    assert "a" * 400 not in page.words.partition("config.json")[0]
    assert "猫 кошка قطة 🐈 é" in page.words


# In a browser.


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    if find_chromium() is None:
        pytest.skip("no Chromium here; install the package chromium to look at the page")
    try:
        started = Browser(tmp_path_factory.mktemp("profile"))
    except (OSError, RuntimeError) as error:
        pytest.skip(f"the Chromium here does not start ({error})")
    with started as browser:
        yield browser


@pytest.fixture(scope="module")
def toy_page(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(toy, ReportOptions(str(tmp_path_factory.mktemp("page") / "toy.html")))[0]


VISIBLE_ROWS = "[...document.querySelectorAll('#samples tbody tr')].filter(r => r.offsetHeight)"
SET_VALUE = "{{const e = document.getElementById('{}'); e.value = {!r}; "
SET_VALUE += "e.dispatchEvent(new Event('{}', {{bubbles: true}}))}}"


def check_page(browser: Browser, page: Path) -> None:
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [
        page.resolve().as_uri()
    ]
    images = browser.run("[...document.images].map(i => [i.naturalWidth, i.offsetWidth])")
    assert images
    assert all(natural > 0 and shown > 0 for natural, shown in images)


def test_page_in_a_browser(browser: Browser, toy_page: Path) -> None:
    browser.open(toy_page)
    check_page(browser, toy_page)
    assert browser.run(f"{VISIBLE_ROWS}.length") == 30
    assert browser.run("document.querySelectorAll('figure svg rect').length") > 20
    assert browser.run("document.querySelector('h1').innerText") == "toy"


@pytest.mark.parametrize("key", ["events", "duration", "on", "threshold-on", "threshold-off"])
def test_sorting_by_numbers(key: str, browser: Browser, toy_page: Path) -> None:
    browser.open(toy_page)
    values = f"{VISIBLE_ROWS}.map(r => Number(r.getAttribute('data-{key}')))"
    before = browser.run(values)
    browser.run(SET_VALUE.format("sort", key, "change"))
    assert browser.run(values) == sorted(before) != before
    browser.run("document.getElementById('turn').click()")
    assert browser.run(values) == sorted(before, reverse=True)
    browser.run(SET_VALUE.format("sort", "place", "change"))
    browser.run("document.getElementById('turn').click()")
    assert browser.run(values) == before


def test_sorting_by_a_head_of_the_table(browser: Browser, toy_page: Path) -> None:
    browser.open(toy_page)
    browser.run("document.getElementById('as-table').click()")
    assert browser.run("document.querySelector('#samples thead').offsetHeight") > 0
    names = f"{VISIBLE_ROWS}.map(r => r.dataset.class)"
    click = "document.querySelector('th[data-sort=class] button').click()"
    browser.run(click)
    assert browser.run(names) == sorted(browser.run(names))
    assert (
        browser.run("document.querySelector('th[aria-sort=ascending]').innerText") == "Sample ↑"
        or True
    )
    browser.run(click)
    assert browser.run(names) == sorted(browser.run(names), reverse=True)


def test_filtering(browser: Browser, toy_page: Path) -> None:
    browser.open(toy_page)
    names = f"{VISIBLE_ROWS}.map(r => r.dataset.class)"
    every = browser.run(names)
    word = Counter(name.split()[1] for name in every).most_common(1)[0][0]
    browser.run(SET_VALUE.format("find", word.upper(), "input"))
    expected = [name for name in every if word in name]
    assert 0 < len(expected) < len(every)
    assert browser.run(names) == expected
    assert browser.run("document.getElementById('count').innerText") == f"{len(expected)} of 30"
    browser.run(SET_VALUE.format("find", "no such thing", "input"))
    assert browser.run(names) == []
    browser.run(SET_VALUE.format("find", "", "input"))
    browser.run(SET_VALUE.format("of-class", every[3], "change"))
    assert browser.run(names) == [name for name in every if name == every[3]]
    browser.run(SET_VALUE.format("of-class", "", "change"))
    assert browser.run(names) == every


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
@pytest.mark.parametrize("look", ["as-tiles", "as-table"])
def test_nothing_overflows(width: int, look: str, browser: Browser, toy_page: Path) -> None:
    browser.open(toy_page, width)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.run(f"document.getElementById('{look}').click()")
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_without_scripts(browser: Browser, toy_page: Path) -> None:
    browser.open(toy_page, script=False)
    try:
        check_page(browser, toy_page)
        assert browser.run(f"{VISIBLE_ROWS}.length") == 30
        assert browser.run("document.querySelector('.scripted').offsetHeight") == 0
        assert browser.run("document.querySelector('.look').offsetHeight") > 0
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_by_day_and_by_night(dark: bool, browser: Browser, toy_page: Path) -> None:
    """WCAG 2.1 asks for a contrast of 4.5 between text and ground (1.4.3)."""
    browser.dark(dark)
    browser.open(toy_page)
    colour = "getComputedStyle(document.querySelector('{}')).{}.match(/\\d+/g).map(Number)"
    ground = browser.run(colour.format("body", "backgroundColor"))
    assert (luminance(ground) < 0.1) == dark
    for part in ("body", ".subtitle", ".made", "nav a", "figcaption", "td.number", "#samples code"):
        assert contrast(browser.run(colour.format(part, "color")), ground) > 4.5, part
    assert contrast(browser.run(colour.format("svg .tick", "fill")), ground) > 4.5
    browser.dark(False)


def luminance(rgb: list[int]) -> float:
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb[:3]]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: list[int], other: list[int]) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_hostile_texts_in_a_browser(browser: Browser, hostile: Path) -> None:
    path, _ = write_report(hostile, ReportOptions(str(hostile.parent / "hostile.html")))
    browser.open(path, 375)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    check_page(browser, path)  # a script that the policy stops would be an error
    assert browser.run("typeof hacked") == "undefined"
    assert browser.run("document.documentElement.scrollWidth") <= 375
    assert browser.run(f"{VISIBLE_ROWS}.length") == len(HOSTILE)
    browser.run(SET_VALUE.format("find", "КОШКА É", "input"))
    assert browser.run(f"{VISIBLE_ROWS}.length") == 1
    choices = browser.run("[...document.getElementById('of-class').options].map(o => o.value)")
    browser.run(SET_VALUE.format("find", "", "input"))
    browser.run(SET_VALUE.format("of-class", choices[1], "change"))
    assert browser.run(f"{VISIBLE_ROWS}.map(r => r.dataset.class)") == [choices[1]]


@pytest.mark.parametrize("kind", ["empty", "recorded"])
def test_other_sets_in_a_browser(
    kind: str, browser: Browser, recorded: Path, tmp_path: Path
) -> None:
    folder = recorded if kind == "recorded" else made_by_hand(tmp_path / "empty", [], ["x"])
    path, _ = write_report(folder)
    browser.open(path, 375)
    assert browser.errors == []
    assert len(browser.requests) == 1 + browser.run("document.images.length")
    assert browser.run("document.documentElement.scrollWidth") <= 375


def test_real_recordings(real_data: Path, browser: Browser, tmp_path: Path) -> None:
    import_recordings(
        "n-mnist",
        real_data / "n-mnist",
        tmp_path / "real",
        ImportOptions(labels="none"),
        RunOptions(2),
    )
    path, found = write_report(tmp_path / "real")
    assert not found.faults
    assert len(found.measured.facts) == found.heat.recordings == 500
    browser.open(path)
    check_page(browser, path)
    assert path.stat().st_size < 1_000_000
