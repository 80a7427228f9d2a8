"""Decoding: what real collections hold, and what attackers put there."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from conftest import smooth_picture
from PIL import Image

from ezsr_synth.decode import FORMATS, PictureError, decode_picture

MAX_PIXELS = 10_000_000


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    if kind == "JPEG":
        options = {"quality": 95, "subsampling": 0, **options}
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def rgb() -> np.ndarray:
    return smooth_picture(1, 60, 80)


@pytest.fixture
def image(rgb: np.ndarray) -> Image.Image:
    return Image.fromarray(rgb)


def close(a: np.ndarray, b: np.ndarray, within: float = 6.0) -> bool:
    return a.shape == b.shape and float(np.abs(a.astype(int) - b.astype(int)).mean()) < within


def reason_of(data: bytes, max_pixels: int = MAX_PIXELS) -> str:
    with pytest.raises(PictureError) as caught:
        decode_picture(data, max_pixels)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000"])
def test_common_formats(kind: str, image: Image.Image, rgb: np.ndarray) -> None:
    decoded = decode_picture(encode(image, kind), MAX_PIXELS)
    assert decoded.dtype == np.uint8
    assert close(decoded, rgb, 12 if kind == "GIF" else 6)


def test_fast_and_careful_paths_agree(image: Image.Image) -> None:
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}):
        data = encode(image, "JPEG", **options)
        assert close(decode_picture(data, MAX_PIXELS), np.asarray(Image.open(io.BytesIO(data))), 2)


def test_grey_palette_and_bits(image: Image.Image, rgb: np.ndarray) -> None:
    grey = np.asarray(image.convert("L"))
    expected = np.repeat(grey[..., None], 3, axis=2)
    assert close(decode_picture(encode(image.convert("L"), "JPEG"), MAX_PIXELS), expected)
    assert close(decode_picture(encode(image.convert("P"), "PNG"), MAX_PIXELS), rgb, 25)
    bits = decode_picture(encode(image.convert("1"), "PNG"), MAX_PIXELS)
    assert set(np.unique(bits)) == {0, 255}


def test_16_bit_keeps_its_range(rgb: np.ndarray) -> None:
    levels = rgb[..., 0].astype(np.uint16) * 257
    data = bytes(cv2.imencode(".png", levels)[1])
    assert np.array_equal(decode_picture(data, MAX_PIXELS)[..., 0], rgb[..., 0])
    colour = bytes(cv2.imencode(".png", rgb[..., ::-1].astype(np.uint16) * 257)[1])
    assert close(decode_picture(colour, MAX_PIXELS), rgb, 1)


def test_cmyk(image: Image.Image, rgb: np.ndarray) -> None:
    assert close(decode_picture(encode(image.convert("CMYK"), "JPEG"), MAX_PIXELS), rgb, 8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_laid_on_white(kind: str, image: Image.Image) -> None:
    clear = image.convert("RGBA")
    clear.putalpha(0)
    lossless = {"lossless": True} if kind == "WEBP" else {}
    assert np.all(decode_picture(encode(clear, kind, **lossless), MAX_PIXELS) == 255)


def test_transparent_palette(image: Image.Image) -> None:
    palette = image.convert("P")
    data = encode(palette, "PNG", transparency=palette.getpixel((0, 0)))
    assert np.all(decode_picture(data, MAX_PIXELS)[0, 0] == 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    upright = np.zeros((40, 80, 3), np.uint8)
    upright[:20, :40] = (255, 0, 0)
    upright[20:, 40:] = (0, 0, 255)
    undo = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    stored = Image.fromarray(upright)
    stored = stored.transpose(undo) if undo is not None else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, "JPEG", exif=exif, quality=95, subsampling=0)
    assert close(decode_picture(data, MAX_PIXELS), upright, 3)


def test_animation_gives_its_first_frame(image: Image.Image, rgb: np.ndarray) -> None:
    black = Image.new("RGB", image.size)
    for kind in ("GIF", "WEBP", "PNG"):
        data = encode(image, kind, save_all=True, append_images=[black])
        assert close(decode_picture(data, MAX_PIXELS), rgb, 12)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files_are_named_so(kind: str, share: float, image: Image.Image) -> None:
    data = encode(image.resize((320, 240)), kind)
    assert reason_of(data[: int(len(data) * share)]) in ("truncated", "corrupt", "not-an-image")
    if kind in ("JPEG", "PNG"):
        assert reason_of(data[: int(len(data) * share)]) == "truncated"


def test_truncated_progressive_jpeg(image: Image.Image) -> None:
    data = encode(image.resize((320, 240)), "JPEG", progressive=True)
    assert reason_of(data[: len(data) * 2 // 3]) == "truncated"


def test_zeros_after_the_end_do_no_harm(image: Image.Image, rgb: np.ndarray) -> None:
    assert close(decode_picture(encode(image, "JPEG") + b"\0" * 100, MAX_PIXELS), rgb)


def test_what_is_no_picture() -> None:
    assert reason_of(b"") == "empty"
    assert reason_of(b"<html>404 not found</html>") == "not-an-image"
    assert reason_of(bytes(range(256)) * 20) == "not-an-image"
    assert reason_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n") == "not-an-image"
    assert "EPS" not in FORMATS


def test_1x1(image: Image.Image) -> None:
    one = image.resize((1, 1))
    assert decode_picture(encode(one, "PNG"), MAX_PIXELS).shape == (1, 1, 3)


def huge_png(side: int) -> bytes:
    """A PNG that claims side x side pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [4000, 12_000, 30_000, 2**31 - 1])
