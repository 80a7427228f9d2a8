"""Real events beside synthetic ones: what our cameras, and a peer's, get right and what not.

    python benchmarks/realism.py DATA [--v2e CHECKOUT] [--figure FILE.png]

DATA holds `n-imagenet/` (a recording and the picture that was on the screen), `n-mnist/` (500
recordings) and `mnist-subset.zip` (pictures, of which about a hundred are those of recordings).

N-ImageNet: the picture is registered with the recording (an affine map, found by correlation of
edges with events), the path is measured (shifts between slices of 5 ms), and cameras record the
picture along it: nothing is left to fit but the camera. Along that path the recording's p = 1 are
the pixels that become darker, so its polarity is turned round first; both agreements are kept.

N-MNIST: each picture is recorded as `ezsr-synth --motion saccade --fit contain --size 34x34` does,
and shifted by whole pixels onto its recording. The peer is v2e (github.com/SensorsINI/v2e), its own
two presets on the same frames: as grey values of a video, its usual input, and as linear light.
Results go to benchmarks/results/realism.json and realism.png.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from machine import ROOT, write_result
from peers import load_v2e

from ezsr_shards.datasets import open_recording
from ezsr_shards.events import EventStream
from ezsr_synth.camera import draw_camera
from ezsr_synth.config import CameraConfig, MotionConfig, SensorSize, SynthConfig
from ezsr_synth.decode import decode_picture
from ezsr_synth.motion import Motion, draw_motion
from ezsr_synth.randomness import rng_for, seed_of
from ezsr_synth.scene import log_picture, place_picture
from ezsr_synth.simulate import simulate

SLICE_US = 5_000
DRAWS = 5
MARGIN_PX = 24


def measure(events: EventStream) -> dict[str, Any]:
    """Return what can be said of a recording without its picture."""
    counts = count_image(events)
    pixel = events.y.astype(np.int64) * events.width + events.x
    order = np.lexsort((events.t, pixel))
    waits = np.diff(events.t[order].astype(np.int64))[np.diff(pixel[order]) == 0]
    active = counts[counts > 0]
    tenths = np.histogram(events.t, 10, (0, events.duration_us))[0] / max(len(events), 1)
    return {
        "million events per second": len(events) / max(events.duration_us, 1),
        "ON share": float(events.p.mean()),
        "active pixels": float((counts > 0).mean()),
        "events per active pixel, 50/90/99%": np.percentile(active, [50, 90, 99]).tolist(),
        "us between a pixel's events, 1/10/50%": np.percentile(waits, [1, 10, 50]).tolist(),
        "share of events in each tenth": tenths.round(3).tolist(),
        "distinct time stamps": len(np.unique(events.t)),
    }


def count_image(events: EventStream) -> np.ndarray:
    """Return events per pixel, (H, W)."""
    counts = np.zeros((events.height, events.width))
    np.add.at(counts, (events.y, events.x), 1)
    return counts


def agree(made: EventStream, real: EventStream) -> dict[str, Any]:
    """Return how alike two recordings of one size are: counts, and counts of each polarity."""
    each = [
        correlate(count_image(select(made, p)), count_image(select(real, p)), 1.0) for p in (1, 0)
    ]
    crossed = [
        correlate(count_image(select(made, p)), count_image(select(real, 1 - p)), 1.0)
        for p in (1, 0)
    ]
    return {
        "correlation of counts": correlate(count_image(made), count_image(real), 1.0),
        "correlation of ON and of OFF counts": each,
        "the same, had polarity not been turned": crossed,
    }


def select(events: EventStream, polarity: int) -> EventStream:
    """Return the events of one polarity."""
    chosen = events.p == polarity
    columns = (column[chosen] for column in (events.x, events.y, events.t, events.p))
    return EventStream(*columns, events.width, events.height, events.duration_us)


def correlate(a: np.ndarray, b: np.ndarray, blur_px: float) -> float:
    """Return the correlation of two count images, a little blurred, hot pixels cut."""
    images = []
    for image in (a, b):
        cut = np.minimum(image, np.percentile(image[image > 0], 99))
        images.append(cv2.GaussianBlur(cut, (0, 0), blur_px).ravel())
    return float(np.corrcoef(*images)[0, 1])


def register(counts: np.ndarray, log_scene: np.ndarray) -> np.ndarray:
    """Return the affine map (2, 3) from sensor px to picture px under which edges meet events."""
    across = np.abs(cv2.Sobel(log_scene, cv2.CV_32F, 1, 0))
    edges = np.abs(cv2.Sobel(log_scene, cv2.CV_32F, 0, 1)) + 0.3 * across
    height, width = counts.shape
    best = (-1.0, np.zeros((2, 3)))
    cut = np.minimum(counts, 8).astype(np.float32)
    for stretch in (0.8, 1.0, 1.25):
        scale = np.array([log_scene.shape[1] / width, log_scene.shape[0] / height]) / stretch
        corner = (np.array(log_scene.shape[::-1]) - scale * (width, height)) / 2
        warp = np.array([[scale[0], 0, corner[0]], [0, scale[1], corner[1]]], np.float32)
        criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 200, 1e-6)
        for blur in (6.0, 2.0):
            a, b = (cv2.GaussianBlur(im, (0, 0), s) for im, s in ((cut, blur), (edges, blur / 1.5)))
            found, warp = cv2.findTransformECC(a, b, warp, cv2.MOTION_AFFINE, criteria, None, 1)
        if found > best[0]:
            best = (found, warp)
    return np.asarray(best[1], np.float64)


def measure_path(events: EventStream) -> np.ndarray:
    """Return how far the content has moved, px (n + 1, 2), at the ends of slices of 5 ms."""
    parts = []
    for start in range(0, events.duration_us - SLICE_US + 1, SLICE_US):
        chosen = (events.t >= start) & (events.t < start + SLICE_US)
        part = np.zeros((events.height, events.width))
        np.add.at(part, (events.y[chosen], events.x[chosen]), 1)
        parts.append(cv2.GaussianBlur(np.minimum(part, 3), (0, 0), 2))
    steps = [cv2.phaseCorrelate(a, b)[0] for a, b in itertools.pairwise(parts)]
    between = np.median(sliding(np.array(steps), 3), axis=1)  # slices' middles are 5 ms apart
    per_slice = np.concatenate([between[:1], (between[:-1] + between[1:]) / 2, between[-1:]])
    return np.concatenate([np.zeros((1, 2)), np.cumsum(per_slice, axis=0)])


def sliding(values: np.ndarray, width: int) -> np.ndarray:
    """Return (n, width, ...) neighbours of every value; the ends are repeated."""
    ends = ((width // 2, width // 2), *[(0, 0)] * (values.ndim - 1))
    padded = np.pad(values, ends, "edge")
    return np.stack([padded[k : k + len(values)] for k in range(width)], axis=1)


def path_motion(moved: np.ndarray, duration_us: int) -> Motion:
    """Return the motion of a sensor before which the content moves so, at most 0.25 px a step."""
    ends_us = np.linspace(0, duration_us, len(moved))
    length = np.linalg.norm(np.diff(moved, axis=0), axis=1).max()
    steps = (len(moved) - 1) * int(np.ceil(length / 0.25))
    t_us = np.round(np.linspace(0, duration_us, steps + 1)).astype(np.int64)
    warps = np.repeat(np.eye(3)[None], len(t_us), axis=0)
    for axis in (0, 1):
        warps[:, axis, 2] = -np.interp(t_us, ends_us, moved[:, axis] - moved.mean(0)[axis])
    return Motion(warps, t_us, {"family": "measured"})


def linear_luminance(bgr: np.ndarray) -> np.ndarray:
    """Return linear luminance in [0, 1] of an 8-bit picture."""
    code = bgr[..., ::-1].astype(np.float32) / 255
    linear = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    return (linear @ np.array([0.2126, 0.7152, 0.0722], np.float32)).astype(np.float32)


def peer_events(checkout: Path, frames: np.ndarray, t_us: np.ndarray, preset: str) -> EventStream:
    """Return the events that v2e makes of grey frames (T, H, W) in 0..255."""
    sys.path.insert(0, str(checkout))
    emulator = load_v2e()(device="cpu", seed=1)
    emulator.set_dvs_params(preset)
    made = [emulator.generate_events(f, t * 1e-6) for f, t in zip(frames, t_us, strict=True)]
    rows = np.concatenate([part for part in made if part is not None])
    t = np.clip(np.round(rows[:, 0] * 1e6), 0, t_us[-1] - 1).astype(np.int64)
    x, y, p = rows[:, 1].astype(np.uint16), rows[:, 2].astype(np.uint16), rows[:, 3] > 0
    order = np.lexsort((x, y, t))
    columns = x[order], y[order], t[order], p[order].astype(np.uint8)
    return EventStream(*columns, frames.shape[2], frames.shape[1], int(t_us[-1]))


def compare_imagenet(folder: Path, checkout: Path | None) -> tuple[dict[str, Any], list[Any]]:
    """Return figures and (name, count image) of the N-ImageNet recording and of our cameras."""
    real = open_recording(folder / "recording.npz", "n-imagenet")
    duration_us = int(real.t[-1]) // SLICE_US * SLICE_US
    kept = int(np.searchsorted(real.t, duration_us))
    columns = (column[:kept] for column in (real.x, real.y, real.t, 1 - real.p))
    real = EventStream(*columns, real.width, real.height, duration_us)
    counts = count_image(real)
    light = linear_luminance(cv2.imread(str(folder / "paired_rgb.jpg")))
    warp = register(counts, np.log(cv2.GaussianBlur(light, (0, 0), 1) + 0.02))
    moved = measure_path(real)
    motion = path_motion(moved, duration_us)
    size = SensorSize(real.width, real.height)
    scene_warp = warp @ np.array([[1, 0, -MARGIN_PX], [0, 1, -MARGIN_PX], [0, 0, 1.0]])
    room = (size.width + 2 * MARGIN_PX, size.height + 2 * MARGIN_PX)
    flags = cv2.INTER_AREA | cv2.WARP_INVERSE_MAP
    scene = cv2.warpAffine(light, scene_warp, room, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    path = motion.shifted(MARGIN_PX, MARGIN_PX)
    figures: dict[str, Any] = {"real": measure(real)}
    pictures = [("real", counts)]
    for name in ("gen3-vga", "ideal"):
        config = CameraConfig(name)
        lit = np.log(cv2.GaussianBlur(scene, (0, 0), config.lens_blur_px) + config.log_floor)
        drawn = []
        for draw in range(DRAWS):
            seed = seed_of(draw, "n-imagenet", 0, "pixels")
            camera = draw_camera(rng_for(draw, "n-imagenet", 0, "camera"), config, seed)
            drawn.append(simulate(lit.astype(np.float32), path, camera, size))
        figures[name] = summarize([measure(e) | agree(e, real) for e in drawn])
        pictures.append((name, count_image(drawn[0])))
    if checkout:
        coded = np.where(scene <= 0.0031308, 12.92 * scene, 1.055 * scene ** (1 / 2.4) - 0.055)
        for light_of, grey in (("grey values", 255 * coded), ("linear light", 255 * scene)):
            frames = [_look(grey, w, size) for w in path.warps]
            for preset in ("clean", "noisy"):
                events = peer_events(checkout, np.stack(frames), path.t_us, preset)
                name = f"v2e {preset}, {light_of}"
                figures[name] = summarize([measure(events) | agree(events, real)])
                pictures.append((name, count_image(events)))
    figures["real"]["path, px"] = moved.round(2).tolist()
    return figures, pictures


def _look(scene: np.ndarray, warp: np.ndarray, size: SensorSize) -> np.ndarray:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(scene, warp[:2], (size.width, size.height), flags=flags)


def summarize(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians of every figure."""
    return {
        name: np.median([m[name] for m in measured], axis=0).round(4).tolist()
        for name in measured[0]
    }


