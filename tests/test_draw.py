"""Drawings of events: what is red, blue or white, what fits where, and what a GIF plays."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from ezsr_shards.draw import (
    CELL_GAP_PX,
    MARGIN_PX,
    PAIR_GAP_PX,
    SMALL_PX,
    TEXT_PX,
    Tile,
    accumulation_image,
    contact_sheet,
    event_frames,
    save_gif,
)
from ezsr_shards.errors import ConfigError
from ezsr_shards.events import EventStream

PICTURE = Image.linear_gradient("L").resize((64, 48)).convert("RGB")


def stream(x, y, t, p, width: int, height: int, duration_us: int) -> EventStream:
    x, y, t, p = (np.asarray(column) for column in (x, y, t, p))
    order = np.lexsort((x, y, t))
    return EventStream(x[order], y[order], t[order], p[order], width, height, duration_us)


def moving_disc(width: int = 64, height: int = 48, steps: int = 20) -> EventStream:
    """A bright disc moves right: ON events on its front, OFF events on its back."""
    rows, columns = np.mgrid[:height, :width]
    radius, found = height / 5, []
    for step in range(steps):
        before, after = (
            np.hypot(columns - width / 4 - shift * width / 50, rows - height / 2) < radius
            for shift in (step, step + 1)
        )
        y, x = np.nonzero(before != after)
        found.append((x, y, np.full(len(x), 1000 * step + 7), after[y, x]))
    x, y, t, p = (np.concatenate(column) for column in zip(*found, strict=True))
    return stream(x, y, t, p, width, height, 1000 * steps)


def no_events(width: int = 34, height: int = 34, duration_us: int = 0) -> EventStream:
    return stream([], [], [], [], width, height, duration_us)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def touched(image: np.ndarray) -> np.ndarray:
    return (image != 255).any(axis=2)


def test_colours_say_the_polarity() -> None:
    events = moving_disc()
    off, on = events.count_image()
    image = accumulation_image(events)
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(touched(image), off + on > 0)
    red, green, blue = np.moveaxis(image.astype(int), 2, 0)
    only_on, only_off, both = (on > 0) & (off == 0), (off > 0) & (on == 0), (on > 0) & (off > 0)
    assert only_on.any()
    assert only_off.any()
    assert both.any()
    assert (red - np.maximum(green, blue))[only_on].min() > 30
    assert (blue - np.maximum(green, red))[only_off].min() > 30
    assert (np.minimum(red, blue) - green)[both & (on == off)].min() > 0


def test_more_events_are_stronger_and_one_hot_pixel_fades_nothing() -> None:
    x = np.repeat(np.arange(30), np.arange(1, 31))
    ramp = stream(x, x * 0, np.arange(len(x)), x * 0 + 1, 40, 1, 1000)
    green = accumulation_image(ramp)[0, :30, 1].astype(int)
    assert (np.diff(green[:28]) < 0).all()
    hot = np.concatenate((x, np.full(500, 35)))
    events = stream(hot, hot * 0, np.arange(len(hot)), hot * 0 + 1, 40, 1, 1000)
    faded = accumulation_image(events)[0, :30, 1].astype(int)
    assert np.abs(faded - green).max() < 15


@pytest.mark.parametrize(("width", "height"), [(34, 34), (224, 224), (640, 480)])
def test_no_events_are_all_white(width: int, height: int, tmp_path: Path) -> None:
    events = no_events(width, height)
    assert accumulation_image(events).shape == (height, width, 3)
    assert not touched(accumulation_image(events)).any()
    assert [touched(frame).any() for frame in event_frames(events, 3)] == [False] * 3
    assert contact_sheet([Tile(PICTURE, events, "nothing moves")]).mode == "RGB"
    save_gif(tmp_path / "still.gif", None, events, frames=3)
    with Image.open(tmp_path / "still.gif") as gif:
        assert gif.n_frames == 3


@pytest.mark.parametrize(("frames", "duration_us"), [(1, 999), (7, 1000), (24, 40_000), (50, 20)])
def test_every_event_is_in_one_frame(frames: int, duration_us: int) -> None:
    rng = np.random.default_rng(frames)
    pixel = rng.permutation(20 * 30)[:400]
    t = rng.integers(0, duration_us, 400)
    t[:2] = 0, duration_us - 1
    events = stream(pixel % 30, pixel // 30, t, rng.integers(0, 2, 400), 30, 20, duration_us)
    drawn = np.stack([touched(frame) for frame in event_frames(events, frames)])
    assert len(drawn) == frames
    assert drawn.sum() == 400
    assert drawn[events.t * frames // duration_us, events.y, events.x].all()


def test_frames_share_one_scale() -> None:
    x = np.array([0, 1, 1, 1, 1])
    events = stream(x, x * 0, [0, 5, 6, 7, 8], x * 0 + 1, 2, 1, 10)
    weak, strong = event_frames(events, 2)
    assert weak[0, 0, 1] > strong[0, 1, 1] + 30
    whole = next(event_frames(moving_disc(), 1))
    assert np.array_equal(whole, accumulation_image(moving_disc()))


@pytest.mark.parametrize(
    ("sensor", "panel"),
    [((34, 34), (238, 238)), ((224, 224), (224, 224)), ((640, 480), (320, 240))],
)
@pytest.mark.parametrize(("tiles", "columns"), [(1, 4), (5, 3), (4, 1)])
def test_sheet_size(
    sensor: tuple[int, int], panel: tuple[int, int], tiles: int, columns: int
) -> None:
    sheet = contact_sheet([Tile(PICTURE, moving_disc(*sensor), "disc")] * tiles, columns)
    across, down = min(tiles, columns), -(-tiles // columns)
    cell = 2 * (panel[0] + 2) + PAIR_GAP_PX
    assert sheet.width == 2 * MARGIN_PX + across * cell + (across - 1) * CELL_GAP_PX
    row = panel[1] + 2 + TEXT_PX + CELL_GAP_PX
    assert sheet.height == 2 * MARGIN_PX + down * row + SMALL_PX


def test_sheet_shows_picture_and_events_enlarged_by_a_whole_number() -> None:
    events = moving_disc(34, 34)
    picture = Image.linear_gradient("L").resize((34, 34)).convert("RGB")
    sheet = pixels(contact_sheet([Tile(picture, events, "disc")]))
    first = MARGIN_PX + 1
    for left, small in (
        (first, pixels(picture)),
        (first + 238 + 2 + PAIR_GAP_PX, accumulation_image(events)),
    ):
        shown = sheet[first : first + 238, left : left + 238]
        assert np.array_equal(shown, small.repeat(7, axis=0).repeat(7, axis=1))


def test_large_sensor_keeps_single_events_visible() -> None:
    rng = np.random.default_rng(0)
    spots = rng.permutation(20 * 15)[:100]
    x, y = spots % 20 * 32 + 31, spots // 20 * 32 + 31
    events = stream(x, y, np.arange(100), x * 0 + 1, 640, 480, 100)
    sheet = pixels(contact_sheet([Tile(None, events, "")])).astype(int)
    inside = sheet[MARGIN_PX + 1 :, MARGIN_PX + 1 :][:240, :320]
    assert (inside[..., 0] - inside[..., 1] > 150).sum() == 100


@pytest.mark.parametrize("caption", ["w" * 50_000, "many words " * 50, "one\nline\tonly " * 20])
def test_long_captions_stay_in_their_cell(caption: str) -> None:
    events = moving_disc(224, 224)
    with_text = contact_sheet([Tile(None, events, caption), Tile(None, events, caption)])
    without = contact_sheet([Tile(None, events, ""), Tile(None, events, "")])
    text = touched(255 - pixels(ImageChops.difference(with_text, without)))
    rows, columns = np.nonzero(text)
    cell = (with_text.width - 2 * MARGIN_PX - CELL_GAP_PX) // 2
    place = (columns - MARGIN_PX) % (cell + CELL_GAP_PX)
    assert columns.min() >= MARGIN_PX
    assert place.max() < cell
    assert place.max() > 0.8 * cell
    assert MARGIN_PX + 226 < rows.min() <= rows.max() < MARGIN_PX + 226 + TEXT_PX


def test_legend_fits_under_one_narrow_cell() -> None:
    sheet = pixels(contact_sheet([Tile(None, moving_disc(20, 200), "")]))
    legend = touched(sheet[-MARGIN_PX - SMALL_PX :])
    assert legend.any()
    assert not legend[:, :MARGIN_PX].any()
    assert not legend[:, -MARGIN_PX + 2 :].any()
    assert not touched(sheet[:, -MARGIN_PX + 2 :]).any()


def test_letters_that_the_font_lacks_are_replaced() -> None:
    def sheet(caption: str) -> Image.Image:
        return contact_sheet([Tile(None, no_events(), caption)])

    assert sheet("Café – naïve  “Ångström”") == sheet('Cafe - naive "Angstrom"')
    assert sheet("漢字\x00") == sheet("???")
    assert sheet("???") != sheet("")


@pytest.mark.parametrize(("picture", "panels"), [(None, 1), (PICTURE, 2)])
@pytest.mark.parametrize(("sensor", "panel"), [((34, 30), (238, 210)), ((640, 480), (320, 240))])
def test_gif(
    picture: Image.Image | None,
    panels: int,
    sensor: tuple[int, int],
    panel: tuple[int, int],
    tmp_path: Path,
) -> None:
    events = moving_disc(*sensor)
    save_gif(tmp_path / "disc.gif", picture, events, frames=10, fps=12)
    bar = []
    with Image.open(tmp_path / "disc.gif") as gif:
        assert gif.n_frames == 10
        assert gif.info["loop"] == 0
        step = panel[0] + 2 + PAIR_GAP_PX
        assert gif.width == PAIR_GAP_PX + panels * step
        assert gif.height > panel[1]
        for k in range(gif.n_frames):
            gif.seek(k)
            assert gif.info["duration"] == 80
            page = pixels(gif)
            left = gif.width - PAIR_GAP_PX - 1 - panel[0]
            inside = page[PAIR_GAP_PX + 1 :, left:][: panel[1], : panel[0]].astype(int)
            assert (inside == 255).all(axis=2).mean() > 0.8
            assert (inside[..., 0] - inside[..., 2] > 30).any()
            assert (inside[..., 2] - inside[..., 0] > 30).any()
            bar.append(int((page[-PAIR_GAP_PX - 2] < 150).all(axis=1).sum()))
    assert bar == [panel[0] * k // 10 for k in range(1, 11)]
    assert (tmp_path / "disc.gif").stat().st_size < 150_000


def test_gif_keeps_white_beside_a_picture_of_near_whites(tmp_path: Path) -> None:
    near_white = np.random.default_rng(0).integers(248, 255, (224, 112, 3), np.uint8)
    events = moving_disc(224, 224)
    save_gif(tmp_path / "disc.gif", Image.fromarray(near_white), events, frames=4)
    with Image.open(tmp_path / "disc.gif") as gif:
        for k, frame in enumerate(event_frames(events, 4)):
            gif.seek(k)
            shown = pixels(gif)[PAIR_GAP_PX + 1 :, -PAIR_GAP_PX - 1 - 224 :][:224, :224]
            assert np.array_equal(touched(shown), touched(frame))
            picture = touched(pixels(gif)[PAIR_GAP_PX + 1 :, PAIR_GAP_PX + 1 :][:224, :224])
            assert picture[:, 56:-56].all()
            assert not picture[:, :56].any()
            assert not picture[:, -56:].any()


def test_drawing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    def sheet_bytes() -> bytes:
        out = io.BytesIO()
        contact_sheet([Tile(PICTURE, moving_disc(), "disc")] * 3, 2).save(out, "PNG")
        return out.getvalue()

    assert sheet_bytes() == sheet_bytes()
    for name in ("a.gif", "b.gif"):
        save_gif(tmp_path / name, PICTURE, moving_disc(), frames=6)
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_pictures_of_any_mode_are_taken(mode: str, tmp_path: Path) -> None:
    picture = PICTURE.convert(mode)
    sheet = contact_sheet([Tile(picture, moving_disc(), "")])
    left_panel = sheet.crop((MARGIN_PX + 1, MARGIN_PX + 1, MARGIN_PX + 200, MARGIN_PX + 150))
    darkest, brightest = left_panel.convert("L").getextrema()
    assert brightest - darkest > 150
    save_gif(tmp_path / "disc.gif", picture, moving_disc(), frames=2)
    with Image.open(tmp_path / "disc.gif") as gif:
        darkest, brightest = gif.convert("L").crop((7, 7, 200, 150)).getextrema()
    assert brightest - darkest > 150


def test_senseless_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="frames is 0"):
        event_frames(moving_disc(), 0)
    with pytest.raises(ConfigError, match="0 tiles"):
        contact_sheet([])
    with pytest.raises(ConfigError, match="0 columns"):
        contact_sheet([Tile(None, moving_disc(), "")], columns=0)
    for fps in (0, -1, 51, float("nan")):
        with pytest.raises(ConfigError, match="fps is"):
            save_gif(tmp_path / "never.gif", None, moving_disc(), fps=fps)
    assert not list(tmp_path.iterdir())
