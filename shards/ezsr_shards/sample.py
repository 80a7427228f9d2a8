"""Sample: one recording with its picture and labels, and the tar members it becomes."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ezsr_shards.errors import ShardError
from ezsr_shards.events import EventStream
from ezsr_shards.npz import NPY_HEADER_BYTES, check_packing, decode_npy, encode_npz

FORMAT_VERSION = 1
SMALL_SIDE_PX = 256
"""Sensors no larger than this on both sides store coordinates as one byte."""

MAX_EVENTS = 200_000_000
_SMALL_EVENTS, _EVENTS_PER_BYTE = 1_000_000, 16
_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")
_COLUMNS = ("x", "y", "t", "p")


@dataclass(frozen=True)
class Sample:
    """One recording.

    key      unique in a shard set; letters, digits, `_` and `-` (webdataset ends keys at a dot)
    events   the event stream
    jpeg     the RGB picture as the sensor saw it in the middle of the recording, or None
    caption  a sentence, or None
    label    integer class, or None
    meta     what `KEY.json` says besides: kind, source, class name, camera, motion, seed, view
    """

    key: str
    events: EventStream
    jpeg: bytes | None = None
    caption: str | None = None
    label: int | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse keys that a tar or webdataset would misread."""
        check_key(self.key)


def check_key(key: str) -> None:
    """Raise ShardError unless `key` is safe as a tar member's name and as a webdataset key."""
    if not _KEY.fullmatch(key):
        raise ShardError(f"key {key!r}: use 1 to 90 letters, digits, '_' or '-'")


def encode_events(events: EventStream) -> bytes:
    """Return the bytes of `KEY.events.npz`: x, y (u1 or <u2), t (<u4, microseconds), p (u1).

    Raises ShardError where a time lies outside the recording.
    """
    if len(events) and not 0 <= events.t[0] <= events.t[-1] < events.duration_us:
        raise ShardError(f"events: a time lies outside [0, {events.duration_us}) us")
    small = max(events.width, events.height) <= SMALL_SIDE_PX
    xy = np.dtype("u1") if small else np.dtype("<u2")
    return encode_npz(
        {
            "x": events.x.astype(xy),
            "y": events.y.astype(xy),
            "t": events.t.astype("<u4"),
            "p": events.p,
        }
    )


def most_events(size_bytes: int) -> int:
    """Return how many events a compressed file of a size is believed to hold.

    Recordings take two bytes an event and more, so 16 events a byte, or a million in whatever
    file, are no recording but made to fill the reader's memory.
    """
    return min(MAX_EVENTS, max(_SMALL_EVENTS, _EVENTS_PER_BYTE * size_bytes))


def decode_events(data: bytes, width: int, height: int, duration_us: int) -> EventStream:
    """Read `KEY.events.npz`; raise ShardError if it is not what `encode_events` writes.

    The sizes in the archive are believed only up to `most_events`, so that a hostile file cannot
    unfold without end.
    """
    columns: dict[str, npt.NDArray[Any]] = {}
    most = most_events(len(data))
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if names != [f"{name}.npy" for name in _COLUMNS]:
                raise ShardError(f"events: members {names}, expected x, y, t, p")
            for name in _COLUMNS:
                info = archive.getinfo(f"{name}.npy")
                check_packing(info)
                if info.file_size > 4 * most + NPY_HEADER_BYTES:
                    raise ShardError(f"events: column {name} claims {info.file_size} bytes")
                columns[name] = decode_npy(archive.read(info))
                if len(columns[name]) > most:
                    raise ShardError(f"events: {len(columns[name])} in {len(data)} bytes")
    except ShardError:
        raise
    except Exception as error:  # zip and npy readers raise almost anything on hostile bytes
        raise ShardError(f"events: unreadable archive ({error})") from error
    small = max(width, height) <= SMALL_SIDE_PX
    expected = {"x": "u1" if small else "<u2", "t": "<u4", "p": "u1"}
    expected["y"] = expected["x"]
    for name, column in columns.items():
        if column.dtype != np.dtype(expected[name]) or column.ndim != 1:
            raise ShardError(
                f"events: column {name} is {column.dtype} {column.shape}, "
                f"expected {expected[name]} (N,)"
            )
    x, y, t, p = (columns[name] for name in _COLUMNS)
    return EventStream(
        x.astype(np.uint16), y.astype(np.uint16), t.astype(np.int64), p, width, height, duration_us
    )


def decode_jpeg(sample: Sample) -> Image.Image | None:
    """Return the sample's RGB picture, or None; raise ShardError where it is no whole JPEG."""
    if sample.jpeg is None:
        return None
    try:
        return Image.open(io.BytesIO(sample.jpeg), formats=["JPEG"]).convert("RGB")
    except Exception as error:  # Pillow's parsers raise almost anything
        raise ShardError(f"sample {sample.key}: its .jpg is unreadable ({error})") from error


def encode_sample(sample: Sample) -> dict[str, bytes]:
    """Return the sample's tar members in order: extension -> bytes."""
    events = sample.events
    facts = {
        "format": FORMAT_VERSION,
        "width": events.width,
        "height": events.height,
        "duration_us": events.duration_us,
        "events": len(events),
        "on_events": events.on_count,
        "label": sample.label,
        "caption": sample.caption,
        **sample.meta,
    }
    members = {"events.npz": encode_events(events)}
    if sample.jpeg is not None:
        members["jpg"] = sample.jpeg
    members["json"] = json.dumps(facts, sort_keys=True, allow_nan=False).encode()
    if sample.caption is not None:
        members["txt"] = sample.caption.encode()
    if sample.label is not None:
        members["cls"] = str(sample.label).encode()
    return members


def decode_sample(key: str, members: Mapping[str, bytes]) -> Sample:
    """Read a sample back from its tar members; raise ShardError naming the first fault."""
    for required in ("events.npz", "json"):
        if required not in members:
            raise ShardError(f"sample {key}: member {key}.{required} is missing")
    try:
        facts = json.loads(members["json"])
        version = facts.pop("format")
        width, height, duration = (int(facts.pop(n)) for n in ("width", "height", "duration_us"))
        counts = {name: int(facts.pop(name)) for name in ("events", "on_events")}
        label, caption = facts.pop("label"), facts.pop("caption")
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise ShardError(f"sample {key}: {key}.json lacks or garbles {error}") from error
    if version != FORMAT_VERSION:
        raise ShardError(f"sample {key}: format {version}, this release reads {FORMAT_VERSION}")
    if label is not None and type(label) is not int:
        raise ShardError(f"sample {key}: label {label!r} is no whole number")
    try:
        events = decode_events(members["events.npz"], width, height, duration)
    except ShardError as error:
        raise ShardError(f"sample {key}: {error}") from error
    found = {"events": len(events), "on_events": events.on_count}
    if found != counts:
        raise ShardError(f"sample {key}: {key}.json says {counts}, the events are {found}")
    _check_text(key, members, "txt", caption)
    _check_text(key, members, "cls", None if label is None else str(label))
    return Sample(key, events, members.get("jpg"), caption, label, facts)


def _check_text(key: str, members: Mapping[str, bytes], extension: str, said: str | None) -> None:
    there = members[extension].decode(errors="replace") if extension in members else None
    if there != said:
        raise ShardError(f"sample {key}: {key}.{extension} is {there!r}, {key}.json says {said!r}")