def compare_mnist(data: Path, cameras: tuple[str, ...]) -> tuple[dict[str, Any], list[Any]]:
    """Return figures of the recordings whose pictures are at hand, and of our cameras."""
    size = SensorSize(34, 34)
    with zipfile.ZipFile(data / "mnist-subset.zip") as archive:
        shown_in = [n for n in archive.namelist() if n.endswith(".png") and "train" in n]
        names = {int(Path(n).stem): n for n in shown_in}
        pairs = []
        for path in sorted((data / "n-mnist").glob("*.bin")):
            shown = names.get(int(path.stem) - 1)  # recording n shows training picture n - 1
            if shown:
                rgb = decode_picture(archive.read(shown), 10**6)
                pairs.append((rgb, open_recording(path, "n-mnist")))
    figures: dict[str, Any] = {"real": summarize([measure(real) for _, real in pairs])}
    figures["real"]["recordings"] = len(pairs)
    pictures = [("real", count_image(pairs[0][1]))]
    for name in cameras:
        config = SynthConfig(size=size, fit="contain", camera=CameraConfig(name))
        config = replace(config, motion=MotionConfig("saccade"))
        made, alike, shifts = [], [], []
        for n, (rgb, real) in enumerate(pairs):
            motion = draw_motion(rng_for(0, str(n), 0, "motion"), config.motion, size)
            seed = seed_of(0, str(n), 0, "pixels")
            camera = draw_camera(rng_for(0, str(n), 0, "camera"), config.camera, seed)
            scale = float(rng_for(0, str(n), 0, "scale").uniform(*config.contain_scale))
            placement = place_picture((rgb.shape[1], rgb.shape[0]), motion, config, scale)
            lit = log_picture(rgb, placement, config.camera)
            events = simulate(lit, placement.motion, camera, size)
            made.append(measure(events))
            found, shift = best_shift(count_image(events), count_image(real))
            alike.append(found)
            shifts.append(shift)
            if n == 0:
                pictures.append((name, count_image(events)))
        figures[name] = summarize(made)
        figures[name]["correlation of counts"] = float(np.median(alike))
        figures[name]["shift, px"] = np.median(shifts, axis=0).tolist()
    return figures, pictures


