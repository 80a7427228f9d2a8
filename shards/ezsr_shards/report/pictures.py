"""Pictures of the report, as data: URIs: thumbnails, and the heat map with its colours."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from ezsr_shards.draw import accumulation_image, fit_grid
from ezsr_shards.events import EventStream

MOST_PX = 256
"""Longer side of a thumbnail."""

_JPEG_QUALITY = 82
_RAMP = np.array(
    [(16, 14, 40), (70, 20, 96), (150, 36, 96), (220, 76, 62), (248, 150, 50), (250, 236, 150)]
)
"""From no events to the most, in steps of even lightness."""


def picture_uri(picture: Image.Image) -> str:
    """Return an RGB picture, reduced if it is large, as a JPEG."""
    small = picture.convert("RGB")
    small.thumbnail((MOST_PX, MOST_PX), Image.Resampling.LANCZOS)
    return _uri(small, "JPEG", quality=_JPEG_QUALITY, optimize=True)


def events_uri(events: EventStream) -> str:
    """Return the accumulation image of a recording, without loss."""
    shown, _ = fit_grid(events)
    return _uri(Image.fromarray(accumulation_image(shown)), "WEBP", lossless=True, method=4)


def heat_uri(mean: npt.NDArray[np.float64], most: float) -> str:
    """Return counts float64 (H, W) from 0 to `most` in the colours of `ramp_uri`, as a PNG."""
    shares = np.minimum(mean / most, 1.0) if most > 0 else np.zeros_like(mean)
    return _uri(_coloured(shares), "PNG", optimize=True)


def ramp_uri() -> str:
    """Return the colours of the heat map, least to most from left to right, as a PNG."""
    return _uri(_coloured(np.linspace(0, 1, 256)[None]), "PNG", optimize=True)


def _coloured(shares: npt.NDArray[np.float64]) -> Image.Image:
    stops = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(shares, stops, _RAMP[:, n]) for n in range(3)]
    return Image.fromarray(np.rint(np.stack(channels, axis=-1)).astype(np.uint8))


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
