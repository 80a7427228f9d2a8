"""Prepare a sample: cut a slice of its events and scale it, with its picture, to the input."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ezsr_shards.errors import ShardError
from ezsr_train.config import AugmentConfig, InputConfig
from ezsr_train.recording import Recording
from ezsr_train.representation import NEED_TIMES


@dataclass(frozen=True)
class View:
    """What chance decided about one reading of a sample.

    length, place  of the slice: its events, and where it begins as a share of what is possible
    box            left, top, width, height that are kept, as shares of the seen part
    keep           share of the events that is kept; which ones, `rng` decides
    noise          events of chance for each of the slice; where they lie, `rng` decides
    """

    length: int
    place: float = 0.5
    mirrored: bool = False
    reversed: bool = False
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    keep: float = 1.0
    noise: float = 0.0


@dataclass(frozen=True)
class SliceRule:
    """Which slices of a recording are scored; their embeddings are averaged.

    Without chance they are as long as the configuration says, and lie evenly: one in the middle,
    two in the middle of each half of the possible places, and so on. With chance they lie
    anywhere, and are up to `jitter` events longer or shorter, as in the authors' evaluator; draws
    depend on the seed and the number of events alone, so that a recording gives the same slices
    wherever it lies.
    """

    slices: int = 1
    random: bool = False
    jitter: int = 0
    seed: int = 0

    def views(self, length: int, events: int) -> tuple[View, ...]:
        """Return the views of a recording."""
        if not self.random:
            return tuple(View(length, (n + 0.5) / self.slices) for n in range(self.slices))
        digest = hashlib.sha256(f"{self.seed}/{events}".encode()).digest()
        rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
        lengths = length + rng.integers(-self.jitter, self.jitter + 1, self.slices)
        places = rng.random(self.slices)
        return tuple(View(int(n), float(place)) for n, place in zip(lengths, places, strict=True))


MIDDLE_SLICE = SliceRule()


@dataclass(frozen=True)
class EventSlice:
    """Events as the encoder takes them; dtypes as in PackedEvents."""

    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    t: npt.NDArray[np.float32]
    p: npt.NDArray[np.uint8]


def draw_view(config: InputConfig, augment: AugmentConfig, rng: np.random.Generator) -> View:
    """Draw a view for training."""
    jitter = augment.slice_jitter
    length = config.slice_events + int(rng.integers(-jitter, jitter + 1))
    place, flip, reverse, drop, cut, left, top, noise = rng.random(8)
    side = float(np.sqrt(1 - augment.crop * cut))
    box = (left * (1 - side), top * (1 - side), side, side)
    keep, noisy = 1 - augment.drop * drop, augment.noise * noise
    return View(length, place, flip < augment.flip, reverse < augment.reverse, box, keep, noisy)


def cut_slice(
    recording: Recording,
    config: InputConfig,
    size_px: int,
    view: View,
    rng: np.random.Generator | None = None,
) -> EventSlice:
    """Read a contiguous slice of a recording's events, scaled to (size_px, size_px).

    Time and polarity turn round together where the view is reversed: the same motion backwards
    makes bright what it made dark. Raises ShardError where the recording is broken or empty.
    """
    if not recording.events:
        raise ShardError(f"sample {recording.key}: holds no event")
    start = int(view.place * (max(recording.events - view.length, 0) + 1))
    stop = min(start + view.length, recording.events)
    seen = seen_part(recording.width, recording.height, config.geometry, view)
    across = scale_axis(recording.width, seen[0], seen[2], size_px)
    down = scale_axis(recording.height, seen[1], seen[3], size_px)
    if view.mirrored:
        across = across[::-1]
    x, y = across[recording.read("x", start, stop)], down[recording.read("y", start, stop)]
    p = recording.read("p", start, stop)
    p = 1 - p if view.reversed else p
    t = np.empty(0, np.float32)
    if config.representation in NEED_TIMES:
        t = _share_of_slice(recording.read("t", start, stop), view.reversed)
    inside = (x < size_px) & (y < size_px)
    if rng is not None and view.keep < 1:
        inside &= rng.random(len(x)) < view.keep
    if not inside.all():
        x, y, p, t = x[inside], y[inside], p[inside], t[inside] if len(t) else t
    dtype = np.uint8 if size_px <= 256 else np.int16
    found = EventSlice(x.astype(dtype), y.astype(dtype), t, p)
    if rng is not None and view.noise:
        added = round(view.noise * len(x))
        places = _visible(across, size_px), _visible(down, size_px)
        return _add_noise(found, added, *places, rng)
    return found


def _visible(pixels: npt.NDArray[np.int16], size_px: int) -> npt.NDArray[np.int16]:
    return pixels[pixels < size_px]


def _add_noise(
    events: EventSlice,
    added: int,
    across: npt.NDArray[np.int16],
    down: npt.NDArray[np.int16],
    rng: np.random.Generator,
) -> EventSlice:
    """Add events anywhere on the visible sensor, at any time, of either polarity."""
    x, y = (rng.choice(pixels, added).astype(events.x.dtype) for pixels in (across, down))
    t = rng.random(added if len(events.t) else 0, np.float32)
    p = rng.integers(0, 2, added, np.uint8)
    pairs = ((events.x, x), (events.y, y), (events.t, t), (events.p, p))
    return EventSlice(*(np.concatenate(pair) for pair in pairs))


def read_picture(
    recording: Recording, geometry: str, size_px: int, view: View
) -> npt.NDArray[np.uint8]:
    """Return the recording's picture as the slice sees it, RGB uint8 (size_px, size_px, 3).

    Raises ShardError where there is none or it is broken.
    """
    if recording.jpeg is None:
        raise ShardError(f"sample {recording.key}: no picture")
    left, top, width, height = seen_part(recording.width, recording.height, geometry, view)
    if view.mirrored:
        left = recording.width - left - width
    box = (left, top, left + width, top + height)
    try:
        picture = Image.open(io.BytesIO(recording.jpeg), formats=["JPEG"])
        if picture.size != (recording.width, recording.height):
            raise ShardError(f"sample {recording.key}: the picture is not of the sensor's size")
        resized = picture.convert("RGB").resize((size_px,) * 2, Image.Resampling.BICUBIC, box=box)
    except ShardError:
        raise
    except Exception as error:  # Pillow's parsers raise almost anything
        raise ShardError(f"sample {recording.key}: its .jpg is unreadable ({error})") from error
    rgb: npt.NDArray[np.uint8] = np.asarray(resized)
    return rgb[:, ::-1] if view.mirrored else rgb


def seen_part(
    width: int, height: int, geometry: str, view: View
) -> tuple[float, float, float, float]:
    """Return (left, top, width, height) in sensor pixels of what fills the encoder's input."""
    across, down = (width, height) if geometry == "stretch" else (min(width, height),) * 2
    left, top, share_x, share_y = view.box
    return (
        (width - across) / 2 // 1 + left * across,
        (height - down) / 2 // 1 + top * down,
        share_x * across,
        share_y * down,
    )


@lru_cache(maxsize=256)
def scale_axis(sensor: int, first: float, span: float, size_px: int) -> npt.NDArray[np.int16]:
    """Return the input pixel of each sensor pixel, int16 (sensor,), or 32767 where it is outside.

    Products are rounded to float16 before they are truncated, as the authors' evaluator does: of
    640 columns, 14 land beside where exact arithmetic would put them.
    """
    pixels = np.arange(sensor, dtype=np.float32) - np.float32(first)
    scaled = (pixels * np.float32(size_px / span)).astype(np.float16)
    place = scaled.astype(np.int16).clip(0, size_px - 1)
    place[(pixels < 0) | (pixels >= span)] = np.iinfo(np.int16).max
    place.flags.writeable = False
    return place


def _share_of_slice(t: npt.NDArray[Any], backwards: bool) -> npt.NDArray[np.float32]:
    times = t.astype(np.float64)
    share = (times - times[0]) / max(times[-1] - times[0], 1.0)
    shares: npt.NDArray[np.float32] = (1 - share if backwards else share).astype(np.float32)
    return shares
