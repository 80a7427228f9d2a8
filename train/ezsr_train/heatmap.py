"""Heat maps: where in a recording the encoder sees what a text says.

A patch's embedding is compared with each text's, and what all texts have in common is taken away,
since CLIP finds every text a little everywhere (Li et al. 2023, CLIP Surgery, arXiv:2304.05653).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from ezsr_shards.datasets import open_recording, parse_size
from ezsr_shards.draw import accumulation_image, fit_grid
from ezsr_shards.errors import ConfigError, InputError, OutputError, check_number
from ezsr_shards.events import EventStream
from ezsr_shards.formats.raw import RecordingError
from ezsr_shards.sample import Sample, decode_jpeg
from ezsr_shards.shardset import read_classes
from ezsr_shards.verify import iterate_samples
from ezsr_train.batches import ReadOptions, collate, prepare_item
from ezsr_train.config import InputConfig
from ezsr_train.dense import Attention, embed_patches
from ezsr_train.encoder import EventEncoder, open_encoder
from ezsr_train.prepare import MIDDLE_SLICE, View, seen_part
from ezsr_train.recording import StreamRecording
from ezsr_train.teacher import Teacher
from ezsr_train.texts import load_partner
from ezsr_train.tower import normalize
from ezsr_train.zeroshot import embed_classes

_SAYS_NOTHING = ("", "a picture", "background", "something else")
_STRIDE_PX = 32  # of a ResNet's patches
_PANEL_PX, _GAP_PX, _TEXT_PX = 300, 8, 26
_HEAT_SHARE = 0.55


@dataclass(frozen=True)
class HeatmapOptions:
    """How a heat map is made."""

    method: Literal["surgery", "raw"] = "surgery"
    """surgery: the last attention is computed anew, without residual and feed-forward part; raw:
    the tower's own patches."""
    attention: Literal["auto", "kk", "vv", "v"] = "auto"
    """What surgery computes attention from: keys, values, or nothing but the patch itself; auto is
    kk, and v for ResNets."""
    input_px: int = 0
    """Side of the event image that the tower sees; 0: the tower's own, and twice that for ResNets,
    which take any multiple of 32 and see smaller things in larger images."""
    background: list[str] = field(default_factory=list)
    """Texts that the maps are contrasted with, besides each other and a shard set's classes."""
    model: str | None = None
    """The CLIP whose text tower reads the texts, where it is not found as in training."""
    pretrained: str | None = None
    """Its weights, as in ezsr-train."""
    format: str | None = None
    """Format of the recording, where its name does not tell; see ezsr-shards import."""
    size: str | None = None
    """Sensor WxH, where the recording does not tell."""
    sample: int = 0
    """Number of a shard set's sample, from 0."""
    key: str | None = None
    """Key of a shard set's sample, instead of its number."""
    slice_events: int = 0
    """Events of the middle slice that is shown; 0: as in training."""

    def __post_init__(self) -> None:
        """Refuse what makes no map."""
        check_number("input_px", self.input_px, 0, 4096)
        check_number("sample", self.sample, 0, 10**9)
        check_number("slice_events", self.slice_events, 0, 10_000_000)
        if self.method == "raw" and self.attention != "auto":
            raise ConfigError(
                f"attention {self.attention}: --method raw shows the tower's own; leave it out, or "
                f"say --method surgery"
            )
        if self.key is not None and self.sample:
            raise ConfigError(f"sample {self.sample}: --key {self.key} names one; leave one out")