def test_huge_pictures_are_refused_before_they_are_decoded(side: int) -> None:
    assert reason_of(huge_png(side)) in ("too-many-pixels", "not-an-image", "corrupt")
    if side <= 30_000:
        assert reason_of(huge_png(side)) == "too-many-pixels"


def test_real_30000x30000_jpeg_costs_no_memory() -> None:
    """Only the header is read; the body may be anything."""
    small = encode(Image.new("L", (16, 16)), "JPEG")
    at = small.index(b"\xff\xc0")
    data = small[: at + 5] + struct.pack(">HH", 30_000, 30_000) + small[at + 9 :]
    assert reason_of(data) == "too-many-pixels"


def test_float_pixels_are_refused() -> None:
    image = Image.fromarray(np.random.default_rng(0).random((8, 8)).astype(np.float32))
    assert reason_of(encode(image, "TIFF")) == "unsupported-mode"


def test_garbled_exif_never_spoils_a_picture() -> None:
    rng = np.random.default_rng(1)
    exif = Image.Exif()
    exif[0x0112], exif[0x011A], exif[0x010E] = 6, 72.0, "a description"
    image = Image.fromarray(smooth_picture(1, 30, 40))
    for kind in ("JPEG", "WEBP"):
        data = encode(image, kind, exif=exif)
        start = data.index(b"Exif") if b"Exif" in data else data.index(b"EXIF")
        for _ in range(300):
            garbled = bytearray(data)
            for spot in rng.integers(start + 6, start + 120, 3):
                garbled[min(spot, len(data) - 1)] = int(rng.integers(0, 256))
            try:
                decoded = decode_picture(bytes(garbled), 10**6)
            except PictureError:
                continue
            assert sorted(decoded.shape) == [3, 30, 40]


def test_garbled_bytes_never_escape_as_other_errors(image: Image.Image) -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000"):
        data = np.frombuffer(encode(image, kind), np.uint8)
        for _ in range(60):
            garbled = data.copy()
            spots = rng.integers(0, min(len(data), 400), 6)
            garbled[spots] = rng.integers(0, 256, 6)
            try:
                decoded = decode_picture(garbled.tobytes(), 1_000_000)
            except PictureError:
                continue
            assert decoded.ndim == 3