def best_shift(made: np.ndarray, real: np.ndarray) -> tuple[float, tuple[int, int]]:
    """Return the best correlation over whole shifts of up to 4 px, and the shift (dx, dy)."""
    reach = range(-4, 5)
    found = {
        (dx, dy): correlate(np.roll(made, (dy, dx), (0, 1)), real, 0.7)
        for dx in reach
        for dy in reach
    }
    best = max(found, key=lambda shift: found[shift])
    return found[best], best


def draw_figure(rows: list[list[Any]], path: Path) -> None:
    """Draw the count images of each data set side by side."""
    mpl.use("Agg")
    from matplotlib import pyplot

    columns = max(map(len, rows))
    figure, panels = pyplot.subplots(
        len(rows), columns, figsize=(3.2 * columns, 2.7 * len(rows)), layout="constrained"
    )
    for row, pictures in zip(np.atleast_2d(panels), rows, strict=True):
        most = np.percentile(pictures[0][1][pictures[0][1] > 0], 97)
        for panel in row:
            panel.axis("off")
        for panel, (name, counts) in zip(row, pictures, strict=False):
            panel.imshow(counts, vmin=0, vmax=most, cmap="magma", interpolation="nearest")
            panel.set_title(name)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--v2e", type=Path, help="a checkout of v2e")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/realism.json")
    options = parser.parse_args()
    large, first = compare_imagenet(options.data / "n-imagenet", options.v2e)
    small, second = compare_mnist(options.data, ("atis", "ideal"))
    draw_figure([first, second], options.json.with_suffix(".png"))
    write_result(options.json, {"n-imagenet": large, "n-mnist": small})
    for name, figures in (("N-ImageNet", large), ("N-MNIST", small)):
        print(name)
        for camera, values in figures.items():
            print(f"  {camera}: {json.dumps(values)}")


if __name__ == "__main__":
    main()
