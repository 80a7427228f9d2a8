"""Folders as collections really are: good files beside everything that can go wrong."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from conftest import smooth_picture, write_picture
from PIL import Image
from test_decode import encode, huge_png
from test_import import columns

from ezsr_shards.importer import ImportOptions, import_recordings
from ezsr_shards.keys import printable
from ezsr_shards.making import RunOptions
from ezsr_shards.shardset import read_records
from ezsr_shards.verify import iterate_samples, verify
from ezsr_synth.config import SensorSize, SynthConfig
from ezsr_synth.run import synthesize


def good_pictures() -> dict[str, bytes]:
    image = Image.fromarray(smooth_picture(1, 120, 160))
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "grey.jpg": encode(image.convert("L"), "JPEG"),
        "cmyk.jpg": encode(image.convert("CMYK"), "JPEG"),
        "palette.png": encode(image.convert("P"), "PNG"),
        "alpha.png": encode(image.convert("RGBA"), "PNG"),
        "16 bit.png": encode(Image.fromarray(np.asarray(image)[..., 0] * np.uint16(257)), "PNG"),
        "turned.jpg": encode(image, "JPEG", exif=turned),
        "animated.gif": encode(image, "GIF", save_all=True, append_images=[image.rotate(9)]),
        "progressive.jpeg": encode(image, "JPEG", progressive=True),
        "really a png.jpg": encode(image, "PNG"),
        "SHOUTING.JPG": encode(image, "JPEG"),
    }


def bad_pictures() -> dict[str, tuple[bytes, str]]:
    jpeg = encode(Image.fromarray(smooth_picture(2, 300, 400)), "JPEG")
    floats = Image.fromarray(np.ones((9, 9), np.float32))
    return {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "empty.jpg": (b"", "empty"),
        "page.jpg": (b"<html>not found</html>", "not-an-image"),
        "one pixel.png": (encode(Image.new("RGB", (1, 1)), "PNG"), "too-few-events"),
        "huge.png": (huge_png(30_000), "too-many-pixels"),
        "float.tif": (encode(floats, "TIFF"), "unsupported-mode"),
    }


def test_good_ones_come_out_and_bad_ones_are_named(tmp_path: Path) -> None:
    folder, out = tmp_path / "p", tmp_path / "out"
    for n in range(4):
        write_picture(folder / f"good {n}.jpg", smooth_picture(n))
    good, bad = good_pictures(), bad_pictures()
    for name, data in {**good, **{name: data for name, (data, _) in bad.items()}}.items():
        (folder / name).write_bytes(data)
    (folder / "dangling.jpg").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "notes.doc").write_text("not listed at all")
    config = SynthConfig(size=SensorSize(64, 64))
    synthesize(str(folder), out, config, run=RunOptions(workers=2, max_failures=1.0))
    verify(out)
    made = {str(sample.meta["source"]) for sample in iterate_samples(out)}
    assert made == {*good, *(f"good {n}.jpg" for n in range(4))}
    reasons = {f.source: f.reason for r in read_records(out, "events") for f in r.failures}
    expected = {name: reason for name, (_, reason) in bad.items()}
    assert reasons == {**expected, "dangling.jpg": "missing", "pipe.jpg": "not-a-file"}


def test_a_large_picture_is_reduced_not_refused(tmp_path: Path) -> None:
    large = np.kron(smooth_picture(1), np.ones((40, 40, 1), "u1"))
    write_picture(tmp_path / "p" / "large.jpg", large)
    config = SynthConfig(size=SensorSize(64, 64))
    report = synthesize(str(tmp_path / "p"), tmp_path / "out", config, run=RunOptions(workers=1))
    assert report.samples == 1
    (sample,) = iterate_samples(tmp_path / "out")
    with Image.open(io.BytesIO(sample.jpeg or b"")) as seen:
        assert seen.size == (64, 64)


def good_recordings() -> dict[str, bytes]:
    """Names and orders that are odd but sound."""
    c = columns(1)
    backwards = {name: column[::-1] for name, column in c.items()}
    signed = {**c, "p": 2.0 * c["p"] - 1, "t": c["t"] * 1e-6}
    return {
        "a line\nfeed.npz": archive(**c),
        "-rf ~ $(x) `y`.npz": archive(**c),
        "a..b.npz": archive(**c),
        "x" * 240 + ".npz": archive(**c),
        "SHOUTING.NPZ": archive(**c),
        os.fsdecode(b"no \xff unicode.npz"): archive(**c),
        "backwards.npz": archive(**backwards),
        "signed.npz": archive(**signed),
    }


def bad_recordings() -> dict[str, tuple[bytes, str]]:
    c = columns(2)
    whole = archive(**c)
    zeros = np.zeros(2_000_000, np.uint8)
    objects = np.array([{"a": 1}, None], object)
    return {
        "empty.npz": (b"", "unreadable"),
        "cut.npz": (whole[:-9], "unreadable"),
        "page.npz": (b"<html>not found</html>", "unreadable"),
        "bomb.npz": (archive(x=zeros, y=zeros, t=zeros, p=zeros), "too-many-events"),
        "pickled.npz": (archive(event_data=objects), "forbidden-pickle"),
        "nan.npz": (archive(**{**c, "t": np.full(50, np.nan)}), "wrong-columns"),
        "inf.npz": (archive(**{**c, "x": np.full(50, np.inf)}), "wrong-columns"),
        "outside.npz": (archive(**{**c, "x": c["x"] + 600}), "off-sensor"),
        "negative.npz": (archive(**{**c, "y": -1.0 - c["y"]}), "off-sensor"),
        "three polarities.npz": (archive(**{**c, "p": np.arange(50) % 3}), "wrong-polarity"),
        "years.npz": (archive(**{**c, "t": c["t"] * 10**9}), "too-long"),
        "none.npz": (archive(**{name: column[:0] for name, column in c.items()}), "no-events"),
        "unequal.npz": (archive(**{**c, "x": c["x"][:9]}), "wrong-columns"),
        "columns missing.npz": (archive(x=c["x"], y=c["y"]), "wrong-columns"),
    }


def archive(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def test_good_recordings_come_in_and_bad_ones_are_named(tmp_path: Path) -> None:
    folder, out = tmp_path / "recordings", tmp_path / "out"
    folder.mkdir()
    good, bad = good_recordings(), bad_recordings()
    for name, data in {**good, **{name: data for name, (data, _) in bad.items()}}.items():
        (folder / name).write_bytes(data)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "other.npz").write_bytes(good["SHOUTING.NPZ"])
    (folder / "leads round.npz").symlink_to("leads round.npz")
    (folder / "linked.npz").symlink_to("../elsewhere/other.npz")
    (folder / "dangling.npz").symlink_to("nowhere")
    (folder / "a folder elsewhere").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(folder / "pipe.npz")
    (folder / "folder.npz").mkdir()
    before = set(tmp_path.rglob("*"))
    run = RunOptions(workers=2, max_failures=1.0)
    import_recordings("npz", folder, out, ImportOptions(size="64x48"), run)
    verify(out)
    made = {str(sample.meta["source"]) for sample in iterate_samples(out)}
    assert made == {printable(name) for name in (*good, "linked.npz")}
    reasons = {f.source: f.reason for r in read_records(out, "events") for f in r.failures}
    expected = {name: reason for name, (_, reason) in bad.items()}
    missing = dict.fromkeys(("leads round.npz", "dangling.npz", "pipe.npz"), "missing")
    assert reasons == {**expected, **missing}
    assert set(tmp_path.rglob("*")) - before == {out, *out.iterdir()}
