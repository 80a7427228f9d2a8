"""Does the heat map of a recording with two objects light the one that is named?

    python benchmarks/heatmap_toy.py --checkpoint demo/run/encoder.safetensors [--pairs 50]

Pictures with two shapes of the toy world are moved before a simulated camera; the map of each
shape's class name is scaled to 0..1, and its mean inside the shape's box is divided by its mean
outside. Results go to benchmarks/results/heatmap_toy.json, and a sheet of the first pairs to
--sheet.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from machine import ROOT, write_result
from PIL import Image, ImageDraw

from ezsr_shards.events import EventStream
from ezsr_synth.camera import draw_camera
from ezsr_synth.config import MotionConfig, SensorSize, SynthConfig
from ezsr_synth.motion import draw_motion
from ezsr_synth.randomness import rng_for
from ezsr_synth.scene import log_picture, place_picture, snapshot
from ezsr_synth.simulate import simulate
from ezsr_synth.toy import CLASS_NAMES, draw_pair
from ezsr_train.encoder import open_encoder
from ezsr_train.heatmap import HeatmapOptions, draw_panels, map_texts
from ezsr_train.texts import load_partner

SIDE_PX = 448  # each shape is as large, in sensor pixels, as it is alone on 224
EVENTS = 40_000
WAYS = {
    "surgery": HeatmapOptions(),
    "surgery kk": HeatmapOptions(attention="kk"),
    "surgery vv": HeatmapOptions(attention="vv"),
    "raw": HeatmapOptions(method="raw"),
}
Box = tuple[int, int, int, int]


def record_pair(index: int) -> tuple[EventStream, Image.Image, tuple[int, int], list[Box]]:
    """Return the events of a pair, its picture, its labels, and where its shapes are, in px."""
    pair = draw_pair(index, SIDE_PX + 64)
    config = SynthConfig(
        size=SensorSize(SIDE_PX, SIDE_PX), max_events=EVENTS, motion=MotionConfig()
    )

    def rng(purpose: str) -> np.random.Generator:
        return rng_for(0, f"pair-{index}", 0, purpose)

    camera = draw_camera(rng("camera"), config.camera)
    motion = draw_motion(rng("motion"), config.motion, config.size)
    side = pair.rgb.shape[0]
    placement = place_picture((side, side), motion, config, 1.0)
    events = simulate(
        log_picture(pair.rgb, placement, config.camera),
        placement.motion,
        camera,
        config.size,
        config.max_events,
    )
    middle_us = events.duration_us / 2
    boxes = []
    for left, top, right, bottom in pair.boxes:
        mask = np.zeros_like(pair.rgb)
        mask[round(top * side) : round(bottom * side), round(left * side) : round(right * side)] = (
            255
        )
        rows, columns = np.nonzero(snapshot(mask, placement, middle_us, config.size)[..., 0] > 127)
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    seen = Image.fromarray(snapshot(pair.rgb, placement, middle_us, config.size))
    return events, seen, pair.labels, [tuple(map(int, box)) for box in boxes]  # type: ignore[misc]


def ratio_inside(heat: np.ndarray, box: Box) -> float:
    """Return the mean of a map, scaled to 0..1, inside a box over its mean outside."""
    scaled = (heat - heat.min()) / (heat.max() - heat.min())
    large = np.asarray(Image.fromarray(scaled).resize((SIDE_PX,) * 2, Image.Resampling.BICUBIC))
    inside = np.zeros(large.shape, bool)
    inside[box[1] : box[3], box[0] : box[2]] = True
    large = large.clip(0, 1)
    return float(large[inside].mean() / large[~inside].mean())


def main() -> None:
    """Measure all ways, print them, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/heatmap_toy.json")
    options = parser.parse_args()
    encoder, facts = open_encoder(options.checkpoint)
    teacher = load_partner(facts, torch.device("cpu"))
    told = replace(facts.input, slice_events=EVENTS)
    ratios: dict[str, list[list[float]]] = {name: [] for name in WAYS}
    strips = []
    for index in range(options.pairs):
        events, seen, labels, boxes = record_pair(index)
        texts = [CLASS_NAMES[label] for label in labels]
        for name, way in WAYS.items():
            maps = map_texts(encoder, teacher, events, texts, told, way, CLASS_NAMES)
            ratios[name].append(
                [ratio_inside(heat, box) for heat, box in zip(maps, boxes, strict=True)]
            )
            if name == "surgery" and len(strips) < 6:
                pen = ImageDraw.Draw(seen)
                for box in boxes:
                    pen.rectangle(box, outline=(255, 0, 0))
                strips.append(draw_panels(events, seen, texts, maps, told.geometry))
    found = {
        name: {
            "maps": 2 * len(both),
            "median_ratio": round(median(value for pair in both for value in pair), 3),
            "share_of_maps_at_least_1.5": round(
                float(np.mean([value >= 1.5 for pair in both for value in pair])), 4
            ),
            "share_of_pictures_with_both_at_least_1.5": round(
                float(np.mean([min(pair) >= 1.5 for pair in both])), 4
            ),
        }
        for name, both in ratios.items()
    }
    for name, facts_of in found.items():
        print(f"{name}: {facts_of}")
    if options.sheet:
        sheet = Image.new(
            "RGB", (max(s.width for s in strips), sum(s.height for s in strips)), (255, 255, 255)
        )
        top = 0
        for strip in strips:
            sheet.paste(strip, (0, top))
            top += strip.height
        sheet.save(options.sheet)
    write_result(options.out, {"pairs": options.pairs, "ways": found})


if __name__ == "__main__":
    main()