def draw_heatmap(
    events: str | Path,
    checkpoint: str | Path,
    texts: Sequence[str],
    out: Path,
    options: HeatmapOptions | None = None,
) -> npt.NDArray[np.float32]:
    """Write a picture: RGB if there is one, events, and a panel per text; return the maps.

    The maps are float32 (texts, h, w), see `map_texts`. Raises ConfigError, InputError or
    OutputError with a remedy.
    """
    options = options or HeatmapOptions()
    if out.suffix.lower() != ".png":
        raise ConfigError(f"out {out}: the name must end in .png")
    if not out.parent.is_dir():
        raise OutputError(f"out {out}: cannot be written, there is no such folder")
    sample = _find_sample(Path(events), options)
    encoder, facts = open_encoder(Path(checkpoint))
    teacher = load_partner(facts, torch.device("cpu"), options.model, options.pretrained)
    told = facts.input
    if options.slice_events:
        told = replace(told, slice_events=options.slice_events)
    shown = _middle_slice(sample.events, told.slice_events)
    others = [*options.background, *_list_classes(Path(events))]
    maps = map_texts(encoder, teacher, sample.events, texts, told, options, others)
    sheet = draw_panels(shown, decode_jpeg(sample), texts, maps, told.geometry)
    try:
        sheet.save(out)
    except OSError as error:
        raise OutputError(f"out {out}: cannot be written ({error.strerror or error})") from error
    return maps


def _find_sample(path: Path, options: HeatmapOptions) -> Sample:
    _check_source(path, options)
    if not path.is_dir():
        size = parse_size(options.size) if options.size else None
        try:
            return Sample("recording", open_recording(path, options.format, size))
        except RecordingError as error:
            raise InputError(f"EVENTS {path}: {error}") from error
    found = iterate_samples(path)
    if options.key is not None:
        found = (one for one in found if one.key == options.key)
    first = options.sample if options.key is None else 0
    sample = next(islice(found, first, None), None)
    if sample is None:
        raise InputError(f"EVENTS {path}: holds no sample {options.key or options.sample}")
    return sample


def _check_source(path: Path, options: HeatmapOptions) -> None:
    """Raise ConfigError where an option would do nothing to what EVENTS is."""
    idle = ("format", "size") if path.is_dir() else ("sample", "key")
    what = "a shard set, which tells it" if path.is_dir() else "one recording, not a shard set"
    for name in idle:
        if getattr(options, name):
            raise ConfigError(
                f"{name} {getattr(options, name)}: EVENTS {path} is {what}; leave --{name} out"
            )


def _middle_slice(events: EventStream, length: int) -> EventStream:
    first = int(0.5 * (max(len(events) - length, 0) + 1))  # as `cut_slice` begins
    part = slice(first, first + length)
    return replace(events, x=events.x[part], y=events.y[part], t=events.t[part], p=events.p[part])


def _list_classes(path: Path) -> list[str]:
    return [entry.name for entry in read_classes(path)[0]] if path.is_dir() else []


@torch.no_grad()
def map_texts(
    encoder: EventEncoder,
    teacher: Teacher,
    events: EventStream,
    texts: Sequence[str],
    told: InputConfig,
    options: HeatmapOptions,
    others: Sequence[str] = (),
) -> npt.NDArray[np.float32]:
    """Return how much more each patch is like a text than like all, float32 (texts, h, w).

    That is its cosine similarity with the text minus the mean over the texts and `others`; a
    single text with no others is compared with a few that say nothing. The map covers what the
    encoder sees of the sensor.
    """
    if len(set(texts)) < len(texts) or not all(text.strip() for text in texts):
        raise ConfigError(f"text {list(texts)}: give different texts, none of them empty")
    patches = F.normalize(_embed(encoder, events, told, options), dim=-1)
    more = [other for other in others if other not in texts]
    if len(texts) + len(more) == 1:
        more = list(_SAYS_NOTHING)
    rows = embed_classes(teacher.clip, teacher.tokenizer, [*texts, *more], ("{}",))
    nearness = torch.einsum("hwd,td->thw", patches, rows)
    maps: npt.NDArray[np.float32] = (nearness - nearness.mean(0))[: len(texts)].numpy()
    return maps


