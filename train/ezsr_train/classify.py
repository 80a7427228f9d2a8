"""EventClassifier: name what a recording shows, in three lines of Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ezsr_shards.datasets import open_recording
from ezsr_shards.errors import ConfigError, InputError, check_number
from ezsr_shards.events import MAX_SIDE_PX, EventStream
from ezsr_shards.formats.arrays import raw_from_array, raw_from_columns
from ezsr_shards.formats.raw import RecordingError, arrange
from ezsr_train.batches import Item, ReadOptions, collate, prepare_item
from ezsr_train.encoder import EncoderFacts, EventEncoder, open_encoder
from ezsr_train.prepare import SliceRule
from ezsr_train.recording import StreamRecording
from ezsr_train.teacher import Teacher
from ezsr_train.texts import load_partner
from ezsr_train.zeroshot import embed_classes

Events = EventStream | npt.NDArray[Any] | Mapping[str, Any] | str | Path
"""A recording: our stream; an array with fields x, y, t, p, or (N, 4) in that order; a mapping of
such columns; or the path of a file in any format that `ezsr-shards import` knows. What
`open_recording` returns is a stream too: it also turns axes, and reads pickles if allowed."""
Size = Sequence[int]
_AT_ONCE = 64


class EventClassifier:
    """An event encoder with the text tower it belongs to, frozen, on one device.

    Nothing is kept between calls, and the same events give the same figures.
    """

    def __init__(
        self, encoder: EventEncoder, facts: EncoderFacts, teacher: Teacher, device: torch.device
    ) -> None:
        """Take an encoder and its CLIP as they are; `from_checkpoint` reads them from files."""
        self.encoder, self.facts, self.teacher = encoder.to(device).eval(), facts, teacher
        self._device = device

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str = "cpu",
        model: str | None = None,
        pretrained: str | None = None,
    ) -> EventClassifier:
        """Read an encoder's file, ours or the authors', and the CLIP whose text tower it needs.

        `model`, `pretrained` say where that CLIP lies, if elsewhere than in training. Raises
        InputError where a file is not whole, or the two do not belong together.
        """
        try:
            where = torch.device(device)
            torch.empty(0, device=where)
        except (RuntimeError, TypeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"device {device!r}: cannot be used here ({reason})") from error
        encoder, facts = open_encoder(Path(path))
        return cls(encoder, facts, load_partner(facts, where, model, pretrained), where)

    def classify(
        self,
        events: Events,
        texts: Sequence[str],
        size: Size | None = None,
        format: str | None = None,
        slices: int = 1,
    ) -> dict[str, float]:
        """Return the probability of each text, in the order given.

        size    the sensor's (width, height) in pixels, where the events do not tell it
        format  of a file, where its name does not tell
        slices  of the recording whose embeddings are averaged
        """
        return self.classify_all([events], texts, size, format, slices)[0]

    def classify_all(
        self,
        recordings: Iterable[Events],
        texts: Sequence[str],
        size: Size | None = None,
        format: str | None = None,
        slices: int = 1,
    ) -> list[dict[str, float]]:
        """Return the probabilities for each of several recordings."""
        texts = _check_texts(texts)
        rows = self.embed_all(recordings, size, format, slices)
        prompts = embed_classes(self.teacher.clip, self.teacher.tokenizer, texts, ("{}",))
        scale = self.teacher.clip.logit_scale.exp()  # type: ignore[operator]
        shares = F.softmax(scale * rows.to(prompts.device) @ prompts.T, dim=1)
        return [dict(zip(texts, row, strict=True)) for row in shares.tolist()]

    def embed(
        self,
        events: Events,
        size: Size | None = None,
        format: str | None = None,
        slices: int = 1,
    ) -> Tensor:
        """Return the embedding of a recording, float32 (D,), unit length, on the CPU."""
        return self.embed_all([events], size, format, slices)[0]

    @torch.no_grad()
    def embed_all(
        self,
        recordings: Iterable[Events],
        size: Size | None = None,
        format: str | None = None,
        slices: int = 1,
    ) -> Tensor:
        """Return the embeddings of several recordings, float32 (B, D), unit length, on the CPU."""
        if type(slices) is not int:
            raise ConfigError(f"slices {slices!r}: give a whole number")
        check_number("slices", slices, 1, 1000)
        _check_several(recordings)
        options = ReadOptions(self.facts.input, self.encoder.events_px, None)
        rule, rows, items = SliceRule(slices), list[Tensor](), list[Item]()
        for events in recordings:
            recording = StreamRecording(as_stream(events, size, format))
            views = rule.views(options.input.slice_events, recording.events)
            items += [prepare_item(recording, None, options, view) for view in views]
            if len(items) >= _AT_ONCE:
                rows.append(self._embed(items))
                items = []
        rows += [self._embed(items)] if items else []
        if not rows:
            raise ConfigError("recordings: there are none")
        mean = torch.cat(rows).view(-1, slices, self.encoder.spec.embed_dim).mean(1)
        return F.normalize(mean, dim=1)

    def _embed(self, items: Sequence[Item]) -> Tensor:
        events = collate(items).events.to(self._device)
        return F.normalize(self.encoder(events).float(), dim=1).cpu()


def as_stream(events: Events, size: Size | None = None, format: str | None = None) -> EventStream:
    """Return a recording in whatever form as an EventStream.

    Raises ConfigError where the sensor's size is not known, or told to what tells it; InputError
    or ShardError for broken events.
    """
    sensor = None if size is None else _read_size(size)
    file = events if isinstance(events, str | Path) else None
    if format is not None and file is None:
        kind = type(events).__name__
        raise ConfigError(f"format {format!r}: only files have one; leave it out for {kind}")
    try:
        if file is not None:
            return open_recording(file, format, sensor)
        if isinstance(events, EventStream):
            return _check_stream(events, sensor)
        return _arrange_columns(events, sensor)
    except RecordingError as error:
        what = "events" if file is None else f"recording {file}"
        remedy = "size" if file is None else "size and format where its name does not tell"
        raise InputError(
            f"{what}: {error}; give a whole recording, and its own {remedy}"
        ) from error


def _check_stream(events: EventStream, sensor: tuple[int, int] | None) -> EventStream:
    events.check()
    own = events.width, events.height
    if sensor not in (None, own):
        raise ConfigError(f"size {sensor}: the EventStream's own is {own}; leave size out")
    return events


def _arrange_columns(events: Any, sensor: tuple[int, int] | None) -> EventStream:
    if isinstance(events, Mapping):
        raw = raw_from_columns(events)
    elif isinstance(events, np.ndarray):
        raw = raw_from_array(events)
    else:
        raise ConfigError(
            f"events: {type(events).__name__}; give an EventStream, a structured array, a dict of "
            f"columns, or a path"
        )
    if sensor is None:
        raise ConfigError("size: columns do not tell the sensor; give size=(width, height)")
    return arrange(raw, *sensor)


def _read_size(size: Size) -> tuple[int, int]:
    """Return (width, height) in pixels of any two whole numbers, numpy's included."""
    with suppress(TypeError, ValueError):
        width, height = (index(side) for side in size)
        if 0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX:
            return width, height
    raise ConfigError(f"size {size!r}: give the sensor's (width, height) in whole pixels")


def _check_texts(texts: Iterable[str]) -> list[str]:
    """Return different texts as a list; raise ConfigError for anything else."""
    listed = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else []
    plain = all(isinstance(text, str) for text in listed)
    if not plain or not 0 < len(set(listed)) == len(listed):
        raise ConfigError(f"texts {texts!r}: give a list of different texts to choose from")
    return listed


def _check_several(recordings: Iterable[Events]) -> None:
    """Raise ConfigError where one recording, or none, stands for several."""
    array = isinstance(recordings, np.ndarray) and (recordings.dtype.names or recordings.ndim == 2)
    one = array or isinstance(recordings, EventStream | Mapping | str | Path)
    if one or not isinstance(recordings, Iterable):
        raise ConfigError(
            f"recordings: {type(recordings).__name__}, not several; give a list of recordings, or "
            f"one to classify or embed"
        )
