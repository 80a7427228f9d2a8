"""ImageRecord: one picture to be turned into events, wherever its bytes are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ezsr_shards.store import Place
from ezsr_synth.config import SynthConfig
from ezsr_synth.decode import decode_picture


@dataclass(frozen=True)
class ImageRecord:
    """One picture.

    key         unique and stable: a function of `source` alone
    source      where it came from, relative to what the user named
    read        gives the file's bytes, or RGB uint8 (H, W, 3); raises PictureError
    caption, label, class_name  where known
    url         where the picture was once downloaded from, if the source says
    """

    key: str
    source: str
    read: Callable[[], bytes | npt.NDArray[np.uint8]]
    caption: str | None = None
    label: int | None = None
    class_name: str | None = None
    url: str | None = None

    def decode(self, max_pixels: int) -> npt.NDArray[np.uint8]:
        """Return RGB uint8 (H, W, 3); raise PictureError with a countable reason."""
        data = self.read()
        return data if isinstance(data, np.ndarray) else decode_picture(data, max_pixels)


class Pictures(Protocol):
    """The pictures of one shard: small, picklable, and read one record at a time."""

    def __iter__(self) -> Iterator[ImageRecord]:
        """Yield the records in order."""
        ...


@dataclass(frozen=True)
class ShardTask:
    """The unit of work: an index and its pictures. Every engine only maps tasks."""

    index: int
    pictures: Pictures


@dataclass(frozen=True)
class ShardPlan:
    """What all shards of a run share: where they go, their name, and how samples are made."""

    place: Place
    name: str
    config: SynthConfig
    config_hash: str


def tidy_caption(text: str) -> str | None:
    """Return a caption on one line, valid Unicode, or None where nothing is left."""
    return " ".join(text.encode("utf-8", "replace").decode().split()) or None