def _embed(
    encoder: EventEncoder, events: EventStream, told: InputConfig, options: HeatmapOptions
) -> Tensor:
    """Return an embedding per patch of the middle slice, float32 (h, w, D)."""
    resnet = isinstance(encoder.visual, ModifiedResNet)
    if options.input_px and (not resnet or options.input_px % _STRIDE_PX):
        raise ConfigError(
            f"input_px {options.input_px}: "
            + (f"give a multiple of {_STRIDE_PX}" if resnet else "only ResNets take other sizes")
        )
    input_px = options.input_px or 2 * encoder.spec.size_px
    read = ReadOptions(told, input_px if resnet else encoder.events_px, None)
    (view,) = MIDDLE_SLICE.views(told.slice_events, len(events))
    packed = collate([prepare_item(StreamRecording(events), None, read, view)]).events
    attention: Attention = "qk" if options.method == "raw" else "v" if resnet else "kk"
    if options.method == "surgery" and options.attention != "auto":
        attention = options.attention
    if not resnet:
        images = normalize(encoder.draw(packed), encoder.spec)
        return embed_patches(encoder.visual, images, attention)[0]
    images = normalize(encoder.represent(packed, input_px), encoder.spec)
    return _embed_between(encoder.visual, images, attention)


def _embed_between(tower: nn.Module, images: Tensor, attention: Attention) -> Tensor:
    """Return a ResNet's patches at half its stride, (2h, 2w, D), from four shifted images."""
    quarter = _STRIDE_PX // 4
    wide = F.pad(images, (quarter,) * 4, mode="replicate")
    height, width = images.shape[2:]
    rows = []
    for down in (0, 2 * quarter):
        shifted = [
            embed_patches(tower, wide[:, :, down : down + height, right : right + width], attention)
            for right in (0, 2 * quarter)
        ]
        rows.append(torch.stack(shifted, dim=3).flatten(2, 3))  # columns in turn
    return torch.stack(rows, dim=2).flatten(1, 2)[0]


def draw_panels(
    events: EventStream,
    picture: Image.Image | None,
    texts: Sequence[str],
    maps: npt.NDArray[np.float32],
    geometry: str,
) -> Image.Image:
    """Return the panels side by side: picture, events, and each text's heat over the events."""
    zoom = _PANEL_PX / max(events.width, events.height)
    size = max(round(events.width * zoom), 1), max(round(events.height * zoom), 1)
    plain = Image.fromarray(accumulation_image(fit_grid(events)[0])).resize(
        size, Image.Resampling.NEAREST
    )
    panels = [("events", plain)]
    if picture is not None:
        panels.insert(0, ("picture", picture.resize(size, Image.Resampling.BICUBIC)))
    left, top, width, height = seen_part(events.width, events.height, geometry, View(1))
    sides = (left, top, left + width, top + height)
    box = tuple(round(side * zoom) for side in sides)
    box = (*box[:2], max(box[2], box[0] + 1), max(box[3], box[1] + 1))
    for text, heat in zip(texts, maps, strict=True):
        shares = (heat - maps.min()) / max(float(maps.max() - maps.min()), 1e-12)
        panels.append((text, _overlay(plain, shares, (box[0], box[1], box[2], box[3]))))
    sheet = Image.new(
        "RGB",
        (len(panels) * (size[0] + _GAP_PX) + _GAP_PX, size[1] + _GAP_PX + _TEXT_PX),
        (255, 255, 255),
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for n, (title, panel) in enumerate(panels):
        at = _GAP_PX + n * (size[0] + _GAP_PX)
        sheet.paste(panel, (at, _GAP_PX))
        pen.text((at, size[1] + _GAP_PX + 4), _fit(title, size[0], font), (24, 24, 24), font)
    return sheet


def _overlay(
    events: Image.Image, heat: npt.NDArray[np.float32], box: tuple[int, int, int, int]
) -> Image.Image:
    """Return events under a map (h, w) of shares, blue at 0, the least of all maps, red at 1."""
    from matplotlib import colormaps

    size = box[2] - box[0], box[3] - box[1]
    smooth = Image.fromarray(heat).resize(size, Image.Resampling.BICUBIC)
    rgb = colormaps["turbo"](np.asarray(smooth).clip(0, 1))[..., :3]
    heated = Image.fromarray((rgb * 255).astype(np.uint8))
    under = events.crop(box)
    shown = events.copy()
    shown.paste(Image.blend(under, heated, _HEAT_SHARE), box[:2])
    return shown


def _fit(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return a text cut to a width in px."""
    text = text[: width + 1]  # no glyph is narrower than a pixel
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
