"""Decode: the bytes of a picture file become RGB, or a reason why not.

Pillow reads every header first, so the size is known before a pixel is decoded, and says which
files are whole. Plain JPEGs, nearly all of any collection, are then decoded by OpenCV, which is
faster; everything else by Pillow.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats that Pillow may try. Others (EPS, PDF, ...) can start programs or are no photographs."""

EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "jp2", "avif"),
    )
)
MAX_FILE_BYTES = 512 << 20
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {  # EXIF 2.32, tag 0x0112: what undoes each orientation but 1
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_JPEG_END = b"\xff\xd9"


class PictureError(Exception):
    """A picture that cannot be used: `reason` is short and countable, `detail` says more."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """Keep both parts."""
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


def decode_picture(data: bytes, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Return the picture upright as RGB uint8 (H, W, 3); of an animation, the first frame.

    Grey, palette, CMYK and 16-bit pictures are converted; transparent ones are laid on white.
    Raises PictureError with reason `empty`, `not-an-image`, `too-many-pixels`, `truncated`,
    `unsupported-mode` or `corrupt`.
    """
    if not data:
        raise PictureError("empty", "0 bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of is either handled or an error below
        image = _open(data, max_pixels)
        if image.format == "JPEG" and _is_plain(image, data):
            decoded = _decode_fast(data)
            if decoded is not None and decoded.shape[:2] == (image.height, image.width):
                return decoded
        return _decode_any(image)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise PictureError("too-many-pixels", str(error)) from error
    except UnidentifiedImageError as error:
        raise PictureError("not-an-image", f"starts with {data[:8]!r}") from error
    except Exception as error:  # Pillow's parsers raise almost anything on hostile headers
        raise PictureError("corrupt", f"{type(error).__name__}: {error}") from error
    if image.width * image.height > max_pixels:
        size = f"{image.width}x{image.height}"
        raise PictureError("too-many-pixels", f"{size} is over the limit of {max_pixels}")
    return image


def _is_plain(image: Image.Image, data: bytes) -> bool:
    """Tell whether OpenCV decodes this JPEG as Pillow does: whole, upright, grey or YCbCr.

    OpenCV fills the missing part of a cut file with grey and says nothing.
    """
    whole = data.rstrip(b"\0").endswith(_JPEG_END)
    return whole and image.mode in ("L", "RGB") and _orientation(image) == 1


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # a broken EXIF block does not spoil the picture
        return 1


def _decode_fast(data: bytes) -> npt.NDArray[np.uint8] | None:
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return None if decoded is None else decoded.astype(np.uint8, copy=False)


def _decode_any(image: Image.Image) -> npt.NDArray[np.uint8]:
    try:
        image.load()
        way = _UPRIGHT.get(_orientation(image))
        upright = image if way is None else image.transpose(way)
        return np.array(_to_rgb(upright), dtype=np.uint8)
    except PictureError:
        raise
    except Exception as error:  # Pillow's decoders, too, raise almost anything
        reason = "truncated" if _says_truncated(error) else "corrupt"
        raise PictureError(reason, f"{type(error).__name__}: {error}") from error


def _says_truncated(error: Exception) -> bool:
    words = str(error).lower()
    return isinstance(error, EOFError) or any(
        word in words for word in ("truncated", "unexpected end", "not enough", "premature")
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise PictureError("unsupported-mode", "floating-point pixels have no known white")
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image))
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layers).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(levels: npt.NDArray[Any]) -> Image.Image:
    if levels.min() < 0 or levels.max() > 65535:
        raise PictureError("unsupported-mode", "integer pixels outside 0 to 65535")
    return Image.fromarray((levels.astype(np.uint32) // 257).astype(np.uint8)).convert("RGB")
