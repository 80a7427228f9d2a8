"""Pictures of events for the eye: accumulation images, contact sheets and animated GIFs."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ezsr_shards.errors import ConfigError
from ezsr_shards.events import EventStream

Colour = tuple[int, int, int]
ON_COLOUR, OFF_COLOUR = (214, 20, 32), (24, 66, 214)
WHITE, HAIRLINE, GREY, INK = (255, 255, 255), (208, 208, 208), (112, 112, 112), (24, 24, 24)
SATURATION_PERCENTILE, STRENGTH_GAMMA = 95.0, 0.7
FAINTEST = 0.25  # ink of a lone event among many; less would vanish on white paper
PANEL_PX, PANEL_MAX_PX = 240, 360
MIN_CELL_PX = 242  # the legend fits into a sheet of one cell
MARGIN_PX, CELL_GAP_PX, PAIR_GAP_PX = 32, 28, 6
CAPTION_PX, SMALL_PX = 15, 12
CAPTION_TOP_PX, SUMMARY_TOP_PX, TEXT_PX = 8, 28, 44
PLAIN_TEXT = str.maketrans("\u2013\u2014\u2018\u2019\u201c\u201d\u00d7\u00b5", "--''\"\"xu")
BAR_PX, BAR_SPACE_PX = 3, 15
INK_LEVELS, MIX_LEVELS, PICTURE_COLOURS = 8, 9, 176  # and 3 greys: within the 256 of a GIF


@dataclass(frozen=True)
class Tile:
    """One cell of a contact sheet.

    picture  the still picture that the events come from, any size and mode; None if there is none
    events   the recording
    caption  one line of text, shortened with an ellipsis where it does not fit
    """

    picture: Image.Image | None
    events: EventStream
    caption: str


def accumulation_image(events: EventStream) -> npt.NDArray[np.uint8]:
    """Return all events in one RGB picture: white ground, ON red, OFF blue, both purple.

    uint8 (height, width, 3). The more events a pixel has, the stronger its colour, up to the
    95th percentile of the counts of the pixels that have any.
    """
    counts = events.count_image()
    total = counts.sum(axis=0)
    return _coloured(counts, _full_count(total[total > 0]))


def event_frames(events: EventStream, frames: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Return the recording as `frames` accumulation images of equal time spans, on one scale.

    Each is uint8 (height, width, 3); frame k holds the events with
    k * duration_us <= t * frames < (k + 1) * duration_us. Raises ConfigError if frames < 1.
    """
    if frames < 1:
        raise ConfigError(f"frames is {frames}; give 1 or more")
    area, shape = events.width * events.height, (2, events.height, events.width)
    frame = events.t * frames // max(events.duration_us, 1)
    pixel = events.y.astype(np.int64) * events.width + events.x
    full = _full_count(np.unique(frame * area + pixel, return_counts=True)[1])
    parts = np.split(pixel + area * (events.p > 0), np.searchsorted(frame, np.arange(1, frames)))
    counts = (np.bincount(part, minlength=2 * area).reshape(shape) for part in parts)
    return (_coloured(count, full) for count in counts)


