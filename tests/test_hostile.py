"""A folder as collections really are: good pictures beside everything that can go wrong."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from conftest import smooth_picture, write_picture
from PIL import Image
from test_decode import encode, huge_png

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