def contact_sheet(tiles: Sequence[Tile], columns: int = 4) -> Image.Image:
    """Return an RGB sheet of captioned cells, each a picture beside its accumulation image.

    Small sensors are enlarged and large ones reduced by a whole number; all cells have the size
    of the largest. A tile without a picture shows its events alone. Raises ConfigError if there
    are no tiles or columns < 1.
    """
    if not tiles or columns < 1:
        raise ConfigError(f"contact sheet: {len(tiles)} tiles in {columns} columns; give 1 or more")
    pairs = []
    for tile in tiles:
        shown, zoom = fit_grid(tile.events)
        pairs.append(_pair(tile.picture, accumulation_image(shown), zoom))
    cell_width = max(MIN_CELL_PX, *(pair.width for pair in pairs))
    pair_height = max(pair.height for pair in pairs)
    columns = min(columns, len(tiles))
    step_x, step_y = cell_width + CELL_GAP_PX, pair_height + TEXT_PX + CELL_GAP_PX
    width = 2 * MARGIN_PX + columns * step_x - CELL_GAP_PX
    height = 2 * MARGIN_PX + -(-len(tiles) // columns) * step_y + SMALL_PX
    sheet = Image.new("RGB", (width, height), WHITE)
    for index, (tile, pair) in enumerate(zip(tiles, pairs, strict=True)):
        left = MARGIN_PX + index % columns * step_x
        bottom = MARGIN_PX + index // columns * step_y + pair_height
        sheet.paste(pair, (left, bottom - pair.height))
        _write(sheet, (left, bottom + CAPTION_TOP_PX), tile.caption, CAPTION_PX, cell_width, INK)
        summary = _summary(tile.events)
        _write(sheet, (left, bottom + SUMMARY_TOP_PX), summary, SMALL_PX, cell_width, GREY)
    _draw_legend(sheet, MARGIN_PX, height - MARGIN_PX - SMALL_PX)
    return sheet


def save_gif(
    path: Path, picture: Image.Image | None, events: EventStream, frames: int = 24, fps: float = 12
) -> None:
    """Write an endless GIF of `event_frames`, beside the picture if there is one.

    A line under the events grows with time. GIF counts in 1/100 s, so `fps` is rounded to that.
    Raises ConfigError if frames < 1 or fps is not in (0, 50], OSError if `path` cannot be written.
    """
    if not 0 < fps <= 50:
        raise ConfigError(f"fps is {fps}; a GIF plays above 0 and up to 50 frames a second")
    shown, zoom = fit_grid(events)
    size = (shown.width * zoom, shown.height * zoom)
    colours = _event_colours()
    if picture is not None:
        picture, own_colours = _dithered(_fitted(picture, size))
        colours = np.concatenate((colours, own_colours))
    pages = []
    for k, frame in enumerate(event_frames(shown, frames), start=1):
        pair = _pair(picture, frame, zoom)
        page = ImageOps.expand(pair, (PAIR_GAP_PX, PAIR_GAP_PX, PAIR_GAP_PX, BAR_SPACE_PX), WHITE)
        left, top = page.width - PAIR_GAP_PX - size[0] - 1, page.height - PAIR_GAP_PX - BAR_PX
        for share, colour in ((frames, HAIRLINE), (k, GREY)):
            right = left + size[0] * share // frames - 1
            ImageDraw.Draw(page).rectangle((left, top, right, top + BAR_PX - 1), fill=colour)
        pages.append(_indexed(page, colours))
    pause_ms = 10 * round(100 / fps)
    pages[0].save(path, "GIF", save_all=True, append_images=pages[1:], duration=pause_ms, loop=0)


def _full_count(counts: npt.NDArray[np.int64]) -> float:
    """Return the event count that gets full colour, given the counts of pixels that have any."""
    return float(np.percentile(counts, SATURATION_PERCENTILE)) if counts.size else 1.0


def _coloured(counts: npt.NDArray[np.int64], full: float) -> npt.NDArray[np.uint8]:
    """Return counts (2, H, W), OFF first, as RGB uint8 (H, W, 3)."""
    total = counts.sum(axis=0)
    strength = np.minimum(total / full, 1.0) ** STRENGTH_GAMMA
    ink = np.where(total > 0, FAINTEST + (1 - FAINTEST) * strength, 0.0)
    lean = (counts[1] - counts[0]) / np.maximum(total, 1)
    # Motion to and fro leaves nearly as many ON as OFF events; the root keeps the difference seen.
    return _blend(ink, 0.5 + 0.5 * np.sign(lean) * np.sqrt(np.abs(lean)))


def _blend(ink: npt.NDArray[np.float64], on: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Return white tinted by `ink` in 0..1 with a hue that is `on` parts ON and the rest OFF."""
    hue = np.multiply.outer(on, ON_COLOUR) + np.multiply.outer(1 - on, OFF_COLOUR)
    rgb: npt.NDArray[np.uint8] = np.rint(255 + ink[..., None] * (hue - 255)).astype(np.uint8)
    return rgb


def fit_grid(events: EventStream) -> tuple[EventStream, int]:
    """Return the events on the grid to draw, and the whole number to enlarge that grid by."""
    longest = max(events.width, events.height)
    step = -(-longest // PANEL_MAX_PX)
    # Counting on a coarser grid keeps single events visible; shrinking a drawing fades them.
    width, height = -(-events.width // step), -(-events.height // step)
    grid = replace(events, x=events.x // step, y=events.y // step, width=width, height=height)
    return grid, max(1, round(PANEL_PX / longest))


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the whole picture in RGB on a white panel of `size`."""
    enlarged = 2 * picture.width <= size[0] and 2 * picture.height <= size[1]
    method = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    return ImageOps.pad(picture.convert("RGB"), size, method, WHITE)


def _pair(picture: Image.Image | None, frame: npt.NDArray[np.uint8], zoom: int) -> Image.Image:
    """Return the picture, if any, beside the enlarged drawing of events, each with a hairline."""
    drawn = Image.fromarray(frame.repeat(zoom, axis=0).repeat(zoom, axis=1))
    panels = [drawn] if picture is None else [_fitted(picture, drawn.size), drawn]
    step = drawn.width + 2 + PAIR_GAP_PX
    pair = Image.new("RGB", (step * len(panels) - PAIR_GAP_PX, drawn.height + 2), WHITE)
    for place, panel in enumerate(panels):
        pair.paste(ImageOps.expand(panel, 1, HAIRLINE), (place * step, 0))
    return pair


def _event_colours() -> npt.NDArray[np.uint8]:
    """Return the colours of a GIF of events, uint8 (K, 3); inks of counts in between are few."""
    ink = np.linspace(FAINTEST, 1.0, INK_LEVELS).repeat(MIX_LEVELS)
    on = np.tile(np.linspace(0.0, 1.0, MIX_LEVELS), INK_LEVELS)
    return np.concatenate((np.array((WHITE, HAIRLINE, GREY), np.uint8), _blend(ink, on)))


def _dithered(picture: Image.Image) -> tuple[Image.Image, npt.NDArray[np.uint8]]:
    """Return an RGB picture reduced to `PICTURE_COLOURS`, its white kept, and these, (K, 3)."""
    palette = picture.quantize(PICTURE_COLOURS, method=Image.Quantize.FASTOCTREE)
    few, full = np.asarray(picture.quantize(palette=palette).convert("RGB")), np.asarray(picture)
    colours = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)[:PICTURE_COLOURS]
    white = np.all(full == 255, axis=2, keepdims=True)
    return Image.fromarray(np.where(white, full, few)), colours


def _indexed(page: Image.Image, colours: npt.NDArray[np.uint8]) -> Image.Image:
    """Return an RGB page as a palette image of the nearest of `colours`, uint8 (K, 3)."""
    # Pillow's own search does not tell a near white of the picture from the white of the page.
    rgb = np.asarray(page).reshape(-1, 3).astype(np.int64)
    _, first, inverse = np.unique(rgb @ (65536, 256, 1), return_index=True, return_inverse=True)
    distance = np.square(rgb[first, None] - colours).sum(axis=2)
    nearest = distance.argmin(axis=1).astype(np.uint8)[inverse]
    indexed = Image.fromarray(nearest.reshape(page.height, page.width))
    indexed.putpalette(colours.tobytes())
    return indexed


def _write(
    sheet: Image.Image, at: tuple[int, int], text: str, size: int, width: int, colour: Colour
) -> float:
    """Write one line with its top left corner `at`, cut to `width` px; return its width in px."""
    font = ImageFont.load_default(size)
    # No glyph is narrower than a pixel, so this drops only what could not fit and bounds the loop.
    line = text = _plain(text)[: width + 1]
    while line and font.getlength(line) > width:
        text = text[:-1].rstrip()
        line = text + "…" if text else ""
    ImageDraw.Draw(sheet).text(at, line, fill=colour, font=font)
    return font.getlength(line)


def _plain(text: str) -> str:
    """Return one line of ASCII, for Pillow's own font has little more: no accents, "?" for CJK."""
    spread = unicodedata.normalize("NFKD", " ".join(text.translate(PLAIN_TEXT).split()))
    bare = (c for c in spread if not unicodedata.combining(c))
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in bare)


def _summary(events: EventStream) -> str:
    """Return the number of events, the duration and the share of ON events in words."""
    n, duration = len(events), f"{events.duration_us / 1000:,.1f} ms"
    if not n:
        return f"no events, {duration}"
    return f"{n:,} event{'s' if n > 1 else ''}, {duration}, {events.on_count / n:.0%} ON"


def _draw_legend(sheet: Image.Image, left: int, top: int) -> None:
    """Draw what the two colours mean, each behind a square of that colour."""
    x = left
    for text, colour in (("ON brighter (red)", ON_COLOUR), ("OFF darker (blue)", OFF_COLOUR)):
        square = (x, top + 1, x + SMALL_PX - 2, top + SMALL_PX - 1)
        ImageDraw.Draw(sheet).rectangle(square, fill=colour)
        x += SMALL_PX + 4
        x += round(_write(sheet, (x, top), text, SMALL_PX, sheet.width, GREY)) + 3 * PAIR_GAP_PX
